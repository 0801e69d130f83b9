"""A student's files, asked through the adapter of a concept."""

from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import minqwen.layers.rmsnorm as ours
from minqwen.check.mistakes import rmsnorm as bank
from minqwen.check.outside.user_file import Trouble
from minqwen.course.adapter import tuple_lengths
from minqwen.course.module_function import ModuleFunction, StudentModule

X = {"x": np.arange(6.0).reshape(2, 3) + 1, "w": np.array([1.0, 2.0, -1.0]), "eps": 0.5}
OTHER = {"x": np.ones((4, 2)), "w": np.ones(2), "eps": 0.1}


def student(*modules, given=None, tuples=None, homes=("rmsnorm_forward", "rmsnorm_backward")):
    found = {name: next((m for m in modules if hasattr(m, name)), None) for name in homes}
    return StudentModule(modules, found, tuples or {}, lambda: given, "rmsnorm.py")


def function(module):
    return ModuleFunction(
        module,
        bank.run,
        bank.pull,
        names=("x", "w", "eps"),
        outputs=("y",),
        titles=("rmsnorm_forward", "rmsnorm_backward"),
        files=[],
    )


def test_our_own_file_gives_our_numbers():
    asked = function(student(ours))
    reply = asked.forward(X)
    np.testing.assert_array_equal(reply.outputs[0], bank.run(ours, X)[0])
    assert reply.problem is None
    assert reply.changed == ()
    dy = np.ones((2, 3))
    reply = asked.backward(X, (dy,))
    want = bank.pull(ours, X, (dy,))
    for name, gradient in reply.gradients.items():
        np.testing.assert_array_equal(gradient, want[name])
    assert asked.forward(X, "float32").dtypes == ("float32",)


def test_two_forwards_come_before_each_backward():
    kept = {}

    def forward(x, w, eps):
        y, cache = ours.rmsnorm_forward(x, w, eps)
        kept["cache"] = cache
        return y, None

    wrong = SimpleNamespace(
        rmsnorm_forward=forward,
        rmsnorm_backward=lambda dy, cache: ours.rmsnorm_backward(dy, kept["cache"]),
    )
    dys = [(np.ones((2, 3)),), (np.ones((4, 2)),)]
    for module, same in ((ours, True), (wrong, False)):
        asked = function(student(module))
        alone = asked.backward(X, dys[0])
        pair = asked.twice([X, OTHER], dys)
        if same:
            np.testing.assert_array_equal(pair[0].gradients["x"], alone.gradients["x"])
        else:
            assert pair[0].problem is not None or not np.array_equal(
                pair[0].gradients["x"], alone.gradients["x"]
            )


def test_a_changed_argument_is_noticed():
    def forward(x, w, eps):
        x += 1
        return ours.rmsnorm_forward(x, w, eps)

    wrong = SimpleNamespace(rmsnorm_forward=forward, rmsnorm_backward=ours.rmsnorm_backward)
    assert function(student(wrong)).forward(X).changed == ("x",)


def test_what_is_missing_is_named():
    asked = function(student(SimpleNamespace(rmsnorm_forward=ours.rmsnorm_forward)))
    assert asked.forward(X).problem is None
    problem = asked.backward(X, (np.ones((2, 3)),)).problem
    assert (problem.kind, problem.says) == (
        "missing function", "rmsnorm.py has no function rmsnorm_backward"
    )  # fmt: skip
    problem = function(student(SimpleNamespace(rmsnorm_forward=3))).forward(X).problem
    assert problem.says.startswith("rmsnorm_forward is a int, not a function: write it as")


def test_a_short_result_is_told_with_what_is_needed():
    tuples = tuple_lengths(
        "def rmsnorm_forward(x) -> tuple[Array, Cache]: ...", ["rmsnorm_forward"]
    )
    for result, got in ((np.ones(2), "a ndarray"), (None, "nothing"), ((1, 2, 3), "a tuple of 3")):
        wrong = SimpleNamespace(rmsnorm_forward=lambda x, w, eps, result=result: result)
        problem = function(student(wrong, tuples=tuples)).forward(X).problem
        assert problem.says == (
            f"rmsnorm_forward returned {got}; it must return tuple[Array, Cache]"
        )


def test_an_error_has_the_students_place_or_none():
    def forward(x, w, eps):
        raise KeyError("w")

    problem = function(student(SimpleNamespace(rmsnorm_forward=forward))).forward(X).problem
    assert problem.says == "rmsnorm_forward raised KeyError: 'w'"
    assert "module_function" not in problem.where
    short = SimpleNamespace(rmsnorm_forward=lambda x, w, eps: None)
    problem = function(student(short)).forward(X).problem
    assert "module_function" not in problem.where


def test_names_are_looked_up_in_all_files_then_in_what_was_given():
    one, two, given = ModuleType("one"), ModuleType("two"), ModuleType("given")
    two.helper, given.table, given.helper = 2, 3, 9
    found = student(one, two, given=given, homes=())
    assert (found.helper, found.table) == (2, 3)
    with pytest.raises(Trouble, match="has no function nowhere"):
        _ = found.nowhere
