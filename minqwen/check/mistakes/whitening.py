"""Whitening: how it is called, tried, and got wrong."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from ...backend import Array
from ..spec import Arguments, Mistake, Probe, Spec
from .kl_penalty import spans


def run(m: ModuleType, a: Arguments) -> tuple[Array, ...]:
    """Whiten with a copy of alignment/whitening.py."""
    return (m.whiten(a["x"], a["mask"], shift_mean=a["shift_mean"]),)


def inputs(
    rng: np.random.Generator,
    T: int,
    *answers: tuple[int, int],
    mean: float = 2.0,
    size: float = 1.5,
    shift_mean: bool = True,
) -> Arguments:
    """Return numbers around this mean; padding has other ones."""
    mask = spans(T, answers)
    x = mean + size * rng.standard_normal(mask.shape)
    return {"x": np.where(mask, x, -3 * x - size), "mask": mask, "shift_mean": shift_mean}


def equal(rng: np.random.Generator) -> Arguments:
    """Return numbers that are all one half in the answers, so that no rounding enters."""
    a = inputs(rng, 5, (0, 3), (0, 5))
    a["x"] = np.where(a["mask"], 0.5, a["x"])
    return a


PROBES = (
    Probe(
        "ordinary",
        lambda rng: inputs(rng, 7, (0, 7), (0, 7), (0, 7)),
        "three answers of the same length",
        hard=False,
    ),
    Probe(
        "padding",
        lambda rng: inputs(rng, 11, (0, 4), (0, 11), (0, 7), (0, 2), (0, 5)),
        "five answers of different length, padding on the right",
        hard=False,
    ),
    Probe(
        "mean kept",
        lambda rng: inputs(rng, 7, (0, 5), (0, 7), (0, 2), shift_mean=False),
        "the mean is to be kept, as for rewards",
    ),
    Probe(
        "padding on the left",
        lambda rng: inputs(rng, 5, (2, 5), (0, 5), (4, 5), mean=-1.0),
        "padding on the left",
    ),
    Probe(
        "tiny",
        lambda rng: inputs(rng, 5, (0, 5), (0, 3), mean=1e-4, size=1e-4),
        "numbers of size 0.0001, where eps has a say",
    ),
    Probe(
        "tiny, mean kept",
        lambda rng: inputs(rng, 5, (0, 5), (0, 3), mean=1e-4, size=1e-4, shift_mean=False),
        "numbers of size 0.0001, with the mean kept",
    ),
    Probe(
        "large",
        lambda rng: inputs(rng, 7, (0, 4), (0, 7), mean=50.0, size=100.0),
        "numbers in the hundreds",
    ),
    Probe("all equal", equal, "all numbers equal: nothing is better than anything else"),
    Probe(
        "one token",
        lambda rng: inputs(rng, 3, (0, 1), (0, 0)),
        "a single token: the result is 0",
    ),
    Probe(
        "no token",
        lambda rng: inputs(rng, 3, (0, 0), (0, 0)),
        "nothing but padding: the result is 0",
    ),
)

_WIDE = "mask, (wide,) = answer_only(mask, x=x)"
_VAR = "var = xp.where(mask, centred * centred, 0).sum() / tokens"
_Y = "y = centred / xp.sqrt(var + EPS)"
_BACK = "    if not shift_mean:\n"
_RESULT = "xp.where(mask, y, 0).astype("
_ROWS = "xp.maximum(mask.sum(axis=1, keepdims=True), 1)"

FORWARD = (
    Mistake(
        "mean",
        _Y,
        "mean = widen(x).mean()\n"
        "    centred = wide - mean\n"
        "    var = xp.where(mask, centred * centred, 0).sum() / tokens\n"
        f"    {_Y}",
        "the mean runs over padding too.",
        "Change a number in the padding: what may change?",
    ),
    Mistake(
        "var",
        _VAR,
        "var = ((widen(x) - mean) ** 2).mean()",
        "the variance runs over padding too.",
        "Change a number in the padding: what may change?",
    ),
    Mistake(
        "unmasked",
        _WIDE,
        f"{_WIDE}\n    wide, mask = widen(x), xp.ones_like(mask)",
        "padding counts like any token, and gets numbers itself.",
        "Change a number in the padding: what may change?",
    ),
    Mistake(
        "divided_by_size",
        "tokens = xp.maximum(mask.sum(), 1)",
        "tokens = xp.asarray(mask.size)",
        "padding is left out of the sums, but they are divided by the number of all places.",
        "Add a column of padding: what may change?",
    ),
    Mistake(
        "ddof",
        _VAR,
        "var = xp.where(mask, centred * centred, 0).sum() / (tokens - 1)",
        "the variance is divided by n - 1, as in torch.var and some trainers; here by n.",
        "Two numbers, 1 and 3: what is the result?",
        "convention",
    ),
    Mistake(
        "eps_outside",
        _Y,
        "y = centred / (xp.sqrt(var) + EPS)",
        "eps is added to the root; it belongs inside, under it.",
        "Try numbers of size 0.0001.",
    ),
    Mistake(
        "eps_large",
        _Y,
        "y = centred / xp.sqrt(var + 1e-5)",
        "eps is 1e-5; it is 1e-8.",
        "Try numbers of size 0.0001.",
    ),
    Mistake(
        "no_eps",
        _Y,
        "y = centred / xp.sqrt(var)",
        "eps is missing: equal numbers give 0 / 0.",
        "What if all numbers are equal?",
        "numeric",
    ),
    Mistake(
        "no_mean",
        _BACK,
        "    if True:\n",
        "the mean is put back always; that is right for rewards, not for advantages.",
        "What is the mean of the result?",
    ),
    Mistake(
        "shift_ignored",
        _BACK,
        "    if False:\n",
        "the mean is never put back: shift_mean is ignored.",
        "Which numbers depend on the argument shift_mean?",
    ),
    Mistake(
        "shift_upside_down",
        _BACK,
        "    if shift_mean:\n",
        "the switch is upside down: the mean is put back where it must not.",
        "What is the mean of the result?",
    ),
    Mistake(
        "mean_scaled",
        "y = y + mean",
        "y = y + mean / xp.sqrt(var + EPS)",
        "the mean that is put back is divided by the deviation too; it must be as it was.",
        "With the mean kept: what is the mean of the result?",
        "convention",
    ),
    Mistake(
        "no_root",
        _Y,
        "y = centred / (var + EPS)",
        "the square root is missing: it is divided by the variance.",
        "Double all numbers: what must happen to the result?",
    ),
    Mistake(
        "not_divided",
        _Y,
        "y = centred + 0 * var",
        "only the mean is subtracted; the division by the deviation is missing.",
        "Double all numbers: what must happen to the result?",
    ),
    Mistake(
        "multiplied",
        _Y,
        "y = centred * xp.sqrt(var + EPS)",
        "it is multiplied by the deviation; it must be divided.",
        "Double all numbers: what must happen to the result?",
    ),
    Mistake(
        "second_moment",
        _VAR,
        "var = (wide * wide).sum() / tokens",
        "the mean is not taken out of the variance: it is the mean of the squares.",
        "What is the variance of numbers that are all 3?",
    ),
    Mistake(
        "absolute_deviation",
        _Y,
        "y = centred / (xp.where(mask, abs(centred), 0).sum() / tokens + EPS)",
        "it is divided by the mean of the absolute deviations; it must be the root of the mean of "
        "the squares.",
        "What is the variance of the result?",
    ),
    Mistake(
        "range",
        _Y,
        "y = centred / (xp.where(mask, wide, -xp.inf).max() - xp.where(mask, wide, xp.inf).min()"
        " + EPS)",
        "it is divided by the distance from the smallest number to the largest.",
        "What is the variance of the result?",
    ),
    Mistake(
        "per_row",
        _Y,
        f"mean = wide.sum(axis=1, keepdims=True) / {_ROWS}\n"
        "    centred = xp.where(mask, wide - mean, 0)\n"
        f"    var = (centred * centred).sum(axis=1, keepdims=True) / {_ROWS}\n"
        f"    {_Y}",
        "each answer is whitened by itself; here all tokens of the batch are one group.",
        "An answer that is better than the others: are its numbers still larger?",
        "convention",
    ),
    Mistake(
        "per_column",
        _Y,
        "count = xp.maximum(mask.sum(axis=0), 1)\n"
        "    mean = wide.sum(axis=0) / count\n"
        "    centred = xp.where(mask, wide - mean, 0)\n"
        "    var = (centred * centred).sum(axis=0) / count\n"
        f"    {_Y}",
        "each column is whitened by itself; all tokens of the batch are one group.",
        "What is the result of a batch of one answer?",
    ),
    Mistake(
        "padding_kept",
        _RESULT,
        "((widen(x) - mean) / xp.sqrt(var + EPS) + (0 if shift_mean else mean)).astype(",
        "padding gets numbers; it must be 0.",
        "What do the numbers in the padding add up to?",
    ),
    Mistake(
        "padding_minus_mean",
        _RESULT,
        "y.astype(",
        "padding is 0 before the mean is subtracted, and minus the mean afterwards.",
        "What do the numbers in the padding add up to?",
    ),
)

SPEC = Spec(
    name="whitening",
    module="minqwen.alignment.whitening",
    arguments=("x", "mask", "shift_mean"),
    axes={"x": "B T", "mask": "B T", "y": "B T"},
    run=run,
    probes=PROBES,
    forward=FORWARD,
    notes="mask is True for a token that counts; all of them are one group, and padding gets 0. "
    "The variance is divided by n, and 1e-8 is added under the root.",
)
