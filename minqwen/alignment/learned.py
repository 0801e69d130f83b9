"""A model that is trained, and the same model one update later; nothing is changed in place.

PPO trains two models at once and may break off between their updates, so a step makes new ones and
puts them in the place of the old ones when all of it is done. That costs a copy of parameters and
moments; pretraining, which has the largest models, changes them in place (training/update.py).
"""

from __future__ import annotations

from typing import NamedTuple

from ..model.config import QwenConfig
from ..params import Params
from ..training.adamw import AdamWState, adamw_init
from ..training.update import AdamWSettings, apply_adamw, clipped


class Learned(NamedTuple):
    config: QwenConfig
    params: Params
    state: AdamWState


def begin(config: QwenConfig, params: Params, dtype: str) -> Learned:
    """Return a model before its first update: a copy of the parameters in this dtype."""
    own = {key: w.astype(dtype) for key, w in params.items()}
    return Learned(config, own, adamw_init(own))


def moved(
    model: Learned, grads: Params, loss: float, lr: float, settings: AdamWSettings, name: str
) -> tuple[Learned, float]:
    """Return the model after one update with AdamW, and the norm of the gradient.

    Args:
        model: stays as it is.
        grads: of the loss; cut to settings.max_norm in place.
        loss: must be finite.
        lr: learning rate.
        settings: numbers of AdamW, and the longest gradient.
        name: of the model, for messages.

    Raises:
        FloatingPointError: the loss or a gradient is NaN or infinite.
    """
    config, params, state = model
    try:
        grads, norm = clipped(grads, loss, state["step"], settings.max_norm)
    except FloatingPointError as error:
        raise FloatingPointError(f"{name} model: {error}") from None
    params = {key: w.copy() for key, w in params.items()}
    m, v = ({key: x.copy() for key, x in moments.items()} for moments in (state["m"], state["v"]))
    state = {"step": state["step"], "m": m, "v": v}
    apply_adamw(params, grads, state, settings, lr)
    return Learned(config, params, state), norm
