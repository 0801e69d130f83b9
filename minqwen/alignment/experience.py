"""Experience: what a rollout taught, as numbers for each token, all constants of the update.

    l_t, ref_t, V_t, H_t    log-probability by policy and reference, value, entropy      observe
    s      = score(query, answer)                         one number for an answer
    s'     = s lowered where the answer has no end token                    kl_penalty.py
    s''    = s' - running mean of all s' so far                             reward_scaling.py
    r_t    = -kl_coef * kl(l_t - ref_t) + s'' at the last token             kl_penalty.py
    A_t, R_t = gae(r, V)                                                    gae.py
    A'_t   = whitened A_t; R_t stays as it is                               whitening.py

Each line is one function of another file, so this one shows only their order. Two orders matter:
the running mean has this batch's scores in it before they are measured from it, so even the first
batch has mean 0; and returns are made before whitening.

Paper:    Qwen Technical Report, 3.2.2 Reinforcement Learning: KL coefficient 0.04, rewards
          normalised by running mean.
Origin:   Ouyang et al. 2022, arXiv:2203.02155; Huang et al. 2024, arXiv:2403.17031.
Differs:  whether the penalty for a missing end comes before the running mean is not published;
          here it does, since the lowered score is what the answer is worth.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..backend import Array, array_module, to_numpy
from ..model.config import QwenConfig
from ..params import Params
from ..shapes import require_shape
from .answer_heads import AnswerHeadCache, answer_logits_forward, answer_values_forward
from .entropy import entropy_forward
from .gae import gae
from .kl_penalty import kl_penalty, missing_end_penalty
from .reward_scaling import State, scale_rewards, update_reward_stats
from .rollout import Rollout
from .settings import PpoSettings
from .token_logprobs import token_logprobs_forward
from .whitening import whiten


class Observed(NamedTuple):
    logprobs: Array  # (B, T) of the answers' tokens by the policy, whole softmax at temperature
    ref_logprobs: Array  # (B, T) by the reference, the same way
    entropy: Array  # (B, T) of the policy where it chose the token, in nats
    values: Array  # (B, T) of the state before the token


class Experience(NamedTuple):
    rollout: Rollout
    scores: Array  # (B,) float64 on the host, as the two that follow
    penalised: Array  # (B,) lowered where the end token is missing
    normalised: Array  # (B,) from the running mean
    observed: Observed
    rewards: Array  # (B, T) price of the divergence, and the score at the last token
    raw_advantages: Array  # (B, T) of gae
    returns: Array  # (B, T) raw_advantages + values, what the value model learns
    advantages: Array  # (B, T) whitened, what the policy learns


class FirstPass(NamedTuple):
    values: tuple[Array, AnswerHeadCache]  # of the value model
    logits: tuple[Array, AnswerHeadCache]  # of the policy


def observe(
    rolled: Rollout,
    policy: tuple[QwenConfig, Params],
    reference: Params,
    value: tuple[QwenConfig, Params],
    settings: PpoSettings,
) -> tuple[Observed, FirstPass]:
    """Run policy, reference and value model over a rollout.

    Args:
        rolled: of rollout.
        policy: its config and parameters.
        reference: parameters of the frozen policy, of the same config.
        value: config and parameters of the value model.
        settings: with the temperature of the sampling.

    Returns:
        What they say about each token, and their passes, for a first update over the same rows.
    """
    (config, params), temperature = policy, settings.temperature
    values = answer_values_forward(value[1], value[0], rolled)
    z, _ = answer_logits_forward(reference, config, rolled)
    ref_logprobs, _ = token_logprobs_forward(at_temperature(z, temperature), rolled.answers)
    logits = answer_logits_forward(params, config, rolled)
    z = at_temperature(logits[0], temperature)
    logprobs, _ = token_logprobs_forward(z, rolled.answers)
    entropy, _ = entropy_forward(z)
    return Observed(logprobs, ref_logprobs, entropy, values[0]), FirstPass(values, logits)


def at_temperature(logits: Array, temperature: float) -> Array:
    """Return the logits whose softmax is the policy.

    >>> at_temperature(np.array([1.0, 2.0]), 0.5)
    array([2., 4.])
    """
    return logits if temperature == 1 else logits / float(temperature)


def make_experience(
    rolled: Rollout, scores: Array, observed: Observed, stats: State, settings: PpoSettings
) -> tuple[Experience, State]:
    """Turn scores into advantages and returns.

    Args:
        rolled: of rollout.
        scores: (B,) numbers, of each answer.
        observed: of observe.
        stats: of all scores so far, see reward_scaling.py.
        settings: coefficients.

    Returns:
        What was learned, and the stats with these scores.

    Raises:
        ValueError: scores are not (B,) or not finite.
    """
    s, mask = settings, rolled.mask
    scores = to_numpy(scores).astype(np.float64)
    require_shape("scores", scores, B=len(mask))
    penalised = missing_end_penalty(scores, rolled.ended, s.missing_end_penalty, how=s.missing_end)
    stats = update_reward_stats(stats, penalised)
    normalised = scale_rewards(penalised, stats, divide=s.scale_rewards)

    like = observed.logprobs
    rewards = kl_penalty(
        like,
        observed.ref_logprobs,
        mask,
        array_module(like).asarray(normalised.astype(like.dtype)),
        kl_coef=s.kl_coef,
        estimator=s.kl_estimator,
    )
    raw, returns = gae(rewards, observed.values, mask, gamma=s.gamma, lam=s.lam)
    advantages = whiten(raw, mask) if s.whiten_advantages else raw
    found = Experience(
        rolled, scores, penalised, normalised, observed, rewards, raw, returns, advantages
    )
    return found, stats


def take(experience: Any, rows: Array) -> Any:
    """Return these rows of everything, for a minibatch: (B, ...) becomes (len(rows), ...).

    Args:
        experience: an Experience, or any of its tuples or arrays.
        rows: int, on the host.
    """
    if isinstance(experience, tuple):
        return type(experience)(*(take(part, rows) for part in experience))
    return experience[array_module(experience).asarray(rows)]
