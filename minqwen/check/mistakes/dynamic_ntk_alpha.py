"""Qwen's alpha for a text of some length: how it is asked for, and got wrong."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from ...backend import Array
from ..spec import Arguments, Mistake, Probe, Spec


def run(m: ModuleType, a: Arguments) -> tuple[Array, ...]:
    """Compute alpha with a copy of long_context/ntk.py."""
    return (np.asarray(m.dynamic_ntk_alpha(a["length"], a["train_length"]), dtype=np.float64),)


def probe(length: int, train_length: int, shows: str, hard: bool = True) -> Probe:
    """Return a probe with these numbers; its name is made of them."""

    def make(rng: np.random.Generator) -> Arguments:
        return {"length": length, "train_length": train_length}

    return Probe(f"{length} of {train_length}", make, shows, hard, gradient=False)


PROBES = (
    probe(3000, 2048, "between the trained length and twice as much", hard=False),
    probe(5000, 2048, "between twice and four times as much", hard=False),
    probe(20000, 2048, "between eight and sixteen times as much", hard=False),
    probe(2048, 2048, "the trained length itself"),
    probe(2049, 2048, "one token more"),
    probe(4096, 2048, "exactly twice as much"),
    probe(4097, 2048, "one token above twice as much"),
    probe(8192, 2048, "exactly four times as much"),
    probe(65536, 2048, "exactly 32 times as much"),
    probe(1000, 2048, "a shorter text"),
    probe(100, 2048, "a much shorter text"),
    probe(1, 2048, "a single token"),
    probe(70, 16, "a small trained length"),
    probe(96, 24, "a trained length that is not a power of two, four times as much"),
    probe(1500, 100, "a trained length that is not a power of two"),
)

_VALUE = "return float(2 * doubled - 1)"
_WHILE = "while doubled * train_length < length:"
FORWARD = (
    Mistake(
        "floor",
        _WHILE,
        "while doubled * 2 * train_length <= length:",
        "the logarithm is rounded down; it is rounded up.",
        "One token above the trained length: alpha must be 3 already.",
    ),
    Mistake(
        "nearest",
        _WHILE,
        "while doubled * train_length * 2**0.5 < length:",
        "the logarithm is rounded to the nearest; it is rounded up.",
        "One token above the trained length: alpha must be 3 already.",
    ),
    Mistake(
        "not_rounded",
        _VALUE,
        "return float(2 * max(1, length / train_length) - 1)",
        "the logarithm is not rounded: alpha is a line, as transformers' dynamic rule gives with "
        "factor 2; Qwen's is a staircase.",
        "alpha must be the same for 3000 and for 4000 tokens of 2048.",
        "convention",
    ),
    Mistake(
        "ratio",
        _VALUE,
        "return float(max(1, length / train_length))",
        "alpha is the length over the trained length itself, as transformers' dynamic rule gives "
        "with factor 1; Qwen's is a staircase.",
        "alpha must be the same for 3000 and for 4000 tokens of 2048.",
        "convention",
    ),
    Mistake(
        "ratio_rounded_up",
        _VALUE,
        "return float(max(1, -(-length // train_length)))",
        "alpha is the length over the trained length, rounded up to a whole number.",
        "There is a power of two in the rule: where?",
    ),
    Mistake(
        "power_of_two",
        _VALUE,
        "return float(doubled)",
        "alpha is the next power of two; it is twice that, less one.",
        "At twice the trained length alpha must be 3.",
    ),
    Mistake(
        "one_not_taken",
        _VALUE,
        "return float(2 * doubled) if length > train_length else 1.0",
        "alpha is a power of two: the 1 is not taken away.",
        "At twice the trained length alpha must be 3.",
    ),
    Mistake(
        "one_not_taken_at_all",
        _VALUE,
        "return float(2 * doubled)",
        "alpha is a power of two, also up to the trained length, where it must be 1.",
        "Up to the trained length nothing may change: what is alpha then?",
    ),
    Mistake(
        "one_before_doubling",
        _VALUE,
        "return float(max(1, doubled - 1))",
        "alpha is the next power of two less one: it is not doubled first.",
        "At twice the trained length alpha must be 3.",
    ),
    Mistake(
        "one_step_early",
        _WHILE,
        "while doubled * train_length <= length:",
        "at exactly the trained length, and twice and four times as much, alpha is a step too far.",
        "At the trained length itself alpha must be 1.",
    ),
    Mistake(
        "no_lower_limit",
        _WHILE,
        "while doubled * train_length >= 2 * length:\n        doubled /= 2\n    "
        "while doubled * train_length < length:",
        "a short text gets an alpha below 1: there is no lower limit.",
        "Up to the trained length nothing may change: what is alpha then?",
    ),
    Mistake(
        "natural_log",
        _VALUE,
        "import math\n\n"
        "    steps = math.ceil(math.log(max(length, 1) / train_length) + 1)\n"
        "    return float(max(1, 2**steps - 1))",
        "the logarithm has base e; it must have base 2.",
        "At twice the trained length the logarithm must be 1.",
    ),
    Mistake(
        "always_doubled",
        _VALUE,
        "return float(2 * doubled - 1) if length <= train_length else 3.0",
        "beyond the trained length alpha is always 3; it grows with the length.",
        "Four times as much: what is alpha?",
    ),
)

SPEC = Spec(
    name="dynamic_ntk_alpha",
    module="minqwen.long_context.ntk",
    arguments=("length", "train_length"),
    axes={"alpha": ""},
    outputs=("alpha",),
    run=run,
    probes=PROBES,
    forward=FORWARD,
    notes="One number. length counts all keys, cached ones too.",
)
