"""`minqwen assign`: what it writes, prints and refuses."""

import json
import os
import subprocess
import sys

import pytest

from minqwen.cli import main
from minqwen.commands import assign
from minqwen.course import self_check
from minqwen.course.assignment import read_assignment
from minqwen.course.grade import grade
from minqwen.course.self_check import files_of


@pytest.fixture
def quick(monkeypatch):
    """Leave out the grading, which has a test of its own."""
    monkeypatch.setattr(self_check, "point_problems", lambda out, assignment: [])


def test_an_assignment_from_end_to_end(tmp_path, capsys):
    out = tmp_path / "hw1"
    assert main(["assign", "linear", "gae", "--out", str(out), "--seed", "7"]) == 0
    shown = capsys.readouterr()
    assert "Linear layer, Generalised advantage estimation: 2 exercises, 100 points" in shown.out
    assert "the solution earned every point, the stubs none" in shown.out
    assert shown.err.splitlines() == [
        "checking: stubs, secrets, same bytes",
        "grading: the solution, then the stubs",
    ]
    assert sorted(path.name for path in out.iterdir()) == ["staff", "student"]
    assert read_assignment(out / "student").hidden_seed is None
    assert grade(out / "staff" / "solution", out / "staff").points == 100
    assert grade(out / "student", out / "staff").points == 0


def test_the_handed_out_tests_run(tmp_path, quick):
    """Stubs fail what students get, the solution passes what the staff gets."""
    out = tmp_path / "hw1"
    assert main(["assign", "gae", "--out", str(out)]) == 0
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "student/test_visible.py",
         "staff/hidden_tests.py"],
        cwd=out,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert "3 failed, 5 passed" in done.stdout
    assert "gae: write this function" in done.stdout


def test_the_same_seed_gives_the_same_bytes(tmp_path, quick):
    words = ["assign", "rmsnorm", "bpe_train", "--lang", "zh", "--name", "hw"]
    for name, seed in (("a", "7"), ("b", "7"), ("c", "8")):
        assert main([*words, "--out", str(tmp_path / name), "--seed", seed]) == 0
    a, b, c = (files_of(tmp_path / name) for name in "abc")
    assert a == b
    assert {name for name in a if a[name] != c[name]} == {"staff/assignment.json"}


def test_options_reach_the_assignment(tmp_path, quick, capsys):
    words = ["assign", "rmsnorm", "window_mask", "--out", str(tmp_path / "hw"), "--points", "30"]
    words += ["--lang", "zh", "--title", "作业", "--name", "week-3", "--hint", "0", "--json"]
    assert main([*words, "--variant", "rmsnorm=gain_plus_one"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["name"], facts["points"]) == ("week-3", 30)
    this = read_assignment(tmp_path / "hw" / "staff")
    assert (this.title, this.lang, this.hint, this.points) == ("作业", "zh", 0, 30)
    assert this.variants == {"rmsnorm": "gain_plus_one"}
    assert "增益是 1 + w" in (tmp_path / "hw/student/README.md").read_text(encoding="utf-8")


def test_a_preset(tmp_path, quick):
    assert main(["assign", "--preset", "tokenizer", "--out", str(tmp_path / "t")]) == 0
    assert read_assignment(tmp_path / "t" / "staff").exercises == ("bpe_train", "bpe_encode")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rmsnorm"], "say where to: --out FOLDER"),
        (["--out", "x"], "name exercises, or --preset ladder"),
        (["norm", "--out", "x"], "no exercise 'norm'; the ladder has linear, rmsnorm"),
        (["gae", "--preset", "basics", "--out", "x"], "either --preset or exercises"),
        (["gae", "--out", "x", "--seed", "-1"], "--seed must be 0 or more"),
        (["gae", "--out", "x", "--points", "0"], "points must be at least 1"),
        (["gae", "--out", "x y"], "the folder 'x y' cannot name the assignment: say --name"),
        (["gae", "--out", "x", "--name", "x y"], "name must be letters, digits"),
        (["gae", "--out", "x", "--variant", "gae"], "--variant must be CONCEPT=MISTAKE"),
        (["gae", "--out", "x", "--variant", "rope=interleaved"], "'rope' is not in the exercises"),
        (["rope", "--out", "x", "--variant", "rope=a", "--variant", "rope=b"], "rope twice"),
        (["rope", "--out", "x", "--variant", "rope=wrong"], "no variant rope=wrong; there are"),
    ],
)
def test_wrong_use_is_one_line(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert main(["assign", *words]) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_in_use_is_left_alone(tmp_path, quick, capsys):
    (tmp_path / "hw").mkdir()
    assert main(["assign", "gae", "--out", str(tmp_path / "hw")]) == 0  # empty is fine
    before = files_of(tmp_path)
    assert main(["assign", "gae", "--out", str(tmp_path / "hw")]) == 2
    assert "is not empty: name another --out" in capsys.readouterr().err
    (tmp_path / "file").write_text("x", encoding="utf-8")
    assert main(["assign", "gae", "--out", str(tmp_path / "file")]) == 2
    assert "is a file, not a folder" in capsys.readouterr().err
    assert files_of(tmp_path) == {**before, "file": b"x"}


def test_when_the_check_fails_nothing_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(self_check, "point_problems", lambda out, assignment: ["a", "b"])
    assert main(["assign", "gae", "--out", str(tmp_path / "hw")]) == 1
    shown = capsys.readouterr()
    assert "minqwen: a\nminqwen: b\nminqwen: 2 problems, so nothing was written\n" in shown.err
    assert not shown.out
    assert not list(tmp_path.iterdir())


def test_a_format_that_cannot_be_written_is_said_before_any_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(assign.FORMATS, "otter", "no_such_file")
    words = ["assign", "gae", "--out", str(tmp_path / "hw"), "--format", "otter"]
    assert main(words) == 2
    assert "--format otter cannot be written by this minqwen" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_other_formats_are_written_beside_the_plain_one(tmp_path, quick, monkeypatch):
    calls = []

    class Notebook:
        @staticmethod
        def write(assignment, out):
            calls.append(assignment.name)
            (out / "student" / f"{assignment.name}.ipynb").write_text("{}", encoding="utf-8")

    monkeypatch.setattr(assign, "writers_of", lambda formats: [assign.write, Notebook.write])
    assert main(["assign", "gae", "--out", str(tmp_path / "hw")]) == 0
    assert (tmp_path / "hw/student/hw.ipynb").exists()
    assert calls == ["hw", "hw"]  # the second time for the check of the bytes


def test_the_lists(capsys):
    assert main(["assign", "--list"]) == 0
    text = capsys.readouterr().out
    assert "long_context" in text
    assert "--preset alignment    reward_loss, gae, ppo_loss, dpo" in text
    assert "--variant rope=interleaved" in text
    assert main(["assign", "--list", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert len(facts["exercises"]) == 16
    assert "ppo_value_loss=no_half" in facts["variants"]
    assert facts["presets"]["tokenizer"] == ["bpe_train", "bpe_encode"]
