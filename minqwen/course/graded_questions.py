"""The checker's questions, as they are asked when it is for points.

Everything is asked, also after a failure: a gradient that fails on one input is asked on the
others too, since points are given for each. Only what hangs or dies twice is left alone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..check.outside.messages import Problem, Reply
from ..check.questions import Questions
from ..check.spec import Probe, Spec
from .other_inputs import other_spec

OURS = str(Path(__file__).parents[2]) + os.sep  # where minqwen is installed
PATH_BEGINS = " \t\n'\"("
MOST_STOPS = 2  # a function that hangs or dies so often is not called any more
MOST_TIME = 10  # all calls together, in limits of one call; the first, which loads, not counted
TOO_SLOW = "all calls together took more than {:g} s, so it was not called any more"
NOT_ASKED = Problem("hung", "it was stopped too often, so it was not called any more")


class GradedQuestions(Questions):
    """The questions of the checker, asked of a student in full.

    Args:
        spec, function, seed: as there.
        exact: also ask in float32 and half precision.
        folder: where the files are; it has another name each time, so replies do not hold it.
        stops: how often the function was stopped before.
        seconds: for all calls together; None: no limit.
        spent: how many of them are gone.
        quiet: nothing that the code says in its own words is kept: it could be read out of files
            of ours that lie beside it.
    """

    def __init__(
        self,
        spec: Spec,
        function: Any,
        seed: int,
        exact: bool,
        folder: str,
        stops: int = 0,
        seconds: float | None = None,
        spent: float = 0.0,
        quiet: bool = False,
    ) -> None:
        super().__init__(spec, function, seed)
        self.seconds, self.spent, self.quiet = seconds, spent, quiet
        self.folder = folder
        self.exact, self.stops, self.closed = exact, stops, False
        self.only: set[str] | None = None  # probes to which precision is confined

    def _ask(
        self, probe: Probe, key: tuple[Any, ...], ask: Callable[[], tuple[Reply, ...]]
    ) -> tuple[Reply, ...]:
        if key not in self.kept:
            if self.seconds is not None and self.spent > self.seconds:
                return (Reply(problem=Problem("hung", TOO_SLOW.format(self.seconds))),) * 2
            if self.closed or self.stops >= MOST_STOPS:
                return (Reply(problem=NOT_ASKED),) * 2

        def timed() -> tuple[Reply, ...]:
            start, first = time.monotonic(), not self.kept and not self.spent
            replies = ask()
            self.spent += 0.0 if first else time.monotonic() - start
            replies = tuple(without_folder(reply, self.folder) for reply in replies)
            return tuple(map(without_words, replies)) if self.quiet else replies

        return super()._ask(probe, key, timed)

    def smooth(self) -> list[Probe]:
        """Return the probes whose gradients are asked for; later, those that had an answer."""
        probes = super().smooth()
        if self.closed:
            return [probe for probe in probes if self.backward(probe).problem is None] or probes
        return probes

    def precise(self, name: str) -> list[tuple[str, Probe]]:
        """Return the dtypes and probes of a question about precision."""
        found = super().precise(name) if self.exact else []
        return [(d, p) for d, p in found if self.only is None or p.name in self.only]

    def ask_all(self, gradients: bool, by_hand: bool = True) -> None:
        """Ask everything; a gradient that fails on one input is asked on the others too."""
        answered = self.answered()
        ended = any(
            not p.hard and r.problem and r.problem.kind != "raised" for p, r in self.values()
        )
        if not ended and answered:
            self.forward(answered[0], time=2)
            self.forward(answered[0], dtype="float32")
            smooth = self.smooth() if gradients else []
            good = [probe for probe in smooth if self.backward(probe).problem is None]
            if good:
                self.twice(good[0], good[-1])
                arguments = self.make(good[0])
                for name in self.spec.gradients:
                    for step in self.steps(arguments[name]) if name in arguments else ():
                        for sign in (1, -1):
                            self.moved(good[0], name, sign * step)
            for name in ("float32", "half precision"):
                for dtype, probe in self.precise(name):
                    self.forward(probe, dtype)
        self.closed = True


def ask_seeds(
    spec: Spec,
    function: Any,
    public_seed: int,
    hidden_seed: int | None,
    folder: str,
    *,
    seconds: float | None = None,
    quiet: bool = False,
) -> tuple[GradedQuestions, GradedQuestions | None]:
    """Ask all questions of the public seed, then those of the hidden one, if there is one.

    The second ones are about other inputs, and no mistakes are named from their answers. They go on
    with the stops and the time of the first.

    Args:
        spec, function: see GradedQuestions.
        public_seed, hidden_seed: of the inputs.
        folder, seconds, quiet: see GradedQuestions.
    """
    gradients = spec.pull is not None
    public = GradedQuestions(
        spec, function, public_seed, True, folder, seconds=seconds, quiet=quiet
    )
    public.ask_all(gradients)
    if hidden_seed is None:
        return public, None
    plain = replace(other_spec(spec), forward=(), backward=())
    hidden = GradedQuestions(
        plain, function, hidden_seed, False, folder, public.stops, seconds, public.spent, quiet
    )
    hidden.ask_all(gradients)
    return public, hidden


def without_words(reply: Reply) -> Reply:
    """Return a reply with nothing that its author could have written.

    >>> problem = Problem("raised", "f raised KeyError: secret", "a.py, line 2: g(secret)")
    >>> without_words(Reply(problem=problem, printed="secret")).problem[1:]
    ('f raised KeyError', 'a.py, line 2')
    """
    problem = reply.problem
    if problem is not None:
        says, where = problem.says.partition(": ")[0], problem.where.partition(": ")[0]
        problem = problem._replace(says=says, where=where)
    return replace(reply, problem=problem, printed="", notes=())


def without_folder(reply: Reply, folder: str) -> Reply:
    """Return a reply that names neither the temporary folder nor ours, and no line by chance.

    A loop is stopped on another line each time.

    >>> problem = Problem("raised", "no", "/tmp/grade-x/files/rope.py, line 2")
    >>> without_folder(Reply(problem=problem), "/tmp/grade-x").problem.where
    'rope.py, line 2'
    """
    name = Path(folder).name

    def short(text: str) -> str:
        first, *others = text.split(name)
        parts = [first]
        for part in others:  # the path begins after a space, a quote or a bracket
            before = parts[-1]
            parts[-1] = before[: 1 + max(before.rfind(mark) for mark in PATH_BEGINS)]
            parts.append(part.removeprefix(os.sep).removeprefix(f"files{os.sep}"))
        return "".join(parts).replace(OURS, "")

    problem = reply.problem
    if problem is not None and problem.kind == "hung":
        problem = problem._replace(where=problem.where.partition(", line ")[0])
    if problem is not None and problem.where.startswith(OURS):
        problem = problem._replace(where="")  # our own line says nothing
    return replace(
        reply,
        problem=None if problem is None else Problem(*map(short, problem)),
        printed=short(reply.printed),
        notes=tuple(map(short, reply.notes)),
    )
