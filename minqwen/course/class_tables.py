"""What the staff reads about a whole class: a table of points, and a page of what to explain again.

grades.csv    one line per submission; no text in it can act as a spreadsheet's formula
summary.md    means per exercise, which mistakes how often, what could not be graded, notes
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from .assignment import Assignment
from .results import number

RENAMED = re.compile(r" is graded as \w+\.py$")
MANY = 3  # submissions with the same note: it stands once, with their names


@dataclass(frozen=True)
class Outcome:
    """What became of one submission."""

    name: str
    path: str
    data: dict[str, Any] | None  # as in OUT/NAME.json; None: it could not be graded
    says: str = ""  # why not
    fresh: bool = True  # graded in this run
    seconds: float = 0.0


def table(outcomes: Sequence[Outcome], assignment: Assignment) -> str:
    """Return grades.csv."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", "points", "max_points", *assignment.exercises, "status", "note"])
    for one in outcomes:
        if one.data is None:
            empty = [""] * len(assignment.exercises)
            writer.writerow([harmless(one.name), 0, assignment.points, *empty, "not graded",
                             harmless(one.says)])  # fmt: skip
            continue
        each = [number(of_exercise(one.data, name)) for name in assignment.exercises]
        points, most = (number(one.data[key]) for key in ("points", "max_points"))
        writer.writerow([harmless(one.name), points, most, *each, "graded", ""])
    return text.getvalue()


def harmless(text: str) -> str:
    """Return text that no spreadsheet takes for a formula.

    >>> harmless("=1+1"), harmless("ann")
    ("'=1+1", 'ann')
    """
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t") else text


def of_exercise(data: dict[str, Any], name: str) -> float:
    """Return the points of one exercise."""
    return round(sum(row["points"] or 0.0 for row in data["rows"] if row["exercise"] == name), 2)


def summary(outcomes: Sequence[Outcome], assignment: Assignment) -> str:
    """Return summary.md."""
    return "\n".join([*summary_lines(outcomes, assignment), ""])


def summary_lines(outcomes: Sequence[Outcome], assignment: Assignment) -> Iterator[str]:
    """Yield the lines of the summary."""
    graded = [one.data for one in outcomes if one.data is not None]
    yield f"# {assignment.title}: {len(graded)} submissions graded"
    yield ""
    if graded:
        points = [data["points"] for data in graded]
        mean, middle = number(fmean(points)), number(median(points))
        between = f"from {number(min(points))} to {number(max(points))}"
        yield f"Points of {assignment.points}: mean {mean}, median {middle}, {between}."
        yield ""
        yield "| exercise | mean, % | all points | none |"
        yield "| --- | --- | --- | --- |"
        for name in assignment.exercises:
            most = sum(r["max_points"] for r in graded[0]["rows"] if r["exercise"] == name)
            each = [of_exercise(data, name) for data in graded]
            full = sum(x >= most - 0.001 for x in each)
            share = 100 * fmean(each) / most if most else 0.0
            yield f"| {name} | {share:.0f} | {full} | {sum(x == 0 for x in each)} |"
        yield ""
        yield from mistake_lines(graded)
    failed = [one for one in outcomes if one.data is None]
    if failed:
        yield "## Not graded"
        yield ""
        yield from (f"- {cell(one.name)}: {cell(one.says)}" for one in failed)
        yield ""
    noted = [data for data in graded if data.get("notes")]
    if noted:
        yield "## To be looked at"
        yield ""
        yield from note_lines(noted)
        yield ""


def note_lines(noted: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield the notes, those of many submissions once, with the names below them.

    New names of files, and all prints but the first, stand in the results of a submission only.
    """
    by_note: dict[str, list[str]] = {}
    for data in noted:
        told = [note for note in data["notes"] if not RENAMED.search(note)]
        prints = [note for note in told if ": it prints: " in note]
        for note in [note for note in told if note not in prints[1:]][:8]:
            by_note.setdefault(note, []).append(data["name"])
    for note, names in by_note.items():
        if len(names) >= MANY:
            yield f"- {cell(note)}: {', '.join(map(cell, names))}"
    for data in noted:
        for note, names in by_note.items():
            if data["name"] in names and len(names) < MANY:
                yield f"- {cell(data['name'])}: {cell(note)}"


def mistake_lines(graded: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield the table of how many submissions have which mistake: what to explain again."""
    counts: Counter[str] = Counter()
    for data in graded:
        counts.update({name for row in data["rows"] for name in row["mistakes"]})
    if not counts:
        return
    yield "## Mistakes that have a name"
    yield ""
    yield "| mistake | submissions |"
    yield "| --- | --- |"
    for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        yield f"| {name} | {count} |"
    yield ""


def cell(text: str) -> str:
    """Return text that breaks no table and is no HTML.

    >>> cell("a|b")
    'a&#124;b'
    """
    line = "".join(c if c.isprintable() else " " for c in text)
    return line.replace("|", "&#124;").replace("<", "&lt;").replace("`", "'")
