"""Notebooks for students and staff: valid, the same bytes, and the solved ones solve."""

import __future__

import ast
import json

import nbformat
import pytest
from course.filled import TASK

from minqwen.check.specs import names
from minqwen.course import handout, notebook
from minqwen.course.assignment import Assignment
from minqwen.course.cut import removed_lines
from minqwen.course.file_cells import names_in, parts_of
from minqwen.course.grade import grade
from minqwen.course.ladder import LADDER
from minqwen.course.notebook import plain_notebook
from minqwen.course.self_check import secret_problems, tokens
from minqwen.course.variants import VARIANTS

KNOWN = tuple(one.name for one in LADDER if all(part.spec in names() for part in one.parts))
ALL = Assignment("all", "All", KNOWN, hidden_seed=2**61 + 12345)


def run(text):
    """Run the code cells of a notebook, one after the other, in one namespace."""
    namespace = {}
    for number, cell in enumerate(json.loads(text)["cells"]):
        if cell["cell_type"] == "code":
            flags = __future__.annotations.compiler_flag  # a kernel keeps it from cell to cell
            code = compile("".join(cell["source"]), f"<cell {number}>", "exec", flags=flags)
            exec(code, namespace)
    return namespace


def test_the_notebook_is_valid_and_the_same_each_time(tmp_path):
    written = notebook.write(TASK, tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in written] == [
        "student/hw1.ipynb",
        "staff/solution_notebook/hw1.ipynb",
    ]
    for path, solved in zip(written, (False, True), strict=True):
        text = path.read_text(encoding="utf-8")
        assert text == plain_notebook(TASK, solved=solved)
        found = nbformat.reads(text, as_version=4)
        nbformat.validate(found)
        assert len({cell.id for cell in found.cells}) == len(found.cells)
        assert not any(cell.get("outputs") for cell in found.cells)


def test_the_students_notebook_holds_no_secret(tmp_path):
    notebook.write(ALL, tmp_path)
    assert list(secret_problems(tmp_path / "student", ALL)) == []
    assert list(secret_problems(tmp_path / "staff", ALL))  # which would be seen


def test_every_function_is_to_be_written_once():
    cells = json.loads(plain_notebook(ALL))["cells"]
    defined = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            tree = ast.parse("".join(cell["source"]))
            for name in names_in(tree):
                assert name not in defined, name
                defined[name] = tree
    wanted = {name for one in ALL.found for part in one.parts for name in part.functions}
    assert wanted <= defined.keys()
    for name in wanted:
        assert "NotImplementedError" in ast.unparse(defined[name])


def test_the_stub_stops_at_the_first_check():
    with pytest.raises(AssertionError, match="linear: shape: linear_forward is not written yet"):
        run(plain_notebook(TASK))


def test_the_solved_notebook_passes_its_checks(capsys):
    run(plain_notebook(TASK, solved=True))
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 3 * len(TASK.exercises)
    assert err == ""


@pytest.mark.slow
def test_the_whole_ladder_solved(capsys):
    run(plain_notebook(ALL, solved=True))
    assert len(capsys.readouterr().out.splitlines()) == 3 * len(parts_of(ALL))


@pytest.mark.slow
@pytest.mark.parametrize("one", VARIANTS, ids=lambda one: f"{one.concept}-{one.mistake}")
def test_a_variant_solved(one):
    rungs = [o.name for o in LADDER if one.concept in {p.spec for p in o.parts}]
    task = Assignment("v", "V", tuple(rungs), variants={one.concept: one.mistake}, lang="zh")
    text = plain_notebook(task, solved=True)
    run(text)
    shown = "".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
    assert one.says_zh in shown
    assert f"variants={{'{one.concept}': '{one.mistake}'}}" in shown


def test_words_and_options():
    task = Assignment("v", "V", ("gae",), lang="zh", hint=2, public_seed=5)
    text = plain_notebook(task)
    assert "提交" in text
    assert 'check_cell(\\"gae\\", \\"values\\", globals(), hint=2, public_seed=5)' in text
    assert text.count("<details>") == 3


def test_removed_lines_would_be_found():
    module = "minqwen.layers.rmsnorm"
    lines = [x for x in removed_lines(module, TASK.functions_in(module)) if tokens(x) > 8]
    solved = plain_notebook(TASK, solved=True)
    assert lines
    assert all(json.dumps(line)[1:-1] in solved for line in lines)


def test_a_notebook_beside_the_stubs_counts(tmp_path):
    """Who works in the notebook and grades the folder is not graded on the stubs beside it."""
    task = Assignment("hw", "H", ("gae",), hidden_seed=5)
    handout.write(task, tmp_path)
    path = tmp_path / "student" / "hw.ipynb"
    path.write_text(plain_notebook(task, solved=True), encoding="utf-8")
    found = grade(tmp_path / "student", task)
    assert found.points == found.max_points == 100
