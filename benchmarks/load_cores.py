"""What the second core gives a training step: two Python threads, two BLAS threads, two processes.

    whole        one thread, the batch in one piece: what the others are compared with
    pieces       one thread, two halves of the batch after each other
    threads      the two halves at the same time, `minqwen pretrain --accumulate 2 --threads 2`
    BLAS         one piece, matrix products with two threads (needs threadpoolctl)
    processes    half of the batch in each of two, `mpirun -n 2 minqwen pretrain`

A step is pretrain's own: gradient, clipping, AdamW. The first four take turns in this process, each
with parameters of its own, then MPI has the machine for itself. All do the same steps: pieces and
threads must have the same losses to the last bit, the others but for rounding. Time is that of the
clock on the wall, as it must be with two cores; rounds in which other programs took more than an
eighth of a core are left out, and when too few are left the table says so.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np

from minqwen.backend import Array
from minqwen.model.config import QwenConfig
from minqwen.model.init import init_params
from minqwen.params import Params
from minqwen.training.adamw import AdamWState, adamw_init
from minqwen.training.communicator import ALONE, Communicator, find_communicator
from minqwen.training.pretrain import train_step
from minqwen.training.settings import PretrainSettings
from minqwen.training.update import apply_adamw

from .cases import MODEL
from .harness import busy_seconds

WAYS = {  # name: pieces of the batch, Python threads, BLAS threads
    "whole": (1, 1, 1),
    "pieces": (2, 1, 1),
    "threads": (2, 2, 1),
    "BLAS": (1, 1, 2),
}
MAY_TAKE = 0.125  # of a core, by other programs
LEAST_QUIET = 3  # rounds


class Steps(NamedTuple):
    """The steps of one way."""

    losses: list[float]
    seconds: list[float]
    update: list[float]  # of them for AdamW
    quiet: list[bool]


class Run:
    """A run of pretrain, to be gone on with step by step."""

    def __init__(
        self, model: dict[str, Any], B: int, T: int, pieces: int, threads: int, steps: int
    ) -> None:
        self.config = QwenConfig(**model)
        self.params: Params = init_params(self.config, np.random.default_rng(0))
        self.state: AdamWState = adamw_init(self.params)
        self.rows: Array = np.random.default_rng(1).integers(0, self.config.vocab_size, (64, T + 1))
        self.threads = threads
        self.settings = PretrainSettings(
            steps=steps, batch_size=B, accumulate=pieces, context_length=T, warmup_steps=1
        )
        self.steps = Steps([], [], [], [])

    def step(self, communicator: Communicator = ALONE) -> None:
        """Do one update, and note how long it took."""
        communicator.barrier()
        busy, cpu, start = busy_seconds(), time.process_time(), time.perf_counter()
        grads, row = train_step(
            self.params,
            self.state,
            self.config,
            self.rows,
            self.settings,
            communicator,
            self.threads,
        )
        middle = time.perf_counter()
        apply_adamw(self.params, grads, self.state, self.settings, row["lr"])
        communicator.barrier()
        end = time.perf_counter()
        ours = float(communicator.allreduce(np.array([time.process_time() - cpu]))[0])
        others = busy_seconds() - busy - ours
        losses, seconds, update, quiet = self.steps
        losses.append(row["loss"])
        seconds.append(end - start)
        update.append(end - middle)
        quiet.append(others < MAY_TAKE * (end - start) + 0.02)  # /proc/stat counts in 0.01 s


def here(rounds: int, B: int = 8, T: int = 256, model: dict[str, Any] = MODEL) -> dict[str, Steps]:
    """Do the steps of every way but MPI's, in turns; the first one, cold, does not count."""
    limits = blas_limits()
    ways = {name: way for name, way in WAYS.items() if way[2] == 1 or limits is not None}
    runs = {
        name: Run(model, B, T, pieces, threads, rounds + 1)
        for name, (pieces, threads, _) in ways.items()
    }
    for i in range(rounds + 1):
        for name in sorted(runs, reverse=bool(i % 2)):
            time.sleep(0.03)  # the threads of OpenBLAS spin for a while after work
            with limits(ways[name][2]) if limits is not None else nullcontext():
                runs[name].step()
    return {name: without_first(run.steps) for name, run in runs.items()}


def blas_limits() -> Callable[[int], Any] | None:
    """Return what sets the number of BLAS threads for a block, or None."""
    if importlib.util.find_spec("threadpoolctl") is None:
        return None
    from threadpoolctl import threadpool_limits

    return lambda n: threadpool_limits(n, user_api="blas")


def in_processes(
    rounds: int, B: int = 8, T: int = 256, model: dict[str, Any] = MODEL
) -> tuple[int, Steps]:
    """Do the steps in all processes that mpirun started; return the rank too."""
    communicator = find_communicator()
    if communicator.size == 1:
        raise ValueError("this is to be started by mpirun -n 2")
    run = Run(model, B, T, 1, 1, rounds + 1)
    for _ in range(rounds + 1):
        run.step(communicator)
    return communicator.rank, without_first(run.steps)


def without_first(steps: Steps) -> Steps:
    return Steps(steps.losses, *(values[1:] for values in steps[1:]))


def complaints(found: dict[str, Steps]) -> list[str]:
    """Say which ways had other losses than they must have."""
    said = []
    if found["threads"].losses != found["pieces"].losses:
        said.append("threads: not the losses of pieces, bit for bit")
    for name, steps in found.items():
        if not np.allclose(steps.losses, found["whole"].losses, rtol=1e-5, atol=0):
            said.append(f"{name}: losses {steps.losses}, whole has {found['whole'].losses}")
    return said


def report(found: dict[str, Steps], absent: dict[str, str], machine: str) -> str:
    """Return the table as Markdown."""
    whole = middle(found["whole"])
    lines = [
        f"{machine}. Model of 5 million parameters, 8 rows of 256 tokens.",
        "",
        "| way | step, ms, median [least-most] | of it AdamW | gain over whole | rounds |",
        "| --- | ---: | ---: | ---: | --- |",
    ]
    for name, steps in found.items():
        kept, note = undisturbed(steps)
        seconds = [1000 * steps.seconds[i] for i in kept]
        update = 1000 * statistics.median(steps.update[i] for i in kept)
        lines.append(
            f"| {name} | {statistics.median(seconds):.0f} [{min(seconds):.0f}-{max(seconds):.0f}] "
            f"| {update:.0f} | **{whole / middle(steps):.2f}** | {note} |"
        )
    lines += [f"| {name} | {why} | | | |" for name, why in absent.items()]
    said = "; ".join(complaints(found)) or "as they must be"
    return "\n".join([*lines, "", f"Losses over {len(found['whole'].losses)} steps: {said}."])


def undisturbed(steps: Steps) -> tuple[list[int], str]:
    """Return the numbers of the rounds to take, and what to say about them."""
    quiet, rounds = [i for i, good in enumerate(steps.quiet) if good], len(steps.quiet)
    if len(quiet) < min(LEAST_QUIET, rounds):
        return list(range(rounds)), f"{rounds}, disturbed by other programs"
    return quiet, f"{len(quiet)} of {rounds}"


def middle(steps: Steps) -> float:
    return statistics.median(steps.seconds[i] for i in undisturbed(steps)[0])
