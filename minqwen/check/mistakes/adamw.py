"""AdamW: how it is called, tried, and got wrong."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from ...backend import Array
from ..spec import Arguments, Mistake, Probe, Spec

NUMBERS = ("lr", "beta1", "beta2", "eps", "weight_decay")
DEFAULTS = {"beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1}


def run(m: ModuleType, a: Arguments) -> tuple[Array, ...]:
    """Make one update with a copy of training/adamw.py."""
    numbers = {name: a[name] for name in NUMBERS}
    new: tuple[Array, ...] = m.adamw_update(a["w"], a["g"], a["m"], a["v"], a["step"], **numbers)
    return new


def inputs(
    rng: np.random.Generator, *shape: int, step: int, size: float = 1.0, **numbers: float
) -> Arguments:
    """Return a weight, a gradient of this size, and the means that such gradients leave behind."""
    w, g = rng.standard_normal(shape), size * rng.standard_normal(shape)
    m, v = np.zeros(shape), np.zeros(shape)
    numbers = {"lr": 0.1, **DEFAULTS, **numbers}
    for _ in range(min(step - 1, 20)):
        old = size * rng.standard_normal(shape)
        m = numbers["beta1"] * m + (1 - numbers["beta1"]) * old
        v = numbers["beta2"] * v + (1 - numbers["beta2"]) * old * old
    return {"w": w, "g": g, "m": m, "v": v, "step": step, **numbers}


PROBES = (
    Probe("first step", lambda rng: inputs(rng, 3, 5, step=1), "the first update", hard=False),
    Probe("later step", lambda rng: inputs(rng, 2, 7, step=5), "the fifth update", hard=False),
    Probe(
        "other numbers",
        lambda rng: inputs(
            rng, 11, step=3, lr=0.02, beta1=0.8, beta2=0.99, eps=1e-3, weight_decay=0.3
        ),
        "other betas, eps, decay and learning rate",
    ),
    Probe(
        "late step",
        lambda rng: inputs(rng, 5, 3, step=2000),
        "update 2000, where the corrections are over",
    ),
    Probe(
        "tiny gradients",
        lambda rng: inputs(rng, 7, step=2, size=1e-8),
        "gradients as small as eps",
    ),
    Probe(
        "zero gradients",
        lambda rng: {**inputs(rng, 2, 5, step=1), "g": np.zeros((2, 5))},
        "no gradient yet: there is only the decay",
    ),
    Probe(
        "no decay",
        lambda rng: inputs(rng, 13, step=4, weight_decay=0.0),
        "a parameter without decay",
    ),
    Probe("large gradients", lambda rng: inputs(rng, 3, 2, step=3, size=300.0), "large gradients"),
)

_FLOATS = (
    "lr, beta1, beta2, eps, weight_decay = map(float, (lr, beta1, beta2, eps, weight_decay))\n"
    "    g = g.astype(m.dtype, copy=False)\n"
)
_G = "    g = g.astype(m.dtype, copy=False)\n    m = "
_M = "m = beta1 * m + (1 - beta1) * g\n"
_V = "v = beta2 * v + (1 - beta2) * (g * g)\n"
_M_HAT = "m_hat = m / (1 - beta1**step)\n"
_V_HAT = "v_hat = v / (1 - beta2**step)\n"
_DECAY = "(1 - lr * weight_decay) * w.astype(m.dtype)"
_MOVE = "lr * m_hat / (xp.sqrt(v_hat) + eps)"
FORWARD = (
    Mistake(
        "m_not_corrected",
        _M_HAT,
        "m_hat = m\n",
        "the first moment is not corrected for its start at 0: early steps are too small.",
        "The first update moves every weight by lr: does yours?",
    ),
    Mistake(
        "v_not_corrected",
        _V_HAT,
        "v_hat = v\n",
        "the second moment is not corrected for its start at 0: early steps are too large.",
        "The first update moves every weight by lr: does yours?",
    ),
    Mistake(
        "none_corrected",
        f"{_M_HAT}    {_V_HAT}",
        "m_hat, v_hat = m, v\n",
        "neither moment is corrected for its start at 0.",
        "The first update moves every weight by lr: does yours?",
    ),
    Mistake(
        "step_plus_one",
        f"{_M_HAT}    {_V_HAT}",
        "m_hat, v_hat = m / (1 - beta1 ** (step + 1)), v / (1 - beta2 ** (step + 1))\n",
        "the corrections use the number of the next step.",
        "Which number has the first update, before or after it is counted?",
    ),
    Mistake(
        "step_minus_one",
        f"{_M_HAT}    {_V_HAT}",
        "m_hat, v_hat = m / (1 - beta1 ** (step - 1)), v / (1 - beta2 ** (step - 1))\n",
        "the corrections use the number of the step before: the first one divides by 0.",
        "Which number has the first update, before or after it is counted?",
    ),
    Mistake(
        "correction_multiplied",
        f"{_M_HAT}    {_V_HAT}",
        "m_hat, v_hat = m * (1 - beta1**step), v * (1 - beta2**step)\n",
        "the moments are multiplied by their corrections, not divided.",
        "Moments that start at 0 are too small: which way must the correction go?",
    ),
    Mistake(
        "eps_inside",
        _MOVE,
        "lr * m_hat / xp.sqrt(v_hat + eps)",
        "eps is added under the root, as in RMSNorm; in Adam it stands outside.",
        "Try gradients of 1e-8.",
        "numeric",
    ),
    Mistake(
        "eps_before_correction",
        _MOVE,
        "lr * m_hat / (xp.sqrt(v_hat) + eps / math.sqrt(1 - beta2**step))",
        "eps is added before the second moment is corrected, as in TensorFlow.",
        "Try gradients of 1e-8 in the first steps.",
        "convention",
    ),
    Mistake(
        "no_eps",
        _MOVE,
        "lr * m_hat / xp.sqrt(v_hat)",
        "eps is missing: a weight that never had a gradient becomes 0 / 0.",
        "Try gradients of zero.",
        "numeric",
    ),
    Mistake(
        "eps_1e-6",
        _MOVE,
        "lr * m_hat / (xp.sqrt(v_hat) + 1e-6)",
        "eps is 1e-6, whatever is given.",
        "Which numbers depend on the argument eps?",
        "convention",
    ),
    Mistake(
        "decay_in_gradient",
        f"{_G}beta1 * m + (1 - beta1) * g\n    {_V}    {_M_HAT}    {_V_HAT}    new_w = {_DECAY}",
        "    g = g.astype(m.dtype, copy=False) + weight_decay * w.astype(m.dtype)\n"
        f"    {_M}    {_V}    {_M_HAT}    {_V_HAT}    new_w = w.astype(m.dtype)",
        "the decay is added to the gradient: that is Adam with L2, not AdamW.",
        "Without a gradient, does every weight shrink by the same share?",
    ),
    Mistake(
        "decay_in_update",
        f"new_w = {_DECAY} - {_MOVE}",
        "new_w = w.astype(m.dtype) - lr * (m_hat + weight_decay * w) / (xp.sqrt(v_hat) + eps)",
        "the decay is divided by the root of the second moment, like the gradient.",
        "Without a gradient, does every weight shrink by the same share?",
    ),
    Mistake(
        "decay_without_lr",
        _DECAY,
        "(1 - weight_decay) * w.astype(m.dtype)",
        "the decay is not multiplied by the learning rate.",
        "Without a gradient, by which share does a weight shrink?",
        "convention",
    ),
    Mistake(
        "decay_sign",
        _DECAY,
        "(1 + lr * weight_decay) * w.astype(m.dtype)",
        "the decay has the wrong sign: weights grow.",
        "Without a gradient, does a weight shrink?",
    ),
    Mistake(
        "no_decay",
        _DECAY,
        "w.astype(m.dtype)",
        "there is no decay: that is Adam.",
        "Without a gradient, does a weight shrink?",
    ),
    Mistake(
        "decay_after",
        f"new_w = {_DECAY} - {_MOVE}",
        f"new_w = (1 - lr * weight_decay) * (w.astype(m.dtype) - {_MOVE})",
        "the decay acts on the weight after its step; here it acts on the weight before.",
        "In which order do the two changes come?",
        "convention",
    ),
    Mistake(
        "no_root",
        _MOVE,
        "lr * m_hat / (v_hat + eps)",
        "the square root of the second moment is missing.",
        "The first update moves every weight by lr, whatever the size of its gradient: does yours?",
    ),
    Mistake(
        "uphill",
        f"{_DECAY} - lr * m_hat",
        f"{_DECAY} + lr * m_hat",
        "the step goes up the gradient, not down.",
        "A positive gradient must make the weight smaller.",
    ),
    Mistake(
        "beta1_exchanged",
        _M,
        "m = (1 - beta1) * m + beta1 * g\n",
        "beta1 and 1 - beta1 are exchanged: beta1 weighs the old mean.",
        "How much of m is left after one step?",
    ),
    Mistake(
        "beta2_exchanged",
        _V,
        "v = (1 - beta2) * v + beta2 * (g * g)\n",
        "beta2 and 1 - beta2 are exchanged: beta2 weighs the old mean.",
        "How much of v is left after one step?",
    ),
    Mistake(
        "betas_exchanged",
        f"{_M}    {_V}",
        "m, v = (1 - beta1) * m + beta1 * g, (1 - beta2) * v + beta2 * (g * g)\n",
        "beta and 1 - beta are exchanged in both means: beta weighs the old one.",
        "How much of m and v is left after one step?",
    ),
    Mistake(
        "betas_swapped",
        _FLOATS,
        "lr, beta2, beta1, eps, weight_decay = map(float, (lr, beta1, beta2, eps, weight_decay))\n"
        "    g = g.astype(m.dtype, copy=False)\n",
        "beta1 and beta2 are exchanged with each other.",
        "Which of the two means forgets faster?",
    ),
    Mistake(
        "beta2_0.999",
        _FLOATS,
        f"beta2 = 0.999\n    {_FLOATS}",
        "beta2 is 0.999, the usual default, whatever is given; Qwen has 0.95.",
        "Which numbers depend on the argument beta2?",
        "convention",
    ),
    Mistake(
        "m_is_a_sum",
        _M,
        "m = beta1 * m + g\n",
        "the gradient enters the first moment in full, without the factor 1 - beta1.",
        "With a gradient that stays the same, what does m tend to?",
    ),
    Mistake(
        "v_is_a_sum",
        _V,
        "v = beta2 * v + g * g\n",
        "the square enters the second moment in full, without the factor 1 - beta2.",
        "With a gradient that stays the same, what does v tend to?",
    ),
    Mistake(
        "v_of_absolute_values",
        _V,
        "v = beta2 * v + (1 - beta2) * xp.abs(g)\n",
        "the second moment is a mean of absolute values; it must be of squares.",
        "Double the gradients from the start: v must be four times as large.",
    ),
    Mistake(
        "v_of_differences",
        _V,
        "v = beta2 * v + (1 - beta2) * ((g - m) * (g - m))\n",
        "the second moment is of the gradient minus its mean, as in AdaBelief.",
        "After the first update v is (1 - beta2) g^2: is yours?",
        "convention",
    ),
    Mistake(
        "v_of_the_mean",
        _V,
        "v = beta2 * v + (1 - beta2) * (m * m)\n",
        "the square of the first moment enters the second; it must be that of the gradient.",
        "After the first update v is (1 - beta2) g^2: is yours?",
    ),
    Mistake(
        "moments_before_update",
        f"{_M}    {_V}    {_M_HAT}    {_V_HAT}",
        f"{_M_HAT}    {_V_HAT}    {_M}    {_V}",
        "the step is taken with the moments from before this gradient.",
        "Does the very first update move the weight?",
    ),
    Mistake(
        "nesterov",
        _M_HAT,
        "m_hat = (beta1 * m + (1 - beta1) * g) / (1 - beta1**step)\n",
        "the first moment looks one step ahead, as in NAdam.",
        "The first update moves every weight by lr: does yours?",
        "convention",
    ),
    Mistake(
        "no_momentum",
        _M_HAT,
        "m_hat = g\n",
        "the step follows the gradient itself, not its running mean, as in RMSProp.",
        "Give a gradient of zero after others: must the weight still move?",
    ),
)

SPEC = Spec(
    name="adamw",
    module="minqwen.training.adamw",
    arguments=("w", "g", "m", "v", "step", *NUMBERS),
    axes={"w": "...", "g": "...", "m": "...", "v": "..."},
    run=run,
    probes=PROBES,
    forward=FORWARD,
    outputs=("w", "m", "v"),
    notes="step is 1 for the first update; new w, m and v are returned, the arguments stay as they "
    "are; weight_decay acts whatever the parameter is.",
    defaults={**DEFAULTS},
)
