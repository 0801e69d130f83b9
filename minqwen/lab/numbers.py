"""Asking results.json: perplexities, and differences with their standard errors."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from .measure import difference
from .results import Results


class Gain(NamedTuple):
    """How much lower one row is than another at a length, in nats, and the standard error."""

    nats: float
    error: float

    @property
    def sure(self) -> int:
        """1: lower for sure; -1: higher for sure; 0: not decided."""
        return int(math.copysign(1, self.nats)) if abs(self.nats) > 2 * self.error else 0

    def __str__(self) -> str:
        """Return the change of perplexity in percent, minus = better."""
        percent, error = 100 * math.expm1(-self.nats), 100 * self.error * math.exp(-self.nats)
        return f"{percent:+.1f} % (± {error:.1f})"


class Numbers:
    """The cells, asked for by technique and multiple of the trained length."""

    def __init__(self, results: Results, train_length: int) -> None:
        """Remember where the numbers are."""
        self.results, self.train_length = results, train_length

    def cell(self, technique: str, multiple: int) -> dict[str, Any]:
        """Return a cell, which must have been measured."""
        cell = self.results.get(technique, multiple * self.train_length)
        if cell is None:
            raise KeyError(f"{technique} at {multiple} times the trained length was not measured")
        return cell

    def perplexity(self, technique: str, multiple: int) -> float:
        """Return the perplexity of a cell."""
        return float(self.cell(technique, multiple)["perplexity"])

    def gain(self, better: str, worse: str, multiple: int, than: int | None = None) -> Gain:
        """Return how much lower `better` is than `worse`, there or at another multiple."""
        mean, error = difference(self.cell(worse, than or multiple), self.cell(better, multiple))
        return Gain(mean, error)
