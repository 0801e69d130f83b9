"""What a student's code may not do, kept by the system where it can: put up before it is read.

    import      see closed_imports.py
    files       may be read: Python, its libraries (entry by entry, without minqwen), the folder
                with the student's copy; may be written: one scratch folder
    others      no network, no new processes, no signals to any other process, no look at its memory
    limits      memory and time (worker_main.py); files of 64 MiB, 256 of them open

On Linux these are Landlock and a filter of system calls, which nothing in the process can take off
again, with Python's audit hook for imports. Elsewhere the hook stands alone: it stops mistakes and
simple tricks, not ctypes. `protection` says which it is, and the report repeats it: for grades that
matter, grade on Linux, as another user or in a container.

What the process holds is numbers to compute with: no expected values, no hidden tests, no bank.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ..agent.kernel import audit_guard, landlock, namespaces, syscall_filter
from ..agent.kernel.kernel_process import readable_places
from .closed_imports import PACKAGE, file_of

PUT_UP = f"{__name__}:put_up"
SANDBOXES = ("auto", "system", "python")  # the strongest that works; Linux's or none; the hook
FILE_BYTES, OPEN_FILES = 64 << 20, 256
# what the worker's own code needs for as long as it runs; none of it knows an answer
KEEP = ("PATH", "LANG", "LC_ALL", "TZ", "SYSTEMROOT", "LD_LIBRARY_PATH", "VIRTUAL_ENV")


def environment(scratch: str) -> dict[str, str]:
    """Return the variables of the process: none of ours that may hold keys or names of folders."""
    kept = {name: os.environ[name] for name in KEEP if name in os.environ}
    home = {"HOME": scratch, "TMPDIR": scratch, "MPLCONFIGDIR": scratch, "PYTHONUTF8": "1"}
    return {**kept, **home, "PYTHONHASHSEED": "0"}


def put_up(given: dict[str, Any]) -> list[str]:
    """Put the guards up in this process, for good.

    Args:
        given: "allowed" and "hollow", modules of minqwen; "folder" of the student's copy;
            "scratch"; "hidden", files and folders that must not be read wherever they lie;
            "sandbox", of SANDBOXES.

    Returns:
        Names of the guards in force.

    Raises:
        OSError: sandbox is "system", and the system has not got them.
    """
    if given["sandbox"] == "system" and sys.platform != "linux":
        raise OSError(f"{sys.platform} has no Landlock: --sandbox auto goes without")
    for name in given["allowed"]:
        importlib.import_module(name)
    for name in given["hollow"]:
        importlib.import_module(name.rpartition(".")[0])  # the package only
    minqwen = os.path.dirname(file_of(f"{PACKAGE}.x"))
    libraries = set(map(os.path.realpath, library_folders()))
    sys.path[:] = [p for p in sys.path if os.path.realpath(p or ".") in libraries]
    copies = [os.path.join(place, PACKAGE) for place in sys.path]
    hidden = [os.path.realpath(p) for p in (minqwen, *copies, *given["hidden"])]
    places = [*readable_places(sys.path), *map(os.path.realpath, sysconfig.get_paths().values())]
    rules = list(rules_without(dict.fromkeys(places), outside_of(hidden, places)))
    rules += [(file_of(name), landlock.READ) for name in given["allowed"]]
    rules += [(given["folder"], landlock.READ), (given["scratch"], landlock.OWN)]
    os.chdir(given["scratch"])
    guards = []
    if sys.platform == "linux" and given["sandbox"] != "python":
        guards = guard_by_system(rules, must=given["sandbox"] == "system")
    limit_files()
    if len(guards) < 2:
        readable = [path for path, rights in rules if rights & landlock.READ_FILE]
        audit_guard.install_audit_guard([given["scratch"]], readable)
    return [*guards, "audit hook"]


def guard_by_system(rules: Sequence[tuple[str, int]], must: bool) -> list[str]:
    """Put up what Linux offers; return the names of what is in force.

    Args:
        rules: of files, see landlock.py.
        must: raise OSError for what is not there.
    """
    guards: list[str] = []
    devices = [f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom")]
    rules = [*rules, *((device, landlock.DEVICE) for device in devices)]
    try:
        namespaces.prctl(namespaces.DIE_WITH_PARENT, signal.SIGKILL)
        namespaces.drop_rights()
        guards.append(f"landlock {landlock.restrict_files(rules)}")
        machine = syscall_filter.this_machine()
        program = syscall_filter.filter_program(
            machine, own_pid=os.getpid(), processes=False, everything_visible=True
        )
        syscall_filter.install_filter(program)
        guards.append("seccomp")
    except OSError:
        if must:
            raise
    return guards


def library_folders() -> list[str]:
    """Return the folders on sys.path that belong to Python, not to somebody's project."""
    own = [os.path.realpath(p) + os.sep for p in (sys.prefix, sys.base_prefix, sys.exec_prefix)]
    return [
        place
        for place in sys.path
        if place
        and (
            os.path.realpath(place).startswith(tuple(own))
            or os.path.basename(place) in ("site-packages", "dist-packages")
        )
        and not os.path.isfile(os.path.join(place, "pyproject.toml"))
    ]


def outside_of(hidden: Sequence[str], places: Iterable[str]) -> list[str]:
    """Leave out of what is hidden whatever holds Python itself: it is not readable as a whole.

    >>> outside_of(["/home/me", "/usr/lib/python3/minqwen"], ["/home/me/venv", "/usr"])
    ['/usr/lib/python3/minqwen']
    """
    inside = [place.rstrip(os.sep) + os.sep for place in places]
    return [h for h in hidden if not any(p.startswith(h.rstrip(os.sep) + os.sep) for p in inside)]


def rules_without(places: Iterable[str], hidden: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Yield rules that let these places be read, without what is hidden in them.

    Landlock knows no exceptions, so a folder with something hidden in it is allowed entry by entry.

    Args:
        places: real paths.
        hidden: real paths.
    """
    for place in places:
        if any(place == h or place.startswith(h + os.sep) for h in hidden):
            continue
        if not any(h.startswith(place.rstrip(os.sep) + os.sep) for h in hidden):
            yield place, landlock.READ
            continue
        yield place, landlock.READ_DIR
        try:
            entries = sorted(entry.path for entry in os.scandir(place) if not entry.is_symlink())
            links = sorted(entry.path for entry in os.scandir(place) if entry.is_symlink())
        except OSError:
            continue
        yield from rules_without(entries, hidden)
        yield from rules_without(map(os.path.realpath, links), hidden)


def limit_files() -> None:
    """Limit the size of files and how many are open."""
    if sys.platform == "win32":
        return
    import resource

    for which, most in ((resource.RLIMIT_FSIZE, FILE_BYTES), (resource.RLIMIT_NOFILE, OPEN_FILES)):
        hard = resource.getrlimit(which)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(which, (most, most))


def protection(guards: Sequence[str]) -> str:
    """Say what is in force, in one sentence.

    Args:
        guards: from `put_up`.

    >>> protection(["landlock 7", "seccomp", "audit hook"])
    'files, network and other processes are guarded by Linux (landlock 7, seccomp)'
    """
    if len(guards) == 3:
        return f"files, network and other processes are guarded by Linux ({', '.join(guards[:2])})"
    return (
        "files, network and other processes are guarded inside Python only "
        f"({', '.join(guards)}): that stops simple tricks, not somebody who knows ctypes"
    )
