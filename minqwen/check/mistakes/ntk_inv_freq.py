"""The frequencies of RoPE with a larger base (NTK): how they are asked for, and got wrong."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from ...backend import Array
from ..spec import Arguments, Mistake, Probe, Spec


def run(m: ModuleType, a: Arguments) -> tuple[Array, ...]:
    """Compute the frequencies with a copy of long_context/ntk.py."""
    return (m.ntk_inv_freq(a["head_dim"], a["base"], a["alpha"], "float64"),)


def probe(head_dim: int, base: float, alpha: float, shows: str, hard: bool = True) -> Probe:
    """Return a probe with these numbers; its name is made of them."""
    name = f"Dh={head_dim}, base {base:g}, alpha {alpha:g}"

    def make(rng: np.random.Generator) -> Arguments:
        return {"head_dim": head_dim, "base": base, "alpha": alpha}

    return Probe(name, make, shows, hard, gradient=False)


PROBES = (
    probe(128, 10000.0, 3.0, "Qwen-7B at twice the trained length", hard=False),
    probe(64, 1e6, 7.0, "a smaller head, a larger base", hard=False),
    probe(10, 100.0, 1.5, "an alpha that is not whole"),
    probe(128, 10000.0, 1.0, "alpha 1: nothing changes"),
    probe(6, 500.0, 31.0, "three pairs, a large alpha"),
)

_POWER = " ** (head_dim / (head_dim - 2))"
_BASE = "float(base * alpha"
_ADDED = """    if alpha == 1:
        return float(base)
    if not head_dim > 2:
        raise ValueError(f"head_dim must be above 2, to have a pair to slow down, got {head_dim}")
    return float(base * alpha"""
_CALL = "rope_inv_freq(head_dim, ntk_base(base, alpha, head_dim), dtype)"
_PLAIN = "rope_inv_freq(head_dim, base, dtype)"
_EXPONENT = "np.arange(0, head_dim, 2, dtype=np.float64) / head_dim"
ROPE = "minqwen.layers.rope"
FORWARD = (
    Mistake(
        "exponent_missing",
        _POWER,
        "",
        "the base is multiplied by alpha; it must be by alpha to the power Dh / (Dh - 2).",
        "By which factor must the slowest frequency fall, exactly?",
    ),
    Mistake(
        "exponent_upside_down",
        _POWER,
        " ** ((head_dim - 2) / head_dim)",
        "the exponent of alpha is (Dh - 2) / Dh; it must be Dh / (Dh - 2).",
        "By which factor must the slowest frequency fall, exactly?",
    ),
    Mistake(
        "half_width",
        _POWER,
        " ** (head_dim / (head_dim - 4))",
        "the exponent of alpha is made of the number of pairs, not of the width of a head.",
        "By which factor must the slowest frequency fall, exactly?",
    ),
    Mistake(
        "one_for_two",
        _POWER,
        " ** (head_dim / (head_dim - 1))",
        "the exponent of alpha has Dh - 1 below the line; it is Dh - 2.",
        "By which factor must the slowest frequency fall, exactly?",
    ),
    Mistake(
        "exponent_squared",
        _POWER,
        " ** (2 * head_dim / (head_dim - 2))",
        "the exponent of alpha is twice too large.",
        "By which factor must the slowest frequency fall, exactly?",
    ),
    Mistake(
        "base_divided",
        _BASE,
        "float(base / alpha",
        "the base is divided: the slow pairs get faster; they must get slower.",
        "Does a longer text need longer wavelengths, or shorter ones?",
    ),
    Mistake(
        "base_added",
        _ADDED,
        "    return float(base + alpha",
        "the power of alpha is added to the base; it multiplies it.",
        "By which factor must the slowest frequency fall, exactly?",
    ),
    Mistake(
        "alpha_ignored",
        _CALL,
        _PLAIN,
        "alpha has no effect.",
        "With alpha above 1, all frequencies but the first must fall.",
    ),
    Mistake(
        "positions_divided",
        _CALL,
        f"{_PLAIN} / alpha",
        "all frequencies are divided by alpha: that is position interpolation. NTK leaves the "
        "first as it is.",
        "Neighbours are told apart by the fastest pair: what must happen to it?",
        "convention",
    ),
    Mistake(
        "multiplied",
        _CALL,
        f"{_PLAIN} * alpha",
        "all frequencies are multiplied by alpha.",
        "Does a longer text need longer wavelengths, or shorter ones?",
    ),
    Mistake(
        "all_but_first",
        _CALL,
        f"{_PLAIN} / ([1.0] + [alpha] * (head_dim // 2 - 1))",
        "all frequencies but the first are divided by the whole alpha; it must come in gradually.",
        "What stands between the first pair, which stays, and the last?",
    ),
    Mistake(
        "frequencies_no_2",
        _EXPONENT,
        "np.arange(head_dim // 2, dtype=np.float64) / head_dim",
        "the exponents of the base are i / Dh; they are 2i / Dh.",
        "Try alpha = 1: it is plain RoPE.",
        module=ROPE,
    ),
    Mistake(
        "frequencies_half_width",
        _EXPONENT,
        "np.arange(0, head_dim, 2, dtype=np.float64) / (head_dim // 2)",
        "the exponents of the base are divided by the number of pairs; it is by the width Dh.",
        "Try alpha = 1: it is plain RoPE.",
        module=ROPE,
    ),
    Mistake(
        "wavelengths",
        "base**-exponent",
        "base**exponent",
        "the result grows from pair to pair, as wavelengths do; frequencies fall.",
        "The last pair must be the slowest.",
        module=ROPE,
    ),
    Mistake(
        "starts_at_1",
        _EXPONENT,
        "np.arange(2, head_dim + 2, 2, dtype=np.float64) / head_dim",
        "the first frequency is not 1: the pairs are counted from 1.",
        "The first pair turns by one radian per token, whatever the base.",
        module=ROPE,
    ),
)

SPEC = Spec(
    name="ntk_inv_freq",
    module="minqwen.long_context.ntk",
    arguments=("head_dim", "base", "alpha"),
    axes={"inv_freq": "Dh/2"},
    outputs=("inv_freq",),
    run=run,
    probes=PROBES,
    forward=FORWARD,
    notes="The Dh / 2 frequencies in radians per position, the fastest first.",
)
