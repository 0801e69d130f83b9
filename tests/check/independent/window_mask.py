"""The mask of sliding-window attention (Mistral, arXiv:2310.06825): one pair at a time."""

import numpy as np


def forward(T, S, window):
    before = S - T
    mask = np.zeros((T, S), dtype=bool)
    for t in range(T):
        query = t + before
        for key in range(S):
            distance = query - key
            past = distance >= 0
            near = distance < window
            mask[t, key] = past and near
    return mask


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

FORWARD = {
    "one_too_long": ("near = distance < window", "near = distance <= window"),
    "one_too_short": ("near = distance < window", "near = distance < window - 1"),
    "future_visible": ("past and near", "near"),
    "all_visible": ("past and near", "past or near"),
    "window_ignored": ("past and near", "past"),
    "both_sides": ("past and near", "abs(distance) < window"),
    "self_hidden": ("past = distance >= 0", "past = distance > 0"),
    "one_behind": ("distance = query - key", "distance = query - key - 1"),
    "top_left": ("before = S - T", "before = 0"),
    "window_top_left": ("near = distance < window", "near = t - key < window"),
    "causal_top_left": ("past = distance >= 0", "past = t >= key"),
    "inverted": ("past and near", "not (past and near)"),
    "to_be_added": (
        "mask[t, key] = past and near",
        "mask[t, key] = 0.0 if past and near else -np.inf",
        "dtype=bool",
        "dtype=float",
    ),
    "turned_round": ("distance = query - key", "distance = key - query"),
    "blocks": ("near = distance < window", "near = query // window == key // window"),
}
