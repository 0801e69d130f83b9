"""The value model's update: say what the returns turned out to be, in small steps.

    L_value = mean over the tokens of answers of the worse of two squared errors / 2

The value model is one of its own, so nothing has to weigh this loss against the policy's.

Paper:    Qwen Technical Report, 3.2.2 Reinforcement Learning: rate 5e-6, value clip 0.15.
Origin:   Schulman et al. 2017, arXiv:1707.06347; the gradient is derived in ppo_loss.py.
"""

from __future__ import annotations

from typing import NamedTuple

from ..backend import Array
from ..params import Params
from .answer_heads import AnswerHeadCache, answer_values_backward, answer_values_forward
from .experience import Experience
from .learned import Learned, moved
from .ppo_loss import PPOValueLossCache, ppo_value_loss_backward, ppo_value_loss_forward
from .settings import PpoSettings


class ValueUpdate(NamedTuple):
    rows: Array  # of the rollout, which this minibatch holds
    loss: float
    numbers: PPOValueLossCache  # error, clip_fraction, ...
    grads: Params  # clipped
    grad_norm: float  # before clipping


def value_gradient(
    value: Learned,
    piece: Experience,
    settings: PpoSettings,
    known: tuple[Array, AnswerHeadCache] | None = None,
) -> tuple[float, Params, PPOValueLossCache]:
    """Return the gradient of L_value.

    Args:
        value: the model as it is now.
        piece: rows of the experience.
        settings: of the run.
        known: of answer_values_forward with this model and these rows; None computes it.

    Returns:
        The loss, the gradient, and the numbers of the loss.
    """
    values, head = known or answer_values_forward(value.params, value.config, piece.rollout)
    loss, cache = ppo_value_loss_forward(
        values, piece.observed.values, piece.returns, piece.rollout.mask, settings.cliprange_value
    )
    grads = answer_values_backward(ppo_value_loss_backward(1.0, cache), head)
    return float(loss), grads, cache


def update_value(
    value: Learned,
    piece: Experience,
    rows: Array,
    settings: PpoSettings,
    known: tuple[Array, AnswerHeadCache] | None = None,
) -> tuple[Learned, ValueUpdate]:
    """Return the value model after one update; the old one stays.

    Args:
        value: as it is now.
        piece: rows of the experience.
        rows: which they are.
        settings: of the run.
        known: see value_gradient.

    Raises:
        FloatingPointError: the loss or a gradient is NaN or infinite.
    """
    loss, grads, numbers = value_gradient(value, piece, settings, known)
    value, norm = moved(value, grads, loss, settings.value_lr, settings, "value")
    return value, ValueUpdate(rows, loss, numbers, grads, norm)
