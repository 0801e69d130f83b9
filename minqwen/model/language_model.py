"""The whole model: token ids to logits, and back to the gradient of every parameter.

    x = embedding(input_ids)
    x = block_0(x); ... x = block_{L-1}(x)
    logits = rmsnorm(x) w_head^T            w_head is the embedding table itself when tied

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

import numpy as np

from ..backend import Array, array_module
from ..layers.dropout import DropoutCache, dropout_backward, dropout_forward
from ..layers.embedding import EmbeddingCache, embedding_backward, embedding_forward
from ..layers.linear import LinearCache, linear_backward, linear_forward
from ..layers.moe import MoeCache
from ..layers.moe_router import MoeRouterCache
from ..layers.rmsnorm import RMSNormCache, rmsnorm_backward, rmsnorm_forward
from ..params import Params, scopes, unscope
from ..shapes import require_axes, require_bool, require_shape
from .config import QwenConfig, check_params
from .decoder_block import DecoderBlockCache, decoder_block_backward, decoder_block_forward
from .kv_cache import KVCache
from .layer_plan import layer_plans, position_tables, row_lengths
from .rope_scaling import depends_on_length

EMBEDDING, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"


class LanguageModelCache(NamedTuple):
    embedding: EmbeddingCache
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
    kv_cache: KVCache | None = None,
    training: bool = False,
    rng: Any = None,
    last_only: bool = False,
) -> tuple[Array, LanguageModelCache | None]:
    """Score every possible next token at every position.

    Args:
        params: names and shapes of param_shapes(config), all on one device and of one dtype.
        config: sizes and switches.
        input_ids: (B, T) int in [0, V). On the host, also for parameters on a GPU, they are
            checked without waiting for it.
        positions: (T,) or (B, T) int, 0-based. None counts the real tokens of each row. The
            highest one of a row is the length that dynamic NTK goes by. With dual chunk attention
            they must not fall along a row.
        attention_mask: (B, S) bool, True = real token, False = padding on either side; S counts
            the tokens in kv_cache too. (B, T) for the new tokens alone is taken as well. None
            means that all (new) tokens are real.
        kv_cache: holds earlier tokens and gets the new ones. There is no way back through it.
        training: apply config.dropout.
        rng: np.random.Generator, when dropout acts.
        last_only: compute the logits of the last position only.

    Returns:
        logits: (B, T, V), or (B, 1, V) with last_only, in the dtype of the parameters. Where the
            position is padding they mean nothing.
        cache: for language_model_backward; None with kv_cache or last_only, which nobody trains
            through and which would hold the activations of every layer.

    Raises:
        TypeError: input_ids or positions are not integers, attention_mask is not boolean.
        ValueError: an id is out of range, a shape does not fit, a parameter is missing, extra or
            mis-shaped, kv_cache is full.
        NotImplementedError: the config asks for something this version does not compute.
    """
    require_axes("input_ids", input_ids, "B T")
    B, T = input_ids.shape
    if T == 0:
        raise ValueError(f"input_ids must hold at least one token a row, got shape {(B, T)}")
    past = 0 if kv_cache is None else kv_cache.length
    if past == 0:
        check_params(params, config)
    if unsupported := config.unsupported():
        raise NotImplementedError(f"not supported yet: {', '.join(unsupported)}")
    table = params[EMBEDDING]
    xp = array_module(table)
    if attention_mask is not None:
        require_bool("attention_mask", attention_mask, "True = real token")
    if kv_cache is not None:
        kv_cache.require_room(config, B, T)
        real = kv_cache.extend_real(attention_mask, T)
    elif attention_mask is not None:
        require_shape("attention_mask", attention_mask, B=B, S=T)
        real = xp.asarray(attention_mask)
    else:
        real = None
    if positions is None:
        positions = default_positions(real, past, T)
    if not hasattr(positions, "ndim"):
        positions = np.asarray(positions)
    if positions.dtype.kind == "u":  # unsigned and signed ones together would become floats
        positions = positions.astype(np.int64)
    if positions.ndim == 1:
        require_shape("positions", positions, T=T)
    else:
        require_shape("positions", positions, B=B, T=T)
    key_positions = positions if kv_cache is None else kv_cache.all_positions(positions)
    asks = depends_on_length(config) or config.use_logn_attn
    plans = layer_plans(config, row_lengths(key_positions) if asks else [past + T], training)
    if kv_cache is not None:
        plans, input_ids, positions = kv_cache.begin(plans, input_ids, positions, key_positions)
    tables = {p: position_tables(p, config, positions, key_positions, table) for p in set(plans)}
    rate = config.dropout if training else 0.0
    keep = kv_cache is None and not last_only

    x, embedding = embedding_forward(input_ids, table)  # (B, T, D)
    x, dropout = dropout_forward(x, rate, rng)
    blocks = []
    layers = scopes(params, "model.layers", config.num_hidden_layers)
    for i, (layer, plan) in enumerate(zip(layers, plans, strict=True)):
        x, block = decoder_block_forward(
            x,
            layer,
            config,
            tables[plan],
            real=real,
            kv_cache=kv_cache,
            layer=i,
            dropout=rate,
            rng=rng,
        )
        if keep:
            blocks.append(block)
    if kv_cache is not None:
        kv_cache.advance(real)
    x = x[:, -1:] if last_only else x[:, -T:]  # the cache may have asked for older tokens again
    x, norm = rmsnorm_forward(x, params[NORM], config.rms_norm_eps)
    w_head = table if config.tie_word_embeddings else params[HEAD]
    logits, head = linear_forward(x, w_head)  # (B, T, V)
    if not keep:
        return logits, None
    tied = config.tie_word_embeddings
    return logits, LanguageModelCache(embedding, dropout, blocks, norm, head, tied)


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
    grads: Params = {}
    routed = list(drouter_logits or ())
    if routed and len(routed) != len(router_caches(cache)):
        raise ValueError(
            f"drouter_logits must be one for each of {len(router_caches(cache))} sparse layers, "
            f"got {len(routed)}"
        )
    dx, dw_head, _ = linear_backward(dlogits, cache.head)
    dx, grads[NORM] = rmsnorm_backward(dx, cache.norm)
    for i in reversed(range(len(cache.blocks))):
        sparse = isinstance(cache.blocks[i].mlp, MoeCache)
        drouter = routed.pop() if sparse and routed else None
        dx, block_grads = decoder_block_backward(dx, cache.blocks[i], drouter)
        grads.update(unscope(block_grads, f"model.layers.{i}"))
    dw_table = embedding_backward(dropout_backward(dx, cache.dropout), cache.embedding)
    if cache.tied:
        grads[EMBEDDING] = dw_table + dw_head  # one table, used at both ends
    else:
        grads[EMBEDDING], grads[HEAD] = dw_table, dw_head
    return grads


def router_caches(cache: LanguageModelCache) -> list[MoeRouterCache]:
    """Return what the routers decided, for each sparse layer, from the lowest."""
    return [block.mlp.router for block in cache.blocks if isinstance(block.mlp, MoeCache)]


def default_positions(real: Array | None, past: int, T: int) -> Array:
    """Return positions that count real tokens: padding does not move the text behind it.

    Args:
        real: (B, S) bool with S = past + T, or None: all are real.
        past: tokens in the KV cache.
        T: new tokens.

    Returns:
        (T,) int on the host, or (B, T) int where `real` is. Padding before the first token is at 0.

    >>> default_positions(np.array([[False, False, True, True]]), 0, 4)
    array([[0, 0, 0, 1]])
    """
    xp = array_module(real)
    if real is None:
        return np.arange(past, past + T)
    counted = xp.cumsum(real.astype(xp.int64), axis=1) - 1  # (B, S)
    return xp.maximum(counted, 0)[:, past:]  # type: ignore[no-any-return]
