"""Watch one process for long: does it hold on to memory, files or threads?

`watch` does pieces of work in turns and takes a sample after each; `judge` reads the samples.

    memory       the resident set; the means of all rounds of the last two thirds, a straight line
                 through them, and its slope + 2 errors must be below a bound
    objects      what the garbage collector counts at the end of each round: the same, with a bound
                 of its own
    descriptors, threads, files
                 at the end of each of these rounds the same number

The first third does not count: imports, tables that fill up to their limit, and the allocator's
own stock belong to it. Means of whole rounds, as training and generation need unlike memory; each
round does the same work. Errors as of independent points would be too small where what one round
leaves behind the next one finds, so they are widened by the correlation of neighbours, r:

    error = error of least squares * sqrt((1 + r) / (1 - r))
"""

from __future__ import annotations

import gc
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Sample = dict[str, Any]
MIB = 2**20
BOUND = 1.0  # MiB a minute
OBJECT_BOUND = 10.0  # objects a minute
CONSTANT = ("descriptors", "threads", "files")  # in a sample at the end of a round
LEAST_ROUNDS = 8  # in the last two thirds


def watch(
    work: Mapping[str, Callable[[int], None]],
    minutes: float,
    path: Path,
    more: Callable[[], Sample] = dict,
    clock: Callable[[], float] = time.monotonic,
    machine: str = "",
) -> list[Sample]:
    """Do rounds of work until the time is over; return the samples, which are also in the file.

    Args:
        work: name: piece of work, given the number of the round.
        minutes: the round in which they are over is finished.
        path: of the samples, JSON lines.
        more: what else a sample holds.
        clock: in seconds.
        machine: when and on what this runs, noted in the first sample.
    """
    samples: list[Sample] = []
    start = clock()
    with open(path, "w", encoding="utf-8", buffering=1) as file:

        def note(i: int, piece: str, end: bool) -> None:
            sample = take_sample((clock() - start) / 60, i, piece, end) | more()
            sample |= {} if samples else {"machine": machine}
            samples.append(sample)
            file.write(json.dumps(sample) + "\n")

        for i in count():
            for name, do in work.items():
                do(i)
                note(i, name, False)
            gc.collect()
            note(i, "end", True)
            if clock() - start >= 60 * minutes:
                return samples


def take_sample(minutes: float, i: int, piece: str, end: bool) -> Sample:
    """Return what this process holds now; the objects only at the end of a round."""
    sample = {
        "minutes": round(minutes, 4),
        "round": i,
        "piece": piece,
        "mib": resident() / MIB,
        "descriptors": len(os.listdir("/proc/self/fd")) - 1,  # one is open to list them
        "threads": len(os.listdir("/proc/self/task")),
        "cpu": round(time.process_time(), 2),
    }
    return sample | ({"objects": len(gc.get_objects())} if end else {})


def resident() -> int:
    """Return the bytes of this process that are in memory, as Linux tells."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak_resident() -> int:
    """Return the most bytes of this process that were in memory at one time.

    Not ru_maxrss, which starts from what the process that started this one had.
    """
    with open("/proc/self/status", encoding="ascii") as file:
        lines = dict(line.split(":", 1) for line in file)
    return int(lines["VmHWM"].split()[0]) * 1024


def read_samples(path: Path) -> list[Sample]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


class Line(NamedTuple):
    slope: float
    error: float  # one standard error of the slope
    middle: tuple[float, float]  # a point that it goes through

    @property
    def most(self) -> float:
        """The slope, and two errors more."""
        return self.slope + 2 * self.error


def fit(x: Iterable[float], y: Iterable[float]) -> Line:
    """Put a straight line through points, by least squares.

    >>> fit([0.0, 1.0, 2.0, 3.0], [5.0, 7.0, 9.0, 11.0])
    Line(slope=2.0, error=0.0, middle=(1.5, 8.0))
    """
    xs, ys = np.array(list(x)), np.array(list(y))
    dx, dy = xs - xs.mean(), ys - ys.mean()
    slope = dx @ dy / (dx @ dx)
    rest = dy - slope * dx
    square = rest @ rest
    error = math.sqrt(square / (len(xs) - 2) / (dx @ dx))
    r = max(0.0, float(rest[1:] @ rest[:-1] / square)) if square > 0 else 0.0
    error *= math.sqrt((1 + r) / (1 - r))
    return Line(float(slope), error, (float(xs.mean()), float(ys.mean())))


class Verdict(NamedTuple):
    rounds: int  # in the last two thirds
    first: float  # minute, where they begin
    memory: Line  # MiB over minutes
    objects: Line  # objects over minutes
    constant: dict[str, list[int]]  # name: the numbers that were seen
    complaints: list[str]  # none: nothing grows


def judge(samples: list[Sample], bound: float = BOUND) -> Verdict:
    """Say what grows.

    Args:
        samples: of `watch`.
        bound: MiB a minute that memory may seem to grow.

    Raises:
        ValueError: too few rounds to say anything.
    """
    first = samples[-1]["minutes"] / 3
    late = {s["round"] for s in samples} - {s["round"] for s in samples if s["minutes"] < first}
    if len(late) < LEAST_ROUNDS:
        raise ValueError(
            f"the last two thirds must hold {LEAST_ROUNDS} rounds, they have {len(late)}: longer"
        )
    by_round = {i: [s for s in samples if s["round"] == i] for i in sorted(late)}
    ends = [group[-1] for group in by_round.values()]
    memory = fit(*round_means(by_round.values()))
    objects = fit([s["minutes"] for s in ends], [s["objects"] for s in ends])
    constant = {name: sorted({s[name] for s in ends}) for name in CONSTANT if name in ends[0]}
    complaints = []
    for name, line, most, unit in (
        ("memory", memory, bound, "MiB"),
        ("objects", objects, OBJECT_BOUND, "objects"),
    ):
        if not line.most < most:
            complaints.append(
                f"{name}: {line.slope:+.3f} +- {line.error:.3f} {unit} a minute, so up to "
                f"{line.most:.3f}; below {most:g} is asked for"
            )
    for name, seen in constant.items():
        if len(seen) > 1:
            complaints.append(f"{name}: from {ends[0][name]} to {ends[-1][name]}, seen {seen}")
    return Verdict(len(late), first, memory, objects, constant, complaints)


def round_means(rounds: Iterable[list[Sample]]) -> tuple[list[float], list[float]]:
    """Return the mean minute and the mean MiB of each round."""
    pairs = [[(s["minutes"], s["mib"]) for s in group] for group in rounds]
    minutes, mib = zip(*(np.mean(group, axis=0).tolist() for group in pairs), strict=True)
    return list(minutes), list(mib)


def draw(samples: list[Sample], verdict: Verdict, path: Path) -> None:
    """Draw memory over time as an SVG that is the same whenever it is drawn."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": "minqwen"}):
        figure = Figure(figsize=(8, 3.6), layout="constrained")
        axes = figure.add_subplot()
        for piece in dict.fromkeys(s["piece"] for s in samples):
            if piece != "end":
                points = [(s["minutes"], s["mib"]) for s in samples if s["piece"] == piece]
                axes.plot(*zip(*points, strict=True), ".", markersize=3, label=f"after {piece}")
        (x, y), slope = verdict.memory.middle, verdict.memory.slope
        ends = np.array([verdict.first, samples[-1]["minutes"]])
        label = f"{slope:+.3f} ± {verdict.memory.error:.3f} MiB a minute"
        axes.plot(ends, y + slope * (ends - x), "k-", linewidth=1.2, label=label)
        axes.axvline(verdict.first, color="#999", linewidth=0.8, linestyle=":")
        axes.set(xlabel="minutes", ylabel="resident memory (MiB)")
        axes.set_ylim(0, 1.45 * max(s["mib"] for s in samples))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7, ncols=4, loc="upper left")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})


def report(samples: list[Sample], verdict: Verdict) -> str:
    """Return the samples and what they say as Markdown."""
    pieces = [name for name in dict.fromkeys(s["piece"] for s in samples) if name != "end"]
    last = max(s["round"] for s in samples)
    lines = [
        f"{samples[0]['machine']}. {samples[-1]['minutes']:.1f} minutes, {last + 1} rounds of "
        f"{', '.join(pieces)}, "
        f"{samples[-1]['cpu'] / 60:.1f} minutes of CPU time. Of the rounds, the {verdict.rounds} "
        f"after minute {verdict.first:.1f} count.",
        "",
        "| what | at a third of the time | at the end | least to most | a minute | bound |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    ends = [s for s in samples if s["piece"] == "end" and s["minutes"] >= verdict.first]
    numbers = sorted({s["round"] for s in ends})
    _, mib = round_means([s for s in samples if s["round"] == i] for i in numbers)
    lines.append(
        f"| resident memory, mean of a round, MiB | {mib[0]:.1f} | {mib[-1]:.1f} | "
        f"{min(mib):.1f} to {max(mib):.1f} | {with_error(verdict.memory)} | {BOUND:g} |"
    )
    for name, line in (("objects", verdict.objects), *((n, None) for n in verdict.constant)):
        seen = [s[name] for s in ends]
        cells = [f"{seen[0]:,}", f"{seen[-1]:,}", f"{min(seen):,} to {max(seen):,}"]
        cells += [with_error(line), f"{OBJECT_BOUND:g}"] if line else ["", "always the same"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    if "words" in samples[0]:
        words = [s["words"] for s in samples]
        lines.append(f"| remembered words | | {words[-1]:,} | up to {max(words):,} | | |")
    said = "; ".join(verdict.complaints) or "nothing grows beyond its bound"
    return "\n".join([*lines, "", f"Verdict: **{said}**."])


def with_error(line: Line) -> str:
    return f"{line.slope:+.3f} ± {line.error:.3f}"
