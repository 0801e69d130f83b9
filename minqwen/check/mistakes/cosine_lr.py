"""The learning rate: how it is called, tried, and got wrong."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from ...backend import Array
from ..spec import Arguments, Mistake, Probe, Spec

NUMBERS = ("peak_lr", "min_lr", "warmup_steps", "total_steps")


def run(m: ModuleType, a: Arguments) -> tuple[Array, ...]:
    """Compute the rate of one update with a copy of training/lr_schedule.py."""
    return (np.asarray(m.cosine_lr(a["step"], **{name: a[name] for name in NUMBERS})),)


_USUAL = {"peak_lr": 6e-4, "min_lr": 6e-5, "warmup_steps": 11, "total_steps": 101}
_OTHER = {"peak_lr": 0.3, "min_lr": 0.07, "warmup_steps": 3, "total_steps": 17}
_FLAT = {"peak_lr": 2e-3, "min_lr": 0.0, "warmup_steps": 0, "total_steps": 13}


def probe(
    name: str, step: int, shows: str, numbers: Arguments = _USUAL, *, hard: bool = True
) -> Probe:
    """Return a probe of one step of a run with these numbers."""
    return Probe(name, lambda rng: {"step": step, **numbers}, shows, hard, gradient=False)


PROBES = (
    probe("early", 37, "a step soon after the warm-up", hard=False),
    probe("late", 71, "a step in the second half", hard=False),
    probe("warm-up", 5, "a step of the warm-up", hard=False),
    probe("first step", 0, "step 0: a share of the peak, and not 0"),
    probe("end of warm-up", 10, "the last step of the warm-up"),
    probe("peak", 11, "the first step after the warm-up: the peak"),
    probe("near the end", 97, "a step near the end, close to the lowest rate"),
    probe("last step", 100, "the last step, one before the end"),
    probe("end", 101, "the step after the last: exactly min_lr"),
    probe("beyond", 157, "a step far beyond the end: min_lr"),
    probe("other numbers", 7, "another peak, floor and length", _OTHER),
    probe("other warm-up", 1, "another warm-up", _OTHER),
    probe("other end", 23, "beyond the end of another run", _OTHER),
    probe("no warm-up", 5, "no warm-up, and a floor of 0", _FLAT),
    probe("no warm-up, first step", 0, "no warm-up: the peak at once", _FLAT),
    probe("no warm-up, end", 13, "a floor of 0: nothing is left", _FLAT),
)

_RAMP = "return float(peak_lr * (step + 1) / (warmup_steps + 1))"
_START = "    if step < warmup_steps:\n"
_END = "    if step >= total_steps:\n"
_FLOOR = "return float(min_lr)"
_COSINE = (
    "cosine = (1 + math.cos(math.pi * (step - warmup_steps) / (total_steps - warmup_steps))) / 2"
)
_RATE = "return float(peak_lr * cosine + min_lr * (1 - cosine))"
_PROGRESS = "(step - warmup_steps) / (total_steps - warmup_steps)"


def _cosine(value: str) -> str:
    return f"cosine = {value}"


FORWARD = (
    Mistake(
        "warm_up_from_zero",
        _RAMP,
        "return float(peak_lr * step / warmup_steps)",
        "the warm-up is step / warmup_steps, as in PyTorch and Hugging Face: it starts at 0.",
        "What is the rate of the very first update?",
        "convention",
    ),
    Mistake(
        "warm_up_one_early",
        _RAMP,
        "return float(peak_lr * (step + 1) / warmup_steps)",
        "the warm-up is (step + 1) / warmup_steps: it reaches the peak one step early.",
        "At which step is the rate the peak for the first time?",
        "convention",
    ),
    Mistake(
        "warm_up_one_late",
        _RAMP,
        "return float(peak_lr * step / (warmup_steps + 1))",
        "the warm-up is step / (warmup_steps + 1): it starts at 0, and jumps at its end.",
        "What is the rate of the very first update?",
    ),
    Mistake(
        "warm_up_from_floor",
        _RAMP,
        "return float(min_lr + (peak_lr - min_lr) * (step + 1) / (warmup_steps + 1))",
        "the warm-up starts from the lowest rate; it must be a share of the peak.",
        "What is the rate of the very first update, as a share of the peak?",
        "convention",
    ),
    Mistake(
        "warm_up_of_total",
        _RAMP,
        "return float(peak_lr * (step + 1) / (total_steps + 1))",
        "the warm-up is divided by the length of the run; it must be by its own.",
        "At the end of the warm-up, is there a jump?",
    ),
    Mistake(
        "no_warm_up",
        _RAMP,
        "return float(peak_lr)",
        "the rate is at its peak from the start: there is no warm-up.",
        "What is the rate of the very first update?",
    ),
    Mistake(
        "cosine_from_zero",
        _COSINE,
        _cosine("(1 + math.cos(math.pi * step / total_steps)) / 2"),
        "the cosine starts at step 0; it must start at the end of the warm-up.",
        "What is the rate right after the warm-up?",
    ),
    Mistake(
        "warm_up_not_in_length",
        _COSINE,
        _cosine("(1 + math.cos(math.pi * (step - warmup_steps) / total_steps)) / 2"),
        "the cosine is as long as the whole run: it does not come down to its end.",
        "What is the rate of the last step?",
    ),
    Mistake(
        "cosine_one_early",
        _COSINE,
        _cosine(f"(1 + math.cos(math.pi * ({_PROGRESS.replace('step -', 'step + 1 -')}))) / 2"),
        "the cosine is one step ahead.",
        "What is the rate right after the warm-up?",
    ),
    Mistake(
        "cosine_one_short",
        _COSINE,
        _cosine(
            "(1 + math.cos(math.pi * (step - warmup_steps) / (total_steps - 1 - warmup_steps))) / 2"
        ),
        "the cosine reaches its end at the last step; it must do so one step later.",
        "At which step is the rate min_lr for the first time?",
        "convention",
    ),
    Mistake(
        "linear",
        _COSINE,
        _cosine(f"1 - {_PROGRESS}"),
        "the rate falls in a straight line; it must fall like a cosine.",
        "How fast does the rate fall in the middle, and at the ends?",
    ),
    Mistake(
        "whole_turn",
        _COSINE,
        _cosine(f"(1 + math.cos(2 * math.pi * {_PROGRESS})) / 2"),
        "the cosine makes a whole turn: the rate falls and rises again.",
        "What is the rate of the last step?",
    ),
    Mistake(
        "quarter_turn",
        _COSINE,
        _cosine(f"math.cos(math.pi / 2 * {_PROGRESS})"),
        "the rate follows a quarter of a cosine; it must be half of one, lifted above 0.",
        "How fast does the rate fall at the end?",
    ),
    Mistake(
        "not_halved",
        _COSINE,
        _cosine(f"1 + math.cos(math.pi * {_PROGRESS})"),
        "1 + cos is not halved: the cosine starts at 2.",
        "What is the rate right after the warm-up?",
    ),
    Mistake(
        "not_lifted",
        _COSINE,
        _cosine(f"math.cos(math.pi * {_PROGRESS})"),
        "the cosine runs from 1 to -1; it must run from 1 to 0.",
        "What is the rate in the middle?",
    ),
    Mistake(
        "rising",
        _COSINE,
        _cosine(f"(1 - math.cos(math.pi * {_PROGRESS})) / 2"),
        "the cosine rises from 0 to 1; it must fall.",
        "What is the rate right after the warm-up?",
    ),
    Mistake(
        "squared",
        _COSINE,
        _cosine(f"((1 + math.cos(math.pi * {_PROGRESS})) / 2) ** 2"),
        "the share of the peak is squared.",
        "In the middle the rate is half way between peak and floor.",
    ),
    Mistake(
        "floor_0",
        _START,
        f"    min_lr = 0.0\n{_START}",
        "the rate falls to 0; it must stop at min_lr.",
        "What is the rate at the end?",
    ),
    Mistake(
        "floor_10_percent",
        _START,
        f"    min_lr = 0.1 * peak_lr\n{_START}",
        "the lowest rate is 10 % of the peak, whatever is given.",
        "Which numbers depend on the argument min_lr?",
        "convention",
    ),
    Mistake(
        "floor_by_cutting",
        _RATE,
        "return float(max(min_lr, peak_lr * cosine))",
        "the curve falls towards 0 and is cut off at min_lr; it must end there.",
        "How long does the rate stay at min_lr before the end?",
        "convention",
    ),
    Mistake(
        "floor_added",
        _RATE,
        "return float(peak_lr * cosine + min_lr)",
        "min_lr is added on top: the curve starts above the peak.",
        "What is the rate right after the warm-up?",
    ),
    Mistake(
        "no_floor_until_end",
        _RATE,
        "return float(peak_lr * cosine)",
        "the curve falls towards 0, and jumps up to min_lr at the end.",
        "What is the rate of the last step?",
    ),
    Mistake(
        "rises_again",
        _END,
        "    if False:\n",
        "after the end the rate rises again: the cosine goes on.",
        "What is the rate long after the last step?",
    ),
    Mistake(
        "zero_after_the_end",
        _FLOOR,
        "return 0.0",
        "after the end the rate is 0; it must stay at min_lr.",
        "What is the rate long after the last step?",
    ),
)

SPEC = Spec(
    name="cosine_lr",
    module="minqwen.training.lr_schedule",
    arguments=("step", *NUMBERS),
    axes={"lr": ""},
    run=run,
    probes=PROBES,
    forward=FORWARD,
    outputs=("lr",),
    notes="step is 0 for the first update, and one number is returned. The warm-up is "
    "(step + 1) / (warmup_steps + 1).",
)
