"""Frequencies of NTK-aware RoPE in PyTorch, as Qwen-7B's own model file writes them."""

import torch


def forward(head_dim, base, alpha):
    base = base * alpha ** (head_dim / (head_dim - 2))
    steps = torch.arange(0, head_dim, 2, dtype=torch.float64)
    return 1.0 / (base ** (steps / head_dim))


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

FORWARD = {
    "exponent_missing": ("alpha ** (head_dim / (head_dim - 2))", "alpha"),
    "exponent_upside_down": ("(head_dim / (head_dim - 2))", "((head_dim - 2) / head_dim)"),
    "half_width": ("(head_dim / (head_dim - 2))", "(head_dim / (head_dim - 4))"),
    "one_for_two": ("(head_dim - 2)", "(head_dim - 1)"),
    "exponent_squared": ("(head_dim / (head_dim - 2))", "(head_dim / (head_dim / 2 - 1))"),
    "base_divided": ("base * alpha", "base / alpha"),
    "base_added": ("base * alpha", "base + alpha"),
    "alpha_ignored": ("    base = base * alpha ** (head_dim / (head_dim - 2))\n", ""),
    "positions_divided": (
        "    base = base * alpha ** (head_dim / (head_dim - 2))\n",
        "",
        "1.0 /",
        "1.0 / alpha /",
    ),
    "multiplied": (
        "    base = base * alpha ** (head_dim / (head_dim - 2))\n",
        "",
        "1.0 /",
        "alpha /",
    ),
    "frequencies_no_2": (
        "(0, head_dim, 2, dtype=torch.float64)",
        "(head_dim // 2, dtype=torch.float64)",
    ),
    "frequencies_half_width": ("steps / head_dim", "steps / (head_dim // 2)"),
    "wavelengths": ("1.0 / (base ** (steps / head_dim))", "base ** (steps / head_dim)"),
    "starts_at_1": ("(0, head_dim, 2,", "(2, head_dim + 1, 2,"),
}
