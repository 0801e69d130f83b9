"""The DPO loss in NumPy, from the odds of the policy and of the reference."""

import numpy as np


def forward(chosen_logprobs, rejected_logprobs, ref_chosen_logprobs, ref_rejected_logprobs, beta):
    kind = np.promote_types(chosen_logprobs.dtype, np.float32)
    pw, pl = chosen_logprobs.astype(float), rejected_logprobs.astype(float)
    rw, rl = ref_chosen_logprobs.astype(float), ref_rejected_logprobs.astype(float)
    ours = pw - pl
    theirs = rw - rl
    x = beta * (ours - theirs)
    losses = np.logaddexp(0, -x)
    loss = losses.sum() / len(x)
    return np.asarray(loss, kind), (x, beta)


def backward(dy, cache):
    x, beta = cache
    lose = np.where(x > 0, np.exp(-abs(x)), 1) / (1 + np.exp(-abs(x)))
    pull = beta * lose * float(dy) / len(x)
    return -pull, pull, None, None


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

_OURS = "ours = pw - pl"
_THEIRS = "theirs = rw - rl"
_X = "x = beta * (ours - theirs)"
_LOSSES = "losses = np.logaddexp(0, -x)"
_LOSS = "loss = losses.sum() / len(x)"
FORWARD = {
    "swapped": (_X, "x = beta * (theirs - ours)"),
    "no_ref": (_X, "x = beta * ours"),
    "ref_only": (_X, "x = beta * theirs"),
    "ref_added": (_X, "x = beta * (ours + theirs)"),
    "refs_exchanged": (_THEIRS, "theirs = rl - rw"),
    "ref_of_chosen_only": (_THEIRS, "theirs = rw"),
    "no_beta": (_X, "x = ours - theirs"),
    "beta_divides": (_X, "x = (ours - theirs) / beta"),
    "beta_out": (_X, "x = ours - theirs", _LOSS, "loss = beta * losses.sum() / len(x)"),
    "beta_on_policy_only": (_X, "x = beta * ours - theirs"),
    "probabilities": (_X, "x = beta * (np.exp(pw - rw) - np.exp(pl - rl))"),
    "ipo": (_LOSSES, "losses = np.square(x - 1 / 2)"),
    "label_smoothing": (_LOSSES, "losses = 0.9 * np.logaddexp(0, -x) + 0.1 * np.logaddexp(0, x)"),
    "sum": (_LOSS, "loss = losses.sum()"),
    "half": (_LOSS, "loss = losses.sum() / (len(pw) + len(pl))"),
    "bits": (_LOSSES, "losses = np.logaddexp2(0, -x / np.log(2))"),
    "log_of_mean": (_LOSS, "loss = -np.log(np.mean(np.exp(-losses)))"),
    "mean_first": (_LOSSES, "losses = np.logaddexp(0, -np.mean(x)) * np.ones(len(x))"),
    "prob": (_LOSSES, "losses = 1 - np.exp(-np.logaddexp(0, -x))"),
    "hinge": (_LOSSES, "losses = np.clip(1 - x, 0, None)"),
    "sigmoid_missing": (_LOSSES, "losses = -x"),
    "log_of_sigmoid": (_LOSSES, "losses = -np.log(1 / (1 + np.exp(-x)))"),
    "log_of_sigmoid_1e-8": (_LOSSES, "losses = -np.log(1 / (1 + np.exp(-x)) + 1e-8)"),
    "softplus_overflow": (_LOSSES, "losses = np.log(1 + np.exp(-x))"),
}

_LOSE = "lose = np.where(x > 0, np.exp(-abs(x)), 1) / (1 + np.exp(-abs(x)))"
_PULL = "pull = beta * lose * float(dy) / len(x)"
_RETURN = "return -pull, pull, None, None"
BACKWARD = {
    "beta_forgotten": (_PULL, "pull = lose * float(dy) / len(x)"),
    "beta_twice": (_PULL, "pull = beta * beta * lose * float(dy) / len(x)"),
    "beta_divides": (_PULL, "pull = lose * float(dy) / len(x) / beta"),
    "right_for_wrong": (_LOSE, _LOSE.replace("x > 0", "x < 0")),
    "slope_of_sigmoid": (_PULL, "pull = beta * lose * (1 - lose) * float(dy) / len(x)"),
    "sigmoid_forgotten": (_LOSE, "lose = np.ones(len(x))"),
    "not_averaged": (_PULL, "pull = beta * lose * float(dy)"),
    "dloss_ignored": (_PULL, "pull = beta * lose / len(x)"),
    "swapped": (_RETURN, "return pull, -pull, None, None"),
    "rejected_lost": (_RETURN, "return -pull, 0 * pull, None, None"),
    "same_sign": (_RETURN, "return -pull, -pull, None, None"),
}
