"""Rotary position embedding (RoPE), half-split layout, with its table in float32.

Feature i of a head is paired with feature i + Dh/2. At position p the pair (a, b) is turned by
the angle p * inv_freq_i, so that a query and a key see only the difference of their positions:

    inv_freq_i = base ** (-2i / Dh)                 i = 0 .. Dh/2 - 1
    a' = a cos(p inv_freq_i) - b sin(p inv_freq_i)
    b' = a sin(p inv_freq_i) + b cos(p inv_freq_i)

For all pairs at once: y = x * cos + rotate_half(x) * sin, rotate_half(a, b) = (-b, a).

The gradient. A rotation is an orthogonal matrix R, so dx = R^T dy: the same turn backwards,
dx = dy * cos - rotate_half(dy) * sin. The tables are not trained.

Why float32: rounded to bfloat16, a frequency is up to 0.4 % off, and at position 2047 an angle is
wrong by up to 2.5 rad.

Paper:    Qwen Technical Report, 2.3.1 Architecture, "Positional embedding": RoPE, with inv_freq
          in float32 and not in bfloat16.
Origin:   Su et al. 2021, arXiv:2104.09864.
Differs:  the original pairs neighbours (2i, 2i + 1); Qwen's checkpoints need the half-split.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..backend import Array, DType, array_module, widen
from ..shapes import require_axes, require_float, require_same_shape, require_shape


class RopeCache(NamedTuple):
    cos: Array  # (T, Dh) or (B, T, Dh)
    sin: Array  # the same shape
    dtype: DType  # of x


def rope_inv_freq(head_dim: int, base: float = 10000.0, dtype: str = "float32") -> Array:
    """Return the Dh/2 frequencies, in radians per position, fastest first, on the host.

    Args:
        head_dim: Dh, even.
        base: `rope_theta` of the config; 10,000 in Qwen, 1,000,000 in Qwen2.
        dtype: "float32", or "float64" for a float64 model; never lower.

    Raises:
        ValueError: head_dim is odd, base is not above 0, or dtype is below float32.

    >>> rope_inv_freq(8).tolist() == [1.0, np.float32(0.1), np.float32(0.01), np.float32(0.001)]
    True
    """
    if head_dim <= 0 or head_dim % 2:
        raise ValueError(f"head_dim must be even, for pairs of features, got {head_dim}")
    if not base > 0:
        raise ValueError(f"base must be above 0, got {base}")
    if dtype not in ("float32", "float64"):
        raise ValueError(f"RoPE frequencies need float32 or float64, got {dtype}")
    exponent = np.arange(0, head_dim, 2, dtype=np.float64) / head_dim  # (Dh/2,)
    inv_freq: Array = (base**-exponent).astype(dtype)
    return inv_freq


def rope_tables(positions: Array, inv_freq: Array) -> tuple[Array, Array]:
    """Return cos and sin of position times frequency, in the precision of inv_freq.

    Args:
        positions: (T,) int, or (B, T) where every row counts for itself (left padding).
        inv_freq: (Dh/2,) float32 or float64, on the device of positions, or (B, 1, Dh/2) where
            every row has frequencies of its own.

    Returns:
        cos, sin: (T, Dh) or (B, T, Dh): the Dh/2 angles twice, one for each half.

    Raises:
        TypeError: positions are not integers, or inv_freq is below float32.

    >>> cos, sin = rope_tables(np.array([0, 1]), rope_inv_freq(2))
    >>> cos.tolist() == [[1.0, 1.0], [np.cos(np.float32(1))] * 2]
    True
    """
    xp = array_module(inv_freq)
    if positions.dtype.kind not in "iu":
        raise TypeError(f"positions must be integers, got dtype {positions.dtype}")
    if inv_freq.dtype not in (np.float32, np.float64):
        raise TypeError(f"inv_freq must be float32 or float64, got dtype {inv_freq.dtype}")

    angles = positions[..., None].astype(inv_freq.dtype) * inv_freq  # (..., T, Dh/2)
    angles = xp.concatenate((angles, angles), axis=-1)  # (..., T, Dh)
    return xp.cos(angles), xp.sin(angles)


def rope_forward(x: Array, cos: Array, sin: Array) -> tuple[Array, RopeCache]:
    """Turn every pair of features by the angle of its position.

    Args:
        x: (B, H, T, Dh) float, queries or keys.
        cos: (T, Dh) or (B, T, Dh) float32 or float64, from rope_tables.
        sin: the same shape.

    Returns:
        y: (B, H, T, Dh) in x.dtype; half precision is turned in float32.
        cache: for rope_backward.

    Raises:
        TypeError: an array is not floating point, or the tables are not of the dtype that x is
            turned in: float64 for float64, else float32.
        ValueError: a table does not fit x.

    >>> cos, sin = rope_tables(np.array([1]), rope_inv_freq(4))
    >>> rope_forward(np.array([[[[1.0, 2.0, 3.0, 4.0]]]], np.float32), cos, sin)[0].round(4)
    array([[[[-1.9841,  1.9599,  2.4624,  4.0198]]]], dtype=float32)
    """
    require_float(x=x)
    require_axes("x", x, "B H T Dh")
    require_same_shape(cos=cos, sin=sin)
    B, _, T, Dh = x.shape
    if cos.ndim == 2:
        require_shape("cos", cos, T=T, Dh=Dh)
    else:
        require_shape("cos", cos, B=B, T=T, Dh=Dh)
        cos, sin = cos[:, None], sin[:, None]  # (B, 1, T, Dh): the same for all heads
    require_float(x=widen(x), cos=cos, sin=sin)

    y: Array = widen(x) * cos + rotate_half(widen(x)) * sin
    return y.astype(x.dtype, copy=False), RopeCache(cos, sin, x.dtype)


def rope_backward(dy: Array, cache: RopeCache) -> Array:
    """Return dx, shaped like x, from dy: the rotation backwards. The tables get no gradient."""
    cos, sin, dtype = cache
    require_shape("dy", dy, B=dy.shape[0], H=dy.shape[1], T=cos.shape[-2], Dh=cos.shape[-1])
    dx: Array = widen(dy) * cos - rotate_half(widen(dy)) * sin
    return dx.astype(dtype, copy=False)


def rotate_half(x: Array) -> Array:
    """Turn each pair (feature i, feature i + Dh/2) by 90 degrees: (a, b) becomes (-b, a).

    >>> rotate_half(np.array([1.0, 2.0, 3.0, 4.0]))
    array([-3., -4.,  1.,  2.])
    """
    half = x.shape[-1] // 2
    turned: Array = array_module(x).concatenate((-x[..., half:], x[..., :half]), axis=-1)
    return turned
