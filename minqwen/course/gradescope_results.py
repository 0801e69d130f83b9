"""results.json for Gradescope: its fields, its rules.

    one test per row             score, max_score, status, visibility
    hidden rows                  "after_published"; one visible test without a score names them,
                                 since Gradescope shows nothing of a hidden test
    no score at the top          Gradescope adds the tests up; the maxima add up to the points of
                                 the assignment, or it calls the file badly formatted
    stdout                       hidden: nothing that a student's code prints can look like a score

Origin: Gradescope's documentation of autograder specifications.
"""

from __future__ import annotations

from typing import Any

from .grade import Grade, Row
from .results import number, visible_most, visible_points

VISIBILITIES = ("visible", "hidden", "after_due_date", "after_published")
LEFT_OVER = 90_000  # characters of one output


def gradescope_results(grade: Grade, *, after: str = "after_published") -> dict[str, Any]:
    """Return what stands in results.json.

    Args:
        grade: of one submission, hidden rows graded too.
        after: when students see the hidden rows, one of VISIBILITIES.
    """
    if after not in VISIBILITIES:
        raise ValueError(f"after must be one of {', '.join(VISIBILITIES)}, got {after!r}")
    tests: list[dict[str, Any]] = []
    texts = dict(grade.diagnosis)
    exercises = list(dict.fromkeys(row.exercise for row in grade.rows))
    numbers: dict[str, int] = {}
    told: set[str] = set()
    for row in grade.rows:
        numbers[row.exercise] = numbers.get(row.exercise, 0) + 1
        place = f"{exercises.index(row.exercise) + 1}.{numbers[row.exercise]}"
        test = of_row(row, place, after)
        if row.visible and row.part not in told and row.points != row.max_points:
            told.add(row.part)
            test["output"] += "\n\n" + texts.get(row.part, "")
        test["output"] = test["output"][:LEFT_OVER]
        tests.append(test)
    hidden = [row for row in grade.rows if not row.visible]
    if hidden and after != "visible":
        names = dict.fromkeys(row.aspect for row in hidden)
        waiting = number(round(sum(row.max_points for row in hidden), 2))
        tests.append(
            {
                "name": "graded later",
                "status": "passed",
                "output": f"{waiting} more points, for {', '.join(names)}, are "
                "graded with other numbers and shown later.",
                "output_format": "text",
                "visibility": "visible",
            }
        )
    got, most = number(visible_points(grade)), number(visible_most(grade))
    return {
        "output": f"{got} of the {most} points that are shown at once. {grade.protection}.",
        "output_format": "text",
        "execution_time": round(grade.seconds, 2),
        "stdout_visibility": "hidden",
        "tests": tests,
    }


def of_row(row: Row, place: str, after: str) -> dict[str, Any]:
    """Return one test."""
    points = row.points or 0.0
    lines = [row.says[:1].upper() + row.says[1:], *row.details]
    return {
        "name": row.name,
        "number": place,
        "score": points,
        "max_score": row.max_points,
        "status": "passed" if points == row.max_points else "failed",
        "output": "\n".join(lines),
        "output_format": "text",
        "visibility": "visible" if row.visible else after,
        "tags": [row.exercise, row.part, row.aspect],
        "extra_data": {"mistakes": list(row.mistakes)},
    }


def failed_results(says: str, points: float) -> dict[str, Any]:
    """Return results for a submission that could not be read: no points, and the reason."""
    return {
        "output": says,
        "output_format": "text",
        "stdout_visibility": "hidden",
        "tests": [
            {
                "name": "submission",
                "number": "1",
                "score": 0.0,
                "max_score": points,
                "status": "failed",
                "output": says,
                "output_format": "text",
                "visibility": "visible",
            }
        ],
    }
