"""Nucleus sampling in PyTorch, as in public sampling code: sort, cumsum, mask, scatter back."""

import torch


def forward(logits, p):
    probs = torch.softmax(logits, dim=-1)
    ranked, order = torch.sort(probs, dim=-1, descending=True, stable=True)
    total = torch.cumsum(ranked, dim=-1)
    drop = total - ranked >= p
    drop[:, 0] = False
    kept = ranked.masked_fill(drop, 0.0)
    back = torch.zeros_like(probs).scatter(-1, order, kept)
    return back / back.sum(dim=-1, keepdim=True)


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

FORWARD = {
    "crossing_dropped": ("drop = total - ranked >= p", "drop = total > p + 1e-12"),
    "crossing_dropped_empty": (
        "    drop = total - ranked >= p\n    drop[:, 0] = False\n",
        "    drop = total > p + 1e-12\n",
    ),
    "one_too_many": (
        "drop = total - ranked >= p",
        "drop = total - ranked >= p\n"
        "    drop = torch.cat((0 * drop[:, :1], drop[:, :-1]), dim=-1).bool()",
    ),
    "ascending": ("descending=True,", "descending=False,"),
    "not_sorted": (
        "ranked, order = torch.sort(probs, dim=-1, descending=True, stable=True)",
        "ranked, order = probs, torch.arange(probs.shape[1]).expand_as(probs)",
    ),
    "first_row_for_all": (
        "    total =",
        "    order = order[:1].expand_as(order)\n    ranked = probs.gather(-1, order)\n    total =",
    ),
    "over_rows": ("torch.cumsum(ranked, dim=-1)", "torch.cumsum(ranked, dim=0)"),
    "not_put_back": ("back = torch.zeros_like(probs).scatter(-1, order, kept)", "back = kept"),
    "sorted_twice": ("torch.zeros_like(probs).scatter(-1, order, kept)", "kept.gather(-1, order)"),
    "ignored": ("masked_fill(drop, 0.0)", "masked_fill(drop & (ranked > 1), 0.0)"),
    "best_only": (
        "drop = total - ranked >= p",
        "drop = torch.ones_like(ranked, dtype=torch.bool)",
    ),
    "threshold_p": ("drop = total - ranked >= p", "drop = ranked < p"),
    "threshold_rest": ("drop = total - ranked >= p", "drop = ranked < 1 - p"),
    "min_p": ("drop = total - ranked >= p", "drop = ranked < p * ranked[:, :1]"),
    "share_of_vocabulary": (
        "drop = total - ranked >= p",
        "drop = (torch.arange(probs.shape[1]) >= p * probs.shape[1]).repeat(len(probs), 1)",
    ),
    "rest_for_p": ("drop = total - ranked >= p", "drop = total - ranked >= 1 - p"),
    "softmax_again": (
        "kept = ranked.masked_fill(drop, 0.0)",
        "kept = torch.softmax(ranked.masked_fill(drop, float('-inf')), dim=-1)",
    ),
    "zeros_in_softmax": (
        "return back / back.sum(dim=-1, keepdim=True)",
        "return torch.softmax(back, dim=-1)",
    ),
    "ties_to_the_higher": (
        "    total =",
        "    order = torch.argsort(probs, dim=-1, stable=True).flip(-1)\n"
        "    ranked = probs.gather(-1, order)\n"
        "    total =",
    ),
    "all_ties": (
        "    kept =",
        "    least = ranked.masked_fill(drop, 2.0).amin(-1, keepdim=True)\n"
        "    drop = ranked < least\n"
        "    kept =",
    ),
}
