"""Perplexity of one model at one length, on the same tokens at every length.

    perplexity = exp(mean over the scored tokens of -log p(token | the text before it))

A stream of held-out text is cut into texts of T tokens, and every position of every text is scored.
So all lengths score the same tokens; what differs is how much stands before a token: with T twice
as long, most tokens see more, and only those at a cut see nothing. That is the perplexity of the
report's Table 3.

The mean of each stretch of the stream is kept too. Two techniques, or two lengths, are compared
stretch by stretch: hard text is hard for both, so the difference is known far better than either.
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


def token_losses(params: Params, config: QwenConfig, stream: Array, length: int) -> Array:
    """Return -log p of every token of the stream but the first, in texts of `length` tokens.

    Args:
        params: of the model.
        config: of the model, with the technique to be measured.
        stream: (n * length + 1,) int, on the host.
        length: T, tokens that the model reads at once.

    Returns:
        (n, T) float64 on the host, in nats.

    Raises:
        ValueError: the stream is not a whole number of texts and one token more.
    """
    n, rest = divmod(len(stream) - 1, length)
    if n < 1 or rest:
        raise ValueError(
            f"stream must have n * length + 1 tokens with length={length}, got {len(stream)}"
        )
    texts, labels = stream[:-1].reshape(n, length), stream[1:].reshape(n, length)
    rows, losses = max(1, BATCH_TOKENS // length), []
    for i in range(0, n, rows):
        logits, _ = language_model_forward(params, config, texts[i : i + rows])
        losses.append(to_numpy(_losses(logits, labels[i : i + rows])))
    return np.concatenate(losses)


def _losses(logits: Array, labels: Array) -> Array:
    """Return log sum_v exp(logit_v) - logit_label for (B, T, V) logits and (B, T) labels."""
    xp = array_module(logits)
    wide = widen(logits)
    wide = wide - wide.max(axis=-1, keepdims=True)
    total = xp.log(xp.exp(wide).sum(axis=-1))  # (B, T)
    chosen = xp.take_along_axis(wide, xp.asarray(labels)[..., None].astype(xp.int64), axis=-1)
    losses: Array = (total - chosen[..., 0]).astype(xp.float64)
    return losses


def measure(
    params: Params, config: QwenConfig, stream: Array, length: int, stretch: int, buckets: int
) -> dict[str, Any]:
    """Return one cell of the table, as JSON holds it.

    Args:
        params: of the model.
        config: with the technique.
        stream: (n * length + 1,) int.
        length: T.
        stretch: tokens in a stretch, a multiple of length: the unit of the errors.
        buckets: into how many parts the positions of a text are cut, a divisor of length.

    Returns:
        nll: mean over all tokens, in nats.
        perplexity: exp of it.
        stretches: the mean of each stretch.
        by_position: the mean of each part of the positions, the first tokens of texts first.
        seconds: that it took.

    Raises:
        FloatingPointError: a loss is NaN or infinite.
    """
    start = time.perf_counter()
    losses = token_losses(params, config, stream, length)
    nll = float(losses.mean())
    if not math.isfinite(nll):
        raise FloatingPointError(f"the loss at length {length} is {nll}")
    parts = losses.reshape(len(losses), buckets, length // buckets)
    return {
        "nll": nll,
        "perplexity": math.exp(nll),
        "stretches": losses.reshape(-1, stretch).mean(axis=1).tolist(),
        "by_position": parts.mean(axis=(0, 2)).tolist(),
        "seconds": time.perf_counter() - start,
    }


def difference(one: dict[str, Any], other: dict[str, Any]) -> tuple[float, float]:
    """Return the mean of `one` minus `other` over the stretches, in nats, and its standard error.

    >>> cell, higher = {"stretches": [1.0, 3.0]}, {"stretches": [1.5, 3.5]}
    >>> difference(higher, cell)  # each stretch by 0.5, so nothing is uncertain
    (0.5, 0.0)
    """
    gaps = np.array(one["stretches"]) - np.array(other["stretches"])
    return float(gaps.mean()), float(gaps.std(ddof=1) / math.sqrt(len(gaps)))
