"""The pairwise loss in NumPy, one pair after another, with the sigmoid written by sides."""

import math

import numpy as np


def sigmoid(x):
    """1 / (1 + exp(-x)), by the side on which nothing overflows."""
    if x >= 0:
        return 1 / (1 + math.exp(-x))
    e = math.exp(x)
    return e / (1 + e)


def surprise(x):
    """-log sigmoid(x), from the smaller of the two probabilities."""
    small = math.exp(-abs(x))
    return math.log1p(small) + (-x if x < 0 else 0.0)


def forward(chosen_rewards, rejected_rewards, margin):
    kind = np.promote_types(chosen_rewards.dtype, np.float32)
    gaps = []
    for i in range(len(chosen_rewards)):
        good, bad = float(chosen_rewards[i]), float(rejected_rewards[i])
        gap = good - bad
        if margin is not None:
            gap -= float(margin[i])
        gaps.append(gap)
    loss = math.fsum(surprise(gap) for gap in gaps) / len(gaps)
    return np.asarray(loss, kind), gaps


def backward(dy, cache):
    """Chosen rises by the probability that it loses, rejected falls by it."""
    count = len(cache)
    lose = np.array([sigmoid(-gap) for gap in cache])
    down = lose * float(dy) / count
    return -down, down, None


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

_GAP = "gap = good - bad"
_MARGIN = "gap -= float(margin[i])"
_LOSS = "loss = math.fsum(surprise(gap) for gap in gaps) / len(gaps)"
_LOG1P = "return math.log1p(small) + (-x if x < 0 else 0.0)"
FORWARD = {
    "swapped": (_GAP, "gap = bad - good"),
    "all_pairs": (
        _LOSS,
        "by = margin if margin is not None else np.zeros(len(gaps))\n"
        "    loss = np.mean(\n"
        "        [\n"
        "            surprise(float(c) - float(r) - float(m))\n"
        "            for c in chosen_rewards\n"
        "            for r, m in zip(rejected_rewards, by)\n"
        "        ]\n"
        "    )",
    ),
    "each_alone": (
        _LOSS,
        "loss = math.fsum(map(surprise, map(float, chosen_rewards)))\n"
        "    loss = (loss + math.fsum(surprise(-float(r)) for r in rejected_rewards)) / len(gaps)",
    ),
    "squared": (_LOSS, "loss = math.fsum((gap - 1) ** 2 for gap in gaps) / len(gaps)"),
    "rewards_centred": (
        _LOSS,
        f"{_LOSS}\n    both = chosen_rewards.astype(kind) + rejected_rewards.astype(kind)\n"
        "    loss = loss + 0.01 * np.mean(both**2)",
    ),
    "margin_ignored": (_MARGIN, "pass"),
    "margin_added": (_MARGIN, "gap += float(margin[i])"),
    "margin_as_weight": (_MARGIN, "gap *= float(margin[i])"),
    "sum": (_LOSS, "loss = math.fsum(surprise(gap) for gap in gaps)"),
    "half": (_LOSS, "loss = math.fsum(surprise(gap) for gap in gaps) / (2 * len(gaps))"),
    "bits": (_LOSS, "loss = math.fsum(surprise(gap) / math.log(2) for gap in gaps) / len(gaps)"),
    "log_of_mean": (_LOSS, "loss = -np.log(np.mean([sigmoid(gap) for gap in gaps]))"),
    "mean_first": (_LOSS, "loss = surprise(math.fsum(gaps) / len(gaps))"),
    "prob": (_LOSS, "loss = math.fsum(sigmoid(-gap) for gap in gaps) / len(gaps)"),
    "hinge": (_LOSS, "loss = math.fsum(max(0.0, 1 - gap) for gap in gaps) / len(gaps)"),
    "sigmoid_missing": (_LOSS, "loss = -math.fsum(gaps) / len(gaps)"),
    "log_of_sigmoid": (_LOSS, "loss = np.mean([-np.log(sigmoid(gap)) for gap in gaps])"),
    "log_of_sigmoid_1e-8": (
        _LOSS,
        "loss = np.mean([-np.log(sigmoid(gap) + 1e-8) for gap in gaps])",
    ),
    "softplus_overflow": (_LOSS, "loss = np.mean(np.log1p(np.exp(-np.array(gaps))))"),
}

_LOSE = "lose = np.array([sigmoid(-gap) for gap in cache])"
_DOWN = "down = lose * float(dy) / count"
_RETURN = "return -down, down, None"
BACKWARD = {
    "right_for_wrong": (_LOSE, "lose = np.array([sigmoid(gap) for gap in cache])"),
    "slope_of_sigmoid": (_LOSE, "lose = np.array([sigmoid(gap) * sigmoid(-gap) for gap in cache])"),
    "sigmoid_forgotten": (_LOSE, "lose = np.ones(count)"),
    "not_averaged": (_DOWN, "down = lose * float(dy)"),
    "dloss_ignored": (_DOWN, "down = lose / count"),
    "swapped": (_RETURN, "return down, -down, None"),
    "rejected_lost": (_RETURN, "return -down, np.zeros(count), None"),
    "same_sign": (_RETURN, "return -down, -down, None"),
}
