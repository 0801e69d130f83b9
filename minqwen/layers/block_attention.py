"""Causal attention in blocks of queries: attention.py's result without its T * S numbers.

A block of queries i .. e looks only at keys up to e, so its scores are computed over exactly those
keys, turned into an output, and dropped. Half of the T * S pairs are never touched, and the memory
is that of one block. One number per query is kept:

    lse_i = log sum_j exp(s_ij)        from which        P_ij = exp(s_ij - lse_i)

The gradient is that of attention.py. The scores of each block are computed again, P comes back
through lse, and delta needs no P at all:

    delta_i = sum_j dP_ij P_ij = sum_d dout_id out_id

The G query heads of a group lie side by side: one block is a matrix of (rows * G, Dh) queries
against one key head, a single product, and no key is ever repeated.

Paper:    Qwen2 Technical Report, "Qwen2 Dense Model", Grouped Query Attention.
Origin:   Rabe and Staats 2021, arXiv:2112.05682; delta is Dao et al. 2022, arXiv:2205.14135.
Differs:  blocks of whole rows, so no running maximum is needed. FlashAttention also cuts the keys.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..backend import Array, DType, array_module, widen
from ..shapes import require_bool, require_shape
from .attention import attention_sizes


class BlockAttentionCache(NamedTuple):
    q: Array  # (B*Hkv, T, G, Dh) queries times scale, in at_least_float32
    k: Array  # (B*Hkv, S, Dh)
    v: Array  # (B*Hkv, S, Dh)
    padding_bias: Array | None  # (B*Hkv, 1, S) 0 for a real key, -inf for padding
    out: Array  # (B*Hkv, T, G, Dh)
    lse: Array  # (B*Hkv, T, G, 1) log of the sum of exponentials, one per query
    scale: float
    block: int
    shape: tuple[int, ...]  # of the argument q
    dtype: DType  # of the arguments


def block_attention_forward(
    q: Array,
    k: Array,
    v: Array,
    real: Array | None = None,
    scale: float | None = None,
    block: int | None = None,
) -> tuple[Array, BlockAttentionCache]:
    """Let every query average the values of itself and of earlier tokens.

    Args:
        q: (B, H, T, Dh) float, queries, already turned by RoPE: the last T of the S positions.
        k: (B, Hkv, S, Dh) float, keys, turned too.
        v: (B, Hkv, S, Dh) float, values.
        real: (B, S) bool, True = a real token, False = padding, on either side; None = all real.
        scale: factor on the scores; None means 1 / sqrt(Dh).
        block: queries per block. None: 64, which suits a CPU, or 1024 on a GPU, where each block
            costs calls.

    Returns:
        out: (B, H, T, Dh) in q.dtype; zeros for a query that sees no real token.
        cache: for block_attention_backward.

    Raises:
        TypeError: q, k, v are not floating point or not of one dtype, or real is not boolean.
        ValueError: a shape does not fit, H is not a multiple of Hkv, T > S, or block < 1.

    >>> q, k = np.zeros((1, 1, 2, 1)), np.zeros((1, 1, 2, 1))
    >>> v = np.array([1.0, 3.0]).reshape(1, 1, 2, 1)
    >>> block_attention_forward(q, k, v)[0].ravel()  # the first sees 1, the second 1 and 3
    array([1., 2.])
    """
    xp = array_module(q)
    B, H, Hkv, T, S, Dh = attention_sizes(q, k, v)
    if T > S:
        raise ValueError(f"T={T} queries cannot be the last of S={S} positions")
    if block is None:
        block = 64 if isinstance(q, np.ndarray) else 1024
    if block < 1:
        raise ValueError(f"block must be at least 1, got {block}")
    scale, G, shape, dtype = Dh**-0.5 if scale is None else scale, H // Hkv, q.shape, q.dtype

    q = (widen(q) * scale).reshape(B * Hkv, G, T, Dh).swapaxes(1, 2)  # (B*Hkv, T, G, Dh)
    k, v = widen(k).reshape(B * Hkv, S, Dh), widen(v).reshape(B * Hkv, S, Dh)
    padding_bias = None
    if real is not None:
        require_bool("real", real, "True = real token")
        require_shape("real", real, B=B, S=S)
        padding_bias = xp.where(real, xp.zeros((), q.dtype), -xp.inf).astype(q.dtype)  # (B, S)
        padding_bias = xp.repeat(padding_bias, Hkv, axis=0)[:, None]  # (B*Hkv, 1, S)
    out, lse = xp.empty_like(q), xp.empty_like(q[..., :1])
    for i in range(0, T, block):
        scores = block_scores(q, k, padding_bias, i, block)  # (B*Hkv, rows*G, e)
        peak = xp.maximum(scores.max(axis=-1, keepdims=True), np.finfo(scores.dtype).min)
        scores -= peak
        weights = xp.exp(scores, out=scores)
        total = weights.sum(axis=-1, keepdims=True)
        total += total == 0  # a query that sees nothing: 0 / 1
        means = (weights @ v[:, : weights.shape[-1]]) / total
        rows = min(block, T - i)
        out[:, i : i + rows] = means.reshape(B * Hkv, rows, G, Dh)
        lse[:, i : i + rows] = (peak + xp.log(total)).reshape(B * Hkv, rows, G, 1)
    y = out.swapaxes(1, 2).reshape(shape).astype(dtype, copy=False)  # (B, H, T, Dh)
    return y, BlockAttentionCache(q, k, v, padding_bias, out, lse, scale, block, shape, dtype)


def block_attention_backward(dout: Array, cache: BlockAttentionCache) -> tuple[Array, Array, Array]:
    """Return (dq, dk, dv), shaped like q, k and v, from dout (B, H, T, Dh).

    dk and dv collect from every block of queries that saw the key; the product over the rows of
    all G heads at once is the sum over the group.
    """
    q, k, v, padding_bias, out, lse, scale, block, shape, dtype = cache
    xp = array_module(q)
    (BHkv, T, G, Dh), (B, H, _, _) = q.shape, shape
    require_shape("dout", dout, B=B, H=H, T=T, Dh=Dh)

    dout = widen(dout).reshape(BHkv, G, T, Dh).swapaxes(1, 2)  # (B*Hkv, T, G, Dh)
    delta = (dout * out).sum(axis=-1, keepdims=True)  # (B*Hkv, T, G, 1)
    dq, dk, dv = xp.empty_like(q), xp.zeros_like(k), xp.zeros_like(v)
    for i in range(0, T, block):
        probs = block_scores(q, k, padding_bias, i, block)  # (B*Hkv, rows*G, e)
        rows, e = min(block, T - i), probs.shape[-1]
        q_rows, dout_rows, lse_rows, delta_rows = (
            a[:, i : i + rows].reshape(BHkv, rows * G, a.shape[-1]) for a in (q, dout, lse, delta)
        )
        probs -= lse_rows
        probs = xp.exp(probs, out=probs)
        dv[:, :e] += probs.swapaxes(-1, -2) @ dout_rows
        dscores = dout_rows @ v[:, :e].swapaxes(-1, -2)
        dscores -= delta_rows
        dscores *= probs
        dq[:, i : i + rows] = (dscores @ k[:, :e]).reshape(BHkv, rows, G, Dh)
        dk[:, :e] += dscores.swapaxes(-1, -2) @ q_rows  # q carries the scale already
    dq = (dq * scale).swapaxes(1, 2).reshape(shape)
    dk, dv = (d.reshape(B, H // G, *k.shape[1:]) for d in (dk, dv))
    return tuple(d.astype(dtype, copy=False) for d in (dq, dk, dv))


def block_scores(q: Array, k: Array, padding_bias: Array | None, i: int, block: int) -> Array:
    """Return the scores of queries i .. i+block against the keys they see, -inf where hidden.

    Only the last `rows` keys can lie in the future of a query of the block, so only that corner
    needs the causal mask.

    Args:
        q: (B*Hkv, T, G, Dh) float, times scale.
        k: (B*Hkv, S, Dh) float.
        padding_bias: (B*Hkv, 1, S) float, 0 or -inf, or None.

    Returns:
        (B*Hkv, rows*G, e) float with e = S - T + i + rows.
    """
    xp = array_module(q)
    BHkv, T, G, Dh = q.shape
    rows = min(block, T - i)
    e = k.shape[1] - T + i + rows
    scores: Array = q[:, i : i + rows].reshape(BHkv, rows * G, Dh) @ k[:, :e].swapaxes(-1, -2)
    if rows > 1:
        future = ~xp.tri(rows, dtype=bool)  # (rows, rows)
        corner = xp.where(future, -xp.inf, xp.zeros((), q.dtype)).astype(q.dtype)
        scores[:, :, e - rows :] += xp.repeat(corner, G, axis=0)
    if padding_bias is not None:
        scores += padding_bias[:, :, :e]
    return scores
