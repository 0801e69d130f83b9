"""The router of a mixture of experts, for all tokens at once."""

import torch


def forward(x, w, num_experts_per_tok, norm_topk_prob):
    scores = torch.nn.functional.linear(x, w)
    probs = scores.softmax(dim=1)
    order = probs.argsort(dim=1, descending=True, stable=True)
    experts = order[:, :num_experts_per_tok]
    weights = probs.gather(1, experts)
    if norm_topk_prob:
        weights = weights / weights.sum(1, keepdim=True)
    return weights, experts


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

FORWARD = {
    "always_renormalised": (
        "    probs = scores.softmax(dim=1)\n"
        "    order = probs.argsort(dim=1, descending=True, stable=True)\n"
        "    experts = order[:, :num_experts_per_tok]\n"
        "    weights = probs.gather(1, experts)\n"
        "    if norm_topk_prob:\n"
        "        weights = weights / weights.sum(1, keepdim=True)\n",
        "    values, order = scores.sort(dim=1, descending=True, stable=True)\n"
        "    experts = order[:, :num_experts_per_tok]\n"
        "    weights = values[:, :num_experts_per_tok].softmax(dim=1)\n",
    ),
    "never_renormalised": (
        "    if norm_topk_prob:\n        weights = weights / weights.sum(1, keepdim=True)\n",
        "",
    ),
    "weight_not_transposed": ("torch.nn.functional.linear(x, w)", "x @ w"),
    "logits_as_weights": ("weights = probs.gather", "weights = scores.gather"),
    "least_likely": ("dim=1, descending=True,", "dim=1, descending=False,"),
    "one_too_few": ("order[:, :num_experts_per_tok]", "order[:, : num_experts_per_tok - 1]"),
    "best_skipped": ("order[:, :num_experts_per_tok]", "order[:, 1 : num_experts_per_tok + 1]"),
    "uniform": (
        "weights = probs.gather(1, experts)",
        "weights = torch.ones_like(probs.gather(1, experts)) / num_experts_per_tok",
    ),
    "sigmoid": ("scores.softmax(dim=1)", "scores.sigmoid()"),
    "softmax_over_tokens": ("scores.softmax(dim=1)", "scores.softmax(dim=0)"),
    "softmax_of_probabilities": (
        "weights = weights / weights.sum(1, keepdim=True)",
        "weights = weights.softmax(1)",
    ),
    "divided_by_largest": ("weights.sum(1, keepdim=True)", "weights.amax(1, keepdim=True)"),
    "scaled_logits": ("linear(x, w)", "linear(x, w) / x.size(1) ** 0.5"),
    "ids_sorted": ("return weights, experts", "return weights, experts.sort(dim=1).values"),
    "by_number": (
        "order[:, :num_experts_per_tok]",
        "order[:, :num_experts_per_tok].sort(dim=1).values",
    ),
    "smallest_first": (
        "order = probs.argsort(dim=1, descending=True, stable=True)\n"
        "    experts = order[:, :num_experts_per_tok]",
        "order = probs.argsort(dim=1, stable=True)\n    experts = order[:, -num_experts_per_tok:]",
    ),
    "ties_to_the_higher": (
        "order = probs.argsort(dim=1, descending=True, stable=True)",
        "order = probs.argsort(dim=1, stable=True).flip(1)",
    ),
    "no_max": (
        "probs = scores.softmax(dim=1)",
        "probs = scores.exp() / scores.exp().sum(1, keepdim=True)",
    ),
    "global_max": (
        "probs = scores.softmax(dim=1)",
        "e = (scores - scores.max()).exp()\n    probs = e / e.sum(1, keepdim=True)",
    ),
}

BACKWARD = {
    "chosen_only": (
        "probs = scores.softmax(dim=1)",
        "best = scores.argsort(dim=1, descending=True, stable=True)[:, "
        ":num_experts_per_tok]\n"
        "    mine = torch.zeros_like(scores).scatter(1, best, 1.0) > 0\n"
        "    probs = torch.where(mine, scores, scores.detach()).softmax(dim=1)",
    ),
    "sum_constant": (
        "weights / weights.sum(1, keepdim=True)",
        "weights / weights.sum(1, keepdim=True).detach()",
    ),
    "coupling_dropped": (
        "    return weights, experts",
        "    mine = scores.gather(1, experts)\n"
        "    return weights.detach() * (1 + mine - mine.detach()), experts",
    ),
    "token_mean": ("linear(x, w)", "linear(x, w.detach() + (w - w.detach()) / len(x))"),
}
