"""The real nbgrader and otter-grader on the whole ladder, row by row against `minqwen grade`.

Needs nbgrader 0.9.6 and otter-grader 7.0.0: pip install -e ".[grading]" pytest. Elsewhere it is
skipped. It takes some minutes: each submission runs in kernels of its own.
"""

import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from course.filled import LADDER, NOISE, TASK, fill

from minqwen.check.specs import spec
from minqwen.course import classroom, handout, nbgrader_format, notebook, otter_format
from minqwen.course.aspects import VISIBLE
from minqwen.course.file_cells import parts_of
from minqwen.course.grade import grade
from minqwen.course.gradescope_zip import archive
from minqwen.course.handout import solution_files, student_files
from minqwen.course.rubric import rows_of

MISSING = [name for name in ("nbgrader", "otter") if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"pip install '.[grading]': {', '.join(MISSING)}"),
]
POINTS = {(row.part, row.aspect): float(row.points) for row in rows_of(LADDER)}
MISTAKES = (  # of the bank, for who is half right: one kind or another of row is lost
    *("rmsnorm.eps_outside", "rope.forwards_again", "attention.scale_forgotten_in_dq"),
    *("cross_entropy.nan_when_nothing_counts", "bpe_encode.rightmost_of_equals"),
    *("logn.one_too_many", "moe_router.sum_constant", "gae.lam_only", "ppo_value_loss.sign"),
    "dpo_loss.beta_forgotten",
)
LINEAR = "y = widen(x).reshape(-1, w.shape[1]) @ widen(w).T"
OTHER_EDITS = {
    LINEAR: NOISE + LINEAR,  # prints and warnings cost nothing
    "return new_w.astype(w.dtype, copy=False), m, v": 'return new_w.astype("float64"), m, v',
}
READ_GRADES = """
import json, sys
from nbgrader.api import Gradebook
found = {}
with Gradebook("sqlite:///gradebook.db") as book:
    for one in book.assignment_submissions(sys.argv[1]):
        cells = {g.name: [g.score, g.max_score] for n in one.notebooks for g in n.grades}
        found[one.student.id] = cells
print(json.dumps(found))
"""


def run(words, folder, code=0):
    """Run a program of this environment; return what it printed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        words, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        encoding="utf-8", errors="replace", check=False, timeout=1800,
    )  # fmt: skip
    assert done.returncode == code, done.stdout[-3000:]
    return done.stdout


def edits_of(mistakes):
    """Return mistakes of the bank as edits of the solution: what stands there -> what is put."""
    found = {}
    for name in mistakes:
        part, _, one = name.partition(".")
        (mistake,) = [m for m in (*spec(part).forward, *spec(part).backward) if m.name == one]
        found[mistake.find] = mistake.put
    return found


FILLED = {"key": {}, "stub": None, "half_right": {**edits_of(MISTAKES), **OTHER_EDITS}}


def filled(text, student):
    """Return the notebook of a student, made of the one that was given out; see filled.py."""
    return fill(text, FILLED[student], LADDER)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Write the assignment in all formats."""
    out = tmp_path_factory.mktemp("made")
    for one in (handout, notebook, nbgrader_format, otter_format, classroom):
        one.write(LADDER, out)
    return out


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """Return what `minqwen grade` gives each submission, by row."""
    folder = tmp_path_factory.mktemp("plain")
    found = {}
    for student in FILLED:
        path = folder / f"{student}.ipynb"
        path.write_text(filled(notebook.plain_notebook(LADDER), student), encoding="utf-8")
        graded = grade(path, LADDER)
        found[student] = {(row.part, row.aspect): row.points for row in graded.rows}
    return found


def test_what_is_expected_is_what_the_submissions_are_for(expected):
    assert expected["key"] == POINTS
    assert set(expected["stub"].values()) == {0.0}
    rows = expected["half_right"]
    lost = {key for key, points in rows.items() if points < POINTS[key]}
    parts = {part for part, _ in lost}
    assert {name.partition(".")[0] for name in MISTAKES} <= parts
    assert parts.isdisjoint({"linear", "swiglu", "pairwise_loss", "ppo_policy_loss"})
    assert {aspect for part, aspect in lost if part == "adamw"} == {"stability"}
    assert {key[1] for key in lost if rows[key] == 0} >= {"values", "gradient"}
    assert len([key for key in lost if rows[key] > 0]) >= 5
    assert 50 < sum(rows.values()) < 90


# --- nbgrader -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nbgraded(made):
    """Run generate_assignment, validate and autograde; return the points in the gradebook."""
    folder, name = made / "staff" / "nbgrader", LADDER.name
    run(["nbgrader", "generate_assignment", name], folder)
    release = (folder / "release" / name / f"{name}.ipynb").read_text(encoding="utf-8")
    for student in FILLED:
        path = folder / "submitted" / student / name / f"{name}.ipynb"
        path.parent.mkdir(parents=True)
        path.write_text(filled(release, student), encoding="utf-8")
    run(["nbgrader", "autograde", name], folder)
    script = folder / "read_grades.py"
    script.write_text(READ_GRADES, encoding="utf-8")
    return json.loads(run([sys.executable, str(script), name], folder).splitlines()[-1])


def test_nbgrader_gives_the_points_of_minqwen_grade(nbgraded, expected):
    assert nbgraded.keys() == expected.keys()
    for student, rows in expected.items():
        for (part, aspect), points in rows.items():
            score, most = nbgraded[student][nbgrader_format.grade_id(part, aspect)]
            assert (score, most) == (points, POINTS[part, aspect]), (student, part, aspect)
        assert len(nbgraded[student]) == len(rows)


def test_the_same_notebook_graded_from_outside(made, nbgraded, expected):
    path = made / "staff/nbgrader/submitted/half_right" / LADDER.name / f"{LADDER.name}.ipynb"
    rows = {(row.part, row.aspect): row.points for row in grade(path, LADDER).rows}
    assert rows == expected["half_right"]


def test_nbgrader_releases_no_secret_and_no_solution(made, nbgraded):
    path = made / "staff/nbgrader/release" / LADDER.name / f"{LADDER.name}.ipynb"
    text = path.read_text(encoding="utf-8")
    assert str(LADDER.hidden_seed) not in text
    assert "SOLUTION" not in text
    assert "HIDDEN" not in text
    functions = [function for one in parts_of(LADDER) for function in one.functions]
    bodies = [line for function in functions for line in function.body.splitlines()]
    released = {"".join(line) for c in json.loads(text)["cells"] for line in c["source"]}
    long = {line for line in bodies if len(line) > 40 and "import" not in line}
    assert not long & {line.rstrip("\n") for line in released}


def test_nbgrader_validates_the_solved_notebook(made, nbgraded):
    folder, name = made / "staff" / "nbgrader", LADDER.name
    said = run(["nbgrader", "validate", f"source/{name}/{name}.ipynb"], folder)
    assert "Success! Your notebook passes all the tests." in said
    said = run(["nbgrader", "validate", f"release/{name}/{name}.ipynb"], folder)
    visible = [key for key in POINTS if key[1] in VISIBLE]
    assert f"VALIDATION FAILED ON {len(visible)} CELL(S)" in said


# --- otter ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def otter(made):
    """Run otter assign and otter run; return results.json of each submission."""
    folder, name = made / "staff" / "otter", LADDER.name
    run(["otter", "assign", f"{name}.ipynb", "dist"], folder)  # 1 if its solution fails
    student = (folder / "dist" / "student" / f"{name}.ipynb").read_text(encoding="utf-8")
    (zipped,) = (folder / "dist" / "autograder").glob("*.zip")
    found = {}
    for one in FILLED:
        here = folder / one
        here.mkdir()
        (here / "hw.ipynb").write_text(filled(student, one), encoding="utf-8")
        run(["otter", "run", "--no-logo", "-a", str(zipped), "-o", str(here), "hw.ipynb"], here)
        found[one] = json.loads((here / "results.json").read_text(encoding="utf-8"))
    return found


def test_otter_gives_the_full_rows_of_minqwen_grade(otter, expected):
    """A test case is all or nothing: what `minqwen grade` gives in part is 0."""
    for one, rows in expected.items():
        tests = {test["name"]: test for test in otter[one]["tests"] if "score" in test}
        for part in dict.fromkeys(part for part, _ in POINTS):
            mine = {a: most for (p, a), most in POINTS.items() if p == part}
            full = {aspect for aspect, most in mine.items() if rows[part, aspect] == most}
            got = sum(mine[aspect] for aspect in full)
            assert tests[part]["score"] == pytest.approx(got, abs=1e-9), (one, part)
            assert tests[part]["max_score"] == pytest.approx(sum(mine.values()), abs=1e-9)
            text = tests[part]["output"]
            if "All test cases passed" in text:
                assert len(full) == len(mine)
                continue
            for number, aspect in enumerate(mine, 1):
                said = text.split(f"{part} - {number} result:")[1].split(f"{part} - ")[0]
                assert ("Test case passed" in said) == (aspect in full), (one, part, aspect)


def test_otter_gives_students_no_secret_and_no_solution(made, otter):
    dist, name = made / "staff" / "otter" / "dist", LADDER.name
    text = (dist / "student" / f"{name}.ipynb").read_text(encoding="utf-8")
    seed = str(LADDER.hidden_seed)
    assert seed not in text
    assert "SOLUTION" not in text
    assert "rmsnorm_forward: write this function" in text
    (zipped,) = (dist / "autograder").glob("*.zip")
    with zipfile.ZipFile(zipped) as archived:
        assert seed in archived.read("tests/rmsnorm.py").decode()
        assert "minqwen" in archived.read("environment.yml").decode()


# --- Gradescope and Classroom ---------------------------------------------------------------------


def test_gradescope_from_the_zip_alone(tmp_path):
    """setup.sh and run_autograder as in the container: an environment with NumPy and regex only."""
    source = tmp_path / "source"
    (tmp_path / "z.zip").write_bytes(archive(LADDER))
    run(["unzip", "-q", str(tmp_path / "z.zip"), "-d", str(source)], tmp_path)
    (tmp_path / "submission").mkdir()
    for name, text in solution_files(LADDER).items():
        (tmp_path / "submission" / name).write_text(text, encoding="utf-8")
    env = {**os.environ, "MINQWEN_AUTOGRADER": str(tmp_path), "MINQWEN_USER": "nobody"}
    env.pop("PYTHONPATH", None)
    subprocess.run([str(source / "setup.sh")], env=env, check=True)
    listed = run([str(tmp_path / "venv/bin/python"), "-m", "pip", "freeze", "--all"], tmp_path)
    names = {line.partition("==")[0].lower() for line in listed.splitlines() if "==" in line}
    assert names - {"pip", "setuptools", "wheel"} == {"numpy", "regex"}
    subprocess.run([str(source / "run_autograder")], env=env, check=True, cwd=tmp_path)
    results = json.loads((tmp_path / "results" / "results.json").read_text(encoding="utf-8"))
    scores = [(t["name"], t["score"]) for t in results["tests"] if "score" in t]
    assert scores == [(f"{p}: {a}", points) for (p, a), points in POINTS.items()]


def test_the_classroom_workflow_runs(tmp_path):
    """Each command of the workflow, as its actions would run it."""
    yaml = pytest.importorskip("yaml")
    text = classroom.workflow(TASK)
    steps = yaml.safe_load(text)["jobs"]["run-autograding-tests"]["steps"]
    for name, content in {**student_files(TASK), **solution_files(TASK)}.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    (prepare,) = [s["run"] for s in steps if "run" in s]
    for line in prepare.splitlines():
        if "pip install" not in line:
            run(["bash", "-c", line], tmp_path)
    graders = [s for s in steps if "autograding-command-grader" in s.get("uses", "")]
    for step in graders:
        run(["bash", "-c", step["with"]["command"]], tmp_path)
    visible = sum(row.points for row in rows_of(TASK) if row.aspect in VISIBLE)
    assert sum(step["with"]["max-score"] for step in graders) == round(visible)
    reporter = steps[-1]
    assert reporter["with"]["runners"] == ",".join(step["id"] for step in graders)
    assert list(reporter["env"]) == [f"{step['id'].upper()}_RESULTS" for step in graders]
    (tmp_path / "rmsnorm.py").write_text(student_files(TASK)["rmsnorm.py"], encoding="utf-8")
    run(["bash", "-c", prepare.splitlines()[-1]], tmp_path)
    failed = [s["id"] for s in graders if s["id"].startswith("rmsnorm")]
    for step in graders:
        run(["bash", "-c", step["with"]["command"]], tmp_path, code=int(step["id"] in failed))
