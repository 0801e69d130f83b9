"""Log-probabilities of given tokens, and of whole answers.

    l_t = log softmax(s_t)[id_t] = s_t[id_t] - log sum_v exp(s_tv)        s = z / temperature
    L_b = sum over the answer's tokens t of l_bt

An answer's probability is the product of those of its tokens, so its logarithm is the sum. PPO
compares l token by token, DPO compares L. The temperature is that of the sampling: leave it out on
one side and a policy differs from itself.

The largest logit of a row is taken out, so that nothing overflows, and rows are worked on in
blocks, as in cross_entropy.py: no second array as large as the logits is made.

The gradient. With p = softmax(s), the log of the sum gives p_v and the token itself 1:

    dz_tv = dl_t / temperature * ([v = id_t] - p_tv)
    dl_bt = dL_b for a token of the answer, else 0       (mean: divided by how many there are)

Paper:    Qwen Technical Report, 3.2.2 Reinforcement Learning (policy and reference).
          Qwen2 Technical Report, Post-training, Reinforcement Learning from Human Feedback.
Origin:   Ouyang et al. 2022, arXiv:2203.02155; Rafailov et al. 2023, arXiv:2305.18290.
Differs:  the ids are the next tokens already: nothing is shifted in here.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..backend import Array, DType, array_module, at_least_float32, widen
from ..layers.cross_entropy import row_blocks
from ..shapes import require_axes, require_bool, require_float, require_ids, require_same_shape


class TokenLogprobsCache(NamedTuple):
    logits: Array  # (N, V) a view of the argument: do not overwrite it before the backward pass
    ids: Array  # (N,) int, on the device of the logits
    peak: Array  # (N,) largest logit of each row, in at_least_float32
    log_total: Array  # (N,) log of the sum of exp((z - peak) / temperature)
    temperature: float
    shape: tuple[int, ...]  # of the argument
    block: int | None


def token_logprobs_forward(
    logits: Array, ids: Array, temperature: float = 1.0, block: int | None = None
) -> tuple[Array, TokenLogprobsCache]:
    """Read off the log-probability of each given token.

    Args:
        logits: (..., V) float, unnormalised log-probabilities; usually (B, T, V).
        ids: (...) int in [0, V), the token that follows each position. Where no token counts, as in
            padding, put any id and hide the result: -100 is refused.
        temperature: the logits are divided by it, as when the answer was sampled.
        block: numbers per step, see cross_entropy_forward.

    Returns:
        logprobs: (...) in logits.dtype, in nats, 0 or less; sums are taken in float32 or wider.
            Half precision keeps three digits: widen such logits first where two policies meet.
        cache: for token_logprobs_backward.

    Raises:
        TypeError: logits are not floating point, or ids not integers.
        ValueError: a shape does not fit, an id is not in [0, V), or the temperature is not above 0.

    >>> logits, ids = np.zeros((1, 2, 4)), np.array([[3, 0]])  # four tokens, equally likely
    >>> token_logprobs_forward(logits, ids)[0].round(6), float(np.log(1 / 4).round(6))
    (array([[-1.386294, -1.386294]]), -1.386294)
    """
    require_float(logits=logits)
    if ids.shape != logits.shape[:-1]:
        raise ValueError(f"ids must have shape {logits.shape[:-1]}, got {ids.shape}")
    require_ids("ids", ids, logits.shape[-1], "V")
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    xp, temperature = array_module(logits), float(temperature)  # a NumPy number would widen

    z, token = logits.reshape(-1, logits.shape[-1]), xp.asarray(ids).reshape(-1)  # (N, V), (N,)
    peak, log_total = (xp.zeros(token.shape, dtype=at_least_float32(z)) for _ in range(2))
    lowest = float(np.finfo(peak.dtype).min)  # stands in for the peak of a row of -inf
    for rows in row_blocks(z, block):
        part = widen(z[rows])  # (rows, V)
        peak[rows] = xp.maximum(part.max(axis=-1), lowest)
        part = (part - peak[rows, None]) / temperature
        total = xp.exp(part, out=part).sum(axis=-1)
        log_total[rows] = xp.log(total + (total == 0))
    chosen = widen(z[xp.arange(len(token)), token])
    logprobs = (chosen - peak) / temperature - log_total
    logprobs = logprobs.reshape(ids.shape).astype(logits.dtype, copy=False)
    return logprobs, TokenLogprobsCache(z, token, peak, log_total, temperature, logits.shape, block)


def token_logprobs_backward(dlogprobs: Array, cache: TokenLogprobsCache) -> Array:
    """Return dlogits, shaped like logits: (one_hot(id) - p) * dlogprobs / temperature."""
    z, token, peak, log_total, temperature, shape, block = cache
    xp = array_module(z)
    dl = widen(dlogprobs).reshape(-1) / temperature  # (N,)

    dz = xp.empty_like(z)
    for rows in row_blocks(z, block):
        part = (widen(z[rows]) - peak[rows, None]) / temperature - log_total[rows, None]
        p = xp.exp(part, out=part)  # (rows, V)
        p *= -dl[rows, None]
        dz[rows] = p
    dz[xp.arange(len(token)), token] += dl.astype(dz.dtype)
    dlogits: Array = dz.reshape(shape)
    return dlogits


class SequenceLogprobsCache(NamedTuple):
    weight: Array  # (B, T) what each token counts, in at_least_float32; 0 where the mask hides it
    dtype: DType  # of logprobs


def sequence_logprobs_forward(
    logprobs: Array, mask: Array, reduction: str = "sum"
) -> tuple[Array, SequenceLogprobsCache]:
    """Add up the log-probabilities of each answer.

    Args:
        logprobs: (B, T) float, from token_logprobs_forward.
        mask: (B, T) bool, True = a token of the answer (its end token too), False = prompt or
            padding.
        reduction: "sum", the log-probability of the answer, which DPO compares; or "mean", the same
            per token, so that a long answer weighs as much as a short one (SimPO, not DPO).

    Returns:
        sequence_logprobs: (B,) in logprobs.dtype; 0 for a row without a token.
        cache: for sequence_logprobs_backward.

    Raises:
        TypeError: logprobs are not floating point, or mask is not boolean.
        ValueError: a shape does not fit, or the reduction is neither.

    >>> logprobs, mask = np.array([[-9.0, -1.0, -3.0]]), np.array([[False, True, True]])
    >>> [float(sequence_logprobs_forward(logprobs, mask, how)[0][0]) for how in ("sum", "mean")]
    [-4.0, -2.0]
    """
    require_axes("logprobs", logprobs, "B T")
    require_float(logprobs=logprobs)
    require_bool("mask", mask, "True = a token of the answer")
    require_same_shape(mask=mask, logprobs=logprobs)
    if reduction not in ("sum", "mean"):
        raise ValueError(f'reduction must be "sum" or "mean", got {reduction!r}')
    xp = array_module(logprobs)

    mask = xp.asarray(mask)
    weight = mask.astype(at_least_float32(logprobs))
    if reduction == "mean":
        weight = weight / xp.maximum(weight.sum(axis=1, keepdims=True), 1)
    counted = xp.where(mask, widen(logprobs), 0)  # a product alone would turn 0 * -inf into NaN
    y = (counted * weight).sum(axis=1).astype(logprobs.dtype, copy=False)
    return y, SequenceLogprobsCache(weight, logprobs.dtype)


def sequence_logprobs_backward(dy: Array, cache: SequenceLogprobsCache) -> Array:
    """Return dlogprobs (B, T) from dy (B,): every token of an answer gets that of the answer."""
    weight, dtype = cache
    dlogprobs: Array = (weight * widen(dy)[:, None]).astype(dtype, copy=False)
    return dlogprobs
