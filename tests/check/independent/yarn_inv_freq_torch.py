"""Frequencies of YaRN in PyTorch, shaped like the authors' repository."""

import math

import torch


def forward(head_dim, base, factor, original_max_position_embeddings, beta_fast, beta_slow):
    def dim_of(rotations):
        return (
            head_dim * math.log(original_max_position_embeddings / (rotations * 2 * math.pi))
        ) / (2 * math.log(base))

    low, high = math.floor(dim_of(beta_fast)), math.ceil(dim_of(beta_slow))
    low, high = max(low, 0), min(high, head_dim - 1)
    ramp = (torch.arange(head_dim // 2, dtype=torch.float64) - low) / (high - low)
    keep = 1 - ramp.clamp(0, 1)
    wavelength = base ** (torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    extrapolated, interpolated = 1 / wavelength, 1 / (factor * wavelength)
    return interpolated * (1 - keep) + extrapolated * keep


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

FORWARD = {
    "ramp_reversed": (
        "interpolated * (1 - keep) + extrapolated * keep",
        "interpolated * keep + extrapolated * (1 - keep)",
    ),
    "wavelengths_blended": (
        "interpolated * (1 - keep) + extrapolated * keep",
        "1 / ((1 - keep) / interpolated + keep / extrapolated)",
    ),
    "all_divided": ("interpolated * (1 - keep) + extrapolated * keep", "interpolated"),
    "factor_ignored": ("interpolated * (1 - keep) + extrapolated * keep", "extrapolated"),
    "multiplied": ("1 / (factor * wavelength)", "factor / wavelength"),
    "no_ramp": (
        "interpolated * (1 - keep) + extrapolated * keep",
        "torch.where(keep > 0.5, extrapolated, interpolated)",
    ),
    "ramp_over_turns": (
        "keep = 1 - ramp.clamp(0, 1)",
        "share = torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim\n"
        "    turns = original_max_position_embeddings / (2 * math.pi * base**share)\n"
        "    keep = ((turns - beta_slow) / (beta_fast - beta_slow)).clamp(0, 1)",
    ),
    "no_2_in_dim": ("(2 * math.log(base))", "math.log(base)"),
    "no_2_pi": ("(rotations * 2 * math.pi)", "rotations"),
    "no_pi": ("(rotations * 2 * math.pi)", "(rotations * 2)"),
    "extended_length": (
        "math.log(original_max_position_embeddings /",
        "math.log(factor * original_max_position_embeddings /",
    ),
    "ceil_and_floor": (
        "math.floor(dim_of(beta_fast)), math.ceil(dim_of(beta_slow))",
        "math.ceil(dim_of(beta_fast)), math.floor(dim_of(beta_slow))",
    ),
    "not_rounded": (
        "math.floor(dim_of(beta_fast)), math.ceil(dim_of(beta_slow))",
        "dim_of(beta_fast), dim_of(beta_slow)",
    ),
    "nearest": (
        "math.floor(dim_of(beta_fast)), math.ceil(dim_of(beta_slow))",
        "round(dim_of(beta_fast)), round(dim_of(beta_slow))",
    ),
    "over_features": (
        "torch.arange(head_dim // 2, dtype=torch.float64)",
        "torch.arange(0, head_dim, 2, dtype=torch.float64)",
    ),
    "not_clipped": ("ramp.clamp(0, 1)", "ramp"),
    "low_not_limited": ("max(low, 0)", "low"),
    "high_at_last_pair": ("min(high, head_dim - 1)", "min(high, head_dim // 2 - 1)"),
    "temperature_in_frequencies": (
        "return interpolated * (1 - keep) + extrapolated * keep",
        "return (0.1 * math.log(factor) + 1) * (interpolated * (1 - keep) + extrapolated * keep)",
    ),
    "starts_at_1": (
        "wavelength = base ** (torch.arange(0, head_dim, 2,",
        "wavelength = base ** (torch.arange(2, head_dim + 2, 2,",
    ),
}
