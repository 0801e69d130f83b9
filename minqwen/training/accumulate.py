"""Gradient accumulation: a batch too large for memory is cut into pieces, with the same result.

    loss  = sum_i share_i * loss_i              loss_i = mean over the counted tokens of piece i
    grads = sum_i d(share_i * loss_i) / d params

    share_i = n_i / n                           n_i = counted tokens of piece i, n = sum_i n_i

The derivation. With nll_t = -log p(token t), the loss of the whole batch is one mean over all
tokens that count, in whichever piece they are:

    loss = 1/n * sum_t nll_t
         = 1/n * sum_i (sum of nll_t over piece i)
         = 1/n * sum_i n_i * loss_i                    as loss_i is that sum divided by n_i
         = sum_i share_i * loss_i

and the gradient of a sum is the sum of the gradients. The backward pass of a piece starts from
dloss_i = share_i instead of 1; what it returns only has to be added.

The mistake to avoid is the mean of the pieces' means, share_i = 1 / pieces. It is right only when
all pieces count equally many tokens; otherwise a token weighs more where few others count.

Paper:    Qwen Technical Report, 2.4 Training: batches of 4M tokens. How they were cut is not
          published.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..backend import Array, array_module
from ..layers.cross_entropy import IGNORED, cross_entropy_backward, cross_entropy_forward
from ..model.config import QwenConfig
from ..model.language_model import language_model_backward, language_model_forward
from ..params import Params


class Batch(NamedTuple):
    input_ids: Array  # (B, T) int, on the host
    labels: Array  # (B, T) int, the token after each input; IGNORED (-100) does not count
    loss_mask: Array | None = None  # (B, T) bool, True = counts; None = all


def as_batch(rows: Array) -> Batch:
    """Split rows (B, T + 1) into inputs and the tokens that follow them.

    >>> as_batch(np.array([[1, 2, 3]]))[:2]
    (array([[1, 2]]), array([[2, 3]]))
    """
    return Batch(rows[:, :-1], rows[:, 1:])


def count_tokens(batch: Batch) -> int:
    """Count the tokens that the loss averages over.

    >>> count_tokens(Batch(np.array([[1, 2]]), np.array([[2, -100]])))
    1
    """
    counts = batch.labels != IGNORED
    return int((counts if batch.loss_mask is None else counts & batch.loss_mask).sum())


def loss_and_grads(
    params: Params, config: QwenConfig, micro_batches: Sequence[Batch], seed: Sequence[int] = ()
) -> tuple[float, Params, int]:
    """Return what one batch with the tokens of all micro-batches would give.

    Args:
        params: of the model.
        config: of the model; its dropout acts.
        micro_batches: pieces of a batch, with any numbers of rows and of counted tokens.
        seed: of the dropout; each piece draws its own numbers.

    Returns:
        loss: mean over all counted tokens, in nats.
        grads: its gradient, with the keys of params.
        tokens: how many counted.

    Raises:
        ValueError: no token counts.
    """
    counts = [count_tokens(batch) for batch in micro_batches]
    tokens = sum(counts)
    if tokens == 0:
        raise ValueError("the batch has no token that counts in the loss")

    loss: Any = 0.0
    grads: Params = {}
    for i, (batch, n) in enumerate(zip(micro_batches, counts, strict=True)):
        if n == 0:
            continue
        rng = np.random.default_rng([*seed, i])
        piece_loss, piece_grads = _piece(params, config, batch, n / tokens, rng)
        loss = loss + piece_loss
        for key, grad in piece_grads.items():
            if key in grads:
                grads[key] += grad
            else:
                grads[key] = grad
    return float(loss), grads, tokens


def _piece(
    params: Params, config: QwenConfig, batch: Batch, share: float, rng: np.random.Generator
) -> tuple[Array, Params]:
    """Return share * loss of a piece, still on the device, and the gradient of that.

    A function of its own, so that all activations are freed before the next piece begins.
    """
    logits, cache = language_model_forward(params, config, batch.input_ids, training=True, rng=rng)
    loss, loss_cache = cross_entropy_forward(logits, *_on_device(batch, logits))
    dlogits = cross_entropy_backward(share, loss_cache)
    return loss * share, language_model_backward(dlogits, cache)


def evaluate(params: Params, config: QwenConfig, rows: Array, batch_size: int) -> float:
    """Return the mean loss over the rows, without dropout: pieces again, but no gradients.

    Args:
        params: of the model.
        config: of the model.
        rows: (n, T + 1) int; every token counts.
        batch_size: rows in a piece; the result does not depend on it.
    """
    loss = 0.0
    for start in range(0, len(rows), batch_size):
        batch = as_batch(rows[start : start + batch_size])
        logits = language_model_forward(params, config, batch.input_ids)[0]
        piece_loss, _ = cross_entropy_forward(logits, *_on_device(batch, logits))
        loss += float(piece_loss) * (len(batch.labels) / len(rows))
    return loss


def _on_device(batch: Batch, like: Array) -> tuple[Array, Array | None]:
    xp = array_module(like)
    mask = batch.loss_mask
    return xp.asarray(batch.labels), None if mask is None else xp.asarray(mask)
