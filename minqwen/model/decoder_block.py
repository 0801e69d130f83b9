"""One decoder block: attention and a feed-forward network, each normalised first and added on.

    h = x + self_attention(rmsnorm(x))
    y = h + feed_forward(rmsnorm(h))

The gradient. Every `+` passes dy on twice, along the straight path and into the branch, so what
comes back through the branch is added to what went straight:

    dh = dy + (feed_forward, rmsnorm backwards)(dy)    dx = dh + (the attention branch)(dh)

Paper:    Qwen Technical Report, 2.3.1 Architecture: pre-norm, RMSNorm, SwiGLU.
Origin:   Vaswani et al. 2017, arXiv:1706.03762; pre-norm: Xiong et al. 2020, arXiv:2002.04745.
Differs:  dropout (fine-tuning only) acts on what each branch adds; the report does not say where.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ..backend import Array
from ..layers.dropout import DropoutCache, dropout_backward, dropout_forward
from ..layers.rmsnorm import RMSNormCache
from ..layers.rmsnorm_fast import fast_rmsnorm_backward, fast_rmsnorm_forward
from ..params import Params
from .config import QwenConfig
from .feed_forward import FeedForwardCache, feed_forward_backward, feed_forward_forward
from .kv_cache import KVCache
from .layer_plan import PositionTables
from .self_attention import SelfAttentionCache, self_attention_backward, self_attention_forward


class DecoderBlockCache(NamedTuple):
    input_norm: RMSNormCache
    self_attn: SelfAttentionCache
    attention_dropout: DropoutCache
    mlp_norm: RMSNormCache
    mlp: FeedForwardCache
    mlp_dropout: DropoutCache


def decoder_block_forward(
    x: Array,
    params: Params,
    config: QwenConfig,
    tables: PositionTables,
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
        config: gives H, Hkv, K and eps.
        tables: where the tokens are; PositionTables(cos, sin) of rope_tables, if no more is wanted.
        real: (B, S) bool, False for padding, or None.
        kv_cache: holds earlier tokens; the new keys and values are written to it.
        layer: which part of kv_cache is ours.
        dropout: rate, in training only.
        rng: np.random.Generator, when dropout > 0.

    Returns:
        y: (B, T, D) in x.dtype.
        cache: for decoder_block_backward.
    """
    eps = config.rms_norm_eps

    n, input_norm = fast_rmsnorm_forward(x, params["input_layernorm.weight"], eps)
    a, self_attn = self_attention_forward(
        n, params, config, tables, real=real, kv_cache=kv_cache, layer=layer
    )
    a, attention_dropout = dropout_forward(a, dropout, rng)
    h = x + a

    n, mlp_norm = fast_rmsnorm_forward(h, params["post_attention_layernorm.weight"], eps)
    m, mlp = feed_forward_forward(n, params, config)
    m, mlp_dropout = dropout_forward(m, dropout, rng)
    y = h + m
    return y, DecoderBlockCache(
        input_norm, self_attn, attention_dropout, mlp_norm, mlp, mlp_dropout
    )


def decoder_block_backward(
    dy: Array, cache: DecoderBlockCache, drouter_logits: Array | None = None
) -> tuple[Array, Params]:
    """Return (dx, grads) from dy (B, T, D); grads has the keys of params.

    drouter_logits (B*T, E) is what the losses on the router send back, in a sparse layer.
    """
    dm = dropout_backward(dy, cache.mlp_dropout)
    dm, grads = feed_forward_backward(dm, cache.mlp, drouter_logits)
    dn, grads["post_attention_layernorm.weight"] = fast_rmsnorm_backward(dm, cache.mlp_norm)
    dh = dy + dn

    da = dropout_backward(dh, cache.attention_dropout)
    dn, attention_grads = self_attention_backward(da, cache.self_attn)
    grads.update(attention_grads)
    dn, grads["input_layernorm.weight"] = fast_rmsnorm_backward(dn, cache.input_norm)
    return dh + dn, grads
