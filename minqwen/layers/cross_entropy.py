"""Next-token cross-entropy, a few tokens at a time.

    loss = mean over the counted tokens n of  (lse_n - z_n[label_n])
    lse_n = log sum_v exp(z_nv)

lse is computed with the largest logit of the row, `peak`, taken out, so nothing overflows. Each row
stands for itself, so they are worked on in blocks that stay in the processor's cache, and no second
array as large as the logits is made.

The gradient. With p = softmax(z) = exp(z - lse), c_n = 1 for a counted token, else 0, and M the
number of counted tokens:

    d lse / dz_v = p_v       so       dz_nv = dloss * c_n / M * (p_nv - [v = label_n])

Paper:    Qwen Technical Report, 2.4 Training: autoregressive language modelling, the next
          token from the ones before it.
Origin:   Shannon 1948.
Differs:  labels are the next tokens already: nothing is shifted in here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ..backend import Array, array_module, at_least_float32, widen
from ..shapes import require_bool, require_float, require_ids, require_same_shape

IGNORED = -100  # a label with this value is not counted, as in PyTorch and Hugging Face


class CrossEntropyCache(NamedTuple):
    logits: Array  # (N, V) a view of the argument: do not overwrite it before the backward pass
    labels: Array  # (N,) int; 0 where the token is not counted
    lse: Array  # (N,) log of the sum of exponentials, in at_least_float32
    counted: Array  # (N,) 1.0 where the token counts, else 0.0
    tokens: Array  # () how many count, at least 1
    shape: tuple[int, ...]  # of the argument
    block: int | None


def cross_entropy_forward(
    logits: Array, labels: Array, loss_mask: Array | None = None, block: int | None = None
) -> tuple[Array, CrossEntropyCache]:
    """Average the surprise -log p(label) over the counted tokens.

    Args:
        logits: (..., V) float, unnormalised log-probabilities; usually (B, T, V).
        labels: (...) int, the token that follows. IGNORED (-100) is not counted.
        loss_mask: (...) bool, True = counts; None counts every label that is not IGNORED.
        block: numbers per step, in whole rows: the extra memory. None: 2**16, which stay in the
            cache of a CPU, or 2**26 on a GPU, where each step costs calls.

    Returns:
        loss: () in nats, in float32 or wider; 0 when no token counts.
        cache: for cross_entropy_backward.

    Raises:
        TypeError: logits are not floating point, labels not integers, or loss_mask not boolean.
        ValueError: a shape does not fit, or a counted label is not in [0, V).

    >>> loss, cache = cross_entropy_forward(np.zeros((2, 3)), np.array([0, 2]))
    >>> float(loss.round(6)), float(np.log(3).round(6))
    (1.098612, 1.098612)
    """
    require_float(logits=logits)
    if labels.shape != logits.shape[:-1]:
        raise ValueError(f"labels must have shape {logits.shape[:-1]}, got {labels.shape}")
    xp = array_module(logits)
    V = logits.shape[-1]
    z, counts = logits.reshape(-1, V), labels.reshape(-1) != IGNORED  # (N, V), (N,)
    if loss_mask is not None:
        require_bool("loss_mask", loss_mask, "True = counts")
        require_same_shape(loss_mask=loss_mask, labels=labels)
        counts = counts & loss_mask.reshape(-1)
    label = labels.reshape(-1) * counts
    require_ids("labels", label, V, "V")
    label, counted = xp.asarray(label), xp.asarray(counts).astype(at_least_float32(z))

    lowest = float(np.finfo(counted.dtype).min)  # stands in for the peak of a row of -inf
    lse = xp.empty_like(counted)  # (N,)
    for rows in row_blocks(z, block):
        part = widen(z[rows])  # (rows, V)
        peak = xp.maximum(part.max(axis=-1), lowest)
        part = part - peak[:, None]
        total = xp.exp(part, out=part).sum(axis=-1)
        lse[rows] = peak + xp.log(total + (total == 0))
    tokens = xp.maximum(counted.sum(), 1)
    z_label = widen(z[xp.arange(len(label)), label])
    surprise = xp.where(counted > 0, lse - z_label, 0)  # and not a product: 0 * inf would be NaN
    loss = surprise.sum() / tokens
    return loss, CrossEntropyCache(z, label, lse, counted, tokens, logits.shape, block)


def cross_entropy_backward(dloss: Array | float, cache: CrossEntropyCache) -> Array:
    """Return dlogits, shaped like logits: (p - one_hot(label)) * dloss / tokens.

    A token that is not counted gets zeros.
    """
    z, label, lse, counted, tokens, shape, block = cache
    xp = array_module(z)
    weight = counted * (dloss / tokens).astype(lse.dtype)  # (N,)

    dz = xp.empty_like(z)
    for rows in row_blocks(z, block):
        part = widen(z[rows]) - lse[rows, None]  # (rows, V)
        xp.exp(part, out=part)
        part *= weight[rows, None]
        dz[rows] = part
    dz[xp.arange(len(label)), label] -= weight.astype(dz.dtype)
    dlogits: Array = dz.reshape(shape)
    return dlogits


def row_blocks(z: Array, block: int | None) -> Iterator[slice]:
    """Yield slices of the rows of z (N, V) that hold about `block` numbers, one row at least."""
    if block is None:
        block = 2**16 if isinstance(z, np.ndarray) else 2**26
    step = max(1, block // max(1, z.shape[1]))
    return (slice(start, start + step) for start in range(0, z.shape[0], step))
