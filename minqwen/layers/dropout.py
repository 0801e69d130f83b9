"""Inverted dropout: in training a part of the numbers is zero, and the rest makes up for it.

    y_i = x_i * m_i / (1 - rate)        m_i = 0 with probability `rate`, else 1

so that y has the mean of x and nothing need be done at inference. The gradient goes the way the
number went: dx_i = dy_i * m_i / (1 - rate).

Paper:    Qwen Technical Report, 3.1.2 Training: rate 0.1 in supervised fine-tuning; none in
          pretraining.
Origin:   Srivastava et al. 2014.
Differs:  nothing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ..backend import Array, uniform
from ..shapes import require_float, require_same_shape


class DropoutCache(NamedTuple):
    factor: Array | None  # (...) 0 or 1 / (1 - rate), in x.dtype; None when nothing was dropped


def dropout_forward(x: Array, rate: float, rng: Any = None) -> tuple[Array, DropoutCache]:
    """Set a random part of x to zero and scale the rest up.

    Args:
        x: (...) float.
        rate: probability that a number is dropped, in [0, 1). At 0, x comes back as it is.
        rng: np.random.Generator. It draws on the host also for CuPy arrays, so that a run with
            the same seed drops the same numbers on both; a CuPy generator works as well.

    Returns:
        y: (...) in x.dtype.
        cache: for dropout_backward.

    Raises:
        TypeError: x is not floating point.
        ValueError: rate is not in [0, 1), or rng is missing while rate > 0.

    >>> import numpy as np
    >>> y, cache = dropout_forward(np.ones(1000), 0.5, np.random.default_rng(0))
    >>> np.unique(y), bool(abs(y.mean() - 1) < 0.1)
    (array([0., 2.]), True)
    """
    require_float(x=x)
    if not 0 <= rate < 1:
        raise ValueError(f"rate must be in [0, 1), got {rate}")
    if rate == 0:
        return x, DropoutCache(None)
    if rng is None:
        raise ValueError("dropout needs rng, a np.random.Generator, when rate > 0")

    keep = uniform(x.shape, x, rng) >= rate
    factor = keep.astype(x.dtype) * (1 / (1 - rate))
    factor = factor.astype(x.dtype, copy=False)  # bfloat16 times a float is float32
    return x * factor, DropoutCache(factor)


def dropout_backward(dy: Array, cache: DropoutCache) -> Array:
    """Return dx, shaped like x: zero where the number was dropped, else scaled like it."""
    if cache.factor is None:
        return dy
    require_same_shape(dy=dy, x=cache.factor)
    dx: Array = dy * cache.factor
    return dx
