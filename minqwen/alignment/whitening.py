"""Whitening: advantages of mean 0 and variance 1 over the tokens of the answers of a batch.

    y = (x - mean) / sqrt(var + eps)      mean = sum_m x / M,  var = sum_m (x - mean)^2 / M

m runs over the M tokens of answers; padding stays 0 and is not counted. The update then has about
the same size whatever the scale of the rewards is.

    all x equal, or one token    x - mean is 0, so y = 0: nothing is better than anything else
    no token                     all zeros
    shift_mean = False           the mean is put back: y = (x - mean) / sqrt(var + eps) + mean, for
                                 rewards, whose sign has a meaning

Nothing is differentiated here: advantages are constants of the update.

Paper:    Qwen Technical Report, 3.2.2 Reinforcement Learning, which does not say if it whitens.
Origin:   Ziegler et al. 2019, arXiv:1909.08593, its code; Huang et al. 2024, arXiv:2403.17031.
Differs:  the variance is divided by M and not by M - 1, as in those; torch.var divides by M - 1.
"""

from __future__ import annotations

from ..backend import Array, array_module, widen
from ..shapes import require_axes, require_bool, require_float, require_same_shape

EPS = 1e-8


def whiten(x: Array, mask: Array, *, shift_mean: bool = True) -> Array:
    """Subtract the mean over the answers and divide by their standard deviation.

    Args:
        x: (B, T) float, advantages or rewards.
        mask: (B, T) bool, True = a token of the answer.
        shift_mean: False puts the mean back afterwards.

    Returns:
        (B, T) in the dtype of x; zeros outside the answers.

    Raises:
        TypeError: x is not floating point, or mask not boolean.
        ValueError: a shape does not fit.

    >>> import numpy as np
    >>> whiten(np.array([[1.0, 3.0, 99.0]]), np.array([[True, True, False]])).round(6)
    array([[-1.,  1.,  0.]])
    """
    xp = array_module(x)
    mask, (wide,) = answer_only(mask, x=x)
    tokens = xp.maximum(mask.sum(), 1).astype(wide.dtype)

    mean = wide.sum() / tokens
    centred = wide - mean
    # again, for what rounding left of equal numbers: eps is too small to hide it
    centred = centred - xp.where(mask, centred, 0).sum() / tokens
    var = xp.where(mask, centred * centred, 0).sum() / tokens
    y = centred / xp.sqrt(var + EPS)
    if not shift_mean:
        y = y + mean
    whitened: Array = xp.where(mask, y, 0).astype(x.dtype, copy=False)
    return whitened


def answer_only(mask: Array, **arrays: Array) -> tuple[Array, tuple[Array, ...]]:
    """Check arrays that belong to the tokens of answers, and put zeros where there is padding.

    After that a sum over all places is a sum over the answers, whatever stood in the padding.

    Args:
        mask: (B, T) bool, True = a token of the answer; it may be on the host.
        arrays: (B, T) float by name, of one dtype.

    Returns:
        mask: beside the arrays.
        arrays: in at_least_float32, in the order given.

    >>> import numpy as np
    >>> answer_only(np.array([[True, False]]), x=np.array([[1.0, np.nan]]))
    (array([[ True, False]]), (array([[1., 0.]]),))
    """
    first = next(iter(arrays))
    require_axes(first, arrays[first], "B T")
    require_float(**arrays)
    require_bool("mask", mask, "True = a token of the answer")
    require_same_shape(**arrays, mask=mask)
    xp = array_module(arrays[first])
    mask = xp.asarray(mask)
    return mask, tuple(xp.where(mask, widen(x), 0) for x in arrays.values())
