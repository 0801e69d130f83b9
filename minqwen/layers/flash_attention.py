"""Flash attention: in tiles of some queries and some keys, with a softmax that can be continued.

block_attention.py still holds the scores of a block of queries against all keys so far. Here the
keys are cut as well, so that never more than one small tile of scores exists. The difficulty is
the softmax: its sum runs over a whole row. So each query remembers, of the keys it has met,

    M    their largest score              Z    sum_j exp(s_j - M)
                                          A    sum_j exp(s_j - M) v_j

The next tile may bring a larger score. Then all that was summed in terms of M must be restated in
terms of the new maximum M'; as exp(s - M') = exp(s - M) exp(M - M'), one factor does it:

    M' = max(M, max_j s_j)       shrink = exp(M - M')       w_j = exp(s_j - M')
    Z' = Z shrink + sum_j w_j                               A' = A shrink + sum_j w_j v_j

After the last tile, out = A / Z and lse = M + log Z: exactly the softmax, nothing is approximated.
No exponent is ever above 0, so scores of 1e4 do not overflow.

The gradient. Only out and lse are kept, Dh + 1 numbers per query. A tile's scores are computed
again, and as lse is that of the whole row they are probabilities at once, without a running sum.
The sum in the softmax's gradient, sum_j P_ij dP_ij, also runs over the row, but it is known before:
it is delta_i = sum_d dout_id out_id. So every tile can add its share by itself:

    P_ij = exp(s_ij - lse_i)                  dS_ij = P_ij (dout_i . v_j - delta_i)
    dv_j += sum_i P_ij dout_i                 dk_j += scale sum_i dS_ij q_i
                                              dq_i += scale sum_j dS_ij k_j

Tiles that lie wholly in the future, or wholly before the window, are never computed: half of all
tiles of a causal text, nearly all with a short window. Memory grows with T, time with T * S / 2.

Paper:    Qwen Technical Report, 2.4 Training: flash attention is used for training.
Origin:   Dao et al. 2022, arXiv:2205.14135; the running maximum is Milakov and Gimelshein 2018,
          arXiv:1805.02867. As in Dao 2023, arXiv:2307.08691, A is divided by Z once, at the end.
Differs:  a GPU kernel works on many tiles at once, and on each for one head. Here a loop does one
          tile after the other, each for all rows of the batch and all heads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ..backend import Array, DType, array_module, widen
from ..shapes import require_shape
from .attention import group_heads
from .attention_tiles import matrix, tile_gradients
from .block_attention import row_blocks, tile_scores


class FlashAttentionCache(NamedTuple):
    q: Array  # (B*Hkv, T, G, Dh) queries times scale, in at_least_float32
    k: Array  # (B*Hkv, S, Dh)
    v: Array  # (B*Hkv, S, Dh)
    padding_bias: Array | None  # (B*Hkv, 1, S) 0 for a real key, -inf for padding
    out: Array  # (B*Hkv, T, G, Dh)
    lse: Array  # (B*Hkv, T, G, 1) log of the sum of exponentials, one per query
    scale: float
    blocks: tuple[int, int]  # queries and keys of a tile
    window: int | None
    shape: tuple[int, ...]  # of the argument q
    dtype: DType  # of the arguments


def flash_attention_forward(
    q: Array,
    k: Array,
    v: Array,
    real: Array | None = None,
    scale: float | None = None,
    window: int | None = None,
    block_q: int | None = None,
    block_k: int | None = None,
) -> tuple[Array, FlashAttentionCache]:
    """Let every query average the values of itself and of earlier tokens.

    Args:
        q: (B, H, T, Dh) float, queries, already turned by RoPE: the last T of the S positions.
        k: (B, Hkv, S, Dh) float, keys, turned too.
        v: (B, Hkv, S, Dh) float, values.
        real: (B, S) bool, True = a real token, False = padding, on either side; None = all real.
        scale: factor on the scores; None means 1 / sqrt(Dh).
        window: W, the number of keys that a query sees, itself included; None: all so far.
        block_q: queries of a tile. None: 256 on a CPU, 1024 on a GPU, where each tile costs calls.
        block_k: keys of a tile. None: 512 on a CPU, 1024 on a GPU.

    Returns:
        out: (B, H, T, Dh) in q.dtype; zeros for a query that sees no real token.
        cache: for flash_attention_backward.

    Raises:
        TypeError: q, k, v are not floating point or not of one dtype, or real is not boolean.
        ValueError: a shape does not fit, H is not a multiple of Hkv, T > S, or window, block_q or
            block_k is below 1.

    >>> q, k = np.zeros((1, 1, 2, 1)), np.zeros((1, 1, 2, 1))
    >>> v = np.array([1.0, 3.0]).reshape(1, 1, 2, 1)
    >>> flash_attention_forward(q, k, v)[0].ravel()  # the first sees 1, the second 1 and 3
    array([1., 2.])
    """
    xp = array_module(q)
    q, k, v, bias, scale, shape, dtype = group_heads(q, k, v, real, scale, window)
    T, S = q.shape[1], k.shape[1]
    on_cpu = isinstance(q, np.ndarray)
    block_q = block_q if block_q is not None else 256 if on_cpu else 1024
    block_k = block_k if block_k is not None else 512 if on_cpu else 1024
    if min(block_q, block_k) < 1:
        raise ValueError(f"block_q and block_k must be at least 1, got {block_q} and {block_k}")

    out, lse = xp.empty_like(q), xp.empty_like(q[..., :1])
    for rows, keys in row_blocks(T, S, block_q, window):
        total_v = xp.zeros_like(matrix(q, rows))  # A: (B*Hkv, rows*G, Dh)
        total = xp.zeros_like(total_v[..., :1])  # Z
        peak = xp.full_like(total, np.finfo(q.dtype).min)  # M; -inf - -inf would be NaN
        for tile in cut(keys, block_k):
            scores = tile_scores(q, k, bias, rows, tile, window)  # (B*Hkv, rows*G, keys)
            new_peak = xp.maximum(peak, scores.max(axis=-1, keepdims=True))
            scores -= new_peak
            weights = xp.exp(scores, out=scores)
            shrink = xp.exp(peak - new_peak)
            total = total * shrink + weights.sum(axis=-1, keepdims=True)
            total_v = total_v * shrink + weights @ v[:, tile]
            peak = new_peak
        total += total == 0  # a query that sees nothing: 0 / 1
        out[:, rows] = (total_v / total).reshape(out[:, rows].shape)
        lse[:, rows] = (peak + xp.log(total)).reshape(lse[:, rows].shape)
    y = out.swapaxes(1, 2).reshape(shape).astype(dtype, copy=False)  # (B, H, T, Dh)
    blocks = (block_q, block_k)
    return y, FlashAttentionCache(q, k, v, bias, out, lse, scale, blocks, window, shape, dtype)


def flash_attention_backward(dout: Array, cache: FlashAttentionCache) -> tuple[Array, Array, Array]:
    """Return (dq, dk, dv), shaped like q, k and v, from dout (B, H, T, Dh).

    The tiles of the forward pass again; dq collects along the keys, dk and dv along the queries.
    """
    q, k, v, bias, out, lse, scale, (block_q, block_k), window, shape, dtype = cache
    xp = array_module(q)
    (BHkv, T, G, Dh), (B, H, _, _) = q.shape, shape
    require_shape("dout", dout, B=B, H=H, T=T, Dh=Dh)

    dout = widen(dout).reshape(BHkv, G, T, Dh).swapaxes(1, 2)  # (B*Hkv, T, G, Dh)
    delta = (dout * out).sum(axis=-1, keepdims=True)  # (B*Hkv, T, G, 1)
    dq, dk, dv = xp.empty_like(q), xp.zeros_like(k), xp.zeros_like(v)
    for rows, keys in row_blocks(T, k.shape[1], block_q, window):
        q_rows, *of_rows = (matrix(x, rows) for x in (q, lse, dout, delta))
        dq_rows = xp.zeros_like(q_rows)  # (B*Hkv, rows*G, Dh)
        for tile in cut(keys, block_k):
            scores = tile_scores(q, k, bias, rows, tile, window)
            dscores, dv_tile = tile_gradients(scores, v[:, tile], *of_rows)
            dv[:, tile] += dv_tile
            dq_rows += dscores @ k[:, tile]
            dk[:, tile] += dscores.swapaxes(-1, -2) @ q_rows  # q carries the scale already
        dq[:, rows] = dq_rows.reshape(dq[:, rows].shape)
    dq = (dq * scale).swapaxes(1, 2).reshape(shape)
    dk, dv = (d.reshape(B, H // G, *k.shape[1:]) for d in (dk, dv))
    return tuple(d.astype(dtype, copy=False) for d in (dq, dk, dv))


def cut(keys: slice, block: int) -> Iterator[slice]:
    """Yield the parts of `keys` that lie in one tile each; tiles begin at multiples of `block`.

    >>> list(cut(slice(3, 9), 4))
    [slice(3, 4, None), slice(4, 8, None), slice(8, 9, None)]
    """
    for j in range(keys.start - keys.start % block, keys.stop, block):
        yield slice(max(j, keys.start), min(j + block, keys.stop))
