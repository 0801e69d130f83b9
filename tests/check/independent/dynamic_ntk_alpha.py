"""Qwen-7B's alpha for a text: 2^ceil(log2(length / trained) + 1) - 1, at least 1."""

import math  # noqa: F401  (some mistakes use it)


def forward(length, train_length):
    doublings = 0
    while length > train_length << doublings:
        doublings += 1
    alpha = 2 ** (doublings + 1) - 1
    return float(alpha)


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

FORWARD = {
    "floor": ("length > train_length << doublings:", "length >= train_length << doublings + 1:"),
    "nearest": (
        "    while length > train_length << doublings:\n        doublings += 1\n",
        "    doublings = max(0, round(math.log2(length / train_length)))\n",
    ),
    "not_rounded": (
        "alpha = 2 ** (doublings + 1) - 1",
        "alpha = max(1, 2 * length / train_length - 1)",
    ),
    "ratio": (
        "alpha = 2 ** (doublings + 1) - 1",
        "alpha = max(length, train_length) / train_length",
    ),
    "ratio_rounded_up": (
        "alpha = 2 ** (doublings + 1) - 1",
        "alpha = max(1, math.ceil(length / train_length))",
    ),
    "power_of_two": ("alpha = 2 ** (doublings + 1) - 1", "alpha = 2**doublings"),
    "one_not_taken": (
        "alpha = 2 ** (doublings + 1) - 1",
        "alpha = 2 ** (doublings + 1) if length > train_length else 1",
    ),
    "one_not_taken_at_all": ("alpha = 2 ** (doublings + 1) - 1", "alpha = 2 ** (doublings + 1)"),
    "one_before_doubling": (
        "alpha = 2 ** (doublings + 1) - 1",
        "alpha = max(2**doublings - 1, 1)",
    ),
    "one_step_early": ("while length > train_length", "while length >= train_length"),
    "no_lower_limit": (
        "alpha = 2 ** (doublings + 1) - 1",
        "alpha = 2 ** (math.ceil(math.log2(length / train_length)) + 1) - 1",
    ),
    "natural_log": (
        "alpha = 2 ** (doublings + 1) - 1",
        "alpha = max(2 ** math.ceil(math.log(length / train_length) + 1) - 1, 1)",
    ),
    "always_doubled": ("while length > train_length << doublings:", "if length > train_length:"),
}
