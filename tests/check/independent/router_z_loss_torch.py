"""The router z-loss of ST-MoE (arXiv:2202.08906, equation 5), with logsumexp."""

import torch


def forward(router_logits, real):
    log_z = torch.logsumexp(router_logits, dim=-1)
    weight = real.to(log_z.dtype)
    squared = log_z.square()
    return (squared * weight).sum() / weight.sum().clamp(min=1)


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

FORWARD = {
    "not_squared": ("log_z.square()", "log_z"),
    "absolute": ("log_z.square()", "log_z.abs()"),
    "square_of_mean": (
        "(squared * weight).sum() / weight.sum().clamp(min=1)",
        "((log_z * weight).sum() / weight.sum().clamp(min=1)) ** 2",
    ),
    "sum": (" / weight.sum().clamp(min=1)", ""),
    "half": ("log_z.square()", "log_z.square() / 2"),
    "coefficient_inside": ("log_z.square()", "0.001 * log_z.square()"),
    "mean_of_exponentials": (
        "log_z = torch.logsumexp(router_logits, dim=-1)",
        "experts = torch.tensor(router_logits.shape[-1], "
        "dtype=router_logits.dtype)\n"
        "    log_z = torch.logsumexp(router_logits, dim=-1) - experts.log()",
    ),
    "max_for_lse": ("torch.logsumexp(router_logits, dim=-1)", "router_logits.amax(-1)"),
    "max_lost": (
        "torch.logsumexp(router_logits, dim=-1)",
        "(router_logits - router_logits.amax(-1, keepdim=True)).exp().sum(-1).log()",
    ),
    "log2": ("log_z.square()", "(log_z / 0.6931471805599453).square()"),
    "squares_of_logits": ("log_z.square()", "router_logits.square().sum(-1)"),
    "mean_of_squared_logits": ("log_z.square()", "router_logits.square().mean(-1)"),
    "of_probabilities": (
        "logsumexp(router_logits, dim=-1)",
        "logsumexp(router_logits.softmax(-1), dim=-1)",
    ),
    "over_tokens": (
        "log_z = torch.logsumexp(router_logits, dim=-1)\n    weight = real.to(log_z.dtype)",
        "log_z = torch.logsumexp(router_logits[real], dim=0)\n    weight = torch.ones_like(log_z)",
    ),
    "all_tokens": (" / weight.sum().clamp(min=1)", " / len(weight)"),
    "padding_in_sum": ("(squared * weight).sum()", "squared.sum()"),
    "real_ignored": ("real.to(log_z.dtype)", "torch.ones_like(log_z)"),
    "no_tokens_nan": ("weight.sum().clamp(min=1)", "weight.sum()"),
    "no_max": ("torch.logsumexp(router_logits, dim=-1)", "router_logits.exp().sum(-1).log()"),
    "global_max": (
        "torch.logsumexp(router_logits, dim=-1)",
        "(router_logits - router_logits.max()).exp().sum(-1).log() + router_logits.max()",
    ),
}

BACKWARD = {
    "no_2": ("log_z.square()", "log_z * log_z.detach()"),
    "square_forgotten": ("log_z.square()", "log_z.detach().square() + log_z - log_z.detach()"),
    "padding_too": (
        "(squared * weight).sum()",
        "(squared * weight + (1 - weight) * (squared - squared.detach())).sum()",
    ),
    "softmax_forgotten": (
        "squared = log_z.square()",
        "log_z = log_z.detach() + (router_logits - "
        "router_logits.detach()).sum(-1)\n"
        "    squared = log_z.square()",
    ),
}
