"""The process that runs the code: a Jupyter kernel which has locked itself in.

It puts its guards on in this order, because each makes the next one impossible to take off:

    limits (kernel_limits.py)          before anything is read that the code may have written
    no rights of an administrator      before there are threads, which would keep theirs
    files (landlock.py)                before there are threads too
    sockets to our program             made here; after this no process of it makes another
    system calls (syscall_filter.py)   on all threads
    then the working folder is entered and the code may come

Python runs isolated (`-I`) and in a folder of its own until then: a file that the code of the last
call left behind, named like a module, is not imported before the guards are on.

Paper: none; Qwen report 3.4 runs code and says nothing of how.
Origin: setrlimit(2), landlock(7), seccomp(2); IPKernelApp of ipykernel.
Differs: none.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from . import audit_guard, landlock, namespaces, syscall_filter
from .kernel_limits import Limits, limit_processes, set_limits

SYSTEM, PYTHON, NONE = "kernel of the system", "inside Python", "none"
GUARDS = ("namespaces", "landlock", "seccomp")


class Settings(NamedTuple):
    """What the processes are told when they start."""

    folder: str  # working folder, a real path
    runtime: str  # private folder: sockets, caches, temporary files
    connection_file: str
    package_root: str  # folder that holds minqwen; off sys.path before the code comes, if we put it
    limits: Limits
    without: tuple[str, ...] = ()  # guards left out
    unsafe: bool = False


class Protection(NamedTuple):
    """Which guard is in force, and how strong it is: SYSTEM, PYTHON or NONE."""

    files: str
    network: str
    other_processes: str  # signals to them, and their memory
    memory_and_time: str
    new_processes: bool  # whether the code may start some; they are counted
    guards: tuple[str, ...]  # by name


def paths_of_the_code(paths: list[str], package_root: str) -> list[str]:
    """Take off sys.path the folder of minqwen, which the command of the kernel put at its end.

    Where minqwen is installed like other packages, the folder stands there twice, and the code
    needs it for those.

    Args:
        paths: sys.path.
        package_root: of Settings.

    >>> paths_of_the_code(["/lib", "/home/me/minqwen"], "/home/me/minqwen")
    ['/lib']
    >>> paths_of_the_code(["/lib", "/site-packages", "/site-packages"], "/site-packages")
    ['/lib', '/site-packages']
    """
    return paths[:-1] if paths and paths[-1] == package_root else list(paths)


def readable_places(paths: list[str]) -> list[str]:
    """List what the code may read: Python, its packages, and the system's programs and fonts.

    Args:
        paths: of `paths_of_the_code`.
    """
    never = {"/", os.path.realpath(os.path.expanduser("~"))}
    python = [sys.base_prefix, sys.prefix, sys.exec_prefix, *paths]
    roots = [f"/{name}" for name in ("usr", "lib", "lib32", "lib64", "bin", "sbin")]
    etc = ["ld.so.cache", "ld.so.conf", "localtime", "fonts", "alternatives", "mime.types"]
    counts = ["/proc/cpuinfo", "/proc/meminfo", "/sys/devices/system/cpu"]
    system = [*roots, *(f"/etc/{name}" for name in etc), *counts]
    places = [os.path.realpath(place) for place in python if place] + system
    return [place for place in dict.fromkeys(places) if place not in never]


def _guard_files(settings: Settings, places: list[str]) -> int:
    """Let Landlock guard the files; version in force, or 0."""
    if "landlock" in settings.without or not landlock.landlock_version():
        return 0
    devices = [f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom")]
    sockets = landlock.READ | landlock.MAKE_SOCKET
    rules = [
        *((place, landlock.READ) for place in places),
        *((device, landlock.DEVICE) for device in devices),
        (settings.folder, landlock.OWN),
        (settings.runtime, sockets),
        *((f"{settings.runtime}/{name}", landlock.OWN) for name in ("tmp", "cache")),
    ]
    return landlock.restrict_files(rules)


def _guard_calls(isolated: bool, processes: bool) -> None:
    """Filter the system calls of all threads."""
    program = syscall_filter.filter_program(
        syscall_filter.this_machine(),
        own_pid=os.getpid(),
        processes=processes,
        everything_visible=not isolated,
    )
    syscall_filter.install_filter(program)


def _start_kernel_app(settings: Settings) -> Any:
    """Make the kernel with its sockets and threads; the code is not yet let in."""
    from ipykernel.kernelapp import IPKernelApp

    from . import kernel_shell  # imported before, when it could still be read

    app: Any = IPKernelApp.instance()
    shell = f"{kernel_shell.__name__}."
    app.initialize(
        [
            "-f",
            settings.connection_file,
            f"--IPKernelApp.outstream_class={shell}CutStream",
            f"--IPKernelApp.kernel_class={shell}CutKernel",
            "--IPKernelApp.parent_handle=0",  # the watcher does that
            "--InteractiveShellApp.ignore_cwd=True",
            "--HistoryManager.enabled=False",
            "--InteractiveShell.colors=nocolor",
            "--InteractiveShell.xmode=Plain",
        ]
    )
    kernel_shell.cut_messages(app.shell, settings.limits.output_characters)
    return app


def _guarded_kernel(settings: Settings, isolated: bool) -> tuple[Any, Protection]:
    """Put on the guards, in their order, around a kernel that is ready to start."""
    from . import kernel_shell  # noqa: F401  # with all of Jupyter: no thread, no socket yet

    linux = sys.platform == "linux"
    if linux and len(os.listdir("/proc/self/task")) > 1:
        raise OSError("a thread was started before the guards were on")
    guards: list[str] = ["namespaces"] if isolated else []
    # as root the system does not count processes, and before 5.14 it counts those of all programs
    version = tuple(int(part) for part in os.uname().release.split(".")[:2]) if linux else (0, 0)
    processes = bool(isolated and os.geteuid() and version >= (5, 14) and settings.limits.processes)
    paths = paths_of_the_code(sys.path, settings.package_root)
    places = readable_places(paths)
    if sys.platform != "win32":
        set_limits(settings.limits)
    if linux:
        if processes:
            limit_processes(settings.limits)
        namespaces.drop_rights()
    landlocked = _guard_files(settings, places) if linux else 0
    if landlocked:
        guards.append(f"landlock {landlocked}")
    with open(f"{settings.folder}/.minqwen-write-test", "w", encoding="utf-8"):
        pass
    os.remove(f"{settings.folder}/.minqwen-write-test")

    app = _start_kernel_app(settings)

    os.chdir(settings.folder)
    sys.path[:] = ["", *paths]
    sys.argv = [""]
    for name in ("JPY_PARENT_PID", "FORCE_COLOR", "CLICOLOR_FORCE", "CLICOLOR"):
        os.environ.pop(name, None)  # from Jupyter: our number, and colours
    filtered = linux and "seccomp" not in settings.without
    try:
        if filtered:
            _guard_calls(isolated, processes)
            guards.append("seccomp")
    except OSError as error:
        if not settings.unsafe:
            raise OSError(f"{error}; --unsafe (unsafe=True) goes without this guard") from None
        filtered = False
    if not (landlocked and filtered):
        own = [settings.folder, f"{settings.runtime}/tmp", f"{settings.runtime}/cache"]
        audit_guard.install_audit_guard(own, places)
        guards.append("audit hook")
    return app, Protection(
        files=SYSTEM if landlocked else PYTHON,
        network=SYSTEM if filtered else PYTHON,
        # without Landlock the memory of others is a file, /proc/N/mem
        other_processes=SYSTEM if isolated or (filtered and landlocked) else PYTHON,
        memory_and_time=SYSTEM if linux else NONE,
        new_processes=processes and landlocked > 0 and filtered,
        guards=tuple(guards),
    )


def run_kernel(settings: Settings, isolated: bool, report: int) -> NoReturn:
    """Be the kernel until it ends.

    Args:
        settings: what our program wants.
        isolated: this process lives in namespaces of its own.
        report: descriptor for one line of JSON: `ready` with the protection, or `failed`.
    """
    try:
        app, protection = _guarded_kernel(settings, isolated)
        line = {"ready": protection._asdict()}
    except BaseException as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {error} ({Path(last.filename).name}:{last.lineno})"
        os.write(report, json.dumps({"failed": text}).encode() + b"\n")
        os._exit(1)
    os.write(report, json.dumps(line).encode() + b"\n")
    os.close(report)
    app.start()
    os._exit(0)
