"""YaRN: which pairs stay, the ramp, the temperature on both tables, and its gradient."""

import math

import numpy as np
import pytest

from minqwen.layers.rope import rope_backward, rope_forward, rope_inv_freq, rope_tables
from minqwen.long_context.yarn import (
    yarn_attention_factor,
    yarn_inv_freq,
    yarn_ramp,
    yarn_range,
    yarn_tables,
)


def test_fixtures():
    assert yarn_range(8, 1e4, 64) == (0, 2)
    np.testing.assert_array_equal(yarn_ramp(8, 0, 2), [0, 0.5, 1, 1])
    got = yarn_inv_freq(8, 1e4, 4.0, 64, dtype="float64")
    np.testing.assert_allclose(got, [1, 0.0625, 0.0025, 0.00025], rtol=1e-14)
    assert yarn_range(16, 1e4, 256) == (0, 4)
    np.testing.assert_array_equal(yarn_ramp(16, 0, 4), [0, 0.25, 0.5, 0.75, 1, 1, 1, 1])


def test_qwen2_7b():
    low, high = yarn_range(128, 1e6, 32768, truncate=False)
    assert (round(low, 3), round(high, 3)) == (23.596, 39.651)
    assert yarn_range(128, 1e6, 32768) == (23, 40)
    plain = rope_inv_freq(128, 1e6, "float64")
    yarn = yarn_inv_freq(128, 1e6, 4.0, 32768, dtype="float64")
    np.testing.assert_array_equal(yarn[:24], plain[:24])
    np.testing.assert_array_equal(yarn[40:], plain[40:] / 4)
    between = slice(24, 40)
    assert (yarn[between] < plain[between]).all()
    assert (yarn[between] > plain[between] / 4).all()
    m = yarn_attention_factor(4.0)
    assert (round(m, 6), round(m * m, 6)) == (1.138629, 1.296477)


@pytest.mark.parametrize("turns", [0.5, 1.0, 32.0, 100.0])
def test_the_pair_at_low_makes_beta_fast_turns_within_the_trained_length(turns):
    low, high = yarn_range(128, 1e6, 32768, beta_fast=turns * 2, beta_slow=turns, truncate=False)
    for index, want in ((low, 2 * turns), (high, turns)):
        assert abs(32768 * 1e6 ** (-2 * index / 128) / (2 * math.pi) - want) < 1e-10 * want


@pytest.mark.parametrize("truncate", [True, False])
@pytest.mark.parametrize("factor", [1.5, 4.0, 40.0])
@pytest.mark.parametrize(("head_dim", "base", "length"), [(64, 1e4, 2048), (128, 1e6, 32768)])
def test_fast_pairs_stay_slow_ones_are_divided(head_dim, base, length, factor, truncate):
    plain = rope_inv_freq(head_dim, base, "float64")
    yarn = yarn_inv_freq(head_dim, base, factor, length, truncate=truncate, dtype="float64")
    turns = length * plain / (2 * np.pi)
    if not truncate:
        np.testing.assert_array_equal(yarn[turns >= 32], plain[turns >= 32])
        np.testing.assert_array_equal(yarn[turns <= 1], plain[turns <= 1] / factor)
    assert yarn[0] == plain[0]
    assert yarn[-1] == plain[-1] / factor
    assert (np.diff(yarn) < 0).all()  # still the fastest first
    assert (np.diff(plain / yarn) >= -1e-12).all()  # divided by more and more


def test_the_ends_are_clamped():
    assert yarn_range(8, 1e4, 64)[0] == 0  # dim(32) is -0.5
    assert yarn_range(8, 1e4, 100_000) == (2, 5)  # high may lie above the last of the 4 pairs
    assert yarn_range(8, 10.0, 100_000, beta_fast=30000.0)[1] == 7  # Dh - 1, not Dh/2 - 1


def test_low_equal_to_high_is_a_step():
    np.testing.assert_array_equal(yarn_ramp(8, 2, 2), [0, 0, 0, 1])
    np.testing.assert_array_equal(yarn_ramp(8, 0, 0), [0, 1, 1, 1])
    np.testing.assert_array_equal(yarn_ramp(8, 1.95, 1.95), [0, 0, 1, 1])  # no slope to be seen


def test_factor_1_changes_nothing():
    yarn = yarn_inv_freq(128, 1e6, 1.0, 32768, dtype="float64")
    np.testing.assert_allclose(yarn, rope_inv_freq(128, 1e6, "float64"), rtol=1e-15)
    assert yarn_attention_factor(1.0) == 1.0


def test_the_attention_factor():
    assert abs(yarn_attention_factor(4.0) - 1.1386294361119891) < 1e-15
    assert yarn_attention_factor(0.5) == 1.0  # never below 1
    # DeepSeek: two numbers; the fraction of their factors
    want = (0.1 * 0.707 * math.log(40) + 1) / (0.1 * 1.2 * math.log(40) + 1)
    assert abs(yarn_attention_factor(40.0, 0.707, 1.2) - want) < 1e-15
    assert yarn_attention_factor(40.0, 0.707, 0.707) == 1.0
    for one_missing in ((0.707, None), (None, 0.707), (0.0, 0.707)):
        assert yarn_attention_factor(40.0, *one_missing) == yarn_attention_factor(40.0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("factor", [1.1386294, np.float64(1.1386294), 1])
def test_tables_keep_the_precision_of_the_frequencies(dtype, factor):
    cos, sin = yarn_tables(np.arange(3), rope_inv_freq(4, dtype=dtype), factor)
    assert cos.dtype == sin.dtype == dtype
    assert cos.shape == sin.shape == (3, 4)
    cos, _ = yarn_tables(np.zeros((2, 3), int), rope_inv_freq(4, dtype=dtype), factor)
    assert cos.shape == (2, 3, 4)


def test_scores_take_the_factor_twice():
    """Whatever the angle: also where all frequencies are 0."""
    q, k = np.random.default_rng(0).standard_normal((2, 1, 1, 1, 8))
    m = yarn_attention_factor(4.0)
    for inv_freq in (np.zeros(4), yarn_inv_freq(8, 1e4, 4.0, 64, dtype="float64")):
        turned, plain = (
            [rope_forward(x, *tables(np.array([p]), inv_freq))[0] for x, p in ((q, 90), (k, 7))]
            for tables in (lambda p, f: yarn_tables(p, f, m), rope_tables)
        )
        got, want = ((a * b).sum() for a, b in (turned, plain))
        assert abs(got - m * m * want) < 1e-12
    assert abs((turned[0] ** 2).sum() - m * m * (q**2).sum()) < 1e-12  # a vector m times longer


def test_backward_turns_back_and_multiplies_once_more():
    x = np.random.default_rng(0).standard_normal((2, 3, 5, 8))
    inv_freq, m = yarn_inv_freq(8, 1e4, 4.0, 64, dtype="float64"), yarn_attention_factor(4.0)
    y, cache = rope_forward(x, *yarn_tables(np.arange(5) + 60, inv_freq, m))
    np.testing.assert_allclose(rope_backward(y, cache), m * m * x, atol=1e-14)
    _, plain = rope_forward(x, *rope_tables(np.arange(5) + 60, inv_freq))
    np.testing.assert_allclose(rope_backward(y, cache), m * rope_backward(y, plain), atol=1e-14)


def test_short_texts_change_too():
    """YaRN is static: within the trained length it is not what was trained."""
    x = np.random.default_rng(0).standard_normal((1, 1, 8, 16))
    inv_freq = yarn_inv_freq(16, 1e4, 4.0, 32, dtype="float64")
    yarn, _ = rope_forward(x, *yarn_tables(np.arange(8), inv_freq, yarn_attention_factor(4.0)))
    plain, _ = rope_forward(x, *rope_tables(np.arange(8), rope_inv_freq(16, dtype="float64")))
    assert np.abs(yarn - plain).max() > 0.1


def test_errors():
    good = {"head_dim": 8, "base": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
    for wrong, message in (
        ({"factor": 0.0}, r"factor must be above 0, got 0\.0"),
        ({"factor": math.nan}, "factor must be above 0, got nan"),
        ({"head_dim": 7}, "head_dim must be even"),
        ({"base": 1.0}, r"base must be above 1, got 1\.0"),
        ({"base": -1.0}, "base must be above 0"),
        ({"original_max_position_embeddings": 0}, "embeddings must be at least 1, got 0"),
        ({"beta_fast": 1.0}, r"beta_fast must be above beta_slow.* got 1\.0 and 1\.0"),
        ({"beta_fast": 1.0, "beta_slow": 32.0}, r"beta_fast must be above .* got 1\.0 and 32\.0"),
        ({"beta_slow": 0.0}, r"and both above 0, got 32\.0 and 0\.0"),
        ({"dtype": "float16"}, "need float32 or float64, got float16"),
        # not one turn of the fastest pair, or more than 32 of the slowest
        ({"head_dim": 64, "original_max_position_embeddings": 1}, r"no pair of Dh=64 lies between"),
        (
            {"base": 10.0, "original_max_position_embeddings": 100_000},
            r"embeddings=100000 at base 10\.0",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            yarn_inv_freq(**(good | wrong))
    with pytest.raises(ValueError, match=r"factor must be above 0, got -1\.0"):
        yarn_attention_factor(-1.0)
    with pytest.raises(ValueError, match=r"attention_factor must be above 0, got 0\.0"):
        yarn_tables(np.arange(3), rope_inv_freq(4), 0.0)
    with pytest.raises(TypeError, match="positions must be integers"):
        yarn_tables(np.arange(3.0), rope_inv_freq(4), 1.0)
