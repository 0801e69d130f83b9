"""Linear, embedding, SwiGLU and dropout: the equation, what is special about each, errors."""

import numpy as np
import pytest

from minqwen.layers.dropout import dropout_backward, dropout_forward
from minqwen.layers.embedding import embedding_backward, embedding_forward
from minqwen.layers.linear import linear_backward, linear_forward
from minqwen.layers.swiglu import sigmoid, swiglu_forward

rng = np.random.default_rng(0)


def test_linear_without_a_bias_has_no_bias_gradient():
    _, cache = linear_forward(np.ones((2, 5)), np.ones((7, 5)))
    assert linear_backward(np.ones((2, 7)), cache)[2] is None


def test_linear_bias_gradient_keeps_its_digits_in_float32():
    x = np.full((70000, 1), 0.1, np.float32)
    _, cache = linear_forward(x, np.ones((1, 1), np.float32), np.zeros(1, np.float32))
    db = linear_backward(x, cache)[2]
    assert abs(db[0] - 7000) < 1  # adding row after row gives 7004.48


def test_linear_errors():
    with pytest.raises(ValueError, match=r"w must have shape \(Dout=7, Din=5\), got \(7, 4\)"):
        linear_forward(np.ones((2, 5)), np.ones((7, 4)))
    with pytest.raises(ValueError, match=r"b must have shape \(Dout=7\), got \(6,\)"):
        linear_forward(np.ones((2, 5)), np.ones((7, 5)), np.ones(6))
    _, cache = linear_forward(np.ones((2, 5)), np.ones((7, 5)))
    with pytest.raises(ValueError, match=r"dy must have shape \(N=2, Dout=7\), got \(3, 7\)"):
        linear_backward(np.ones((3, 7)), cache)


def test_embedding_adds_up_repeated_ids():
    w = rng.standard_normal((7, 5))
    ids = np.array([[2, 5, 2], [2, 0, 5]])
    x, cache = embedding_forward(ids, w)
    dx = rng.standard_normal(x.shape)
    want = np.zeros_like(w)
    for index in np.ndindex(ids.shape):
        want[ids[index]] += dx[index]
    np.testing.assert_allclose(embedding_backward(dx, cache), want, rtol=1e-14)


@pytest.mark.parametrize("bad", [-1, 7, 10**9])
def test_embedding_refuses_ids_out_of_range(bad):
    with pytest.raises(ValueError, match=r"ids must be in \[0, V=7\)"):
        embedding_forward(np.array([0, bad]), np.ones((7, 5)))


def test_embedding_refuses_ids_that_are_not_integers():
    with pytest.raises(TypeError, match="ids must be an integer array, got dtype float64"):
        embedding_forward(np.array([0.0]), np.ones((7, 5)))


def test_embedding_of_no_ids():
    x, cache = embedding_forward(np.zeros((2, 0), int), np.ones((7, 5)))
    assert x.shape == (2, 0, 5)
    assert (embedding_backward(x, cache) == 0).all()


def test_swiglu_gates_with_the_gate_and_not_with_up():
    one = np.ones((1, 1))
    gate, up = -10 * one, one
    assert abs(swiglu_forward(one, gate, up, one)[0][0, 0] - -4.5398e-4) < 1e-8
    assert abs(swiglu_forward(one, up, gate, one)[0][0, 0] - -7.3106) < 1e-4


def test_swiglu_refuses_a_weight_that_would_broadcast():
    x = np.ones((2, 5))
    with pytest.raises(ValueError, match=r"w_up must have shape \(F=7, D=5\), got \(1, 5\)"):
        swiglu_forward(x, np.ones((7, 5)), np.ones((1, 5)), np.ones((5, 7)))
    with pytest.raises(ValueError, match=r"w_down must have shape \(D=5, F=7\), got \(7, 5\)"):
        swiglu_forward(x, np.ones((7, 5)), np.ones((7, 5)), np.ones((7, 5)))


def test_lists_are_refused_by_name():
    with pytest.raises(TypeError, match="x must be an array, got list"):
        linear_forward([[1.0]], np.ones((1, 1)))
    with pytest.raises(TypeError, match="ids must be an array, got list"):
        embedding_forward([1], np.ones((7, 5)))


def test_sigmoid_has_no_overflow_and_keeps_small_numbers():
    with np.errstate(all="raise"):
        np.testing.assert_array_equal(sigmoid(np.array([-1e30, 1e30], np.float32)), [0, 1])
    np.testing.assert_allclose(sigmoid(np.array([2.0])), 1 / (1 + np.exp(-2.0)), rtol=1e-14)


def test_dropout_drops_the_share_it_says_and_keeps_the_mean():
    y, cache = dropout_forward(np.ones((300, 700)), 0.1, np.random.default_rng(0))
    assert abs((y == 0).mean() - 0.1) < 0.003
    assert abs(y.mean() - 1) < 0.003
    np.testing.assert_array_equal(dropout_backward(np.ones_like(y), cache), y)


def test_dropout_is_reproducible_and_rate_zero_is_free():
    x = rng.standard_normal((3, 5))
    a, b = (dropout_forward(x, 0.5, np.random.default_rng(3))[0] for _ in range(2))
    np.testing.assert_array_equal(a, b)
    y, cache = dropout_forward(x, 0.0)
    assert y is x
    assert dropout_backward(y, cache) is y


def test_dropout_errors():
    for rate in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match=r"rate must be in \[0, 1\)"):
            dropout_forward(np.ones(3), rate, np.random.default_rng(0))
    with pytest.raises(ValueError, match="dropout needs rng"):
        dropout_forward(np.ones(3), 0.1)
