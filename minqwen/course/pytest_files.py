"""The pytest files of an assignment: test_visible.py for students, hidden_tests.py for the staff.

Both are a list of rows and one test; the work is done by grade.py, as in `minqwen grade`.
"""

from __future__ import annotations

from ..check.specs import spec
from .aspects import VISIBLE, aspects_of
from .assignment import Assignment

VISIBLE_TEXT = '''\
"""{doc}"""

from functools import cache
from pathlib import Path

import pytest
from minqwen.course.grade import grade

HERE = Path(__file__).resolve().parent
ROWS = [  # exercise, part, aspect
{rows}
]


@cache
def graded():
    return grade(HERE, HERE, hidden=False)


@pytest.mark.parametrize(("exercise", "part", "aspect"), ROWS)
def test_visible(exercise, part, aspect):
    rows = {{(row.exercise, row.part, row.aspect): row for row in graded().rows}}
    row = rows[exercise, part, aspect]
    text = dict(graded().diagnosis).get(part, "")
    if row.points != row.max_points:
        said = f"{{row.points}} of {{row.max_points}} points: {{row.says}}"
        pytest.fail(f"{{said}}\\n\\n{{text}}", pytrace=False)
'''
HIDDEN_TEXT = '''\
"""{doc}"""

import os
from functools import cache
from pathlib import Path

import pytest
from minqwen.course.grade import grade

HERE = Path(__file__).resolve().parent
SUBMISSION = Path(os.environ.get("SUBMISSION", HERE / "solution"))
ROWS = [  # exercise, part, aspect
{rows}
]


@cache
def graded():
    return grade(SUBMISSION, HERE)


@pytest.mark.parametrize(("exercise", "part", "aspect"), ROWS)
def test_hidden(exercise, part, aspect):
    rows = {{(row.exercise, row.part, row.aspect): row for row in graded().rows}}
    row = rows[exercise, part, aspect]
    if row.points != row.max_points:
        said = f"{{row.points}} of {{row.max_points}} points: {{row.says}}"
        pytest.fail(said, pytrace=False)
'''
DOCS = {
    "en": "The visible checks as tests: python -m pytest test_visible.py\n\n"
    "`minqwen grade .` says the same without pytest. Each test is one aspect of your functions.\n",
    "zh": "以测试形式运行可见的检查：python -m pytest test_visible.py\n\n"
    "不用 pytest 时，`minqwen grade .` 的结果相同。每个测试对应函数的一个方面。\n",
}
HIDDEN_DOC = (
    "All rows of grading as tests, with the hidden seed: for the staff.\n\n"
    "    SUBMISSION=path/to/submission python -m pytest hidden_tests.py\n\n"
    "Without SUBMISSION the solution is tested. `minqwen grade` gives points; here a row passes\n"
    "or fails.\n"
)


def visible_tests_text(assignment: Assignment) -> str:
    """Return test_visible.py."""
    rows = _rows(assignment, visible=True)
    return VISIBLE_TEXT.format(doc=DOCS[assignment.lang], rows=rows)


def hidden_tests_text(assignment: Assignment) -> str:
    """Return hidden_tests.py."""
    return HIDDEN_TEXT.format(doc=HIDDEN_DOC, rows=_rows(assignment, visible=False))


def _rows(assignment: Assignment, visible: bool) -> str:
    rows = [
        f'    ("{one.name}", "{part.spec}", "{aspect}"),'
        for one in assignment.found
        for part in one.parts
        for aspect in aspects_of(spec(part.spec))
        if aspect in VISIBLE or not visible
    ]
    return "\n".join(rows)
