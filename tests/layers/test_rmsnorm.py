"""RMSNorm: the equation, the gradient, an invariant, precision, errors."""

import numpy as np
import pytest
from helpers import references

from minqwen.check.gradients import check_gradients
from minqwen.layers.rmsnorm import rmsnorm_backward, rmsnorm_forward


@pytest.fixture
def x_w():
    rng = np.random.default_rng(0)
    return rng.standard_normal((2, 3, 5)), rng.standard_normal(5)


def test_matches_the_equation(x_w):
    y, _ = rmsnorm_forward(*x_w, eps=1e-3)
    np.testing.assert_allclose(y, references.rmsnorm(*x_w, eps=1e-3), rtol=1e-12)


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5), (2, 3, 7, 5)])
def test_gradients_in_one_to_four_axes(shape):
    rng = np.random.default_rng(1)
    check_gradients(
        rmsnorm_forward, rmsnorm_backward, rng.standard_normal(shape), rng.standard_normal(5)
    )


def test_fixture_of_the_fact_sheet():
    y, cache = rmsnorm_forward(np.array([1.0, 2, 3, 4]), np.array([1.0, 1, 2, 0.5]))
    np.testing.assert_allclose(y, [0.365148, 0.730297, 2.19089, 0.730297], atol=1e-6)
    dx, _ = rmsnorm_backward(np.array([1.0, 0, 0, 0]), cache)
    np.testing.assert_allclose(dx, [0.352977, -0.024343, -0.036515, -0.048686], atol=1e-6)


def test_rescaling_the_input_changes_nothing_and_shifting_it_does(x_w):
    x, w = x_w
    y, _ = rmsnorm_forward(x, w, eps=0.0)
    np.testing.assert_allclose(rmsnorm_forward(1000 * x, w, eps=0.0)[0], y, rtol=1e-12)
    assert np.abs(rmsnorm_forward(x + 1, w, eps=0.0)[0] - y).max() > 0.1  # LayerNorm would not move


def test_zeros_give_zeros_and_a_finite_gradient():
    y, cache = rmsnorm_forward(np.zeros((2, 5)), np.ones(5))
    assert (y == 0).all()
    assert all(np.isfinite(g).all() for g in rmsnorm_backward(np.ones((2, 5)), cache))


def test_float16_does_not_overflow_inside():
    y, _ = rmsnorm_forward(np.full((1, 4), 300, np.float16), np.ones(4, np.float16))
    np.testing.assert_array_equal(y, np.ones((1, 4), np.float16))  # 300 squared is inf in float16


def test_a_wrong_gain_is_named_in_the_error(x_w):
    with pytest.raises(ValueError, match=r"w must have shape \(D=5\), got \(4,\)"):
        rmsnorm_forward(x_w[0], np.ones(4))
