"""Asking results.json: perplexities, and differences with their standard errors."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

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
        return f"{self.percent} (± {100 * self.error * math.exp(-self.nats):.1f})"

    @property
    def percent(self) -> str:
        """The same without the error."""
        return f"{round(100 * math.expm1(-self.nats), 1) + 0.0:+.1f} %"  # never "-0.0"


class Numbers:
    """The cells, asked for by technique and multiple of the trained length."""

    def __init__(self, results: Results, train_length: int) -> None:
        """Remember where the numbers are."""
        self.results, self.train_length = results, train_length

    @property
    def single_layers(self) -> list[str]:
        """The rows in which a single layer sees more than L0, the lowest layer first."""
        names = [name for name in self.results.cells if name.startswith("layer_")]
        return sorted(names, key=lambda name: int(name.removeprefix("layer_")))

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

    def growth(self, better: str, worse: str, early: int, late: int) -> Gain:
        """Return how much larger the gain is at `late` than at `early`, text by text."""
        by_text = [
            np.array(self.cell(worse, k)["by_text"]) - np.array(self.cell(better, k)["by_text"])
            for k in (late, early)
        ]
        return Gain(*difference({"by_text": by_text[0]}, {"by_text": by_text[1]}))
