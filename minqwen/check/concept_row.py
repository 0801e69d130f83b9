"""One row of the table of concepts: a pair of functions, how to try it and where to find it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Inputs = tuple[Any, ...]


@dataclass(frozen=True)
class Concept:
    """One row: a pair of functions and what is needed to try and to find it."""

    name: str
    module: str  # the file, as a module
    forward: Callable[..., Any]
    backward: Callable[..., Any]
    cases: dict[str, Callable[[np.random.Generator], Inputs]]  # small inputs, by a short name
    arguments: tuple[str, ...]  # names of the float array inputs, in order
    report: str  # section and title
    equation: str
    pair: str = ""  # first part of the names of the two functions, where it is not `name`

    @property
    def functions(self) -> tuple[str, str]:
        """The names of forward and backward."""
        return f"{self.pair or self.name}_forward", f"{self.pair or self.name}_backward"


def normal(*shapes: tuple[int, ...]) -> Callable[[np.random.Generator], Inputs]:
    """Return a maker of one normal array per shape, of unit variance."""
    return lambda rng: tuple(rng.standard_normal(shape) for shape in shapes)
