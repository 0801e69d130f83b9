"""What points are given for: five aspects of a function, their shares, and how much each earned.

    shape         10    every output has the right shape; all or nothing
    values        35    right on ordinary inputs: half on those that students can try themselves,
                        half ("more values") on other numbers
    hard inputs   15    right on large, tiny, zero, single, masked ones
    gradient      25    every gradient, on every input
    stability     15    dtype kept, float32, half precision, arguments left alone, same answer twice

Within an aspect points are proportional to the inputs, or questions, that are right. That the
function runs at all is no aspect but a gate: what does not run earns nothing. Where a concept has
no gradient, or no hard inputs, the points of that aspect go to the others in proportion. A gradient
that fits the student's own wrong forward earns half: the mistake is in the forward. Stability earns
nothing unless some ordinary input is right: zeros are stable too.

Shape, values and stability are told at once; the rest after the deadline ("graded later").
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from ..check.facets import Facet
from ..check.spec import Spec

ASPECTS = {"shape": 10, "values": 35, "hard inputs": 15, "gradient": 25, "stability": 15}
ROWS = ("shape", "values", "more values", "hard inputs", "gradient", "stability")
VISIBLE = ("shape", "values", "stability")
STABILITY = ("dtype", "float32", "half precision", "purity", "determinism")
NO_VALUES = "not asked: the values are wrong"


def aspects_of(spec: Spec) -> dict[str, Fraction]:
    """Return the share of each row of a concept; they sum to 1.

    >>> from ..check.specs import spec
    >>> float(aspects_of(spec("rmsnorm"))["gradient"]), "gradient" in aspects_of(spec("gae"))
    (0.25, False)
    """
    missing = {
        "gradient": spec.pull is None,
        "hard inputs": not any(p.hard and not p.ties for p in spec.probes),
    }
    weights = {name: w for name, w in ASPECTS.items() if not missing.get(name)}
    shares = {name: Fraction(w, sum(weights.values())) for name, w in weights.items()}
    shares["values"] /= 2
    shares["more values"] = shares["values"]
    return {name: shares[name] for name in ROWS if name in shares}


def split_points(points: Fraction | int, shares: dict[str, Fraction]) -> dict[str, Fraction]:
    """Share points out in hundredths: they sum to exactly what there is, rounded to a hundredth.

    >>> [str(x) for x in split_points(1, {"a": Fraction(1, 3), "b": Fraction(2, 3)}).values()]
    ['33/100', '67/100']
    """
    total = round(Fraction(points) * 100)
    whole = sum(shares.values(), Fraction(0))
    exact = {name: total * share / whole for name, share in shares.items()}
    cents = {name: int(x) for name, x in exact.items()}
    order = sorted(shares, key=lambda name: -(exact[name] - cents[name]))  # stable
    for name in order[: total - sum(cents.values())]:
        cents[name] += 1
    return {name: Fraction(n, 100) for name, n in cents.items()}


def earned(most: Fraction, share: Fraction) -> Fraction:
    """Return the points for a share of what there is, in hundredths, rounded down.

    >>> float(earned(Fraction(5), Fraction(2, 3))), float(earned(Fraction(5), Fraction(1)))
    (3.33, 5.0)
    """
    return Fraction(int(most * share * 100), 100)


def share_of(aspect: str, spec: Spec, facets: Sequence[Facet]) -> Fraction:
    """Return how much of an aspect is right.

    Args:
        aspect: one of ROWS.
        spec: of the concept.
        facets: what the checker found; "more values", "hard inputs" and "gradient" are read from
            those of the hidden seed.
    """
    by_name = {facet.name: facet for facet in facets}
    if aspect == "shape":
        found = by_name.get("shape")
        return Fraction(bool(found is not None and found.ok and ordinary_runs(by_name)))
    if aspect in ("values", "more values"):
        return of_inputs(by_name.get("values"), [p for p in spec.probes if not p.hard])
    if aspect == "hard inputs":
        hard = [p for p in spec.probes if p.hard and not p.ties]
        return of_inputs(by_name.get("hard inputs"), hard)
    if aspect == "gradient":
        return gradient_share(spec, facets)
    return stability_share(by_name)


def ordinary_runs(by_name: dict[str, Facet]) -> bool:
    """Say whether no ordinary input failed: only then values were compared on all of them."""
    runs = by_name.get("runs")
    return runs is not None and (bool(runs.ok) or runs.says.startswith("it runs on ordinary"))


def of_inputs(facet: Facet | None, inputs: Sequence[object]) -> Fraction:
    """Return how many of the inputs are right; those that gave no answer are not."""
    if facet is None or not inputs:
        return Fraction(0)
    return Fraction(min(facet.right, len(inputs)), len(inputs))


def gradient_share(spec: Spec, facets: Sequence[Facet]) -> Fraction:
    """Return how much of the gradients is right, over all of them and all inputs."""
    mine = [facet for facet in facets if facet.name.startswith("gradient of ")]
    if mine:
        smooth = sum(probe.gradient for probe in spec.probes)
        asked = [max(f.asked, 1) for f in mine]
        # inputs on which a gradient is not defined are not counted for that one alone
        missed = smooth - max(asked)
        right = sum(
            (Fraction(f.right, n + missed) for f, n in zip(mine, asked, strict=True)), Fraction(0)
        )
        return right / len(mine)
    whole = next((facet for facet in facets if facet.name == "gradients"), None)
    return Fraction(1, 2) if whole is not None and whole.ok is None else Fraction(0)


def stability_share(by_name: dict[str, Facet]) -> Fraction:
    """Return how many of the questions about stability have a good answer."""
    values = by_name.get("values")
    if values is None or not values.right:
        return Fraction(0)
    asked = [
        facet
        for name in STABILITY
        if (facet := by_name.get(name)) is not None
        and (facet.ok is not None or facet.says == NO_VALUES)
    ]
    return Fraction(sum(facet.ok is True for facet in asked), max(len(asked), 1))


def all_zero(gradients: Sequence[object]) -> bool:
    """Say whether gradients are zeros only: those of a constant, which are no achievement."""
    return not any(np.any(np.asarray(g)) for g in gradients if g is not None)
