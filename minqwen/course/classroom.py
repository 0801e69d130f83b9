"""An assignment for GitHub Classroom: a workflow that grades the visible rows at every push.

It goes to student/.github/workflows/classroom.yml, since Classroom copies the students' folder.
`minqwen grade` runs once; each row is then a step of its own, since a step is all or nothing:

    python -m minqwen.course.classroom grades.json rmsnorm values     exit code 0 if all is right

Everything lies in the students' repository and can be edited there, so it has no hidden row and no
hidden seed. Grade for marks with `minqwen grade --each`, on copies of the repositories.

Origin: the actions of the organisation classroom-resources.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from .aspects import VISIBLE
from .assignment import Assignment, apportion, write_texts
from .rubric import rows_of

HEAD = """\
name: Autograding Tests
on:
  - push
  - workflow_dispatch
  - repository_dispatch
permissions:
  checks: write
  actions: read
  contents: read
jobs:
  run-autograding-tests:
    runs-on: ubuntu-latest
    if: github.actor != 'github-classroom[bot]'
    steps:
      - name: Checkout code
        uses: actions/checkout@v4
      - uses: actions/setup-python@v5
        with:
          python-version: "3.12"
      - name: Grade
        run: |
          python -m pip install --quiet minqwen
          minqwen grade . --student || true
          minqwen grade . --student --format json > grades.json || true
"""
STEP = """\
      - name: "{name}"
        id: {id}
        uses: classroom-resources/autograding-command-grader@v1
        with:
          test-name: "{name}"
          setup-command: ""
          command: python -m minqwen.course.classroom grades.json {part} {aspect}
          timeout: 1
          max-score: {points}
"""
TAIL = """\
      - name: Autograding Reporter
        uses: classroom-resources/autograding-grading-reporter@v1
        env:
{results}
        with:
          runners: {runners}
"""


def write(assignment: Assignment, out: Path) -> list[Path]:
    """Write the workflow into the students' folder; return it."""
    path = out / "student" / ".github" / "workflows" / "classroom.yml"
    return write_texts({path: workflow(assignment)})


def workflow(assignment: Assignment) -> str:
    """Return classroom.yml: whole points, which sum to those of the visible rows, rounded.

    Where a row would be worth less than a point, all of them are worth ten or a hundred times as
    much, so that the rows keep their proportions.
    """
    rows = [row for row in rows_of(assignment) if row.aspect in VISIBLE]
    weights = {f"{row.part}-{row.aspect}": round(row.points * 100) for row in rows}
    times = next((n for n in (1, 10) if n * min(weights.values()) >= 100), 100)
    points = apportion(round(times * sum(weights.values()) / 100), weights)
    steps = "".join(
        STEP.format(name=f"{row.part}: {row.aspect}", id=one, part=row.part, aspect=row.aspect,
                    points=points[one])
        for one, row in zip(weights, rows, strict=True)
    )  # fmt: skip
    results = "\n".join(
        f'          {one.upper()}_RESULTS: "${{{{steps.{one}.outputs.result}}}}"' for one in weights
    )
    return HEAD + steps + TAIL.format(results=results, runners=",".join(weights))


def main(words: list[str]) -> int:
    """Say of one row whether it has all its points.

    Args:
        words: the file that `minqwen grade --format json` wrote, the part, the aspect.
    """
    file, part, aspect = words
    try:
        data = json.loads(Path(file).read_text(encoding="utf-8"))
        row = next(r for r in data["rows"] if r["name"] == f"{part}: {aspect}")
    except (OSError, ValueError, KeyError, StopIteration):
        print(f"{part}: {aspect} was not graded: see the step Grade")
        return 1
    print(f"{row['name']}: {row['points']} of {row['max_points']} points: {row['says']}")
    if row["points"] == row["max_points"]:
        return 0
    print(data["diagnosis"].get(part, ""))
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
