"""One decoder block: attention and a feed-forward network, each normalised first and added on.

    h = x + o_proj(attention(rope(q), rope(k), v))     q, k, v = projections of rmsnorm(x)
    y = h + swiglu(rmsnorm(h))

The gradient. Every `+` passes dy on twice, along the straight path and into the branch, so what
comes back through the branch is added to what went straight:

    dh = dy + (swiglu, rmsnorm backwards)(dy)          dx = dh + (the attention branch)(dh)

q, k and v all read the same rmsnorm(x): their three gradients are added there.

Paper:    Qwen Technical Report, 2.3.1 Architecture: pre-norm, RMSNorm, RoPE, SwiGLU, a bias on
          q, k and v. Qwen2 Technical Report, "Qwen2 Dense Model": grouped key/value heads.
Origin:   Vaswani et al. 2017, arXiv:1706.03762; pre-norm: Xiong et al. 2020, arXiv:2002.04745.
Differs:  dropout (fine-tuning only) acts on what each branch adds; the report does not say where.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ..backend import Array
from ..layers.block_attention import (
    BlockAttentionCache,
    block_attention_backward,
    block_attention_forward,
)
from ..layers.dropout import DropoutCache, dropout_backward, dropout_forward
from ..layers.linear import LinearCache, linear_backward, linear_forward
from ..layers.rmsnorm import RMSNormCache, rmsnorm_backward, rmsnorm_forward
from ..layers.rope import RopeCache, rope_backward, rope_forward
from ..layers.swiglu import SwigluCache, swiglu_backward, swiglu_forward
from ..params import Params
from .config import QwenConfig
from .kv_cache import KVCache


class DecoderBlockCache(NamedTuple):
    input_norm: RMSNormCache
    q_proj: LinearCache
    k_proj: LinearCache
    v_proj: LinearCache
    q_rope: RopeCache
    k_rope: RopeCache
    attention: BlockAttentionCache
    o_proj: LinearCache
    attention_dropout: DropoutCache
    mlp_norm: RMSNormCache
    mlp: SwigluCache
    mlp_dropout: DropoutCache


def decoder_block_forward(
    x: Array,
    params: Params,
    config: QwenConfig,
    cos: Array,
    sin: Array,
    *,
    real: Array | None = None,
    kv_cache: KVCache | None = None,
    layer: int = 0,
    dropout: float = 0.0,
    rng: Any = None,
) -> tuple[Array, DecoderBlockCache]:
    """Let the tokens look at each other, then work on each token by itself.

    Args:
        x: (B, T, D) float, the residual stream.
        params: of one layer: `self_attn.q_proj.weight` and its siblings, without the prefix.
        config: gives H, Hkv, Dh and eps.
        cos: (T, Dh) or (B, T, Dh) float, from rope_tables.
        sin: the same shape.
        real: (B, S) bool, False for padding, or None.
        kv_cache: holds earlier tokens; the new keys and values are written to it.
        layer: which part of kv_cache is ours.
        dropout: rate, in training only.
        rng: np.random.Generator, when dropout > 0.

    Returns:
        y: (B, T, D) in x.dtype.
        cache: for decoder_block_backward.
    """
    heads, kv_heads, eps = (
        config.num_attention_heads,
        config.num_key_value_heads,
        config.rms_norm_eps,
    )

    n, input_norm = rmsnorm_forward(x, params["input_layernorm.weight"], eps)
    q, q_proj = project(n, params, "self_attn.q_proj")  # (B, T, H*Dh)
    k, k_proj = project(n, params, "self_attn.k_proj")  # (B, T, Hkv*Dh)
    v, v_proj = project(n, params, "self_attn.v_proj")
    q, q_rope = rope_forward(split_heads(q, heads), cos, sin)  # (B, H, T, Dh)
    k, k_rope = rope_forward(split_heads(k, kv_heads), cos, sin)  # (B, Hkv, T, Dh)
    v = split_heads(v, kv_heads)
    if kv_cache is not None:
        k, v = kv_cache.store(layer, k, v)  # (B, Hkv, S, Dh)
    a, attention = block_attention_forward(q, k, v, real)  # (B, H, T, Dh)
    o, o_proj = project(join_heads(a), params, "self_attn.o_proj")  # (B, T, D)
    o, attention_dropout = dropout_forward(o, dropout, rng)
    h = x + o

    n, mlp_norm = rmsnorm_forward(h, params["post_attention_layernorm.weight"], eps)
    m, mlp = swiglu_forward(n, *(params[f"mlp.{name}_proj.weight"] for name in MLP))
    m, mlp_dropout = dropout_forward(m, dropout, rng)
    y = h + m
    return y, DecoderBlockCache(
        input_norm, q_proj, k_proj, v_proj, q_rope, k_rope,
        attention, o_proj, attention_dropout, mlp_norm, mlp, mlp_dropout,
    )  # fmt: skip


def decoder_block_backward(dy: Array, cache: DecoderBlockCache) -> tuple[Array, Params]:
    """Return (dx, grads) from dy (B, T, D); grads has the keys of params."""
    grads: Params = {}

    dm, *dw = swiglu_backward(dropout_backward(dy, cache.mlp_dropout), cache.mlp)
    grads.update({f"mlp.{name}_proj.weight": d for name, d in zip(MLP, dw, strict=True)})
    dn, grads["post_attention_layernorm.weight"] = rmsnorm_backward(dm, cache.mlp_norm)
    dh = dy + dn

    do = dropout_backward(dh, cache.attention_dropout)
    da = project_backward(do, cache.o_proj, grads, "self_attn.o_proj")
    da = split_heads(da, cache.attention.shape[1])  # (B, H, T, Dh)
    dq, dk, dv = block_attention_backward(da, cache.attention)
    dq, dk = rope_backward(dq, cache.q_rope), rope_backward(dk, cache.k_rope)
    dn = (
        project_backward(join_heads(dq), cache.q_proj, grads, "self_attn.q_proj")
        + project_backward(join_heads(dk), cache.k_proj, grads, "self_attn.k_proj")
        + project_backward(join_heads(dv), cache.v_proj, grads, "self_attn.v_proj")
    )
    dn, grads["input_layernorm.weight"] = rmsnorm_backward(dn, cache.input_norm)
    return dh + dn, grads


MLP = ("gate", "up", "down")


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
