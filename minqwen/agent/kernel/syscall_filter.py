"""A filter of system calls: no network, no way to other processes, whatever the code is written in.

A process reaches the outside only through system calls. Linux lets a process hand over a small
program (`seccomp`), run at every call before the system does anything, that sees the number of the
call and its arguments as plain numbers and answers: allow, or fail with this error. The program
cannot be taken away again, and every thread and child has it too. ctypes, machine code and
subprocesses meet it as Python does.

The program is a list of instructions (code, jump if true, jump if false, value) over one register:

    load the architecture; another one than ours: kill
    load the number of the call
    for each refused call:   equal?  -> fail with "operation not permitted"
    for each ignored call:   equal?  -> say that it worked, do nothing
    for kill, clone, ...:    load an argument, compare, reload the number
    allow

It cannot follow pointers, so it knows no file names: files are Landlock's matter (landlock.py).
`clone3` hides its flags behind a pointer and therefore answers "no such call", upon which the C
library takes `clone`; `openat2` likewise. `fallocate` answers as on a disk that lacks it. Landlock
does not cover the change of modes, owners and times of files outside: those calls are ignored, so
that `shutil.copy` still works.

Some calls look harmless and lead out:

    socketpair     a pair of datagram sockets may write to any unix socket that has a name; streams
                   may not, and asyncio needs those
    inotify        tells what happens in a folder that nobody may list
    fcntl          F_SETOWN and F_SETSIG let a pipe send any signal to any process
    sendmsg        carries an open file that no list of open files shows
    close_range, clone   may give a thread a list of open files of its own, likewise
    prctl          hides a process from its watcher, or lets it outlive him: ignored
    sched_setscheduler   slows others down; ZeroMQ sets it for each thread: ignored where others are
    truncate, O_TRUNC without writing      Landlock before Linux 6.2 does not see them
    fallocate      takes any room on the disk at once, before a watcher looks
    mknod          makes pipes and sockets that have names, which Python's gates do not see

Paper: none; Qwen report 3.4 runs code and says nothing of how.
Origin: seccomp(2), Linux 3.17 and newer.
Differs: numbers for x86_64 and aarch64; other machines are refused.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from typing import NamedTuple

from .syscall_table import (
    ARCHITECTURES,
    BY_PROCESS,
    CALLS,
    IGNORED,
    NEW_PROCESS,
    OF_OTHERS,
    OF_OTHERS_OR_THREADS,
    REFUSED,
)

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, value

LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
KILL, FAIL, ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, (16, 24, 32)  # offsets in what the program may read
X32 = 0x40000000  # bit of the 32-bit calls inside x86_64
CLONE_THREAD, CLONE_FILES = 0x00010000, 0x00000400  # a thread; the same open files
CLONE_NEW = 0x7E020000  # any new namespace
NOT_A_STREAM = 0b1110  # bits of the types of sockets that are no SOCK_STREAM
SET_OWNER = (8, 10, 15)  # of fcntl: F_SETOWN, F_SETSIG, F_SETOWN_EX
SET_OWNER_OF_SOCKET = (0x8901, 0x8902)  # of ioctl: FIOSETOWN, SIOCSPGRP
DIE_WITH_PARENT, DUMPABLE = 1, 4  # of prctl
TRUNCATE, WRITING = 0o1000, 0o3  # of open
UNSHARE_FILES = 2  # of close_range


class Machine(NamedTuple):
    """What the filter needs to know of the machine."""

    name: str  # as platform.machine() says it
    architecture: int  # as the system says it to the filter
    column: int  # of CALLS


def this_machine(name: str | None = None) -> Machine:
    """Look up a machine by the name that `platform.machine()` gives it.

    Raises:
        OSError: the numbers of its calls are not known here.

    >>> this_machine("aarch64").column
    1
    """
    name = platform.machine() if name is None else name
    if name not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise OSError(f"the filter of system calls knows {known}, not {name}")
    return Machine(name, ARCHITECTURES[name], list(ARCHITECTURES).index(name))


def filter_program(
    machine: Machine, *, own_pid: int, processes: bool, everything_visible: bool
) -> list[Instruction]:
    """Write the filter as instructions.

    Args:
        machine: from `this_machine`.
        own_pid: the process that the filter is for.
        processes: other programs may be started.
        everything_visible: the process lives among all others, not in a pid namespace of its own:
            then it may send signals to nobody but itself.

    Returns:
        The program, ending in "allow".

    >>> program = filter_program(this_machine("x86_64"), own_pid=7, processes=False,
    ...     everything_visible=True)
    >>> (EQUAL, 0, 1, 41) in program  # socket
    True
    """
    not_permitted, unknown = FAIL | errno.EPERM, FAIL | errno.ENOSYS
    program: list[Instruction] = [
        (LOAD, 0, 0, ARCHITECTURE),
        (EQUAL, 1, 0, machine.architecture),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER),
    ]
    if machine.name == "x86_64":
        program += [(AT_LEAST, 0, 1, X32), (RETURN, 0, 0, unknown)]

    def answer(names: tuple[str, ...], value: int) -> None:
        for name in names:
            number = CALLS[name][machine.column]
            if number is not None:
                program.extend([(EQUAL, 0, 1, number), (RETURN, 0, 0, value)])

    def look(name: str, argument: int, *compare: Instruction) -> None:
        """With an argument loaded, run `compare`; the number is loaded again after it."""
        number = CALLS[name][machine.column]
        if number is not None:
            program.append((EQUAL, 0, len(compare) + 2, number))
            program.append((LOAD, 0, 0, ARGUMENTS[argument]))
            program.extend(compare)
            program.append((LOAD, 0, 0, NUMBER))

    refuse = (RETURN, 0, 0, not_permitted)
    answer(REFUSED, not_permitted)
    answer(IGNORED, FAIL | 0)
    answer(("clone3", "openat2"), unknown)
    answer(("fallocate",), FAIL | errno.EOPNOTSUPP)
    if processes:
        own_files = ((ANY_BIT, 0, 2, CLONE_THREAD), (ANY_BIT, 1, 0, CLONE_FILES), refuse)
        look("clone", 0, (ANY_BIT, 0, 1, CLONE_NEW), refuse, *own_files)
    else:
        answer(NEW_PROCESS, not_permitted)
        both = ((ANY_BIT, 1, 0, CLONE_THREAD), refuse, (ANY_BIT, 1, 0, CLONE_FILES), refuse)
        look("clone", 0, *both)
    look("close_range", 2, (ANY_BIT, 0, 1, UNSHARE_FILES), refuse)
    look("socketpair", 1, (ANY_BIT, 0, 1, NOT_A_STREAM), refuse)
    look("prctl", 0, (EQUAL, 1, 0, DIE_WITH_PARENT), (EQUAL, 0, 1, DUMPABLE), (RETURN, 0, 0, FAIL))
    for option in SET_OWNER:
        look("fcntl", 1, (EQUAL, 0, 1, option), refuse)
    for option in SET_OWNER_OF_SOCKET:
        look("ioctl", 1, (EQUAL, 0, 1, option), refuse)
    for name, flags in (("open", 1), ("openat", 2)):
        look(name, flags, (ANY_BIT, 0, 2, TRUNCATE), (ANY_BIT, 1, 0, WRITING), refuse)
    if everything_visible:
        for name in BY_PROCESS:
            look(name, 0, (EQUAL, 1, 0, own_pid), refuse)
        for name in ("prlimit64", "sched_setaffinity"):  # 0: the process itself
            look(name, 0, (EQUAL, 2, 0, 0), (EQUAL, 1, 0, own_pid), refuse)
        answer(OF_OTHERS, not_permitted)
        answer(OF_OTHERS_OR_THREADS, FAIL | 0)
    program.append((RETURN, 0, 0, ALLOW))
    return program


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def install_filter(program: list[Instruction]) -> None:
    """Put the filter on all threads of this process, for good.

    Args:
        program: from `filter_program`.

    Raises:
        OSError: the system has no seccomp, or refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    no_new_privileges, set_mode_filter, all_threads = 38, 1, 1
    seccomp = (317, 277)[this_machine().column]
    packed = b"".join(struct.pack("HBBI", *step) for step in program)
    if libc.prctl(no_new_privileges, 1, 0, 0, 0):
        code = ctypes.get_errno()
        raise OSError(code, f"prctl(no new privileges): {os.strerror(code)}")
    handed = _Program(len(program), packed)
    if libc.syscall(seccomp, set_mode_filter, all_threads, ctypes.byref(handed)):
        code = ctypes.get_errno()
        raise OSError(code, f"seccomp: {os.strerror(code)}")
