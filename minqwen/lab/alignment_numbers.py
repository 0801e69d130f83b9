"""Asking the results of the study of alignment: means and spread over seeds, and differences.

A seed is one draw of everything from fine-tuning on. Of a number x the page shows

    mean over the seeds ± standard deviation over the seeds

and two policies are compared seed by seed. Their difference is sure when it has the same sign with
every seed and its mean is above twice its standard error, deviation / sqrt(seeds). With few seeds
that is a weak test: two equal policies pass it by chance now and then, and many pairs are compared.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..backend import Array
from .results import Results


class Difference(NamedTuple):
    """Of two policies, over the seeds."""

    mean: float
    error: float  # standard error of the mean
    same_sign: bool  # with every seed

    @property
    def sure(self) -> int:
        """1: above for sure; -1: below for sure; 0: neither.

        >>> Difference(0.5, 0.1, True).sure, Difference(0.5, 0.1, False).sure
        (1, 0)
        """
        if not self.same_sign or abs(self.mean) <= 2 * self.error:
            return 0
        return 1 if self.mean > 0 else -1

    def text(self, digits: int = 2) -> str:
        """Say it.

        >>> Difference(0.5, 0.125, True).text()
        '+0.50 (± 0.12)'
        """
        return f"{self.mean:+.{digits}f} (± {self.error:.{digits}f})"


class AlignmentNumbers:
    """The cells and curves, asked for by name."""

    def __init__(self, results: Results) -> None:
        """Remember where the numbers are."""
        self.results, self.facts = results, results.facts
        self.seeds: list[int] = list(self.facts["seeds"])

    def cell(self, name: str, seed: int) -> dict[str, Any]:
        """Return a cell, which must have been measured."""
        cell = self.results.get(name, seed)
        if cell is None:
            raise KeyError(f"{name} was not measured with seed {seed}")
        return cell

    def values(self, name: str, key: str) -> Array:
        """Return (seeds,) numbers."""
        return np.array([self.cell(name, seed)[key] for seed in self.seeds], np.float64)

    def mean(self, name: str, key: str) -> float:
        """Return the mean over the seeds."""
        return float(self.values(name, key).mean())

    def spread(self, name: str, key: str) -> float:
        """Return the standard deviation over the seeds."""
        return float(self.values(name, key).std(ddof=1))

    def text(self, name: str, key: str, digits: int = 2) -> str:
        """Return mean ± deviation."""
        return f"{self.mean(name, key):.{digits}f} ± {self.spread(name, key):.{digits}f}"

    def percent(self, name: str, key: str) -> str:
        """Return mean ± deviation of a share."""
        return f"{100 * self.mean(name, key):.1f} ± {100 * self.spread(name, key):.1f} %"

    def difference(self, one: str, other: str, key: str) -> Difference:
        """Return one minus other, seed by seed."""
        return difference(self.values(one, key) - self.values(other, key))

    def tax(self, name: str) -> Difference:
        """Return by how much the loss on text of pretraining is above that of SFT."""
        return self.difference(name, "sft", "loss")

    def curve(self, name: str, key: str, seed: int) -> Array:
        """Return (n, 2): steps and values of a run of PPO."""
        return np.array(self.facts["curves"][name][str(seed)][key], np.float64).reshape(-1, 2)

    def looks(self, name: str, key: str) -> tuple[Array, Array]:
        """Return steps, (n,), and the values of every seed, (seeds, n)."""
        curves = [self.curve(name, key, seed) for seed in self.seeds]
        return curves[0][:, 0], np.stack([curve[:, 1] for curve in curves])

    def early(self, name: str, key: str) -> Array:
        """Return (seeds,) means of a curve over the looks of the first half of the updates."""
        steps, values = self.looks(name, key)
        half = (steps > 0) & (steps <= steps[-1] / 2)
        mean: Array = values[:, half].mean(axis=1)
        return mean


def difference(gaps: Array) -> Difference:
    """Return mean, standard error and whether all gaps have one sign.

    >>> difference(np.array([1.0, 2.0, 3.0])).text()
    '+2.00 (± 0.58)'
    """
    error = gaps.std(ddof=1) / len(gaps) ** 0.5
    same = bool((gaps > 0).all() or (gaps < 0).all())
    return Difference(float(gaps.mean()), float(error), same)
