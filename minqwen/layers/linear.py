"""Linear layer, with a bias where the model has one (Qwen: only on queries, keys and values).

    y = x w^T + b            y_no = sum_i x_ni w_oi + b_o

The gradient. Each x_ni acts on every output o of its own row n, each w_oi on output o of every
row, each b_o once per row:

    dx_ni = sum_o dy_no w_oi         dx = dy w
    dw_oi = sum_n dy_no x_ni         dw = dy^T x
    db_o  = sum_n dy_no

Paper:    Qwen Technical Report, 2.3.1 Architecture, "Bias": none, except in the QKV layer.
Origin:   Chowdhery et al. 2022, arXiv:2204.02311 (no biases); Su 2023 (a bias on q, k, v helps
          to extrapolate to longer text).
Differs:  nothing. The weight is (out, in), as checkpoints store it.
"""

from __future__ import annotations

from typing import NamedTuple

from ..backend import Array, column_sums, widen
from ..shapes import require_float, require_shape


class LinearCache(NamedTuple):
    x: Array  # (..., Din) the input itself
    w: Array  # (Dout, Din)
    has_bias: bool


def linear_forward(x: Array, w: Array, b: Array | None = None) -> tuple[Array, LinearCache]:
    """Map each vector of x to new coordinates: one dot product with every row of w.

    Args:
        x: (..., Din) float; all leading axes are batch axes.
        w: (Dout, Din) float, `*_proj.weight` in a checkpoint.
        b: (Dout,) float, or None for no bias.

    Returns:
        y: (..., Dout) in x.dtype; half precision is multiplied in float32.
        cache: for linear_backward.

    Raises:
        TypeError: an array is not floating point, or the dtypes differ.
        ValueError: w is not (Dout, Din), or b not (Dout,).

    >>> import numpy as np
    >>> linear_forward(np.array([[1.0, 2.0]]), np.array([[10.0, 1.0]]), np.array([0.5]))[0]
    array([[12.5]])
    """
    require_float(x=x, w=w, b=b)
    require_shape("w", w, Dout=w.shape[0], Din=x.shape[-1])

    y = widen(x).reshape(-1, w.shape[1]) @ widen(w).T  # (N, Dout)
    if b is not None:
        require_shape("b", b, Dout=w.shape[0])
        y += widen(b)
    y = y.reshape(*x.shape[:-1], w.shape[0]).astype(x.dtype, copy=False)
    return y, LinearCache(x, w, b is not None)


def linear_backward(dy: Array, cache: LinearCache) -> tuple[Array, Array, Array | None]:
    """Return (dx, dw, db), shaped like x, w and b, from dy (..., Dout); db is None without b."""
    x, w, has_bias = cache
    Dout, Din = w.shape
    dy_rows, x_rows = widen(dy).reshape(-1, Dout), widen(x).reshape(-1, Din)  # (N, Dout), (N, Din)
    require_shape("dy", dy_rows, N=x_rows.shape[0], Dout=Dout)

    dx = (dy_rows @ widen(w)).reshape(x.shape)  # (..., Din)
    dw = dy_rows.T @ x_rows  # (Dout, Din)
    db = column_sums(dy_rows).astype(w.dtype, copy=False) if has_bias else None  # (Dout,)
    return dx.astype(x.dtype, copy=False), dw.astype(w.dtype, copy=False), db
