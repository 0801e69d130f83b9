"""A run of several processes: all start together, do the same steps, and leave together.

The first process, rank 0, does what one process does: it opens the folder, loads or makes the
parameters, writes metrics, checkpoints and pictures, looks at held-out data. The others get the
parameters from it and then only compute and update. All make the same updates from the same summed
gradients, so their parameters stay the same without being sent again.

What can go wrong, and what then happens:

    the first process cannot start       it says why, the others leave in silence
    a signal, in whichever process       asked for before every step: all stop at the same one, the
                                         first writes the checkpoint, the others wait until it has
    the loss or a gradient is not finite it is so in all: as with a signal, but nothing is written
    another error in one process         it says why, then MPI ends the others; the last checkpoint
                                         stands, whole, as a checkpoint always is
    a process is killed                  mpirun ends the others; as before
    the processes drift apart            the norms of their parameters differ: an error in all
"""

from __future__ import annotations

import math
import signal
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

import numpy as np

from ..params import Params
from .blocks import flat_blocks
from .communicator import Communicator
from .interrupt import Interrupts
from .metrics import Row
from .run_loop import HasSteps, Learner

Made = TypeVar("Made")
DRIFT = 1e-6  # of the norm of the parameters: one update moves it further, rounding does not


class Together:
    """The block in which the processes of a job depend on each other.

    An error that is `common` is raised in every process at the same place, in the others than the
    first as a silent SystemExit; then all wait for each other before they leave. Any other one
    ends the job.
    """

    def __init__(self, communicator: Communicator) -> None:
        self.communicator = communicator
        self.common = False

    def __enter__(self) -> Together:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        """Wait for the others, or end them."""
        if kind is None or self.common:
            self.communicator.barrier()
        else:
            self.communicator.abort()

    def first(self, make: Callable[[], Made]) -> Made:
        """Return to all what the first process makes; if it fails there, all leave.

        Args:
            make: called in the first process only; pickle has to know what it returns.
        """
        if self.communicator.size == 1:
            return make()
        made: Any = None
        failed: BaseException | None = None
        if self.communicator.rank == 0:
            try:
                made = make()
            except BaseException as error:
                failed = error
        made, fails = self.communicator.broadcast((made, failed is not None))
        if fails:
            raise self.leave(failed or SystemExit(0))
        same: Made = made
        return same

    def leave(self, error: BaseException) -> BaseException:
        """Return what to raise where every process raises: the error, or a silent end."""
        self.common = True
        return error if self.communicator.rank == 0 else SystemExit(0)

    def require_same(self, what: str, value: Any) -> None:
        """Raise ValueError everywhere unless all processes give a value equal to the first's."""
        differs = self.communicator.broadcast(value) != value
        if self.communicator.allreduce(np.array([float(differs)]), "max")[0] > 0:
            raise self.leave(ValueError(f"the processes were not given the same {what}"))

    def train(
        self,
        learner: Learner,
        settings: HasSteps,
        params: Params,
        lead: Callable[[Learner], None],
    ) -> None:
        """Train in all processes.

        Args:
            learner: the same in all, at the same step; its compute() uses the communicator.
            settings: of the run.
            params: what is trained; compared every settings.checkpoint_every updates.
            lead: trains the learner that it is given and writes what is to be written; called in
                the first process.
        """
        if self.communicator.size == 1:
            lead(learner)
            return
        with Interrupts() as interrupts, interrupts.held():
            shared = SharedLearner(learner, self, interrupts, params, settings.checkpoint_every)
            if self.communicator.rank == 0:
                lead(shared)
            while shared.step < settings.steps:
                shared.update(*shared.compute())


class SharedLearner:
    """A learner that asks before every step whether all go on; see run_loop.Learner."""

    def __init__(
        self,
        learner: Learner,
        job: Together,
        interrupts: Interrupts,
        params: Params,
        compare_every: int,
    ) -> None:
        self._learner, self._job, self._interrupts = learner, job, interrupts
        self._params, self._compare_every = params, compare_every
        self.update, self.validate, self.save = learner.update, learner.validate, learner.save

    @property
    def step(self) -> int:
        """Updates done so far."""
        return self._learner.step

    def compute(self) -> tuple[Any, Row]:
        """Return the gradient of all processes, or stop where all stop."""
        self._agree()
        try:
            return self._learner.compute()
        except FloatingPointError as error:  # found in the sum, which is the same everywhere
            raise self._job.leave(error) from None

    def _agree(self) -> None:
        """Raise in all processes when one has a signal, or when their parameters differ."""
        norm = parameter_norm(self._params) if self.step % self._compare_every == 0 else 0.0
        mine = np.array([self._interrupts.waiting, norm, -norm])
        number, most, least = self._job.communicator.allreduce(mine, "max").tolist()
        if most + least > DRIFT * most:
            raise self._job.leave(
                RuntimeError(
                    f"the processes have drifted apart: after step {self.step} the norm of the "
                    f"parameters is {-least!r} in one and {most!r} in another"
                )
            )
        if number:
            self._interrupts.forget()
            stopped = int(number) == signal.SIGINT
            raise self._job.leave(KeyboardInterrupt() if stopped else SystemExit(128 + int(number)))


def parameter_norm(params: Params) -> float:
    """Return the length of all parameters as one vector.

    >>> parameter_norm({"w": np.array([[3.0]]), "b": np.array([4.0])})
    5.0
    """
    total = 0.0
    for w in params.values():
        for (piece,) in flat_blocks(w):
            wide = piece.astype("float64")
            total += float(wide @ wide)
    return math.sqrt(total)
