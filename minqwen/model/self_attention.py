"""The attention branch of a block: from the normalised stream to what is added to it.

    q, k, v = projections of x, cut into heads
    y = o_proj(attention(rope(q), rope(k), v))

How far tokens see and how their positions are counted comes in PositionTables (layer_plan.py):

    as trained      q and k turned by their positions; a query sees all tokens before it
    window          the same, but a query sees the last W tokens only
    LogN            every query times a factor that grows with its position
    dual chunk      k turned by its position within the chunk, q in three ways: dual_chunk.py

Qwen3 also normalises every query and key within its head, before the turn: q_norm and k_norm.

The gradient runs the list backwards. q, k and v all read the same x: their gradients are added.

Paper:    Qwen Technical Report, 2.3.1 Architecture: RoPE, a bias on q, k and v; 2.3.2: LogN and
          windows. Qwen2 Technical Report, "Qwen2 Dense Model": grouped key/value heads, DCA.
Origin:   Vaswani et al. 2017, arXiv:1706.03762.
Differs:  nothing. q_norm and k_norm are in neither report, but in Qwen3's, arXiv:2505.09388.
"""

from __future__ import annotations

from typing import NamedTuple

from ..backend import Array
from ..layers.block_attention import (
    BlockAttentionCache,
    block_attention_backward,
    block_attention_forward,
)
from ..layers.linear import LinearCache, linear_backward, linear_forward
from ..layers.rmsnorm import RMSNormCache
from ..layers.rmsnorm_fast import fast_rmsnorm_backward, fast_rmsnorm_forward
from ..layers.rope import RopeCache, rope_backward, rope_forward
from ..long_context.dual_chunk import (
    DualChunkCache,
    dual_chunk_attention_backward,
    dual_chunk_attention_forward,
)
from ..long_context.logn import LogNCache, logn_backward, logn_forward
from ..params import Params
from .config import QwenConfig
from .kv_cache import KVCache
from .layer_plan import PositionTables


class SelfAttentionCache(NamedTuple):
    q_proj: LinearCache
    k_proj: LinearCache
    v_proj: LinearCache
    q_norm: RMSNormCache | None  # None unless qwen3
    k_norm: RMSNormCache | None
    q_rope: RopeCache | None  # None with dual chunk attention, which turns q itself
    k_rope: RopeCache
    logn: LogNCache | None
    attention: BlockAttentionCache | DualChunkCache
    o_proj: LinearCache


def self_attention_forward(
    x: Array,
    params: Params,
    config: QwenConfig,
    tables: PositionTables,
    *,
    real: Array | None = None,
    kv_cache: KVCache | None = None,
    layer: int = 0,
) -> tuple[Array, SelfAttentionCache]:
    """Let the tokens look at each other.

    Args:
        x: (B, T, D) float, normalised.
        params: of one layer: `self_attn.q_proj.weight` and its siblings, without the prefix.
        config: gives H, Hkv, and whether queries and keys are normalised.
        tables: where the tokens are and how far they see.
        real: (B, S) bool, False for padding, or None.
        kv_cache: holds earlier tokens; the new keys and values are written to it.
        layer: which part of kv_cache is ours.

    Returns:
        y: (B, T, D) in x.dtype.
        cache: for self_attention_backward.
    """
    cos, sin, q_scale, window, chunks, segments = tables
    q, q_proj = project(x, params, "self_attn.q_proj")  # (B, T, H*Dh)
    k, k_proj = project(x, params, "self_attn.k_proj")  # (B, T, Hkv*Dh)
    v, v_proj = project(x, params, "self_attn.v_proj")
    q = split_heads(q, config.num_attention_heads)  # (B, H, T, Dh)
    k = split_heads(k, config.num_key_value_heads)  # (B, Hkv, T, Dh)
    v = split_heads(v, config.num_key_value_heads)

    q_norm, k_norm, q_rope, logn = None, None, None, None
    if config.qk_norm:
        q, q_norm = fast_rmsnorm_forward(q, params["self_attn.q_norm.weight"], config.rms_norm_eps)
        k, k_norm = fast_rmsnorm_forward(k, params["self_attn.k_norm.weight"], config.rms_norm_eps)
    if chunks is None:
        q, q_rope = rope_forward(q, cos, sin)
    k, k_rope = rope_forward(k, cos, sin)
    if q_scale is not None:
        q, logn = logn_forward(q, q_scale)
    if kv_cache is not None:
        k, v = kv_cache.store(layer, k, v)  # (B, Hkv, S, Dh), or with a window the last of them
        real = None if real is None else real[:, -k.shape[2] :]
    attention: BlockAttentionCache | DualChunkCache
    if chunks is None:
        a, attention = block_attention_forward(
            q, k, v, real, window=window, segments=segments
        )  # (B, H, T, Dh)
    else:
        a, attention = dual_chunk_attention_forward(q, k, v, chunks, real)
    y, o_proj = project(join_heads(a), params, "self_attn.o_proj")  # (B, T, D)
    return y, SelfAttentionCache(
        q_proj, k_proj, v_proj, q_norm, k_norm, q_rope, k_rope, logn, attention, o_proj
    )


def self_attention_backward(dy: Array, cache: SelfAttentionCache) -> tuple[Array, Params]:
    """Return (dx, grads) from dy (B, T, D); grads has the keys of params."""
    grads: Params = {}
    da = project_backward(dy, cache.o_proj, grads, "self_attn.o_proj")
    da = split_heads(da, cache.attention.shape[1])  # (B, H, T, Dh)
    if isinstance(cache.attention, DualChunkCache):
        dq, dk, dv = dual_chunk_attention_backward(da, cache.attention)
    else:
        dq, dk, dv = block_attention_backward(da, cache.attention)
    if cache.logn is not None:
        dq = logn_backward(dq, cache.logn)
    dk = rope_backward(dk, cache.k_rope)
    if cache.q_rope is not None:
        dq = rope_backward(dq, cache.q_rope)
    if cache.q_norm is not None and cache.k_norm is not None:
        dq, grads["self_attn.q_norm.weight"] = fast_rmsnorm_backward(dq, cache.q_norm)
        dk, grads["self_attn.k_norm.weight"] = fast_rmsnorm_backward(dk, cache.k_norm)
    dx = (
        project_backward(join_heads(dq), cache.q_proj, grads, "self_attn.q_proj")
        + project_backward(join_heads(dk), cache.k_proj, grads, "self_attn.k_proj")
        + project_backward(join_heads(dv), cache.v_proj, grads, "self_attn.v_proj")
    )
    return dx, grads


def project(x: Array, params: Params, name: str) -> tuple[Array, LinearCache]:
    """Apply the linear layer `name`, with its bias if it has one."""
    return linear_forward(x, params[f"{name}.weight"], params.get(f"{name}.bias"))


def project_backward(dy: Array, cache: LinearCache, grads: Params, name: str) -> Array:
    """Put the gradients of the linear layer `name` into grads and return dx."""
    dx, grads[f"{name}.weight"], db = linear_backward(dy, cache)
    if db is not None:
        grads[f"{name}.bias"] = db
    return dx


def split_heads(x: Array, heads: int) -> Array:
    """Turn (B, T, heads * Dh) into (B, heads, T, Dh): head h owns features h*Dh .. (h+1)*Dh - 1."""
    B, T, width = x.shape
    return x.reshape(B, T, heads, width // heads).swapaxes(1, 2)


def join_heads(x: Array) -> Array:
    """Turn (B, heads, T, Dh) into (B, T, heads * Dh), undoing split_heads."""
    B, heads, T, Dh = x.shape
    return x.swapaxes(1, 2).reshape(B, T, heads * Dh)
