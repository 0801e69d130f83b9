"""Attention, as one matrix and in blocks: the equation, masks, identities, errors."""

import tracemalloc

import numpy as np
import pytest
from helpers import references

from minqwen.layers.attention import (
    attention_backward,
    attention_forward,
    causal_mask,
    padding_mask,
)
from minqwen.layers.block_attention import block_attention_backward, block_attention_forward


def qkv(H=6, Hkv=3, T=7, S=7, Dh=5, B=2, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(s) for s in ((B, H, T, Dh), (B, Hkv, S, Dh), (B, Hkv, S, Dh))]


@pytest.mark.parametrize("Hkv", [1, 2, 3, 6])
@pytest.mark.parametrize(("T", "S"), [(1, 1), (7, 7), (1, 7), (4, 7)])
@pytest.mark.parametrize("padding", [False, True])
def test_both_match_the_equation(Hkv, T, S, padding):
    q, k, v = qkv(Hkv=Hkv, T=T, S=S)
    real = np.ones((2, S), dtype=bool)
    if padding:
        real[0, : S // 2 + 1] = False  # left
        real[1, S - S // 3 :] = False  # right
    want = references.block_attention(q, k, v, real)
    mask = causal_mask(T, S) & padding_mask(real)
    np.testing.assert_allclose(attention_forward(q, k, v, mask)[0], want, atol=1e-13)
    for block in (1, 2, 3, 64):
        got = block_attention_forward(q, k, v, real, block=block)[0]
        np.testing.assert_allclose(got, want, atol=1e-13)


@pytest.mark.parametrize(("T", "S"), [(1, 1), (7, 7), (1, 7), (4, 7)])
def test_causal_mask_matches_the_loops(T, S):
    np.testing.assert_array_equal(causal_mask(T, S), references.causal_mask(T, S))


@pytest.mark.parametrize("block", [1, 2, 3, 5, 64])
@pytest.mark.parametrize("padding", [False, True])
def test_blocks_give_the_gradients_of_the_whole(block, padding):
    q, k, v = qkv(T=5)
    real = np.ones((2, 7), dtype=bool)
    real[0, :3] = not padding
    dout = np.random.default_rng(1).standard_normal(q.shape)
    _, cache = attention_forward(q, k, v, causal_mask(5, 7) & padding_mask(real))
    want = attention_backward(dout, cache)
    _, cache = block_attention_forward(q, k, v, real if padding else None, block=block)
    for ours, theirs in zip(block_attention_backward(dout, cache), want, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)


@pytest.mark.parametrize("forward", ["whole", "blocks"])
def test_a_query_that_sees_nothing_gives_zeros_and_passes_no_gradient(forward):
    q, k, v = qkv()
    real = np.ones((2, 7), dtype=bool)
    real[0, :3] = False  # the first three queries of row 0 see padding only
    if forward == "whole":
        out, cache = attention_forward(q, k, v, causal_mask(7, 7) & padding_mask(real))
        dq, dk, dv = attention_backward(np.ones_like(q), cache)
    else:
        out, cache = block_attention_forward(q, k, v, real)
        dq, dk, dv = block_attention_backward(np.ones_like(q), cache)
    assert (out[0, :, :3] == 0).all()
    assert (dq[0, :, :3] == 0).all()
    assert (dk[0, :, :3] == 0).all()
    assert (dv[0, :, :3] == 0).all()
    assert all(np.isfinite(g).all() for g in (out, dq, dk, dv))


def test_a_row_of_nothing_but_padding_is_zero_everywhere():
    q, k, v = qkv()
    out, cache = block_attention_forward(q, k, v, np.array([[False] * 7, [True] * 7]))
    grads = block_attention_backward(np.ones_like(q), cache)
    assert all((g[0] == 0).all() for g in (out, *grads))


def test_equal_values_come_out_unchanged():
    """Each row of probabilities sums to 1; a mask after the softmax would break this."""
    q, k, v = qkv()
    v[:] = 1
    np.testing.assert_allclose(attention_forward(q, k, v, causal_mask(7, 7))[0], 1, atol=1e-14)
    np.testing.assert_allclose(block_attention_forward(q, k, v)[0], 1, atol=1e-14)


def test_one_token_gives_its_own_value():
    q, k, v = qkv(T=1, S=1)
    np.testing.assert_allclose(block_attention_forward(q, k, v)[0], np.repeat(v, 2, axis=1))


def test_repeated_key_heads_give_the_same_as_grouped_ones():
    q, k, v = qkv()
    repeated = attention_forward(q, k.repeat(2, axis=1), v.repeat(2, axis=1), causal_mask(7, 7))[0]
    np.testing.assert_allclose(block_attention_forward(q, k, v)[0], repeated, atol=1e-14)
    tiled = attention_forward(
        q, np.tile(k, (1, 2, 1, 1)), np.tile(v, (1, 2, 1, 1)), causal_mask(7, 7)
    )
    assert np.abs(tiled[0] - repeated).max() > 0.1  # the usual mistake is another function


def test_large_scores_do_not_overflow():
    q, k, v = (x.astype(np.float32) for x in qkv())
    out, cache = block_attention_forward(1e4 * q, k, v)
    assert np.isfinite(out).all()
    assert all(np.isfinite(g).all() for g in block_attention_backward(np.ones_like(q), cache))


def test_later_tokens_do_not_reach_earlier_ones():
    q, k, v = qkv()
    out = block_attention_forward(q, k, v, block=3)[0]
    k[:, :, 4:], v[:, :, 4:] = 100, -100
    np.testing.assert_array_equal(
        block_attention_forward(q, k, v, block=3)[0][:, :, :4], out[:, :, :4]
    )


def test_blocks_hold_no_matrix_of_all_pairs():
    q, k, v = qkv(H=2, Hkv=1, T=1024, S=1024, B=1)
    tracemalloc.start()
    _, cache = block_attention_forward(q, k, v)
    block_attention_backward(np.ones_like(q), cache)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * 1024 * 1024 * 8 / 3, peak  # one third of the probabilities alone


@pytest.mark.parametrize("forward", [attention_forward, block_attention_forward])
def test_errors(forward):
    q, k, v = qkv()
    with pytest.raises(ValueError, match=r"v must have shape \(B=2, Hkv=3, S=7, Dh=5\), got"):
        forward(q, k, v[..., :4])
    with pytest.raises(ValueError, match="H=6 query heads is not a multiple of Hkv=4"):
        forward(q, *(np.zeros((2, 4, 7, 5)),) * 2)
    with pytest.raises(ValueError, match=r"q must have axes \(B, H, T, Dh\)"):
        forward(q[0], k, v)
    with pytest.raises(TypeError, match="k must have the dtype of q, float64, got float32"):
        forward(q, k.astype(np.float32), v)


def test_no_key_heads_at_all():
    q = np.ones((1, 2, 3, 4))
    with pytest.raises(ValueError, match="H=2 query heads is not a multiple of Hkv=0"):
        attention_forward(q, *(np.ones((1, 0, 3, 4)),) * 2)


def test_errors_of_masks():
    q, k, v = qkv()
    with pytest.raises(
        TypeError, match=r"mask must be boolean \(True = visible\), got dtype float64"
    ):
        attention_forward(q, k, v, np.zeros((7, 7)))
    with pytest.raises(ValueError, match=r"mask must have shape \(T=7, S=7\), got \(7, 6\)"):
        attention_forward(q, k, v, np.ones((7, 6), dtype=bool))
    with pytest.raises(ValueError, match=r"real must have shape \(B=2, S=7\)"):
        block_attention_forward(q, k, v, np.ones((2, 6), dtype=bool))
    with pytest.raises(ValueError, match="T=7 queries cannot be the last of S=6"):
        block_attention_forward(q, k[:, :, :6], v[:, :, :6])
