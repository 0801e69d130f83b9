"""The whole ladder in every format: key and handout in all reports, and what its notebooks hold.

What the tools of others make of the same notebooks is in test_real_tools.py.
"""

import argparse
import ast
import json
import re
import xml.etree.ElementTree as ElementTree

import pytest
from course.filled import LADDER as TASK
from course.wrong_solutions import graded_here

from minqwen.commands.grade import FORMATS, report
from minqwen.course.aspects import VISIBLE
from minqwen.course.assignment import Assignment
from minqwen.course.class_tables import Outcome, summary
from minqwen.course.classroom import workflow
from minqwen.course.file_cells import parts_of
from minqwen.course.file_imports import imported
from minqwen.course.grade import grade
from minqwen.course.handout import solution_files, stub_files
from minqwen.course.ladder import PRESETS
from minqwen.course.nbgrader_format import grade_id, nbgrader_notebook
from minqwen.course.notebook import plain_notebook
from minqwen.course.notebook_code import of_notebook
from minqwen.course.otter_format import otter_notebook
from minqwen.course.results import to_dict
from minqwen.course.rubric import rows_of
from minqwen.course.source_text import names_of

ZH = Assignment("ladder", "阶梯", PRESETS["ladder"], lang="zh", hidden_seed=TASK.hidden_seed)
each_language = pytest.mark.parametrize("task", [TASK, ZH], ids=["en", "zh"])


def code_cells(text):
    """Return the source of every code cell of a notebook."""
    cells = json.loads(text)["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def totals(text, report_format):
    """Return the points of a report, and how many there could be, as its readers add them up."""
    if report_format == "text":
        got, most = re.search(r"([\d.]+) of ([\d.]+) points\n", text).groups()
        return float(got), float(most)
    if report_format == "json":
        data = json.loads(text)
        rows = [(row["points"], row["max_points"]) for row in data["rows"]]
        assert (data["points"], data["max_points"]) == sums(rows)
        return sums(rows)
    if report_format == "gradescope":
        tests = [test for test in json.loads(text)["tests"] if "score" in test]
        return sums([(test["score"], test["max_score"]) for test in tests])
    cases = list(ElementTree.fromstring(text.encode()).iter("testcase"))
    rows = []
    for case in cases:
        values = {one.get("name"): float(one.get("value")) for one in case.iter("property")}
        rows.append((values["points"], values["max_points"]))
        assert (case.find("failure") is None) == (values["points"] == values["max_points"])
    return sums(rows)


def sums(pairs):
    """Return the sums of the two columns, in hundredths."""
    return tuple(round(sum(column), 2) for column in zip(*pairs, strict=True))


def reports(found):
    """Return what each report says in total."""
    told = {}
    for one in FORMATS:
        args = argparse.Namespace(format=one, student=False, clock=False)
        told[one] = totals(report(args, found), one)
    return told


# --- one notebook of all files --------------------------------------------------------------------


def test_no_name_stands_for_two_things():
    """In a notebook all files of the ladder share one namespace."""
    defined, imports = [], {}
    for one in parts_of(TASK):
        module = f"minqwen.{one.part.spec}"
        for text in (*one.given, *(f"{f.head}\n{f.body}" for f in one.functions)):
            tree = ast.parse(text)
            defined += [name for node in tree.body for name in names_of(node)]
            for found in imported(tree, module):
                imports.setdefault(found.known_as, set()).add((found.module, found.name))
    assert len(defined) == len(set(defined))
    assert not set(defined) & imports.keys()
    assert [name for name, sources in imports.items() if len(sources) > 1] == []


@pytest.mark.parametrize("task", [TASK, pytest.param(ZH, marks=pytest.mark.slow)], ids=["en", "zh"])
def test_the_key_in_one_notebook_earns_everything_and_the_handout_nothing(task):
    outcomes = []
    for solved, points in ((True, 100.0), (False, 0.0)):
        code, notes = of_notebook(plain_notebook(task, solved=solved), "ladder.ipynb")
        assert notes == []
        found = graded_here({"ladder.py": code}, task, names=False)
        assert reports(found) == dict.fromkeys(FORMATS, (points, 100.0))
        outcomes.append(Outcome("", "", to_dict(found)))
    page = summary(outcomes, task)
    assert "\n\nPoints of 100: mean 50, median 50, from 0 to 100.\n\n" in page
    assert all(f"\n| {name} | 50 | 1 | 1 |\n" in page for name in task.exercises)


@each_language
def test_each_row_has_one_check_in_each_notebook(task):
    rows = {(row.part, row.aspect): float(row.points) for row in rows_of(task)}
    assert len(rows) > 100
    cells = [cell for cell in json.loads(nbgrader_notebook(task))["cells"] if cell["metadata"]]
    roles = [cell["metadata"]["nbgrader"] for cell in cells]
    assert len({role["grade_id"] for role in roles}) == len(roles)
    points = {role["grade_id"]: role["points"] for role in roles if role["grade"]}
    assert points == {grade_id(*key): value for key, value in rows.items()}
    tests = [text for text in code_cells(otter_notebook(task)) if "BEGIN TEST CONFIG" in text]
    given = [float(re.search(r"^points: (\S+)$", text, re.MULTILINE)[1]) for text in tests]
    assert given == list(rows.values())
    assert round(sum(given), 2) == round(sum(points.values()), 2) == task.points


@pytest.mark.parametrize(("points", "times"), [(1000, 1), (100, 10), (16, 100)])
def test_steps_of_classroom_are_worth_whole_points_in_proportion(points, times):
    task = Assignment("ladder", "Ladder", PRESETS["ladder"], points=points)
    rows = [times * float(row.points) for row in rows_of(task) if row.aspect in VISIBLE]
    given = [int(n) for n in re.findall(r"max-score: (\d+)\n", workflow(task))]
    assert sum(given) == round(sum(rows))
    assert all(abs(n - row) < 1 for n, row in zip(given, rows, strict=True))


# --- as minqwen grade does, behind its guards -----------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("form", ["files", "notebook", "nbgrader", "otter"])
def test_every_form_of_the_key_and_of_the_handout(form, tmp_path):
    """Of the tools' notebooks there is only the solved one here: their tools make the handout."""
    texts = {
        "files": [solution_files(TASK), stub_files(TASK)],
        "notebook": [{"hw.ipynb": plain_notebook(TASK, solved=one)} for one in (True, False)],
        "nbgrader": [{"hw.ipynb": nbgrader_notebook(TASK)}],
        "otter": [{"hw.ipynb": otter_notebook(TASK)}],
    }[form]
    for files, points in zip(texts, (100.0, 0.0), strict=False):
        folder = tmp_path / f"{points:g}"
        folder.mkdir()
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
        found = grade(folder, TASK)
        assert reports(found) == dict.fromkeys(FORMATS, (points, 100.0))
