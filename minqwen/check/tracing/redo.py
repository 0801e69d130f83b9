"""Our steps done again on somebody's tensors, as they are or with a mistake made on the way.

The tensors that they have are taken as they are; what lies between them is computed by our steps
(trace_steps.py). A Change makes one known mistake (step_variants.py) in those steps.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from ...backend import Array
from .step import Step
from .step_variants import Variant

LAYER = re.compile(r"layers\.(\d+)\.?")


class Change(NamedTuple):
    """A mistake, and where it is made."""

    variant: Variant
    place: str | None = None  # at this place of every layer; None: wherever it can be made

    def at(self, step: Step) -> bool:
        """Say whether a step is changed."""
        return self.variant.applies(step) and self.place in (None, place_of(step.name))


class Redo:
    """Our steps, on their tensors."""

    def __init__(self, steps: dict[str, list[Step]], have: dict[str, Array]) -> None:
        self.steps, self.have = steps, have
        self.known: dict[str, Array | None] = {}  # without a change

    def value(self, name: str, change: Change | None = None) -> Array | None:
        """Return their tensor, or what our steps make of those that they have."""
        return self.have[name] if name in self.have else self.predict(name, change)

    def predict(
        self, name: str, change: Change | None = None, known: dict[str, Array | None] | None = None
    ) -> Array | None:
        """Return what our step gives from their inputs; None where inputs or weights lack."""
        known = self.known if change is None else {} if known is None else known
        if name not in known:
            known[name] = None  # a name that needs itself has no value
            step = self.step(name)
            if step is not None:
                inputs = [
                    self.have[one] if one in self.have else self.predict(one, change, known)
                    for one in step.inputs
                ]
                if all(x is not None for x in inputs):
                    with np.errstate(all="ignore"):
                        if change is not None and change.at(step):
                            known[name] = change.variant.run(step, *inputs)
                        else:
                            known[name] = step.run(*inputs)
        return known[name]

    def step(self, name: str) -> Step | None:
        """Return the step for a name: the one of which they have most inputs."""
        ways = self.steps.get(name, [])
        return next(
            (s for s in ways if all(i in self.have for i in s.inputs)), ways[-1] if ways else None
        )

    def chain(self, name: str) -> list[Step]:
        """Return the steps from their tensors to this one, the last first."""
        step = self.step(name)
        if step is None:
            return []
        found = [step]
        for one in step.inputs:
            if one not in self.have:
                found += [s for s in self.chain(one) if s not in found]
        return found

    def inputs(self, name: str) -> tuple[str, ...]:
        """Return the names of their tensors from which this one is made."""
        names = [i for step in self.chain(name) for i in step.inputs if i in self.have]
        return tuple(dict.fromkeys(names))


def place_of(name: str) -> str:
    """Return a name without its layer.

    >>> place_of("model.layers.3.mlp"), place_of("model.layers.3"), place_of("model.norm")
    ('layer.mlp', 'layer.', 'model.norm')
    """
    found = LAYER.search(name)
    return f"layer.{name[found.end() :]}" if found else name
