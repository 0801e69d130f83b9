"""What a stranger's function is asked: its arguments, the inputs to try, the known mistakes.

A row of the table of concepts (concept_row.py) proves our own functions. A Spec is the other side:
it says how anybody's function of the same concept is called, with plain arrays and numbers by name,
and on which inputs it is tried. Our answer comes from the file of the concept, and what a known
mistake would answer from the same file with one line changed (edited.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from ..backend import Array

Arguments = dict[str, Any]  # by name; arrays are on the host, float64 or integer or boolean

KINDS = ("error", "convention", "numeric")


class Probe(NamedTuple):
    """One set of inputs."""

    name: str  # "tiny inputs"
    make: Callable[[np.random.Generator], Arguments]
    shows: str  # what these inputs are for, one plain sentence
    hard: bool = True  # not ordinary: a function may be right elsewhere and wrong here
    gradient: bool = True  # smooth here: gradients are compared too
    ties: bool = False  # about equals: a question of its own, in which nothing is wrong


class Mistake(NamedTuple):
    """A known mistake, as a change of one line of our own file."""

    name: str  # "eps_outside", unique within its concept and side
    find: str  # text that stands exactly once in the file
    put: str  # what people write instead
    says: str  # what is wrong, one plain sentence, true of any code with this mistake
    hint: str  # where to look or what to try, without giving the line away
    kind: str = "error"  # "convention": right elsewhere, not in Qwen; "numeric": right on paper
    module: str = ""  # file of the line, where it is not the concept's own
    same_as: str = ""  # another mistake of this side that computes the same function


@dataclass(frozen=True)
class Spec:
    """How the functions of one concept are called and tried."""

    name: str  # of the concept
    module: str  # the file with our functions, as a module
    arguments: tuple[str, ...]  # of a stranger's forward, in this order
    axes: dict[str, str]  # letters of the axes of each array argument and of each output
    run: Callable[[ModuleType, Arguments], tuple[Array, ...]]  # outputs by (a copy of) our file
    probes: tuple[Probe, ...]
    forward: tuple[Mistake, ...]
    outputs: tuple[str, ...] = ("y",)
    # gradients by (a copy of) our file: the module, arguments, and a gradient for each output
    pull: Callable[[ModuleType, Arguments, tuple[Array, ...]], dict[str, Array]] | None = None
    backward: tuple[Mistake, ...] = ()
    exact: tuple[str, ...] = ()  # outputs that are whole numbers, compared as they are
    depth: int = 1  # 1 for one operation, 4 for a block of many: factor on the limits
    notes: str = ""  # what a stranger has to know about an argument, in one or two sentences
    defaults: Arguments = field(default_factory=dict)  # arguments that may be left out, and ours
    ties: str = ""  # which of several equals ours takes, where there are probes about ties

    @property
    def gradients(self) -> tuple[str, ...]:
        """The arguments that have a gradient: float arrays, in order."""
        arguments = self.probes[0].make(np.random.default_rng(0))
        return tuple(
            name
            for name in self.arguments
            if isinstance(arguments.get(name), np.ndarray) and arguments[name].dtype.kind == "f"
        )
