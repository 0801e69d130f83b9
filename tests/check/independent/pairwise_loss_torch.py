"""The pairwise loss in PyTorch, with logsigmoid, as in TRL."""

import torch


def forward(chosen_rewards, rejected_rewards, margin):
    half = chosen_rewards.dtype in (torch.float16, torch.bfloat16)
    good, bad = (x.float() if half else x for x in (chosen_rewards, rejected_rewards))
    gap = good - bad
    if margin is not None:
        gap = gap - margin
    losses = -torch.nn.functional.logsigmoid(gap)
    return losses.mean()


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

_GAP = "gap = good - bad"
_MARGIN = "gap = gap - margin"
_LOSSES = "losses = -torch.nn.functional.logsigmoid(gap)"
_RETURN = "return losses.mean()"
FORWARD = {
    "swapped": (_GAP, "gap = bad - good"),
    "all_pairs": (_GAP, "gap = good.unsqueeze(1) - bad"),
    "each_alone": (
        _LOSSES,
        "log_sigmoid = torch.nn.functional.logsigmoid\n"
        "    losses = -log_sigmoid(good) - log_sigmoid(-bad)",
    ),
    "squared": (_LOSSES, "losses = (gap - 1).square()"),
    "rewards_centred": (_RETURN, "return losses.mean() + 0.01 * (good + bad).square().mean()"),
    "margin_ignored": (_MARGIN, "pass"),
    "margin_added": (_MARGIN, "gap = gap + margin"),
    "margin_as_weight": (_MARGIN, "gap = gap * margin"),
    "sum": (_RETURN, "return losses.sum()"),
    "half": (_RETURN, "return losses.mean() / 2"),
    "bits": (_RETURN, "return losses.mean() / torch.tensor(2.0, dtype=gap.dtype).log()"),
    "log_of_mean": (_RETURN, "return -gap.sigmoid().mean().log()"),
    "mean_first": (_LOSSES, "losses = -torch.nn.functional.logsigmoid(gap.mean())"),
    "prob": (_LOSSES, "losses = 1 - gap.sigmoid()"),
    "hinge": (_LOSSES, "losses = torch.relu(1 - gap)"),
    "sigmoid_missing": (_LOSSES, "losses = -gap"),
    "log_of_sigmoid": (_LOSSES, "losses = -gap.sigmoid().log()"),
    "log_of_sigmoid_1e-8": (_LOSSES, "losses = -(gap.sigmoid() + 1e-8).log()"),
    "softplus_overflow": (_LOSSES, "losses = (1 + (-gap).exp()).log()"),
}

BACKWARD = {
    "slope_of_sigmoid": (
        _LOSSES,
        "p = gap.sigmoid()\n    losses = p.detach() - p\n"
        "    losses = losses - torch.nn.functional.logsigmoid(gap).detach()",
    ),
    "sigmoid_forgotten": (
        _LOSSES,
        "losses = gap.detach() - gap - torch.nn.functional.logsigmoid(gap).detach()",
    ),
    "rejected_lost": (_GAP, "gap = good - bad.detach()\n    gap = gap + 0 * bad"),
    "swapped": (_GAP, "gap = good - bad\n    gap = 2 * gap.detach() - gap"),
    "same_sign": (_GAP, "gap = good + bad - 2 * bad.detach()"),
}
