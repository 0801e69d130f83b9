"""The entropy of a softmax (Shannon 1948), with log_softmax."""

import torch


def forward(logits):
    log_p = torch.log_softmax(logits, dim=-1)
    p = log_p.exp()
    return -(p * log_p).sum(dim=-1)


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

_OUT = "return -(p * log_p).sum(dim=-1)"
_P = "p = log_p.exp()"

FORWARD = {
    "sign": (_OUT, "return (p * log_p).sum(dim=-1)"),
    "log2": (_OUT, "return -(p * log_p / 0.6931471805599453).sum(dim=-1)"),
    "over_log_vocabulary": (
        _OUT,
        "top = torch.tensor(float(p.shape[-1]), dtype=p.dtype).log().clamp(min=1e-15)\n"
        "    return -(p * log_p).sum(dim=-1) / top",
    ),
    "mean_over_vocabulary": (_OUT, "return -(p * log_p).mean(dim=-1)"),
    "perplexity": (_OUT, "return (-(p * log_p).sum(dim=-1)).exp()"),
    "not_weighted": (_OUT, "return -log_p.sum(dim=-1)"),
    "surprise_averaged": (_OUT, "return -log_p.mean(dim=-1)"),
    "of_logits": (_OUT, "return -(p * logits).sum(dim=-1)"),
    "no_softmax": (_OUT, "return -(logits * log_p).sum(dim=-1)"),
    "softmax_twice": ("log_softmax(logits,", "log_softmax(logits.softmax(-1),"),
    "surprise_of_the_best": (_OUT, "return -log_p.amax(dim=-1)"),
    "gini": (_OUT, "return 1 - p.square().sum(dim=-1)"),
    "collision": (_OUT, "return -p.square().sum(dim=-1).log()"),
    "variance_of_surprise": (
        _OUT,
        "mean = (p * log_p).sum(dim=-1, keepdim=True)\n"
        "    return (p * (log_p - mean).square()).sum(dim=-1)",
    ),
    "log_sum_exp": (_OUT, "return logits.logsumexp(dim=-1)"),
    "other_axis": (
        "log_p = torch.log_softmax(logits, dim=-1)",
        "log_p = torch.log_softmax(logits, dim=-2)",
    ),
    "eps_in_log": (_OUT, "return -(p * (p + 1e-8).log()).sum(dim=-1)"),
    "log_of_p": (_OUT, "return -(p * p.log()).sum(dim=-1)"),
    "no_max": (
        "log_p = torch.log_softmax(logits, dim=-1)",
        "log_p = logits - logits.exp().sum(dim=-1, keepdim=True).log()",
        _P,
        "p = logits.exp() / logits.exp().sum(dim=-1, keepdim=True)",
    ),
}

BACKWARD = {
    "no_entropy": (
        _OUT,
        "return -(p * log_p).sum(dim=-1).detach() - "
        "((p * log_p).detach() * (logits - logits.detach())).sum(dim=-1)",
    ),
    "plus_1": (
        _OUT,
        "return -(p * log_p).sum(dim=-1).detach() - "
        "((p * log_p + p).detach() * (logits - logits.detach())).sum(dim=-1)",
    ),
}
