"""Advantages and returns: equation, fixtures, both ends, padding, open ends, dtypes, errors."""

import numpy as np
import pytest
from helpers.fake_device import count_syncs, from_fake, install, to_fake

from minqwen.alignment.gae import gae
from minqwen.alignment.whitening import whiten

MASK = np.array(
    [
        [1, 1, 1, 1, 1, 1],
        [1, 1, 1, 0, 0, 0],
        [0, 0, 1, 1, 1, 1],
        [0, 1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 1, 1],  # the output of a tool between two parts of an answer
    ],
    dtype=bool,
)
FACTS = np.array([[0.1, -0.2, 0.3, 1.0]]), np.array([[0.5, 0.4, 0.3, 0.2]])
FOUR = np.ones((1, 4), dtype=bool)


@pytest.fixture
def inputs():
    return (*np.random.default_rng(0).standard_normal((2, 7, 6)), MASK)


def slow(rewards, values, mask, gamma, lam, last_values=None):
    """A_t = sum_k (gamma lam)^k delta_{t+k} over the tokens of the answer, and R = A + V."""
    A, R = np.zeros(mask.shape), np.zeros(mask.shape)
    for b in range(len(mask)):
        places = [t for t in range(mask.shape[1]) if mask[b, t]]
        end = 0.0 if last_values is None else last_values[b]
        following = [*(values[b, t] for t in places[1:]), end]
        for i, t in enumerate(places):
            for k, s in enumerate(places[i:]):
                delta = rewards[b, s] + gamma * following[i + k] - values[b, s]
                A[b, t] += (gamma * lam) ** k * delta
            R[b, t] = A[b, t] + values[b, t]
    return A, R


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.8), (1.0, 1.0), (0.7, 0.0)])
def test_matches_the_equation(inputs, gamma, lam):
    for last_values in (None, np.arange(7.0)):
        got = gae(*inputs, gamma=gamma, lam=lam, last_values=last_values)
        want = slow(*inputs, gamma, lam, last_values)
        for a, b in zip(got, want, strict=True):
            assert np.abs(a - b).max() < 1e-14


def test_the_facts():
    A, R = gae(*FACTS, FOUR)
    np.testing.assert_allclose(A, [[0.5814, 0.612, 0.96, 0.8]], rtol=1e-4)
    np.testing.assert_allclose(R, [[1.0814, 1.012, 1.26, 1.0]], rtol=1e-4)
    A, _ = gae(*FACTS, FOUR, lam=1.0)
    np.testing.assert_allclose(A, [[0.7, 0.7, 1.0, 0.8]], rtol=1e-14)


def test_case_55():
    A, R = gae(np.array([[0.0, 0.0, 1.0]]), np.zeros((1, 3)), np.ones((1, 3), bool))
    np.testing.assert_allclose(A, [[0.9025, 0.95, 1.0]], rtol=1e-15)
    np.testing.assert_array_equal(R, A)


def test_both_ends_of_lambda(inputs):
    """lam = 0: one step. lam = 1: what really came; then the returns do not know the values."""
    rewards, values, _ = inputs
    all_real = np.ones((7, 6), bool)
    A, _ = gae(rewards, values, all_real, gamma=0.9, lam=0.0)
    following = np.pad(values[:, 1:], ((0, 0), (0, 1)))
    np.testing.assert_allclose(A, rewards + 0.9 * following - values, rtol=1e-13)
    _, R = gae(rewards, values, all_real, gamma=0.9, lam=1.0)
    _, other = gae(rewards, 0 * values, all_real, gamma=0.9, lam=1.0)
    np.testing.assert_allclose(R, other, rtol=1e-12)


def test_perfect_values_leave_nothing_to_learn():
    rewards = np.array([[0.5, -0.25, 2.0]])
    values = np.cumsum(rewards[:, ::-1], axis=1)[:, ::-1]
    A, R = gae(rewards, values, np.ones((1, 3), bool))
    assert not A.any()
    np.testing.assert_array_equal(R, values)


def test_padding_gives_and_gets_nothing(inputs):
    rewards, values, mask = inputs
    want = gae(*inputs)
    for filling in (0.0, 1e6, np.inf, np.nan):
        got = gae(*(np.where(mask, x, filling) for x in (rewards, values)), mask)
        for a, b in zip(got, want, strict=True):
            np.testing.assert_array_equal(a, b)
    for sides in ((0, 3), (2, 0)):
        wider = gae(*(np.pad(x, ((0, 0), sides)) for x in inputs))
        for a, b in zip(wider, want, strict=True):
            assert not a[:, : sides[0]].any()
            np.testing.assert_array_equal(a[:, sides[0] : sides[0] + 6], b)
    assert not any(x[~mask].any() for x in want)


def test_a_text_cut_off_goes_on_where_the_value_says(inputs):
    """Cut an answer in two: with the value at the cut and lam = 0 nothing changes before it."""
    rewards, values, _ = inputs
    whole, _ = gae(rewards, values, np.ones((7, 6), bool), gamma=0.9, lam=0.0)
    first = np.arange(6) < np.full((7, 1), 4)
    part, _ = gae(rewards, values, first, gamma=0.9, lam=0.0, last_values=values[:, 4])
    np.testing.assert_array_equal(part[:, :4], whole[:, :4])
    ended, _ = gae(rewards, values, first, gamma=0.9, lam=0.0)
    assert np.abs(ended[:, 3] - whole[:, 3]).min() > 1e-3


def test_returns_are_made_before_whitening():
    A, R = gae(*FACTS, FOUR)
    np.testing.assert_allclose(R - FACTS[1], A, rtol=1e-14)
    assert abs(whiten(A, FOUR).mean()) < 1e-15 < A.mean()


def test_no_tokens_at_all():
    for shape in ((2, 0), (0, 3)):
        A, R = gae(np.zeros(shape), np.zeros(shape), np.zeros(shape, bool))
        assert A.shape == R.shape == shape


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_dtypes(inputs, dtype):
    rewards, values, mask = inputs
    got = gae(rewards.astype(dtype), values.astype(dtype), mask, gamma=np.float64(0.9))
    for a, b in zip(got, gae(*inputs, gamma=0.9), strict=True):
        assert a.dtype == dtype
        assert np.abs(a - b).max() < (2e-2 if dtype == np.float16 else 1e-5)


def test_on_the_device_without_waiting(inputs, monkeypatch):
    rewards, values, mask = inputs
    want = gae(rewards, values, mask, last_values=values[:, 0])
    install(monkeypatch)
    r, V = to_fake((rewards, values))
    with count_syncs() as syncs:
        got = gae(r, V, mask, last_values=V[:, 0])
    assert not syncs
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(from_fake(a), b)


def test_errors(inputs):
    rewards, values, mask = inputs
    with pytest.raises(ValueError, match=r"rewards must have axes \(B, T\), got shape \(6,\)"):
        gae(rewards[0], values[0], mask[0])
    with pytest.raises(ValueError, match="must have the same shape"):
        gae(rewards, values[:, :5], mask)
    with pytest.raises(ValueError, match=r"last_values must have shape \(B=7\), got \(6,\)"):
        gae(*inputs, last_values=np.zeros(6))
    with pytest.raises(TypeError, match="last_values must have the dtype of rewards"):
        gae(*inputs, last_values=np.zeros(7, "f4"))
    with pytest.raises(TypeError, match="mask must be boolean"):
        gae(rewards, values, mask.astype(int))
