"""A guard inside the interpreter, for systems without a better one: it asks at Python's gates.

CPython calls a hook before it opens a file, connects a socket or starts a process
(`sys.addaudithook`), and a hook that raises stops the act. Hooks cannot be removed. But they sit at
Python's gates only: code in C does not pass them, and `ctypes` reaches all of C from Python.

    stops          mistakes, careless code, and the simple tries of a model
    does not stop  somebody who wants to get out: ctypes, an extension module (ATTACH of sqlite),
                   `dir_fd`, a race between the check of a path and its use

So it never stands alone where the system itself can guard: see landlock.py, syscall_filter.py.

Paper: none; Qwen report 3.4 runs code and says nothing of how.
Origin: PEP 578.
Differs: none.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

# event: which of its arguments are paths, and whether they are changed
PATHS: dict[str, tuple[tuple[int, ...], bool]] = {
    "os.listdir": ((0,), False), "os.scandir": ((0,), False), "os.chdir": ((0,), False),
    "os.getxattr": ((0,), False), "os.listxattr": ((0,), False),
    "os.mkdir": ((0,), True), "os.rmdir": ((0,), True), "os.remove": ((0,), True),
    "os.rename": ((0, 1), True), "os.link": ((0, 1), True), "os.symlink": ((1,), True),
    "os.truncate": ((0,), True), "os.chmod": ((0,), True), "os.chown": ((0,), True),
    "os.lchown": ((0,), True), "os.utime": ((0,), True), "os.setxattr": ((0,), True),
    "os.removexattr": ((0,), True), "os.chflags": ((0,), True), "shutil.rmtree": ((0,), True),
    "sqlite3.connect": ((0,), True),
}  # fmt: skip
OF_THE_NAME = ("os.remove", "os.rename", "os.symlink")
PROCESSES = (
    "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork",
    "os.forkpty", "pty.spawn", "os.startfile", "os.kill", "os.killpg",
)  # fmt: skip
NETWORK = (
    "socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo",
    "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo", "urllib.Request",
)  # fmt: skip


def may_use(path: Any, folders: Iterable[str], *, entry: bool = False) -> bool:
    """Say whether a path leads beneath one of the folders, links and `..` followed.

    Args:
        path: str, bytes or path; an int is a file that is open already, and passes.
        folders: real paths.
        entry: the name itself is meant, not what it leads to if it is a link.

    >>> may_use("/usr/lib/../../etc/passwd", ["/usr"])
    False
    >>> may_use("/usr/lib", ["/usr"])
    True
    """
    if isinstance(path, int) or path is None:
        return True
    text = os.fsdecode(path)
    real = os.path.realpath(text)
    if entry and os.path.islink(text):
        real = os.path.join(os.path.realpath(os.path.dirname(text) or "."), os.path.basename(text))
    return any(real == folder or real.startswith(folder.rstrip("/") + "/") for folder in folders)


def audit_hook(
    writable: Iterable[str], readable: Iterable[str]
) -> Callable[[str, tuple[Any, ...]], None]:
    """Make the hook.

    Args:
        writable: folders where files may be written; they may not themselves be removed.
        readable: files and folders that may be read only.

    Returns:
        A hook for `sys.addaudithook`: raises PermissionError for what is not allowed.

    >>> audit_hook(["/nowhere"], ["/usr"])("os.remove", ("/usr/lib", -1))
    Traceback (most recent call last):
    ...
    PermissionError: os.remove: /usr/lib is outside of the working folder
    """
    own = [os.path.realpath(path) for path in writable]
    seen = [*own, *{os.path.realpath(path) for path in readable}, os.devnull, "/dev/urandom"]
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

    def check(event: str, path: Any, change: bool) -> None:
        if not may_use(path, own if change else seen, entry=event in OF_THE_NAME):
            raise PermissionError(f"{event}: {os.fsdecode(path)} is outside of the working folder")

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            change = bool(flags and flags & writing) and path != os.devnull
            check(event, path, change)
        elif event in PATHS:
            which, change = PATHS[event]
            for index in which:
                if index < len(arguments):
                    check(event, arguments[index], change)
            if event in ("os.rmdir", "os.rename") and os.path.realpath(arguments[0]) in own:
                raise PermissionError(f"{event}: the working folder stays")
        elif event in PROCESSES:
            raise PermissionError(f"{event}: other processes are not allowed here")
        elif event in NETWORK:
            raise PermissionError(f"{event}: there is no network here")

    return hook


def install_audit_guard(writable: Iterable[str], readable: Iterable[str]) -> None:
    """Put the hook into this interpreter, for good; arguments as of `audit_hook`."""
    sys.addaudithook(audit_hook(writable, readable))
