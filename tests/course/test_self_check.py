"""The check before anybody sees the folder: each kind of fault is found."""

import json
from pathlib import Path

import pytest

from minqwen.course import self_check as checked
from minqwen.course.assignment import Assignment
from minqwen.course.grade import grade
from minqwen.course.handout import solution_files, write
from minqwen.course.self_check import (
    files_of,
    point_problems,
    repeat_problems,
    secret_problems,
    stub_problems,
    tokens,
)

HW = Assignment("hw1", "Homework 1", ("linear", "rmsnorm"), hidden_seed=2**61 + 12345)


@pytest.fixture
def out(tmp_path):
    write(HW, tmp_path)
    return tmp_path


def add(path, text):
    path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")


def test_a_good_folder_has_no_problem(out):
    assert not list(stub_problems(out / "student", HW))
    assert not list(secret_problems(out / "student", HW))
    assert not list(repeat_problems(out, HW, [write]))


def test_a_body_is_found(out):
    path = out / "student" / "rmsnorm.py"
    text = path.read_text(encoding="utf-8")
    first = '    raise NotImplementedError("rmsnorm_forward'
    path.write_text(text.replace(first, f"    x = 1\n{first}"), encoding="utf-8")
    assert list(stub_problems(out / "student", HW)) == ["rmsnorm.py: rmsnorm_forward has a body"]
    path.write_text(text.replace("raise NotImplementedError", "return str"), encoding="utf-8")
    found = list(stub_problems(out / "student", HW))
    assert "rmsnorm.py: rmsnorm_backward does not raise" in found
    path.write_text(text[: text.index("def rmsnorm_backward")], encoding="utf-8")
    assert "rmsnorm.py: rmsnorm_backward does not raise" in list(stub_problems(out / "student", HW))


def test_an_import_that_is_left_over_is_found(out):
    path = out / "student" / "linear.py"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("import NamedTuple", "import Any, NamedTuple"), encoding="utf-8")
    assert list(stub_problems(out / "student", HW)) == ["linear.py: Any is imported and not used"]


LINE = "dw = column_sums(dy * x_hat)  # (D,)"


@pytest.mark.parametrize("name", ["README.md", "rmsnorm.py", "data/notes.txt"])
def test_a_line_of_the_solution_is_found(out, name):
    path = out / "student" / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
    add(path, f"\n    {LINE}\n")
    (problem,) = secret_problems(out / "student", HW)
    assert problem.startswith(f"{path.name} holds a line of the solution: 'dw = column_sums")


def test_a_line_in_a_notebook_is_found(out):
    cells = [{"source": ["x = 1\n", f"{LINE}\n"]}, {"outputs": [{"text": "none"}]}]
    (out / "student" / "hw.ipynb").write_text(json.dumps({"cells": cells}), encoding="utf-8")
    (problem,) = set(secret_problems(out / "student", HW))
    assert "hw.ipynb holds a line" in problem


def test_the_hidden_seed_is_found(out):
    add(out / "student" / "README.md", f"seed {HW.hidden_seed}")
    assert list(secret_problems(out / "student", HW)) == ["README.md holds the hidden seed"]


def test_what_is_not_the_same_twice_is_found(out):
    calls = []

    def uneven(assignment, folder):
        calls.append(folder)
        (folder / "extra.txt").write_text(str(len(calls)), encoding="utf-8")

    uneven(HW, out)
    found = list(repeat_problems(out, HW, [write, uneven]))
    assert found == ["extra.txt is not the same when it is made again"]
    (out / "extra.txt").unlink()
    add(out / "student" / "README.md", "more")
    assert "student/README.md is not the same" in next(repeat_problems(out, HW, [write]))
    assert "student/README.md" in files_of(out)


def test_short_lines_do_not_count():
    assert tokens("xp = array_module(x)") == 6
    assert tokens("y = f(a,") == 6
    assert tokens('"""An open text') < 3


def test_wrong_solutions_and_solved_stubs_are_found(out):
    """With the real grading; HW of one exercise, to be fast."""
    this = Assignment("one", "One", ("linear",), hidden_seed=5)
    write(this, out)
    assert not list(point_problems(out, this))
    (out / "student" / "linear.py").write_text(solution_files(this)["linear.py"], encoding="utf-8")
    path = out / "staff" / "solution" / "linear.py"
    path.write_text(
        path.read_text(encoding="utf-8").replace("dw = dy_rows.T @", "dw = 2 * dy_rows.T @"),
        encoding="utf-8",
    )
    found = list(point_problems(out, this))
    assert len([line for line in found if line.startswith("the solution earns")]) == 1
    assert "linear: gradient" in found[0]
    assert [line for line in found if line.startswith("the stubs earn")]


def test_problems_in_the_text_end_the_check_before_grading(out, monkeypatch):
    def never(*args):
        raise AssertionError("graded")

    monkeypatch.setattr(checked, "point_problems", never)
    add(out / "student" / "README.md", f"\n{LINE}\n")
    said = []
    problems = checked.self_check(out, HW, [write], said.append)
    assert len(problems) == 2  # and it is not the same when it is made again
    assert said == ["checking: stubs, secrets, same bytes"]


def test_the_public_file_loses_where_a_variant_is_asked_for(tmp_path):
    this = Assignment("v", "V", ("rmsnorm",), variants={"rmsnorm": "gain_plus_one"}, hidden_seed=5)
    public = solution_files(Assignment("p", "P", ("rmsnorm",)))["rmsnorm.py"]
    Path(tmp_path / "rmsnorm.py").write_text(public, encoding="utf-8")
    result = grade(tmp_path, this)
    points = {row.aspect: row.points for row in result.rows}
    assert points["values"] == points["more values"] == 0
    assert any("public version" in note for note in result.notes)
    right = solution_files(this)["rmsnorm.py"]
    Path(tmp_path / "rmsnorm.py").write_text(right, encoding="utf-8")
    assert grade(tmp_path, this).points == 100
