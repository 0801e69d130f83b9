"""LogN: the fixtures, 1 up to the trained length bit for bit, the position and not the length."""

import math

import numpy as np
import pytest

from minqwen.layers.attention import attention_forward, causal_mask
from minqwen.layers.rope import rope_forward, rope_inv_freq, rope_tables
from minqwen.long_context.logn import logn_backward, logn_forward, logn_scale


@pytest.mark.parametrize(
    ("train_length", "lengths", "want"),
    [
        (16, (1, 16, 17, 32, 64, 128), (1, 1, 1.021866, 1.25, 1.5, 1.75)),
        (2048, (2048, 4096, 8192, 16384), (1, 1.090909, 1.181818, 1.272727)),
        (8192, (8192, 16384, 32768), (1, 1.076923, 1.153846)),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_fixtures(train_length, lengths, want, dtype):
    scale = logn_scale(np.array(lengths) - 1, train_length, dtype)  # lengths count from 1
    assert scale.dtype == dtype
    np.testing.assert_allclose(scale, want, atol=5e-7)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_exactly_1_up_to_the_trained_length_and_growing_after_it(dtype):
    for train_length in (*range(2, 200), 1000, 2047, 2048, 2049, 3 * 2048, 32768, 131072):
        scale = logn_scale(np.arange(train_length + 100), train_length, dtype)
        assert (scale[:train_length] == 1).all(), train_length
        after = scale[train_length - 1 :]
        assert (np.diff(after) > 0).all() if dtype == "float64" else (np.diff(after) >= 0).all()


@pytest.mark.parametrize("train_length", [2, 16, 2048])
def test_float32_stays_close_to_float64(train_length):
    positions = np.arange(0, 40_000, 7)
    low, high = (logn_scale(positions, train_length, dtype) for dtype in ("float32", "float64"))
    assert np.abs(low - high).max() < 3e-7 * high.max()
    past = positions >= train_length
    want = [math.log(p + 1) / math.log(train_length) for p in positions[past]]
    np.testing.assert_allclose(high[past], want, rtol=1e-14)


def test_what_stands_before_the_trained_length_stays_bit_for_bit():
    q = np.random.default_rng(0).standard_normal((2, 3, 40, 4))
    y, _ = logn_forward(q, logn_scale(np.arange(40), 16, "float64"))
    np.testing.assert_array_equal(y[:, :, :16], q[:, :, :16])
    assert (np.abs(y[:, :, 16:]) > np.abs(q[:, :, 16:])).all()


def test_the_position_counts_and_not_the_length_of_the_text():
    """So a query that decodes with a KV cache gets what it got in the full pass."""
    full = logn_scale(np.arange(50), 16)
    for start in (0, 15, 16, 49):
        np.testing.assert_array_equal(logn_scale(np.arange(start, 50), 16), full[start:])
    rows = np.array([[0, 0, 1], [20, 30, 40]])
    np.testing.assert_array_equal(logn_scale(rows, 16), full[rows])


def test_positions_per_row():
    q = np.random.default_rng(0).standard_normal((2, 3, 5, 4))
    rows = np.array([[0, 0, 1, 2, 3], [11, 3, 2, 5, 100]])
    y, cache = logn_forward(q, logn_scale(rows, 3, "float64"))
    dy = np.random.default_rng(1).standard_normal(q.shape)
    dq = logn_backward(dy, cache)
    for b in range(2):
        yb, cb = logn_forward(q[b : b + 1], logn_scale(rows[b], 3, "float64"))
        np.testing.assert_array_equal(y[b : b + 1], yb)
        np.testing.assert_array_equal(dq[b : b + 1], logn_backward(dy[b : b + 1], cb))


def test_before_or_after_rope_is_the_same():
    q, positions = np.random.default_rng(0).standard_normal((2, 3, 5, 6)), np.arange(5) + 30
    tables = rope_tables(positions, rope_inv_freq(6, dtype="float64"))
    scale = logn_scale(positions, 16, "float64")
    before = rope_forward(logn_forward(q, scale)[0], *tables)[0]
    after = logn_forward(rope_forward(q, *tables)[0], scale)[0]
    np.testing.assert_allclose(before, after, atol=1e-14)


def test_scores_of_a_query_are_scaled_once_and_its_keys_are_not():
    q, k, v = np.random.default_rng(0).standard_normal((3, 1, 2, 40, 4))
    scale = logn_scale(np.arange(40), 16, "float64")
    scaled = logn_forward(q, scale)[0]
    ratio = (scaled @ k.swapaxes(-1, -2)) / (q @ k.swapaxes(-1, -2))  # (1, 2, T, S)
    np.testing.assert_allclose(ratio, np.broadcast_to(scale[:, None], ratio.shape), rtol=1e-12)
    # the same as a scale of the softmax, query by query
    got, _ = attention_forward(scaled, k, v, causal_mask(40, 40))
    for t in (3, 16, 39):
        want, _ = attention_forward(
            q[:, :, t : t + 1], k[:, :, : t + 1], v[:, :, : t + 1], scale=0.5 * float(scale[t])
        )
        np.testing.assert_allclose(got[:, :, t : t + 1], want, atol=1e-14)


def test_entropy_of_attention_grows_less():
    """Normal scores over 64, 256 and 1024 keys: 3.68, 5.05, 6.43 nats become 3.68, 4.69, 5.58."""
    rng = np.random.default_rng(0)
    for n, plain, scaled in ((64, 3.68, 3.68), (256, 5.05, 4.69), (1024, 6.43, 5.58)):
        scores = rng.standard_normal((1000, n))
        for factor, want in ((1.0, plain), (float(logn_scale(np.array([n - 1]), 64)[0]), scaled)):
            weights = np.exp(factor * scores)
            probs = weights / weights.sum(-1, keepdims=True)
            entropy = -(probs * np.log(probs)).sum(-1).mean()
            assert abs(entropy - want) < 0.03


def test_one_key_keeps_its_weight_when_its_gap_grows_like_the_logarithm():
    """The derivation: a gap of ln L0 at L0 becomes ln n at n, and half of the weight stays."""
    for n in (16, 64, 1024, 16384):
        gap = math.log(16) * float(logn_scale(np.array([n - 1]), 16, "float64")[0])
        weight = 1 / (1 + (n - 1) * math.exp(-gap))
        assert 0.5 <= weight < 0.52


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_half_precision_is_multiplied_in_float32(half):
    dtype = pytest.importorskip("ml_dtypes").bfloat16 if half == "bfloat16" else np.float16
    q = np.random.default_rng(0).standard_normal((1, 2, 3, 4)).astype(dtype)
    scale = logn_scale(np.array([1, 100, 5000]), 16)
    y, cache = logn_forward(q, scale)
    assert y.dtype == logn_backward(y, cache).dtype == dtype
    want = (q.astype(np.float32) * scale[:, None]).astype(dtype)
    np.testing.assert_array_equal(y, want)


def test_errors():
    q = np.zeros((2, 3, 5, 4))
    with pytest.raises(TypeError, match="positions must be integers, got dtype float64"):
        logn_scale(np.arange(5.0), 16)
    for train_length in (1, 0):
        with pytest.raises(ValueError, match=f"train_length must be at least 2.* {train_length}"):
            logn_scale(np.arange(5), train_length)
    with pytest.raises(ValueError, match="the scale needs float32 or float64, got float16"):
        logn_scale(np.arange(5), 16, "float16")
    with pytest.raises(ValueError, match=r"scale must have shape \(T=5\), got \(4,\)"):
        logn_forward(q, np.ones(4))
    with pytest.raises(ValueError, match=r"scale must have shape \(B=2, T=5\), got \(3, 5\)"):
        logn_forward(q, np.ones((3, 5)))
    with pytest.raises(ValueError, match=r"q must have axes \(B, H, T, Dh\), got shape \(5, 4\)"):
        logn_forward(q[0, 0], np.ones(5))
    with pytest.raises(TypeError, match="scale must have the dtype of q, float64, got float32"):
        logn_forward(q, np.ones(5, np.float32))
    with pytest.raises(TypeError, match="q must be a floating-point array, got dtype int64"):
        logn_forward(np.zeros((2, 3, 5, 4), np.int64), np.ones(5))
    _, cache = logn_forward(q, np.ones(5))
    with pytest.raises(ValueError, match=r"dy must have shape \(B=2, H=3, T=5, Dh=4\), got"):
        logn_backward(q[:1], cache)
