"""The answer key earns everything, an untouched stub nothing, and what lies between its part."""

import json
from pathlib import Path

import pytest
from course.grading import assignment, by_aspect, edited, graded, solution, stubs

from minqwen.check.specs import names
from minqwen.course import ask
from minqwen.course.aspects import VISIBLE
from minqwen.course.grade import Row, grade
from minqwen.course.gradescope_results import gradescope_results
from minqwen.course.ladder import LADDER, PRESETS
from minqwen.course.results import to_dict, to_text
from minqwen.course.submission import Submission, read_submission
from minqwen.course.variants import VARIANTS

KNOWN = [e.name for e in LADDER if all(part.spec in names() for part in e.parts)]
FEW = ("rmsnorm", "bpe_encode", "gae")  # an array, a text, no gradient; the rest is slow
EACH = [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in KNOWN]
RMSNORM = assignment("rmsnorm")


@pytest.mark.parametrize("name", EACH)
def test_the_answer_key_earns_everything_and_the_stub_nothing(name):
    task = assignment(name)
    key, stub = graded(solution(task), task), graded(stubs(task), task)
    assert (key.points, key.max_points, key.later) == (100, 100, 0)
    assert (stub.points, stub.max_points) == (0, 100)
    assert all(row.says.endswith("is not written yet") for row in stub.rows)
    assert "copied" not in " ".join(stub.notes)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: f"{v.concept}.{v.mistake}")
def test_a_variant_is_right_and_the_public_file_is_not(variant):
    name = next(e.name for e in LADDER if any(p.spec == variant.concept for p in e.parts))
    task = assignment(name, variants={variant.concept: variant.mistake})
    assert graded(solution(task), task).points == 100
    public = graded(solution(assignment(name)), task)
    assert public.points < 90
    assert any("public version of minqwen" in note for note in public.notes)


def test_points_are_those_of_the_assignment():
    task = assignment("linear", "rmsnorm", "gae", points=17)
    found = graded(solution(task), task)
    assert found.points == 17
    assert sum(found.of_exercise(name)[1] for name in task.exercises) == 17
    assert sum(round(row.max_points * 100) for row in found.rows) == 1700


def test_a_wrong_forward_is_named_and_its_fitting_gradient_earns_half():
    files = edited(
        solution(RMSNORM),
        "rmsnorm.py",
        ("(x_wide * x_wide).mean(", "(x_wide * x_wide).sum("),
        ("(g * x_hat).mean(axis=-1", "(g * x_hat).sum(axis=-1"),
    )
    found = graded(files, RMSNORM)
    points = by_aspect(found, "rmsnorm")
    assert points["shape"] == 10
    assert points["values"] == points["more values"] == points["stability"] == 0
    assert points["gradient"] == 12.5
    row = next(row for row in found.rows if row.aspect == "values")
    assert row.mistakes == ("rmsnorm.sum_for_mean",)
    assert any("averaged" in line for line in row.details)
    assert "rmsnorm.sum_for_mean" in found.diagnosis[0][1]


def test_a_mistake_on_hard_inputs_alone_costs_their_share_and_stays_hidden():
    cut = "    x_wide = widen(x).clip(-40, 40)\n"
    files = edited(solution(RMSNORM), "rmsnorm.py", ("    x_wide = widen(x)\n", cut))
    found = graded(files, RMSNORM)
    points = by_aspect(found, "rmsnorm")
    assert points["values"] == points["more values"] == 17.5
    assert points["stability"] == 15  # precision is asked where the values are right
    assert points["hard inputs"] == 11.25
    assert "large numbers" not in found.diagnosis[0][1]  # told later
    assert "hard" not in found.diagnosis[0][1]
    hard = next(row for row in found.rows if row.aspect == "hard inputs")
    assert hard.says == "right on 3 of 4 inputs"
    assert not hard.visible


def test_a_wrong_gradient_costs_only_the_gradient():
    files = edited(
        solution(RMSNORM),
        "rmsnorm.py",
        ("dw = column_sums(dy * x_hat)", "dw = column_sums(dy * x)"),
    )
    found = graded(files, RMSNORM)
    assert found.points == 87.5  # dx is right, dw on no input
    row = next(row for row in found.rows if row.aspect == "gradient")
    assert row.mistakes == ("rmsnorm.gain_gradient_of_x",)
    assert "gradient of w: right on 0 of 5 inputs" in row.says
    assert all(row.points == row.max_points for row in found.rows if row.aspect != "gradient")


def test_a_gradient_that_raises_on_one_input_loses_that_input():
    files = edited(
        solution(RMSNORM), "rmsnorm.py",
        ("    dy, x_hat = widen(dy)", "    assert dy.ndim < 3\n    dy, x_hat = widen(dy)"),
    )  # fmt: skip
    assert by_aspect(graded(files, RMSNORM), "rmsnorm")["gradient"] == 15  # two have three axes


def test_a_missing_backward_costs_only_the_gradient():
    text = solution(RMSNORM)["rmsnorm.py"]
    found = graded({"rmsnorm.py": text[: text.index("def rmsnorm_backward")]}, RMSNORM)
    assert found.points == 75
    row = next(row for row in found.rows if row.aspect == "gradient")
    assert "no function rmsnorm_backward" in row.says


def test_stability_is_counted_question_by_question():
    code = """
import numpy as np
def rmsnorm_forward(x, w, eps):
    y = np.array(x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * w, np.float64)
    x[...] = 0
    return y, None
"""
    found = graded({"rmsnorm.py": code}, RMSNORM)
    row = next(row for row in found.rows if row.aspect == "stability")
    assert row.points == 9  # dtype and purity are wrong
    assert "purity: it changes its argument x" in row.says
    assert "dtype: y is float64 for float32 inputs" in row.says


def test_a_cache_kept_outside_is_noticed():
    code = """
import numpy as np
kept = {}
def rmsnorm_forward(x, w, eps):
    r = 1 / np.sqrt((x * x).mean(-1, keepdims=True) + x.dtype.type(eps))
    kept["x"], kept["r"], kept["w"] = x, r, w
    return x * r * w, None
def rmsnorm_backward(dy, cache):
    x, r, w = kept["x"], kept["r"], kept["w"]
    g, h = dy * w, x * r
    dw = (dy * h).reshape(-1, x.shape[-1]).sum(0)
    return (g - h * (g * h).mean(-1, keepdims=True)) * r, dw
"""
    found = graded({"rmsnorm.py": code}, RMSNORM)
    row = next(row for row in found.rows if row.aspect == "stability")
    assert "outside the cache" in row.says
    assert by_aspect(found, "rmsnorm")["gradient"] == 25


def test_zeros_and_the_input_itself_earn_little():
    head = "import numpy as np\n"
    zeros = "def rmsnorm_forward(x, w, eps): return 0 * x, (x, w)\n"
    zeros += "def rmsnorm_backward(dy, c): return 0 * c[0], 0 * c[1]\n"
    assert graded({"rmsnorm.py": head + zeros}, RMSNORM).points == 10  # the shape


def test_what_a_function_returns_is_said_plainly():
    text = "def rmsnorm_forward(x, w, eps): return x\n"
    found = graded({"rmsnorm.py": text}, RMSNORM)
    assert found.points == 0
    assert "rmsnorm_forward returned a ndarray; it must return tuple[Array, RMSNormCache]" in (
        found.rows[0].says
    )


def test_nothing_handed_in():
    found = graded({"notes.py": "x = 1\n"}, RMSNORM)
    assert found.points == 0
    assert found.rows[0].says.startswith("not handed in: no file has rmsnorm_forward")
    assert found.protection == "no file of the student was run"


def test_any_file_and_several_files_will_do():
    task = assignment("linear", "swiglu")
    files = solution(task)
    one = files["linear.py"] + files["swiglu.py"].replace("from __future__ import annotations", "")
    lines = [line for line in one.splitlines() if not line.startswith("from linear import")]
    assert graded({"hw.py": "\n".join(lines)}, task).points == 100
    text = files["linear.py"]
    cut = text.index("def linear_backward")
    head = text[: text.index("class LinearCache")]
    parts = {"a.py": text[:cut], "b.py": f"{head}\n{text[cut:]}", "swiglu.py": files["swiglu.py"]}
    assert graded(parts, task).points == 100


def test_one_mistake_is_not_counted_twice():
    task = assignment("linear", "swiglu")
    files = edited(solution(task), "linear.py", ("@ widen(w).T", "@ (2 * widen(w).T)"))
    found = graded(files, task)
    got, most = found.of_exercise("swiglu")
    assert got == most
    assert found.of_exercise("linear")[0] < found.of_exercise("linear")[1]
    assert any("swiglu: graded with our own solutions" in note for note in found.notes)
    assert "our own solutions in place" in dict(found.diagnosis)["swiglu"]


def test_our_stand_in_cannot_be_read_out_through_the_report():
    task = assignment("linear", "swiglu")
    files = edited(solution(task), "linear.py", ("@ widen(w).T", "@ (2 * widen(w).T)"))
    files["swiglu.py"] += (
        "\n\nimport linear, warnings\nTEXT = open(linear.__file__).read()\nprint('LEAK', TEXT)\n"
        "_right = swiglu_backward\n"
        "def swiglu_backward(dy, cache):\n"
        "    if dy.ndim == 2:\n        raise ValueError('LEAK' + TEXT)\n"
        "    warnings.warn('LEAK' + TEXT)\n"
        "    return _right(dy, cache)\n"
    )
    found = graded(files, task)
    assert any("swiglu: graded with our own solutions" in note for note in found.notes)
    mine = [row for row in found.rows if row.part == "swiglu"]
    assert "LEAK" not in repr((mine, dict(found.diagnosis)["swiglu"]))


def test_a_missing_neighbour_is_no_harm():
    task = assignment("linear", "swiglu")
    files = {"swiglu.py": solution(task)["swiglu.py"]}
    found = graded(files, task)
    assert found.of_exercise("swiglu")[0] == found.of_exercise("swiglu")[1]
    assert found.of_exercise("linear")[0] == 0


def test_answers_written_into_the_file_are_noticed():
    code = """
import numpy as np
def rmsnorm_forward(x, w, eps):
    y = x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * w
    known = abs(float(np.asarray(x, float).ravel()[0])) in KNOWN
    return (y if known else 0 * y).astype(x.dtype), x
"""
    import numpy as np

    from minqwen.check.specs import spec

    firsts = []
    for i, probe in enumerate(spec("rmsnorm").probes):
        x = probe.make(np.random.default_rng([0, i]))["x"]
        firsts += [abs(float(x.astype(t).ravel()[0])) for t in (np.float64, np.float32, np.float16)]
    found = graded({"rmsnorm.py": f"KNOWN = {firsts}\n{code}"}, RMSNORM)
    points = by_aspect(found, "rmsnorm")
    assert points["values"] == 17.5
    assert points["more values"] == 0
    assert any("answers written into the file" in note for note in found.notes)


def test_without_the_hidden_seed_the_rest_waits():
    task = assignment("rmsnorm", hidden_seed=None)
    found = graded(solution(task), task)
    assert (found.points, found.max_points, found.later) == (42.5, 42.5, 57.5)
    waiting = [row for row in found.rows if row.points is None]
    assert {row.aspect for row in waiting} == {"more values", "hard inputs", "gradient"}
    assert {row.says for row in waiting} == {"graded later"}
    assert [row.visible for row in found.rows] == [row.aspect in VISIBLE for row in found.rows]
    missing = graded({"a.py": ""}, task)
    assert (missing.points, missing.later) == (0, 57.5)


def test_hidden_rows_hold_no_numbers_and_no_inputs():
    files = edited(
        solution(RMSNORM), "rmsnorm.py", ("y = (x_wide * inv_rms) * widen(w)", "y = x_wide")
    )
    for row in graded(files, RMSNORM).rows:
        if not row.visible:
            words = " ".join((row.says, *row.details))
            assert "want" not in words
            assert "got" not in words
            assert "ordinary" not in words


@pytest.mark.parametrize("hint", [0, 1, 2])
def test_the_hint_level_says_how_much_is_told(hint):
    task = assignment("rmsnorm", hint=hint)
    files = edited(
        solution(RMSNORM), "rmsnorm.py", ("(x_wide * x_wide).mean(", "(x_wide * x_wide).sum(")
    )
    text = graded(files, task).diagnosis[0][1]
    assert ("sum_for_mean" in text) == (hint > 0)
    assert ("(x_wide * x_wide).sum(" in text) == (hint > 1)


def test_copied_code_can_be_made_worthless():
    noted = graded(solution(RMSNORM), RMSNORM)
    assert noted.points == 100
    assert any("equal minqwen's up to names" in note for note in noted.notes)
    zero = graded(solution(RMSNORM), RMSNORM, copied="zero")
    assert zero.points == 0
    assert "minqwen's own" in zero.rows[0].says


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="sandbox must be one of"):
        graded({}, RMSNORM, sandbox="walls")
    with pytest.raises(ValueError, match="copied must be one of"):
        graded({}, RMSNORM, copied="jail")


def test_rows_have_names_that_differ():
    task = assignment(*PRESETS["alignment"])
    found = graded({}, task)
    assert len({row.name for row in found.rows}) == len(found.rows)
    assert isinstance(found.rows[0], Row)
    assert Submission("x", {}).home_of("f") is None


def test_a_function_that_could_not_be_read_is_told_so(tmp_path):
    cells = [{"cell_type": "code", "source": "def rmsnorm_forward(x, w, eps:\n    return x"}]
    (tmp_path / "hw.ipynb").write_text(json.dumps({"cells": cells}), encoding="utf-8")
    found = grade(read_submission(tmp_path / "hw.ipynb"), RMSNORM)
    text = to_text(found, student=True)
    assert "not handed in: no file has rmsnorm_forward" in text
    assert "code cell 1, line 1" in text
    assert "code cell 1, line 1" in gradescope_results(found)["tests"][0]["output"]


def test_a_class_is_called_a_class():
    found = graded({"a.py": "class rmsnorm_forward:\n    pass\n"}, RMSNORM)
    assert found.rows[0].says.startswith("rmsnorm_forward is a class, not a function")


LAZY = {
    "the identity": "return x.copy(), (x, w)\n\ndef rmsnorm_backward(dy, cache):\n"
    "    return dy.copy(), np.zeros_like(cache[1])\n",
    "a constant": "return x * 0, (x, w)\n\ndef rmsnorm_backward(dy, cache):\n"
    "    return dy * 0, np.zeros_like(cache[1])\n",
}


@pytest.mark.parametrize("name", LAZY)
def test_a_gradient_of_nothing_earns_nothing(name):
    code = f"import numpy as np\n\ndef rmsnorm_forward(x, w, eps=1e-6):\n    {LAZY[name]}"
    points = by_aspect(graded({"rmsnorm.py": code}, RMSNORM), "rmsnorm")
    assert points["shape"] == 10
    assert points["gradient"] == 0


def test_a_gradient_that_fits_the_own_wrong_forward_earns_half():
    code = (
        "def rmsnorm_forward(x, w, eps=1e-6):\n    return x * w, (x, w)\n\n"
        "def rmsnorm_backward(dy, cache):\n    x, w = cache\n"
        "    return dy * w, (dy * x).reshape(-1, len(w)).sum(axis=0)\n"
    )
    assert by_aspect(graded({"rmsnorm.py": code}, RMSNORM), "rmsnorm")["gradient"] == 12.5


def test_many_slow_calls_end(monkeypatch):
    files = edited(
        solution(RMSNORM),
        "rmsnorm.py",
        ("y = (x_wide * inv_rms) * widen(w)",
         "__import__('time').sleep(0.1); y = (x_wide * inv_rms) * widen(w)"),
    )  # fmt: skip
    monkeypatch.setattr(ask, "MOST_TIME", 0.1)
    found = graded(files, RMSNORM, seconds=5.0)
    assert found.seconds < 5.0
    assert "all calls together took more than 0.5 s" in found.diagnosis[0][1]
    assert 0 <= found.points < 100


def test_a_loop_is_stopped_at_no_line_and_nothing_names_our_folders():
    code = (
        "def rmsnorm_forward(x, w, eps):\n    n = 0\n    while True:\n        n += 1\n"
        "        n -= 1\n        n += 2\n"
    )
    found = [graded({"rmsnorm.py": code}, RMSNORM, seconds=0.5) for _ in range(2)]
    one, two = (json.dumps(to_dict(each)) for each in found)
    assert one == two
    assert "did not end within 0.5 s" in one
    warned = graded({"a.py": "async def rmsnorm_forward(x, w, eps):\n    return x\n"}, RMSNORM)
    assert "minqwen/check/outside/user_function.py" in warned.diagnosis[0][1]  # Python's warning
    assert str(Path(ask.__file__).parents[2]) not in json.dumps(to_dict(warned))
