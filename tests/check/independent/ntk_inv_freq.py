"""Frequencies of NTK-aware RoPE, from bloc97's post and Qwen's report (arXiv:2309.16609).

The slowest pair turns alpha times slower, the fastest stays: base * alpha^(d / (d - 2)).
"""

import math

import numpy as np


def forward(head_dim, base, alpha):
    power = head_dim / (head_dim - 2)
    larger = base * alpha**power
    result = []
    for pair in range(head_dim // 2):
        exponent = 2 * pair / head_dim
        result.append(math.exp(-exponent * math.log(larger)))
    return np.array(result)


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

FORWARD = {
    "exponent_missing": ("alpha**power", "alpha"),
    "exponent_upside_down": ("head_dim / (head_dim - 2)\n", "(head_dim - 2) / head_dim\n"),
    "half_width": ("head_dim / (head_dim - 2)\n", "(head_dim // 2) / (head_dim // 2 - 2)\n"),
    "one_for_two": ("(head_dim - 2)\n", "(head_dim - 1)\n"),
    "exponent_squared": ("alpha**power", "(alpha * alpha) ** power"),
    "base_divided": ("base * alpha**power", "base / alpha**power"),
    "base_added": ("base * alpha**power", "base + alpha**power"),
    "alpha_ignored": ("larger = base * alpha**power", "larger = base"),
    "positions_divided": (
        "larger = base * alpha**power",
        "larger = base",
        "return np.array(result)",
        "return np.array(result) / alpha",
    ),
    "multiplied": (
        "larger = base * alpha**power",
        "larger = base",
        "return np.array(result)",
        "return np.array(result) * alpha",
    ),
    "all_but_first": (
        "larger = base * alpha**power",
        "larger = base",
        "return np.array(result)",
        "return np.array(result[:1] + [one / alpha for one in result[1:]])",
    ),
    "frequencies_no_2": ("exponent = 2 * pair / head_dim", "exponent = pair / head_dim"),
    "frequencies_half_width": (
        "exponent = 2 * pair / head_dim",
        "exponent = 2 * pair / (head_dim / 2)",
    ),
    "wavelengths": ("math.exp(-exponent", "math.exp(exponent"),
    "starts_at_1": ("in range(head_dim // 2)", "in range(1, head_dim // 2 + 1)"),
}
