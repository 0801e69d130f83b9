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
    for kill, clone:         load the first argument, compare, reload the number
    allow

It cannot follow pointers, so it knows no file names: files are Landlock's matter (landlock.py).
`clone3` hides its flags behind a pointer and therefore answers "no such call", upon which the C
library takes `clone`. Landlock does not cover the change of modes, owners and times of files
outside: those calls are ignored, so that `shutil.copy` still works.

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

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, value

LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
KILL, FAIL, ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
NUMBER, ARCHITECTURE, ARGUMENT_0 = 0, 4, 16  # offsets in what the program may read
X32 = 0x40000000  # bit of the 32-bit calls inside x86_64
CLONE_THREAD, CLONE_NEW = 0x00010000, 0x7E020000  # a thread; any new namespace

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# name: numbers on x86_64 and aarch64; None where the machine has no such call
CALLS: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "ptrace": (101, 117), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "pidfd_getfd": (438, 438), "kcmp": (312, 272),
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39),
    "pivot_root": (155, 41), "chroot": (161, 51), "open_tree": (428, 428),
    "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431),
    "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "bpf": (321, 280),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "add_key": (248, 217),
    "request_key": (249, 218), "keyctl": (250, 219), "init_module": (175, 105),
    "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104),
    "kexec_file_load": (320, 294), "reboot": (169, 142), "swapon": (167, 224),
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194),
    "semget": (64, 190), "msgget": (68, 186), "mq_open": (240, 180),
    "setuid": (105, 146), "setreuid": (113, 145), "setresuid": (117, 147),
    # not refused, but ignored
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452),
    "chown": (92, None), "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54),
    "utime": (132, None), "utimes": (235, None), "futimesat": (261, None),
    "utimensat": (280, 88), "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7),
    "setxattrat": (463, 463), "removexattrat": (466, 466), "file_setattr": (469, 469),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    # looked at more closely
    "clone": (56, 220), "clone3": (435, 435), "fork": (57, None), "vfork": (58, None),
    "execve": (59, 221), "execveat": (322, 281), "kill": (62, 129), "tgkill": (234, 131),
    "tkill": (200, 130), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424), "prlimit64": (302, 261),
    "setpriority": (141, 140), "sched_setaffinity": (203, 122), "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119), "sched_setattr": (314, 274), "ioprio_set": (251, 30),
}  # fmt: skip
REFUSED = tuple(CALLS)[: tuple(CALLS).index("chmod")]
IGNORED = tuple(CALLS)[len(REFUSED) : tuple(CALLS).index("clone")]
NEW_PROCESS = ("fork", "vfork", "execve", "execveat")
OF_OTHERS = (
    "tkill", "pidfd_open", "pidfd_send_signal", "setpriority", "sched_setparam",
    "sched_setscheduler", "sched_setattr", "ioprio_set",
)  # fmt: skip
BY_PROCESS = ("kill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo")


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

    def look(name: str, *compare: Instruction) -> None:
        """With the first argument loaded, run `compare`; the number is loaded again after it."""
        number = CALLS[name][machine.column]
        if number is not None:
            program.append((EQUAL, 0, len(compare) + 2, number))
            program.append((LOAD, 0, 0, ARGUMENT_0))
            program.extend(compare)
            program.append((LOAD, 0, 0, NUMBER))

    answer(REFUSED, not_permitted)
    answer(IGNORED, FAIL | 0)
    answer(("clone3",), unknown)
    if processes:
        look("clone", (ANY_BIT, 0, 1, CLONE_NEW), (RETURN, 0, 0, not_permitted))
    else:
        answer(NEW_PROCESS, not_permitted)
        look("clone", (ANY_BIT, 1, 0, CLONE_THREAD), (RETURN, 0, 0, not_permitted))
    if everything_visible:
        for name in BY_PROCESS:
            look(name, (EQUAL, 1, 0, own_pid), (RETURN, 0, 0, not_permitted))
        for name in ("prlimit64", "sched_setaffinity"):  # 0: the process itself
            look(name, (EQUAL, 2, 0, 0), (EQUAL, 1, 0, own_pid), (RETURN, 0, 0, not_permitted))
        answer(OF_OTHERS, not_permitted)
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
