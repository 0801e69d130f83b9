"""Scaled dot-product attention with grouped key/value heads: the equation as it stands.

    out = softmax(scale * q k^T, hidden pairs left out) v

Query head h reads key/value head h // G with G = H / Hkv. Hkv = H is the multi-head attention of
Qwen, Hkv < H the grouped-query attention (GQA) of Qwen2.

The gradient. With scores s = scale * q k^T, probs P = softmax(s) and out = P v:

    dv = P^T dout                  dP = dout v^T
    ds = P * (dP - delta)          delta_i = sum_j dP_ij P_ij: the rows of P always sum to 1
    dq = scale * ds k              dk = scale * ds^T q

A key/value head serves G query heads, so dk and dv sum over the group.

Paper:    Qwen2 Technical Report, "Qwen2 Dense Model", Grouped Query Attention.
Origin:   Vaswani et al. 2017, arXiv:1706.03762; Ainslie et al. 2023, arXiv:2305.13245.
Differs:  a query that may look at nothing gets zeros and passes no gradient on; softmax would be
          0 / 0 there. All T * S probabilities are kept: block_attention.py gives the same result
          without them, and is what the model runs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..backend import Array, DType, array_module, widen
from ..shapes import require_axes, require_bool, require_float, require_shape


class AttentionCache(NamedTuple):
    q: Array  # (B, Hkv, G, T, Dh) queries, one group per key/value head, in at_least_float32
    k: Array  # (B, Hkv, 1, S, Dh) the 1 broadcasts over the group
    v: Array  # (B, Hkv, 1, S, Dh)
    probs: Array  # (B, Hkv, G, T, S) attention weights; each row sums to 1, or is all 0
    scale: float
    dtype: DType  # of the arguments


def attention_forward(
    q: Array, k: Array, v: Array, mask: Array | None = None, scale: float | None = None
) -> tuple[Array, AttentionCache]:
    """For every query, average the values, weighted by how well their keys match it.

    Args:
        q: (B, H, T, Dh) float, queries, already turned by RoPE.
        k: (B, Hkv, S, Dh) float, keys, turned too; S > T when a KV cache is in use.
        v: (B, Hkv, S, Dh) float, values.
        mask: (T, S) or (B, T, S) bool, True = the query may look at the key; see causal_mask and
            padding_mask. None hides nothing.
        scale: factor on the scores; None means 1 / sqrt(Dh).

    Returns:
        out: (B, H, T, Dh) in q.dtype; scores and softmax are in float32 or wider.
        cache: for attention_backward.

    Raises:
        TypeError: q, k, v are not floating point or not of one dtype, or mask is not boolean.
        ValueError: a shape does not fit, or H is not a multiple of Hkv.

    >>> q, k = np.zeros((1, 2, 1, 4)), np.zeros((1, 1, 2, 4))  # H=2 heads share Hkv=1
    >>> v = np.arange(8.0).reshape(1, 1, 2, 4)
    >>> attention_forward(q, k, v)[0][0, 1]  # equal scores give the mean of the values
    array([[2., 3., 4., 5.]])
    """
    xp = array_module(q)
    B, H, Hkv, T, S, Dh = attention_sizes(q, k, v)
    scale = Dh**-0.5 if scale is None else scale

    dtype, (q, k, v) = q.dtype, (widen(q), widen(k), widen(v))
    q, k, v = q.reshape(B, Hkv, H // Hkv, T, Dh), k[:, :, None], v[:, :, None]
    scores = (q @ k.swapaxes(-1, -2)) * scale  # (B, Hkv, G, T, S)
    if mask is not None:
        require_bool("mask", mask, "True = visible")
        require_shape("mask", mask, **({"B": B} if mask.ndim == 3 else {}), T=T, S=S)
        mask = xp.asarray(mask)
        mask = mask[:, None, None] if mask.ndim == 3 else mask
        scores = xp.where(mask, scores, -xp.inf)
    peak = xp.maximum(scores.max(axis=-1, keepdims=True), np.finfo(scores.dtype).min)
    weights = xp.exp(scores - peak)
    total = weights.sum(axis=-1, keepdims=True)
    probs = weights / (total + (total == 0))  # a row that sees nothing stays 0
    out = (probs @ v).reshape(B, H, T, Dh).astype(dtype, copy=False)
    return out, AttentionCache(q, k, v, probs, scale, dtype)


def attention_backward(dout: Array, cache: AttentionCache) -> tuple[Array, Array, Array]:
    """Return (dq, dk, dv), shaped like q, k and v, from dout (B, H, T, Dh).

    The forward steps in reverse. A hidden key has probs = 0, hence dscores = 0: no mask needed.
    """
    q, k, v, probs, scale, dtype = cache
    B, Hkv, G, T, Dh = q.shape
    require_shape("dout", dout, B=B, H=Hkv * G, T=T, Dh=Dh)

    dout = widen(dout).reshape(q.shape)
    dv = (probs.swapaxes(-1, -2) @ dout).sum(axis=2)  # (B, Hkv, S, Dh)
    dprobs = dout @ v.swapaxes(-1, -2)  # (B, Hkv, G, T, S)
    delta = (dprobs * probs).sum(axis=-1, keepdims=True)
    dscores = probs * (dprobs - delta) * scale
    dq = (dscores @ k).reshape(B, Hkv * G, T, Dh)
    dk = (dscores.swapaxes(-1, -2) @ q).sum(axis=2)  # (B, Hkv, S, Dh)
    return tuple(d.astype(dtype, copy=False) for d in (dq, dk, dv))


def attention_sizes(q: Array, k: Array, v: Array) -> tuple[int, int, int, int, int, int]:
    """Check q, k and v against each other and return (B, H, Hkv, T, S, Dh)."""
    require_float(q=q, k=k, v=v)
    require_axes("q", q, "B H T Dh")
    require_axes("k", k, "B Hkv S Dh")
    (B, H, T, Dh), (_, Hkv, S, _) = q.shape, k.shape
    require_shape("k", k, B=B, Hkv=Hkv, S=S, Dh=Dh)
    require_shape("v", v, B=B, Hkv=Hkv, S=S, Dh=Dh)
    if Hkv == 0 or H % Hkv:
        raise ValueError(f"H={H} query heads is not a multiple of Hkv={Hkv} key/value heads")
    return B, H, Hkv, T, S, Dh


def causal_mask(T: int, S: int, like: Array | None = None) -> Array:
    """Return (T, S) bool, True where a query may look: at itself and at what came before it.

    The T queries are the last of the S positions, as in decoding with a KV cache. The mask lives
    where `like` lives; without it, on the host.

    >>> causal_mask(2, 3).astype(int)
    array([[1, 1, 0],
           [1, 1, 1]])
    """
    mask: Array = array_module(like).tri(T, S, S - T, dtype=bool)
    return mask


def padding_mask(real: Array) -> Array:
    """Return (B, 1, S) bool from (B, S) bool, True = a real token: nobody looks at padding.

    It broadcasts against causal_mask: `causal_mask(T, S) & padding_mask(real)` is (B, T, S).

    >>> padding_mask(np.array([[False, True]])).shape
    (1, 1, 2)
    """
    require_bool("real", real, "True = real token")
    return real[:, None, :]


def mask_bias(mask: Array, like: Array) -> Array:
    """Return 0 where mask is True and -inf where it is False, to be added to scores like `like`.

    >>> mask_bias(np.array([True, False]), np.zeros(1))
    array([  0., -inf])
    """
    xp = array_module(like)
    mask = xp.asarray(mask)
    bias: Array = xp.where(mask, xp.zeros((), like.dtype), -xp.inf)
    return bias.astype(like.dtype, copy=False)


def group_heads(
    q: Array, k: Array, v: Array, real: Array | None, scale: float | None, window: int | None
) -> tuple[Array, Array, Array, Array | None, float, tuple[int, ...], DType]:
    """Check the arguments of causal attention and lay the heads of a group side by side.

    Returns:
        q: (B*Hkv, T, G, Dh) in at_least_float32, times scale.
        k, v: (B*Hkv, S, Dh).
        padding_bias: (B*Hkv, 1, S), 0 for a real key and -inf for padding; None if all are real.
        scale, shape, dtype: 1 / sqrt(Dh) in place of None; of the argument q.
    """
    B, H, Hkv, T, S, Dh = attention_sizes(q, k, v)
    if T > S:
        raise ValueError(f"T={T} queries cannot be the last of S={S} positions")
    if window is not None and window < 1:
        raise ValueError(f"window must be at least 1, a token sees itself, got {window}")
    scale, G, shape, dtype = Dh**-0.5 if scale is None else scale, H // Hkv, q.shape, q.dtype

    q = (widen(q) * scale).reshape(B * Hkv, G, T, Dh).swapaxes(1, 2)  # (B*Hkv, T, G, Dh)
    k, v = (widen(x).reshape(B * Hkv, S, Dh) for x in (k, v))
    bias = None
    if real is not None:
        require_bool("real", real, "True = real token")
        require_shape("real", real, B=B, S=S)
        bias = array_module(q).repeat(mask_bias(real, q), Hkv, axis=0)[:, None]
    return q, k, v, bias, scale, shape, dtype
