"""LogN scaling: a query far into the text is multiplied, so that its attention stays as sharp.

The query at position p (0-based) sees p + 1 keys. Beyond the trained length L0 it is scaled:

    lambda_p = max(1, ln(p + 1) / ln(L0))        q' = lambda_p * q

Why a logarithm. Over n keys with equal scores the entropy of attention is ln n: it grows with the
text, and what the model learned to read at L0 is spread thinner. Take one key whose score is higher
than that of the n - 1 others by a gap g. Its weight is

    e^g / (e^g + n - 1)  =  1 / (1 + (n - 1) e^-g)

To keep that weight as n grows, g must grow like ln n; with g = g0 ln(n) / ln(L0) the number of keys
enters as n^(1 - g0 / ln L0) instead of n. Scores are linear in the query, so scaling q scales every
gap. It is lambda and not a constant, because each query has a length of its own: the position
counts, not the length of the text, and what came before L0 stays as it was, bit for bit.

The gradient. lambda is a number per position and not trained: dq = lambda_p dq'. It commutes with
RoPE, so it does not matter which comes first.

For inference only; training never goes beyond L0, where lambda is 1. With a KV cache nothing
special happens: keys are not scaled, and a new query takes the lambda of its absolute position.

Paper:    Qwen Technical Report, 2.3.2 Context Length Extension, "LogN-Scaling".
Origin:   Su 2021, kexue.fm/archives/8823; Chiang and Cholak 2022, arXiv:2202.12172.
Differs:  the report speaks of the dot product of "query and value"; the released code scales the
          query, so the product of query and key. The origin has no max(1, .). In padded batches
          the released code counts padding as positions, the model here real tokens only.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from ..backend import Array, DType, array_module, widen
from ..shapes import require_axes, require_float, require_shape


class LogNCache(NamedTuple):
    scale: Array  # (T, 1) or (B, 1, T, 1): the same for all heads and features
    shape: tuple[int, ...]  # of q
    dtype: DType  # of q


def logn_scale(positions: Array, train_length: int, dtype: str = "float32") -> Array:
    """Return lambda for each position: 1 up to the trained length, then slowly more.

    Args:
        positions: (T,) or (B, T) int, absolute and 0-based.
        train_length: L0, at least 2, the base of the logarithm.
        dtype: "float32", or "float64" for a float64 model.

    Returns:
        scale: shaped like positions, on their device.

    Raises:
        TypeError: positions are not integers.
        ValueError: train_length is below 2, or dtype is below float32.

    >>> import numpy as np
    >>> logn_scale(np.array([0, 15, 16, 255]), 16).round(4)  # 256 = 16 ** 2
    array([1.    , 1.    , 1.0219, 2.    ], dtype=float32)
    """
    xp = array_module(positions)
    if positions.dtype.kind not in "iu":
        raise TypeError(f"positions must be integers, got dtype {positions.dtype}")
    if not train_length >= 2:
        raise ValueError(f"train_length must be at least 2, the log of 1 is 0, got {train_length}")
    if dtype not in ("float32", "float64"):
        raise ValueError(f"the scale needs float32 or float64, got {dtype}")

    # ln(n) / ln(L0) = 1 + ln(n / L0) / ln(L0), and this form is exactly 1 at n = L0
    n = xp.maximum(positions.astype(dtype) + 1, train_length)
    scale: Array = 1 + xp.log(n / train_length) / math.log(train_length)
    return scale


def logn_forward(q: Array, scale: Array) -> tuple[Array, LogNCache]:
    """Multiply the queries of each position by its lambda.

    Args:
        q: (B, H, T, Dh) float, queries, before or after RoPE. Never keys: the score would get the
            product of two lambdas.
        scale: (T,) or (B, T) float32, or float64 for a float64 q, from logn_scale.

    Returns:
        y: (B, H, T, Dh) in q.dtype; half precision is multiplied in float32.
        cache: for logn_backward.

    Raises:
        TypeError: q is not floating point, or scale is not of the dtype that q is multiplied in:
            float64 for float64, else float32.
        ValueError: scale does not fit q.

    >>> import numpy as np
    >>> q = np.ones((1, 1, 2, 1))
    >>> logn_forward(q, np.array([1.0, 1.5]))[0].ravel()
    array([1. , 1.5])
    """
    require_float(q=q)
    require_axes("q", q, "B H T Dh")
    B, _, T, _ = q.shape
    require_shape("scale", scale, **({"B": B} if scale.ndim == 2 else {}), T=T)
    require_float(q=widen(q), scale=scale)

    scale = scale[:, None, :, None] if scale.ndim == 2 else scale[:, None]
    y: Array = widen(q) * scale
    return y.astype(q.dtype, copy=False), LogNCache(scale, q.shape, q.dtype)


def logn_backward(dy: Array, cache: LogNCache) -> Array:
    """Return dq, shaped like q, from dy: the same factor again. The scale gets no gradient."""
    scale, (B, H, T, Dh), dtype = cache
    require_shape("dy", dy, B=B, H=H, T=T, Dh=Dh)
    dq: Array = widen(dy) * scale
    return dq.astype(dtype, copy=False)
