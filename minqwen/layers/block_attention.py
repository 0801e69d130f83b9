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

With a window W, query i sees the W keys i - W < j <= i. A block then starts at the first key that
it sees, so time is O(T * W). Positions count from the end: a KV cache may drop its oldest keys.

With segments, several texts share a row, and query i sees only keys of its own text.

Paper:    Qwen2 Technical Report, "Qwen2 Dense Model", Grouped Query Attention; Qwen Technical
          Report, 2.3.2 Context Length Extension, window attention.
Origin:   Rabe and Staats 2021, arXiv:2112.05682; delta is Dao et al. 2022, arXiv:2205.14135.
Differs:  blocks of whole rows, so no running maximum is needed; flash_attention.py cuts keys too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ..backend import Array, DType, array_module, widen
from ..shapes import require_shape
from .attention import group_heads, mask_bias
from .attention_tiles import matrix, row_softmax, small_scores, tile_gradients


class BlockAttentionCache(NamedTuple):
    q: Array  # (B*Hkv, T, G, Dh) queries times scale, in at_least_float32
    k: Array  # (B*Hkv, S, Dh)
    v: Array  # (B*Hkv, S, Dh)
    padding_bias: Array | None  # (B*Hkv, 1, S) 0 for a real key, -inf for padding
    out: Array  # (B*Hkv, T, G, Dh)
    lse: Array  # (B*Hkv, T, G, 1) log of the sum of exponentials, one per query
    scale: float
    block: int
    window: int | None
    segments: Array | None  # (B*Hkv, S)
    shape: tuple[int, ...]  # of the argument q
    dtype: DType  # of the arguments


def block_attention_forward(
    q: Array,
    k: Array,
    v: Array,
    real: Array | None = None,
    scale: float | None = None,
    block: int | None = None,
    window: int | None = None,
    segments: Array | None = None,
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
        window: W, the number of keys that a query sees, itself included; None: all so far.
        segments: (B, S) int, which text a position belongs to; None: a row is one text.

    Returns:
        out: (B, H, T, Dh) in q.dtype; zeros for a query that sees no real token.
        cache: for block_attention_backward.

    Raises:
        TypeError: q, k, v are not floating point or not of one dtype, or real is not boolean.
        ValueError: a shape does not fit, H is not a multiple of Hkv, T > S, or block or window < 1.

    >>> q, k = np.zeros((1, 1, 2, 1)), np.zeros((1, 1, 2, 1))
    >>> v = np.array([1.0, 3.0]).reshape(1, 1, 2, 1)
    >>> block_attention_forward(q, k, v)[0].ravel()  # the first sees 1, the second 1 and 3
    array([1., 2.])
    """
    xp = array_module(q)
    q, k, v, bias, scale, shape, dtype = group_heads(q, k, v, real, scale, window)
    T, S = q.shape[1], k.shape[1]
    if block is None:
        block = 64 if isinstance(q, np.ndarray) else 1024
    if block < 1:
        raise ValueError(f"block must be at least 1, got {block}")
    if segments is not None:
        require_shape("segments", segments, B=shape[0], S=S)
        segments = xp.repeat(xp.asarray(segments), k.shape[0] // shape[0], axis=0)  # (B*Hkv, S)

    out, lse = xp.empty_like(q), xp.empty_like(q[..., :1])
    small = small_scores(q, k)  # exp cannot overflow: no peak needed
    for rows, keys in row_blocks(T, S, block, window):
        scores = tile_scores(q, k, bias, rows, keys, window, segments)  # (B*Hkv, rows*G, keys)
        weights, total, lse_rows = row_softmax(scores, small)
        means = (weights @ v[:, keys]) / total
        out[:, rows] = means.reshape(out[:, rows].shape)
        lse[:, rows] = lse_rows.reshape(lse[:, rows].shape)
    y = out.swapaxes(1, 2).reshape(shape).astype(dtype, copy=False)  # (B, H, T, Dh)
    cache = BlockAttentionCache(
        q, k, v, bias, out, lse, scale, block, window, segments, shape, dtype
    )
    return y, cache


def block_attention_backward(dout: Array, cache: BlockAttentionCache) -> tuple[Array, Array, Array]:
    """Return (dq, dk, dv), shaped like q, k and v, from dout (B, H, T, Dh).

    dk and dv collect from every block of queries that saw the key; the product over the rows of
    all G heads at once is the sum over the group.
    """
    q, k, v, bias, out, lse, scale, block, window, segments, shape, dtype = cache
    xp = array_module(q)
    (BHkv, T, G, Dh), (B, H, _, _) = q.shape, shape
    require_shape("dout", dout, B=B, H=H, T=T, Dh=Dh)

    dout = widen(dout).reshape(BHkv, G, T, Dh).swapaxes(1, 2)  # (B*Hkv, T, G, Dh)
    delta = (dout * out).sum(axis=-1, keepdims=True)  # (B*Hkv, T, G, 1)
    dq, dk, dv = xp.empty_like(q), xp.zeros_like(k), xp.zeros_like(v)
    for rows, keys in row_blocks(T, k.shape[1], block, window):
        scores = tile_scores(q, k, bias, rows, keys, window, segments)  # (B*Hkv, rows*G, keys)
        of_rows = (matrix(x, rows) for x in (lse, dout, delta))
        dscores, dv_keys = tile_gradients(scores, v[:, keys], *of_rows)
        dv[:, keys] += dv_keys
        dq[:, rows] = (dscores @ k[:, keys]).reshape(dq[:, rows].shape)
        dk[:, keys] += dscores.swapaxes(-1, -2) @ matrix(q, rows)  # q carries the scale already
    dq = (dq * scale).swapaxes(1, 2).reshape(shape)
    dk, dv = (d.reshape(B, H // G, *k.shape[1:]) for d in (dk, dv))
    return tuple(d.astype(dtype, copy=False) for d in (dq, dk, dv))


def row_blocks(T: int, S: int, block: int, window: int | None) -> Iterator[tuple[slice, slice]]:
    """Yield blocks of queries, each with the keys that at least one of its queries sees.

    >>> list(row_blocks(T=4, S=4, block=2, window=2))  # queries 2 and 3 see keys 1, 2 and 3
    [(slice(0, 2, None), slice(0, 2, None)), (slice(2, 4, None), slice(1, 4, None))]
    """
    for i in range(0, T, block):
        e = min(i + block, T)
        first = 0 if window is None else max(0, S - T + i - window + 1)
        yield slice(i, e), slice(first, S - T + e)


def tile_scores(
    q: Array,
    k: Array,
    bias: Array | None,
    rows: slice,
    keys: slice,
    window: int | None,
    segments: Array | None = None,
) -> Array:
    """Return the scores of these queries and keys, (B*Hkv, rows*G, keys), -inf where hidden.

    The masks are triangles in two corners, the future and the past: small where all see the rest.
    """
    xp = array_module(q)
    _, T, G, _ = q.shape
    n, m = rows.stop - rows.start, keys.stop - keys.start
    own = k.shape[1] - T + rows.start - keys.start  # the column of the first query's own key
    scores: Array = matrix(q, rows) @ k[:, keys].swapaxes(-1, -2)
    if own < m - 1:
        start = max(own + 1, 0)
        visible = xp.tri(n, m - start, own - start, dtype=bool)
        scores[:, :, start:] += xp.repeat(mask_bias(visible, q), G, axis=0)
    if window is not None and own + n > window:
        stop = min(own + n - window, m)
        too_old = xp.tri(n, stop, own - window, dtype=bool)
        scores[:, :, :stop] += xp.repeat(mask_bias(~too_old, q), G, axis=0)
    if bias is not None:
        scores += bias[:, :, keys]
    if segments is not None:
        of_queries = segments[:, k.shape[1] - T :][:, rows]
        same = of_queries[:, :, None] == segments[:, None, keys]  # (B*Hkv, rows, keys)
        scores += xp.repeat(mask_bias(same, q), G, axis=1)
    return scores
