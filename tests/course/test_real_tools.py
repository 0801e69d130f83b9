"""The real nbgrader and otter-grader on what we write, aspect by aspect against `minqwen grade`.

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
from course.filled import FILLED, POINTS, TASK, fill

from minqwen.course import classroom, handout, nbgrader_format, notebook, otter_format
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
SEED = str(TASK.hidden_seed)
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
        encoding="utf-8", errors="replace", check=False, timeout=900,
    )  # fmt: skip
    assert done.returncode == code, done.stdout[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Write the assignment in all formats."""
    out = tmp_path_factory.mktemp("made")
    for one in (handout, notebook, nbgrader_format, otter_format, classroom):
        one.write(TASK, out)
    return out


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """Return what `minqwen grade` gives each submission, by row."""
    folder = tmp_path_factory.mktemp("plain")
    found = {}
    for name, edits in FILLED.items():
        path = folder / f"{name}.ipynb"
        path.write_text(fill(notebook.plain_notebook(TASK), edits), encoding="utf-8")
        graded = grade(path, TASK)
        found[name] = {(row.part, row.aspect): row.points for row in graded.rows}
    return found


def test_what_is_expected_is_what_the_submissions_are_for(expected):
    full = {(row.part, row.aspect): float(row.points) for row in rows_of(TASK)}
    assert expected["key"] == expected["noisy"] == full
    assert set(expected["stub"].values()) == {0.0}
    wrong = {key for key, points in expected["eps_outside"].items() if points != full[key]}
    assert {part for part, _ in wrong} == {"rmsnorm"}
    assert expected["eps_outside"]["rmsnorm", "shape"] == full["rmsnorm", "shape"]
    partial = {k for k, p in expected["widened"].items() if 0 < p < full[k]}
    assert ("rmsnorm", "stability") in partial


# --- nbgrader -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nbgraded(made):
    """Run generate_assignment, validate and autograde; return the points in the gradebook."""
    folder, name = made / "staff" / "nbgrader", TASK.name
    run(["nbgrader", "generate_assignment", name], folder)
    release = (folder / "release" / name / f"{name}.ipynb").read_text(encoding="utf-8")
    for student, edits in FILLED.items():
        path = folder / "submitted" / student / name / f"{name}.ipynb"
        path.parent.mkdir(parents=True)
        path.write_text(fill(release, edits), encoding="utf-8")
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


def test_the_same_notebooks_graded_from_outside(made, nbgraded, expected):
    for student in ("eps_outside", "widened"):
        path = made / "staff/nbgrader/submitted" / student / TASK.name / f"{TASK.name}.ipynb"
        rows = {(row.part, row.aspect): row.points for row in grade(path, TASK).rows}
        assert rows == expected[student]


def test_nbgrader_releases_no_secret_and_no_solution(made, nbgraded):
    text = (made / "staff/nbgrader/release" / TASK.name / f"{TASK.name}.ipynb").read_text("utf-8")
    assert SEED not in text
    assert "SOLUTION" not in text
    assert "HIDDEN" not in text
    bodies = [line for one in parts_of(TASK) for f in one.functions for line in f.body.splitlines()]
    released = {"".join(line) for c in json.loads(text)["cells"] for line in c["source"]}
    long = {line for line in bodies if len(line) > 40 and "import" not in line}
    assert not long & {line.rstrip("\n") for line in released}


def test_nbgrader_validates_the_solved_notebook(made, nbgraded):
    folder = made / "staff" / "nbgrader"
    said = run(["nbgrader", "validate", f"source/{TASK.name}/{TASK.name}.ipynb"], folder)
    assert "Success! Your notebook passes all the tests." in said
    said = run(["nbgrader", "validate", f"release/{TASK.name}/{TASK.name}.ipynb"], folder)
    visible = [key for key in POINTS if key[1] in ("shape", "values", "stability")]
    assert f"VALIDATION FAILED ON {len(visible)} CELL(S)" in said


# --- otter ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def otter(made):
    """Run otter assign and otter run; return results.json of each submission."""
    folder, name = made / "staff" / "otter", TASK.name
    run(["otter", "assign", f"{name}.ipynb", "dist"], folder)  # 1 if its solution fails
    student = (folder / "dist" / "student" / f"{name}.ipynb").read_text(encoding="utf-8")
    (zipped,) = (folder / "dist" / "autograder").glob("*.zip")
    found = {}
    for one, edits in FILLED.items():
        here = folder / one
        here.mkdir()
        (here / "hw.ipynb").write_text(fill(student, edits), encoding="utf-8")
        run(["otter", "run", "--no-logo", "-a", str(zipped), "-o", str(here), "hw.ipynb"], here)
        found[one] = json.loads((here / "results.json").read_text(encoding="utf-8"))
    return found


def test_otter_gives_the_full_rows_of_minqwen_grade(otter, expected):
    """A test case is all or nothing: what `minqwen grade` gives in part is 0."""
    for one, rows in expected.items():
        tests = {test["name"]: test for test in otter[one]["tests"] if "score" in test}
        for part in dict.fromkeys(part for part, _ in POINTS):
            aspects = [aspect for p, aspect in POINTS if p == part]
            full = {a: POINTS[part, a] for a in aspects if rows[part, a] == POINTS[part, a]}
            most = sum(POINTS[part, a] for a in aspects)
            assert tests[part]["score"] == pytest.approx(sum(full.values()), abs=1e-9), one
            assert tests[part]["max_score"] == pytest.approx(most, abs=1e-9)
            text = tests[part]["output"]
            if "All test cases passed" in text:
                assert len(full) == len(aspects)
                continue
            for number, aspect in enumerate(aspects, 1):
                said = text.split(f"{part} - {number} result:")[1].split(f"{part} - ")[0]
                assert ("Test case passed" in said) == (aspect in full), (one, part, aspect)


def test_otter_gives_students_no_secret_and_no_solution(made, otter):
    path = made / "staff" / "otter" / "dist" / "student" / f"{TASK.name}.ipynb"
    text = path.read_text(encoding="utf-8")
    assert SEED not in text
    assert "SOLUTION" not in text
    assert "rmsnorm_forward: write this function" in text
    (zipped,) = (made / "staff" / "otter" / "dist" / "autograder").glob("*.zip")
    with zipfile.ZipFile(zipped) as archived:
        assert SEED in archived.read("tests/rmsnorm.py").decode()
        assert "minqwen" in archived.read("environment.yml").decode()


# --- Gradescope and Classroom ---------------------------------------------------------------------


def test_gradescope_from_the_zip_alone(tmp_path):
    """setup.sh and run_autograder as in the container: an environment with NumPy and regex only."""
    source = tmp_path / "source"
    (tmp_path / "z.zip").write_bytes(archive(TASK))
    run(["unzip", "-q", str(tmp_path / "z.zip"), "-d", str(source)], tmp_path)
    (tmp_path / "submission").mkdir()
    for name, text in solution_files(TASK).items():
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
    visible = sum(p for (_, aspect), p in POINTS.items() if aspect in classroom.VISIBLE)
    assert sum(step["with"]["max-score"] for step in graders) == round(visible)
    reporter = steps[-1]
    assert reporter["with"]["runners"] == ",".join(step["id"] for step in graders)
    assert list(reporter["env"]) == [f"{step['id'].upper()}_RESULTS" for step in graders]
    (tmp_path / "rmsnorm.py").write_text(student_files(TASK)["rmsnorm.py"], encoding="utf-8")
    run(["bash", "-c", prepare.splitlines()[-1]], tmp_path)
    failed = [s["id"] for s in graders if s["id"].startswith("rmsnorm")]
    for step in graders:
        run(["bash", "-c", step["with"]["command"]], tmp_path, code=int(step["id"] in failed))
