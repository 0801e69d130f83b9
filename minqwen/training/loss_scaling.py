"""Dynamic loss scaling: lift the gradients into the range of float16, as high as they fit.

    grads = backward(scale) / scale         backward is linear, so the scale falls out again
    all finite:   update; after `interval` such steps in a row    scale = scale * growth
    else:         no update, and                                  scale = scale * backoff

float16 knows nothing below 6e-8 and nothing above 65504. Most gradients of a large model are near
the lower end or under it: they would be rounded to zero. Multiplied by the scale they are not. The
largest of them bound it; where that is changes as the model learns, so the scale is raised now and
then until something overflows, which costs one skipped step.

The scale stays a power of two, which changes no digit of a number, only its exponent. What is not
finite must be asked before clipping: one infinity would make the norm infinite and the rest zero.

A loss that is itself NaN looks like an overflow, and no scale mends it. So a scale that would fall
below `smallest` ends the run instead.

A skipped step has used up its rows and its place on the schedule of the learning rate; for AdamW,
which corrects its means by the number of updates, it has not been.

Paper:    none of Qwen's reports: bfloat16 has the range of float32 and needs no scale.
Origin:   Micikevicius et al. 2018, arXiv:1710.03740, section 3.2; the numbers are PyTorch's.
Differs:  PyTorch's scale may fall without end; DeepSpeed has a smallest one too.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..backend import array_module, widen
from ..params import Params

LARGEST = float(np.finfo(np.float32).max)  # the scale is multiplied in float32


class LossScale(NamedTuple):
    scale: float = 65536.0
    good_steps: int = 0  # in a row, since the last change of the scale
    skipped: int = 0  # steps without an update, in all


def unscale(grads: Params, scale: float) -> Params:
    """Return the gradients in float32 or wider, divided by the scale; float16 would lose them.

    >>> unscale({"w": np.array([1.5], np.float16)}, 65536.0)["w"] * 65536
    array([1.5], dtype=float32)
    """
    if scale == 1:
        return {key: widen(g) for key, g in grads.items()}  # float32 and float64 without a copy
    return {key: widen(g) / float(scale) for key, g in grads.items()}


def all_finite(grads: Params) -> bool:
    """Say whether no gradient is infinite or NaN. Waits once for a GPU.

    >>> all_finite({"w": np.ones(2)}), all_finite({"w": np.ones(2), "b": np.array([np.inf])})
    (True, False)
    """
    xp = array_module(*grads.values())
    return bool(xp.stack([xp.isfinite(widen(g)).all() for g in grads.values()]).all())


def next_loss_scale(
    state: LossScale,
    finite: bool,
    *,
    growth: float = 2.0,
    backoff: float = 0.5,
    interval: int = 2000,
    smallest: float = 1.0,
) -> LossScale:
    """Return the scale for the next step, and count this one if it has to be skipped.

    Args:
        state: of this step.
        finite: whether all its gradients were; if not, the update has to be skipped.
        growth: factor after `interval` finite steps in a row.
        backoff: factor after one that was not.
        interval: steps.
        smallest: the scale does not fall below it.

    Raises:
        FloatingPointError: gradients are not finite even with a scale that cannot fall further.
        ValueError: a number makes no sense.

    >>> next_loss_scale(LossScale(8.0, 1), True, interval=2)
    LossScale(scale=16.0, good_steps=0, skipped=0)
    >>> next_loss_scale(LossScale(8.0, 1), False)
    LossScale(scale=4.0, good_steps=0, skipped=1)
    """
    if not (growth >= 1 and 0 < backoff < 1 and interval >= 1 and smallest >= 0):
        raise ValueError(
            "next_loss_scale needs growth >= 1, 0 < backoff < 1, interval >= 1, smallest >= 0, got "
            f"{growth=}, {backoff=}, {interval=}, {smallest=}"
        )
    if not finite:
        scale = state.scale * backoff
        if scale < smallest:
            raise FloatingPointError(
                f"gradients are not finite with a loss scale of {state.scale:g}: this is no "
                "overflow that a smaller scale would mend"
            )
        return LossScale(scale, 0, state.skipped + 1)
    if state.good_steps + 1 < interval:
        return state._replace(good_steps=state.good_steps + 1)
    larger = state.scale * growth
    return state._replace(scale=larger if larger <= LARGEST else state.scale, good_steps=0)
