"""The questions that the checker asks of a stranger's function, each with a plain answer.

runs             it can be called and gives arrays
shape            every output has the right shape
dtype            float32 in, float32 out; float64 in, float64 out
values           right on ordinary inputs
hard inputs      right on large, tiny, zero, single, repeated, hidden ones
ties             of several equals the same one comes first; never a fault
gradient of ...  of every input and weight
purity           inputs are left as they are; two forwards may come before two backwards
determinism      the same inputs give the same bits
float32          as exact in float32 as rounding allows
half precision   no overflow, and as exact as rounding allows, in float16 and bfloat16
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .diagnose import Answers, Tried
from .difference import Difference, find_difference, shape_difference
from .limits import limit, terms_of
from .outside.messages import Problem
from .spec import Probe, Spec


@dataclass
class Facet:
    """One question and its answer."""

    name: str
    ok: bool | None  # None: not asked, or nothing can be said
    says: str  # one plain sentence
    details: list[str] = field(default_factory=list)
    differences: dict[str, Difference] = field(default_factory=dict)  # by "probe: output"
    right: int = 0  # of the inputs that were asked, where it is inputs that are counted
    asked: int = 0


def runs_facet(asked: int, broken: Sequence[tuple[Probe, Problem]]) -> Facet:
    """Say what went wrong, where, and on which inputs.

    Args:
        asked: how many inputs were tried.
        broken: those that gave no answer, and why.
    """
    if not broken:
        return Facet("runs", True, "it runs on every input")
    first = next((problem for probe, problem in broken if not probe.hard), None)
    if first is None:
        says = f"it runs on ordinary inputs, and fails on {broken[0][0].shows}"
        details = [f"{probe.shows}: {said(problem)}" for probe, problem in broken]
        return Facet("runs", False, says, details)
    details = [f"on {next(probe.shows for probe, problem in broken if problem is first)}"]
    if first.kind.startswith("missing"):  # then the input does not matter
        details = []
    elif len(broken) > 1:
        names = ", ".join(probe.name for probe, _ in broken)
        details = [f"it fails on {len(broken)} of {asked} inputs: {names}"]
    for probe, problem in broken:
        if problem.kind != first.kind or problem.where != first.where:  # else sizes may differ
            details.append(f"{probe.shows}: {said(problem)}")
    return Facet("runs", False, said(first), details)


def said(problem: Problem) -> str:
    """Say what a problem is, and where.

    >>> said(Problem("raised", "f raised KeyError: 'w'", "hw.py, line 3"))
    "f raised KeyError: 'w' (hw.py, line 3)"
    """
    return f"{problem.says} ({problem.where})" if problem.where else problem.says


def shape_facet(spec: Spec, tried: Sequence[tuple[Probe, Any, Answers]]) -> Facet:
    """Compare the number of outputs and their shapes.

    Args:
        spec: of the concept.
        tried: input, the reply of the worker, our answers.
    """
    for probe, reply, want in tried:
        if len(reply.outputs) != len(spec.outputs):
            need = ", ".join(spec.outputs)
            n = len(reply.outputs)
            says = f"it returns {n} array{'s' * (n != 1)}, it must return {need}"
            return Facet("shape", False, says)
        for name, got in zip(spec.outputs, reply.outputs, strict=True):
            if got.shape != want[name].shape:
                text = shape_difference(got.shape, want[name].shape, spec.axes.get(name, "..."))
                return Facet("shape", False, f"{name}, {probe.shows}: {text}")
    return Facet("shape", True, "every output has the right shape")


def dtype_facet(
    spec: Spec, seen: dict[str, tuple[str, ...]], exempt: Collection[str] = ()
) -> Facet:
    """Say whether the outputs have the dtype of the inputs.

    Args:
        spec: of the concept.
        seen: dtype of the inputs -> dtypes of the outputs.
        exempt: outputs that may have another: a single number, such as a loss, and a list.
    """
    wrong = []
    for dtype, outputs in seen.items():
        for name, got in zip(spec.outputs, outputs, strict=False):
            if name not in (*spec.exact, *exempt) and got != dtype:
                wrong.append(f"{name} is {got} for {dtype} inputs")
    if not wrong:
        return Facet("dtype", True, "the outputs have the dtype of the inputs")
    says = wrong[0]
    if "float64 for float32" in says:
        says += ": a NumPy scalar or table of float64 in the sum widens all of it"
    elif "float32 for float64" in says:
        says += ": the function, or its library, computes in float32"
    return Facet("dtype", False, says, wrong[1:])


def value_facet(spec: Spec, name: str, tried: Sequence[Tried], dtype: str) -> Facet:
    """Compare the numbers on some inputs.

    Args:
        spec: of the concept.
        name: "values" or "hard inputs".
        tried: inputs of that kind.
        dtype: in which the stranger computes.
    """
    if not tried:
        return Facet(name, None, "no input of this kind could be tried")
    wrong = [one for one in tried if not one.right]
    facet = Facet(name, True, "", right=len(tried) - len(wrong), asked=len(tried))
    for one in wrong:
        facet.differences.update(differences(spec, one, dtype))
    right = [one for one in tried if one.right]
    if not wrong:
        facet.says = f"right on {len(tried)} inputs: {listed(right)}"
        return facet
    facet.ok = False
    sizes = [f"{one.probe.name} ({size_word(spec, one, facet.differences)})" for one in wrong]
    facet.says = f"wrong on {len(wrong)} of {len(tried)} inputs: {', '.join(sizes)}"
    if right:
        facet.details.append(f"right: {listed(right)}")
    return facet


def size_word(spec: Spec, one: Tried, found: dict[str, Difference]) -> str:
    """Say how large an error is: over the scale of the right numbers, or how many ids it is."""
    if one.raised:
        return "it raises"
    mine = {name: found.get(f"{one.probe.name}: {name}") for name in one.got}
    errors = [d.error for name, d in mine.items() if d is not None and name not in spec.exact]
    if errors:
        return f"off by {max(errors):.2g}"
    counts = [f"{d.wrong} of {d.total}" for d in mine.values() if d is not None]
    return f"{counts[0]} entries" if counts else "another shape"


def ties_facet(spec: Spec, tried: Sequence[Tried], right: bool) -> Facet:
    """Say whether of several equals the same one is taken; another choice is no fault.

    Args:
        spec: of the concept.
        tried: inputs with ties.
        right: without ties, everything is right.
    """
    other = [one for one in tried if not one.right]
    if not other:
        return Facet("ties", True, f"of equals it takes the same ones: {listed(tried)}")
    if not right:
        return Facet("ties", None, "cannot be said: other values are wrong")
    says = f"{spec.ties}; yours does otherwise on {listed(other)}, which is no fault"
    return Facet("ties", None, says)


def listed(tried: Sequence[Tried]) -> str:
    """Join the names of inputs."""
    return ", ".join(one.probe.name for one in tried)


def differences(spec: Spec, one: Tried, dtype: str) -> dict[str, Difference]:
    """Return where a stranger's answers to one input part from ours, by "input: output"."""
    found = {}
    allowed = limit(dtype, terms_of(one.arguments), spec.depth)
    for name, got in one.got.items():
        want = one.want[name]
        if np.shape(got) != np.shape(want):
            continue
        exact = name in spec.exact
        axes = spec.axes.get(name.removeprefix("d"), spec.axes.get(name, "..."))
        difference = find_difference(
            got, want, axes, 0.5 if exact else allowed, "float64" if exact else dtype
        )
        if difference is not None:
            found[f"{one.probe.name}: {name}"] = difference
    return found


def precision_facet(
    name: str, worst: dict[str, tuple[float, float]], problems: Sequence[str]
) -> Facet:
    """Say how exact the outputs are in low precision.

    Args:
        name: "float32" or "half precision".
        worst: dtype -> largest error in units, and how much is allowed.
        problems: what went wrong, in sentences.
    """
    if problems:
        return Facet(name, False, problems[0], list(problems[1:]))
    if not worst:
        return Facet(name, None, "could not be tried")
    parts, ok = [], True
    for dtype, (units, allowed) in worst.items():
        ok = ok and units <= allowed
        parts.append(f"{dtype} {units:.3g} units of rounding ({allowed:g} allowed)")
    return Facet(name, ok, "largest error over scale: " + ", ".join(parts))
