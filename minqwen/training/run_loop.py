"""The loop around every kind of training: metrics, checkpoints, looks at held-out data, Ctrl-C.

What is trained is a Learner. Pretraining is one, and so is each stage of alignment:

    while learner.step < steps:
        found, row = learner.compute()       the gradient; nothing has changed yet
        learner.update(found, row)           all or nothing: no signal disturbs it
        metrics, progress, now and then learner.validate() and learner.save()

A checkpoint is written before the first step (a full disk shows up at once), every
`checkpoint_every` steps, at the end, and on Ctrl-C or SIGTERM; see run_folder.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from ..model.atomic_folder import recover
from .interrupt import Interrupts
from .metrics import Metrics, Row
from .progress import Progress
from .run_folder import explain_os_errors, locked, require_own


class Learner(Protocol):
    """What a run trains. Its `step` is the number of updates done."""

    @property
    def step(self) -> int:
        """Updates done so far."""

    def compute(self) -> tuple[Any, Row]:
        """Return what update() needs, and the row of metrics: step, tokens, lr, loss if any."""

    def update(self, found: Any, row: Row) -> None:
        """Change the parameters and count the step."""

    def validate(self) -> Row | None:
        """Return what held-out data say, validation_loss among it if there is one, or None."""

    def save(self) -> None:
        """Write the checkpoint."""


class HasSteps(Protocol):
    """The settings that the loop itself reads."""

    @property
    def steps(self) -> int:
        """Updates in all."""

    @property
    def checkpoint_every(self) -> int:
        """Updates between checkpoints."""

    @property
    def eval_every(self) -> int:
        """Updates between looks at held-out data; 0 = only at the end."""


@contextmanager
def run_opened(folder: Path) -> Iterator[None]:
    """Make the folder ours until the end of the block, and mend what a kill left half done.

    Raises:
        OSError: another process trains in it, it cannot be written, or it holds foreign files.
    """
    with locked(folder):
        require_own(folder)
        with explain_os_errors(f"use {folder} as the folder of a run"):
            recover(folder / "checkpoint")
        yield


def run_loop(
    folder: Path,
    settings: HasSteps,
    learner: Learner,
    *,
    saved: int,
    progress: bool,
    plot: Callable[[Path], None] | None,
) -> None:
    """Train until settings.steps updates are done.

    Args:
        folder: of the run, inside run_opened.
        settings: how long, and how often to save and to look at held-out data.
        learner: what is trained, at the step of its checkpoint or at the start.
        saved: step of the checkpoint in the folder, -1 without one.
        progress: show a bar, or lines now and then where stderr is not a terminal.
        plot: draws the pictures of the folder, or None.

    Raises:
        FloatingPointError: a loss or gradient became NaN or infinite. The last checkpoint stands.
        OSError: the folder cannot be written. The last checkpoint stands.
        KeyboardInterrupt, SystemExit: Ctrl-C or SIGTERM, after a checkpoint of the last complete
            step has been written.
    """
    s = settings
    with (
        Metrics(folder, learner.step) as metrics,
        Progress(s.steps, learner.step, progress) as shown,
        Interrupts() as interrupts,
    ):

        def save() -> None:
            nonlocal saved
            metrics.sync()
            learner.save()
            saved = learner.step

        def validate() -> None:
            found = learner.validate()
            if found is None:
                return
            loss, step = found.get("validation_loss"), learner.step
            if loss is not None and not math.isfinite(loss):
                raise FloatingPointError(f"the validation loss of step {step} is {loss}")
            with interrupts.held():
                metrics.append({"step": step} | found)
            if loss is not None:
                shown.note(f"step {step}: validation loss {loss:.4f}")

        try:
            if saved < 0:
                with interrupts.held():
                    save()
            while True:
                step = learner.step
                if step == s.steps or (s.eval_every > 0 and step % s.eval_every == 0):
                    validate()
                if step >= s.steps:
                    break

                start = time.perf_counter()
                found, row = learner.compute()
                with interrupts.held():  # from here to the end of the block, all or nothing
                    learner.update(found, row)
                    del found  # before the next one needs the memory
                    seconds = time.perf_counter() - start
                    row |= {"tokens_per_second": row["tokens"] / seconds, "seconds": seconds}
                    metrics.append(row)
                    if learner.step % s.checkpoint_every == 0 or learner.step == s.steps:
                        save()
                        if plot is not None and learner.step != s.steps:
                            plot(folder)  # the last one is drawn below, with the last look
                shown.step(row)
                if "loss_scale" in row and "grad_norm" not in row:
                    told = f"overflow at a loss scale of {row['loss_scale']:g}, no update"
                    shown.note(f"step {row['step']}: {told}")
        except (KeyboardInterrupt, SystemExit):
            with interrupts.held():
                if learner.step > saved:
                    save()
            raise
        except FloatingPointError as error:
            at = f"the last checkpoint, of step {saved}, is in {folder / 'checkpoint'}"
            raise FloatingPointError(f"{error}; {at}") from None
        if plot is not None:
            plot(folder)
