"""Time ours and its rivals side by side, and say how far they differ.

A case is plain data (see cases.py). `measure` first runs everybody once and compares the results;
only then it times them, in turns, the order reversed each round. One thread is timed by the CPU
clock of the process, which a busy neighbour hardly moves; more threads by the wall clock, without
the samples that other processes disturbed.
"""

from __future__ import annotations

import gc
import math
import os
import statistics
import time
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

Call = Callable[[], Any]  # returns what is compared: one array or a tuple of them
SLACK = 1.25  # a ratio up to goal * SLACK passes
LEAST = 0.05  # seconds of a sample: what is shorter is called several times
LINEAR = 1.1  # memory at twice the size, over twice the memory: at most this


class Work(NamedTuple):
    ours: Call
    rivals: dict[str, Callable[[], Call]]  # name: maker of the call; ImportError = not installed
    flops: float = 0.0  # of one call, for the share of this machine's sgemm rate
    exps: float = 0.0  # exponentials in one call, for the share of NumPy's rate
    nbytes: float = 0.0  # from and to memory in one call, for the share of its reading bandwidth
    cached: float = 0.0  # the same for arrays that stay in the processor's cache
    items: float = 0.0  # done by one call, for a rate
    unit: str = ""  # of the rate, per second
    tolerance: float = 1e-5  # most difference from a rival, of the largest number of each array
    exact: tuple[str, ...] = ()  # rivals from which not one bit may differ
    before: Call | None = None  # to be done before each call of ours, not timed
    overwrites: bool = False  # our result stands in memory that was there before
    memory: bool = False  # also measure our peak extra memory
    in_numpy: tuple[str, ...] = ()  # rivals whose memory can be measured as ours is
    memory_at: Mapping[int, Call] = MappingProxyType(
        {}
    )  # ours at growing sizes: is the memory linear?


@dataclass(frozen=True)
class Case:
    name: str
    make: Callable[..., Work]
    sizes: dict[str, Any]  # arguments of make
    tiny: dict[str, Any]  # the same for a test; {} = not tested
    # rival: most ratio ours / rival; two numbers: with one thread, with two
    goals: dict[str, float | tuple[float, float]] = field(default_factory=dict)
    most_extra: float | None = None  # goal: MiB of memory beyond the result
    why: str = ""  # what is known about the distance to a goal
    quick: bool = False  # part of --quick
    threads: tuple[int, ...] = (1, 2)  # where it is run
    gib: float = 0.0  # memory that must be free, in GiB
    rounds: int = 99  # at most

    def goals_with(self, threads: int) -> dict[str, float]:
        """Return the goals that hold for so many threads."""
        pairs = {
            rival: goal if isinstance(goal, tuple) else (goal, goal)
            for rival, goal in self.goals.items()
        }
        return {rival: goal[threads - 1] for rival, goal in pairs.items()}


def difference(ours: Any, theirs: Any) -> float:
    """Return the largest difference over the largest number of the array; ids must be equal."""
    if isinstance(ours, tuple):
        return max(difference(a, b) for a, b in zip(ours, theirs, strict=True))
    theirs = theirs.detach() if hasattr(theirs, "detach") else theirs
    a, b = np.asarray(ours), np.asarray(theirs)
    if a.shape != b.shape:
        return math.inf
    if a.dtype.kind in "iu":
        return 0.0 if np.array_equal(a, b) else math.inf
    return float(np.abs(a - b).max() / np.abs(b).max())


def start_rivals(work: Work) -> tuple[dict[str, Call], dict[str, str]]:
    """Return the calls of the rivals that are installed, and why the others are not there."""
    calls, absent = {}, {}
    for name, make in work.rivals.items():
        try:
            calls[name] = make()
        except ImportError as error:
            absent[name] = f"not installed ({error})"
    return calls, absent


def measure(case: Case, threads: int, rounds: int, budget: float = 8.0) -> dict[str, Any]:
    """Run one case; return plain data. At least 3 rounds, no more after `budget` seconds."""
    result = {"name": case.name, "sizes": case.sizes, "goals": case.goals_with(threads)}
    result |= {"why": case.why, "missed": [], "skipped": None}
    if (free := free_memory()) < case.gib * 2**30:
        result["skipped"] = f"needs {case.gib:g} GiB of memory, {free / 2**30:.1f} are free"
        return result
    try:
        work = case.make(**case.sizes)
    except ImportError as error:
        result["skipped"] = f"not installed ({error})"
        return result
    rivals, absent = start_rivals(work)
    calls, first = {"ours": work.ours, **rivals}, {}
    if work.before:
        work.before()
    ours, first["ours"] = timed(work.ours)
    errors = {}
    for name, call in rivals.items():
        theirs, first[name] = timed(call)
        errors[name] = difference(ours, theirs)
        if not errors[name] <= (0 if name in work.exact else work.tolerance):
            raise AssertionError(f"{case.name}: ours and {name} differ by {errors[name]:.1e}")
        del theirs
    del ours
    repeats = {name: max(1, math.ceil(LEAST / max(t, 1e-6))) for name, t in first.items()}
    if work.before:
        repeats["ours"] = 1
    everything, start = [], time.perf_counter()
    for i in range(min(rounds, case.rounds)):
        order = sorted(calls, reverse=bool(i % 2))
        everything.append({})
        for name in order:
            if name == "ours" and work.before:
                work.before()
            everything[-1][name] = sample(calls[name], repeats[name], threads)
        if i >= 2 and time.perf_counter() - start > budget:
            break
    kept = [got for got in everything if all(quiet for _, quiet in got.values())]
    disturbed = len(kept) < min(3, len(everything))
    kept = everything if disturbed else kept
    times = {name: [got[name][0] for got in kept] for name in calls}
    ratios = {}
    for name in rivals:  # of the times in the same round
        pairs = zip(times["ours"], times[name], strict=True)
        ratios[name] = spread([ours / theirs for ours, theirs in pairs])
    goals = case.goals_with(threads)
    over = [n for n, goal in goals.items() if n in ratios and ratios[n][0] > goal * SLACK]
    over = [] if disturbed else over
    measured = threads == 1 and work.memory  # it is the same with two
    memory = peak_memory(work.ours) if measured else None
    if memory and work.overwrites:
        memory["result"] = 0
    if memory and case.most_extra is not None:
        over += ["memory"] if extra_mib(memory) > case.most_extra else []
    memory_at = {n: peak_memory(call) for n, call in work.memory_at.items() if threads == 1}
    over += ["linear memory"] if not is_linear(memory_at) else []
    return {
        **result,
        "seconds": {name: spread(values) for name, values in times.items()},
        "rounds": len(kept),
        "disturbed": disturbed,  # other processes took part of the machine in nearly every round
        "ratios": ratios,
        "errors": errors,
        "exact": list(work.exact),
        "absent": absent,
        "missed": over,
        "work": {k: getattr(work, k) for k in (*LIMITS, "items", "unit")},
        "memory": memory,
        "most_extra": case.most_extra,
        "memory_at": {str(n): m["peak"] for n, m in memory_at.items()},
        "rival_memory": {n: peak_memory(rivals[n])["peak"] for n in work.in_numpy if measured},
        "resident": most_resident() if case.gib else None,
    }


def extra_mib(memory: dict[str, int]) -> float:
    """Return the MiB that were taken at most beyond the result."""
    return (memory["peak"] - memory["result"]) / 2**20


def is_linear(memory_at: dict[int, dict[str, int]]) -> bool:
    """Return whether the peak grows no faster than the size."""
    sizes = sorted(memory_at)
    return all(
        memory_at[b]["peak"] / memory_at[a]["peak"] <= LINEAR * b / a for a, b in pairwise(sizes)
    )


def free_memory() -> float:
    """Return the bytes that a program can still take, where Linux tells; else infinity."""
    try:
        with open("/proc/meminfo", encoding="utf-8") as file:
            lines = dict(line.split(":") for line in file)
    except OSError:
        return math.inf
    return 1024.0 * int(lines["MemAvailable"].split()[0])


def most_resident() -> float | None:
    """Return the most bytes of memory that this process ever had, where the system tells."""
    try:
        import resource
    except ImportError:
        return None
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def timed(call: Call) -> tuple[Any, float]:
    """Return the result of one call, and its seconds, roughly."""
    start = time.perf_counter()
    return call(), time.perf_counter() - start


def sample(call: Call, repeat: int, threads: int) -> tuple[float, bool]:
    """Return seconds per call, and whether other processes left the machine alone."""
    clock = time.process_time if threads == 1 else time.perf_counter
    gc.collect()
    time.sleep(0.03)  # the threads of OpenBLAS and OpenMP spin for a while after work
    busy, cpu, wall, start = busy_seconds(), time.process_time(), time.perf_counter(), clock()
    for _ in range(repeat):
        call()
    seconds, wall = (clock() - start) / repeat, time.perf_counter() - wall
    others = busy_seconds() - busy - (time.process_time() - cpu)
    return seconds, threads == 1 or others < 0.12 * wall + 0.02  # /proc/stat counts in 0.01 s


def busy_seconds() -> float:
    """Return the CPU seconds that all processes have used, where Linux tells; else 0."""
    try:
        with open("/proc/stat", encoding="utf-8") as file:
            user, nice, system, _idle, _wait, *interrupts = map(int, file.readline().split()[1:8])
    except OSError:
        return 0.0
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")


def spread(values: list[float]) -> list[float]:
    """Return [median, least, most]."""
    return [statistics.median(values), min(values), max(values)]


def peak_memory(call: Call) -> dict[str, int]:
    """Return the bytes that NumPy took at most during the call, and those of its result."""
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    result = call()
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    arrays = result if isinstance(result, tuple) else (result,)
    return {"peak": peak, "result": sum(np.asarray(a).nbytes for a in arrays)}


# what a call does: limit of the machine that it is a share of
LIMITS = {"flops": "sgemm", "exps": "exp", "nbytes": "read", "cached": "cache"}


def machine_limits(threads: int) -> dict[str, float]:
    """Measure what NumPy reaches at best here, per second.

    sgemm: operations of a product of matrices; read: bytes of a dot product over 256 MiB; exp:
    exponentials of 2**16 numbers; cache: bytes in and out when as many are added.
    """
    a = np.random.default_rng(0).standard_normal((2048, 2048), dtype=np.float32)
    x, y = np.ones(2**26, np.float32), a.ravel()[: 2**16].copy()
    z = np.empty_like(y)
    seconds = {
        name: statistics.median(sample(call, repeat, threads)[0] for _ in range(5))
        for name, call, repeat in (
            ("sgemm", lambda: a @ a, 1),
            ("read", lambda: x @ x, 1),
            ("exp", lambda: np.exp(y, out=z), 200),
            ("cache", lambda: np.add(y, y, out=z), 2000),
        )
    }
    return {
        "sgemm": 2 * 2048**3 / seconds["sgemm"],
        "read": x.nbytes / seconds["read"],
        "exp": y.size / seconds["exp"],
        "cache": 2 * y.nbytes / seconds["cache"],
    }


def shares(work: dict[str, Any], seconds: float, limits: dict[str, float]) -> dict[str, float]:
    """Return how much of the machine's limits a call used, what binds it most first."""
    found = {
        name: work[key] / seconds / limits[name] for key, name in LIMITS.items() if work.get(key)
    }
    return dict(sorted(found.items(), key=lambda item: -item[1]))
