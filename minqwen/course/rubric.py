"""The rubric: points per function and aspect, and the inputs they are given for."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

from ..check.spec import Probe
from ..check.specs import spec
from .aspects import STABILITY, VISIBLE, aspects_of, split_points
from .assignment import Assignment, points_of
from .exercise import Part


class Points(NamedTuple):
    """The points of one aspect of one part: a row of grading."""

    exercise: str
    part: str
    aspect: str
    points: Fraction


def rows_of(assignment: Assignment) -> list[Points]:
    """Return every row of grading with its points; they sum to those of the assignment."""
    rows, points = [], points_of(assignment)
    for one in assignment.found:
        weights = {part.spec: Fraction(part.weight) for part in one.parts}
        of_part = split_points(points[one.name], weights)
        for part in one.parts:
            shares = split_points(of_part[part.spec], aspects_of(spec(part.spec)))
            rows += [Points(one.name, part.spec, *pair) for pair in shares.items()]
    return rows


def inputs_of(part: str, aspect: str) -> str:
    """Name the inputs, or the questions, of one row of grading."""
    concept = spec(part)
    plain = [probe for probe in concept.probes if not probe.ties]
    if aspect == "shape":
        return "every input"
    if aspect == "stability":
        return ", ".join(STABILITY)
    if aspect == "gradient":
        smooth = [probe for probe in plain if probe.gradient]
        names = ", ".join(f"d{name}" for name in concept.gradients)
        return f"{names} on {_listed(smooth)}"
    some = [probe for probe in plain if probe.hard == (aspect == "hard inputs")]
    seed = " (hidden seed)" if aspect != "values" else " (public seed)"
    return _listed(some) + seed


def _listed(probes: list[Probe]) -> str:
    return ", ".join(probe.name for probe in probes)


def rubric(assignment: Assignment) -> str:
    """Return rubric.md: points per part and aspect, and on which inputs."""
    return "\n".join(_rubric_lines(assignment)) + "\n"


def _rubric_lines(assignment: Assignment) -> Iterator[str]:
    points = points_of(assignment)
    yield f"# Rubric: {assignment.title}"
    yield ""
    yield (
        f"{assignment.points} points. Within an aspect they are proportional to the inputs, or "
        "questions, that are answered right; shape is all or nothing. A function that does not run "
        "earns nothing. A gradient that fits a wrong forward of the student's own earns half of "
        "its points. What is told later needs the hidden seed, which is in this folder only."
    )
    rows = rows_of(assignment)
    for one in assignment.found:
        yield ""
        yield f"## {one.name}: {one.title} ({points[one.name]} points)"
        for part in one.parts:
            mine = [row for row in rows if (row.exercise, row.part) == (one.name, part.spec)]
            total = float(sum(row.points for row in mine))
            functions = ", ".join(f"`{name}`" for name in part.functions)
            yield ""
            yield f"{functions}: {total:g} points"
            yield ""
            yield "| aspect | points | told | inputs |"
            yield "| --- | ---: | --- | --- |"
            for row in mine:
                told = "at once" if row.aspect in VISIBLE else "later"
                inputs = inputs_of(row.part, row.aspect)
                yield f"| {row.aspect} | {float(row.points):g} | {told} | {inputs} |"
            yield ""
            yield from _probe_lines(part)


def _probe_lines(part: Part) -> Iterator[str]:
    for probe in spec(part.spec).probes:
        kind = "about equals, no points" if probe.ties else "hard" if probe.hard else "ordinary"
        yield f"- {probe.name} ({kind}): {probe.shows}"
