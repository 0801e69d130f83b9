"""All of the model but its head: token ids to hidden states, and back to every gradient.

    x = embedding(input_ids)
    x = block_0(x); ... x = block_{L-1}(x)
    hidden = rmsnorm(x)

What is read from hidden[b, t] is the head's business: the scores of the next token
(language_model.py), or one number, as in a reward model and a value model (alignment/).

Several short texts may share a row: `segments` says which text a token belongs to. It sees its own
only, and positions count from the start of each, so every text is read as if it were alone, also
where the frequencies or the scale of the queries depend on its length (layer_plan.py). Only what a
batch shares is not the text's own: the numbers that dropout draws, and losses on the routers.

Paper:    Qwen Technical Report, 2.3.1 Architecture; Qwen2 Technical Report, "Qwen2 Dense Model".
Differs:  nothing. Whether texts that share a row see each other is not stated; in the released code
          they do (packing.py), and segments are not used there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..backend import Array, array_module, to_numpy
from ..layers.dropout import DropoutCache, dropout_backward, dropout_forward
from ..layers.embedding import EmbeddingCache, embedding_backward, embedding_forward
from ..layers.moe import MoeCache
from ..layers.moe_router import MoeRouterCache
from ..layers.rmsnorm import RMSNormCache
from ..layers.rmsnorm_fast import fast_rmsnorm_backward, fast_rmsnorm_forward
from ..params import Params, scopes, unscope
from ..shapes import require_axes, require_bool, require_shape
from .config import QwenConfig, check_params
from .decoder_block import DecoderBlockCache, decoder_block_backward, decoder_block_forward
from .kv_cache import KVCache
from .layer_plan import layer_plans, position_tables, row_lengths, text_lengths
from .rope_scaling import depends_on_length

EMBEDDING, NORM = "model.embed_tokens.weight", "model.norm.weight"


class BackboneCache(NamedTuple):
    embedding: EmbeddingCache
    dropout: DropoutCache
    blocks: list[DecoderBlockCache]
    norm: RMSNormCache


def backbone_forward(
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
) -> tuple[Array, BackboneCache | None]:
    """Compute the hidden state of every position.

    Args:
        params: names and shapes of param_shapes(config), all on one device and of one dtype.
        config: sizes and switches.
        input_ids: (B, T) int in [0, V). On the host, also for parameters on a GPU, they are
            checked without waiting for it.
        positions: (T,) or (B, T) int, 0-based. None counts the real tokens of each row, or of each
            segment. The highest one of a row, or of a segment, is the length that dynamic NTK goes
            by. With dual chunk attention they must not fall along a row.
        attention_mask: (B, S) bool, True = real token, False = padding on either side; S counts
            the tokens in kv_cache too. (B, T) for the new tokens alone is taken as well. None
            means that all (new) tokens are real.
        segments: (B, T) int on the host, not falling along a row; a token sees those of its own
            segment only. None: a row is one text. Not with kv_cache or dual chunk attention.
        kv_cache: holds earlier tokens and gets the new ones. There is no way back through it.
        training: apply config.dropout.
        rng: np.random.Generator, when dropout acts.
        last_only: return the last position only.

    Returns:
        hidden: (B, T, D), or (B, 1, D) with last_only, in the dtype of the parameters. Where the
            position is padding it means nothing.
        cache: for backbone_backward; None with kv_cache or last_only, which nobody trains through
            and which would hold the activations of every layer.

    Raises:
        TypeError: input_ids or positions are not integers, attention_mask is not boolean.
        ValueError: an id is out of range, a shape does not fit, a parameter is missing, extra or
            mis-shaped, segments fall, kv_cache is full.
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
    if segments is not None:
        segments = to_numpy(segments)
        require_segments(segments, config, B, T, kv_cache)
    if kv_cache is not None:
        kv_cache.require_room(config, B, T)
        real = kv_cache.extend_real(attention_mask, T)
    elif attention_mask is not None:
        require_shape("attention_mask", attention_mask, B=B, S=T)
        real = attention_mask
    else:
        real = None
    if positions is None:  # on the host, where the mask is there: nothing need be waited for
        positions = default_positions(real, past, T, segments)
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
    lengths = [past + T]
    if asks and segments is not None:
        lengths = text_lengths(positions, segments)
    elif asks:
        lengths = row_lengths(key_positions)
    plans = layer_plans(config, lengths, training)
    if kv_cache is not None:
        plans, input_ids, positions = kv_cache.begin(plans, input_ids, positions, key_positions)
    tables = {
        plan: position_tables(plan, config, positions, key_positions, table, segments)
        for plan in set(plans)
    }
    seen = None if real is None else xp.asarray(real)
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
            real=seen,
            kv_cache=kv_cache,
            layer=i,
            dropout=rate,
            rng=rng,
        )
        if keep:
            blocks.append(block)
        del block  # where none is kept, this one must not lie beside that of the next layer
    if kv_cache is not None:
        kv_cache.advance(real)
    x = x[:, -1:] if last_only else x[:, -T:]  # the cache may have asked for older tokens again
    hidden, norm = fast_rmsnorm_forward(x, params[NORM], config.rms_norm_eps)
    return hidden, BackboneCache(embedding, dropout, blocks, norm) if keep else None


def backbone_backward(
    dhidden: Array,
    cache: BackboneCache | None,
    drouter_logits: Sequence[Array] | None = None,
) -> Params:
    """Return the gradient of every parameter, under the same names.

    Args:
        dhidden: (B, T, D).
        cache: of backbone_forward.
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
    dx, grads[NORM] = fast_rmsnorm_backward(dhidden, cache.norm)
    for i in reversed(range(len(cache.blocks))):
        sparse = isinstance(cache.blocks[i].mlp, MoeCache)
        drouter = routed.pop() if sparse and routed else None
        dx, block_grads = decoder_block_backward(dx, cache.blocks[i], drouter)
        grads.update(unscope(block_grads, f"model.layers.{i}"))
    grads[EMBEDDING] = embedding_backward(dropout_backward(dx, cache.dropout), cache.embedding)
    return grads


def router_caches(cache: Any) -> list[MoeRouterCache]:
    """Return what the routers decided, for each sparse layer, from the lowest.

    cache: of backbone_forward or language_model_forward.
    """
    return [block.mlp.router for block in cache.blocks if isinstance(block.mlp, MoeCache)]


def default_positions(
    real: Array | None, past: int, T: int, segments: Array | None = None
) -> Array:
    """Return positions that count real tokens: padding does not move the text behind it.

    Args:
        real: (B, S) bool with S = past + T, or None: all are real.
        past: tokens in the KV cache.
        T: new tokens.
        segments: (B, T) int on the host: each counts from 0. None: a row is one text.

    Returns:
        (T,) int on the host, or (B, T) int where `real` is (with segments on the host). Padding
        before the first token is at 0.

    >>> default_positions(np.array([[False, False, True, True]]), 0, 4)
    array([[0, 0, 0, 1]])
    >>> default_positions(None, 0, 5, np.array([[0, 0, 1, 1, 1]]))
    array([[0, 1, 0, 1, 2]])
    """
    if segments is not None:
        counts = np.ones(segments.shape, np.int64) if real is None else to_numpy(real)
        before = counts.cumsum(axis=1) - counts  # real tokens before this one
        starts = np.diff(segments, axis=1, prepend=segments[:, :1] - 1) != 0
        at_start = np.maximum.accumulate(np.where(starts, before, 0), axis=1)
        position: Array = np.maximum(before + counts - 1 - at_start, 0)
        return position
    xp = array_module(real)
    if real is None:
        return np.arange(past, past + T)
    counted = xp.cumsum(real.astype(xp.int64), axis=1) - 1  # (B, S)
    return xp.maximum(counted, 0)[:, past:]  # type: ignore[no-any-return]


def require_segments(
    segments: Array, config: QwenConfig, B: int, T: int, kv_cache: KVCache | None
) -> None:
    """Raise unless these segments can be read: see backbone_forward."""
    require_shape("segments", segments, B=B, T=T)
    if segments.dtype.kind not in "iu":
        raise TypeError(f"segments must be integers, got {segments.dtype}")
    if (np.diff(segments.astype(np.int64), axis=1) < 0).any():
        raise ValueError("segments must not fall along a row: a text is one piece")
    if kv_cache is not None:
        raise ValueError("segments are for whole rows: a KV cache holds one text a row")
    require_separable(config)


def require_separable(config: QwenConfig) -> None:
    """Raise NotImplementedError where a model of this config cannot tell texts of a row apart."""
    if config.dual_chunk_attention_config is not None:
        raise NotImplementedError("segments cannot be used together with dual chunk attention")
