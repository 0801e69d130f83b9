"""The DPO loss in PyTorch, with logsigmoid, as in TRL."""

import torch


def forward(chosen_logprobs, rejected_logprobs, ref_chosen_logprobs, ref_rejected_logprobs, beta):
    half = chosen_logprobs.dtype in (torch.float16, torch.bfloat16)
    pw, pl = (x.float() if half else x for x in (chosen_logprobs, rejected_logprobs))
    rw, rl = (x.float() if half else x for x in (ref_chosen_logprobs, ref_rejected_logprobs))
    good = pw - rw.detach()
    bad = pl - rl.detach()
    x = beta * (good - bad)
    losses = -torch.nn.functional.logsigmoid(x)
    return losses.mean()


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

_GOOD = "good = pw - rw.detach()"
_BAD = "bad = pl - rl.detach()"
_X = "x = beta * (good - bad)"
_LOSSES = "losses = -torch.nn.functional.logsigmoid(x)"
_RETURN = "return losses.mean()"
FORWARD = {
    "swapped": (_X, "x = beta * (bad - good)"),
    "no_ref": (_GOOD, "good = pw", _BAD, "bad = pl"),
    "ref_only": (_GOOD, "good = rw", _BAD, "bad = rl"),
    "ref_added": (_GOOD, "good = pw + rw.detach()", _BAD, "bad = pl + rl.detach()"),
    "refs_exchanged": (_GOOD, "good = pw - rl.detach()", _BAD, "bad = pl - rw.detach()"),
    "ref_of_chosen_only": (_BAD, "bad = pl"),
    "no_beta": (_X, "x = good - bad"),
    "beta_divides": (_X, "x = (good - bad) / beta"),
    "beta_out": (_X, "x = good - bad", _RETURN, "return beta * losses.mean()"),
    "beta_on_policy_only": (_GOOD, "good = pw - rw.detach() / beta", _BAD, "bad = pl - rl / beta"),
    "probabilities": (_X, "x = beta * (good.exp() - bad.exp())"),
    "ipo": (_LOSSES, "losses = (x - 0.5).square()"),
    "label_smoothing": (
        _LOSSES,
        "log_sigmoid = torch.nn.functional.logsigmoid\n"
        "    losses = -0.9 * log_sigmoid(x) - 0.1 * log_sigmoid(-x)",
    ),
    "sum": (_RETURN, "return losses.sum()"),
    "half": (_RETURN, "return losses.mean() / 2"),
    "bits": (_RETURN, "return losses.mean() / torch.tensor(2.0, dtype=x.dtype).log()"),
    "log_of_mean": (_RETURN, "return -x.sigmoid().mean().log()"),
    "mean_first": (_LOSSES, "losses = -torch.nn.functional.logsigmoid(x.mean())"),
    "prob": (_LOSSES, "losses = 1 - x.sigmoid()"),
    "hinge": (_LOSSES, "losses = torch.relu(1 - x)"),
    "sigmoid_missing": (_LOSSES, "losses = -x"),
    "log_of_sigmoid": (_LOSSES, "losses = -x.sigmoid().log()"),
    "log_of_sigmoid_1e-8": (_LOSSES, "losses = -(x.sigmoid() + 1e-8).log()"),
    "softplus_overflow": (_LOSSES, "losses = (1 + (-x).exp()).log()"),
}

BACKWARD = {
    "beta_forgotten": (_X, "x = good - bad\n    x = x - (1 - beta) * x.detach()"),
    "rejected_lost": (_BAD, "bad = pl.detach() - rl.detach() + 0 * pl"),
    "sigmoid_forgotten": (
        _LOSSES,
        "losses = x.detach() - x - torch.nn.functional.logsigmoid(x).detach()",
    ),
    "same_sign": (_BAD, "bad = 2 * pl.detach() - pl - rl.detach()"),
}
