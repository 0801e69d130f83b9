"""The checker's questions, as they are asked when it is for points.

Everything is asked, also after a failure: a gradient that fails on one input is asked on the
others too, since points are given for each. Only what hangs or dies twice is left alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..check.outside.messages import Problem, Reply
from ..check.questions import Questions
from ..check.spec import Probe, Spec

PATH_BEGINS = " \t\n'\"("
MOST_STOPS = 2  # a function that hangs or dies so often is not called any more
NOT_ASKED = Problem("hung", "it was stopped too often, so it was not called any more")


class GradedQuestions(Questions):
    """The questions of the checker, asked of a student in full.

    Args:
        spec, function, seed: as there.
        exact: also ask in float32 and half precision.
        folder: where the files are; it has another name each time, so replies do not hold it.
        stops: how often the function was stopped before.
    """

    def __init__(
        self, spec: Spec, function: Any, seed: int, exact: bool, folder: str, stops: int = 0
    ) -> None:
        super().__init__(spec, function, seed)
        self.folder = folder
        self.exact, self.stops, self.closed = exact, stops, False
        self.only: set[str] | None = None  # probes to which precision is confined

    def _ask(
        self, probe: Probe, key: tuple[Any, ...], ask: Callable[[], tuple[Reply, ...]]
    ) -> tuple[Reply, ...]:
        if key not in self.kept and (self.closed or self.stops >= MOST_STOPS):
            return (Reply(problem=NOT_ASKED),) * 2
        return super()._ask(
            probe, key, lambda: tuple(without_folder(reply, self.folder) for reply in ask())
        )

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


def without_folder(reply: Reply, folder: str) -> Reply:
    """Return a reply that does not name the temporary folder.

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
        return "".join(parts)

    problem = reply.problem
    return replace(
        reply,
        problem=None if problem is None else Problem(*map(short, problem)),
        printed=short(reply.printed),
        notes=tuple(map(short, reply.notes)),
    )
