"""Direct preference optimisation (DPO): the pairwise loss, with the policy as its own reward model.

    loss  = mean over the pairs of  -log sigmoid(chosen reward - rejected reward)
    reward = beta * (log pi(answer) - log ref(answer))

Why that is a reward. The policy that makes E[r] - beta * KL(pi || ref) as large as it can be is
pi(y|x) = ref(y|x) exp(r(x, y) / beta) / Z(x). Solved for r:

    r(x, y) = beta * (log pi(y|x) - log ref(y|x)) + beta * log Z(x)

and in the difference of two answers to one prompt the unknown Z(x) falls out. So the pairs can
train the policy itself, without a reward model and without sampling.

The gradient. The reference is a constant, so with the gradient of the pairwise loss:

    dchosen_b = beta * dreward_chosen_b = -dloss * beta / B * sigmoid(-lead_b)
    drejected_b = -dchosen_b

At the start pi = ref: all rewards are 0, the loss is ln 2 and every pair pulls with beta / 2B.

Paper:    Qwen2 Technical Report, Post-training, Reinforcement Learning from Human Feedback:
          offline on a fixed set of pairs, then online on pairs that a reward model picks.
Origin:   Rafailov et al. 2023, arXiv:2305.18290, equation 7.
Differs:  nothing. The log-probabilities are sums over the answer, see token_logprobs.py; Qwen2 does
          not publish its beta.
"""

from __future__ import annotations

from typing import NamedTuple

from ..backend import Array, DType, widen
from ..shapes import require_axes, require_float, require_same_shape
from .pairwise_loss import PairwiseLossCache, pairwise_loss_backward, pairwise_loss_forward


class DpoLossCache(NamedTuple):
    chosen_rewards: Array  # (B,) implicit rewards, in at_least_float32: for metrics too
    rejected_rewards: Array  # (B,)
    pairs: PairwiseLossCache
    beta: float
    dtype: DType  # of the log-probabilities


def dpo_loss_forward(
    chosen_logprobs: Array,
    rejected_logprobs: Array,
    ref_chosen_logprobs: Array,
    ref_rejected_logprobs: Array,
    beta: float = 0.1,
) -> tuple[Array, DpoLossCache]:
    """Compare how much the policy has raised the chosen and the rejected answers.

    Args:
        chosen_logprobs: (B,) float, of the preferred answers by the policy, in nats: sums over the
            answer's tokens, the prompt left out (sequence_logprobs_forward).
        rejected_logprobs: (B,) float, of the other answers to the same prompts.
        ref_chosen_logprobs: (B,) float, the same by the reference, which does not learn.
        ref_rejected_logprobs: (B,) float.
        beta: how dear it is to leave the reference: rewards per nat, above 0.

    Returns:
        loss: () in nats, in float32 or wider; ln 2 when policy and reference are equal.
        cache: for dpo_loss_backward. Its chosen_rewards and rejected_rewards are for plots: chosen
            is above rejected where the policy ranks a pair right.

    Raises:
        TypeError: an array is not floating point, or the dtypes differ.
        ValueError: the shapes differ, there is no pair, or beta is not above 0.

    >>> import numpy as np
    >>> chosen, rejected = np.array([-5.0]), np.array([-7.0])
    >>> loss, cache = dpo_loss_forward(chosen, rejected, chosen - 10, rejected, beta=0.1)
    >>> cache.chosen_rewards, cache.rejected_rewards  # ten nats more likely than before, times 0.1
    (array([1.]), array([0.]))
    """
    policy = {"chosen_logprobs": chosen_logprobs, "rejected_logprobs": rejected_logprobs}
    reference = {
        "ref_chosen_logprobs": ref_chosen_logprobs,
        "ref_rejected_logprobs": ref_rejected_logprobs,
    }
    require_float(**policy, **reference)
    require_axes("chosen_logprobs", chosen_logprobs, "B")
    require_same_shape(**policy, **reference)
    if not beta > 0:
        raise ValueError(f"beta must be above 0, got {beta}")
    beta = float(beta)  # a NumPy number would widen float32

    chosen_rewards = beta * (widen(chosen_logprobs) - widen(ref_chosen_logprobs))
    rejected_rewards = beta * (widen(rejected_logprobs) - widen(ref_rejected_logprobs))
    loss, pairs = pairwise_loss_forward(chosen_rewards, rejected_rewards)
    return loss, DpoLossCache(chosen_rewards, rejected_rewards, pairs, beta, chosen_logprobs.dtype)


def dpo_loss_backward(dloss: Array | float, cache: DpoLossCache) -> tuple[Array, Array]:
    """Return (dchosen_logprobs, drejected_logprobs), both (B,); the reference gets no gradient."""
    _, _, pairs, beta, dtype = cache
    dchosen_rewards, drejected_rewards = pairwise_loss_backward(dloss, pairs)
    dchosen, drejected = beta * dchosen_rewards, beta * drejected_rewards
    return dchosen.astype(dtype, copy=False), drejected.astype(dtype, copy=False)
