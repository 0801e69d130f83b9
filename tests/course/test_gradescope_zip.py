"""The zip for Gradescope, and what its run_autograder does in a folder like the container's."""

import io
import json
import math
import os
import subprocess
import sys
import zipfile

import pytest
from course.filled import POINTS, TASK

from minqwen.course import gradescope_run, gradescope_zip
from minqwen.course.assignment import Assignment, read_assignment, write_assignment
from minqwen.course.gradescope_results import VISIBILITIES
from minqwen.course.gradescope_run import checked, main
from minqwen.course.gradescope_zip import RUN, SETUP, archive, package_files
from minqwen.course.handout import solution_files, student_files

SMALL = Assignment("hw2", "Homework 2", ("gae",), points=20, hidden_seed=2**61 + 99)
TOP = {"score", "execution_time", "output", "output_format", "test_output_format",
       "test_name_format", "visibility", "stdout_visibility", "extra_data", "tests",
       "leaderboard"}  # fmt: skip
OF_A_TEST = {"score", "max_score", "status", "name", "name_format", "number", "output",
             "output_format", "tags", "visibility", "extra_data"}  # fmt: skip


@pytest.fixture
def container(tmp_path, monkeypatch):
    """Make a folder like /autograder, with one small assignment; return it."""
    for name in ("source", "submission"):
        (tmp_path / name).mkdir()
    write_assignment(SMALL, tmp_path / "source")
    monkeypatch.setenv("MINQWEN_AUTOGRADER", str(tmp_path))
    monkeypatch.setenv("MINQWEN_USER", "no such user")
    return tmp_path


def hand_in(container, files):
    """Put files where the submission lies."""
    for name, text in files.items():
        (container / "submission" / name).write_text(text, encoding="utf-8")


def results_of(container):
    """Run the autograder; return results.json, with its fields checked."""
    assert main() == 0
    data = json.loads((container / "results" / "results.json").read_text(encoding="utf-8"))
    require_documented(data, SMALL)
    return data


def require_documented(data, task):
    """Compare results with the documented fields, their values and rules."""
    formats = ("text", "html", "simple_format", "md", "ansi")
    assert data.keys() <= TOP
    assert "score" not in data  # so each test has one, but for checks with a status
    assert data["stdout_visibility"] in VISIBILITIES
    assert data["output_format"] in formats
    for test in data["tests"]:
        assert test.keys() <= OF_A_TEST
        assert isinstance(test["name"], str)
        assert isinstance(test["output"], str)
        assert test["output_format"] in formats
        assert test["visibility"] in VISIBILITIES
        assert test["status"] in ("passed", "failed")
        if "score" in test:
            assert math.isfinite(test["score"])
            assert 0 <= test["score"] <= test["max_score"]
    most = sum(test["max_score"] for test in data["tests"] if "score" in test)
    assert most == pytest.approx(task.points, abs=1e-9)
    numbers = [test["number"] for test in data["tests"] if "number" in test]
    assert len(numbers) == len(set(numbers))


def test_the_archive():
    data = archive(TASK)
    assert data == archive(TASK)
    with zipfile.ZipFile(io.BytesIO(data)) as zipped:
        names = zipped.namelist()
        assert names[:4] == ["setup.sh", "run_autograder", "assignment.json", "limits.json"]
        assert {name.split("/")[0] for name in names[4:]} == {"minqwen"}
        assert "minqwen/course/gradescope_run.py" in names
        assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]
        for entry in zipped.infolist():
            runs = entry.filename in ("setup.sh", "run_autograder")
            assert entry.external_attr >> 16 == (0o100755 if runs else 0o100644)
            assert entry.date_time == (1980, 1, 1, 0, 0, 0)
        assert json.loads(zipped.read("assignment.json"))["hidden_seed"] == TASK.hidden_seed
        assert json.loads(zipped.read("limits.json"))["seconds"] == 10
    assert len(data) < 3 << 20


def test_the_files(tmp_path):
    (written,) = gradescope_zip.write(TASK, tmp_path)
    assert written == tmp_path / "staff" / "gradescope" / "autograder.zip"
    assert written.read_bytes() == archive(TASK)
    with pytest.raises(ValueError, match="hidden_seed is missing"):
        gradescope_zip.write(Assignment("a", "A", ("gae",)), tmp_path)
    assert all(not name.startswith("/") and ".." not in name for name in package_files())


@pytest.mark.skipif(os.name != "posix", reason="bash")
def test_the_scripts_are_bash():
    for text in (SETUP, RUN):
        subprocess.run(["bash", "-n"], input=text.encode(), check=True)
        assert text.startswith("#!/usr/bin/env bash\n")


pytest_posix = pytest.mark.skipif(os.name != "posix", reason="the container is Linux")


@pytest_posix
def test_the_solution_earns_everything(container):
    hand_in(container, solution_files(SMALL))
    data = results_of(container)
    assert sum(test.get("score", 0) for test in data["tests"]) == SMALL.points
    assert "Graded as the user" in data["output"]
    assert str(SMALL.hidden_seed) not in json.dumps(data)
    hidden = {t["name"] for t in data["tests"] if t["visibility"] == "after_published"}
    assert hidden == {"gae: more values", "gae: hard inputs"}


@pytest_posix
def test_the_stub_earns_nothing_and_limits_are_read(container):
    hand_in(container, student_files(SMALL))
    limits = json.dumps({"after": "hidden", "seconds": 3})
    (container / "source" / "limits.json").write_text(limits, encoding="utf-8")
    data = results_of(container)
    assert sum(test.get("score", 0) for test in data["tests"]) == 0
    assert {t["visibility"] for t in data["tests"]} == {"visible", "hidden"}


@pytest_posix
def test_nothing_handed_in_and_what_cannot_be_read(container):
    data = results_of(container)
    assert {test.get("score", 0) for test in data["tests"]} == {0}
    assert "not handed in" in json.dumps(data).lower()
    (container / "submission").rmdir()
    data = results_of(container)
    assert "no submission" in data["output"]


@pytest_posix
def test_a_submission_that_takes_too_long(container):
    loop = "def gae(*arguments, **numbers):\n    return 0\n\n\nwhile True:\n    pass\n"
    hand_in(container, {"gae.py": loop})
    limits = json.dumps({"total_seconds": 1})
    (container / "source" / "limits.json").write_text(limits, encoding="utf-8")
    assert "took longer than 1 s" in results_of(container)["output"]


@pytest_posix
def test_results_are_written_whatever_happens(container, monkeypatch):
    hand_in(container, solution_files(SMALL))
    monkeypatch.setattr(gradescope_run, "grade_as", lambda *given: b"Killed\n")
    assert "The autograder failed (JSONDecodeError)" in results_of(container)["output"]

    def killed(*given):
        raise SystemExit

    monkeypatch.setattr(gradescope_run, "grade_as", killed)
    with pytest.raises(SystemExit):
        main()
    data = json.loads((container / "results" / "results.json").read_text(encoding="utf-8"))
    assert "stopped before it had finished" in data["output"]
    require_documented(data, SMALL)


def test_forged_results_are_refused():
    rows = [
        {"name": f"{part}: {aspect}", "score": points, "max_score": points, "output": ""}
        for (part, aspect), points in POINTS.items()
    ]
    good = {"output": "", "tests": rows}
    assert checked(json.dumps(good).encode(), TASK) == good
    forged = [
        {**good, "score": 100},
        {**good, "tests": rows[1:]},
        {**good, "tests": [{**rows[0], "score": 1000.0}, *rows[1:]]},
        {**good, "tests": [{**rows[0], "score": math.nan}, *rows[1:]]},
        {**good, "tests": [{**rows[0], "max_score": 50.0, "score": 50.0}, *rows[1:]]},
    ]
    for one in forged:
        with pytest.raises(ValueError, match=r"rows are not those|has the score|points"):
            checked(json.dumps(one).encode(), TASK)


@pytest_posix
def test_the_seed_is_not_a_file_of_the_second_process(container):
    """What a student's code may open does not hold the seed: it went over a pipe."""
    spy = solution_files(SMALL)["gae.py"] + (
        "\nimport os, pathlib\n"
        f"for place in ({str(container)!r}, '/proc/self/cwd'):\n"
        "    for root, _, names in os.walk(place):\n"
        "        for name in names:\n"
        "            try:\n"
        "                text = pathlib.Path(root, name).read_text()\n"
        "            except OSError:\n"
        "                continue\n"
        "            if 'hidden_seed' in text:\n"
        "                raise RuntimeError('FOUND')\n"
    )
    hand_in(container, {"gae.py": spy})
    data = results_of(container)
    assert "FOUND" not in json.dumps(data)
    assert sum(test.get("score", 0) for test in data["tests"]) == SMALL.points
    assert read_assignment(container / "source") == SMALL


@pytest_posix
def test_as_a_program(container):
    """run_autograder's last line, in this environment."""
    hand_in(container, solution_files(SMALL))
    words = [sys.executable, "-m", "minqwen.course.gradescope_run"]
    subprocess.run(words, check=True)
    data = json.loads((container / "results" / "results.json").read_text(encoding="utf-8"))
    assert sum(test.get("score", 0) for test in data["tests"]) == SMALL.points
