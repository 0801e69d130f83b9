"""The two losses of PPO: small steps for the policy, small steps for the value model.

    ratio = exp(log pi - log pi_old)
    L_policy = mean of max(-A ratio, -A clip(ratio, 1 - c, 1 + c))
    L_value  = mean of max((V - R)^2, (clip(V, V_old - cv, V_old + cv) - R)^2) / 2

The mean runs over the M tokens of answers. max takes the worse of the two: a step beyond the limit
earns nothing more, but a step in the wrong direction is always paid for.

The gradient of the policy. d ratio / d log pi = ratio. The clipped branch is flat where it differs
from the other one, so nothing flows where it is chosen:

    dlog pi = 0                       if A > 0 and ratio > 1 + c, or A < 0 and ratio < 1 - c
              dloss / M * -A ratio    else

The gradient of the value. In the same way:

    dV = dloss / M * (V - R)    if |V - V_old| <= cv, or (V - R)^2 > (clipped - R)^2;    0 else

Kinks, as PyTorch's autograd has them: exactly on a limit the token counts in full; where both
squares are equal beyond the limit it counts half. A, log pi_old, V_old and R are constants.

Paper:    Qwen Technical Report, 3.2.2 Reinforcement Learning: value clip 0.15.
Origin:   Schulman et al. 2017, arXiv:1707.06347, equation 7; the value clip: OpenAI baselines.
Differs:  the clip 0.2 of the policy is ours, as the report gives none. Where the exponential would
          overflow, ratio is held at the root of the largest number (bounded_exponent), and keeps
          its gradient there: such a token must come back; clip_grad_norm sets how fast.
"""

from __future__ import annotations

from typing import NamedTuple

from ..backend import Array, DType, array_module
from .kl_penalty import bounded_exponent
from .whitening import answer_only


class PPOPolicyLossCache(NamedTuple):
    ratio: Array  # (B, T) new over old, in at_least_float32; 1 for padding
    advantages: Array  # (B, T) zeros for padding, which so gets no gradient
    held: Array  # (B, T) bool, True = the clip acts, and the loss is flat
    tokens: Array  # () how many are of answers, at least 1
    dtype: DType  # of logprobs
    clip_fraction: Array  # () share of the tokens on which the clip acts; for metrics, as the next
    mean_ratio: Array  # () near 1 while the policies are close
    approx_kl: Array  # () k3 of KL(old || new), in nats: never negative


class PPOValueLossCache(NamedTuple):
    error: Array  # (B, T) V - R, in at_least_float32; zeros for padding
    share: Array  # (B, T) 1.0 where the branch without clip counts, 0.5 at a tie, else 0.0
    tokens: Array  # () how many are of answers, at least 1
    dtype: DType  # of values
    clip_fraction: Array  # () share of the tokens on which the clip acts; for metrics


def ppo_policy_loss_forward(
    logprobs: Array,
    old_logprobs: Array,
    advantages: Array,
    mask: Array,
    cliprange: float = 0.2,
) -> tuple[Array, PPOPolicyLossCache]:
    """Average the worse of the plain and the clipped objective, with a minus.

    Args:
        logprobs: (B, T) float, of the sampled tokens by the policy as it is now, in nats.
        old_logprobs: (B, T) float, by the policy that sampled them.
        advantages: (B, T) float, usually whitened.
        mask: (B, T) bool, True = a token of the answer.
        cliprange: how far the ratio may leave 1 with profit.

    Returns:
        loss: () in float32 or wider; 0 when there is no token.
        cache: for ppo_policy_loss_backward, and with numbers for metrics.

    Raises:
        TypeError: an array is not floating point or of another dtype, or mask is not boolean.
        ValueError: a shape does not fit.

    >>> import numpy as np
    >>> new, A = np.log(np.array([[1.5, 0.5]])), np.array([[1.0, 1.0]])
    >>> loss, cache = ppo_policy_loss_forward(new, np.zeros((1, 2)), A, np.ones((1, 2), bool))
    >>> float(loss.round(6)), float(cache.clip_fraction)  # -(1.2 + 0.5) / 2
    (-0.85, 0.5)
    """
    xp, cliprange = array_module(logprobs), float(cliprange)
    mask, (new, old, A) = answer_only(
        mask, logprobs=logprobs, old_logprobs=old_logprobs, advantages=advantages
    )
    tokens = xp.maximum(mask.sum(), 1).astype(new.dtype)

    log_ratio = new - old
    ratio = xp.exp(bounded_exponent(log_ratio))
    clipped = xp.clip(ratio, 1 - cliprange, 1 + cliprange)
    loss = xp.maximum(-A * ratio, -A * clipped).sum() / tokens
    held = xp.where(A > 0, ratio > 1 + cliprange, (A < 0) & (ratio < 1 - cliprange))

    clip_fraction = held.sum().astype(new.dtype) / tokens
    mean_ratio = (ratio * mask).sum() / tokens
    approx_kl = (ratio - 1 - log_ratio).sum() / tokens
    return loss, PPOPolicyLossCache(
        ratio, A, held, tokens, logprobs.dtype, clip_fraction, mean_ratio, approx_kl
    )


def ppo_policy_loss_backward(dloss: Array | float, cache: PPOPolicyLossCache) -> Array:
    """Return dlogprobs, shaped like logprobs; zeros for padding and where the clip acts."""
    ratio, A, held, tokens, dtype, *_ = cache
    scale = (dloss / tokens).astype(ratio.dtype)
    dlogprobs: Array = (-A * ratio * ~held * scale).astype(dtype, copy=False)
    return dlogprobs


def ppo_value_loss_forward(
    values: Array,
    old_values: Array,
    returns: Array,
    mask: Array,
    cliprange_value: float = 0.15,
) -> tuple[Array, PPOValueLossCache]:
    """Average half of the worse squared error, of the values and of the clipped values.

    Args:
        values: (B, T) float, of the value model as it is now.
        old_values: (B, T) float, as it was when the texts were sampled.
        returns: (B, T) float, of gae.
        mask: (B, T) bool, True = a token of the answer.
        cliprange_value: how far a value may leave the old one with profit.

    Returns:
        loss: () in float32 or wider; 0 when there is no token.
        cache: for ppo_value_loss_backward, and with a number for metrics.

    Raises:
        TypeError: an array is not floating point or of another dtype, or mask is not boolean.
        ValueError: a shape does not fit.

    >>> import numpy as np
    >>> V, old, R = np.array([[3.0]]), np.array([[1.0]]), np.array([[4.0]])
    >>> loss, _ = ppo_value_loss_forward(V, old, R, np.ones((1, 1), bool), cliprange_value=1.0)
    >>> float(loss)  # clipped to 2, so (2 - 4)^2 / 2
    2.0
    """
    xp, cliprange_value = array_module(values), float(cliprange_value)
    mask, (V, V_old, R) = answer_only(mask, values=values, old_values=old_values, returns=returns)
    tokens = xp.maximum(mask.sum(), 1).astype(V.dtype)

    limited = xp.clip(V, V_old - cliprange_value, V_old + cliprange_value)
    error, limited_error = V - R, limited - R
    far, near = error * error, limited_error * limited_error
    loss = xp.maximum(far, near).sum() / 2 / tokens
    share = xp.where(limited == V, 1, (1 + xp.sign(far - near)) / 2)

    clip_fraction = (share == 0).sum().astype(V.dtype) / tokens
    return loss, PPOValueLossCache(error, share, tokens, values.dtype, clip_fraction)


def ppo_value_loss_backward(dloss: Array | float, cache: PPOValueLossCache) -> Array:
    """Return dvalues, shaped like values; zeros for padding and where the clip acts."""
    error, share, tokens, dtype, *_ = cache
    weight = (dloss / tokens).astype(error.dtype)
    dvalues: Array = (error * share * weight).astype(dtype, copy=False)
    return dvalues
