"""Pairwise loss: teach a reward model which of two answers people like better.

    loss = mean over the pairs b of  -log sigmoid(x_b)        x_b = chosen_b - rejected_b - margin_b

By Bradley and Terry, sigmoid(x) is the probability that the first of two answers wins when its
reward is higher by x; the loss is the surprise at what people chose. Only differences count: add
a constant to all rewards and nothing changes.

sigmoid(-800) is 0 in float64 and its log minus infinity, so the log is taken by hand:

    -log sigmoid(x) = log(1 + exp(-x)) = max(-x, 0) + log1p(exp(-|x|))

The gradient. d(-log sigmoid(x)) / dx = -sigmoid(-x), the probability of the wrong answer, and
x grows with one reward and falls with the other:

    dchosen_b = -dloss / B * sigmoid(-x_b)        drejected_b = -dchosen_b

sigmoid(-x) = exp(-log(1 + exp(x))) = exp(-(x - log sigmoid(x))) keeps all its digits also where it
is tiny. A pair that is ranked right by far teaches nothing more, a wrong one pulls with 1 / B.

Paper:    Qwen Technical Report, 3.2.1 Reward Model.
Origin:   Bradley and Terry 1952; Christiano et al. 2017, arXiv:1706.03741.
Differs:  the margin is Llama 2's (arXiv:2307.09288, equation 2), not Qwen's: None for Qwen.
          There is no term that keeps the rewards around 0.
"""

from __future__ import annotations

from typing import NamedTuple

from ..backend import Array, DType, array_module, widen
from ..shapes import require_axes, require_float, require_same_shape, require_shape


class PairwiseLossCache(NamedTuple):
    lead: Array  # (B,) by how much chosen is ahead, less the margin, in at_least_float32
    surprise: Array  # (B,) -log sigmoid(lead)
    dtype: DType  # of the rewards


def pairwise_loss_forward(
    chosen_rewards: Array, rejected_rewards: Array, margin: Array | None = None
) -> tuple[Array, PairwiseLossCache]:
    """Average the surprise -log sigmoid(chosen - rejected - margin) over the pairs.

    Args:
        chosen_rewards: (B,) float, of the answers that were preferred.
        rejected_rewards: (B,) float, of the others, in the same order.
        margin: (B,) float, by how much chosen must be ahead to count as equal; a constant. None: 0.

    Returns:
        loss: () in nats, in float32 or wider; ln 2 when all rewards are equal.
        cache: for pairwise_loss_backward.

    Raises:
        TypeError: an array is not floating point, or the dtypes differ.
        ValueError: the shapes differ, or there is no pair.

    >>> import numpy as np
    >>> loss, cache = pairwise_loss_forward(np.array([0.5]), np.array([0.5]))
    >>> float(loss.round(6)), float(np.log(2).round(6))
    (0.693147, 0.693147)
    """
    require_float(chosen_rewards=chosen_rewards, rejected_rewards=rejected_rewards, margin=margin)
    require_axes("chosen_rewards", chosen_rewards, "B")
    require_same_shape(chosen_rewards=chosen_rewards, rejected_rewards=rejected_rewards)
    if not len(chosen_rewards):
        raise ValueError("chosen_rewards must hold at least one pair, got shape (0,)")
    xp = array_module(chosen_rewards)

    lead = widen(chosen_rewards) - widen(rejected_rewards)
    if margin is not None:
        require_shape("margin", margin, B=len(lead))
        lead = lead - widen(margin)
    surprise = xp.maximum(-lead, 0) + xp.log1p(xp.exp(-xp.abs(lead)))
    loss = surprise.mean()
    return loss, PairwiseLossCache(lead, surprise, chosen_rewards.dtype)


def pairwise_loss_backward(dloss: Array | float, cache: PairwiseLossCache) -> tuple[Array, Array]:
    """Return (dchosen_rewards, drejected_rewards), both (B,): -+ sigmoid(-lead) * dloss / B."""
    lead, surprise, dtype = cache
    wrong = array_module(lead).exp(-(lead + surprise))  # (B,) sigmoid(-lead)
    drejected = (wrong * dloss / len(lead)).astype(dtype, copy=False)
    return -drejected, drejected
