"""Limits of a process that runs code a model wrote: the numbers, and what the system keeps of them.

The system counts for each process by itself (`setrlimit`): bytes of memory, seconds of processor,
bytes of one file, open files. Code that starts ten processes has ten times the memory, and code
that writes a thousand small files fills a disk below any limit of one file. So a second count goes
over all processes and the whole folder together, five times a second, by a watcher that the code
cannot reach (see kernel_process.py); between two looks more may be used than the limit says.

Wall time is not a matter of the system: the reader of the answers waits so long and no longer (see
code_interpreter.py).

Paper: Qwen report, 3.4 "Tool use, code interpreter, and agent": a code interpreter whose code is
    run; the report says nothing of limits.
Origin: setrlimit(2).
Differs: none.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

MIB = 2**20
# Address space is reserved long before it is used (thread stacks, arenas): the limit on it is
# wider, and is there for the memory that RLIMIT_DATA does not count (shared mappings).
RESERVED_MIB = 4096
OWN_THREADS = 24  # threads of the kernel itself: RLIMIT_NPROC counts threads too


class Limits(NamedTuple):
    """What code may use; every field is a limit that is kept, not a wish."""

    seconds: float = 30.0  # wall time of one call; then an interrupt
    grace_seconds: float = 2.0  # from the interrupt to the end of the whole kernel
    cpu_seconds: int = 600  # processor time of one process over all calls
    memory_mib: int = 1024  # of each process, and of all together
    file_mib: int = 64  # of one file
    folder_mib: int = 256  # of all files in the working folder together
    files: int = 10_000  # entries of the working folder
    open_files: int = 256  # of each process
    processes: int = 16  # and threads, at once, beside OWN_THREADS; 0: the code may start none
    output_characters: int = 10_000  # of one observation, without the error


def check_limits(limits: Limits) -> None:
    """Raise an error unless every limit is a positive number (`processes` may be 0).

    Raises:
        TypeError: what is counted is no whole number.
        ValueError: a limit is not positive, or infinite.

    >>> check_limits(Limits(seconds=0))
    Traceback (most recent call last):
    ...
    ValueError: limits.seconds must be positive, got 0
    """
    for name, value in limits._asdict().items():
        if not name.endswith("seconds") and type(value) is not int:
            raise TypeError(f"limits.{name} must be an int, got {value!r}")
        if not 0 <= value < float("inf") or (value == 0 and name != "processes"):
            raise ValueError(f"limits.{name} must be positive, got {value}")
    if limits.cpu_seconds < 1:
        raise ValueError(f"limits.cpu_seconds must be 1 or more, got {limits.cpu_seconds}")


def missing_limits(platform: str = sys.platform) -> tuple[str, ...]:
    """Name the limits that `platform` (as `sys.platform` writes it) cannot keep.

    Returns:
        Names of limits, empty on Linux: the only system where all of them are kept.

    >>> missing_limits("linux")
    ()
    >>> missing_limits("darwin")
    ('memory', 'processes', 'network')
    """
    if platform == "linux":
        return ()
    missing = ("memory", "processes", "network")  # macOS takes RLIMIT_AS and does not keep it
    return missing if platform == "darwin" else (*missing, "processor time", "file size")


def set_limits(limits: Limits) -> None:
    """Put the limits on this process and on all that it starts, for good.

    The hard limits are set too, so that the code cannot raise them again.

    Args:
        limits: the numbers.
    """
    import resource  # not on Windows

    def limit(name: str, value: int) -> None:
        kind = getattr(resource, name, None)
        if kind is None:
            return
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))

    limit("RLIMIT_CORE", 0)
    limit("RLIMIT_CPU", int(limits.cpu_seconds))
    limit("RLIMIT_FSIZE", limits.file_mib * MIB)
    limit("RLIMIT_NOFILE", limits.open_files)
    if sys.platform == "linux":
        limit("RLIMIT_DATA", limits.memory_mib * MIB)
        limit("RLIMIT_AS", (limits.memory_mib + RESERVED_MIB) * MIB)


def limit_processes(limits: Limits) -> None:
    """Limit the processes and threads of this user, where they are counted for the kernel alone.

    Only in a user namespace of its own: elsewhere everything that the user runs would count. The
    system does not keep this limit for root, for whom the watcher counts alone.

    Args:
        limits: the numbers.
    """
    import resource

    count = limits.processes + OWN_THREADS
    resource.setrlimit(resource.RLIMIT_NPROC, (count, count))
