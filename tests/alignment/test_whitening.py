"""Whitening: equation, fixture, masked mean and variance, equal numbers, dtypes, errors."""

import numpy as np
import pytest
from helpers.fake_device import count_syncs, from_fake, install, to_fake

from minqwen.alignment.whitening import answer_only, whiten

MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 1, 1]], dtype=bool)


@pytest.fixture
def x():
    return 2 + 1.5 * np.random.default_rng(0).standard_normal((3, 5))


def test_matches_the_equation(x):
    real = [float(x[i]) for i in np.ndindex(x.shape) if MASK[i]]
    mean = sum(real) / len(real)
    var = sum((value - mean) ** 2 for value in real) / len(real)
    for shift_mean in (True, False):
        y = whiten(x, MASK, shift_mean=shift_mean)
        for i in np.ndindex(x.shape):
            want = (x[i] - mean) / (var + 1e-8) ** 0.5 + (0 if shift_mean else mean)
            assert abs(y[i] - (want if MASK[i] else 0)) < 1e-14


def test_the_facts():
    """Divided by n - 1 it would be -.37669, -1.02243, .05381, 1.34530."""
    y = whiten(np.array([[0.1, -0.2, 0.3, 0.9]]), np.ones((1, 4), bool))
    np.testing.assert_allclose(y, [[-0.43496, -1.18060, 0.06214, 1.55342]], atol=1e-5)


def test_mean_0_and_variance_1_over_the_answers_only(x):
    for size in (1.0, 1e6):
        y = whiten(size * x, MASK)
        assert abs(y[MASK].mean()) < 1e-15
        assert abs(y[MASK].var() - 1) < 1e-7
        assert not y[~MASK].any()
    y = whiten(x, MASK, shift_mean=False)
    assert abs(y[MASK].mean() - x[MASK].mean()) < 1e-14
    assert abs(y[MASK].var() - 1) < 1e-7


def test_padding_changes_nothing(x):
    want = whiten(x, MASK)
    for filling in (0.0, 1e9, np.inf, np.nan):
        np.testing.assert_array_equal(whiten(np.where(MASK, x, filling), MASK), want)
    wider = whiten(np.pad(x, ((0, 0), (1, 2)), constant_values=7), np.pad(MASK, ((0, 0), (1, 2))))
    np.testing.assert_allclose(wider[:, 1:-2], want, rtol=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [0.1, -12345.678, 3e7])
def test_equal_numbers_give_nothing(value, dtype):
    """Where rounding of the mean is divided by the root of eps, noise would look like a signal."""
    x = np.full((3, 5), value, dtype)
    assert np.abs(whiten(x, MASK)).max() < 2e-3
    kept = whiten(x, MASK, shift_mean=False)
    np.testing.assert_allclose(kept[MASK], x[MASK], rtol=1e-5)


def test_one_token_and_no_token(x):
    one = np.zeros_like(MASK)
    one[1, 1] = True
    assert not whiten(x, one).any()
    assert abs(whiten(x, one, shift_mean=False)[1, 1] - x[1, 1]) < 1e-15
    for shift_mean in (True, False):
        assert not whiten(x, np.zeros_like(MASK), shift_mean=shift_mean).any()
    assert whiten(x[:0], MASK[:0]).shape == (0, 5)


def test_eps_stands_under_the_root():
    x = np.array([[1e-4, -1e-4]])  # variance 1e-8
    np.testing.assert_allclose(whiten(x, np.ones((1, 2), bool)), [[0.5**0.5, -(0.5**0.5)]])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_dtypes(x, dtype):
    y = whiten(x.astype(dtype), MASK)
    assert y.dtype == dtype
    assert np.abs(y - whiten(x, MASK)).max() < (5e-3 if dtype == np.float16 else 1e-6)
    wide = answer_only(MASK, x=x.astype(dtype))[1][0]
    assert wide.dtype == np.promote_types(dtype, "f4")


def test_on_the_device_without_waiting(x, monkeypatch):
    want = whiten(x, MASK, shift_mean=False)
    install(monkeypatch)
    device = to_fake(x)
    with count_syncs() as syncs:
        got = whiten(device, MASK, shift_mean=False)
    assert not syncs
    np.testing.assert_array_equal(from_fake(got), want)


def test_errors(x):
    with pytest.raises(ValueError, match=r"x must have axes \(B, T\), got shape \(5,\)"):
        whiten(x[0], MASK[0])
    with pytest.raises(ValueError, match=r"x \(3, 5\), mask \(2, 5\) must have the same shape"):
        whiten(x, MASK[:2])
    with pytest.raises(TypeError, match="x must be a floating-point array"):
        whiten(x.astype(int), MASK)
    with pytest.raises(TypeError, match="mask must be boolean"):
        whiten(x, MASK.astype(float))
