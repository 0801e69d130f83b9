"""Every intermediate of a model by name, in the order of the computation, out of its caches.

The forward functions keep what the way back needs. From that, everything else is one cheap step
away: the same functions are called again on the same inputs, so the numbers are the same bits.

    input_ids, positions, attention_mask
    model.embed_tokens                                (B, T, D)
    model.layers.0.input_layernorm                    (B, T, D)
    model.layers.0.self_attn.q_proj  k_proj  v_proj   (B, T, H*Dh), (B, T, Hkv*Dh) twice
    model.layers.0.self_attn.q_norm  k_norm           (B, H, T, Dh), (B, Hkv, T, Dh)     qwen3
    model.layers.0.self_attn.q_rope  k_rope           the same; with LogN also q_logn
    model.layers.0.self_attn.probs                    (B, H, T, S) if they are not too many
    model.layers.0.self_attn.attention                (B, H, T, Dh) the averaged values
    model.layers.0.self_attn.o_proj                   (B, T, D)
    model.layers.0.after_attention                    (B, T, D) the stream, o_proj added
    model.layers.0.post_attention_layernorm           (B, T, D)
    model.layers.0.mlp.gate_proj  up_proj  hidden     (B, T, F); hidden = silu(gate_proj) up_proj
    model.layers.0.mlp.down_proj                      (B, T, D)
    model.layers.0                                    (B, T, D) the stream after the block
    model.norm, logits                                (B, T, D), (B, T, V)

In a sparse layer, with N = B*T, there stand below mlp instead: router_logits (N, E), router_probs,
expert_ids (N, K), expert_weights, expert_outputs (N, K, D), experts (N, D), with a shared expert
shared_expert.gate_proj and so on and shared_expert_gate (N, 1) before its sigmoid; then mlp itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from ...backend import Array, array_module, to_numpy, widen
from ...layers.block_attention import BlockAttentionCache, tile_scores
from ...layers.linear import LinearCache, linear_forward
from ...layers.moe import MoeCache
from ...layers.rmsnorm import RMSNormCache, rmsnorm_forward
from ...layers.rope import RopeCache, rope_forward
from ...layers.swiglu import SwigluCache
from ...long_context.dual_chunk import DualChunkCache
from ...long_context.logn import logn_forward
from ...model.backbone import BackboneCache
from ...model.config import QwenConfig
from ...model.decoder_block import DecoderBlockCache
from ...model.self_attention import SelfAttentionCache, split_heads
from ...params import Params, scope

MOST_PROBS = 1 << 22  # attention probabilities of a layer; more are left out


class Named(NamedTuple):
    """A tensor with its name and the letters of its axes."""

    name: str
    axes: str
    value: Array


def names_of(
    cache: BackboneCache,
    config: QwenConfig,
    params: Params,
    outputs: Sequence[Array] | None = None,
    most_probs: int = MOST_PROBS,
) -> Iterator[Named]:
    """Yield every intermediate of a forward pass but the logits.

    Args:
        cache: of backbone_forward.
        config: of the model.
        params: of the model; only the biases are read.
        outputs: of each block, where the cache does not tell: the last one after `last_only`.
        most_probs: layers with more attention probabilities than this leave them out.

    Yields:
        Named, with values on the host, from the embedding to the last norm.
    """
    if outputs is None:
        outputs = [block.input_norm.x for block in cache.blocks[1:]] + [cache.norm.x]
    x = cache.blocks[0].input_norm.x if cache.blocks else cache.norm.x
    yield named("model.embed_tokens", "B T D", x)
    for i, (block, y) in enumerate(zip(cache.blocks, outputs, strict=True)):
        layer = f"model.layers.{i}"
        for name, axes, value in block_names(block, config, scope(params, layer), most_probs):
            yield named(f"{layer}.{name}", axes, value)
        yield named(layer, "B T D", y)
    yield named("model.norm", "B T D", normed(cache.norm, config))


def block_names(
    cache: DecoderBlockCache, config: QwenConfig, params: Params, most_probs: int = MOST_PROBS
) -> Iterator[tuple[str, str, Array]]:
    """Yield name, axes and value of everything within one block; params are those of its layer."""
    yield "input_layernorm", "B T D", cache.self_attn.q_proj.x
    for name, axes, value in attention_names(cache.self_attn, config, params, most_probs):
        yield f"self_attn.{name}", axes, value
    yield "after_attention", "B T D", cache.mlp_norm.x
    yield "post_attention_layernorm", "B T D", normed(cache.mlp_norm, config)
    if isinstance(cache.mlp, SwigluCache):
        yield from swiglu_names("mlp", cache.mlp, "B T")
    else:
        yield from moe_names(cache.mlp)


def attention_names(
    cache: SelfAttentionCache, config: QwenConfig, params: Params, most_probs: int
) -> Iterator[tuple[str, str, Array]]:
    """Yield everything within the attention branch."""
    H, Hkv = config.num_attention_heads, config.num_key_value_heads
    q, k, v = (
        linear(c, params.get(f"self_attn.{name}.bias"))
        for c, name in (
            (cache.q_proj, "q_proj"),
            (cache.k_proj, "k_proj"),
            (cache.v_proj, "v_proj"),
        )
    )
    yield from (("q_proj", "B T H*Dh", q), ("k_proj", "B T Hkv*Dh", k), ("v_proj", "B T Hkv*Dh", v))
    q, k = split_heads(q, H), split_heads(k, Hkv)
    if cache.q_norm is not None and cache.k_norm is not None:
        q, k = normed(cache.q_norm, config), normed(cache.k_norm, config)
        yield from (("q_norm", "B H T Dh", q), ("k_norm", "B Hkv T Dh", k))
    if cache.q_rope is not None:
        q = turned(q, cache.q_rope)
        yield "q_rope", "B H T Dh", q
    yield "k_rope", "B Hkv T Dh", turned(k, cache.k_rope)
    if cache.logn is not None:
        scale = cache.logn.scale
        q = logn_forward(q, scale.reshape(scale.shape[0], -1) if scale.ndim == 4 else scale[:, 0])[
            0
        ]
        yield "q_logn", "B H T Dh", q
    attention = cache.attention
    if isinstance(attention, DualChunkCache):
        for place, turned_q in zip(("intra", "succ", "inter"), attention.q, strict=True):
            by_head = turned_q.swapaxes(1, 2).reshape(attention.shape) / attention.scale
            yield f"q_{place}", "B H T Dh", by_head
    elif attention.q.shape[0] * attention.q[0, ..., 0].size * attention.k.shape[1] <= most_probs:
        yield "probs", "B H T S", probabilities(attention)
    yield "attention", "B H T Dh", split_heads(cache.o_proj.x, H)
    yield "o_proj", "B T D", linear(cache.o_proj, params.get("self_attn.o_proj.bias"))


def swiglu_names(
    prefix: str, cache: SwigluCache, rows: str, width: str = "F"
) -> Iterator[tuple[str, str, Array]]:
    """Yield everything within a SwiGLU network."""
    yield f"{prefix}.gate_proj", f"{rows} {width}", cache.gate
    yield f"{prefix}.up_proj", f"{rows} {width}", cache.up
    yield f"{prefix}.hidden", f"{rows} {width}", cache.down_cache.x
    yield f"{prefix}.down_proj", f"{rows} D", linear(cache.down_cache)


def moe_names(cache: MoeCache) -> Iterator[tuple[str, str, Array]]:
    """Yield everything within a sparse layer, and what it returns."""
    router, experts = cache.router, cache.experts
    yield "mlp.router_logits", "N E", router.router_logits
    yield "mlp.router_probs", "N E", router.router_probs
    yield "mlp.expert_ids", "N K", router.expert_ids
    yield "mlp.expert_weights", "N K", experts.expert_weights
    yield "mlp.expert_outputs", "N K D", experts.outputs
    weighted = widen(experts.expert_weights)[:, :, None] * widen(experts.outputs)
    y = weighted.sum(axis=1).astype(experts.outputs.dtype, copy=False)
    yield "mlp.experts", "N D", y
    if cache.shared is not None:
        yield from swiglu_names("mlp.shared_expert", cache.shared.swiglu, "N", "Fs")
        yield "mlp.shared_expert_gate", "N one", linear(cache.shared.gate_cache)
        gated = cache.shared.gate * widen(cache.shared.out)
        y = y + gated.astype(y.dtype, copy=False)
    yield "mlp", "B T D", y.reshape(cache.shape)


def named(name: str, axes: str, value: Any) -> Named:
    """Return a Named with its value on the host."""
    return Named(name, axes, to_numpy(value))


def linear(cache: LinearCache, b: Array | None = None) -> Array:
    """Return what a linear layer gave; its cache does not hold the bias."""
    return linear_forward(cache.x, cache.w, b)[0]


def normed(cache: RMSNormCache, config: QwenConfig) -> Array:
    """Return what RMSNorm gave."""
    return rmsnorm_forward(cache.x, cache.w, config.rms_norm_eps)[0]


def turned(x: Array, cache: RopeCache) -> Array:
    """Return what RoPE gave for x (B, H, T, Dh)."""
    cos, sin = (t[:, 0] if t.ndim == 4 else t for t in (cache.cos, cache.sin))
    return rope_forward(x, cos, sin)[0]


def probabilities(cache: BlockAttentionCache) -> Array:
    """Return the attention weights of all queries and keys, (B, H, T, S), out of the kept lse."""
    (rows, T, G, _), S = cache.q.shape, cache.k.shape[1]
    B, H = cache.shape[:2]
    everything = slice(0, T), slice(0, S)
    scores = tile_scores(
        cache.q, cache.k, cache.padding_bias, *everything, cache.window, cache.segments
    )
    scores = scores.reshape(rows, T, G, S) - cache.lse
    probs: Array = array_module(scores).exp(scores).swapaxes(1, 2).reshape(B, H, T, S)
    return probs.astype(cache.dtype, copy=False)
