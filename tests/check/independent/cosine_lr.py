"""The cosine schedule, from equation 5 of Loshchilov and Hutter 2016 (arXiv:1608.03983)."""

import math


def forward(step, peak_lr, min_lr, warmup_steps, total_steps):
    if step >= total_steps:
        return min_lr
    if step < warmup_steps:
        share = (1 + step) / (1 + warmup_steps)
        return share * peak_lr
    done = (step - warmup_steps) / (total_steps - warmup_steps)
    share = 0.5 + 0.5 * math.cos(math.pi * done)
    return min_lr + (peak_lr - min_lr) * share


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

_WARM = "share = (1 + step) / (1 + warmup_steps)"
_DONE = "done = (step - warmup_steps) / (total_steps - warmup_steps)"
_SHARE = "share = 0.5 + 0.5 * math.cos(math.pi * done)"
_RATE = "return min_lr + (peak_lr - min_lr) * share"
_END = "    if step >= total_steps:\n"
FORWARD = {
    "warm_up_from_zero": (_WARM, "share = step / warmup_steps"),
    "warm_up_one_early": (_WARM, "share = (1 + step) / warmup_steps"),
    "warm_up_one_late": (_WARM, "share = step / (1 + warmup_steps)"),
    "warm_up_from_floor": (
        "return share * peak_lr",
        "return min_lr * (1 - share) + share * peak_lr",
    ),
    "warm_up_of_total": (_WARM, "share = (1 + step) / (1 + total_steps)"),
    "no_warm_up": (_WARM, "share = 1.0"),
    "cosine_from_zero": (_DONE, "done = step / total_steps"),
    "warm_up_not_in_length": (_DONE, "done = (step - warmup_steps) / total_steps"),
    "cosine_one_early": (_DONE, "done = (step - warmup_steps + 1) / (total_steps - warmup_steps)"),
    "cosine_one_short": (_DONE, "done = (step - warmup_steps) / (total_steps - warmup_steps - 1)"),
    "linear": (_SHARE, "share = 1 - done"),
    "whole_turn": (_SHARE, "share = math.cos(math.pi * done) ** 2"),
    "quarter_turn": (_SHARE, "share = math.sin(math.pi * (1 - done) / 2)"),
    "not_halved": (_SHARE, "share = 1 + math.cos(math.pi * done)"),
    "not_lifted": (_SHARE, "share = math.cos(math.pi * done)"),
    "rising": (_SHARE, "share = 0.5 - 0.5 * math.cos(math.pi * done)"),
    "squared": (_SHARE, "share = math.cos(math.pi * done / 2) ** 4"),
    "floor_0": (_END, f"    min_lr = 0\n{_END}"),
    "floor_10_percent": (_END, f"    min_lr = peak_lr / 10\n{_END}"),
    "floor_by_cutting": (_RATE, "return max(peak_lr * share, min_lr)"),
    "floor_added": (_RATE, "return min_lr + peak_lr * share"),
    "no_floor_until_end": (_RATE, "return peak_lr * share"),
    "rises_again": (_END, "    if False:\n"),
    "zero_after_the_end": ("return min_lr\n", "return 0.0\n"),
}
