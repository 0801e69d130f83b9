"""RoPE: fixtures, the relative property, the layout, precision, positions, errors."""

import numpy as np
import pytest
from helpers import references

from minqwen.layers.rope import rope_backward, rope_forward, rope_inv_freq, rope_tables


def turn(x, positions, base=10000.0, dtype="float64"):
    return rope_forward(
        x, *rope_tables(np.asarray(positions), rope_inv_freq(x.shape[-1], base, dtype))
    )


def test_matches_complex_multiplication():
    x = np.random.default_rng(0).standard_normal((2, 3, 5, 6))
    y, _ = turn(x, np.arange(5) + 3)
    np.testing.assert_allclose(y, references.rope(x, np.arange(5) + 3, 10000.0), atol=1e-14)


def test_fixtures_half_split_and_not_interleaved():
    y, _ = turn(np.array([[[[1.0, 2, 3, 4]]]]), [1])
    np.testing.assert_allclose(y.ravel(), [-1.984111, 1.959901, 2.462378, 4.0198], atol=1e-6)
    y, _ = turn(np.arange(1.0, 9).reshape(1, 1, 1, 8), [3])
    want = [-1.695593, 0.137552, 2.788682, 3.975982, -4.808842, 6.323059, 7.086837, 8.011964]
    np.testing.assert_allclose(y.ravel(), want, atol=1e-6)


def test_position_zero_changes_nothing_and_lengths_stay():
    x = np.random.default_rng(0).standard_normal((2, 3, 5, 6))
    np.testing.assert_array_equal(turn(x, [0] * 5)[0], x)
    y, _ = turn(x, [1, 10, 100, 1000, 10000])
    np.testing.assert_allclose((y * y).sum(-1), (x * x).sum(-1), rtol=1e-12)


def test_scores_depend_on_the_difference_of_positions_only():
    q, k = np.random.default_rng(0).standard_normal((2, 1, 1, 1, 6))

    def score(m, n):
        return float((turn(q, [m])[0] * turn(k, [n])[0]).sum())

    assert abs(score(3, 7) - score(103, 107)) < 1e-12
    assert abs(score(3, 7) - score(3, 8)) > 1e-3
    assert abs(score(3, 7) - score(7, 3)) > 1e-3


def test_heads_can_be_shuffled_before_or_after():
    x = np.random.default_rng(0).standard_normal((2, 3, 5, 6))
    order = [2, 0, 1]
    np.testing.assert_array_equal(turn(x[:, order], range(5))[0], turn(x, range(5))[0][:, order])


def test_positions_per_row():
    x = np.random.default_rng(0).standard_normal((2, 3, 5, 6))
    rows = np.array([[0, 1, 2, 3, 4], [9, 7, 7, 0, 100]])
    y, cache = turn(x, rows)
    dy = np.random.default_rng(1).standard_normal(x.shape)
    dx = rope_backward(dy, cache)
    for b in range(2):
        yb, cb = turn(x[b : b + 1], rows[b])
        np.testing.assert_array_equal(y[b : b + 1], yb)
        np.testing.assert_array_equal(dx[b : b + 1], rope_backward(dy[b : b + 1], cb))


def test_backward_undoes_forward():
    x = np.random.default_rng(0).standard_normal((2, 3, 5, 6))
    y, cache = turn(x, range(5))
    np.testing.assert_allclose(rope_backward(y, cache), x, atol=1e-15)


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_half_precision_activations_are_turned_by_float32_tables(half):
    """At position 2047 a table rounded to bfloat16 would be off by 2.5 radians."""
    dtype = pytest.importorskip("ml_dtypes").bfloat16 if half == "bfloat16" else np.float16
    x = np.random.default_rng(0).standard_normal((1, 2, 3, 128)).astype(dtype)
    positions = np.array([100, 2047, 30000])
    cos, sin = rope_tables(positions, rope_inv_freq(128))
    assert cos.dtype == np.float32
    y, _ = rope_forward(x, cos, sin)
    exact, _ = turn(x.astype(np.float64), positions)
    assert y.dtype == dtype
    assert np.abs(y.astype(np.float64) - exact).max() < (0.02 if half == "bfloat16" else 0.005)


def test_inverse_frequencies():
    np.testing.assert_allclose(rope_inv_freq(8, dtype="float64"), [1, 0.1, 0.01, 0.001], rtol=1e-15)
    for dtype in ("float16", "bfloat16"):
        with pytest.raises(ValueError, match="RoPE frequencies need float32 or float64"):
            rope_inv_freq(8, dtype=dtype)
    with pytest.raises(ValueError, match="head_dim must be even"):
        rope_inv_freq(7)


def test_errors():
    x = np.zeros((2, 3, 5, 6))
    with pytest.raises(TypeError, match="positions must be integers, got dtype float64"):
        rope_tables(np.arange(5.0), rope_inv_freq(6))
    with pytest.raises(TypeError, match="inv_freq must be float32 or float64, got dtype float16"):
        rope_tables(np.arange(5), np.ones(3, np.float16))
    with pytest.raises(ValueError, match=r"cos must have shape \(T=5, Dh=6\), got \(4, 6\)"):
        turn(x, range(4))
    with pytest.raises(
        ValueError, match=r"cos must have shape \(B=2, T=5, Dh=6\), got \(3, 5, 6\)"
    ):
        turn(x, np.zeros((3, 5), dtype=int))
    with pytest.raises(TypeError, match="cos must have the dtype of x, float64, got float32"):
        turn(x, range(5), dtype="float32")
