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


def row_softmax(scores: Array) -> tuple[Array, Array, Array]:
    """Return exp(scores - peak), written over the scores, each row's sum (1 for 0), and its lse."""
    xp = array_module(scores)
    peak = xp.maximum(scores.max(axis=-1, keepdims=True), np.finfo(scores.dtype).min)
    scores -= peak
    weights = xp.exp(scores, out=scores)
    total = weights.sum(axis=-1, keepdims=True)
    total += total == 0
    return weights, total, peak + xp.log(total)


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
