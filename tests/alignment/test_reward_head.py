"""Reward head: the end token in any padding, gradients, the value head, errors."""

import numpy as np
import pytest
from helpers.fake_device import count_syncs, from_fake, install, to_fake

from minqwen.alignment.reward_head import last_real, reward_head_backward, reward_head_forward
from minqwen.check.gradients import check_gradients
from minqwen.layers.linear import linear_forward


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.standard_normal((3, 5, 7)), rng.standard_normal((1, 7)), np.array([2, 4, 0])


def test_reads_one_token_of_each_row(data):
    hidden, w, end = data
    rewards, _ = reward_head_forward(*data)
    for b in range(3):
        assert abs(rewards[b] - sum(hidden[b, end[b], d] * w[0, d] for d in range(7))) < 1e-14


def test_gradients(data):
    check_gradients(reward_head_forward, reward_head_backward, *data)


def test_is_the_value_head_at_the_end_token(data):
    hidden, w, end = data
    values = linear_forward(hidden, w)[0][..., 0]  # (B, T) a value for every token
    rewards, _ = reward_head_forward(*data)
    np.testing.assert_allclose(rewards, values[np.arange(3), end], rtol=1e-14)


def test_what_is_not_the_end_changes_nothing_and_gets_nothing(data):
    hidden, w, end = data
    want, cache = reward_head_forward(*data)
    other = np.full_like(hidden, np.nan)
    other[np.arange(3), end] = hidden[np.arange(3), end]
    np.testing.assert_array_equal(reward_head_forward(other, w, end)[0], want)
    dhidden, dw = reward_head_backward(np.array([1.0, -2.0, 0.5]), cache)
    read = np.zeros((3, 5), bool)
    read[np.arange(3), end] = True
    assert not dhidden[~read].any()
    np.testing.assert_array_equal(dhidden[read], np.array([[1.0], [-2.0], [0.5]]) * w)
    np.testing.assert_allclose(dw, [hidden[0, 2] - 2 * hidden[1, 4] + hidden[2, 0] / 2], rtol=1e-14)


@pytest.mark.parametrize(("left", "right"), [(0, 0), (3, 0), (0, 3), (2, 1)])
def test_padding_on_either_side_does_not_move_the_reward(data, left, right):
    """Traps: the last position, a length for an index, and left padding read as right padding."""
    hidden, w, _ = data
    want, _ = reward_head_forward(hidden, w, last_real(np.ones((3, 5), bool)))
    padded = np.pad(hidden, ((0, 0), (left, right), (0, 0)), constant_values=9.0)
    real = np.pad(np.ones((3, 5), bool), ((0, 0), (left, right)))
    np.testing.assert_array_equal(reward_head_forward(padded, w, last_real(real))[0], want)


def test_the_last_real_token_counts_and_holes_do_not():
    real = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [1, 1, 0]], bool)
    np.testing.assert_array_equal(last_real(real), [0, 1, 2, 2, 1])


def test_the_last_real_token_on_a_device_waits_once_for_the_check(monkeypatch):
    real = np.array([[True, True, False], [False, True, True]])
    install(monkeypatch)
    with count_syncs() as syncs:
        last = last_real(to_fake(real))
    assert sum(syncs.values()) == 1
    np.testing.assert_array_equal(from_fake(last), [1, 2])


def test_keeps_only_the_rows_that_were_read(data):
    _, cache = reward_head_forward(*data)
    assert cache.end_hidden.shape == (3, 7)
    assert cache.end_hidden.base is None  # a copy, so the hidden states can be freed


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_dtypes(data, dtype):
    hidden, w, end = data
    rewards, cache = reward_head_forward(hidden.astype(dtype), w.astype(dtype), end)
    assert {rewards.dtype, *(g.dtype for g in reward_head_backward(rewards, cache))} == {
        np.dtype(dtype)
    }


def test_errors(data):
    hidden, w, end = data
    with pytest.raises(ValueError, match=r"w must have shape \(out=1, D=7\), got \(7,\)"):
        reward_head_forward(hidden, w[0], end)
    with pytest.raises(ValueError, match=r"end_index must be in \[0, T=5\), got values from -1 to"):
        reward_head_forward(hidden, w, end - 1)
    with pytest.raises(ValueError, match=r"end_index must be in \[0, T=5\), got values from 1 to"):
        reward_head_forward(hidden, w, end + 1)
    with pytest.raises(ValueError, match=r"end_index must have shape \(B=3\), got \(2,\)"):
        reward_head_forward(hidden, w, end[:2])
    with pytest.raises(TypeError, match="end_index must be an integer array"):
        reward_head_forward(hidden, w, end.astype(float))
    with pytest.raises(ValueError, match=r"hidden must have axes \(B, T, D\)"):
        reward_head_forward(hidden[0], w, end)
    with pytest.raises(ValueError, match="real must have a real token in every row"):
        last_real(np.array([[True, False], [False, False]]))
    with pytest.raises(TypeError, match=r"real must be boolean \(True = a real token\)"):
        last_real(np.ones((2, 3), int))
