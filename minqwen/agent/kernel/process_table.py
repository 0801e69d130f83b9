"""The list of processes as the watcher sees it: who comes from whom, and what memory they use.

    /proc/N/stat              parent, state, memory of process N
    /proc/N/smaps_rollup      its memory with shared pages counted once (slower)

The first thread of a process may end before the others. The system then shows the process as dead
and without memory, though it runs on; so it is looked at through a thread that lives.

Paper: none; Qwen report 3.4 runs code and says nothing of how.
Origin: proc(5).
Differs: none.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple


class Process(NamedTuple):
    parent: int
    state: str  # one letter, as in ps
    memory: int  # bytes in use, shared ones counted for each
    place: str  # folder in /proc that tells about it


def _fields(place: str) -> list[bytes]:
    """Words of a `stat` from the state on: the name before it may hold anything."""
    with open(f"{place}/stat", "rb") as file:
        return file.read().rpartition(b") ")[2].split()


def _look_at(pid: str) -> Process:
    place = f"/proc/{pid}"
    fields = _fields(place)
    if fields[0] == b"Z" and int(fields[17]) > 1:  # threads
        for thread in os.listdir(f"{place}/task"):
            others = _fields(f"{place}/task/{thread}")
            if others[0] not in b"ZX":
                fields, place = others, f"{place}/task/{thread}"
                break
    page = os.sysconf("SC_PAGE_SIZE")
    return Process(int(fields[1]), fields[0].decode(), int(fields[21]) * page, place)


def _all_processes() -> Iterator[tuple[int, Process]]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                yield int(name), _look_at(name)
            except OSError:  # it ended meanwhile
                continue


def descendants(root: int) -> dict[int, Process]:
    """List all living processes that come from `root`, itself left out; Linux.

    Args:
        root: number of a process.

    >>> descendants(os.getpid())
    {}
    """
    table = dict(_all_processes())
    found: dict[int, Process] = {}
    parents = {root}
    while parents:
        parents = {pid for pid, process in table.items() if process.parent in parents} - set(found)
        found.update((pid, table[pid]) for pid in parents)
    return {pid: process for pid, process in found.items() if process.state not in "ZX"}


def has_ended(process: Process) -> bool:
    """Say whether a process is gone, or ends just now: then it has no memory any more.

    Meanwhile the system shows what it has open to root only.
    """
    try:
        fields = _fields(process.place)
    except OSError:
        return True
    return fields[0] in b"ZX" or fields[20] == b"0"


def memory_in_use(processes: dict[int, Process]) -> int:
    """Count bytes of all together; what they share is counted once."""
    total = 0
    for process in processes.values():
        try:
            with open(f"{process.place}/smaps_rollup", encoding="ascii") as file:
                total += sum(int(line.split()[1]) for line in file if line[:4] == "Pss:") * 1024
        except OSError:
            total += process.memory
    return total
