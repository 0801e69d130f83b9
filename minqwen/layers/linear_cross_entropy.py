"""The model's head and the loss together, without ever holding all logits.

The logits are the largest array of a small model by far: 256 tokens of Qwen2's vocabulary are
156 MB, and their gradient the same again. But a loss needs one number of a row, lse, and a gradient
needs the logits of some columns only, one part of the vocabulary after the other:

    forward     for each part of the vocabulary: z = x w^T of the part; peak and sum go on as in
                flash_attention.py, sum' = sum * exp(peak - peak') + sum_v exp(z_v - peak')

The gradient. With weight = dloss / (tokens that count), the softmax of a column is exp(z - lse), so
each part of the vocabulary can be done alone once lse is known (cross_entropy.py and linear.py):

    backward    for each part again: z = x w^T, dz = weight * (exp(z - lse) - [v = label])
                dx += dz w of the part           dw of the part = dz^T x

What it costs: the logits are computed a second time on the way back, so there are four products
where there were three. As in flash attention, memory is bought with time.

Measured (256 tokens, D = 896, V = 151,936, one thread, forward and backward): 1.35 times the time
of linear.py and cross_entropy.py, 1.07 times that of torch's linear and cross_entropy, and 16 MiB
beside the results where ours take 297 MiB.

Paper:    Qwen Technical Report, 2.4 Training.
Origin:   Wijmans et al. 2024, arXiv:2411.09009.
Differs:  the same numbers as linear.py and cross_entropy.py one after the other, to rounding
          (tests/layers/test_linear_cross_entropy.py). Gradients too small to matter are computed
          like all others; the paper leaves them out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ..backend import Array, array_module, widen
from ..shapes import require_float, require_shape
from .cross_entropy_in_place import read_labels


class LinearCrossEntropyCache(NamedTuple):
    x: Array  # (..., D) the input itself
    w: Array  # (V, D)
    label: Array  # (N,) int; 0 where the token is not counted
    lse: Array  # (N,) log of the sum of exponentials, in at_least_float32
    counted: Array  # (N,) 1.0 where the token counts, else 0.0
    tokens: Array  # () how many count, at least 1
    block: int | None


def linear_cross_entropy_forward(
    x: Array,
    w: Array,
    labels: Array,
    loss_mask: Array | None = None,
    block: int | None = None,
) -> tuple[Array, LinearCrossEntropyCache]:
    """Average the surprise of the labels, whose logits are x w^T.

    Args:
        x: (..., D) float, hidden states; usually (B, T, D).
        w: (V, D) float, the head: `lm_head.weight`, or the embedding table when tied.
        labels: (...) int, the token that follows. IGNORED (-100) is not counted.
        loss_mask: (...) bool, True = counts; None counts every label that is not IGNORED.
        block: logits at a time, in whole columns: the extra memory. None: 2**21, or 2**26 on a
            GPU, where each step costs calls.

    Returns:
        loss: () in nats, in float32 or wider; 0 when no token counts.
        cache: for linear_cross_entropy_backward.

    Raises:
        TypeError: x or w is not floating point, or their dtypes differ; labels are not integers;
            loss_mask is not boolean.
        ValueError: a shape does not fit, or a counted label is not in [0, V).

    >>> x, w = np.ones((1, 1)), np.zeros((3, 1))
    >>> loss, cache = linear_cross_entropy_forward(x, w, np.array([0]), block=1)
    >>> float(loss.round(6)), float(np.log(3).round(6))
    (1.098612, 1.098612)
    """
    require_float(x=x, w=w)
    V, D = w.shape
    require_shape("w", w, V=V, D=x.shape[-1])
    xp = array_module(x)
    label, counted, tokens = read_labels(labels, loss_mask, x, V)
    rows = widen(x).reshape(-1, D)  # (N, D)

    peak = xp.full_like(counted, float(np.finfo(counted.dtype).min))  # (N,)
    total = xp.zeros_like(counted)
    for part in vocabulary_parts(rows, V, block):
        z = rows @ widen(w[part]).T  # (N, columns)
        new_peak = xp.maximum(peak, z.max(axis=-1))
        z -= new_peak[:, None]
        xp.exp(z, out=z)
        total = total * xp.exp(peak - new_peak) + z.sum(axis=-1)
        peak = new_peak
    lse = peak + xp.log(total + (total == 0))
    z_label = (rows * widen(w[label])).sum(axis=-1)  # (N,) each with the one row of its label
    surprise = xp.where(counted > 0, lse - z_label, 0)  # and not a product: 0 * inf would be NaN
    loss = surprise.sum() / tokens
    return loss, LinearCrossEntropyCache(x, w, label, lse, counted, tokens, block)


def linear_cross_entropy_backward(
    dloss: Array | float, cache: LinearCrossEntropyCache
) -> tuple[Array, Array]:
    """Return (dx, dw), shaped like x and w, from dloss, a number."""
    x, w, label, lse, counted, tokens, block = cache
    xp, (V, D) = array_module(x), w.shape
    rows = widen(x).reshape(-1, D)  # (N, D)
    weight = counted * (dloss / tokens).astype(lse.dtype)  # (N,)

    dx, dw = xp.zeros_like(rows), xp.empty(w.shape, dtype=rows.dtype)
    for part in vocabulary_parts(rows, V, block):
        w_part = widen(w[part])  # (columns, D)
        z = rows @ w_part.T  # (N, columns)
        z -= lse[:, None]
        dz = xp.exp(z, out=z)
        dz *= weight[:, None]
        here = (label >= part.start) & (label < part.start + len(w_part))  # whose label is here
        column = (label - part.start) * here
        dz[xp.arange(len(label)), column] -= weight * here
        dx += dz @ w_part
        xp.matmul(dz.T, rows, out=dw[part])
    return dx.reshape(x.shape).astype(x.dtype, copy=False), dw.astype(w.dtype, copy=False)


def vocabulary_parts(rows: Array, V: int, block: int | None) -> Iterator[slice]:
    """Yield slices of the V columns so that the logits of `rows` (N, D) are about `block` numbers.

    >>> list(vocabulary_parts(np.ones((2, 1)), 5, 4))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 6, None)]
    """
    if block is None:
        block = 2**21 if isinstance(rows, np.ndarray) else 2**26
    step = max(1, block // max(1, len(rows)))
    return (slice(start, start + step) for start in range(0, V, step))
