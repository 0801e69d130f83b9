"""The whole model: token ids to logits, and back to the gradient of every parameter.

    hidden = backbone(input_ids)            embedding, layers, norm: see backbone.py
    logits = hidden w_head^T                w_head is the embedding table itself when tied

logits[b, t] scores what token t + 1 of row b will be.

The gradient walks the same list from its end. A tied table was used twice, at both ends of the
model, so its gradient is the sum of two. In a mixture of experts the losses on the routers
(router_loss.py) enter on the way, at the router of each sparse layer.

Paper:    Qwen Technical Report, 2.3.1 Architecture; Qwen2 Technical Report, "Qwen2 Dense Model".
Differs:  nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ..backend import Array
from ..layers.dropout import DropoutCache
from ..layers.embedding import EmbeddingCache
from ..layers.linear import LinearCache, linear_backward, linear_forward
from ..layers.rmsnorm import RMSNormCache
from ..params import Params
from .backbone import (
    EMBEDDING,
    BackboneCache,
    backbone_backward,
    backbone_forward,
)
from .backbone import router_caches as router_caches  # can be imported from here too
from .config import QwenConfig
from .decoder_block import DecoderBlockCache
from .kv_cache import KVCache

HEAD = "lm_head.weight"


class LanguageModelCache(NamedTuple):
    embedding: EmbeddingCache  # the first four are the backbone's
    dropout: DropoutCache
    blocks: list[DecoderBlockCache]
    norm: RMSNormCache
    head: LinearCache
    tied: bool


def language_model_forward(
    params: Params,
    config: QwenConfig,
    input_ids: Array,
    *,
    positions: Array | None = None,
    attention_mask: Array | None = None,
    segments: Array | None = None,
    kv_cache: KVCache | None = None,
    training: bool = False,
    rng: Any = None,
    last_only: bool = False,
) -> tuple[Array, LanguageModelCache | None]:
    """Score every possible next token at every position.

    Args:
        params: names and shapes of param_shapes(config), all on one device and of one dtype.
        config: sizes and switches.
        input_ids: (B, T) int in [0, V), best on the host.
        positions: (T,) or (B, T) int, 0-based; None counts the real tokens.
        attention_mask: (B, S) bool, True = real token, False = padding on either side; None = all.
        segments: (B, T) int: a token sees those of its own segment only; None = one text a row.
        kv_cache: holds earlier tokens and gets the new ones. There is no way back through it.
        training: apply config.dropout.
        rng: np.random.Generator, when dropout acts.
        last_only: compute the logits of the last position only.

    All of them are described, with what is refused, in backbone_forward.

    Returns:
        logits: (B, T, V), or (B, 1, V) with last_only, in the dtype of the parameters. Where the
            position is padding they mean nothing.
        cache: for language_model_backward; None with kv_cache or last_only.

    Raises:
        TypeError, ValueError, NotImplementedError: as backbone_forward; and when the config is that
            of a model with another head.
    """
    if config.num_labels:
        raise ValueError(
            f"the config has num_labels={config.num_labels}: this model gives a score, not logits"
        )
    hidden, below = backbone_forward(
        params,
        config,
        input_ids,
        positions=positions,
        attention_mask=attention_mask,
        segments=segments,
        kv_cache=kv_cache,
        training=training,
        rng=rng,
        last_only=last_only,
    )
    w_head = params[EMBEDDING] if config.tie_word_embeddings else params[HEAD]
    logits, head = linear_forward(hidden, w_head)  # (B, T, V)
    if below is None:
        return logits, None
    return logits, LanguageModelCache(*below, head, config.tie_word_embeddings)


def language_model_backward(
    dlogits: Array,
    cache: LanguageModelCache | None,
    drouter_logits: Sequence[Array] | None = None,
) -> Params:
    """Return the gradient of every parameter, under the same names.

    Args:
        dlogits: (B, T, V).
        cache: of language_model_forward.
        drouter_logits: (B*T, E) for every sparse layer, in order, of router_loss_backward; or None.

    Raises:
        ValueError: the forward pass ran with kv_cache or last_only, which keep nothing, or
            drouter_logits are not as many as there are routers.
    """
    if cache is None:
        raise ValueError("there is no backward pass through kv_cache or last_only")
    dhidden, dw_head, _ = linear_backward(dlogits, cache.head)
    below = BackboneCache(cache.embedding, cache.dropout, cache.blocks, cache.norm)
    grads = backbone_backward(dhidden, below, drouter_logits)
    if cache.tied:
        grads[EMBEDDING] = grads[EMBEDDING] + dw_head  # one table, used at both ends
    else:
        grads[HEAD] = dw_head
    return grads
