"""Windows of block_attention: the equation, which keys count, what is computed, errors."""

import tracemalloc

import numpy as np
import pytest
from helpers import references

from minqwen.layers import attention_tiles, block_attention
from minqwen.layers.attention_tiles import small_scores
from minqwen.layers.block_attention import block_attention_backward, block_attention_forward


def qkv(H=6, Hkv=3, T=7, S=7, Dh=5, B=2, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(s) for s in ((B, H, T, Dh), (B, Hkv, S, Dh), (B, Hkv, S, Dh))]


def run(q, k, v, seed=1, **options):
    """Return out and the three gradients, for a random dout."""
    out, cache = block_attention_forward(q, k, v, **options)
    dout = np.random.default_rng(seed).standard_normal(q.shape)
    return (out, *block_attention_backward(dout, cache))


def visible(T, S, window=None, block=2):
    """Return (T, S) bool, which values reach which query: a value of 1 in one place at a time."""
    v = np.eye(S)[None, None]  # (1, 1, S, Dh = S)
    out, _ = block_attention_forward(
        np.zeros((1, 1, T, S)), np.zeros((1, 1, S, S)), v, block=block, window=window
    )
    return out[0, 0] > 0


@pytest.mark.parametrize("window", [1, 2, 3, 6, 7, 100])
@pytest.mark.parametrize(("T", "S"), [(1, 1), (7, 7), (1, 7), (4, 7)])
@pytest.mark.parametrize("padding", [False, True])
def test_windows_match_the_equation(window, T, S, padding):
    q, k, v = qkv(T=T, S=S)
    real = np.ones((2, S), dtype=bool)
    if padding:
        real[0, : S // 2 + 1] = False  # left
        real[1, S - S // 3 :] = False  # right
    want = references.block_attention(q, k, v, real, window)
    for block in (1, 2, 3, 64):
        got = block_attention_forward(q, k, v, real, block=block, window=window)[0]
        np.testing.assert_allclose(got, want, atol=1e-13)


@pytest.mark.parametrize("block", [1, 2, 64])
def test_window_3_on_5_tokens_is_12_pairs(block):
    pairs = visible(5, 5, window=3, block=block)
    assert pairs.sum() == 12
    assert all(list(np.flatnonzero(row)) == list(range(max(0, i - 2), i + 1))
               for i, row in enumerate(pairs))  # fmt: skip


def test_window_3_row_5_of_8_sees_keys_3_4_and_5():
    assert np.flatnonzero(visible(8, 8, window=3)[5]).tolist() == [3, 4, 5]


def test_window_1_returns_the_own_value():
    q, k, v = qkv()
    out, dq, dk, _ = run(q, k, v, window=1)
    np.testing.assert_array_equal(out, v.repeat(2, axis=1))
    np.testing.assert_allclose(dq, 0, atol=1e-15)  # one key to choose from: no choice
    np.testing.assert_allclose(dk, 0, atol=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("window", [7, 8, 10**9])
def test_a_window_as_long_as_the_text_is_full_attention_bit_for_bit(window, dtype):
    inputs = [x.astype(dtype) for x in qkv()]
    for block in (2, 64):
        full, windowed = run(*inputs, block=block), run(*inputs, block=block, window=window)
        for a, b in zip(full, windowed, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("window", [1, 2, 3, 5])
def test_a_rolled_kv_cache_gives_the_same(window):
    """Keys that no query sees may be missing: positions count from the end."""
    q, k, v = qkv(T=3, S=11)
    out, dq, dk, dv = run(q, k, v, window=window)
    kept = 3 + window - 1
    rolled = run(q, k[:, :, -kept:], v[:, :, -kept:], window=window)
    for a, b in zip((out, dq, dk[:, :, -kept:], dv[:, :, -kept:]), rolled, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-14)
    assert (dk[:, :, :-kept] == 0).all()
    assert (dv[:, :, :-kept] == 0).all()


def test_tokens_before_the_window_do_not_matter():
    q, k, v = qkv()
    out = block_attention_forward(q, k, v, window=3, block=3)[0]
    k[:, :, :3], v[:, :, :3] = np.nan, np.nan  # query 6, alone in its block, sees 4 to 6
    with np.errstate(invalid="ignore"):
        got = block_attention_forward(q, k, v, window=3, block=2)[0]
    np.testing.assert_allclose(got[:, :, 6:], out[:, :, 6:], atol=1e-14)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_window_of_padding_only_gives_zeros(side):
    q, k, v = qkv()
    real = np.ones((2, 7), dtype=bool)
    real[0, :3 if side == "left" else None] = False  # fmt: skip
    real[1, 4:] = side == "left"
    blind = [[True] * 3 + [False] * 4, [False] * 7]
    if side == "right":
        blind = [[True] * 7, [False] * 5 + [True] * 2]  # query 4 still sees token 3
    out, dq, dk, dv = run(q, k, v, real=real, window=2)
    assert all(np.isfinite(g).all() for g in (out, dq, dk, dv))
    np.testing.assert_array_equal((out == 0).all(axis=(1, 3)), blind)
    np.testing.assert_array_equal((dq == 0).all(axis=(1, 3)) >= blind, True)
    assert (dk[~real[:, None].repeat(3, 1)] == 0).all()


def test_only_keys_inside_the_window_are_multiplied(monkeypatch):
    """The work grows with T * W, not with T * T."""
    pairs = []
    scores = block_attention.tile_scores

    def counted(q, k, bias, rows, keys, window, segments):
        pairs.append((rows.stop - rows.start) * (keys.stop - keys.start))
        return scores(q, k, bias, rows, keys, window, segments)

    monkeypatch.setattr(block_attention, "tile_scores", counted)
    T, W, block = 1000, 50, 25
    run(*qkv(T=T, S=T, H=1, Hkv=1, B=1), window=W, block=block)
    assert sum(pairs) <= 2 * T * (W + block - 1)  # forward and backward
    assert all(n <= block * (W + block - 1) for n in pairs)


def test_the_memory_of_a_window_grows_with_the_text_only():
    def peak(T):
        q, k, v = qkv(H=2, Hkv=1, T=T, S=T, B=1)
        tracemalloc.start()
        run(q, k, v, window=32)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(2048) < 2.2 * peak(1024)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("size", [1.0, 3.0, 9.0, 1000.0])
def test_small_scores_and_large_ones_give_the_same(size, dtype, monkeypatch):
    """Where scores are small the softmax does without the peak; then it is told not to."""
    q, k, v = (x.astype(dtype) for x in qkv())
    q, real = q * np.asarray(size, dtype), np.ones((2, 7), dtype=bool)
    monkeypatch.setattr(attention_tiles, "LONG", 1)
    real[1, :3] = False
    got = run(q, k, v, real=real, block=2)
    monkeypatch.setattr(block_attention, "small_scores", lambda q, k: False)
    want = run(q, k, v, real=real, block=2)
    for a, b in zip(got, want, strict=True):
        limit = (1e-13 if dtype == "float64" else 1e-5) * np.abs(b).max()
        np.testing.assert_allclose(a, b, rtol=0, atol=limit)


def test_scores_are_small_up_to_40(monkeypatch):
    """The largest that counts as small must not overflow: 40 + log of a million keys < 88."""
    q, k = np.full((1, 2, 1, 4), 4.0, np.float32), np.full((1, 3, 4), 2.5, np.float32)
    assert not small_scores(q, k)  # 3 keys: not asked
    monkeypatch.setattr(attention_tiles, "LONG", 3)
    assert small_scores(q, k)  # 4 * 4 * 2.5
    assert not small_scores(q[:, :1], k)  # decoding: not asked
    assert not small_scores(q, k * np.float32(1.001))
    assert not small_scores(q * np.float32(1e30), k)
    assert not small_scores(q * np.float32(np.nan), k)
    assert not small_scores(q * np.float32(np.inf), k * np.float32(0))
    scores = np.full((1, 1, 2**20), 40, np.float32)
    _, total, lse = attention_tiles.row_softmax(scores, small=True)
    assert np.isfinite(1e10 * total).all()
    np.testing.assert_allclose(lse, 40 + 20 * np.log(2), rtol=1e-6)


def test_a_long_text_goes_without_the_peak_and_matches_the_equation(monkeypatch):
    calls = []

    def watch(scores, small):
        calls.append(small)
        return attention_tiles.row_softmax(scores, small)

    monkeypatch.setattr(block_attention, "row_softmax", watch)
    q, k, v = qkv(H=2, Hkv=1, T=5, S=attention_tiles.LONG, B=1)
    out, _ = block_attention_forward(q, k, v)
    assert calls == [True]
    real = np.ones((1, k.shape[2]), dtype=bool)
    np.testing.assert_allclose(out, references.block_attention(q, k, v, real, None), atol=1e-13)


def test_errors():
    q, k, v = qkv()
    with pytest.raises(ValueError, match="window must be at least 1, a token sees itself, got 0"):
        block_attention_forward(q, k, v, window=0)
    with pytest.raises(ValueError, match="block must be at least 1, got 0"):
        block_attention_forward(q, k, v, block=0)
