"""The mask of sliding-window attention (Mistral, arXiv:2310.06825), from two triangles."""

import torch


def forward(T, S, window):
    ones = torch.ones(T, S, dtype=torch.bool)
    past = ones.tril(S - T)
    near = ones.triu(S - T - window + 1)
    return past & near


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

FORWARD = {
    "one_too_long": ("window + 1", "window"),
    "one_too_short": ("window + 1", "window + 2"),
    "future_visible": ("return past & near", "return near"),
    "all_visible": ("return past & near", "return past | near"),
    "window_ignored": ("return past & near", "return past"),
    "both_sides": ("past = ones.tril(S - T)", "past = ones.tril(S - T + window - 1)"),
    "self_hidden": ("past = ones.tril(S - T)", "past = ones.tril(S - T - 1)"),
    "one_behind": (
        "past = ones.tril(S - T)",
        "past = ones.tril(S - T - 1)",
        "window + 1",
        "window",
    ),
    "top_left": (
        "past = ones.tril(S - T)",
        "past = ones.tril()",
        "ones.triu(S - T - window + 1)",
        "ones.triu(1 - window)",
    ),
    "window_top_left": ("ones.triu(S - T - window + 1)", "ones.triu(1 - window)"),
    "causal_top_left": ("ones.tril(S - T)", "ones.tril()"),
    "inverted": ("return past & near", "return ~(past & near)"),
    "to_be_added": (
        "return past & near",
        "return torch.zeros(T, S).masked_fill(~(past & near), float('-inf'))",
    ),
    "turned_round": (
        "past = ones.tril(S - T)",
        "past = ones.triu(S - T)",
        "ones.triu(S - T - window + 1)",
        "ones.tril(S - T + window - 1)",
    ),
    "blocks": (
        "near = ones.triu(S - T - window + 1)",
        "rows, columns = torch.arange(S - T, S) // window, torch.arange(S) "
        "// window\n"
        "    near = rows[:, None] == columns",
    ),
}
