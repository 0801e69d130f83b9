"""Which known mistake gives exactly their numbers: one, else two at once, else none.

Only a step whose inputs agree is asked about. Where their file has few tensors, that is several of
our steps in a row; a mistake is then tried wherever it can be made, and at each place alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence

import numpy as np

from ...backend import Array
from .closeness import Closeness
from .diff_facts import Fit
from .redo import Change, Redo, place_of
from .step_variants import pairs, variants

SECONDS = 60.0  # for mistakes to be tried at one tensor
SECONDS_FOR_PAIRS = 20.0


class Naming:
    """The search for names in one comparison; what was found is tried first in other layers."""

    def __init__(self, redo: Redo, close: Closeness, theirs: dict[str, Array]) -> None:
        self.redo, self.close, self.theirs = redo, close, theirs
        self.found: dict[str, tuple[Change, ...]] = {}  # by the place in a layer
        self.notes: list[str] = []

    def fits(self, name: str, allowed: float, two: bool = False) -> tuple[Fit, ...]:
        """Return the known mistakes that give their numbers, best first.

        A mistake that was found at the same place of another layer is tried first, and alone if it
        fits; two that were found together are tried at every step of their kind.

        Args:
            name: of our tensor.
            allowed: units off that are no difference.
            two: try two mistakes at once, where one is not enough.
        """
        place = place_of(name)
        good = self.good(name, allowed, self.tried(name, iter(self.found_before(name))))
        if not good:
            tried = list(self.tried(name, self.changes(name)))
            good = self.good(name, allowed, iter(tried))
            if not good and two:
                good = self.two_at_once(name, allowed, tried)
        if good:
            self.found.setdefault(place, tuple(change for change, _ in good))
        return distinct(
            [
                Fit(v.names, v.says, v.kind, v.hint, units, self.changed_steps(name, change))
                for change, units in good
                for v in (change.variant,)
            ]
        )

    def found_before(self, name: str) -> tuple[Change, ...]:
        """Return what was found at the same place of another layer, and pairs for such steps."""
        step = self.redo.step(name)
        two = (c for found in self.found.values() for c in found if len(c.variant.names) > 1)
        return self.found.get(place_of(name)) or tuple(c for c in two if step and c.at(step))

    def good(
        self, name: str, allowed: float, tried: Iterator[tuple[Change, float]]
    ) -> list[tuple[Change, float]]:
        """Return the changes that give their numbers, and how nearly."""
        return [(change, units) for change, units in tried if units <= allowed]

    def changes(self, name: str) -> Iterator[Change]:
        """Yield the mistakes that can be made in the steps from their tensors to this one."""
        chain = self.redo.chain(name)
        done = set()
        for step in chain:
            inputs = tuple(self.redo.value(one) for one in step.inputs)
            if any(x is None for x in inputs):
                continue
            aim = self.theirs[name] if step.name == name else None
            for variant in variants(step, inputs, aim):  # type: ignore[arg-type]
                for place in (None, place_of(step.name)) if len(chain) > 1 else (None,):
                    if (variant.names, place) not in done:
                        done.add((variant.names, place))
                        yield Change(variant, place)

    def two_at_once(
        self, name: str, allowed: float, singles: Sequence[tuple[Change, float]]
    ) -> list[tuple[Change, float]]:
        """Return the pairs of mistakes within one step that give their numbers.

        A pair that gives the numbers of a single mistake is none, and so is one that gives the
        same number everywhere, or ids, which may agree by chance.
        """
        (step, *before), theirs = self.redo.chain(name), self.theirs[name]
        inputs = tuple(self.redo.value(one) for one in step.inputs)
        if before or theirs.dtype.kind in "iub" or not np.ptp(theirs) > 0:
            return []
        near = [change for change, units in singles if units <= 4 * allowed]
        both = (Change(v) for v in pairs(step, inputs))  # type: ignore[arg-type]
        good = self.good(name, allowed, self.tried(name, both, SECONDS_FOR_PAIRS, "pair of"))
        return [
            (change, units)
            for change, units in good
            if not any(self.same(name, change, single, allowed) for single in near)
        ]

    def same(self, name: str, one: Change, other: Change, allowed: float) -> bool:
        """Say whether two changes give the same numbers here."""
        a, b = (self.redo.predict(name, change) for change in (one, other))
        if a is None or b is None:
            return False
        return self.close.units(self.close.off(name, a, b)) <= allowed

    def tried(
        self, name: str, changes: Iterator[Change], seconds: float = SECONDS, what: str = ""
    ) -> Iterator[tuple[Change, float]]:
        """Yield each change and how far its numbers are from theirs, as long as there is time."""
        until = time.monotonic() + seconds
        for change in changes:
            yield change, self.change_units(name, change)
            if time.monotonic() > until:
                every = f"every {what} known mistakes" if what else "every known mistake"
                self.notes.append(f"not {every} was tried at {name}: it takes too long")
                return

    def change_units(self, name: str, change: Change) -> float:
        """Return how far a mistake's numbers are from theirs."""
        try:
            ours = self.redo.predict(name, change)
        except Exception:  # a changed line may break on these inputs: then it is not this mistake
            return math.inf
        return self.close.units(self.close.off(name, self.theirs[name], ours))

    def changed_steps(self, name: str, change: Change) -> tuple[str, ...]:
        """Return the places at which a change acts, in the order of the computation."""
        steps = [s for s in reversed(self.redo.chain(name)) if change.at(s)]
        places = [s.name.rpartition(".")[2] for s in steps if s.name != name]
        return tuple(dict.fromkeys(places))


def distinct(fits: Sequence[Fit]) -> tuple[Fit, ...]:
    """Leave out what is the same mistake of another spec, best first."""
    seen: dict[frozenset[str], Fit] = {}
    for fit in sorted(fits, key=lambda fit: fit.units):
        seen.setdefault(frozenset(name.rpartition(".")[2] for name in fit.names), fit)
    return tuple(seen.values())
