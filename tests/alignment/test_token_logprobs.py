"""Log-probabilities of tokens and answers: equations, temperature, masks, big numbers, errors."""

import math
import tracemalloc

import numpy as np
import pytest

from minqwen.alignment.token_logprobs import (
    sequence_logprobs_backward,
    sequence_logprobs_forward,
    token_logprobs_backward,
    token_logprobs_forward,
)
from minqwen.check.gradients import check_gradients
from minqwen.layers.cross_entropy import cross_entropy_backward, cross_entropy_forward


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return 2 * rng.standard_normal((2, 3, 7)), rng.integers(0, 7, (2, 3))


def by_hand(logits, ids, temperature=1.0):
    """log softmax(z / temperature)[id], one number at a time."""
    found = np.empty(ids.shape)
    for n in np.ndindex(ids.shape):
        terms = [math.exp(z / temperature) for z in logits[n]]
        found[n] = math.log(terms[ids[n]] / sum(terms))
    return found


@pytest.mark.parametrize("block", [1, 2, 7, 15, 100])
@pytest.mark.parametrize("temperature", [0.25, 1.0, 3])
def test_matches_the_equation_in_blocks_of_any_size(data, block, temperature):
    logprobs, _ = token_logprobs_forward(*data, temperature, block)
    np.testing.assert_allclose(logprobs, by_hand(*data, temperature), rtol=1e-13)


@pytest.mark.parametrize("block", [1, 9, None])
@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_gradients(data, block, temperature):
    check_gradients(token_logprobs_forward, token_logprobs_backward, *data, temperature, block)


def test_of_all_ids_the_probabilities_sum_to_one(data):
    logits = data[0]
    for temperature in (0.3, 2.0):
        each = [
            np.exp(token_logprobs_forward(logits, np.full((2, 3), v), temperature)[0])
            for v in range(7)
        ]
        np.testing.assert_allclose(sum(each), 1, rtol=1e-14)


def test_minus_their_mean_is_the_cross_entropy_with_minus_its_gradient(data):
    logprobs, cache = token_logprobs_forward(*data)
    loss, loss_cache = cross_entropy_forward(*data)
    assert abs(-logprobs.mean() - loss) < 1e-15
    dlogits = token_logprobs_backward(np.full((2, 3), -1 / 6), cache)
    assert np.abs(dlogits - cross_entropy_backward(1.0, loss_cache)).max() < 1e-16


def test_the_temperature_divides_the_logits(data):
    logits, ids = data
    warm, cache = token_logprobs_forward(logits, ids, 0.5)
    scaled, scaled_cache = token_logprobs_forward(2 * logits, ids)
    np.testing.assert_array_equal(warm, scaled)
    dl = np.random.default_rng(1).standard_normal((2, 3))
    want = 2 * token_logprobs_backward(dl, scaled_cache)
    np.testing.assert_allclose(token_logprobs_backward(dl, cache), want, rtol=1e-13, atol=1e-16)


def test_gradient_of_each_position_sums_to_zero_and_stays_at_home(data):
    _, cache = token_logprobs_forward(*data)
    dl = np.zeros((2, 3))
    dl[1, 0] = 1.5
    dlogits = token_logprobs_backward(dl, cache)
    assert np.abs(dlogits.sum(axis=-1)).max() < 1e-15
    assert np.flatnonzero(dlogits.any(axis=-1)).tolist() == [3]
    assert dlogits[1, 0, data[1][1, 0]] > 0  # a larger logit makes its token likelier


def test_uniform_logits_of_the_real_vocabulary():
    logits = np.zeros((1, 2, 151936), np.float32)
    logprobs, _ = token_logprobs_forward(logits, np.array([[5, 151935]]))
    assert np.abs(logprobs + 11.9312147).max() < 1e-6


def test_extreme_logits_keep_their_digits():
    z = np.array([[[3000.0, 2999.0, -700.0], [-3000.0, -3001.0, -4000.0], [-900.0, 0, -np.inf]]])
    logprobs, cache = token_logprobs_forward(z, np.array([[2, 1, 0]]), block=1)
    tail = math.log1p(math.exp(-1))
    np.testing.assert_allclose(logprobs, [[-3700 - tail, -1 - tail, -900]], rtol=1e-15)
    dlogits = token_logprobs_backward(np.ones((1, 3)), cache)
    p = 1 / (1 + math.exp(-1))
    want = [[-p, p - 1, 1], [-p, p, 0], [1, -1, 0]]
    np.testing.assert_allclose(dlogits[0], want, rtol=1e-14, atol=1e-16)


def test_a_token_that_is_hidden_has_the_log_of_zero_and_a_row_without_any_is_no_nan():
    z = np.array([[[-np.inf, 0.0]], [[-np.inf, -np.inf]]])
    logprobs, cache = token_logprobs_forward(z, np.zeros((2, 1), int))
    assert (logprobs == -np.inf).all()
    assert not token_logprobs_backward(np.zeros((2, 1)), cache).any()


def test_extra_memory_is_a_block_and_not_a_softmax():
    logits, ids = np.zeros((1, 256, 40000), np.float32), np.zeros((1, 256), int)
    tracemalloc.start()
    logprobs, cache = token_logprobs_forward(logits, ids, 0.9)
    forward = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    dlogits = token_logprobs_backward(np.ones_like(logprobs), cache)
    backward = tracemalloc.get_traced_memory()[1] - dlogits.nbytes
    tracemalloc.stop()
    assert max(forward, backward) < logits.nbytes / 3


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_dtypes(data, dtype):
    """A temperature that is a NumPy number must not widen float32."""
    logprobs, cache = token_logprobs_forward(data[0].astype(dtype), data[1], np.float64(0.7))
    assert logprobs.dtype == token_logprobs_backward(logprobs, cache).dtype == dtype
    total, cache = sequence_logprobs_forward(logprobs, np.ones((2, 3), bool), "mean")
    assert total.dtype == sequence_logprobs_backward(total, cache).dtype == dtype


def test_errors(data):
    logits, ids = data
    with pytest.raises(ValueError, match=r"ids must have shape \(2, 3\), got \(3, 2\)"):
        token_logprobs_forward(logits, ids.T)
    with pytest.raises(ValueError, match=r"ids must be in \[0, V=7\), got values from -100 to"):
        token_logprobs_forward(logits, np.where(ids == ids[0, 0], -100, ids))
    with pytest.raises(TypeError, match="ids must be an integer array, got dtype float64"):
        token_logprobs_forward(logits, ids.astype(float))
    with pytest.raises(TypeError, match="logits must be a floating-point array"):
        token_logprobs_forward(logits.astype(int), ids)
    for wrong in (0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=f"temperature must be above 0, got {wrong}"):
            token_logprobs_forward(logits, ids, wrong)


MASK = np.array([[0, 0, 1, 1, 1, 0, 0], [0, 1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0]], bool)


def test_sum_and_mean_of_an_answer():
    logprobs = -np.arange(21.0).reshape(3, 7)
    total, _ = sequence_logprobs_forward(logprobs, MASK)
    mean, _ = sequence_logprobs_forward(logprobs, MASK, "mean")
    np.testing.assert_array_equal(total, [-9, -8, 0])
    np.testing.assert_array_equal(mean, [-3, -8, 0])


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_gradients_of_an_answer(reduction):
    logprobs = np.random.default_rng(0).standard_normal((3, 7))
    check_gradients(
        sequence_logprobs_forward, sequence_logprobs_backward, logprobs, MASK, reduction
    )


def test_what_is_hidden_changes_nothing_and_gets_nothing():
    logprobs = -np.random.default_rng(0).random((3, 7))
    want, _ = sequence_logprobs_forward(logprobs, MASK)
    for filling in (0.0, -1e9, -np.inf, np.nan):
        filled = np.where(MASK, logprobs, filling)
        total, cache = sequence_logprobs_forward(filled, MASK)
        np.testing.assert_array_equal(total, want)
        assert not sequence_logprobs_backward(np.ones(3), cache)[~MASK].any()


def test_twice_the_length_is_twice_the_sum_and_the_same_mean():
    logprobs, mask = -np.random.default_rng(0).random((2, 5)), np.ones((2, 5), bool)
    double = np.concatenate([logprobs, logprobs], axis=1), np.ones((2, 10), bool)
    for reduction, factor in (("sum", 2), ("mean", 1)):
        once, _ = sequence_logprobs_forward(logprobs, mask, reduction)
        twice, _ = sequence_logprobs_forward(*double, reduction)
        np.testing.assert_allclose(twice, factor * once, rtol=1e-15)


def test_errors_of_answers():
    logprobs = np.zeros((3, 7))
    with pytest.raises(ValueError, match='reduction must be "sum" or "mean", got \'average\''):
        sequence_logprobs_forward(logprobs, MASK, "average")
    with pytest.raises(TypeError, match=r"mask must be boolean \(True = a token of the answer\)"):
        sequence_logprobs_forward(logprobs, MASK.astype(int))
    with pytest.raises(ValueError, match=r"mask \(3, 7\), logprobs \(7, 3\) must have the same"):
        sequence_logprobs_forward(logprobs.T, MASK)
    with pytest.raises(ValueError, match=r"logprobs must have axes \(B, T\), got shape \(7,\)"):
        sequence_logprobs_forward(logprobs[0], MASK[0])
