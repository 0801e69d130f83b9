"""What is told of a grade: as text for a terminal, and as plain data for JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

from .grade import Grade, Row


def number(points: float) -> str:
    """Write points without needless zeros.

    >>> number(5.0), number(2.5)
    ('5', '2.5')
    """
    return f"{points:.2f}".rstrip("0").rstrip(".")


def percent(grade: Grade) -> float:
    """Return what was earned, in percent of what was graded."""
    return percent_of(grade.points, grade.max_points)


def percent_of(points: float, most: float) -> float:
    """Return points in percent of what there was; 0 where there was nothing.

    >>> percent_of(1, 4), percent_of(0, 0)
    (25.0, 0.0)
    """
    return 100 * points / most if most else 0.0


def to_dict(grade: Grade, *, student: bool = False, clock: bool = False) -> dict[str, Any]:
    """Return plain data that is the same each time.

    Args:
        grade: of one submission.
        student: leave out what students are not told: hidden rows' points, notes.
        clock: add `execution_time`, in seconds.
    """
    rows = [of_row(row, student) for row in grade.rows]
    data: dict[str, Any] = {
        "name": grade.name,
        "assignment": grade.assignment,
        "points": visible_points(grade) if student else grade.points,
        "max_points": visible_most(grade) if student else grade.max_points,
        "later": hidden_most(grade) if student else grade.later,
        "rows": rows,
        "diagnosis": dict(grade.diagnosis),
        "protection": grade.protection,
    }
    if not student:
        data["notes"] = list(grade.notes)
    if clock:
        data["execution_time"] = round(grade.seconds, 2)
    return data


def visible_points(grade: Grade) -> float:
    """Return what was earned in the rows that students are told of at once."""
    return round(sum(r.points for r in grade.rows if r.visible and r.points is not None), 2)


def visible_most(grade: Grade) -> float:
    """Return what could be earned in those rows."""
    return round(sum(row.max_points for row in grade.rows if row.visible), 2)


def hidden_most(grade: Grade) -> float:
    """Return what can be earned in the others."""
    return round(sum(row.max_points for row in grade.rows if not row.visible), 2)


def of_row(row: Row, student: bool = False) -> dict[str, Any]:
    """Return a row as plain data."""
    secret = student and not row.visible
    return {
        "exercise": row.exercise,
        "name": row.name,
        "aspect": row.aspect,
        "points": None if secret else row.points,
        "max_points": row.max_points,
        "visible": row.visible,
        "says": "graded later" if secret else row.says,
        "details": [] if secret else list(row.details),
        "mistakes": [] if secret else list(row.mistakes),
    }


def to_text(grade: Grade, *, student: bool = False) -> str:
    """Return the report for a terminal.

    Args:
        grade: of one submission.
        student: leave out what students are not told.
    """
    lines: list[str] = []
    for line, indent in lines_of(grade, student):
        lines += textwrap.wrap(
            line, 100, subsequent_indent=" " * indent, break_long_words=False
        ) or [""]
    return "\n".join(lines)


def lines_of(grade: Grade, student: bool) -> Iterator[tuple[str, int]]:
    """Yield the lines of the text, with the indent of what does not fit."""
    data = to_dict(grade, student=student)
    line = f"{grade.name}   {grade.assignment}   {number(data['points'])} of "
    line += f"{number(data['max_points'])} points"
    yield line + (f", {number(data['later'])} more are graded later" if data["later"] else ""), 4
    exercise, said = "", ""
    for row in data["rows"]:
        if row["exercise"] != exercise:
            exercise, said = row["exercise"], ""
            yield "", 0
            yield exercise, 0
        got = "-" if row["points"] is None else number(row["points"])
        begin = f"  {row['name']:<34} {got:>6} of {number(row['max_points']):<6} "
        again = row["says"] == said and len(said) > 40
        yield begin + ("the same" if again else row["says"]), len(begin)
        if not again:
            yield from ((f"      {detail}", 8) for detail in row["details"])
        said = row["says"]
    for part, text in grade.diagnosis:
        mine = [r for r in data["rows"] if r["name"].startswith(f"{part}: ") and r["visible"]]
        more = len({r["says"] for r in mine}) > 1 or "\n  note: " in text
        if more and any(r["points"] != r["max_points"] for r in mine):
            yield "", 0
            yield from ((line, 30) for line in text.splitlines())
    yield "", 0
    for note in data.get("notes", ()):
        yield f"note: {note}", 6
    yield grade.protection, 4
