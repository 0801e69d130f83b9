"""The fast RMSNorm: the numbers of rmsnorm.py, in every shape and dtype, and its errors."""

import tracemalloc

import numpy as np
import pytest

from minqwen.check.gradients import check_gradients
from minqwen.layers.rmsnorm import rmsnorm_backward, rmsnorm_forward
from minqwen.layers.rmsnorm_fast import fast_rmsnorm_backward, fast_rmsnorm_forward

LIMITS = {"float64": 1e-14, "float32": 3e-6, "float16": 2e-3}


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 7), (2, 3, 4, 896)])
@pytest.mark.parametrize("size", [1e-3, 1.0, 50.0])
def test_equals_rmsnorm(shape, dtype, size):
    rng = np.random.default_rng(0)
    x = (size * rng.standard_normal(shape)).astype(dtype)
    w, dy = (rng.standard_normal(s).astype(dtype) for s in (shape[-1:], shape))
    y, cache = fast_rmsnorm_forward(x, w)
    want, want_cache = rmsnorm_forward(x, w)
    np.testing.assert_array_equal(y, want)
    np.testing.assert_array_equal(cache.inv_rms, want_cache.inv_rms)
    ours, theirs = fast_rmsnorm_backward(dy, cache), rmsnorm_backward(dy, want_cache)
    for a, b in zip((y, *ours), (want, *theirs), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_allclose(a, b, rtol=0, atol=LIMITS[dtype] * float(np.abs(b).max()))


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5)])
def test_gradients(shape):
    rng = np.random.default_rng(1)
    x, w = rng.standard_normal(shape), rng.standard_normal(5)
    check_gradients(fast_rmsnorm_forward, fast_rmsnorm_backward, x, w)


def test_arguments_are_left_as_they_are():
    rng = np.random.default_rng(2)
    x, dy, w = rng.standard_normal((3, 5)), rng.standard_normal((3, 5)), rng.standard_normal(5)
    kept = [a.copy() for a in (x, dy, w)]
    _, cache = fast_rmsnorm_forward(x, w)
    first = fast_rmsnorm_backward(dy, cache)
    for a, b in zip((x, dy, w), kept, strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(fast_rmsnorm_backward(dy, cache), first, strict=True):
        np.testing.assert_array_equal(a, b)


def test_zeros_and_a_mean_of_many_numbers():
    y, cache = fast_rmsnorm_forward(np.zeros((2, 5)), np.ones(5))
    assert (y == 0).all()
    assert all(np.isfinite(g).all() for g in fast_rmsnorm_backward(np.ones((2, 5)), cache))
    x = np.full((1, 8192), 0.1, np.float32)
    np.testing.assert_allclose(fast_rmsnorm_forward(x, np.ones_like(x[0]), 0.0)[0], 1, rtol=2e-6)


def test_the_forward_pass_makes_one_array():
    x, w = np.ones((256, 512), np.float32), np.ones(512, np.float32)
    tracemalloc.start()
    fast_rmsnorm_forward(x, w)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.2 * x.nbytes


def test_errors():
    with pytest.raises(ValueError, match=r"w must have shape \(D=5\), got \(4,\)"):
        fast_rmsnorm_forward(np.ones((2, 5)), np.ones(4))
    with pytest.raises(TypeError, match="w must have the dtype of x"):
        fast_rmsnorm_forward(np.ones((2, 5)), np.ones(5, np.float32))
    _, cache = fast_rmsnorm_forward(np.ones((2, 5)), np.ones(5))
    with pytest.raises(ValueError, match="must have the same shape"):
        fast_rmsnorm_backward(np.ones((2, 4)), cache)
