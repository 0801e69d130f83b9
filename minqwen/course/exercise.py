"""One exercise: which functions the student writes, and the words around them.

An exercise adds words and points to what minqwen.check already knows about a concept. Its code is
cut from the files of the concepts (cut.py), and its grading follows the spec of each part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ..check.specs import spec


class Part(NamedTuple):
    """Functions that are graded together."""

    spec: str  # name in minqwen.check.specs: "rmsnorm"
    functions: tuple[str, ...]  # of the spec's file, whose bodies the student writes, in file order
    weight: int = 1  # share of the exercise's points


@dataclass(frozen=True)
class Exercise:
    """One step of the ladder."""

    name: str  # what `minqwen assign` takes: "rmsnorm"
    title: str
    title_zh: str
    parts: tuple[Part, ...]
    points: int
    minutes: int
    needs: tuple[str, ...]  # names of exercises that come before
    report: str  # "Qwen 2.3.1 Architecture"
    task: str  # two or three sentences: what to write, what it is for
    task_zh: str
    hints: tuple[str, str, str]  # from a nudge to nearly the line; none gives the line
    hints_zh: tuple[str, str, str]

    @property
    def modules(self) -> tuple[str, ...]:
        """The files of our functions, each once, in the order of the parts."""
        return tuple(dict.fromkeys(spec(part.spec).module for part in self.parts))

    @property
    def files(self) -> tuple[str, ...]:
        """The names of the files in handout and submission: "rmsnorm.py"."""
        return tuple(map(file_of_module, self.modules))

    def functions_in(self, module: str) -> tuple[str, ...]:
        """Return the functions that are to be written in one file of ours."""
        return tuple(
            name
            for part in self.parts
            if spec(part.spec).module == module
            for name in part.functions
        )


def file_of_module(module: str) -> str:
    """Return how a file of ours is called in handout and submission.

    >>> file_of_module("minqwen.layers.rope")
    'rope.py'
    """
    return f"{module.rpartition('.')[2]}.py"
