"""Asking the results of the study of experts: differences, and how sure they are.

Two things make a difference of losses uncertain, and a difference counts only above both:

    the rows     twice the standard error of the mean difference over the validation rows
    the run      the largest difference, at any look in the second half, of two dense runs
                 that differ in nothing but their first numbers

The second is one pair of runs. It may be small by luck, and it says nothing about other orders of
the text; but a difference below it could be nothing at all.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import Array
from .moe_settings import BY_NAME
from .moe_text import SOURCES
from .numbers import Gain
from .results import Results

DENSE, AGAIN, SCRATCH, UNBALANCED, UPCYCLED, COPIES, RAW = BY_NAME


class MoeNumbers:
    """The cells and curves, asked for by run."""

    def __init__(self, results: Results) -> None:
        """Remember where the numbers are."""
        self.results, self.facts = results, results.facts
        self.sources = np.array(self.facts["text"]["sources"])
        self.num_experts = int(self.facts["settings"]["num_experts"])

    def cell(self, run: str, moment: str = "end") -> dict[str, Any]:
        """Return a cell, which must have been measured."""
        cell = self.results.get(run, moment)
        if cell is None:
            raise KeyError(f"{run} was not measured at its {moment}")
        return cell

    def loss(self, run: str, source: int | None = None, moment: str = "end") -> float:
        """Return the mean loss on the validation rows, or on those of a source."""
        losses = np.array(self.cell(run, moment)["by_row"])
        return float((losses if source is None else losses[self.sources == source]).mean())

    def gain(self, better: str, worse: str, source: int | None = None) -> Gain:
        """Return by how many nats `better` is below `worse`, row by row, and the rows' error."""
        gaps = np.array(self.cell(worse)["by_row"]) - np.array(self.cell(better)["by_row"])
        gaps = gaps if source is None else gaps[self.sources == source]
        return Gain(float(gaps.mean()), float(gaps.std(ddof=1) / len(gaps) ** 0.5))

    @property
    def noise(self) -> float:
        """The largest difference of the two dense runs in the second half, in nats."""
        gaps = [
            abs(one - other)
            for (step, one), (_, other) in zip(self.curve(DENSE), self.curve(AGAIN), strict=True)
            if step > 0.5 * self.facts["settings"]["steps"]
        ]
        return max(gaps)

    def sure(self, gain: Gain) -> int:
        """1: lower for sure; -1: higher for sure; 0: the rows or the run could have made it."""
        return gain.sure if abs(gain.nats) > self.noise else 0

    def curve(self, run: str, what: str = "validation") -> list[list[float]]:
        """Return [step, value] of a run: validation, training, balance or max_load."""
        curve: list[list[float]] = self.facts["runs"][run][what]
        return curve

    def at(self, run: str, step: int) -> float:
        """Return the validation loss at a look."""
        return next(loss for x, loss in self.curve(run) if x == step)

    def load(self, run: str) -> tuple[Array, Array]:
        """Return the steps, (looks,), and the shares of the experts then, (looks, L, E)."""
        looks = self.facts["runs"][run]["load"]
        return np.array([step for step, _ in looks]), np.array([load for _, load in looks])

    def uneven(self, run: str) -> tuple[float, int, float]:
        """Return, at the end, how the experts are used.

        Returns:
            busiest: the largest share in any layer, over an even share.
            idle: experts with less than a tenth of an even share, of all layers.
            effective: exp of the mean entropy of the layers' shares: so many experts, evenly used,
                would be as uneven.
        """
        shares = self.load(run)[1][-1]
        relative = shares * self.num_experts
        logs = np.log(np.where(shares > 0, shares, 1.0))
        entropy = -(shares * logs).sum(axis=1)
        return float(relative.max()), int((relative < 0.1).sum()), float(np.exp(entropy.mean()))

    def routing(self, run: str, moment: str = "end") -> dict[str, Any]:
        """Return who reads what in a run with experts."""
        routing: dict[str, Any] = self.cell(run, moment)["routing"]
        return routing

    def told(self, run: str, what: str = "source", moment: str = "end") -> float:
        """Return the mean over the layers of the share of the source or kind that is told."""
        return float(np.mean(self.routing(run, moment)[f"told_{what}"]))

    def by_token(self, run: str, moment: str = "end") -> float:
        """Return how much of what is told about the source the tokens alone explain, all layers."""
        routing = self.routing(run, moment)
        told, share = np.array(routing["told_source"]), np.array(routing["by_token"])
        return float((told * share).sum() / told.sum()) if told.sum() else 0.0

    def lift(self, run: str, what: str, moment: str = "end") -> Array:
        """Return (L, E, classes): the share of a class among an expert's tokens, over that of all.

        An expert without tokens has 1 everywhere.
        """
        counts = np.array(self.routing(run, moment)[f"by_{what}"], float)
        own = counts / np.maximum(counts.sum(axis=2, keepdims=True), 1)
        all_ = counts.sum(axis=1, keepdims=True) / counts.sum(axis=(1, 2), keepdims=True)
        lift: Array = np.where(
            counts.sum(axis=2, keepdims=True) > 0, own / np.maximum(all_, 1e-12), 1
        )
        return lift

    def _below(self, run: str, other: str) -> list[tuple[int, bool]]:
        """Return, for each look of both, whether `run` is below `other` then."""
        theirs = {step: loss for step, loss in self.curve(other)}
        return [(int(x), y < theirs[x]) for x, y in self.curve(run) if x in theirs]

    def caught_up(self, run: str, other: str) -> int | None:
        """Return the first look at which `run` is below `other`, None if it never is."""
        return next((step for step, below in self._below(run, other) if below), None)

    def overtaken(self, run: str, other: str) -> int | None:
        """Return the look from which on `other` is below `run` to the end, None if it is not."""
        since = None
        for step, below in self._below(other, run):
            since = None if not below else step if since is None else since
        return since

    def most_special(self, run: str, most: int) -> list[dict[str, Any]]:
        """Return the experts whose tokens are the most unlike those of all, share by share."""
        experts = self.routing(run)["experts"]
        return sorted(experts, key=lambda x: -x["bits"] * min(x["share"], 1 / self.num_experts))[
            :most
        ]


def source_names() -> list[str]:
    """Return the sources as people call them."""
    return list(SOURCES.values())
