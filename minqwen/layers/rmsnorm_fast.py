"""RMSNorm in fewer walks over memory: rmsnorm.py's numbers, which is what the model runs.

A norm does almost no arithmetic, so its time is that of reading and writing. Written as in
rmsnorm.py, every `*` makes a new array of the size of x. Here

    the array of the squares becomes y, into which the factors are multiplied in place;
    the way back needs dy * x_hat twice: its column sums are dw, and as g * x_hat = w * dy * x_hat,
    its product with w are the sums over i that dx wants.

Measured (2048 rows of 896, one thread, both ways): 0.8 times the time of rmsnorm.py, and 0.64
times that of transformers' module.

Paper:    Qwen Technical Report, 2.3.1 Architecture, "Pre-Norm & RMSNorm".
Origin:   Zhang and Sennrich 2019, arXiv:1910.07467.
Differs:  y is that of rmsnorm.py to the last bit, the gradients are its to rounding
          (tests/layers/test_rmsnorm_fast.py).
"""

from __future__ import annotations

from ..backend import Array, array_module, column_sums, widen
from ..shapes import require_float, require_same_shape, require_shape
from .rmsnorm import RMSNormCache


def fast_rmsnorm_forward(x: Array, w: Array, eps: float = 1e-6) -> tuple[Array, RMSNormCache]:
    """Scale each vector of x to root mean square 1, then multiply by the gain w.

    Arguments, results and errors are those of rmsnorm_forward.

    >>> import numpy as np
    >>> y, cache = fast_rmsnorm_forward(np.array([[3.0, 4.0]]), np.ones(2), eps=0.0)
    >>> y.round(4)
    array([[0.8485, 1.1314]])
    """
    xp = array_module(x)
    require_float(x=x, w=w)
    require_shape("w", w, D=x.shape[-1])

    x_wide = widen(x)
    y = x_wide * x_wide  # (..., D), so far the squares
    inv_rms = 1.0 / xp.sqrt(y.mean(axis=-1, keepdims=True) + eps)  # (..., 1)
    xp.multiply(x_wide, inv_rms, out=y)
    y *= widen(w)
    return y.astype(x.dtype, copy=False), RMSNormCache(x, w, inv_rms)


def fast_rmsnorm_backward(dy: Array, cache: RMSNormCache) -> tuple[Array, Array]:
    """Return (dx, dw), shaped like x and w, from the gradient dy, shaped like y.

    With x_hat = x / rms(x) and g = dy * w, as in rmsnorm_backward:

        dw = sum over the batch axes of dy * x_hat
        dx = (g - x_hat * mean_i(g_i * x_hat_i)) / rms(x)
    """
    x, w, inv_rms = cache
    require_same_shape(dy=dy, x=x)
    D = x.shape[-1]

    dy, w_wide, x_hat = widen(dy), widen(w), widen(x) * inv_rms  # x_hat: (..., D)
    share = dy * x_hat  # (..., D)
    dw = column_sums(share)  # (D,)
    mean = (share @ w_wide)[..., None] / D  # (..., 1), of g * x_hat
    dx = array_module(dy).multiply(dy, w_wide, out=share)  # g
    x_hat *= mean
    dx -= x_hat
    dx *= inv_rms
    return dx.astype(x.dtype, copy=False), dw.astype(w.dtype, copy=False)
