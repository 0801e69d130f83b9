"""What a step of PPO is told about in metrics.jsonl, and which of it is drawn.

    reward, reward_std       scores as they came, over the answers of the step
    penalised_reward         the same after the penalty for a missing end
    objective                penalised_reward - kl_coef * the run's kl_estimator, summed over an
                             answer: what PPO makes larger
    kl, kl_token             log pi - log ref (k1), summed over an answer; and per token
    entropy                  of the policy at the tokens of answers, nats
    length, ended            tokens of an answer; share of the answers with an end token
    loss, value_loss, ptx_loss, clip_fraction, value_clip_fraction, ratio, approx_kl, grad_norm,
    value_grad_norm          means over the updates of the step
    advantage_std            before whitening
    explained_variance       1 - var(R - V) / var(R): 1 = values are the returns, 0 = no better than
                             their mean; held at -1, as it has no bound where returns hardly differ
    tokens                   of all answers

While the value model is warmed up, nothing of the policy is updated: loss is that of a policy which
has not moved, and the numbers of updates are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..backend import Array, to_numpy
from ..training.metrics import Row
from .kl_penalty import kl_estimate
from .metrics_plot import Panel
from .ppo_step import Glass
from .settings import PpoSettings

PANELS: tuple[Panel, ...] = (
    ("Reward", "score", ("reward", "penalised_reward", "objective")),
    ("Divergence from the reference", "nats per answer", ("kl",)),
    ("Entropy", "nats per token", ("entropy",)),
    ("Tokens on which the clip acts", "share", ("clip_fraction", "value_clip_fraction")),
    ("Value model", "loss", ("value_loss",)),
    ("Answers", "tokens", ("length",)),
    ("Answers with an end token", "share", ("ended",)),
    ("Pretraining", "loss (nats per token)", ("ptx_loss", "validation_loss")),
)


def metrics_of(glass: Glass, step: int, settings: PpoSettings) -> Row:
    """Return the row of a step.

    Args:
        glass: of ppo_step.
        step: number of this step, 1 for the first.
        settings: of the run.
    """
    found, mask = glass.experience, glass.experience.rollout.mask
    seen, tokens = found.observed, int(mask.sum())

    def of_tokens(x: Array) -> Array:
        return to_numpy(x)[mask].astype(np.float64)

    kl = of_tokens(seen.logprobs) - of_tokens(seen.ref_logprobs)
    returns, values = of_tokens(found.returns), of_tokens(seen.values)
    spread = float(returns.var())
    unexplained = float((returns - values).var()) / spread if spread else 1.0
    kl_of_answer = float(kl.sum()) / len(mask)
    price = settings.kl_coef * float(kl_estimate(kl, settings.kl_estimator).sum()) / len(mask)
    penalised = float(found.penalised.mean())
    row: Row = {
        "step": step,
        "loss": -float(of_tokens(found.advantages).mean()),  # the ratio is 1
        "lr": settings.policy_lr,
        "reward": float(found.scores.mean()),
        "reward_std": float(found.scores.std()),
        "penalised_reward": penalised,
        "objective": penalised - price,
        "kl": kl_of_answer,
        "kl_token": float(kl.mean()),
        "entropy": float(of_tokens(seen.entropy).mean()),
        "length": tokens / len(mask),
        "ended": float(found.rollout.ended.mean()),
        "advantage_std": float(of_tokens(found.raw_advantages).std()),
        "explained_variance": max(-1.0, 1 - unexplained),
        "value_loss": _mean([u.loss for u in glass.value_updates]),
        "value_clip_fraction": _mean([u.numbers.clip_fraction for u in glass.value_updates]),
        "value_grad_norm": _mean([u.grad_norm for u in glass.value_updates]),
        "tokens": tokens,
    }
    if updates := glass.policy_updates:
        row |= {
            "loss": _mean([u.loss for u in updates]),
            "clip_fraction": _mean([u.numbers.clip_fraction for u in updates]),
            "ratio": _mean([u.numbers.mean_ratio for u in updates]),
            "approx_kl": _mean([u.numbers.approx_kl for u in updates]),
            "grad_norm": _mean([u.grad_norm for u in updates]),
        }
        if ptx := [u.ptx_loss for u in updates if u.ptx_loss is not None]:
            row["ptx_loss"] = _mean(ptx)
    return row


def _mean(numbers: Sequence[Any]) -> float:
    return sum(map(float, numbers)) / len(numbers)
