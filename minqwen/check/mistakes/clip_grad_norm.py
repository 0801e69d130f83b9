"""Gradient clipping: how it is called, tried, and got wrong."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from ...backend import Array
from ..spec import Arguments, Mistake, Probe, Spec


def run(m: ModuleType, a: Arguments) -> tuple[Array, ...]:
    """Clip with a copy of training/grad_clip.py, which keeps the arrays in a dict."""
    grads, _ = m.clip_grad_norm(dict(enumerate(a["grads"])), a["max_norm"])
    return tuple(grads[i] for i in range(len(grads)))


def inputs(
    rng: np.random.Generator, *shapes: tuple[int, ...], norm: float, max_norm: float = 1.0
) -> Arguments:
    """Return three gradients whose common norm is this one."""
    grads = [rng.standard_normal(shape) for shape in shapes]
    length = float(np.sqrt(sum((g * g).sum() for g in grads)))
    return {"grads": tuple(g * (norm / length) for g in grads), "max_norm": max_norm}


def zeros(rng: np.random.Generator) -> Arguments:
    """Return gradients of which one is zero and one large."""
    a = inputs(rng, (3, 5), (2,), (7,), norm=4.0)
    a["grads"][1][:] = 0
    return a


PROBES = (
    Probe(
        "ordinary",
        lambda rng: inputs(rng, (2, 3), (5,), (7, 11), norm=3.0),
        "gradients that are too long",
        hard=False,
    ),
    Probe(
        "short",
        lambda rng: inputs(rng, (3, 5), (2,), (11,), norm=0.4),
        "gradients that are short enough: they must stay",
    ),
    Probe(
        "other limit",
        lambda rng: inputs(rng, (5,), (3, 7), (2, 2), norm=3.0, max_norm=0.3),
        "another limit, far below the norm",
    ),
    Probe(
        "high limit",
        lambda rng: inputs(rng, (5,), (3, 2), (7,), norm=5.0, max_norm=3.0),
        "a limit above 1, below the norm",
    ),
    Probe(
        "below a high limit",
        lambda rng: inputs(rng, (3,), (2, 5), (7, 2), norm=2.0, max_norm=3.0),
        "a norm above 1 and below the limit: they must stay",
    ),
    Probe(
        "short one by one",
        lambda rng: inputs(rng, (7, 3), (5, 2), (13,), norm=1.3),
        "each gradient is short enough, all together are not",
    ),
    Probe("a zero gradient", zeros, "one of the gradients is zero"),
    Probe(
        "all zero",
        lambda rng: inputs(rng, (2, 3), (5,), (7,), norm=0.0),
        "all gradients are zero: they must stay",
    ),
    Probe(
        "huge",
        lambda rng: inputs(rng, (5, 3), (7,), (2,), norm=30000.0),
        "large gradients, whose squares overflow in float16",
    ),
    Probe(
        "tiny",
        lambda rng: inputs(rng, (5,), (3, 2), (7,), norm=3e-5, max_norm=1e-5),
        "a norm and a limit that are not large against 1e-6",
    ),
)

_NORM = "norm = math.sqrt(float(sum(_sum_of_squares(g) for g in grads.values())))"
_SCALE = "scale = min(1.0, float(max_norm) / (norm + 1e-6))"
_CLIP = "    elif scale < 1.0:\n        grads = {key: g * scale for key, g in grads.items()}\n"


def _each(value: str, when: str = "    else:\n") -> str:
    """Return lines that replace every gradient."""
    return f"{when}        grads = {{key: {value} for key, g in grads.items()}}\n"


FORWARD = (
    Mistake(
        "norm_of_each",
        _CLIP,
        _each("g * min(1.0, max_norm / (math.sqrt(float(_sum_of_squares(g))) + 1e-6))"),
        "each gradient is clipped by its own norm: the direction of the whole changes.",
        "With two gradients, does the ratio of their lengths stay?",
    ),
    Mistake(
        "entries_clipped",
        _CLIP,
        _each("g.clip(-max_norm, max_norm)"),
        "each entry is cut at the limit: the direction changes.",
        "Does the ratio of two entries stay?",
    ),
    Mistake(
        "always_scaled",
        _CLIP,
        _each("g * (max_norm / (norm + 1e-6))"),
        "short gradients are made longer; only long ones may be changed.",
        "Clip twice with different limits, the larger one last: what must happen?",
    ),
    Mistake(
        "no_root",
        _NORM,
        "norm = float(sum(_sum_of_squares(g) for g in grads.values()))",
        "the square root is missing: the norm is a sum of squares.",
        "Double the gradient: its norm must double.",
    ),
    Mistake(
        "sum_of_absolute_values",
        _NORM,
        "norm = float(sum(abs(g).sum() for g in grads.values()))",
        "the norm is a sum of absolute values; it must be the root of a sum of squares.",
        "The norm of (3, 4) is 5.",
    ),
    Mistake(
        "largest_entry",
        _NORM,
        "norm = float(max(abs(g).max() for g in grads.values()))",
        "the norm is the largest absolute value; it must be the root of a sum of squares.",
        "The norm of (3, 4) is 5.",
    ),
    Mistake(
        "mean_of_squares",
        _NORM,
        "norm = math.sqrt(float(sum(_sum_of_squares(g) for g in grads.values()))"
        " / sum(g.size for g in grads.values()))",
        "the squares are averaged, not summed.",
        "The norm of (3, 4) is 5.",
    ),
    Mistake(
        "sum_of_norms",
        _NORM,
        "norm = sum(math.sqrt(float(_sum_of_squares(g))) for g in grads.values())",
        "the norms of the gradients are added; their squares must be.",
        "The norm of (3, 4) is 5, also when 3 and 4 stand in two arrays.",
    ),
    Mistake(
        "largest_norm",
        _NORM,
        "norm = max(math.sqrt(float(_sum_of_squares(g))) for g in grads.values())",
        "the norm of the longest gradient counts; all of them together are one vector.",
        "The norm of (3, 4) is 5, also when 3 and 4 stand in two arrays.",
    ),
    Mistake(
        "last_norm",
        _NORM,
        "norm = math.sqrt(float(_sum_of_squares(list(grads.values())[-1])))",
        "the norm is that of the last gradient alone: the others were overwritten.",
        "The norm of (3, 4) is 5, also when 3 and 4 stand in two arrays.",
    ),
    Mistake(
        "norm_of_columns",
        _CLIP,
        _each("g * array_module(g).minimum(1.0, max_norm / ((g * g).sum(axis=0) ** 0.5 + 1e-6))"),
        "norms are taken along the first axis: each column gets a factor of its own.",
        "Does the ratio of two entries stay?",
    ),
    Mistake(
        "limit_1",
        _SCALE,
        "scale = min(1.0, 1.0 / (norm + 1e-6))",
        "the limit is 1, whatever is given.",
        "Which numbers depend on the argument max_norm?",
    ),
    Mistake(
        "limit_not_multiplied",
        _CLIP,
        _each("g / (norm + 1e-6)", when="    elif norm > max_norm:\n"),
        "long gradients are brought to length 1; they must be brought to the limit.",
        "How long is the result, with a limit of 3?",
    ),
    Mistake(
        "upside_down",
        _SCALE,
        "scale = min(1.0, norm / float(max_norm))",
        "the factor is upside down: short gradients are shortened, long ones stay.",
        "Which gradients are changed by yours?",
    ),
    Mistake(
        "scaled_twice",
        _CLIP,
        _each("g * scale * scale", when="    elif scale < 1.0:\n"),
        "the factor is applied twice.",
        "How long is the result, with a limit of 3?",
    ),
    Mistake(
        "no_1e-6",
        _SCALE,
        "scale = min(1.0, float(max_norm) / max(norm, 1e-300))",
        "the 1e-6 beside the norm is missing, as in Optax and in tf.clip_by_global_norm.",
        "Try a norm that is not large against 1e-6.",
        "convention",
    ),
    Mistake(
        "root_of_factor",
        _SCALE,
        "scale = min(1.0, float(max_norm) / (norm + 1e-6)) ** 0.5",
        "the root of the factor is taken.",
        "How long is the result, with a limit of 3?",
    ),
    Mistake(
        "longest_only",
        _CLIP,
        _each("g * (scale if _sum_of_squares(g) > max_norm**2 else 1.0)"),
        "only gradients that are too long by themselves are scaled; all of them must be.",
        "With two gradients, does the ratio of their lengths stay?",
    ),
)

SPEC = Spec(
    name="clip_grad_norm",
    module="minqwen.training.grad_clip",
    arguments=("grads", "max_norm"),
    axes={"grads": "...", "grads[0]": "...", "grads[1]": "...", "grads[2]": "..."},
    run=run,
    probes=PROBES,
    forward=FORWARD,
    outputs=("grads[0]", "grads[1]", "grads[2]"),
    notes="grads is a tuple of three arrays; three new arrays are returned, in a tuple.",
)
