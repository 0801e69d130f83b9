"""Copies of our functions are noticed whatever their names; tricks are named with their lines."""

import re

from course.grading import assignment, edited, solution

from minqwen.course.copied import FEWEST_NODES, copied_functions, tricks
from minqwen.course.submission import Submission

TASK = assignment("rmsnorm")
PART = TASK.found[0].parts[0]
TEXT = solution(TASK)["rmsnorm.py"]


def found(text, task=TASK):
    return copied_functions(Submission("s", {"rmsnorm.py": text}), task, PART)


def test_our_own_text_is_ours():
    assert found(TEXT) == ["rmsnorm_forward", "rmsnorm_backward"]


def test_other_names_comments_and_no_docstring_do_not_help():
    text = TEXT.replace("x_wide", "wide_input").replace("inv_rms", "z").replace("x_hat", "n")
    text = re.sub(r"  # \(.*", "", text).replace("eps: float = 1e-6", "eps=1e-6")
    assert "rmsnorm_backward" in found(text)


def test_another_function_is_not_ours():
    files = edited(
        {"rmsnorm.py": TEXT},
        "rmsnorm.py",
        ("dw = column_sums(dy * x_hat)", "dw = column_sums(x_hat * dy)"),
    )
    assert found(files["rmsnorm.py"]) == ["rmsnorm_forward"]
    assert found("def rmsnorm_forward(x, w, eps):\n    return x\n") == []
    assert found("def f(:") == []


def test_short_functions_may_agree_by_chance():
    task = assignment("swiglu")
    part = task.found[0].parts[0]
    files = Submission("s", solution(task))
    assert "sigmoid" in part.functions
    assert "sigmoid" not in copied_functions(files, task, part)
    assert FEWEST_NODES == 40


def test_this_years_key_is_ours_too():
    task = assignment("rmsnorm", variants={"rmsnorm": "gain_plus_one"})
    assert "rmsnorm_forward" in found(solution(task)["rmsnorm.py"], task)
    assert "rmsnorm_forward" in found(TEXT, task)


def test_tricks_are_named():
    code = """import torch, os
from minqwen.layers.rmsnorm import rmsnorm_forward
import numpy as np
exec("x = 1")
np.allclose = print
f = open("/etc/passwd")
os._exit(0)
from minqwen.backend import Array
"""
    files = {"a.py": code, "b.py": "def f(:"}
    assert tricks(Submission("s", files), ["minqwen.backend"]) == [
        "a.py, line 2: imports minqwen.layers.rmsnorm",
        "a.py, line 1: imports torch",
        "a.py, line 4: calls exec",
        "a.py, line 5: puts something in the place of np.allclose",
        "a.py, line 6: opens a file",
        "a.py, line 7: uses _exit",
    ]
