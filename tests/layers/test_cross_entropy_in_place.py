"""Cross-entropy in place: the pair's loss and gradient, in one walk, in the logits' own memory."""

import tracemalloc

import numpy as np
import pytest

from minqwen.layers.cross_entropy import cross_entropy_backward, cross_entropy_forward
from minqwen.layers.cross_entropy_in_place import cross_entropy_in_place

LIMITS = {"float64": 1e-15, "float32": 1e-6}


def both(logits, labels, mask=None, dloss=1.0, block=None):
    """Return loss and gradient of the pair, and those of the function in place."""
    loss, cache = cross_entropy_forward(logits, labels, mask)
    dlogits = cross_entropy_backward(dloss, cache)
    return (loss, dlogits), cross_entropy_in_place(logits.copy(), labels, mask, dloss, block)


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("block", [None, 1, 14, 20])
@pytest.mark.parametrize("dloss", [1.0, -0.25])
@pytest.mark.parametrize("masked", [False, True])
def test_equals_the_pair(dtype, block, dloss, masked):
    rng = np.random.default_rng(0)
    logits = (3 * rng.standard_normal((2, 3, 7))).astype(dtype)
    labels = rng.integers(0, 7, (2, 3))
    labels[0, 1] = -100
    mask = rng.random((2, 3)) < 0.5 if masked else None
    (loss, dlogits), (got, dgot) = both(logits, labels, mask, dloss, block)
    assert got.dtype == dgot.dtype == dtype
    assert got == loss
    np.testing.assert_allclose(dgot, dlogits, rtol=0, atol=LIMITS[dtype])


def test_the_gradient_lies_where_the_logits_were():
    logits = np.zeros((2, 3, 4), np.float32)
    _, dlogits = cross_entropy_in_place(logits, np.zeros((2, 3), int))
    assert dlogits.shape == logits.shape
    assert np.shares_memory(dlogits, logits)
    np.testing.assert_array_equal(dlogits, logits)


def test_half_precision_is_worked_on_in_a_copy():
    logits = np.array([[1.0, 2.0, 3.0]], np.float16)
    (loss, dlogits), (got, dgot) = both(logits, np.array([0]))
    assert got.dtype == np.float32
    assert dgot.dtype == np.float16
    np.testing.assert_allclose(got, loss, rtol=1e-6)
    np.testing.assert_allclose(dgot, dlogits, rtol=2e-3)


def test_extreme_logits_and_nothing_counted():
    logits = np.array([[1e30, -1e30, 0], [-np.inf, 0, 0], [-np.inf] * 3], np.float32)
    labels = np.array([0, 1, -100])
    (loss, dlogits), (got, dgot) = both(logits, labels, block=1)
    assert abs(got - loss) < 1e-6
    np.testing.assert_allclose(dgot, dlogits, atol=1e-6)
    loss, dlogits = cross_entropy_in_place(logits, np.full(3, -100))
    assert loss == 0
    assert (dlogits == 0).all()


def test_no_second_array_of_the_size_of_the_logits():
    logits, labels = np.zeros((256, 40000), np.float32), np.zeros(256, int)
    tracemalloc.start()
    cross_entropy_in_place(logits, labels)
    extra = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert extra < logits.nbytes / 30


def test_errors():
    logits, labels = np.zeros((2, 3, 7)), np.zeros((2, 3), int)
    with pytest.raises(ValueError, match=r"labels must be in \[0, V=7\), got values from 0 to 7"):
        cross_entropy_in_place(logits, labels + [0, 0, 7])
    with pytest.raises(ValueError, match=r"labels must have shape \(2, 3\), got \(3, 2\)"):
        cross_entropy_in_place(logits, labels.T)
    with pytest.raises(TypeError, match="loss_mask must be boolean"):
        cross_entropy_in_place(logits, labels, labels)
    with pytest.raises(ValueError, match=r"loss_mask \(2, 2\), labels \(2, 3\) must have the same"):
        cross_entropy_in_place(logits, labels, labels[:, 1:] == 0)
    with pytest.raises(ValueError, match="logits must be C-contiguous"):
        cross_entropy_in_place(logits[:, ::2], labels[:, ::2])
    assert (logits == 0).all()  # nothing was written before an error
