"""The language model's loss for those who are short of memory: no array of all logits.

language_model.py gives logits, and the loss is taken of them. Here head and loss are one step,
linear_cross_entropy.py, which works on a part of the vocabulary at a time; loss and gradients are
the same. With Qwen2's vocabulary and 256 tokens that saves 150 MB (300 MB where the gradient of
the logits is a second array), and costs a fourth product with the head where there were three.

The gradient is that of language_model.py: a tied table was used twice, so its gradient is a sum.

Paper:    Qwen Technical Report, 2.4 Training.
Differs:  nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ..backend import Array
from ..layers.linear_cross_entropy import (
    LinearCrossEntropyCache,
    linear_cross_entropy_backward,
    linear_cross_entropy_forward,
)
from ..params import Params
from .backbone import EMBEDDING, BackboneCache, backbone_backward, backbone_forward
from .config import QwenConfig
from .language_model import HEAD


class ChunkedHeadCache(NamedTuple):
    backbone: BackboneCache
    head: LinearCrossEntropyCache
    tied: bool


def chunked_head_forward(
    params: Params,
    config: QwenConfig,
    input_ids: Array,
    labels: Array,
    loss_mask: Array | None = None,
    *,
    block: int | None = None,
    **options: Any,
) -> tuple[Array, ChunkedHeadCache]:
    """Return the mean loss of the next tokens.

    Args:
        params: of the model.
        config: of the model.
        input_ids: (B, T) int in [0, V), best on the host.
        labels: (B, T) int, the token after each input; IGNORED (-100) does not count.
        loss_mask: (B, T) bool, True = counts; None = all.
        block: logits at a time, see linear_cross_entropy_forward.
        options: of backbone_forward, without kv_cache and last_only.

    Returns:
        loss: () in nats, in float32 or wider; 0 when no token counts.
        cache: for chunked_head_backward.

    Raises:
        TypeError, ValueError, NotImplementedError: as backbone_forward and
            linear_cross_entropy_forward; or the config is that of a model with another head.
    """
    if config.num_labels:
        raise ValueError(
            f"the config has num_labels={config.num_labels}: this model gives a score, not logits"
        )
    hidden, backbone = backbone_forward(params, config, input_ids, **options)
    if backbone is None:
        raise ValueError("there is no backward pass through kv_cache or last_only")
    w_head = params[EMBEDDING] if config.tie_word_embeddings else params[HEAD]
    loss, head = linear_cross_entropy_forward(hidden, w_head, labels, loss_mask, block)
    return loss, ChunkedHeadCache(backbone, head, config.tie_word_embeddings)


def chunked_head_backward(
    dloss: Array | float, cache: ChunkedHeadCache, drouter_logits: Sequence[Array] | None = None
) -> Params:
    """Return the gradient of every parameter, under the same names.

    Args:
        dloss: a number.
        cache: of chunked_head_forward.
        drouter_logits: as in language_model_backward.
    """
    dhidden, dw_head = linear_cross_entropy_backward(dloss, cache.head)
    grads = backbone_backward(dhidden, cache.backbone, drouter_logits)
    if cache.tied:
        grads[EMBEDDING] = grads[EMBEDDING] + dw_head  # one table, used at both ends
    else:
        grads[HEAD] = dw_head
    return grads
