"""How a stranger's function is called, and what is made of what it returns."""

import textwrap

import numpy as np
import pytest

from minqwen.check.outside.worker import InProcess, Worker

X = {"x": np.arange(6.0).reshape(2, 3) + 1, "w": np.array([1.0, 2.0, -1.0]), "eps": 0.5}


# --- how it is called ----------------------------------------------------------------------------


def test_arguments_by_name(write):
    text = "def f(*, weight, x, epsilon=9.0):\n    return x * weight + epsilon"
    with Worker(write(text), arguments={"w": "weight", "eps": "epsilon"}) as worker:
        want = X["x"] * X["w"] + 0.5
        np.testing.assert_array_equal(worker.forward(X).outputs[0], want)


def test_a_name_that_the_function_does_not_have_is_wrong(write):
    text = "def f(x, weight, eps):\n    return x * weight"
    with Worker(write(text), arguments={"w": "gain"}) as worker:
        problem = worker.forward(X).problem
    assert problem.kind == "wrong name"
    assert problem.says == "f has no argument gain; it has x, weight, eps"
    with Worker(write("def f(x, eps, **rest):\n    return x"), arguments={"w": "gain"}) as worker:
        assert worker.forward(X).problem is None


def test_what_is_optional_may_be_left_out(ask):
    text = "def f(x, w):\n    return x * w"
    np.testing.assert_array_equal(ask(text, optional=["eps"]).outputs[0], X["x"] * X["w"])
    problem = ask(text).problem
    assert problem.kind == "raised"
    assert "f(x, w) cannot be called with (x, w, eps): too many" in problem.says
    assert problem.where.endswith("theirs.py, line 1")


def test_a_missing_argument_is_named(ask):
    assert "missing a required argument: 'more'" in ask("def f(x, w, eps, more): pass").problem.says


def test_dicts_tuples_texts_and_none_go_through(ask):
    text = """
    def f(params, grads, text, mask, merges):
        assert mask is None and text == "中" and merges == [("a", "b")] and type(grads) is tuple
        return params["w"] + grads[0] + grads[1]
    """
    one = np.ones(2)
    arguments = {
        "params": {"w": one}, "grads": (one, 2 * one), "text": "中", "mask": None,
        "merges": [("a", "b")],
    }  # fmt: skip
    reply = ask(text, arguments)
    assert reply.problem is None
    np.testing.assert_array_equal(reply.outputs[0], [4, 4])


@pytest.mark.parametrize(
    ("result", "count", "shapes"),
    [
        ("x", 1, [(2, 3)]),
        ("(x, {})", 0, [(2, 3)]),  # (y, cache)
        ("(x, (x, w))", 0, [(2, 3)]),
        ("(x, w)", 1, [(2, 3)]),  # a cache that is an array
        ("(x, w)", 2, [(2, 3), (3,)]),
        ("[x, w]", 2, [(2, 3), (3,)]),
        ("((x, w), None)", 2, [(2, 3), (3,)]),
        ("(x, 0.5, None)", 2, [(2, 3), ()]),
        ("float(x.sum())", 1, [()]),
    ],
)
def test_the_outputs_are_picked_out_of_what_is_returned(ask, result, count, shapes):
    reply = ask(f"def f(x, w, eps):\n    return {result}", outputs=["y", "z"][:count])
    assert reply.problem is None
    assert [y.shape for y in reply.outputs] == shapes
    said = [note for note in reply.notes if "returned a float, not an array" in note]
    assert len(said) == len(reply.notes) == (shapes[-1] == ())


@pytest.mark.parametrize(
    ("result", "want"),
    [
        ("[3, 1]", [3, 1]),
        ("(3, 1, 2)", [3, 1, 2]),
        ("[(97, 98), (256, 99)]", [[97, 98], [256, 99]]),
        ("((97, 98), (256, 99))", [[97, 98], [256, 99]]),
    ],
)
@pytest.mark.parametrize("outputs", [[], ["ids"]])
def test_lists_of_token_ids_are_fine_as_they_are(result, want, outputs):
    reply = InProcess(eval(f"lambda text: {result}"), outputs=outputs).forward({"text": "a"})
    assert reply.outputs[0].tolist() == want
    assert reply.dtypes == ("int64",)
    assert reply.notes == ()


# --- purity --------------------------------------------------------------------------------------


def test_what_is_changed_is_named(ask):
    text = """
    def f(x, w, eps, params, grads, merges):
        x += 1
        params["a"]["b"][0] = 9
        grads[1][:] = 0
        merges.append("c")
        return x * w
    """
    arguments = {
        **X, "params": {"a": {"b": np.ones(2)}}, "grads": (np.ones(1), np.ones(1)),
        "merges": ["a"],
    }  # fmt: skip
    reply = ask(text, arguments)
    assert reply.changed == ("x", "params", "grads", "merges")
    np.testing.assert_array_equal(reply.outputs[0], (X["x"] + 1) * X["w"])
    assert X["x"][0, 0] == 1


def test_a_nan_that_stays_is_no_change(ask):
    assert ask("def f(x):\n    return x", {"x": np.array([np.nan])}).changed == ()


def test_every_call_gets_fresh_inputs(write):
    text = "def f(x, w, eps):\n    x += 1\n    return x"
    with Worker(write(text)) as worker:
        for _ in range(2):
            np.testing.assert_array_equal(worker.forward(X).outputs[0], X["x"] + 1)


def test_what_is_random_differs(write):
    text = "import numpy as np\ndef f(x, w, eps):\n    return x + np.random.rand()"
    with Worker(write(text)) as worker:
        one, two = (worker.forward(X).outputs[0] for _ in range(2))
    assert not np.array_equal(one, two)


# --- gradients -----------------------------------------------------------------------------------

DY = np.array([[1.0, -2.0, 3.0], [0.5, 0.25, 4.0]])
A = {"x": X["x"], "w": X["w"]}
WANT = {"x": DY * X["w"], "w": (DY * X["x"]).sum(0)}
FORWARD = {
    "cache": "return x * w, (x, w)",
    "array": "return x * w, np.stack([x, x])",
    "none": "return x * w",
}


@pytest.mark.parametrize(
    ("forward", "backward"),
    [
        ("cache", "def b(dy, cache):\n    x, w = cache\n    return dy * w, (dy * x).sum(0)"),
        ("array", "def b(dy, c):\n    return dy * np.array([1., 2, -1]), (dy * c[0]).sum(0)"),
        ("cache", "def b(x, w, dy):\n    return dy * w, (dy * x).sum(0)"),
        ("none", "def b(x, w, dy):\n    return dy * w, (dy * x).sum(0)"),
        ("none", "def b(x, w, dy):\n    return {'w': (dy * x).sum(0), 'x': dy * w}"),
        ("none", "def b(x, w, dy):\n    return {'dw': (dy * x).sum(0), 'dx': dy * w}"),
        ("none", "def b(x, w, dy):\n    return [dy * w, (dy * x).sum(0)]"),
        ("none", "def b(x, w, dy):\n    return dy * w, (dy * x).sum(0), None"),
    ],
)  # fmt: skip
def test_every_accepted_form_of_a_backward(write, forward, backward):
    text = f"import numpy as np\ndef f(x, w):\n    {FORWARD[forward]}\n{backward}"
    target = write(text)
    with Worker(target, backward=target.replace(":f", ":b"), outputs=["y"]) as worker:
        reply = worker.backward(A, (DY,))
        assert reply.problem is None
        assert list(reply.gradients) == ["x", "w"]
        for name, want in WANT.items():
            np.testing.assert_allclose(reply.gradients[name], want)
        replies = worker.twice([A, {"x": 2 * A["x"], "w": A["w"]}], [(DY,), (DY,)])
        np.testing.assert_allclose(replies[0].gradients["w"], WANT["w"])
        if forward != "array":
            np.testing.assert_allclose(replies[1].gradients["w"], 2 * WANT["w"])


def backward_of(text, **options):
    scope = {"np": np}
    exec(textwrap.dedent(text), scope)
    return InProcess(scope["f"], scope["b"], **options)


def test_whole_numbers_among_arguments_and_outputs_have_no_gradient():
    function = backward_of(
        """
        def f(x, ids, k): return x[ids], ids, 3 * x
        def b(x, ids, k, dys):
            dy, dz = dys
            dx = 3 * dz
            np.add.at(dx, ids, dy)
            return dx, None, None
        """,
        outputs=["y", "ids", "z"],
    )
    a = {"x": np.ones(3), "ids": np.array([1, 1]), "k": 2}
    reply = function.backward(a, (np.array([1.0, 2.0]), np.zeros(3)))
    assert reply.problem is None
    np.testing.assert_array_equal(reply.gradients["x"], [0, 3, 0])
    assert [y.dtype.kind for y in reply.outputs] == ["f", "i", "f"]


def test_several_gradients_one_by_one():
    function = backward_of(
        """
        def f(x, w): return x, w, None
        def b(dx, dw, cache): return dx, 2 * dw
        """,
        outputs=["y", "z"],
    )
    assert function.backward(A, (DY, A["w"])).gradients["w"].tolist() == [2, 4, -2]


def test_gradients_of_dicts_and_tuples_have_dotted_names():
    text = """
    def f(x, params): return x * params["a"]["b"] + params["c"][0]
    def b(x, params, dy):
        return {"x": dy, "params": {"a": {"b": 2 * dy}, "c": (3 * dy,)}}
    """
    a = {"x": np.ones(2), "params": {"a": {"b": np.ones(2)}, "c": (np.ones(2),)}}
    reply = backward_of(text).backward(a, (np.ones(2),))
    assert {name: g[0] for name, g in reply.gradients.items()} == {
        "x": 1, "params.a.b": 2, "params.c.0": 3
    }  # fmt: skip


def test_keywords_for_backward():
    text = """
    def f(*, inp, w): return inp * w
    def b(*, inp, w, dy): return {"inp": dy * w, "w": (dy * inp).sum(0)}
    """
    reply = backward_of(text, arguments={"x": "inp"}).backward(A, (DY,))
    np.testing.assert_array_equal(reply.gradients["x"], WANT["x"])


@pytest.mark.parametrize(
    ("backward", "says"),
    [
        ("def b(dy, x): return dy", "fits none of the accepted forms"),
        ("def b(x, w, dy): return None", "backward returned nothing: return the gradients of x, w"),
        (
            "def b(x, w, dy): return dy",
            "returned 1 value: return the gradients of x, w, as a tuple",
        ),
        ("def b(x, w, dy): return dy, dy, dy", "returned 3 values"),
        ("def b(x, w, dy): return {'a': dy}", "a dict with the keys a: return the gradients"),
        ("def b(x, w, dy): return dy, 'no'", "the gradient of w: a string"),
        ("def b(x, w, dy): return 1 / 0", "b raised ZeroDivisionError"),
    ],
)
def test_backwards_that_do_not_fit(backward, says):
    reply = backward_of(f"def f(x, w): return x * w\n{backward}").backward(A, (DY,))
    assert says in reply.problem.says
    assert reply.problem.kind in ("raised", "wrong type")
    assert reply.outputs is None


def test_a_backward_that_changes_dy_or_lets_a_gradient_out():
    text = """
    def f(x, w): return x * w
    def b(x, w, dy):
        dy *= w
        return dy, None
    """
    reply = backward_of(text).backward(A, (DY,))
    assert reply.changed == ("dy",)
    assert reply.gradients["w"] is None
    np.testing.assert_array_equal(reply.gradients["x"], WANT["x"])


def test_a_cache_kept_in_secret_shows_with_two_forwards_first(write):
    text = """
    kept = {}
    def f(x, w):
        kept.update(x=x, w=w)
        return x * w
    def b(x, w, dy):
        return dy * kept["w"], (dy * kept["x"]).sum(0)
    """
    target = write(text)
    with Worker(target, backward=target[:-1] + "b") as worker:
        np.testing.assert_allclose(worker.backward(A, (DY,)).gradients["w"], WANT["w"])
        first, second = worker.twice([A, {**A, "x": 5 * A["x"]}], [(DY,), (DY,)])
    assert not np.allclose(first.gradients["w"], WANT["w"])
    np.testing.assert_allclose(second.gradients["w"], 5 * WANT["w"])


def test_an_earlier_result_that_is_written_again():
    text = """
    buffer = np.zeros((2, 3))
    def f(x, w):
        np.multiply(x, w, out=buffer)
        return buffer
    def b(x, w, dy): return dy * w, (dy * x).sum(0)
    """
    first, second = backward_of(text).twice([A, {**A, "x": 5 * A["x"]}], [(DY,), (DY,)])
    assert first.changed == second.changed == ("an earlier result",)
    np.testing.assert_allclose(first.outputs[0], A["x"] * A["w"])


def test_no_way_to_a_gradient_is_the_callers_mistake(write):
    with (
        Worker(write("def f(x, w, eps):\n    return x")) as worker,
        pytest.raises(ValueError, match="give a backward too"),
    ):
        worker.backward(X, (DY,))
    with pytest.raises(ValueError, match="give a backward too"):
        InProcess(lambda x: x).twice([A], [(DY,)])
