"""Root-mean-square normalisation (RMSNorm).

    y = w * x / rms(x)        rms(x) = sqrt(mean_i x_i**2 + eps)

The gradient. Write r = 1 / rms(x), x_hat = r * x and g = dy * w, the gradient with respect to
x_hat. Every x_i acts twice, directly and through r:

    dr / dx_i = -r**3 * x_i / D
    dx_i = r * g_i + (sum_j g_j * x_j) * dr / dx_i
         = r * (g_i - x_hat_i * mean_j(g_j * x_hat_j))

Paper:    Qwen Technical Report, 2.3.1 Architecture, "Pre-Norm & RMSNorm".
Origin:   Zhang and Sennrich 2019, arXiv:1910.07467.
Differs:  float16 and bfloat16 input is multiplied by w before the cast back, the Hugging Face code
          multiplies after it; float32 and float64 involve no cast.
"""

from __future__ import annotations

from typing import NamedTuple

from ..backend import Array, array_module, column_sums, widen
from ..shapes import require_float, require_same_shape, require_shape


class RMSNormCache(NamedTuple):
    x: Array  # (..., D) the input itself: do not overwrite it before the backward pass
    w: Array  # (D,)
    inv_rms: Array  # (..., 1) one number per vector, from which x_hat is cheap to redo


def rmsnorm_forward(x: Array, w: Array, eps: float = 1e-6) -> tuple[Array, RMSNormCache]:
    """Scale each vector of x to root mean square 1, then multiply by the gain w.

    Args:
        x: (..., D) float, activations; all leading axes are batch axes.
        w: (D,) float, gain; `input_layernorm.weight` and its siblings in a checkpoint.
        eps: added to the mean square, so in units of x squared. Qwen uses 1e-6.

    Returns:
        y: (..., D) in x.dtype; sums are taken in float32 or wider.
        cache: for rmsnorm_backward.

    Raises:
        TypeError: x or w is not floating point, or their dtypes differ.
        ValueError: w is not (D,).

    >>> import numpy as np
    >>> y, cache = rmsnorm_forward(np.array([[3.0, 4.0]]), np.ones(2), eps=0.0)
    >>> y.round(4), float((y**2).mean().round(4))
    (array([[0.8485, 1.1314]]), 1.0)
    """
    xp = array_module(x)
    require_float(x=x, w=w)
    require_shape("w", w, D=x.shape[-1])

    x_wide = widen(x)
    inv_rms = 1.0 / xp.sqrt((x_wide * x_wide).mean(axis=-1, keepdims=True) + eps)  # (..., 1)
    y = (x_wide * inv_rms) * widen(w)  # (..., D)
    return y.astype(x.dtype, copy=False), RMSNormCache(x, w, inv_rms)


def rmsnorm_backward(dy: Array, cache: RMSNormCache) -> tuple[Array, Array]:
    """Return (dx, dw), shaped like x and w, from the gradient dy, shaped like y.

    With x_hat = x / rms(x) and g = dy * w:

        dw = sum over the batch axes of dy * x_hat
        dx = (g - x_hat * mean_i(g_i * x_hat_i)) / rms(x)
    """
    x, w, inv_rms = cache
    require_same_shape(dy=dy, x=x)

    dy, x_hat = widen(dy), widen(x) * inv_rms  # (..., D)
    dw = column_sums(dy * x_hat)  # (D,)
    g = dy * widen(w)  # (..., D)
    dx = (g - x_hat * (g * x_hat).mean(axis=-1, keepdims=True)) * inv_rms  # (..., D)
    return dx.astype(x.dtype, copy=False), dw.astype(w.dtype, copy=False)
