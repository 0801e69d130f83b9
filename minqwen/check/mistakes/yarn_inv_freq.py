"""The frequencies of YaRN: how they are asked for, and got wrong."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from ...backend import Array
from ..spec import Arguments, Mistake, Probe, Spec

ARGUMENTS = (
    "head_dim",
    "base",
    "factor",
    "original_max_position_embeddings",
    "beta_fast",
    "beta_slow",
)


def run(m: ModuleType, a: Arguments) -> tuple[Array, ...]:
    """Compute the frequencies with a copy of long_context/yarn.py."""
    return (m.yarn_inv_freq(*(a[name] for name in ARGUMENTS), dtype="float64"),)


def probe(name: str, numbers: tuple[float, ...], shows: str, hard: bool = True) -> Probe:
    """Return a probe with these arguments, in order."""

    def make(rng: np.random.Generator) -> Arguments:
        return dict(zip(ARGUMENTS, numbers, strict=True))

    return Probe(name, make, shows, hard, gradient=False)


PROBES = (
    probe("Qwen2-7B", (128, 1e6, 4.0, 32768, 32.0, 1.0), "Qwen2's own numbers", hard=False),
    probe("other sizes", (64, 10000.0, 2.5, 2048, 32.0, 1.0), "a smaller head", hard=False),
    probe("small", (10, 100.0, 4.0, 128, 8.0, 1.0), "five pairs, other betas"),
    probe("low at 0", (8, 10000.0, 4.0, 64, 32.0, 1.0), "even the fastest pair is slow"),
    probe("other betas", (64, 10000.0, 8.0, 4096, 64.0, 2.5), "a ramp at another place"),
    probe("factor 1", (64, 10000.0, 1.0, 2048, 32.0, 1.0), "factor 1: nothing changes"),
    probe("high", (8, 1e4, 4.0, 100000, 32.0, 1.0), "even the slowest pair is fast"),
)

_BLEND = "plain * (1 - ramp) + plain / factor * ramp"
_RAMP = "yarn_ramp(head_dim, low, high)\n    inv_freq"
_CLIP = "np.clip((np.arange(head_dim // 2) - low) / (high - low), 0.0, 1.0)"
_RANGE = "head_dim, base, original_max_position_embeddings, beta_fast, beta_slow, truncate\n    )"
FORWARD = (
    Mistake(
        "ramp_reversed",
        _BLEND,
        "plain * ramp + plain / factor * (1 - ramp)",
        "the fast pairs are divided and the slow ones stay; it is the other way round.",
        "Which pairs have turned around often within the trained length?",
    ),
    Mistake(
        "wavelengths_blended",
        _BLEND,
        "plain / (1 - ramp + factor * ramp)",
        "the wavelengths are blended along the ramp; the frequencies must be.",
        "The two agree at both ends of the ramp: what is half way between f and f / 4?",
    ),
    Mistake(
        "all_divided",
        _BLEND,
        "plain / factor + 0 * ramp",
        "all frequencies are divided by the factor: that is position interpolation.",
        "Neighbours are told apart by the fastest pairs: what must happen to them?",
        "convention",
    ),
    Mistake(
        "factor_ignored",
        _BLEND,
        "plain + 0 * ramp",
        "the frequencies are those of plain RoPE.",
        "The slowest pair must be divided by the whole factor.",
    ),
    Mistake(
        "multiplied",
        _BLEND,
        "plain * (1 - ramp) + plain * factor * ramp",
        "the slow pairs are multiplied by the factor; they must be divided.",
        "Does a longer text need longer wavelengths, or shorter ones?",
    ),
    Mistake(
        "no_ramp",
        _BLEND,
        "np.where(ramp < 0.5, plain, plain / factor)",
        "each pair is divided by the whole factor or not at all; there is a ramp between.",
        "Look at the pairs between low and high.",
    ),
    Mistake(
        "ramp_over_turns",
        _RAMP,
        "yarn_ramp(head_dim, low, high)\n"
        "    turns = plain * original_max_position_embeddings / (2 * math.pi)\n"
        "    ramp = 1 - np.clip((turns - beta_slow) / (beta_fast - beta_slow), 0, 1)\n"
        "    inv_freq",
        "the ramp is straight in the number of turns, as the formula of the paper and Llama 3 have "
        "it; the authors' code and transformers have it straight in the number of the pair.",
        "Over what does the ramp run: turns, or pairs?",
        "convention",
    ),
    Mistake(
        "no_2_in_dim",
        "/ (2 * math.log(base))",
        "/ math.log(base)",
        "low and high are twice too large: the 2 below the line is missing.",
        "For Qwen2-7B low is 23 and high is 40.",
    ),
    Mistake(
        "no_2_pi",
        "/ (2 * math.pi * turns)",
        "/ turns",
        "low and high are too large: the 2 pi below the line is missing.",
        "For Qwen2-7B low is 23 and high is 40.",
    ),
    Mistake(
        "no_pi",
        "/ (2 * math.pi * turns)",
        "/ (2 * turns)",
        "low and high are too large: the pi below the line is missing.",
        "For Qwen2-7B low is 23 and high is 40.",
    ),
    Mistake(
        "extended_length",
        _RANGE,
        "head_dim,\n        base,\n        factor * original_max_position_embeddings,\n"
        "        beta_fast,\n        beta_slow,\n        truncate,\n    )",
        "the turns are counted within the extended length; it must be the trained one.",
        "Which length did the model see in training?",
    ),
    Mistake(
        "ceil_and_floor",
        "math.floor(low), math.ceil(high)",
        "math.ceil(low), math.floor(high)",
        "low is rounded up and high down; it is the other way round.",
        "The ramp gets longer by rounding, not shorter.",
    ),
    Mistake(
        "not_rounded",
        "    if truncate:\n",
        "    if False:\n",
        "low and high are not rounded to whole numbers (as gpt-oss has it); Qwen2 rounds them.",
        "For Qwen2-7B low is 23 and high is 40.",
        "convention",
    ),
    Mistake(
        "nearest",
        "math.floor(low), math.ceil(high)",
        "round(low), round(high)",
        "low and high are rounded to the nearest; low goes down and high up.",
        "For Qwen2-7B low is 23 and high is 40.",
    ),
    Mistake(
        "over_features",
        _CLIP,
        "np.clip((np.arange(0, head_dim, 2) - low) / (high - low), 0.0, 1.0)",
        "the ramp counts features, two for each pair; it counts pairs.",
        "Low and high are numbers of pairs.",
    ),
    Mistake(
        "not_clipped",
        _CLIP,
        "(np.arange(head_dim // 2) - low) / (high - low)",
        "the ramp goes on below 0 and above 1.",
        "The fastest pair must stay exactly as it was.",
    ),
    Mistake(
        "low_not_limited",
        "max(low, 0), min(",
        "low, min(",
        "low may be below 0.",
        "Try a trained length so short that even the fastest pair turns around few times.",
    ),
    Mistake(
        "high_at_last_pair",
        "min(high, head_dim - 1)",
        "min(high, head_dim // 2 - 1)",
        "high is limited to the number of the last pair; the authors limit it to Dh - 1.",
        "Try a trained length so long that even the slowest pair turns around many times.",
        "convention",
    ),
    Mistake(
        "temperature_in_frequencies",
        _BLEND,
        "(plain * (1 - ramp) + plain / factor * ramp) * (0.1 * math.log(factor) + 1)",
        "the temperature 0.1 ln(s) + 1 multiplies the frequencies; it belongs to cos and sin.",
        "The fastest pair must stay exactly as it was.",
    ),
    Mistake(
        "starts_at_1",
        "exponent = np.arange(0, head_dim, 2, dtype=np.float64) / head_dim",
        "exponent = np.arange(2, head_dim + 2, 2, dtype=np.float64) / head_dim",
        "the first frequency of plain RoPE is not 1: the pairs are counted from 1.",
        "Try factor 1: it is plain RoPE.",
        module="minqwen.layers.rope",
    ),
)

SPEC = Spec(
    name="yarn_inv_freq",
    module="minqwen.long_context.yarn",
    arguments=ARGUMENTS,
    axes={"inv_freq": "Dh/2"},
    outputs=("inv_freq",),
    run=run,
    probes=PROBES,
    forward=FORWARD,
    notes="The Dh / 2 frequencies in radians per position, the fastest first, without the "
    "temperature. low is rounded down and high up, as in the authors' code.",
)
