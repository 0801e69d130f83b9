"""Flash attention: the equation, equality with the other two, skipped tiles, memory, errors."""

import tracemalloc

import numpy as np
import pytest
from helpers import references

from minqwen.layers import flash_attention
from minqwen.layers.attention import (
    attention_backward,
    attention_forward,
    causal_mask,
    padding_mask,
)
from minqwen.layers.block_attention import block_attention_backward, block_attention_forward
from minqwen.layers.flash_attention import flash_attention_backward, flash_attention_forward
from minqwen.long_context.window import window_mask

TILES = [(1, 1), (2, 3), (3, 2), (4, 4), (5, 1), (16, 16), (None, None)]


def qkv(H=6, Hkv=3, T=7, S=7, Dh=5, B=2, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    shapes = ((B, H, T, Dh), (B, Hkv, S, Dh), (B, Hkv, S, Dh))
    return [rng.standard_normal(s).astype(dtype) for s in shapes]


def padded(S):
    """Return real (2, S): padding on the left in one row, on the right in the other."""
    real = np.ones((2, S), dtype=bool)
    real[0, : S // 2 + 1] = False
    real[1, S - S // 3 :] = False
    return real


def flash(q, k, v, seed=1, **options):
    """Return out and the three gradients, for a random dout."""
    out, cache = flash_attention_forward(q, k, v, **options)
    dout = np.random.default_rng(seed).standard_normal(q.shape).astype(q.dtype)
    return (out, *flash_attention_backward(dout, cache))


def plain(q, k, v, real=None, window=None, seed=1):
    """Return the same with attention.py, which makes T * S numbers."""
    T, S = q.shape[2], k.shape[2]
    mask = causal_mask(T, S) if window is None else window_mask(T, S, window)
    mask = mask if real is None else mask & padding_mask(real)
    out, cache = attention_forward(q, k, v, mask)
    dout = np.random.default_rng(seed).standard_normal(q.shape).astype(q.dtype)
    return (out, *attention_backward(dout, cache))


@pytest.mark.parametrize("tiles", TILES)
@pytest.mark.parametrize(("T", "S"), [(1, 1), (7, 7), (1, 7), (4, 7)])
@pytest.mark.parametrize("window", [None, 1, 3])
@pytest.mark.parametrize("padding", [False, True])
def test_matches_the_equation(tiles, T, S, window, padding):
    q, k, v = qkv(T=T, S=S, H=4, Hkv=2, Dh=3)
    real = padded(S) if padding else None
    want = references.block_attention(q, k, v, real, window)
    got, _ = flash_attention_forward(q, k, v, real, None, window, *tiles)
    np.testing.assert_allclose(got, want, atol=1e-13)


@pytest.mark.parametrize("seed", range(100))
def test_equals_plain_and_block_attention(seed):
    rng = np.random.default_rng(seed)
    B, Hkv, G = (int(n) for n in rng.integers(1, 4, 3))
    T, Dh, block, block_q, block_k = (int(n) for n in rng.integers(1, (40, 9, 30, 30, 30)))
    S = T + int(rng.integers(0, 15)) * (seed % 3 > 0)
    window = int(rng.integers(1, S + 3)) if seed % 4 > 1 else None
    real = rng.random((B, S)) > 0.4 if seed % 2 else None
    q, k, v = qkv(Hkv * G, Hkv, T, S, Dh, B, seed)
    ours = flash(q, k, v, real=real, window=window, block_q=block_q, block_k=block_k)
    out, cache = block_attention_forward(q, k, v, real, block=block, window=window)
    dout = np.random.default_rng(1).standard_normal(q.shape)
    in_blocks = (out, *block_attention_backward(dout, cache))
    whole = plain(q, k, v, real, window)
    for a, b, c in zip(ours, in_blocks, whole, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)
        np.testing.assert_allclose(a, c, rtol=0, atol=1e-12)


@pytest.mark.parametrize("window", [7, 8, 10**9])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_window_as_long_as_the_text_is_full_attention_bit_for_bit(window, dtype):
    inputs = qkv(dtype=dtype)
    full = flash(*inputs, block_q=2, block_k=3)
    windowed = flash(*inputs, block_q=2, block_k=3, window=window)
    for a, b in zip(full, windowed, strict=True):
        np.testing.assert_array_equal(a, b)


def test_lse_is_the_log_of_the_sum_of_exponentials():
    q, k, v = qkv()
    _, cache = flash_attention_forward(q, k, v, block_q=3, block_k=2)
    for b, h, t in np.ndindex(2, 6, 7):
        scores = k[b, h // 2, : t + 1] @ q[b, h, t] / 5**0.5
        lse = cache.lse.reshape(2, 3, 7, 2)[b, h // 2, t, h % 2]
        assert abs(lse - np.log(np.exp(scores).sum())) < 1e-13


@pytest.mark.parametrize("tiles", TILES)
def test_a_query_that_sees_nothing_gives_zeros_and_passes_no_gradient(tiles):
    q, k, v = qkv()
    real = np.ones((2, 7), dtype=bool)
    real[0, :3] = False  # the first three queries of row 0 see padding only
    real[1] = False  # and row 1 is nothing but padding
    block_q, block_k = tiles
    results = flash(q, k, v, real=real, block_q=block_q, block_k=block_k)
    assert all(np.isfinite(x).all() for x in results)
    assert all((x[0, :, :3] == 0).all() for x in results)
    assert all((x[1] == 0).all() for x in results)
    assert (results[0][0, :, 3:] != 0).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sign", [1, -1])
def test_scores_near_ten_thousand(dtype, sign):
    """All scores lie near 1e4, or near -1e4: exp of them is inf, or 0 and nothing to divide by."""
    q, k, v = qkv(H=2, Hkv=1, T=40, S=40, dtype=dtype)
    q[..., 0], k[..., 0] = 100, sign * 100 * 5**0.5
    scores = q @ k.swapaxes(-1, -2) / 5**0.5
    assert 9900 < (sign * scores).min() < (sign * scores).max() < 10100
    ours = flash(q, k, v, block_q=7, block_k=5)
    # float32 knows a score of 1e4 to 5e-4 only; dk carries q, which is 100
    tolerance = 1e-2 if dtype == np.float32 else 1e-11
    for a, b in zip(ours, plain(q, k, v), strict=True):
        assert np.isfinite(a).all()
        assert np.abs(a - b).max() <= tolerance * np.abs(b).max()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rising", [False, True])
def test_scores_from_minus_to_plus_ten_thousand(dtype, rising):
    """Rising scores make every tile restate the sums; falling ones make late tiles vanish."""
    q, k, v = qkv(H=2, Hkv=1, T=40, S=40, dtype=dtype)
    q[..., 0], k[..., 0] = 100, 100 * 5**0.5 * np.linspace(-1, 1, 40)[:: 1 if rising else -1]
    out, *grads = flash(q, k, v, block_q=7, block_k=5)
    want, *_ = plain(q, k, v)
    assert np.abs(out - want).max() < (1e-3 if dtype == np.float32 else 1e-11)
    assert all(np.isfinite(g).all() for g in grads)


def test_equal_values_come_out_unchanged():
    q, k, v = qkv()
    v[:] = 1
    np.testing.assert_allclose(
        flash_attention_forward(q, k, v, block_q=2, block_k=2)[0], 1, atol=1e-14
    )


def test_later_tokens_do_not_reach_earlier_ones():
    q, k, v = qkv()
    out = flash_attention_forward(q, k, v, block_q=3, block_k=2)[0]
    k[:, :, 4:], v[:, :, 4:] = 100, -100
    changed = flash_attention_forward(q, k, v, block_q=3, block_k=2)[0]
    np.testing.assert_array_equal(changed[:, :, :4], out[:, :, :4])


def tiles_done(monkeypatch, T, S, block_q, block_k, window=None):
    """Return the tiles of one forward and one backward pass, as (rows, keys), sorted."""
    seen, scores = [], flash_attention.tile_scores

    def watched(q, k, bias, rows, keys, window):
        seen.append(((rows.start, rows.stop), (keys.start, keys.stop)))
        return scores(q, k, bias, rows, keys, window)

    monkeypatch.setattr(flash_attention, "tile_scores", watched)
    flash(*qkv(H=1, Hkv=1, T=T, S=S, B=1), block_q=block_q, block_k=block_k, window=window)
    half = len(seen) // 2
    assert sorted(seen[:half]) == sorted(seen[half:])  # forward and backward do the same ones
    return sorted(seen[:half])


@pytest.mark.parametrize(("T", "S"), [(12, 12), (7, 11), (1, 9)])
@pytest.mark.parametrize("window", [None, 1, 4])
def test_each_visible_pair_is_in_one_tile_and_no_tile_is_all_hidden(monkeypatch, T, S, window):
    mask = causal_mask(T, S) if window is None else window_mask(T, S, window)
    done = np.zeros((T, S), dtype=int)
    for rows, keys in tiles_done(monkeypatch, T, S, 3, 2, window):
        done[slice(*rows), slice(*keys)] += 1
        assert mask[slice(*rows), slice(*keys)].any()
    assert done.max() == 1
    assert (done[mask] == 1).all()


def test_half_of_the_tiles_are_skipped(monkeypatch):
    assert len(tiles_done(monkeypatch, 64, 64, 4, 4)) == 16 * 17 / 2
    assert len(tiles_done(monkeypatch, 64, 64, 4, 4, window=4)) == 16 + 15


def peak_bytes(run):
    """Return the most memory that NumPy held during the call, beyond what there was before."""
    tracemalloc.start()
    run()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_no_array_of_all_pairs_is_ever_made():
    """All the memory together is less than T * S bytes: not even one bool for each pair."""
    T = 2048
    inputs = qkv(H=1, Hkv=1, T=T, S=T, Dh=4, B=1, dtype=np.float32)
    for window in (None, 100):
        assert peak_bytes(lambda w=window: flash(*inputs, window=w)) < T * T


def test_memory_grows_like_the_text_and_not_like_its_square():
    def peak(T):
        inputs = qkv(H=2, Hkv=1, T=T, S=T, Dh=4, B=1, dtype=np.float32)
        return peak_bytes(lambda: flash(*inputs, block_q=32, block_k=32))

    assert peak(2048) < 2.1 * peak(1024)
    # the same measure finds the T * T numbers of the plain way
    small, large = (qkv(H=2, Hkv=1, T=T, S=T, Dh=4, B=1, dtype=np.float32) for T in (256, 512))
    assert peak_bytes(lambda: plain(*large)) > 3.5 * peak_bytes(lambda: plain(*small))


@pytest.mark.slow
@pytest.mark.parametrize(("run", "H"), [(flash_attention_forward, 1), (flash, 2)])
def test_at_8192_tokens_the_peak_is_below_a_tenth_of_the_probabilities_alone(run, H):
    T = 8192
    inputs = qkv(H=H, Hkv=1, T=T, S=T, Dh=16, B=1, dtype=np.float32)
    probabilities = H * T * T * 4  # the plain way keeps these, and makes as many again for dP
    assert peak_bytes(lambda: run(*inputs)) < probabilities / 10


def test_the_cache_has_one_number_per_query_beside_out():
    q, k, v = qkv()
    _, cache = flash_attention_forward(q, k, v)
    assert cache.out.size == q.size
    assert cache.lse.size == q.size / 5
    assert not any(isinstance(x, np.ndarray) and x.size > q.size for x in cache)


def test_no_rows_at_all():
    q, k, v = qkv(B=1)
    out, dq, dk, dv = flash(q[:0], k[:0], v[:0])
    assert out.shape == dq.shape == (0, 6, 7, 5)
    assert dk.shape == dv.shape == (0, 3, 7, 5)


def test_errors():
    q, k, v = qkv()
    for options in ({"block_q": 0}, {"block_k": 0}):
        with pytest.raises(ValueError, match="block_q and block_k must be at least 1, got"):
            flash_attention_forward(q, k, v, **options)
    with pytest.raises(ValueError, match="window must be at least 1, a token sees itself, got 0"):
        flash_attention_forward(q, k, v, window=0)
    with pytest.raises(ValueError, match=r"v must have shape \(B=2, Hkv=3, S=7, Dh=5\), got"):
        flash_attention_forward(q, k, v[..., :4])
    with pytest.raises(ValueError, match="H=6 query heads is not a multiple of Hkv=4"):
        flash_attention_forward(q, *(np.zeros((2, 4, 7, 5)),) * 2)
    with pytest.raises(TypeError, match="k must have the dtype of q, float64, got float32"):
        flash_attention_forward(q, k.astype(np.float32), v)
    with pytest.raises(TypeError, match=r"real must be boolean \(True = real token\), got"):
        flash_attention_forward(q, k, v, np.ones((2, 7)))
    with pytest.raises(ValueError, match=r"real must have shape \(B=2, S=7\)"):
        flash_attention_forward(q, k, v, np.ones((2, 6), dtype=bool))
    with pytest.raises(ValueError, match="T=7 queries cannot be the last of S=6"):
        flash_attention_forward(q, k[:, :, :6], v[:, :, :6])
    _, cache = flash_attention_forward(q, k, v)
    with pytest.raises(ValueError, match=r"dout must have shape \(B=2, H=6, T=7, Dh=5\), got"):
        flash_attention_backward(q[:, :, :3], cache)
