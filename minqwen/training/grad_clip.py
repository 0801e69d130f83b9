"""Gradient clipping: shorten the whole gradient when it is too long.

    norm = sqrt(sum over all tensors and elements of g**2)
    g    = g * min(1, max_norm / (norm + 1e-6))

All tensors together are one vector, and they get one factor, so its direction stays. A factor
per tensor would turn the step away from the gradient.

Paper:    Qwen Technical Report, 3.1.2 Training: in fine-tuning, gradients are clipped at 1.0. For
          pretraining the report gives no value; the authors' memo says 1.0 too.
Origin:   Pascanu, Mikolov and Bengio 2013, arXiv:1211.5063.
Differs:  the 1e-6 is PyTorch's. The norm is summed in float64, so that it neither overflows nor
          depends on the number of tensors; a norm that is not finite is an error.
"""

from __future__ import annotations

import math

from ..backend import Array, array_module
from ..params import Params, name_list
from .blocks import flat_blocks


def clip_grad_norm(
    grads: Params, max_norm: float, *, in_place: bool = False
) -> tuple[Params, float]:
    """Scale all gradients by one factor, so that their common norm is at most max_norm.

    Args:
        grads: flat dict of float arrays; left as they are unless in_place.
        max_norm: the longest norm to let through; math.inf only measures.
        in_place: overwrite the arrays, for a caller who made them and wants no copies.

    Returns:
        grads: scaled; the same arrays when nothing had to be scaled.
        norm: of the gradients as they came, which is the number worth logging.

    Raises:
        FloatingPointError: the norm is not finite; the message names the gradients to blame.
        ValueError: max_norm is not positive.

    >>> import numpy as np
    >>> grads, norm = clip_grad_norm({"w": np.array([[3.0, 4.0]]), "b": np.array([12.0])}, 1.0)
    >>> norm, {key: g.round(4).tolist() for key, g in grads.items()}
    (13.0, {'w': [[0.2308, 0.3077]], 'b': [0.9231]})
    """
    if not max_norm > 0:
        raise ValueError(f"max_norm must be positive, got {max_norm}")

    norm = math.sqrt(float(sum(_sum_of_squares(g) for g in grads.values())))  # the one GPU sync
    if not math.isfinite(norm):
        _raise_not_finite(grads)
    scale = min(1.0, float(max_norm) / (norm + 1e-6))  # of type float: float32 stays float32
    if scale < 1.0 and in_place:
        for g in grads.values():
            g *= scale
    elif scale < 1.0:
        grads = {key: g * scale for key, g in grads.items()}
    return grads, norm


def _sum_of_squares(g: Array) -> Array | float:
    """Return the sum in float64, still on the device of g."""
    total: Array | float = 0.0
    for (piece,) in flat_blocks(g):
        wide = piece.astype("float64")
        total = total + wide @ wide
    return total


def _raise_not_finite(grads: Params) -> None:
    bad = [key for key, g in grads.items() if not bool(array_module(g).isfinite(g).all())]
    if bad:
        raise FloatingPointError(f"gradients with NaN or infinity: {name_list(bad)}")
    raise FloatingPointError("the gradients are finite, but the sum of their squares is not")
