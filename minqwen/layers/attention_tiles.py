"""What is done with a tile of scores, the same in block, flash and dual chunk attention.

A tile is a matrix: the queries of some rows, those of a group of heads side by side, against some
keys. The softmax of a row needs only its peak and its sum, and the gradient only lse and delta:

    weights = exp(scores - peak)     lse = peak + log(sum of weights)
    P       = exp(scores - lse)      dscores = P * (dout v^T - delta)      dv = P^T dout

block_attention.py derives them.

Paper:    Qwen2 Technical Report, "Qwen2 Dense Model", Grouped Query Attention.
Origin:   Dao et al. 2022, arXiv:2205.14135, Algorithm 4.
"""

from __future__ import annotations

import numpy as np

from ..backend import Array, array_module

SMALL = 40.0  # exp(40) = 2e17: a sum of a million of them, times any value, is far from overflow
LONG = 1024  # keys


def row_softmax(scores: Array, small: bool = False) -> tuple[Array, Array, Array]:
    """Return exp(scores - peak), written over the scores, each row's sum (1 for 0), and its lse.

    Softmax is the same for any peak, which is there to keep exp from overflowing. Where all scores
    are `small` 0 will do, and two walks over the scores are saved.
    """
    xp = array_module(scores)
    peak: Array | float = 0.0
    if not small:
        peak = xp.maximum(scores.max(axis=-1, keepdims=True), np.finfo(scores.dtype).min)
        scores -= peak
    weights = xp.exp(scores, out=scores)
    total = weights.sum(axis=-1, keepdims=True)
    total += total == 0
    return weights, total, peak + xp.log(total)


def small_scores(q: Array, k: Array) -> bool:
    """Say whether no score is beyond SMALL: by Cauchy and Schwarz none is above |q| * |k|.

    Asked for long texts only, whose scores do not stay in the processor's cache: at 8,192 tokens
    it takes a fifth of the time away. In decoding it would cost more than it saves, and a GPU
    would have to be waited for: there the answer is no.

    Args:
        q: (B*Hkv, T, G, Dh) queries times scale.
        k: (B*Hkv, S, Dh).

    >>> small_scores(np.full((1, 2, 1, 2), 3.0), np.full((1, LONG, 2), 6.0))
    True
    >>> small_scores(np.full((1, 2, 1, 2), 3.0), np.full((1, LONG, 2), 7.0))  # 2 * 3 * 7 = 42
    False
    """
    if not isinstance(q, np.ndarray) or q.shape[1] == 1 or k.shape[1] < LONG:
        return False
    with np.errstate(over="ignore", invalid="ignore"):  # inf and NaN are not small
        longest = [np.einsum("...d,...d->...", x, x).max(initial=0) for x in (q, k)]
        return bool(longest[0] * longest[1] <= SMALL**2)


def tile_gradients(
    scores: Array, v: Array, lse: Array, dout: Array, delta: Array
) -> tuple[Array, Array]:
    """Return the gradient of the scores, and what a tile adds to that of its values.

    All arguments are matrices: those of queries (B*Hkv, rows*G, any), v (B*Hkv, keys, Dh). To save
    the memory, the probabilities are written over the scores.
    """
    scores -= lse
    probs = array_module(v).exp(scores, out=scores)
    dscores: Array = dout @ v.swapaxes(-1, -2)
    dscores -= delta
    dscores *= probs
    return dscores, probs.swapaxes(-1, -2) @ dout


def matrix(x: Array, rows: slice) -> Array:
    """Return these queries of (B*Hkv, T, G, any), the group side by side: (B*Hkv, rows*G, any)."""
    return x[:, rows].reshape(len(x), (rows.stop - rows.start) * x.shape[2], x.shape[3])
