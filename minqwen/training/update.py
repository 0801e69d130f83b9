"""One update as every stage makes it: refuse what is not finite, clip, find the rate, AdamW.

    norm of all gradients clipped to max_norm, cosine schedule after a linear warm-up, AdamW

The numbers come from the settings of the stage, which name them alike.

Paper:    Qwen Technical Report, 2.4 Training and 3.1.2 (the same optimizer in fine-tuning).
"""

from __future__ import annotations

import math
from typing import Protocol

from ..params import Params
from .adamw import AdamWState, adamw_step
from .grad_clip import clip_grad_norm
from .lr_schedule import cosine_lr


class AdamWSettings(Protocol):
    """What one update reads of the settings."""

    @property
    def beta1(self) -> float:
        """Share of the old mean of the gradient."""

    @property
    def beta2(self) -> float:
        """Share of the old mean of its square."""

    @property
    def eps(self) -> float:
        """Added to the square root."""

    @property
    def weight_decay(self) -> float:
        """Of the matrices."""

    @property
    def max_norm(self) -> float:
        """Of the gradient; math.inf = no clipping."""


class OptimizerSettings(AdamWSettings, Protocol):
    """What the settings of a stage with one schedule have."""

    @property
    def steps(self) -> int:
        """Updates in all."""

    @property
    def warmup_steps(self) -> int:
        """Of them with a rising rate."""

    @property
    def peak_lr(self) -> float:
        """Highest learning rate."""

    @property
    def min_lr_ratio(self) -> float:
        """Last rate over the peak; 1 = constant."""


def clipped(grads: Params, loss: float, step: int, max_norm: float) -> tuple[Params, float]:
    """Return the gradient, cut to max_norm in place, and the norm that it had.

    Args:
        grads: of the loss.
        loss: for the message.
        step: updates done so far, for the message.
        max_norm: see grad_clip.

    Raises:
        FloatingPointError: the loss or a gradient is NaN or infinite.
    """
    if not math.isfinite(loss):
        raise FloatingPointError(f"the loss of step {step + 1} is {loss}")
    try:
        return clip_grad_norm(grads, max_norm, in_place=True)
    except FloatingPointError as error:
        raise FloatingPointError(f"step {step + 1}, loss {loss:.4g}: {error}") from None


def scheduled_lr(step: int, settings: OptimizerSettings) -> float:
    """Return the learning rate of an update.

    Args:
        step: updates done before it.
        settings: with the peak, the warm-up and the end.
    """
    return cosine_lr(
        step,
        peak_lr=settings.peak_lr,
        min_lr=settings.min_lr_ratio * settings.peak_lr,
        warmup_steps=settings.warmup_steps,
        total_steps=settings.steps,
    )


def apply_adamw(
    params: Params, grads: Params, state: AdamWState, settings: AdamWSettings, lr: float
) -> None:
    """Change params and state in place, as adamw_step does, with the numbers of the settings."""
    adamw_step(
        params,
        grads,
        state,
        lr=lr,
        beta1=settings.beta1,
        beta2=settings.beta2,
        eps=settings.eps,
        weight_decay=settings.weight_decay,
    )
