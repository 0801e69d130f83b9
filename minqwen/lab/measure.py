"""Perplexity of one model at one length, on the same tokens at every length.

    perplexity = exp(mean over the scored tokens of -log p(token | the text before it))

The longest texts are each cut into texts of T tokens, and every position of every piece is scored.
So all lengths score the same tokens; what differs is how much stands before a token: with T twice
as long, most tokens see more, and only those at a cut see nothing. That is the perplexity of the
report's Table 3.

The mean of each of the longest texts is kept too. Two techniques, or two lengths, are compared text
by text: a hard one is hard for both, so the difference is known far better than either.
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np

from ..backend import Array, array_module, to_numpy, widen
from ..model.config import QwenConfig
from ..model.language_model import language_model_forward
from ..params import Params

BATCH_TOKENS = 4096  # in one forward pass: memory stays small


def token_losses(params: Params, config: QwenConfig, texts: Array, length: int) -> Array:
    """Return -log p of every token of the texts but the first, read in pieces of `length` tokens.

    Args:
        params: of the model.
        config: of the model, with the technique to be measured.
        texts: (n, C + 1) int, on the host.
        length: T, tokens that the model reads at once; a divisor of C.

    Returns:
        (n, C / T, T) float64 on the host, in nats.

    Raises:
        ValueError: length does not divide C.
    """
    n, C = texts.shape[0], texts.shape[1] - 1
    if length < 1 or C % length:
        raise ValueError(f"length must divide the {C} tokens of a text, got {length}")
    inputs, labels = (part.reshape(-1, length) for part in (texts[:, :-1], texts[:, 1:]))
    rows, losses = max(1, BATCH_TOKENS // length), []
    for i in range(0, len(inputs), rows):
        logits, _ = language_model_forward(params, config, inputs[i : i + rows])
        losses.append(to_numpy(losses_of(logits, labels[i : i + rows])))
    return np.concatenate(losses).reshape(n, -1, length)


def losses_of(logits: Array, labels: Array) -> Array:
    """Return log sum_v exp(logit_v) - logit_label for (B, T, V) logits and (B, T) labels."""
    xp = array_module(logits)
    wide = widen(logits)
    wide = wide - wide.max(axis=-1, keepdims=True)
    total = xp.log(xp.exp(wide).sum(axis=-1))  # (B, T)
    chosen = xp.take_along_axis(wide, xp.asarray(labels)[..., None].astype(xp.int64), axis=-1)
    losses: Array = (total - chosen[..., 0]).astype(xp.float64)
    return losses


def measure(
    params: Params, config: QwenConfig, texts: Array, length: int, buckets: int
) -> dict[str, Any]:
    """Return one cell of the table, as JSON holds it.

    Args:
        params: of the model.
        config: with the technique.
        texts: (n, C + 1) int.
        length: T, a divisor of C.
        buckets: into how many parts the positions of a piece are cut, a divisor of length.

    Returns:
        nll: mean over all tokens, in nats.
        perplexity: exp of it.
        by_text: the mean of each text.
        by_position: the mean of each part of the positions, the first tokens of pieces first.
        seconds: that it took.

    Raises:
        FloatingPointError: a loss is NaN or infinite.
    """
    start = time.perf_counter()
    losses = token_losses(params, config, texts, length)
    nll = float(losses.mean())
    if not math.isfinite(nll):
        raise FloatingPointError(f"the loss at length {length} is {nll}")
    parts = losses.reshape(-1, buckets, length // buckets)
    return {
        "nll": nll,
        "perplexity": math.exp(nll),
        "by_text": losses.mean(axis=(1, 2)).tolist(),
        "by_position": parts.mean(axis=(0, 2)).tolist(),
        "seconds": time.perf_counter() - start,
    }


def difference(one: dict[str, Any], other: dict[str, Any]) -> tuple[float, float]:
    """Return the mean of `one` minus `other` over the texts, in nats, and its standard error.

    >>> cell, higher = {"by_text": [1.0, 3.0]}, {"by_text": [1.5, 3.5]}
    >>> difference(higher, cell)  # each text by 0.5, so nothing is uncertain
    (0.5, 0.0)
    """
    gaps = np.array(one["by_text"]) - np.array(other["by_text"])
    return float(gaps.mean()), float(gaps.std(ddof=1) / math.sqrt(len(gaps)))
