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
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

Call = Callable[[], Any]  # returns what is compared: one array or a tuple of them
SLACK = 1.25  # a ratio up to goal * SLACK passes


class Work(NamedTuple):
    ours: Call
    rivals: dict[str, Callable[[], Call]]  # name: maker of the call; ImportError = not installed
    flops: float = 0.0  # of one call, for the share of this machine's sgemm rate
    nbytes: float = 0.0  # read and written by one call, for the share of its read bandwidth
    items: float = 0.0  # done by one call, for a rate
    unit: str = ""  # of the rate, per second
    tolerance: float = 1e-5  # most difference from a rival, of the largest number of each array
    memory: bool = False  # also measure our peak extra memory
    in_numpy: tuple[str, ...] = ()  # rivals whose memory can be measured as ours is


@dataclass(frozen=True)
class Case:
    name: str
    make: Callable[..., Work]
    sizes: dict[str, Any]  # arguments of make
    tiny: dict[str, Any]  # the same for a test; {} = not tested
    goals: dict[str, float] = field(default_factory=dict)  # rival: most ratio ours / rival
    quick: bool = False  # part of --quick


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


def measure(case: Case, threads: int, rounds: int, budget: float = 40.0) -> dict[str, Any]:
    """Run one case; return plain data. At least 3 rounds, no more after `budget` seconds."""
    work = case.make(**case.sizes)
    rivals, absent = start_rivals(work)
    calls, first = {"ours": work.ours, **rivals}, {}
    ours, first["ours"] = timed(work.ours)
    errors = {}
    for name, call in rivals.items():
        theirs, first[name] = timed(call)
        errors[name] = difference(ours, theirs)
        if not errors[name] <= work.tolerance:
            raise AssertionError(f"{case.name}: ours and {name} differ by {errors[name]:.1e}")
        del theirs
    del ours
    repeats = {name: max(1, math.ceil(0.05 / max(t, 1e-6))) for name, t in first.items()}
    everything, start = [], time.perf_counter()
    for i in range(rounds):
        order = sorted(calls, reverse=bool(i % 2))
        everything.append({name: sample(calls[name], repeats[name], threads) for name in order})
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
    over = [n for n, goal in case.goals.items() if n in ratios and ratios[n][0] > goal * SLACK]
    return {
        "name": case.name,
        "sizes": case.sizes,
        "seconds": {name: spread(values) for name, values in times.items()},
        "rounds": len(kept),
        "disturbed": disturbed,  # other processes took part of the machine in nearly every round
        "ratios": ratios,
        "goals": case.goals,
        "errors": errors,
        "absent": absent,
        "missed": [] if disturbed else over,
        "work": {key: getattr(work, key) for key in ("flops", "nbytes", "items", "unit")},
        "memory": peak_memory(work.ours) if work.memory else None,
        "rival_memory": {name: peak_memory(rivals[name])["peak"] for name in work.in_numpy},
    }


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


def machine_limits(threads: int) -> dict[str, float]:
    """Measure what NumPy reaches at best here: multiply-add in float32, and reading memory."""
    a = np.random.default_rng(0).standard_normal((2048, 2048), dtype=np.float32)
    x = np.ones(2**26, np.float32)  # 256 MiB: in no cache
    gemm = [sample(lambda: a @ a, 1, threads)[0] for _ in range(5)]
    read = [sample(lambda: x @ x, 1, threads)[0] for _ in range(5)]
    return {
        "sgemm": 2 * 2048**3 / statistics.median(gemm),
        "read": x.nbytes / statistics.median(read),
    }
