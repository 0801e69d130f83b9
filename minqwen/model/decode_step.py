"""One new token for every row: the pass of language_model.py, with all that repeats taken out.

In decoding, a layer is a handful of products with one row. In a small model they take less time
than the calls around them: checks of shapes, tables of positions, a cache for a backward pass that
nobody will ask for. What is the same at every step is done once here, by `decode_weights`:

    cos, sin of every position that fits into the KV cache; the parameters of each layer, sorted;
    the biases of q, k and v in one row

and a step is the equation alone, on (B, D) instead of (B, T, D). A query that comes last sees
every key in the cache, so there is no mask but that of padding.

Measured (one thread, 5M parameters, 64 tokens after 128): see `benchmarks`, "decode". The plain
pass spends 1.8 ms a token on calls, this one 0.5 ms.

`row_layout` is the other half, for those who decode much. A product of one row reads the weights
once and in order; BLAS does that fastest when the numbers that meet the same input lie side by
side, so the (out, in) weights are laid out with `out` as the fastest axis. Shapes stay the same.

Paper:    neither report describes it.
Differs:  the same numbers as language_model_forward, to rounding (tests/model/test_decode_step.py).
          Dynamic NTK, LogN, dual chunk attention and half precision stay with the plain pass.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..backend import Array, array_module
from ..layers.attention import mask_bias
from ..layers.rope import rotate_half
from ..layers.swiglu import sigmoid
from ..params import Params, scopes
from .backbone import EMBEDDING, NORM, default_positions
from .config import QwenConfig
from .feed_forward import ROUTER, SWIGLU, feed_forward_forward
from .kv_cache import KVCache
from .language_model import HEAD
from .layer_plan import layer_plans, position_tables
from .rope_scaling import depends_on_length

QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


class DecodeWeights(NamedTuple):
    params: Params
    config: QwenConfig
    layers: list[Params]  # the same arrays, one dict a layer
    qkv_bias: list[Array | None]  # ((H + 2 Hkv) * Dh,) for each layer
    cos: Array  # (positions, Dh)
    sin: Array  # (positions, Dh)


def decode_weights(params: Params, config: QwenConfig, max_length: int) -> DecodeWeights | None:
    """Prepare for decode_step, once for each text.

    Args:
        params: of the model.
        config: of the model.
        max_length: room of the KV cache: positions are below it.

    Returns:
        What decode_step takes; the weights are not copied. None where only the plain pass will do.
    """
    table = params[EMBEDDING]
    if (
        table.dtype not in (np.float32, np.float64)
        or depends_on_length(config)
        or config.use_logn_attn
        or config.dual_chunk_attention_config is not None
    ):
        return None
    xp, positions = array_module(table), np.arange(max_length)
    plan = layer_plans(config, [max_length])[0]
    tables = position_tables(plan, config, positions, positions, table)
    layers = scopes(params, "model.layers", config.num_hidden_layers)
    biases = [
        xp.concatenate([layer[f"{name}.bias"] for name in QKV])
        if f"{QKV[0]}.bias" in layer
        else None
        for layer in layers
    ]
    return DecodeWeights(params, config, layers, biases, tables.cos, tables.sin)


def decode_step(weights: DecodeWeights, ids: Array, kv_cache: KVCache) -> Array:
    """Run the model on one token of every row and add it to the cache.

    Args:
        weights: of decode_weights.
        ids: (B,) int in [0, V), on the host: what `sample` chose.
        kv_cache: holds what came before; its room is at most what `weights` was made for.

    Returns:
        logits: (B, V) in the dtype of the parameters.

    Raises:
        ValueError: the cache is not for this model and batch, or is full.
    """
    params, config, layers, biases, cos, sin = weights
    H, Hkv, Dh = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    table = params[EMBEDDING]
    xp, B, eps = array_module(table), len(ids), config.rms_norm_eps
    kv_cache.require_room(config, B, 1)
    if kv_cache.max_length > len(cos):
        raise ValueError(f"kv_cache has max_length={kv_cache.max_length}, weights {len(cos)}")
    real = kv_cache.extend_real(None, 1)  # (B, S), or None
    positions = default_positions(real, kv_cache.length, 1)  # (1,), or (B, 1) with padding
    kv_cache.begin((), ids[:, None], positions, positions)
    cos, sin = (t[xp.asarray(positions)].reshape(-1, 1, Dh) for t in (cos, sin))  # (1 or B, 1, Dh)
    bias = None if real is None else mask_bias(real, table)[:, None, None]  # (B, 1, 1, S)

    x = table[xp.asarray(ids)]  # (B, D)
    for i, (layer, qkv_bias) in enumerate(zip(layers, biases, strict=True)):
        n = norm(x, layer["input_layernorm.weight"], eps)
        qkv = xp.concatenate([n @ layer[f"{name}.weight"].T for name in QKV], axis=1)
        if qkv_bias is not None:
            qkv += qkv_bias
        qkv = qkv.reshape(B, H + 2 * Hkv, Dh)
        q, k, v = qkv[:, :H], qkv[:, H : H + Hkv], qkv[:, H + Hkv :]
        if config.qk_norm:
            q = norm(q, layer["self_attn.q_norm.weight"], eps)
            k = norm(k, layer["self_attn.k_norm.weight"], eps)
        q, k = (x_ * cos + rotate_half(x_) * sin for x_ in (q, k))  # as in rope.py
        keys, values = kv_cache.store(i, k[:, :, None], v[:, :, None])  # (B, Hkv, S, Dh)
        scores = (q * Dh**-0.5).reshape(B, Hkv, H // Hkv, Dh) @ keys.swapaxes(-1, -2)
        if bias is not None:
            scores += bias[..., -scores.shape[-1] :]
        w = xp.exp(scores - scores.max(axis=-1, keepdims=True))  # the new token itself is real
        a = (w @ values) / w.sum(axis=-1, keepdims=True)  # (B, Hkv, G, Dh)
        x = x + a.reshape(B, H * Dh) @ layer["self_attn.o_proj.weight"].T

        n = norm(x, layer["post_attention_layernorm.weight"], eps)
        if ROUTER in layer:
            x = x + feed_forward_forward(n[:, None], layer, config)[0][:, 0]
        else:
            w_gate, w_up, w_down = (layer[name] for name in SWIGLU)
            gate = n @ w_gate.T
            x = x + (gate * sigmoid(gate) * (n @ w_up.T)) @ w_down.T
    kv_cache.advance(real)
    w_head = table if config.tie_word_embeddings else params[HEAD]
    logits: Array = norm(x, params[NORM], eps) @ w_head.T
    return logits


def norm(x: Array, w: Array, eps: float) -> Array:
    """Return rmsnorm.py's y."""
    mean = (x * x).sum(axis=-1, keepdims=True) / x.shape[-1]
    y: Array = x * (1.0 / array_module(x).sqrt(mean + eps)) * w
    return y


def row_layout(params: Params) -> Params:
    """Return the parameters with matrices laid out for products of one row.

    Names, shapes and values are the same, `x @ w.T` as well; the numbers w[:, i] lie side by side.
    Every matrix is copied, so this takes the memory of the model once more.

    >>> row_layout({"w": np.ones((3, 2))})["w"].strides
    (8, 24)
    """
    laid_out: Params = {}
    for name, w in params.items():
        xp = array_module(w)
        matrix = w.ndim == 2 and name != EMBEDDING
        laid_out[name] = xp.ascontiguousarray(w.T).T if matrix else w
    return laid_out
