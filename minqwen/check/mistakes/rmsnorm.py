"""RMSNorm: how it is called, tried, and got wrong."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from ...backend import Array
from ..spec import Arguments, Mistake, Probe, Spec

EPS = 1e-6


def run(m: ModuleType, a: Arguments) -> tuple[Array, ...]:
    """Compute y with a copy of layers/rmsnorm.py."""
    return (m.rmsnorm_forward(a["x"], a["w"], a["eps"])[0],)


def pull(m: ModuleType, a: Arguments, dy: tuple[Array, ...]) -> dict[str, Array]:
    """Compute the gradients with a copy of layers/rmsnorm.py."""
    _, cache = m.rmsnorm_forward(a["x"], a["w"], a["eps"])
    return dict(zip(("x", "w"), m.rmsnorm_backward(dy[0], cache), strict=True))


def inputs(rng: np.random.Generator, *shape: int, size: float = 1.0) -> Arguments:
    """Return x of this shape and size, and a gain around 1."""
    x = size * rng.standard_normal(shape)
    return {"x": x, "w": 1 + 0.5 * rng.standard_normal(shape[-1]), "eps": EPS}


def zeros(rng: np.random.Generator) -> Arguments:
    """Return five vectors of which two are zero."""
    a = inputs(rng, 5, 7)
    a["x"][[0, 3]] = 0
    return a


PROBES = (
    Probe("ordinary", lambda rng: inputs(rng, 2, 3, 11), "ordinary vectors", hard=False),
    Probe("other sizes", lambda rng: inputs(rng, 5, 13), "other sizes, two axes", hard=False),
    Probe("tiny", lambda rng: inputs(rng, 3, 5, 7, size=1e-3), "numbers as small as sqrt(eps)"),
    Probe("large", lambda rng: inputs(rng, 3, 7, size=300.0), "large numbers"),
    Probe("zeros", zeros, "vectors of zeros between others", gradient=False),
    Probe("one vector", lambda rng: inputs(rng, 1, 5), "a single vector"),
)

_MEAN = "(x_wide * x_wide).mean(axis=-1, keepdims=True)"
_ROOT = "1.0 / xp.sqrt((x_wide * x_wide).mean(axis=-1, keepdims=True) + eps)"
_GAIN = "y = (x_wide * inv_rms) * widen(w)"
FORWARD = (
    Mistake(
        "eps_outside",
        _ROOT,
        f"1.0 / (xp.sqrt({_MEAN}) + eps)",
        "eps is added after the root; it belongs inside, to the mean square.",
        "The two agree unless the mean square is about as small as eps: try inputs of size 1e-3.",
        "numeric",
    ),
    Mistake(
        "no_eps",
        "keepdims=True) + eps)  # (..., 1)",
        "keepdims=True) + 0 * eps)  # (..., 1)",
        "eps is missing: a vector of zeros is divided by zero.",
        "Add eps to the mean square, before the root.",
        "numeric",
    ),
    Mistake(
        "eps_1e-5",
        "keepdims=True) + eps)  # (..., 1)",
        "keepdims=True) + 1e-5)  # (..., 1)",
        "the form is right, with eps = 1e-5 instead of the eps that was given (1e-6).",
        "Use the argument eps; other models have other values.",
        "convention",
    ),
    Mistake(
        "eps_1e-8",
        "keepdims=True) + eps)  # (..., 1)",
        "keepdims=True) + 1e-8)  # (..., 1)",
        "the form is right, with eps = 1e-8 instead of the eps that was given (1e-6).",
        "Use the argument eps; other models have other values.",
        "convention",
    ),
    Mistake(
        "eps_as_floor",
        "xp.sqrt((x_wide * x_wide).mean(axis=-1, keepdims=True) + eps)",
        "xp.sqrt(xp.maximum((x_wide * x_wide).mean(axis=-1, keepdims=True), eps))",
        "eps is a lower limit for the mean square; it must be added to it, always.",
        "The two agree unless the mean square is about as small as eps: try inputs of size 1e-3.",
        "numeric",
    ),
    Mistake(
        "sum_for_mean",
        "(x_wide * x_wide).mean(",
        "(x_wide * x_wide).sum(",
        "the squares are summed, not averaged: the result is sqrt(D) times too small.",
        "Which statistic of the squares does the formula have under the root?",
    ),
    Mistake(
        "centred",
        "x_wide = widen(x)\n",
        "x_wide = widen(x) - widen(x).mean(axis=-1, keepdims=True)\n",
        "the mean is subtracted first: that is LayerNorm without bias.",
        "RMSNorm leaves the mean where it is.",
    ),
    Mistake(
        "no_root",
        _ROOT,
        f"1.0 / ({_MEAN} + eps)",
        "the square root is missing: x is divided by its mean square.",
        "Compare the units: the result must not change when x is doubled.",
    ),
    Mistake(
        "no_gain",
        _GAIN,
        "y = (x_wide * inv_rms) * (0 * widen(w) + 1)",
        "the gain w is not applied.",
        "Each feature has a factor of its own, after the division.",
    ),
    Mistake(
        "gain_plus_one",
        _GAIN,
        "y = (x_wide * inv_rms) * (1 + widen(w))",
        "the gain is 1 + w, as in Gemma; Qwen multiplies by w.",
        "Which gain leaves a vector of root mean square 1 as it is?",
        "convention",
    ),
    Mistake(
        "gain_inside",
        _GAIN,
        "y = (x_wide * inv_rms) / widen(w)",
        "the result is divided by the gain, not multiplied.",
        "Try a gain of 2: the result must double.",
    ),
    Mistake(
        "one_rms_for_all",
        _MEAN,
        "(x_wide * x_wide).mean(keepdims=True)",
        "there is one root mean square for the whole array; each vector has its own.",
        "Change one token: the others must stay as they are.",
    ),
    Mistake(
        "over_tokens",
        _MEAN,
        "(x_wide * x_wide).mean(axis=-2, keepdims=True)",
        "the mean runs over the tokens; it must run over the features of one token.",
        "Change one token: the others must stay as they are.",
    ),
    Mistake(
        "absolute_mean",
        "xp.sqrt((x_wide * x_wide).mean(axis=-1, keepdims=True) + eps)",
        "xp.sqrt(xp.abs(x_wide).mean(axis=-1, keepdims=True) ** 2 + eps)",
        "the mean of the absolute values is taken for the root mean square.",
        "On normal numbers the result is about 25 % too large.",
    ),
    Mistake(
        "d_minus_one",
        "(x_wide * x_wide).mean(axis=-1, keepdims=True)",
        "((x_wide * x_wide).sum(axis=-1, keepdims=True) / (x.shape[-1] - 1))",
        "the squares are divided by D - 1, as in a sample variance; here it is D.",
        "The ratio to the right result is the same for every feature: what is it, in D?",
    ),
)
BACKWARD = (
    Mistake(
        "rms_constant",
        "dx = (g - x_hat * (g * x_hat).mean(axis=-1, keepdims=True)) * inv_rms",
        "dx = g * inv_rms",
        "the root mean square is taken for a constant, but it depends on every x.",
        "dx must be orthogonal to x when eps is small: is it?",
    ),
    Mistake(
        "sum_for_mean",
        "(g * x_hat).mean(axis=-1",
        "(g * x_hat).sum(axis=-1",
        "the correction is summed over the features, not averaged.",
        "The derivative of a mean carries a factor 1 / D.",
    ),
    Mistake(
        "gain_forgotten",
        "g = dy * widen(w)",
        "g = dy",
        "dx is taken from dy; it must be multiplied by the gain first.",
        "Which of the two products did the forward pass do last?",
    ),
    Mistake(
        "not_divided",
        "keepdims=True)) * inv_rms  # (..., D)",
        "keepdims=True)) * (0 * inv_rms + 1)  # (..., D)",
        "dx is not divided by the root mean square.",
        "Double x: dx must be halved.",
    ),
    Mistake(
        "gain_gradient_of_x",
        "dw = column_sums(dy * x_hat)",
        "dw = column_sums(dy * widen(x))",
        "dw is taken with x itself; it must be taken with the normalised x.",
        "What stood beside w in the forward pass?",
    ),
    Mistake(
        "power",
        "dx = (g - x_hat * (g * x_hat).mean(axis=-1, keepdims=True)) * inv_rms",
        "dx = g * inv_rms - x_hat * (g * x_hat).mean(axis=-1, keepdims=True)",
        "in the correction the inverse root stands squared; it must be its third power.",
        "Double x: both parts of dx must be halved.",
    ),
    Mistake(
        "correction_of_dy",
        "(g * x_hat).mean(axis=-1",
        "(dy * x_hat).mean(axis=-1",
        "the correction is taken with dy; it must be taken with dy times the gain.",
        "Try a gain that is not the same for all features.",
    ),
    Mistake(
        "gain_gradient_first_axis",
        "dw = column_sums(dy * x_hat)",
        "dw = (dy * x_hat).sum(axis=0)",
        "dw is summed over the first axis alone; it must be summed over all axes but the last.",
        "Compare the shape of dw with that of w, for x with three axes.",
    ),
    Mistake(
        "dy_ignored",
        "dy, x_hat = widen(dy), widen(x) * inv_rms",
        "dy, x_hat = 0 * widen(dy) + 1, widen(x) * inv_rms",
        "the incoming gradient is not used: ones are taken for it.",
        "Double dy: every gradient must double.",
    ),
    Mistake(
        "correction_sign",
        "dx = (g - x_hat * (g",
        "dx = (g + x_hat * (g",
        "the correction for the root mean square is added, not subtracted.",
        "A longer x makes the result shorter: which sign is that?",
    ),
    Mistake(
        "gain_gradient_mean",
        "dw = column_sums(dy * x_hat)",
        "dw = column_sums(dy * x_hat) / (dy.size // dy.shape[-1])",
        "dw is a mean over the tokens; it must be their sum.",
        "Two tokens that both want w to grow: the gradient doubles.",
    ),
)

SPEC = Spec(
    name="rmsnorm",
    module="minqwen.layers.rmsnorm",
    arguments=("x", "w", "eps"),
    axes={"x": "... D", "w": "D", "y": "... D"},
    run=run,
    pull=pull,
    probes=PROBES,
    forward=FORWARD,
    backward=BACKWARD,
    defaults={"eps": EPS},
)
