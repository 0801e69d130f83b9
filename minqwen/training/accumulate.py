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

A mixture of experts has losses on its routers too (model/router_loss.py), and the balance loss is
no mean over tokens: it multiplies two means. Each piece is balanced by itself, with the same share;
so here the pieces do not add up to the batch, but nearly. (transformers 5.24 adds the balance loss
of every piece in full: four pieces balance four times as hard.)

Paper:    Qwen Technical Report, 2.4 Training: batches of 4M tokens. How they were cut is not
          published.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ..backend import Array, array_module
from ..data.packing import document_segments
from ..layers.cross_entropy import IGNORED, cross_entropy_forward
from ..layers.cross_entropy_in_place import cross_entropy_in_place
from ..model.chunked_head import chunked_head_backward, chunked_head_forward
from ..model.config import QwenConfig
from ..model.language_model import (
    language_model_backward,
    language_model_forward,
    router_caches,
)
from ..model.moe_fields import sparse_layers
from ..model.router_loss import expert_counts, router_loss_backward, router_loss_forward
from ..params import Params, add_into
from .in_order import in_order
from .loss_scaling import unscale


class Batch(NamedTuple):
    input_ids: Array  # (B, T) int, on the host
    labels: Array  # (B, T) int, the token after each input; IGNORED (-100) does not count
    loss_mask: Array | None = None  # (B, T) bool, True = counts; None = all
    real: Array | None = None  # (B, T) bool, False = padding, which no token sees; None = none
    segments: Array | None = None  # (B, T) int, which text a token belongs to; None = one a row


def as_batch(rows: Array, separator_id: int | None = None) -> Batch:
    """Split rows (B, T + 1) into inputs and the tokens that follow them.

    Args:
        rows: of pack_documents.
        separator_id: keeps the documents of a row apart: none sees another, and no separator is
            asked what comes after it, as nothing says which document does. None: a row is one text.

    >>> as_batch(np.array([[1, 2, 3]]))[:2]
    (array([[1, 2]]), array([[2, 3]]))
    >>> as_batch(np.array([[1, 0, 3]]), separator_id=0).labels
    array([[   0, -100]])
    """
    inputs, labels = rows[:, :-1], rows[:, 1:]
    if separator_id is None:
        return Batch(inputs, labels)
    labels = np.where(inputs == separator_id, IGNORED, labels)
    return Batch(inputs, labels, segments=document_segments(inputs, separator_id))


def count_tokens(batch: Batch) -> int:
    """Count the tokens that the loss averages over.

    >>> count_tokens(Batch(np.array([[1, 2]]), np.array([[2, -100]])))
    1
    """
    counts = batch.labels != IGNORED
    return int((counts if batch.loss_mask is None else counts & batch.loss_mask).sum())


class LossAndGrads(NamedTuple):
    loss: float  # mean over all counted tokens, in nats, without the losses on the routers
    grads: Params  # of all losses, with the keys of params
    tokens: int  # how many counted
    aux_loss: float | None = None  # balance loss, K when the experts are used evenly; None = dense
    max_load: float | None = None  # the busiest expert's share over an even share; None = dense


def loss_and_grads(
    params: Params,
    config: QwenConfig,
    micro_batches: Sequence[Batch],
    seed: Sequence[int] = (),
    *,
    z_loss_coef: float = 0.0,
    pool_router_layers: bool = False,
    threads: int = 1,
    loss_scale: float = 1.0,
    chunked_head: bool = False,
) -> LossAndGrads:
    """Return what one batch with the tokens of all micro-batches would give.

    Args:
        params: of the model; of 16 bits, see mixed_precision.py, they still give gradients of 32.
        config: of the model; its dropout acts.
        micro_batches: pieces of a batch, with any numbers of rows and of counted tokens.
        seed: of the dropout; each piece draws its own numbers.
        z_loss_coef: of the z-loss on the routers.
        pool_router_layers: balance the experts of all layers together, see router_loss.py.
        threads: pieces at work at the same time; changes no bit of the result, see in_order.
        loss_scale: on each way back, and taken out of its gradient again; see loss_scaling.py.
        chunked_head: hold no array of all logits, see model/chunked_head.py: slower, less memory.

    Raises:
        ValueError: no token counts.
    """
    tokens = sum(map(count_tokens, micro_batches))
    if tokens == 0:
        raise ValueError("the batch has no token that counts in the loss")
    options: dict[str, Any] = {"z_coef": z_loss_coef, "pool_layers": pool_router_layers}
    options |= {"threads": threads, "loss_scale": loss_scale, "chunked_head": chunked_head}
    sums = sum_pieces(params, config, micro_batches, tokens, seed, **options)
    return finish(sums, config, tokens)


class PieceSums(NamedTuple):
    loss: Any  # (), sum of share_i * loss_i
    aux_loss: Any  # (), sum of share_i * balance_i
    load: Any  # (sparse layers, E) int, choices of each expert; 0 = dense, or no piece
    grads: Params  # in float32 or wider, not scaled; empty where no token counts


def sum_pieces(
    params: Params,
    config: QwenConfig,
    micro_batches: Sequence[Batch],
    tokens: int,
    seed: Sequence[int] = (),
    *,
    first: int = 0,
    threads: int = 1,
    loss_scale: float = 1.0,
    chunked_head: bool = False,
    **options: Any,
) -> PieceSums:
    """Add up what these pieces of a batch contribute to it.

    Args:
        params: of the model.
        config: of the model.
        micro_batches: all pieces of the batch, or those that this process has.
        tokens: n, counted tokens of the whole batch.
        seed: of the dropout.
        first: number of the first of these pieces in the batch; it is part of a piece's seed.
        threads: pieces at work at the same time; the sum is the same, see in_order.
        loss_scale: see loss_and_grads; each piece is divided by it before it is added.
        chunked_head: see loss_and_grads.
        options: of router_loss_forward.
    """

    def compute(piece: tuple[int, Batch, int]) -> PieceSums:
        i, batch, n = piece
        rng = np.random.default_rng([*seed, i])
        return _piece(params, config, batch, n / tokens, loss_scale, chunked_head, rng, options)

    counted = [(i, batch, count_tokens(batch)) for i, batch in enumerate(micro_batches, first)]
    loss: Any = 0.0
    aux_loss: Any = 0.0
    load: Any = 0
    grads: Params = {}
    for piece in in_order(compute, [piece for piece in counted if piece[2]], threads):
        loss, aux_loss, load = loss + piece.loss, aux_loss + piece.aux_loss, load + piece.load
        add_into(grads, piece.grads)
        del piece  # its gradient is not needed while the next one is computed
    return PieceSums(loss, aux_loss, load, grads)


def finish(sums: PieceSums, config: QwenConfig, tokens: int) -> LossAndGrads:
    """Say what the sums over all pieces of a batch mean."""
    loss, aux_loss, load, grads = sums
    if not any(sparse_layers(config)):
        return LossAndGrads(float(loss), grads, tokens)
    busiest = (load / load.sum(axis=1, keepdims=True)).max() * load.shape[1]
    return LossAndGrads(float(loss), grads, tokens, float(aux_loss), float(busiest))


def _piece(
    params: Params,
    config: QwenConfig,
    batch: Batch,
    share: float,
    loss_scale: float,
    chunked_head: bool,
    rng: np.random.Generator,
    options: dict[str, Any],
) -> PieceSums:
    """Return what one piece contributes.

    A function of its own, so that all activations are freed before the next piece begins. The
    numbers stay on the device.
    """
    inputs: dict[str, Any] = {
        "attention_mask": batch.real, "segments": batch.segments, "training": True, "rng": rng,
    }  # fmt: skip
    dloss = share * loss_scale
    back: Callable[..., Params]
    if chunked_head:
        loss, cache = chunked_head_forward(
            params, config, batch.input_ids, batch.labels, batch.loss_mask, **inputs
        )
        back, routers = partial(chunked_head_backward, dloss, cache), router_caches(cache.backbone)
    else:
        logits, model = language_model_forward(params, config, batch.input_ids, **inputs)
        # the logits become their gradient
        loss, dlogits = cross_entropy_in_place(logits, batch.labels, batch.loss_mask, dloss)
        back, routers = partial(language_model_backward, dlogits, model), router_caches(model)
    if not routers:
        return PieceSums(loss * share, 0.0, 0, unscale(back(), loss_scale))
    coef = config.router_aux_loss_coef
    real = None if batch.real is None else array_module(loss).asarray(batch.real)
    _, balance, router_cache = router_loss_forward(routers, coef, real, **options)
    grads = unscale(back(router_loss_backward(dloss, router_cache)), loss_scale)
    return PieceSums(loss * share, balance * share, expert_counts(routers, real), grads)


class Evaluation(NamedTuple):
    loss: float  # mean over all tokens, in nats
    expert_load: list[list[float]] | None = None  # (sparse layers, E) shares of the choices


def evaluate(
    params: Params,
    config: QwenConfig,
    rows: Array,
    batch_size: int,
    separator_id: int | None = None,
) -> Evaluation:
    """Return the mean loss over the rows, without dropout: pieces again, but no gradients.

    Args:
        params: of the model.
        config: of the model.
        rows: (n, T + 1) int; every token counts.
        batch_size: rows in a piece; the result does not depend on it.
        separator_id: keeps the documents of a row apart, see as_batch.
    """
    loss = 0.0
    load: Any = 0
    tokens = count_tokens(as_batch(rows, separator_id))
    for start in range(0, len(rows), batch_size):
        batch = as_batch(rows[start : start + batch_size], separator_id)
        logits, cache = language_model_forward(
            params, config, batch.input_ids, segments=batch.segments
        )
        if cache is not None and (routers := router_caches(cache)):
            load = load + expert_counts(routers)
        piece_loss, _ = cross_entropy_forward(logits, batch.labels, batch.loss_mask)
        loss += float(piece_loss) * (count_tokens(batch) / tokens)
    if not any(sparse_layers(config)):
        return Evaluation(loss)
    return Evaluation(loss, (load / load.sum(axis=1, keepdims=True)).tolist())
