"""Entropy of the next token, and the whole divergence from the reference; reports with gradients.

    H  = -sum_v p_v log p_v                        how undecided the policy is, in nats
    KL = sum_v p_v (log p_v - log q_v)             p = softmax(z), q = softmax(z_ref)

Both look at all V tokens of a position; the estimators of kl_penalty.py look at the sampled one.
As in cross_entropy.py the rows are worked on in blocks, so that no second array as large as the
logits is made, and a logit of -inf (a token that is ruled out) adds nothing.

The gradient. dlog p_v / dz_u = [u = v] - p_u, so a sum of p_v f_v with f_v = a + log p_v has

    d/dz_u sum_v p_v f_v = p_u (f_u - sum_v p_v f_v) + sum_v p_v ([u = v] - p_u)    the last is 0

    dH/dz_u  = -p_u (log p_u + H)                  with f = log p,  sum p f = -H
    dKL/dz_u =  p_u (log p_u - log q_u - KL)       with f = log p - log q; q is a constant

Paper:    Qwen Technical Report, 3.2.2 Reinforcement Learning: top-p 0.9 slightly lowers the entropy
          of what is sampled.
Origin:   Shannon 1948; Kullback and Leibler 1951.
Differs:  the divergence is reported only; the entropy is a term of the loss where entropy_coef is
          above 0 (policy_update.py). It is 0 by default: the report names no such term.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..backend import Array, array_module, at_least_float32, widen
from ..layers.cross_entropy import row_blocks
from ..shapes import require_float, require_same_shape


class EntropyCache(NamedTuple):
    logits: Array  # (N, V) a view of the argument: do not overwrite it before the backward pass
    lse: Array  # (N, 1) log of the sum of exponentials, in at_least_float32
    entropy: Array  # (N, 1) the same
    shape: tuple[int, ...]  # of the argument
    block: int | None


class ExactKLCache(NamedTuple):
    logits: Array  # (N, V) views of the arguments: do not overwrite them before the backward pass
    ref_logits: Array  # (N, V)
    lse: Array  # (N, 1) log of the sum of exponentials, in at_least_float32
    ref_lse: Array  # (N, 1) the same of the reference
    kl: Array  # (N, 1)
    shape: tuple[int, ...]  # of the argument
    block: int | None


def entropy_forward(logits: Array, block: int | None = None) -> tuple[Array, EntropyCache]:
    """Return how undecided each position is.

    Args:
        logits: (..., V) float, unnormalised log-probabilities; usually (B, T, V).
        block: numbers per step, as in cross_entropy_forward.

    Returns:
        entropy: (...) in nats, in the dtype of logits; 0 for a row of -inf only.
        cache: for entropy_backward.

    Raises:
        TypeError: logits are not floating point.

    >>> H, cache = entropy_forward(np.zeros((1, 4)))
    >>> bool(abs(H[0] - np.log(4)) < 1e-15)
    True
    """
    require_float(logits=logits)
    z = logits.reshape(-1, logits.shape[-1])
    lse, H = (array_module(z).empty((len(z), 1), dtype=at_least_float32(z)) for _ in range(2))

    for rows in row_blocks(z, block):
        lse[rows] = log_sum_exp(z[rows])
        log_p, p = log_softmax(z[rows], lse[rows])
        H[rows] = -(p * log_p).sum(axis=-1, keepdims=True)
    entropy = H.reshape(logits.shape[:-1]).astype(logits.dtype, copy=False)
    return entropy, EntropyCache(z, lse, H, logits.shape, block)


def entropy_backward(dentropy: Array, cache: EntropyCache) -> Array:
    """Return dlogits, shaped like logits: -p (log p + H) * dentropy."""
    z, lse, H, shape, block = cache
    dH = widen(dentropy).reshape(-1, 1)  # (N, 1)
    dz = array_module(z).empty_like(z)
    for rows in row_blocks(z, block):
        log_p, p = log_softmax(z[rows], lse[rows])
        dz[rows] = -p * (log_p + H[rows]) * dH[rows]
    dlogits: Array = dz.reshape(shape)
    return dlogits


def exact_kl_forward(
    logits: Array, ref_logits: Array, block: int | None = None
) -> tuple[Array, ExactKLCache]:
    """Return KL(policy || reference) of each position, over the whole vocabulary.

    Args:
        logits: (..., V) float, of the policy; usually (B, T, V).
        ref_logits: (..., V) float, of the reference, a constant.
        block: numbers per step, as in cross_entropy_forward.

    Returns:
        kl: (...) in nats, in the dtype of logits; huge, but finite in float32 or wider, where the
            reference rules out (-inf) what the policy does not.
        cache: for exact_kl_backward.

    Raises:
        TypeError: logits are not floating point, or of two dtypes.
        ValueError: the shapes differ.

    >>> kl, _ = exact_kl_forward(np.log([[0.5, 0.5]]), np.log([[0.25, 0.75]]))
    >>> bool(abs(kl[0] - np.log(4 / 3) / 2) < 1e-15)  # log(2) / 2 + log(2 / 3) / 2
    True
    """
    require_float(logits=logits, ref_logits=ref_logits)
    require_same_shape(logits=logits, ref_logits=ref_logits)
    z, z_ref = (x.reshape(-1, logits.shape[-1]) for x in (logits, ref_logits))
    empty, dtype = array_module(z).empty, at_least_float32(z)
    lse, ref_lse, kl = (empty((len(z), 1), dtype=dtype) for _ in range(3))

    for rows in row_blocks(z, block):
        lse[rows], ref_lse[rows] = log_sum_exp(z[rows]), log_sum_exp(z_ref[rows])
        log_p, p = log_softmax(z[rows], lse[rows])
        log_q, _ = log_softmax(z_ref[rows], ref_lse[rows])
        kl[rows] = (p * (log_p - log_q)).sum(axis=-1, keepdims=True)
    result = kl.reshape(logits.shape[:-1]).astype(logits.dtype, copy=False)
    return result, ExactKLCache(z, z_ref, lse, ref_lse, kl, logits.shape, block)


def exact_kl_backward(dkl: Array, cache: ExactKLCache) -> Array:
    """Return dlogits, shaped like logits: p (log p - log q - KL) * dkl."""
    z, z_ref, lse, ref_lse, kl, shape, block = cache
    upstream = widen(dkl).reshape(-1, 1)  # (N, 1)
    dz = array_module(z).empty_like(z)
    for rows in row_blocks(z, block):
        log_p, p = log_softmax(z[rows], lse[rows])
        log_q, _ = log_softmax(z_ref[rows], ref_lse[rows])
        dz[rows] = p * (log_p - log_q - kl[rows]) * upstream[rows]
    dlogits: Array = dz.reshape(shape)
    return dlogits


def log_sum_exp(z: Array) -> Array:
    """Return log sum exp of each row (N, V) as (N, 1), in at_least_float32.

    >>> log_sum_exp(np.array([[1000.0, 1000.0]])) - 1000 == np.log(2.0)
    array([[False]])
    """
    xp, wide = array_module(z), widen(z)
    peak = xp.maximum(wide.max(axis=-1, keepdims=True), float(np.finfo(wide.dtype).min))
    total = xp.exp(wide - peak).sum(axis=-1, keepdims=True)
    lse: Array = peak + xp.log(total + (total == 0))  # a row of -inf has nothing to add up
    return lse


def log_softmax(z: Array, lse: Array) -> tuple[Array, Array]:
    """Return log p and p of rows (N, V); log p is finite, also for p = 0: p log p is 0 then.

    >>> log_softmax(np.array([[0.0, -np.inf]]), np.array([[0.0]]))[1]
    array([[1., 0.]])
    """
    xp = array_module(z)
    log_p = xp.maximum(widen(z) - lse, float(np.finfo(lse.dtype).min) / 2)
    return log_p, xp.exp(log_p)
