"""The policy's update: the clipped loss, less entropy if wanted, more of pretraining if wanted.

    L = L_policy - entropy_coef * H + ptx_coef * L_LM

    L_policy   mean over the tokens of answers of the worse of two objectives     ppo_loss.py
    H          mean over the same tokens of the entropy                           entropy.py
    L_LM       mean loss over the tokens of rows of text, as in pretraining

The gradient. Of the logits of answers, with z = logits / temperature and M tokens of answers:

    dz = dL_policy/dlog pi * (one_hot - p)  +  entropy_coef / M * p (log p + H)
    dlogits = dz / temperature

which goes back through the model; that of L_LM, from other rows, is added parameter by parameter.

Paper:    Qwen Technical Report, 3.2.2 Reinforcement Learning: pretraining gradient. Its coefficient
          is not published: too large hurts alignment, too small does nothing.
Origin:   Ouyang et al. 2022, arXiv:2203.02155, section 3.5 (PPO-ptx); Schulman et al. 2017,
          arXiv:1707.06347, equation 9 (entropy).
Differs:  entropy_coef = 0: the report names no such term.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from ..backend import Array, array_module
from ..data.packing import batch_rows
from ..params import Params
from ..training.accumulate import as_batch, loss_and_grads
from .answer_heads import AnswerHeadCache, answer_logits_backward, answer_logits_forward
from .entropy import EntropyCache, entropy_backward, entropy_forward
from .experience import Experience, at_temperature
from .learned import Learned, moved
from .ppo_loss import PPOPolicyLossCache, ppo_policy_loss_backward, ppo_policy_loss_forward
from .settings import PpoSettings
from .token_logprobs import TokenLogprobsCache, token_logprobs_backward, token_logprobs_forward


class PolicyObjectiveCache(NamedTuple):
    loss: PPOPolicyLossCache
    logprobs: TokenLogprobsCache
    entropy: EntropyCache | None  # None where no coefficient asks for it
    mask: Array  # (B, T) bool
    settings: PpoSettings


class PolicyUpdate(NamedTuple):
    rows: Array  # of the rollout, which this minibatch holds
    loss: float  # L_policy - entropy_coef * H
    ptx_loss: float | None  # L_LM; None without pretraining
    numbers: PPOPolicyLossCache  # ratio, clip_fraction, mean_ratio, approx_kl, ...
    grads: Params  # of all terms, clipped
    grad_norm: float  # before clipping


def policy_objective_forward(
    logits: Array, piece: Experience, settings: PpoSettings
) -> tuple[Array, PolicyObjectiveCache]:
    """Return L_policy - entropy_coef * H of a minibatch.

    Args:
        logits: (B, T, V) of answer_logits_forward, by the policy as it is now.
        piece: rows of the experience.
        settings: temperature, clip and coefficient.

    Returns:
        loss: () in float32 or wider.
        cache: for policy_objective_backward, with the numbers of the clipped loss.
    """
    rolled, s = piece.rollout, settings
    z = at_temperature(logits, s.temperature)
    logprobs, logprobs_cache = token_logprobs_forward(z, rolled.answers)
    loss, loss_cache = ppo_policy_loss_forward(
        logprobs, piece.observed.logprobs, piece.advantages, rolled.mask, s.cliprange
    )
    entropy_cache = None
    if s.entropy_coef:
        entropy, entropy_cache = entropy_forward(z)
        xp = array_module(z)
        total = xp.where(xp.asarray(rolled.mask), entropy, 0).sum()
        loss = loss - float(s.entropy_coef) * total / loss_cache.tokens
    return loss, PolicyObjectiveCache(loss_cache, logprobs_cache, entropy_cache, rolled.mask, s)


def policy_objective_backward(cache: PolicyObjectiveCache) -> Array:
    """Return dlogits (B, T, V); zeros for padding."""
    s = cache.settings
    dz = token_logprobs_backward(ppo_policy_loss_backward(1.0, cache.loss), cache.logprobs)
    if cache.entropy is not None:
        mask = array_module(dz).asarray(cache.mask)
        each = (-float(s.entropy_coef) / cache.loss.tokens).astype(dz.dtype)
        dz += entropy_backward(mask * each, cache.entropy)
    return at_temperature(dz, s.temperature)  # the same division


def policy_gradient(
    policy: Learned,
    piece: Experience,
    settings: PpoSettings,
    ptx_rows: Array | None = None,
    known: tuple[Array, AnswerHeadCache] | None = None,
) -> tuple[float, float | None, Params, PPOPolicyLossCache]:
    """Return the gradient of all three terms.

    Args:
        policy: as it is now.
        piece: rows of the experience.
        settings: of the run.
        ptx_rows: (n, C + 1) int, the rows of text of this update; None without L_LM.
        known: of answer_logits_forward with this policy and these rows; None computes it.

    Returns:
        The loss without L_LM; L_LM or None; the gradient; and the numbers of the clipped loss.
    """
    logits, head = known or answer_logits_forward(policy.params, policy.config, piece.rollout)
    loss, cache = policy_objective_forward(logits, piece, settings)
    grads = answer_logits_backward(policy_objective_backward(cache), head)
    if ptx_rows is None:
        return float(loss), None, grads, cache.loss
    no_dropout = replace(policy.config, dropout=0.0)
    ptx_loss, ptx_grads, *_ = loss_and_grads(policy.params, no_dropout, [as_batch(ptx_rows)])
    for key, grad in ptx_grads.items():
        grads[key] += float(settings.ptx_coef) * grad
    return float(loss), ptx_loss, grads, cache.loss


def update_policy(
    policy: Learned,
    piece: Experience,
    rows: Array,
    settings: PpoSettings,
    ptx_rows: Array | None = None,
    known: tuple[Array, AnswerHeadCache] | None = None,
) -> tuple[Learned, PolicyUpdate]:
    """Return the policy after one update; the old one stays.

    Args:
        policy: as it is now.
        piece: rows of the experience.
        rows: which they are.
        settings: of the run.
        ptx_rows: (n, C + 1) int, all there are; the update takes its own, see batch_rows. None, or
            a coefficient of 0: no L_LM.
        known: see policy_gradient.

    Raises:
        FloatingPointError: a loss or gradient is NaN or infinite.
    """
    s, text = settings, None
    if s.ptx_coef and ptx_rows is not None:
        text = ptx_rows[batch_rows(len(ptx_rows), s.ptx_batch_size, policy.state["step"], s.seed)]
    loss, ptx_loss, grads, numbers = policy_gradient(policy, piece, s, text, known)
    total = loss if ptx_loss is None else loss + s.ptx_coef * ptx_loss
    policy, norm = moved(policy, grads, total, s.policy_lr, s, "policy")
    return policy, PolicyUpdate(rows, loss, ptx_loss, numbers, grads, norm)
