"""Namespaces: a process that sees no other processes and no network, and dies with all it started.

Linux can give a process its own list of processes and its own network (`unshare`). In the new list
the first process has number 1; when it ends, the system ends every other one in the list, also
those that ran away from their session and their parent: nothing can be left over. The new network
has no connection to anything.

An ordinary user may do this only inside a *user namespace*, in which he seems to have all rights.
Many containers and some distributions forbid it, so it is tried in a child first. The rights it
brings are given up again before foreign code runs.

Paper: none; Qwen report 3.4 runs code and says nothing of how.
Origin: namespaces(7), user_namespaces(7), capabilities(7).
Differs: no mount namespace: Landlock guards the files (landlock.py).
"""

from __future__ import annotations

import ctypes
import os
import struct

NEW_IPC, NEW_USER, NEW_PID, NEW_NET = 0x08000000, 0x10000000, 0x20000000, 0x40000000
DIE_WITH_PARENT, DUMPABLE, CHILD_SUBREAPER = 1, 4, 36


def prctl(option: int, value: int) -> None:
    """Set a property of this process, such as DIE_WITH_PARENT to a signal.

    Raises:
        OSError: the system refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0):
        code = ctypes.get_errno()
        raise OSError(code, f"prctl({option}): {os.strerror(code)}")


def enter_namespaces() -> None:
    """Give the children of this process a list of processes and a network of their own.

    The process itself must have no threads, and keeps its own number; its next child is number 1.

    Raises:
        OSError: not permitted here.
    """
    user, group = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(NEW_USER | NEW_PID | NEW_NET | NEW_IPC):
        code = ctypes.get_errno()
        raise OSError(code, f"unshare: {os.strerror(code)}")
    for name, text in (
        ("uid_map", f"{user} {user} 1"),
        ("setgroups", "deny"),
        ("gid_map", f"{group} {group} 1"),
    ):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)


def namespaces_work() -> bool:
    """Try it in a child that ends at once; this process is not changed.

    Returns:
        Whether `enter_namespaces`, and a child after it, would work here.
    """
    child = os.fork()
    if child == 0:
        try:
            enter_namespaces()
            first = os.fork()
            if first == 0:
                os._exit(0 if os.getpid() == 1 else 1)
            os._exit(os.waitstatus_to_exitcode(os.waitpid(first, 0)[1]))
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def drop_rights() -> None:
    """Give up every right of an administrator in this thread (capabilities), for good.

    Must run before the process has threads: the others would keep theirs.

    Raises:
        OSError: the system refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    version_3 = 0x20080522
    header = struct.pack("Ii", version_3, 0)
    nothing = struct.pack("6I", *[0] * 6)  # effective, permitted, inheritable, twice 32 bits
    if libc.capset(header, nothing):
        code = ctypes.get_errno()
        raise OSError(code, f"capset: {os.strerror(code)}")
    prctl(38, 1)  # no new privileges: running a program never brings them back
