"""The rows of PPO: for each concept its functions and small inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..alignment.entropy import (
    ExactKLCache,
    entropy_backward,
    entropy_forward,
    exact_kl_backward,
    exact_kl_forward,
)
from ..alignment.ppo_loss import (
    PPOPolicyLossCache,
    PPOValueLossCache,
    ppo_policy_loss_backward,
    ppo_policy_loss_forward,
    ppo_value_loss_backward,
    ppo_value_loss_forward,
)
from ..backend import Array
from .concept_row import Concept, Inputs, normal
from .mistakes import ppo_policy_loss as policy
from .mistakes import ppo_value_loss as value

Spans = tuple[tuple[int, int], ...]  # of each answer: its first place, and the one after its last


def constants(x: Array, others: tuple[Array, ...]) -> list[Array]:
    """Return what has no gradient beside x: in a tuple, so that none is asked for."""
    return [other.astype(x.dtype) for other in others]


def _ppo_policy_loss(
    logprobs: Array, others: tuple[Array, ...], mask: Array, cliprange: float
) -> tuple[Array, PPOPolicyLossCache]:
    """Take the old log-probabilities and the advantages as constants."""
    old_logprobs, advantages = constants(logprobs, others)
    return ppo_policy_loss_forward(logprobs, old_logprobs, advantages, mask, cliprange)


def _ppo_value_loss(
    values: Array, others: tuple[Array, ...], mask: Array, cliprange_value: float
) -> tuple[Array, PPOValueLossCache]:
    """Take the old values and the returns as constants."""
    old_values, returns = constants(values, others)
    return ppo_value_loss_forward(values, old_values, returns, mask, cliprange_value)


def _exact_kl(
    logits: Array, others: tuple[Array, ...], block: int | None
) -> tuple[Array, ExactKLCache]:
    """Take the reference as a constant."""
    (ref_logits,) = constants(logits, others)
    return exact_kl_forward(logits, ref_logits, block)


def _case(
    make: Callable[..., dict[str, Any]], names: tuple[str, ...], T: int, spans: Spans, clip: float
) -> Callable[[np.random.Generator], Inputs]:
    """Return a maker of inputs away from the kinks, on both sides of every clip."""

    def inputs(rng: np.random.Generator) -> Inputs:
        a = make(rng, T, *spans, **{names[-1]: clip})
        return a[names[0]], (a[names[1]], a[names[2]]), a["mask"], clip

    return inputs


def _exact_kl_case(block: int | None) -> Callable[[np.random.Generator], Inputs]:
    """Return a maker of the logits of two policies over eleven tokens."""

    def inputs(rng: np.random.Generator) -> Inputs:
        z, z_ref = normal((3, 5, 11), (3, 5, 11))(rng)
        return z, (z_ref,), block

    return inputs


FULL: Spans = ((0, 7),) * 3
PADDED: Spans = ((0, 4), (0, 11), (3, 11), (0, 2), (5, 9))
PPO = "Qwen 3.2.2 Reinforcement Learning"

PPO_ROWS = (
    Concept(
        "ppo_policy_loss",
        "minqwen.alignment.ppo_loss",
        _ppo_policy_loss,
        ppo_policy_loss_backward,
        {
            "": _case(policy.inputs, policy.ARGUMENTS, 7, FULL, 0.2),
            "padding, clip 0.4": _case(policy.inputs, policy.ARGUMENTS, 11, PADDED, 0.4),
        },
        ("logprobs",),
        PPO,
        "loss = mean(max(-A r, -A clip(r, 1 - c, 1 + c))), r = pi / pi_old",
    ),
    Concept(
        "ppo_value_loss",
        "minqwen.alignment.ppo_loss",
        _ppo_value_loss,
        ppo_value_loss_backward,
        {
            "": _case(value.inputs, value.ARGUMENTS, 7, FULL, 0.15),
            "padding, clip 0.5": _case(value.inputs, value.ARGUMENTS, 11, PADDED, 0.5),
        },
        ("values",),
        PPO,
        "loss = mean(max((V - R)^2, (clip(V, V_old -+ c) - R)^2)) / 2",
    ),
    Concept(
        "entropy",
        "minqwen.alignment.entropy",
        entropy_forward,
        entropy_backward,
        {"": normal((3, 5, 11)), "a row at a time": lambda rng: (*normal((7, 13))(rng), 1)},
        ("logits",),
        PPO,
        "H = -sum_v p_v log p_v",
    ),
    Concept(
        "exact_kl",
        "minqwen.alignment.entropy",
        _exact_kl,
        exact_kl_backward,
        {"": _exact_kl_case(None), "two rows at a time": _exact_kl_case(23)},
        ("logits",),
        PPO,
        "KL = sum_v p_v (log p_v - log q_v)",
    ),
)
