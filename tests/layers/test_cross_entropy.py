"""Cross-entropy: the equation, masks, slices, big numbers, memory, errors."""

import tracemalloc

import numpy as np
import pytest
from helpers import references

from minqwen.layers.cross_entropy import cross_entropy_backward, cross_entropy_forward


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.standard_normal((2, 3, 7)), rng.integers(0, 7, (2, 3))


@pytest.mark.parametrize("block", [1, 2, 3, 7, 100])
def test_matches_the_equation_in_blocks_of_any_size(data, block):
    mask = np.array([[True, False, True], [True, True, False]])
    loss, _ = cross_entropy_forward(*data, mask, block)
    assert abs(loss - references.cross_entropy(*data, mask)) < 1e-14


def test_equal_logits_of_the_real_vocabulary_give_its_logarithm():
    loss, _ = cross_entropy_forward(np.zeros((2, 151936), np.float32), np.array([5, 151935]))
    assert abs(loss - 11.9312147) < 1e-6


def test_ignored_labels_change_nothing(data):
    logits, labels = data
    want, _ = cross_entropy_forward(logits[:1], labels[:1])
    labels[1] = -100
    loss, cache = cross_entropy_forward(logits, labels)
    assert loss == want
    assert (cross_entropy_backward(1.0, cache)[1] == 0).all()


@pytest.mark.parametrize("how", ["labels", "mask"])
def test_nothing_counted_gives_zero_and_no_gradient(data, how):
    logits, labels = data
    mask = np.zeros(labels.shape, dtype=bool) if how == "mask" else None
    labels = labels if how == "mask" else np.full_like(labels, -100)
    loss, cache = cross_entropy_forward(logits, labels, mask)
    assert loss == 0
    assert (cross_entropy_backward(1.0, cache) == 0).all()


def test_gradient_of_each_token_sums_to_zero_and_scales_with_dloss(data):
    _, cache = cross_entropy_forward(*data)
    dlogits = cross_entropy_backward(1.0, cache)
    np.testing.assert_allclose(dlogits.sum(-1), 0, atol=1e-15)
    np.testing.assert_array_equal(cross_entropy_backward(2.0, cache), 2 * dlogits)


def test_adding_a_thousand_changes_nothing(data):
    logits, labels = data
    a, b = (cross_entropy_forward(logits + c, labels)[0] for c in (0, 1000))
    assert abs(a - b) < 1e-10


def test_extreme_logits():
    logits = np.array([[1e30, -1e30, 0], [-np.inf, 0, 0]], np.float32)
    loss, cache = cross_entropy_forward(logits, np.array([0, 1]), block=1)
    assert abs(loss - np.log(2) / 2) < 1e-6
    assert np.isfinite(cross_entropy_backward(1.0, cache)).all()


def test_a_masked_logit_under_an_ignored_token_does_not_poison_the_loss():
    """An ignored label is read as id 0; where that logit is -inf, 0 * inf would be NaN."""
    logits = np.array([[-np.inf, 0.0, 0.0], [-np.inf, 0.0, 0.0]])
    loss, cache = cross_entropy_forward(logits, np.array([1, -100]))
    assert abs(loss - np.log(2)) < 1e-15
    assert np.isfinite(cross_entropy_backward(1.0, cache)).all()


def test_a_row_of_the_lowest_number_is_a_uniform_row():
    low = np.finfo(np.float32).min
    loss, _ = cross_entropy_forward(np.full((1, 4), low, np.float32), np.array([2]))
    assert np.isfinite(loss)


def test_extra_memory_is_a_block_and_not_a_softmax():
    """The full size is in benchmarks/."""
    logits = np.zeros((256, 40000), np.float32)
    labels = np.zeros(256, int)
    tracemalloc.start()
    _, cache = cross_entropy_forward(logits, labels)
    forward = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    dlogits = cross_entropy_backward(1.0, cache)
    backward = tracemalloc.get_traced_memory()[1] - dlogits.nbytes
    tracemalloc.stop()
    assert dlogits.dtype == np.float32
    assert max(forward, backward) < logits.nbytes / 3


def test_errors(data):
    logits, labels = data
    with pytest.raises(ValueError, match=r"labels must be in \[0, V=7\), got values from 0 to 7"):
        cross_entropy_forward(logits, np.array([[0, 1, 2], [3, 4, 7]]))
    with pytest.raises(ValueError, match=r"labels must be in \[0, V=7\), got values from -1 to"):
        cross_entropy_forward(logits, np.array([[0, 1, 2], [3, 4, -1]]))
    with pytest.raises(ValueError, match=r"labels must have shape \(2, 3\), got \(3, 2\)"):
        cross_entropy_forward(logits, labels.T)
    with pytest.raises(
        TypeError, match=r"loss_mask must be boolean \(True = counts\), got dtype int"
    ):
        cross_entropy_forward(logits, labels, np.ones_like(labels))
    with pytest.raises(ValueError, match=r"loss_mask \(3, 2\), labels \(2, 3\) must have the same"):
        cross_entropy_forward(logits, labels, np.ones((3, 2), dtype=bool))
    with pytest.raises(TypeError, match="labels must be an integer array"):
        cross_entropy_forward(logits, labels.astype(float))
