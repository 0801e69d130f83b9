"""Frequencies of YaRN (arXiv:2309.00071, section 3.2), one pair at a time."""

import math

import numpy as np


def forward(head_dim, base, factor, original_max_position_embeddings, beta_fast, beta_slow):
    pairs = head_dim // 2
    trained = original_max_position_embeddings

    def pair_with(turns):
        """Solve trained / (2 pi base^(2 i / d)) = turns for i."""
        return head_dim * math.log(trained / (turns * 2 * math.pi)) / (2 * math.log(base))

    low = max(math.floor(pair_with(beta_fast)), 0)
    high = min(math.ceil(pair_with(beta_slow)), head_dim - 1)
    frequencies = []
    for i in range(pairs):
        theta = 1 / base ** (2 * i / head_dim)
        along = (i - low) / (high - low)
        along = min(max(along, 0.0), 1.0)
        frequencies.append(theta + along * (theta / factor - theta))
    return np.array(frequencies)


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

FORWARD = {
    "ramp_reversed": (
        "theta + along * (theta / factor - theta)",
        "theta / factor + along * (theta - theta / factor)",
    ),
    "wavelengths_blended": (
        "theta + along * (theta / factor - theta)",
        "1 / (1 / theta + along * (factor / theta - 1 / theta))",
    ),
    "all_divided": ("theta + along * (theta / factor - theta)", "theta / factor"),
    "factor_ignored": ("theta + along * (theta / factor - theta)", "theta"),
    "multiplied": ("theta / factor - theta", "theta * factor - theta"),
    "no_ramp": (
        "theta + along * (theta / factor - theta)",
        "theta / factor if along >= 0.5 else theta",
    ),
    "ramp_over_turns": (
        "along = (i - low) / (high - low)",
        "r = trained * theta / (2 * math.pi)\n"
        "        along = (beta_fast - r) / (beta_fast - beta_slow)",
    ),
    "no_2_in_dim": ("/ (2 * math.log(base))", "/ math.log(base)"),
    "no_2_pi": ("trained / (turns * 2 * math.pi)", "trained / turns"),
    "no_pi": ("(turns * 2 * math.pi)", "(turns * 2)"),
    "extended_length": (
        "trained = original_max_position_embeddings",
        "trained = original_max_position_embeddings * factor",
    ),
    "ceil_and_floor": (
        "math.floor(pair_with(beta_fast))",
        "math.ceil(pair_with(beta_fast))",
        "math.ceil(pair_with(beta_slow))",
        "math.floor(pair_with(beta_slow))",
    ),
    "not_rounded": (
        "math.floor(pair_with(beta_fast))",
        "pair_with(beta_fast)",
        "math.ceil(pair_with(beta_slow))",
        "pair_with(beta_slow)",
    ),
    "nearest": (
        "math.floor(pair_with(beta_fast))",
        "round(pair_with(beta_fast))",
        "math.ceil(pair_with(beta_slow))",
        "round(pair_with(beta_slow))",
    ),
    "over_features": ("(i - low) / (high - low)", "(2 * i - low) / (high - low)"),
    "not_clipped": ("        along = min(max(along, 0.0), 1.0)\n", ""),
    "low_not_limited": (
        "max(math.floor(pair_with(beta_fast)), 0)",
        "math.floor(pair_with(beta_fast))",
    ),
    "high_at_last_pair": ("head_dim - 1)\n", "pairs - 1)\n"),
    "temperature_in_frequencies": (
        "return np.array(frequencies)",
        "return (1 + 0.1 * math.log(factor)) * np.array(frequencies)",
    ),
    "starts_at_1": ("base ** (2 * i / head_dim)", "base ** (2 * (i + 1) / head_dim)"),
}
