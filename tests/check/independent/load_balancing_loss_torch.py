"""The load-balancing loss with one-hot vectors, for all tokens at once."""

import torch


def forward(router_logits, expert_ids, real):
    num_experts = router_logits.shape[1]
    k = expert_ids.shape[1]
    mask = real.to(router_logits.dtype).unsqueeze(1)
    tokens = mask.sum().clamp(min=1)
    probs = torch.softmax(router_logits, dim=1)
    one_hot = torch.nn.functional.one_hot(expert_ids.long(), num_experts).to(probs.dtype)
    hits = one_hot.sum(1)
    fraction = (hits * mask).sum(0) / (tokens * k)
    mean_prob = (probs * mask).sum(0) / tokens
    return num_experts * torch.sum(fraction * mean_prob)


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

FORWARD = {
    "no_E": ("return num_experts * torch", "return torch"),
    "mean_of_products": ("return num_experts * torch.sum(", "return torch.mean("),
    "f_sums_to_k": ("/ (tokens * k)", "/ tokens"),
    "sum_for_mean": ("(probs * mask).sum(0) / tokens", "(probs * mask).sum(0)"),
    "P_for_f": ("torch.sum(fraction * mean_prob)", "torch.sum(mean_prob**2)"),
    "f_for_P": (
        "torch.sum(fraction * mean_prob)",
        "torch.sum(fraction**2) + 0 * router_logits.sum()",
    ),
    "P_of_logits": ("mean_prob = (probs * mask)", "mean_prob = (router_logits * mask)"),
    "softmax_over_tokens": ("softmax(router_logits, dim=1)", "softmax(router_logits, dim=0)"),
    "sigmoid": ("torch.softmax(router_logits, dim=1)", "torch.sigmoid(router_logits)"),
    "first_choice_only": ("hits = one_hot.sum(1)", "hits = k * one_hot[:, 0]"),
    "P_of_chosen": ("mean_prob = (probs * mask)", "mean_prob = (probs * hits * mask)"),
    "P_of_weights": (
        "mean_prob = (probs * mask)",
        "chosen = probs * hits\n    mean_prob = (chosen / chosen.sum(1, keepdim=True) * mask)",
    ),
    "real_ignored": ("mask = real.to", "mask = torch.ones_like(real).to"),
    "padding_in_f": ("(hits * mask).sum(0)", "hits.sum(0)"),
    "padding_in_P": ("(probs * mask).sum(0)", "probs.sum(0)"),
    "all_tokens": ("tokens = mask.sum().clamp(min=1)", "tokens = len(mask)"),
    "P_over_all_tokens": (
        "mean_prob = (probs * mask).sum(0) / tokens",
        "mean_prob = (probs * mask).mean(0)",
    ),
    "coefficient_inside": ("return num_experts *", "return 1e-3 * num_experts *"),
    "minus_one": ("fraction * mean_prob)", "fraction * mean_prob) - 1"),
    "no_tokens_nan": ("mask.sum().clamp(min=1)", "mask.sum()"),
    "no_max": (
        "torch.softmax(router_logits, dim=1)",
        "router_logits.exp() / router_logits.exp().sum(1, keepdim=True)",
    ),
    "global_max": (
        "probs = torch.softmax(router_logits, dim=1)",
        "e = torch.exp(router_logits - router_logits.max())\n"
        "    probs = e / e.sum(1, keepdim=True)",
    ),
}

BACKWARD = {
    "f_differentiated": (
        "torch.sum(fraction * mean_prob)",
        "torch.sum(mean_prob.detach() * (fraction.detach() + mean_prob - "
        "mean_prob.detach())) + torch.sum(mean_prob.detach() * (fraction - "
        "fraction.detach()))",
    ),
    "padding_too": (
        "return num_experts * torch.sum(fraction * mean_prob)",
        "leak = (probs * (1 - mask)).sum(0) / tokens\n"
        "    return num_experts * torch.sum(fraction * (mean_prob + leak - "
        "leak.detach()))",
    ),
    "idle_forgotten": (
        "    one_hot =",
        "    hit = (torch.bincount(expert_ids[real].flatten(), "
        "minlength=num_experts) > 0)\n"
        "    kept = torch.where(hit, router_logits, router_logits.detach())\n"
        "    probs = torch.softmax(kept, dim=1)\n"
        "    one_hot =",
    ),
}
