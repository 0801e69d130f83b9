"""Many submissions: each gets its row, nothing stops the others, and a second run goes on."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from course.grading import assignment, edited, solution, stubs

from minqwen.course import batch as module
from minqwen.course.assignment import write_assignment
from minqwen.course.batch import Batch, Options, digest_of, names_of, submissions_in
from minqwen.course.class_tables import Outcome, summary, table

TASK = assignment("rmsnorm", points=10)
KEY = solution(TASK)["rmsnorm.py"]
WRONG = edited({"a": KEY}, "a", ("(x_wide * x_wide).mean(", "(x_wide * x_wide).sum("))["a"]
TEXTS = {
    "key": KEY,
    "stub": stubs(TASK)["rmsnorm.py"],
    "wrong": WRONG,
    "same_wrong": f"# mine\n{WRONG}",
    "=formula": "x = 1\n",
    "broken": "def f(:\n",
    "exits": "import os\nos._exit(0)\ndef rmsnorm_forward(): pass\n",
    "loops": "def rmsnorm_forward(x, w, eps):\n    while True: pass\n",
    "look": f"{KEY}\nimport gc\n",
}


@pytest.fixture
def place(tmp_path):
    """A folder with twelve submissions, and the assignment beside it."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name, text in TEXTS.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "answer.py").write_text(KEY, encoding="utf-8")
    with zipfile.ZipFile(folder / "packed.zip", "w") as archive:
        archive.writestr("rmsnorm.py", KEY)
    (folder / "bad.zip").write_bytes(b"PK no zip")
    (tmp_path / "staff").mkdir()
    write_assignment(TASK, tmp_path / "staff")
    return tmp_path


def run(place, **options):
    lines = []
    found = Batch(
        submissions_in(place / "in"),
        place / "staff",
        place / "out",
        Options(seconds=1.0),
        jobs=2,
        say=lines.append,
        **options,
    ).run()
    return {one.name: one for one in found}, lines


def test_twelve_submissions(place):
    found, lines = run(place)
    points = {name: None if one.data is None else one.data["points"] for name, one in found.items()}
    assert points.pop("wrong") == points.pop("same_wrong") == 1.0
    assert points == {
        **dict.fromkeys(("key", "deep", "packed", "look"), 10.0),
        **dict.fromkeys(("stub", "=formula", "broken", "exits", "loops"), 0.0),
        "bad": None,
    }
    assert "is no zip archive" in found["bad"].says
    assert len(lines) == 12
    assert lines[-1].startswith("[12/12]")

    with (place / "out" / "grades.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert rows["key"]["points"] == "10"
    assert (rows["bad"]["status"], rows["bad"]["points"]) == ("not graded", "0")
    assert "'=formula" in rows

    text = (place / "out" / "summary.md").read_text(encoding="utf-8")
    assert "11 submissions graded" in text
    assert "| rmsnorm.sum_for_mean | 2 |" in text
    assert "- bad: " in text
    assert "- look: look.py, line" in text
    assert ": imports gc" in text
    data = json.loads((place / "out" / "wrong.json").read_text(encoding="utf-8"))
    assert data["name"] == "wrong"
    assert not list((place / "out").glob("*.part"))

    before = {p.name: p.stat().st_mtime_ns for p in (place / "out").glob("*.json")}
    (place / "in" / "stub.py").write_text(KEY, encoding="utf-8")
    again, lines = run(place)
    assert again["stub"].data["points"] == 10
    assert [n for n, one in again.items() if one.fresh] == ["bad", "stub"]
    assert sum(line.endswith("as before") for line in lines) == 10
    after = {p.name: p.stat().st_mtime_ns for p in (place / "out").glob("*.json")}
    assert [name for name in before if before[name] != after[name]] == ["stub.json"]


def test_what_a_grade_depends_on(place):
    file = place / "in" / "key.py"
    first = digest_of(file, TASK, Options())
    assert first == digest_of(file, TASK, Options())
    assert first != digest_of(file, TASK, Options(seconds=3.0))
    assert first != digest_of(file, assignment("rmsnorm"), Options())
    folder = digest_of(place / "in", TASK, Options())
    file.write_text("x", encoding="utf-8")
    assert first != digest_of(file, TASK, Options())
    assert folder != digest_of(place / "in", TASK, Options())


def test_names_tell_submissions_apart():
    paths = [Path("a/x.py"), Path("a/x.zip"), Path("b/x.py"), Path("y")]
    assert list(names_of(paths)) == ["x.py", "x.zip", "b_x.py", "y"]
    with pytest.raises(ValueError, match="two submissions are called"):
        names_of([Path("a/x.py"), Path("a/x.py"), Path("a/x.py")])


def test_an_empty_folder(tmp_path):
    with pytest.raises(ValueError, match="holds no submissions"):
        submissions_in(tmp_path)


def test_a_grader_that_breaks_is_one_row(place, monkeypatch):
    monkeypatch.setattr(module, "BOOT", "import sys; sys.stderr.write('no luck\\n'); sys.exit(9)")
    found, _ = run(place)
    assert {one.says for one in found.values()} == {"no luck"}
    assert "not graded" in table(list(found.values()), TASK)


def test_a_grader_that_hangs_is_stopped(place, monkeypatch):
    monkeypatch.setattr(module, "BOOT", "import time; time.sleep(100)")
    monkeypatch.setattr(module, "SECONDS_TO_START", 0.2)
    monkeypatch.setattr(module, "CALLS", 0)
    found, _ = run(place)
    assert {one.says for one in found.values()} == {"the grader did not end within 0.2 s: stopped"}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_leaves_whole_files(place):
    for number in range(20):
        (place / "in" / f"more{number}.py").write_text(KEY, encoding="utf-8")
    code = (
        "import sys; from pathlib import Path; from minqwen.course.batch import *\n"
        "place = Path(sys.argv[1])\n"
        "Batch(submissions_in(place / 'in'), place / 'staff', place / 'out', Options(1.0)).run()"
    )
    root = str(Path(module.__file__).parents[2])
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(place)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    start = time.monotonic()
    _, errors = process.communicate(timeout=30)
    assert time.monotonic() - start < 20
    assert b"KeyboardInterrupt" in errors
    files = list((place / "out").glob("*.json"))
    assert 0 < len(files) < 30
    for file in files:
        assert json.loads(file.read_text(encoding="utf-8"))["rows"]
    assert (place / "out" / "grades.csv").is_file()
    assert not list((place / "out").glob("*.part"))


def test_names_that_no_text_can_hold_lose_nobody(place):
    """Archives of other systems leave such names; the tables must be written all the same."""
    names = ("bad_\udcff\udcfe.py", "two\nlines.py")
    for file in list((place / "in").iterdir())[1:]:
        subprocess.run(["rm", "-r", str(file)], check=True)
    for name in names:
        (place / "in" / name).write_text("x = 1\n", encoding="utf-8")
    found, lines = run(place)
    assert len(found) == 3
    for line in lines:
        line.encode("utf-8")
        assert "\n" not in line
    with (place / "out" / "grades.csv").open(encoding="utf-8", newline="") as file:
        assert len(list(csv.reader(file))) == 4
    assert "3 submissions graded" in (place / "out" / "summary.md").read_text(encoding="utf-8")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_what_is_not_read_is_not_hashed(place):
    folder = place / "in" / "deep"
    before = digest_of(folder, TASK, Options())
    with (folder / "weights.bin").open("wb") as file:
        file.truncate(1 << 40)
    os.mkfifo(folder / "pipe.py")
    os.mkfifo(place / "in" / "pipe.zip")
    assert digest_of(folder, TASK, Options()) == before
    assert digest_of(place / "in" / "pipe.zip", TASK, Options())


def test_a_link_to_the_answers_is_not_followed(place):
    (place / "staff" / "solution.py").write_text(KEY, encoding="utf-8")
    for file in list((place / "in").iterdir())[1:]:
        subprocess.run(["rm", "-r", str(file)], check=True)
    (place / "in" / "eve.py").symlink_to(place / "staff" / "solution.py")
    found, _ = run(place)
    assert found["eve"].data is None
    assert "link into the assignment" in found["eve"].says


def test_a_note_of_many_stands_once_in_the_summary():
    notes = ["a.py is graded as b.py", "a: it prints: 1", "a: it prints: 2", "a: f equals ours"]
    rows = [{"exercise": "rmsnorm", "points": 1.0, "max_points": 10.0, "mistakes": []}]
    each = [
        Outcome(name, name, {"name": name, "rows": rows, "points": 1.0, "max_points": 10.0,
                             "notes": notes if name != "dan" else ["only: dan"]})
        for name in ("ann", "bob", "cy", "dan")
    ]  # fmt: skip
    text = summary(each, TASK)
    assert "- a: f equals ours: ann, bob, cy\n" in text
    assert text.count("f equals ours") == text.count("it prints: 1") == 1
    assert "- dan: only: dan\n" in text
    assert "it prints: 2" not in text
    assert "is graded as" not in text
