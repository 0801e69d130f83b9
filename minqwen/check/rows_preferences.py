"""The rows of learning from preferences: for each concept its functions and small inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..alignment.dpo_loss import dpo_loss_backward, dpo_loss_forward
from ..alignment.pairwise_loss import pairwise_loss_backward, pairwise_loss_forward
from ..alignment.reward_head import reward_head_backward, reward_head_forward
from ..alignment.token_logprobs import (
    sequence_logprobs_backward,
    sequence_logprobs_forward,
    token_logprobs_backward,
    token_logprobs_forward,
)
from ..backend import Array
from .concept_row import Concept, Inputs, normal


def _token_logprobs_case(temperature: float) -> Callable[[np.random.Generator], Inputs]:
    """Return a maker of logits, ids, of which one occurs twice in a row, and the temperature."""

    def make(rng: np.random.Generator) -> Inputs:
        ids = rng.integers(0, 7, (2, 5))
        ids[0, 3] = ids[0, 2]
        return (*normal((2, 5, 7))(rng), ids, temperature)

    return make


def _sequence_logprobs_case(reduction: str) -> Callable[[np.random.Generator], Inputs]:
    """Return a maker of the log-probabilities of answers of 3, 1 and 5 tokens after a prompt."""

    def make(rng: np.random.Generator) -> Inputs:
        behind = np.arange(7) - np.array([[2], [3], [1]])
        mask = (0 <= behind) & (behind < np.array([[3], [1], [5]]))
        return -np.exp(rng.standard_normal((3, 7))), mask, reduction

    return make


def _reward_head_case(*ends: int) -> Callable[[np.random.Generator], Inputs]:
    """Return a maker of three rows, the head, and where the rows end."""

    def make(rng: np.random.Generator) -> Inputs:
        return (*normal((3, 5, 7), (1, 7))(rng), np.array(ends))

    return make


def _pairwise_loss(chosen: Array, rejected: Array, margin: Array | None) -> tuple[Array, Any]:
    """Keep in the cache whether there is a margin."""
    loss, cache = pairwise_loss_forward(chosen, rejected, margin)
    return loss, (cache, margin is not None)


def _pairwise_loss_backward(dloss: Array, cache: Any) -> tuple[Array, ...]:
    """Return the gradients of the rewards, and of the margin, which acts as rejected does.

    In training the margin is a constant; its gradient is asked for to prove its place and sign.
    """
    dchosen, drejected = pairwise_loss_backward(dloss, cache[0])
    return (dchosen, drejected, drejected) if cache[1] else (dchosen, drejected)


def _pairwise_loss_case(margin: bool) -> Callable[[np.random.Generator], Inputs]:
    """Return a maker of the rewards of five pairs, and of their margins, or None."""

    def make(rng: np.random.Generator) -> Inputs:
        chosen, rejected, by = normal((5,), (5,), (5,))(rng)
        return 1.5 * chosen, 1.5 * rejected, np.abs(by) if margin else None

    return make


def _dpo_loss_backward(dloss: Array, cache: Any) -> tuple[Array, ...]:
    """Return the gradients of the policy's terms, and minus them for the reference's.

    In training the reference is a constant; asking for its gradient proves its place and sign.
    """
    dchosen, drejected = dpo_loss_backward(dloss, cache)
    return dchosen, drejected, -dchosen, -drejected


def _dpo_loss_case(beta: float) -> Callable[[np.random.Generator], Inputs]:
    """Return a maker of the log-probabilities of five pairs by policy and reference, and beta."""
    return lambda rng: (*(4 * x - 9 for x in normal((5,), (5,), (5,), (5,))(rng)), beta)


REWARD = "Qwen 3.2.1 Reward Model"
RLHF = "Qwen2 Post-training, RLHF"

PREFERENCE_ROWS = (
    Concept(
        "token_logprobs",
        "minqwen.alignment.token_logprobs",
        token_logprobs_forward,
        token_logprobs_backward,
        {"": _token_logprobs_case(1.0), "temperature 0.7": _token_logprobs_case(0.7)},
        ("logits",),
        "Qwen 3.2.2 Reinforcement Learning",
        "l_t = log softmax(z_t / temperature)[id_t]",
    ),
    Concept(
        "sequence_logprobs",
        "minqwen.alignment.token_logprobs",
        sequence_logprobs_forward,
        sequence_logprobs_backward,
        {"sum": _sequence_logprobs_case("sum"), "mean": _sequence_logprobs_case("mean")},
        ("logprobs",),
        RLHF,
        "L = sum_t l_t over the answer",
    ),
    Concept(
        "reward_head",
        "minqwen.alignment.reward_head",
        reward_head_forward,
        reward_head_backward,
        {"": _reward_head_case(3, 0, 4), "one place": _reward_head_case(2, 2, 2)},
        ("hidden", "w"),
        REWARD,
        "r = <w, h_end>",
    ),
    Concept(
        "pairwise_loss",
        "minqwen.alignment.pairwise_loss",
        _pairwise_loss,
        _pairwise_loss_backward,
        {"": _pairwise_loss_case(margin=False), "margin": _pairwise_loss_case(margin=True)},
        ("chosen_rewards", "rejected_rewards", "margin"),
        REWARD,
        "loss = mean(-log sigmoid(chosen - rejected))",
    ),
    Concept(
        "dpo_loss",
        "minqwen.alignment.dpo_loss",
        dpo_loss_forward,
        _dpo_loss_backward,
        {"": _dpo_loss_case(0.1), "beta 0.5": _dpo_loss_case(0.5)},
        (
            "chosen_logprobs",
            "rejected_logprobs",
            "ref_chosen_logprobs",
            "ref_rejected_logprobs",
        ),
        RLHF,
        "loss = mean(-log sigmoid(beta (log pi/ref(chosen) - log pi/ref(rejected))))",
    ),
)
