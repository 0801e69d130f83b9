"""Token embedding: a table with one row per token.

    x_n = w[ids_n]

The gradient. Row v was read by every position whose id is v, so it collects all their gradients:

    dw[v] = sum over the n with ids_n = v of dx_n

A scatter-add, not `dw[ids] += dx`: with a repeated id that statement keeps one of the rows.

Paper:    Qwen Technical Report, 2.3.1 Architecture, "Embedding and output projection": untied.
          Qwen2 Technical Report, Table 1: tied in the two small models.
Origin:   Bengio et al. 2003.
Differs:  nothing. There is no factor sqrt(D). Rows are added one after another in float32, as in
          PyTorch: ten thousands of a frequent token cost the fourth digit of its row.
"""

from __future__ import annotations

from typing import NamedTuple

from ..backend import Array, add_at, array_module, at_least_float32, widen
from ..shapes import require_axes, require_float, require_ids, require_shape


class EmbeddingCache(NamedTuple):
    ids: Array  # (...) int, on the device of w
    w: Array  # (V, D) only its shape and dtype are used


def embedding_forward(ids: Array, w: Array) -> tuple[Array, EmbeddingCache]:
    """Read the row of each token.

    Args:
        ids: (...) int in [0, V), usually (B, T). They may be on the host while w is on a GPU:
            then they are checked there, without waiting for the GPU, and copied over.
        w: (V, D) float, `model.embed_tokens.weight`.

    Returns:
        x: (..., D) in w.dtype.
        cache: for embedding_backward.

    Raises:
        TypeError: ids are not integers, or w is not floating point.
        ValueError: an id is negative, or V or more.

    >>> import numpy as np
    >>> embedding_forward(np.array([2, 0]), np.array([[0.0], [10.0], [20.0]]))[0]
    array([[20.],
           [ 0.]])
    """
    require_float(w=w)
    require_axes("w", w, "V D")
    require_ids("ids", ids, w.shape[0], "V")

    ids = array_module(w).asarray(ids)
    return w[ids], EmbeddingCache(ids, w)


def embedding_backward(dx: Array, cache: EmbeddingCache) -> Array:
    """Return dw (V, D) from dx (..., D): every row of dx is added to the row of its token."""
    ids, w = cache
    xp = array_module(w)
    V, D = w.shape
    rows = widen(dx).reshape(-1, D)  # (N, D)
    require_shape("dx", rows, N=ids.size, D=D)

    dw = xp.zeros((V, D), dtype=at_least_float32(w))
    add_at(dw, ids.reshape(-1), rows)
    return dw.astype(w.dtype, copy=False)  # type: ignore[no-any-return]
