"""Head and loss together: the numbers of the two layers one after the other, part by part."""

import tracemalloc

import numpy as np
import pytest

from minqwen.check.gradients import check_gradients
from minqwen.layers.cross_entropy import cross_entropy_backward, cross_entropy_forward
from minqwen.layers.linear import linear_backward, linear_forward
from minqwen.layers.linear_cross_entropy import (
    linear_cross_entropy_backward,
    linear_cross_entropy_forward,
)

LIMITS = {"float64": 1e-14, "float32": 2e-6}


def plain(x, w, labels, mask=None, dloss=1.0):
    logits, head = linear_forward(x, w)
    loss, cache = cross_entropy_forward(logits, labels, mask)
    return loss, *linear_backward(cross_entropy_backward(dloss, cache), head)[:2]


def fused(x, w, labels, mask=None, dloss=1.0, block=None):
    loss, cache = linear_cross_entropy_forward(x, w, labels, mask, block)
    return loss, *linear_cross_entropy_backward(dloss, cache)


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 11, (2, 3))
    labels[1, 0] = -100
    return rng.standard_normal((2, 3, 5)), 2 * rng.standard_normal((11, 5)), labels


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("block", [None, 1, 6, 13, 24])
@pytest.mark.parametrize("masked", [False, True])
def test_equals_the_two_layers(data, dtype, block, masked):
    x, w, labels = data[0].astype(dtype), data[1].astype(dtype), data[2]
    mask = np.array([[True, False, True], [True, True, False]]) if masked else None
    got = fused(x, w, labels, mask, -0.5, block)
    for ours, want in zip(got, plain(x, w, labels, mask, -0.5), strict=True):
        assert ours.dtype == dtype
        assert ours.shape == want.shape
        np.testing.assert_allclose(ours, want, rtol=0, atol=LIMITS[dtype] * 5)


def test_gradients(data):
    x, w, labels = data
    check_gradients(
        lambda x, w: linear_cross_entropy_forward(x, w, labels, block=18),
        linear_cross_entropy_backward,
        x,
        w,
    )


def test_a_later_part_with_a_far_larger_peak(data):
    """The sum so far must be restated in terms of the new peak; without that it would overflow."""
    x, w = np.ones((1, 1), np.float32), np.array([[0.0], [1.0], [5000.0], [4999.0]], np.float32)
    loss, dx, dw = fused(x, w, np.array([3]), block=1)
    np.testing.assert_allclose(loss, 1 + np.log1p(np.exp(-1.0)), atol=1e-3)
    assert np.isfinite(dx).all()
    assert abs(dw.sum()) < 1e-3


def test_nothing_counted_gives_zero_and_no_gradient(data):
    x, w, labels = data
    loss, dx, dw = fused(x, w, np.full_like(labels, -100), block=12)
    assert loss == 0
    assert (dx == 0).all()
    assert (dw == 0).all()


def test_half_precision_comes_back_in_its_own_dtype(data):
    x, w, labels = data[0].astype(np.float16), data[1].astype(np.float16), data[2]
    loss, dx, dw = fused(x, w, labels, block=12)
    assert (loss.dtype, dx.dtype, dw.dtype) == (np.float32, np.float16, np.float16)
    want = plain(x.astype(np.float32), w.astype(np.float32), labels)
    np.testing.assert_allclose(dw, want[2], atol=1e-3)


def test_extra_memory_does_not_grow_with_the_vocabulary():
    extra = []
    for V in (2000, 20000):
        x, w = np.ones((64, 4), np.float32), np.zeros((V, 4), np.float32)
        tracemalloc.start()
        _, cache = linear_cross_entropy_forward(x, w, np.zeros(64, int), block=2**14)
        _, dw = linear_cross_entropy_backward(1.0, cache)
        extra.append(tracemalloc.get_traced_memory()[1] - dw.nbytes)
        tracemalloc.stop()
    assert max(extra) < 3 * 2**14 * 4 < 64 * 2000 * 4
    assert extra[1] < 1.2 * extra[0]


def test_errors(data):
    x, w, labels = data
    with pytest.raises(ValueError, match=r"labels must be in \[0, V=11\), got values from 0 to 11"):
        linear_cross_entropy_forward(x, w, np.array([[0, 1, 2], [3, 4, 11]]))
    with pytest.raises(ValueError, match=r"labels must have shape \(2, 3\), got \(3, 2\)"):
        linear_cross_entropy_forward(x, w, labels.T)
    with pytest.raises(ValueError, match=r"w must have shape \(V=11, D=5\), got \(11, 4\)"):
        linear_cross_entropy_forward(x, w[:, :4], labels)
    with pytest.raises(TypeError, match="w must have the dtype of x"):
        linear_cross_entropy_forward(x, w.astype(np.float32), labels)
