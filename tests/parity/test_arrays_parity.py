"""Torch and JAX: arrays cross exactly, and both differentiate a stranger's forward themselves."""

import numpy as np
import pytest

from minqwen.check.outside.arrays import (
    FLOATS,
    dtype_name,
    from_framework,
    is_array,
    is_float,
    kind_of,
    round_to,
    to_framework,
)
from minqwen.check.outside.worker import InProcess, Worker

pytestmark = pytest.mark.parity
RNG = np.random.default_rng(0)
X, W = RNG.standard_normal((2, 3)), RNG.standard_normal(3)
DY = RNG.standard_normal((2, 3))
A = {"x": X, "w": W, "eps": 0.5}
SPECIAL = np.array([0.1, -0.0, 1 + 2**-8, 70000.0, 1e-7, np.inf, np.nan, 1e-40, 3.4e38])


@pytest.fixture(params=["torch", "jax"])
def framework(request):
    """A library that differentiates."""
    library = pytest.importorskip(request.param)
    if request.param == "jax":
        library.config.update("jax_enable_x64", True)
    return request.param


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.mark.parametrize("dtype", FLOATS)
def test_floats_cross_exactly_both_ways(framework, dtype):
    x = np.concatenate([SPECIAL, RNG.standard_normal(500)])
    theirs = to_framework(x, framework, dtype)
    assert kind_of(theirs) == framework
    assert dtype_name(theirs) == dtype
    assert is_array(theirs)
    assert is_float(theirs)
    back = from_framework(theirs)
    assert back.dtype == ("float32" if dtype == "bfloat16" else dtype)
    want = round_to(x, dtype)
    if framework == "jax":  # XLA on a CPU may flush numbers below the smallest normal one
        want = np.where(np.abs(want) < 2.0**-126, np.copysign(0, want), want)
        back = np.where(np.abs(back) < 2.0**-126, np.copysign(0, back), back)
    np.testing.assert_array_equal(back.astype(np.float64), want)


def test_whole_numbers_and_booleans_stay(framework):
    for x in (np.arange(3), np.array([True, False]), np.array(5)):
        theirs = to_framework(x, framework, "float32")
        assert dtype_name(theirs) == x.dtype.name
        assert not is_float(theirs)
        back = from_framework(theirs)
        assert back.dtype == x.dtype
        np.testing.assert_array_equal(back, x)


def test_nothing_is_shared(framework):
    x = np.asfortranarray(np.ones((2, 3)))
    theirs = to_framework(x, framework)
    x[:] = 0
    back = from_framework(theirs)
    assert back.sum() == 6
    back[:] = 7
    assert from_framework(theirs).sum() == 6


def test_odd_tensors_of_torch(torch):
    t = torch.arange(6.0).reshape(2, 3)
    for odd, want in [
        (t.clone().requires_grad_(), t),
        (torch.nn.Parameter(t), t),
        (t.T, t.T),
        (t.to_sparse(), t),
        (torch.complex(t, 2 * t).conj().imag, -2 * t),
        (t.to(torch.bfloat16), t),
        (t.to(torch.float8_e5m2), t.to(torch.float8_e5m2).float()),
        (t[0, 1], t[0, 1]),
        ([t[0].clone().requires_grad_(), t[1]], t),
    ]:
        np.testing.assert_array_equal(from_framework(odd), want.numpy())
    for odd, message in [
        (t * 1j, "complex numbers came"),
        (t.to("meta"), "on the device meta has no numbers"),
        (torch.nn.Linear(2, 2), "a Linear is no array of numbers: was it not called"),
        (torch.float32, "an object array"),
    ]:
        with pytest.raises(TypeError, match=message):
            from_framework(odd)


def test_jax_without_x64_is_told():
    jax = pytest.importorskip("jax")
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", False)
    try:
        with pytest.warns(UserWarning, match="x64"), pytest.raises(ValueError, match="jax_enable"):
            to_framework(np.ones(1), "jax", "float64")
    finally:
        jax.config.update("jax_enable_x64", before)


def norm(framework):
    xp = pytest.importorskip("torch" if framework == "torch" else "jax.numpy")

    def f(x, w, eps):
        return x / xp.sqrt((x * x).mean(-1)[..., None] + eps) * w, {"x": x}

    return f


def test_autodiff_gives_the_gradients_of_every_float_argument(framework):
    with InProcess(norm(framework), framework=framework, outputs=["y"]) as function:
        reply = function.backward(A, (DY,))
    assert reply.problem is None
    assert reply.dtypes == ("float64",)
    root = np.sqrt((X * X).mean(-1, keepdims=True) + 0.5)
    np.testing.assert_allclose(reply.outputs[0], X / root * W, rtol=1e-14)
    g = DY * W
    dx = g / root - X * (g * X).mean(-1, keepdims=True) / root**3
    np.testing.assert_allclose(reply.gradients["x"], dx, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(reply.gradients["w"], (DY * X / root).sum(0), rtol=1e-12)
    assert reply.changed == ()


def test_two_forwards_before_two_backwards(framework):
    function = InProcess(norm(framework), framework=framework)
    other = {**A, "x": 2 * X}
    first, second = function.twice([A, other], [(DY,), (2 * DY,)])
    np.testing.assert_array_equal(first.gradients["x"], function.backward(A, (DY,)).gradients["x"])
    want = function.backward(other, (2 * DY,)).gradients["w"]
    np.testing.assert_array_equal(second.gradients["w"], want)


def test_dicts_whole_numbers_and_several_outputs(framework):
    def f(params, ids, pair):
        y = params["a"]["w"][ids] * pair[0]
        return y, ids, 3.0 * pair[1], None

    arguments = {
        "params": {"a": {"w": np.array([1.0, 2, 3])}},
        "ids": np.array([2, 2]),
        "pair": (np.ones(2), np.ones(2)),
    }
    function = InProcess(f, framework=framework, outputs=["y", "ids", "z"])
    reply = function.backward(arguments, (np.array([1.0, 10]), np.array([5.0, 7])))
    assert reply.problem is None
    assert reply.dtypes == ("float64", "int64", "float64")
    assert {name: g.tolist() for name, g in reply.gradients.items()} == {
        "params.a.w": [0, 0, 11],
        "pair.0": [3, 30],
        "pair.1": [15, 21],
    }


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients_in_low_precision(framework, dtype):
    reply = InProcess(norm(framework), framework=framework).backward(A, (DY,), dtype)
    assert reply.problem is None
    assert reply.gradients["x"].dtype == np.float32
    exact = InProcess(norm(framework), framework=framework).backward(A, (DY,)).gradients["x"]
    bound = 1e-5 if dtype == "float32" else 0.1
    np.testing.assert_allclose(reply.gradients["x"], exact, rtol=bound, atol=bound)


def test_an_own_backward_goes_before_autodiff(framework):
    def f(x, w, eps):
        return x * w

    def b(x, w, eps, dy):
        assert kind_of(dy) == framework
        return 0 * x, 7 + 0 * w

    reply = InProcess(f, b, framework=framework).backward(A, (DY,))
    assert reply.gradients["w"].tolist() == [7, 7, 7]


def test_results_of_another_shape_have_no_gradient(framework):
    reply = InProcess(lambda x, w, eps: x[0] * w, framework=framework).backward(A, (DY,))
    assert reply.problem.kind == "wrong type"
    assert "has the shape (3,), the right one has (2, 3)" in reply.problem.says


def test_what_is_detached_has_no_gradient(torch):
    def f(x, w, eps):
        return x.detach() * w

    reply = InProcess(f, framework="torch").backward(A, (DY,))
    assert reply.gradients["x"] is None
    np.testing.assert_allclose(reply.gradients["w"], (DY * X).sum(0))
    reply = InProcess(lambda x, w, eps: x.detach(), framework="torch").backward(A, (DY,))
    assert reply.gradients == {"x": None, "w": None}
    reply = InProcess(lambda x, w, eps: x.detach().numpy(), framework="torch").backward(A, (DY,))
    assert reply.gradients == {"x": None, "w": None}
    assert reply.notes == (
        "the function returned an array of numpy, where torch was asked for: converted",
    )


def test_a_tensor_where_numpy_was_asked_for_is_converted_and_said(torch):
    reply = InProcess(lambda x, w, eps: torch.from_numpy(x)).forward(A)
    np.testing.assert_array_equal(reply.outputs[0], X)
    assert "an array of torch, where numpy was asked for" in reply.notes[0]


def test_writing_into_a_tensor_is_seen_and_still_differentiates(torch):
    def f(x, w, eps):
        x.add_(1)
        return x * w

    function = InProcess(f, framework="torch")
    assert function.forward(A).changed == ("x",)
    reply = function.backward(A, (DY,))
    assert reply.changed == ("x",)
    np.testing.assert_allclose(reply.gradients["x"], DY * W)


TEXT = {
    "torch": "import torch\n",
    "jax": "import jax.numpy as torch\n",
}


@pytest.mark.slow
def test_a_file_in_a_process_of_its_own(framework, tmp_path):
    file = tmp_path / "theirs.py"
    body = "def f(x, w, eps):\n    return x / torch.sqrt((x * x).mean(-1)[:, None] + eps) * w\n"
    file.write_text(TEXT[framework] + body, encoding="utf-8")
    here = InProcess(norm(framework), framework=framework)
    with Worker(f"{file}:f", framework=framework, seconds=60) as worker:
        for dtype in FLOATS:
            reply, want = worker.forward(A, dtype), here.forward(A, dtype)
            assert reply.problem is None
            assert reply.dtypes == (dtype,)
            np.testing.assert_array_equal(reply.outputs[0], want.outputs[0])
        reply, want = worker.backward(A, (DY,)), here.backward(A, (DY,))
        np.testing.assert_array_equal(reply.gradients["x"], want.gradients["x"])
        np.testing.assert_array_equal(reply.gradients["w"], want.gradients["w"])
        assert worker.restarts == 0


@pytest.mark.slow
def test_torch_under_the_limit_of_memory(torch, tmp_path):
    file = tmp_path / "theirs.py"
    text = "import torch\ndef f(x, w, eps):\n    return torch.ones(int(eps) << 27)[:3]\n"
    file.write_text(text, encoding="utf-8")
    with Worker(f"{file}:f", framework="torch", memory_mb=1024, seconds=60) as worker:
        reply = worker.forward({**A, "eps": 100.0})
        assert reply.problem.kind == "out of memory"
        assert reply.problem.where.endswith("line 3: return torch.ones(int(eps) << 27)[:3]")
        assert worker.forward({**A, "eps": 1.0}).problem is None
        assert worker.restarts == 0
