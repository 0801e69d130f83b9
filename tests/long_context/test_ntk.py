"""NTK: the base, the two rules for alpha, what happens to pairs, and the trap with a KV cache."""

import math

import numpy as np
import pytest

from minqwen.layers.rope import rope_backward, rope_forward, rope_inv_freq, rope_tables
from minqwen.long_context.ntk import (
    continuous_ntk_alpha,
    dynamic_ntk_alpha,
    interpolated_inv_freq,
    ntk_base,
    ntk_inv_freq,
)


def turn(x, positions, inv_freq):
    return rope_forward(x, *rope_tables(np.asarray(positions), inv_freq))


def test_fixtures_of_the_base_and_the_frequencies():
    assert round(ntk_base(10000.0, 3.0, 8), 4) == 43267.4871
    assert round(ntk_base(10000.0, 7.0, 8), 4) == 133905.1828
    for alpha, want in (
        (3.0, [1, 0.069336, 0.004807, 0.000333]),
        (7.0, [1, 0.052276, 0.002733, 0.000143]),
    ):
        got = ntk_inv_freq(8, 10000.0, alpha, "float64")
        np.testing.assert_allclose(got, want, atol=5e-7)
    ratio = ntk_inv_freq(8, alpha=3.0, dtype="float64") / rope_inv_freq(8, dtype="float64")
    np.testing.assert_allclose(ratio, [1, 0.693361, 0.480750, 0.333333], atol=5e-7)


@pytest.mark.parametrize("head_dim", [4, 6, 64, 128])
@pytest.mark.parametrize("base", [100.0, 1e4, 1e6])
@pytest.mark.parametrize("alpha", [1.0, 1.001, 3.0, 31.0])
def test_the_first_pair_stays_and_the_last_is_divided_by_alpha(head_dim, base, alpha):
    plain = rope_inv_freq(head_dim, base, "float64")
    ntk = ntk_inv_freq(head_dim, base, alpha, "float64")
    assert ntk[0] == plain[0] == 1
    assert abs(plain[-1] / ntk[-1] - alpha) < 1e-12 * alpha
    i = np.arange(head_dim // 2)
    np.testing.assert_allclose(ntk, plain * alpha ** (-2 * i / (head_dim - 2)), rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("head_dim", [2, 4, 128])
def test_alpha_1_is_plain_rope_bit_for_bit(head_dim, dtype):
    ntk = ntk_inv_freq(head_dim, 1e6, 1.0, dtype)
    assert ntk.dtype == dtype
    np.testing.assert_array_equal(ntk, rope_inv_freq(head_dim, 1e6, dtype))


def test_alpha_for_a_trained_length_of_16():
    lengths = (0, 1, 16, 17, 32, 33, 64, 65, 128, 129, 256)
    want = [1, 1, 1, 3, 3, 7, 7, 15, 15, 31, 31]
    assert [dynamic_ntk_alpha(length, 16) for length in lengths] == want


@pytest.mark.parametrize("train_length", [1, 3, 16, 1000, 2048, 2048 * 3])
def test_alpha_of_every_length_up_to_20000_in_whole_numbers(train_length):
    """ceil(log2(T / L0)) is the number of bits of ceil(T / L0) - 1: no rounding anywhere."""
    for length in range(1, 20001):
        doublings = (-(-length // train_length) - 1).bit_length()
        alpha = dynamic_ntk_alpha(length, train_length)
        assert alpha == 2 ** (doublings + 1) - 1
        # the released code, which takes a logarithm
        assert alpha == max(1, 2 ** math.ceil(math.log(length / train_length, 2) + 1) - 1)


@pytest.mark.parametrize("train_length", [2, 1000, 2048 * 3, 8192, 3**15])
def test_alpha_around_powers_of_two_where_a_logarithm_rounds(train_length):
    for k in range(1, 51):
        length = train_length << k
        below, at, above = (dynamic_ntk_alpha(length + d, train_length) for d in (-1, 0, 1))
        assert below == at == 2 ** (k + 1) - 1
        assert above == 2 ** (k + 2) - 1
    logarithm = max(1, 2 ** math.ceil(math.log((1000 << 29) / 1000, 2) + 1) - 1)
    assert logarithm != dynamic_ntk_alpha(1000 << 29, 1000)  # math.log(2**29, 2) > 29


def test_staircase_and_line_meet_at_powers_of_two_only():
    for length in range(1, 5000):
        step = dynamic_ntk_alpha(length, 100)
        line = continuous_ntk_alpha(length, 100, 2.0)
        assert 1 <= line <= step
        meet = length <= 100 or length in (200, 400, 800, 1600, 3200)
        assert (line == step) == meet, length


def test_the_line():
    assert continuous_ntk_alpha(2049, 2048, 2.0) == 1 + 2 / 2048
    assert [continuous_ntk_alpha(2048 * r, 2048, 2.0) for r in (2, 4, 8)] == [3, 7, 15]
    assert [continuous_ntk_alpha(2048 * r, 2048, 1.0) for r in (1, 2, 3)] == [1, 2, 3]
    assert continuous_ntk_alpha(7, 2048, 3.0) == 1


def test_interpolation_divides_positions():
    x = np.random.default_rng(0).standard_normal((2, 3, 5, 6))
    y, _ = turn(x, np.arange(5) * 4, interpolated_inv_freq(6, 100.0, 4.0, "float64"))
    want, _ = turn(x, np.arange(5), rope_inv_freq(6, 100.0, "float64"))
    np.testing.assert_allclose(y, want, atol=1e-14)
    assert interpolated_inv_freq(6, 100.0, 4.0).dtype == np.float32


def test_ntk_keeps_neighbours_apart_where_interpolation_squeezes_them():
    """One step apart: with NTK the fastest pair turns as in training, interpolated it does not."""
    x = np.zeros((1, 1, 2, 8))
    x[..., 0] = 1.0  # the first pair alone
    plain = rope_inv_freq(8, dtype="float64")

    def score(inv_freq):
        y, _ = turn(x, [100, 101], inv_freq)
        return float(y[0, 0, 0] @ y[0, 0, 1])

    assert abs(score(ntk_inv_freq(8, 1e4, 15.0, "float64")) - score(plain)) < 1e-12
    assert score(interpolated_inv_freq(8, 1e4, 15.0, "float64")) > score(plain) + 0.4


@pytest.mark.parametrize("ratio", [2, 4, 8])
def test_the_slowest_pair_at_alpha_times_the_trained_length_is_at_a_trained_angle(ratio):
    slowest = rope_inv_freq(64, dtype="float64")[-1]
    moved = ntk_inv_freq(64, alpha=float(ratio), dtype="float64")[-1]
    assert abs(ratio * 2048 * moved - 2048 * slowest) < 1e-12


def test_keys_turned_under_an_old_alpha_do_not_fit_a_query_of_the_new_one():
    """Scores depend on where in the text the two stand, no longer on their distance alone."""
    q, k = np.random.default_rng(0).standard_normal((2, 1, 1, 1, 64))
    old, new = (ntk_inv_freq(64, alpha=a, dtype="float64") for a in (1.0, 3.0))

    def score(m, n, q_freq, k_freq):
        return float((turn(q, [m], q_freq)[0] * turn(k, [n], k_freq)[0]).sum())

    assert abs(score(20, 15, new, new) - score(520, 515, new, new)) < 1e-10
    assert abs(score(20, 15, new, old) - score(520, 515, new, old)) > 1
    # turned back by the old frequencies and forward by the new ones, the key is as if new
    y, cache = turn(k, [15], old)
    np.testing.assert_allclose(
        turn(rope_backward(y, cache), [15], new)[0], turn(k, [15], new)[0], atol=1e-14
    )


def test_errors():
    with pytest.raises(ValueError, match=r"alpha must be at least 1, got 0\.5"):
        ntk_base(1e4, 0.5, 8)
    with pytest.raises(ValueError, match="alpha must be at least 1, got nan"):
        ntk_inv_freq(8, alpha=math.nan)
    with pytest.raises(ValueError, match=r"head_dim must be above 2.*got 2"):
        ntk_inv_freq(2, alpha=3.0)
    with pytest.raises(ValueError, match="head_dim must be even"):
        ntk_inv_freq(7, alpha=3.0)
    with pytest.raises(ValueError, match="base must be above 0"):
        ntk_inv_freq(8, base=0.0, alpha=3.0)
    with pytest.raises(ValueError, match="need float32 or float64, got float16"):
        ntk_inv_freq(8, dtype="float16")
    with pytest.raises(ValueError, match="need float32 or float64, got float16"):
        interpolated_inv_freq(8, 1e4, 2.0, dtype="float16")
    for factor in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="factor must be above 0"):
            interpolated_inv_freq(8, 1e4, factor)
        with pytest.raises(ValueError, match="factor must be above 0"):
            continuous_ntk_alpha(1, 1, factor)
    for rule in (dynamic_ntk_alpha, lambda T, L0: continuous_ntk_alpha(T, L0, 2.0)):
        with pytest.raises(ValueError, match="length must be at least 0, got -1"):
            rule(-1, 2048)
        with pytest.raises(ValueError, match="train_length must be at least 1, got 0"):
            rule(1, 0)
