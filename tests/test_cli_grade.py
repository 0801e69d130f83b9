"""minqwen grade: reports, exit codes, and a folder of submissions."""

import json
import xml.etree.ElementTree as ElementTree

import pytest
from course.grading import assignment, edited, solution, stubs

from minqwen import cli
from minqwen.course.assignment import write_assignment

TASK = assignment("rmsnorm", points=10)
KEY = solution(TASK)["rmsnorm.py"]
WRONG = edited({"a": KEY}, "a", ("(x_wide * x_wide).mean(", "(x_wide * x_wide).sum("))["a"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A student's folder and the staff's."""
    monkeypatch.setitem(cli.COMMANDS, "grade", "Grade what students handed in.")
    for name, seed in (("student", None), ("staff", 7)):
        (tmp_path / name).mkdir()
        write_assignment(assignment("rmsnorm", points=10, hidden_seed=seed), tmp_path / name)
    (tmp_path / "student" / "rmsnorm.py").write_text(WRONG, encoding="utf-8")
    return tmp_path


def run(*words):
    return cli.main(["grade", *map(str, words)])


def test_a_student_grades_at_home(place, capsys):
    assert run(place / "student") == 0
    text = capsys.readouterr().out
    assert "1 of 4.25 points, 5.75 more are graded later" in text
    assert "looks exactly like: rmsnorm.sum_for_mean" in text
    assert "rmsnorm: gradient" in text
    assert run(place / "student" / "rmsnorm.py", "--fail-under", "50") == 1


def test_the_staff_sees_all(place, capsys):
    words = (place / "student" / "rmsnorm.py", "--assignment", place / "staff")
    assert run(*words) == 0
    assert "1 of 10 points" in capsys.readouterr().out
    assert run(*words, "--format", "json") == 0
    data = json.loads(capsys.readouterr().out)
    assert data["points"] == 1.0
    assert "execution_time" not in data
    assert run(*words, "--format", "gradescope") == 0
    tests = json.loads(capsys.readouterr().out)["tests"]
    assert sum(test.get("max_score", 0) for test in tests) == 10
    assert run(*words, "--format", "junit") == 0
    assert ElementTree.fromstring(capsys.readouterr().out.encode()).tag == "testsuites"
    assert run(*words, "--student") == 0
    assert "graded later" in capsys.readouterr().out


def test_a_class(place, capsys):
    folder = place / "in"
    folder.mkdir()
    for name, text in (("ann", KEY), ("bob", stubs(TASK)["rmsnorm.py"])):
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    words = ("--each", folder, "--assignment", place / "staff", "--out", place / "out")
    assert run(*words, "--copied", "zero") == 0
    text = capsys.readouterr().out
    assert "[2/2]" in text
    assert "2 graded, 0 not" in text
    (folder / "eve.zip").write_bytes(b"")
    assert run(*words, "-j", "2") == 3
    assert "2 graded, 1 not" in capsys.readouterr().out
    assert (place / "out" / "grades.csv").read_text(encoding="utf-8").count("\n") == 4
    (folder / "eve.zip").unlink()
    (folder / "dead.py").symlink_to(place / "nowhere.py")  # nothing that stops the others
    assert run(*words) == 3
    assert "2 graded, 1 not" in capsys.readouterr().out
    (folder / "dead.py").unlink()
    assert run(*words, "--fail-under", "50") == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["none.py"], "no submission none.py"),
        (["student", "--out", "x"], "--out needs --assignment"),
        (["student", "staff"], "needs --out DIR"),
        (["student", "-j", "0"], "--jobs must be at least 1"),
        (["student", "--seconds", "0"], "--seconds must be above 0"),
        (["student", "--seconds", "nan"], "--seconds must be above 0"),
        (["student", "--memory", "1"], "--memory must be at least 64"),
        (["student", "--fail-under", "101"], "--fail-under must be from 0 to 100"),
        (["student/rmsnorm.py", "--each"], "--each needs folders"),
        (["student", "--assignment", "nowhere"], "no assignment"),
        (["student", "--out", "x", "--assignment", "staff", "--format", "junit"], "without --out"),
        (["lonely.py"], "no assignment.json beside"),
    ],
)
def test_wrong_use_is_told_in_one_line(place, monkeypatch, capsys, words, says):
    monkeypatch.chdir(place)
    (place.parent / place.name / "lonely.py").write_text("", encoding="utf-8")
    assert run(*words) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_a_submission_that_cannot_be_read(place, capsys):
    (place / "a.zip").write_bytes(b"no")
    assert run(place / "a.zip", "--assignment", place / "staff") == 3
    assert "is no zip archive" in capsys.readouterr().err
    words = ("--assignment", place / "staff", "--format", "gradescope")
    assert run(place / "a.zip", *words) == 3
    assert json.loads(capsys.readouterr().out)["tests"][0]["max_score"] == 10
