"""Checks in a notebook's kernel: the points of `minqwen grade`, nothing on stderr, None."""

import time

import numpy as np
import pytest
from course.filled import FILLED, POINTS, TASK, fill
from course.grading import graded

from minqwen.course.cells import check_cell
from minqwen.course.cut import solution_source
from minqwen.course.file_cells import parts_of
from minqwen.course.notebook import plain_notebook
from minqwen.course.notebook_code import of_notebook

OURS = solution_source("minqwen.layers.rmsnorm", ())
SEED = TASK.hidden_seed


def notebook_of(edits):
    """Return the namespace of a notebook that was filled in, and its code as one file."""
    code, _ = of_notebook(fill(plain_notebook(TASK), edits), "hw.ipynb")
    namespace = {}
    exec(compile(code, "<cells>", "exec"), namespace)
    return namespace, code


@pytest.mark.parametrize("name", ["eps_outside", "widened", "noisy"])
def test_the_points_are_those_of_minqwen_grade(name, capsys):
    namespace, code = notebook_of(FILLED[name])
    rows = {(row.part, row.aspect): row.points for row in graded({"hw.py": code}, TASK).rows}
    for (part, aspect), most in POINTS.items():
        if part != "rmsnorm":
            continue
        try:
            got = check_cell(part, aspect, namespace, seed=SEED, points=most)
        except AssertionError:
            got = 0.0
        assert (most if got is None else got) == rows[part, aspect], aspect
    assert capsys.readouterr().err == ""


def test_right_is_one_line_and_none(capsys):
    namespace, _ = notebook_of({})
    for one in parts_of(TASK):
        for aspect in one.points:
            assert check_cell(one.part.spec, aspect, namespace, seed=SEED) is None
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == len(POINTS)
    assert err == ""


def test_wrong_says_what_is_wrong():
    namespace, _ = notebook_of(FILLED["eps_outside"])
    with pytest.raises(AssertionError) as caught:
        check_cell("rmsnorm", "values", namespace)
    assert "forward looks exactly like: rmsnorm.eps_outside" in str(caught.value)
    with pytest.raises(AssertionError) as caught:
        check_cell("rmsnorm", "values", namespace, hint=0)
    assert "eps" not in str(caught.value)
    with pytest.raises(AssertionError, match="right on 0 of 4 inputs"):
        check_cell("rmsnorm", "hard inputs", namespace, seed=SEED)


def test_hidden_aspects_need_the_seed_and_show_no_numbers():
    namespace, _ = notebook_of(FILLED["eps_outside"])
    for aspect in ("more values", "hard inputs", "gradient"):
        with pytest.raises(ValueError, match="needs a hidden seed"):
            check_cell("rmsnorm", aspect, namespace)
        with pytest.raises(AssertionError) as caught:
            check_cell("rmsnorm", aspect, namespace, seed=SEED)
        assert "first difference" not in str(caught.value)
        assert str(SEED) not in str(caught.value)


def test_wrong_use():
    with pytest.raises(ValueError, match="no aspect 'speed' of gae; there are shape, values"):
        check_cell("gae", "speed", {})
    with pytest.raises(ValueError, match="no exercise 'nothing'"):
        check_cell("nothing", "values", {})
    with pytest.raises(AssertionError, match="rmsnorm: values: no cell defines rmsnorm_forward"):
        check_cell("rmsnorm", "values", {"rmsnorm_forward": 3})


def test_a_part_of_the_points_only_where_points_are_asked_for(capsys):
    namespace, _ = notebook_of(FILLED["widened"])
    got = check_cell("rmsnorm", "stability", namespace, points=10)
    assert type(got) is float
    assert 0 < got < 10
    assert "y is float64 for float32 inputs" in capsys.readouterr().out
    with pytest.raises(AssertionError, match="y is float64 for float32 inputs"):
        check_cell("rmsnorm", "stability", namespace)


def test_a_variant_is_what_is_right():
    changed = {"rmsnorm": "gain_plus_one"}
    namespace = {}
    exec(solution_source("minqwen.layers.rmsnorm", (), changed), namespace)
    for aspect in ("values", "hard inputs", "gradient"):
        assert check_cell("rmsnorm", aspect, namespace, seed=3, variants=changed) is None
        with pytest.raises(AssertionError):
            check_cell("rmsnorm", aspect, namespace, seed=3)


def test_what_hangs_is_stopped():
    namespace = {"rmsnorm_forward": hangs, "rmsnorm_backward": hangs}
    start = time.perf_counter()
    with pytest.raises(AssertionError, match=r"rmsnorm_forward did not end within 0\.2 s: stopped"):
        check_cell("rmsnorm", "values", namespace, seconds=0.2)
    assert time.perf_counter() - start < 20


def hangs(*given):
    """Catch whatever would end it."""
    while True:
        try:
            while True:
                pass
        except Exception:
            pass


@pytest.mark.parametrize("ending", [SystemExit, KeyError, RecursionError])
def test_exceptions_are_told(ending):
    def raises(x, w, eps=1e-6):
        raise ending("so")

    with pytest.raises(AssertionError, match=ending.__name__ if ending is KeyError else "rmsnorm"):
        check_cell("rmsnorm", "values", {"rmsnorm_forward": raises, "rmsnorm_backward": raises})


def test_settings_of_the_notebook_do_no_harm(capsys):
    before = np.geterr()
    with np.errstate(all="raise"):
        assert check_cell("rmsnorm", "hard inputs", ours(), seed=1) is None
    assert np.geterr() == before


def ours():
    """Return a namespace with our own functions."""
    namespace = {}
    exec(OURS, namespace)
    return namespace
