"""A concept with its numbers: the formula, every factor, every line, every gradient, every mistake.

    explain("rmsnorm")                what the file says, and what it computes on three tokens
    explain("rmsnorm.eps_outside")    one known mistake: the two lines, and the numbers of both

Nothing is copied by hand. The formula and its place in the report come from the docstring of the
file and the table of concepts, the lines from the file as it runs, the gradients from its backward
pass and from central differences, the mistakes from the bank.
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ...backend import Array
from ..concepts import CONCEPTS
from ..gradients import GradientError, compare_gradient, numerical_gradient
from .lines import Described, Step, described, watch
from .mistakes_text import Listed, museum
from .subject import Answers, Subject, float_arrays, subject, upstream_of


class Gradient(NamedTuple):
    """The gradient of one input, by hand and by central differences."""

    name: str
    ours: Array
    numerical: Array
    error: GradientError


@dataclass(frozen=True)
class Explanation:
    """All that is said about a concept."""

    subject: Subject
    text: Described  # of the file
    report: str
    equation: str
    says: dict[str, str]  # of each argument, by the docstrings of the functions that ran
    forward: list[Step]
    outputs: Answers
    upstream: Answers  # the gradient that arrives, by output
    backward: list[Step]
    gradients: list[Gradient]
    museum: list[Listed]


def explain(name: str, seed: int = 0) -> Explanation:
    """Gather all that is said about a concept.

    Args:
        name: of a row of the table of concepts, or of a spec of the bank.
        seed: of the numbers of the example.

    Raises:
        ValueError: there is no such concept; the message lists all.

    >>> [gradient.name for gradient in explain("rmsnorm").gradients]
    ['x', 'w']
    """
    it = subject(name, seed)
    with np.errstate(all="ignore"):
        raw, forward = watch(lambda: it.run(it.arguments))
    outputs = dict(zip(it.outputs, map(np.asarray, raw), strict=True))
    upstream = upstream_of(it, outputs, seed)
    backward, gradients = gradients_of(it, upstream, {step.function for step in forward})
    file = importlib.import_module(it.module).__file__
    assert file is not None
    text = described(file)
    row = it.row or next((row for row in CONCEPTS if row.module == it.module), None)
    says: dict[str, str] = {}
    for step in forward:
        for argument, words in described(step.file).arguments.get(step.function, {}).items():
            says.setdefault(argument, words)
    place = re.search(r"^Paper:\s+(.*?)(?=^\S|\Z)", text.docstring, re.MULTILINE | re.DOTALL)
    report = row.report if row else " ".join(place[1].split()) if place else ""
    return Explanation(
        it,
        text,
        report,
        it.row.equation if it.row else "",
        says,
        forward,
        outputs,
        upstream,
        backward,
        gradients,
        museum(it, outputs, upstream),
    )


def gradients_of(
    it: Subject, upstream: Answers, known: set[str]
) -> tuple[list[Step], list[Gradient]]:
    """Return the lines of the backward pass, and each gradient beside central differences.

    Args:
        it: the concept.
        upstream: gradient by output.
        known: functions whose lines were shown already.
    """
    if it.pull is None:
        return [], []
    pull, dys = it.pull, tuple(upstream.values())
    ours, steps = watch(lambda: pull(it.arguments, dys))
    work = {n: x.copy() if isinstance(x, np.ndarray) else x for n, x in it.arguments.items()}

    def value() -> float:
        return sum(
            float((np.asarray(y) * dy).sum()) for y, dy in zip(it.run(work), dys, strict=True)
        )

    found = []
    for name in float_arrays(work):
        if name in ours:
            numerical = numerical_gradient(value, work[name])
            error = compare_gradient(name, ours[name], numerical)
            found.append(Gradient(name, ours[name], numerical, error))
    return [step for step in steps if step.function not in known], found
