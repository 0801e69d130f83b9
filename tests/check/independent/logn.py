"""LogN scaling of Qwen's report: a query at position p counts max(1, log_n(p + 1)) times."""

import math

import numpy as np


def forward(q, positions, train_length):
    wide = np.asarray(q, float)
    y = np.empty(wide.shape)
    factors = []
    for p in positions:
        seen = int(p) + 1
        factor = math.log(seen, train_length) if seen > train_length else 1.0
        factors.append(factor)
    for t, factor in enumerate(factors):
        y[:, :, t, :] = wide[:, :, t, :] * factor
    return y.astype(q.dtype), factors


def backward(dy, cache):
    """The function is linear: each query's gradient is multiplied by its own factor."""
    dq = np.empty(dy.shape)
    for t, factor in enumerate(cache):
        dq[:, :, t, :] = factor * dy[:, :, t, :]
    return (dq,)


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

FORWARD = {
    "position_for_length": ("seen = int(p) + 1", "seen = int(p)"),
    "one_too_many": ("seen = int(p) + 1", "seen = int(p) + 2"),
    "no_lower_limit": (
        "math.log(seen, train_length) if seen > train_length else 1.0",
        "math.log(seen) / math.log(train_length)",
    ),
    "length_of_text": ("seen = int(p) + 1", "seen = int(max(positions)) + 1"),
    "index_for_position": ("seen = int(p) + 1", "seen = len(factors) + 1"),
    "log_of_ratio": (
        "math.log(seen, train_length) if seen > train_length else 1.0",
        "max(1, math.log(seen / train_length))",
    ),
    "log_of_ratio_plus_one": (
        "math.log(seen, train_length) if seen > train_length else 1.0",
        "1 + math.log(max(seen / train_length, 1))",
    ),
    "mixed_bases": (
        "math.log(seen, train_length) if seen > train_length else 1.0",
        "1 + math.log(max(1, seen / train_length)) / math.log2(train_length)",
    ),
    "base_512": (
        "math.log(seen, train_length) if seen > train_length else 1.0",
        "max(1, math.log(seen, 512))",
    ),
    "no_logarithm": (
        "math.log(seen, train_length) if seen > train_length else 1.0",
        "max(1, seen / train_length)",
    ),
    "root": (
        "math.log(seen, train_length) if seen > train_length else 1.0",
        "(math.log(seen, train_length) if seen > train_length else 1.0) ** 0.5",
    ),
    "squared": ("wide[:, :, t, :] * factor", "wide[:, :, t, :] * factor * factor"),
    "divided": ("wide[:, :, t, :] * factor", "wide[:, :, t, :] / factor"),
    "added": ("wide[:, :, t, :] * factor", "wide[:, :, t, :] + factor"),
    "ignored": ("wide[:, :, t, :] * factor", "wide[:, :, t, :]"),
}

BACKWARD = {
    "forgotten": ("factor * dy[:, :, t, :]", "dy[:, :, t, :]"),
    "divided": ("factor * dy[:, :, t, :]", "dy[:, :, t, :] / factor"),
    "squared": ("factor * dy[:, :, t, :]", "factor * factor * dy[:, :, t, :]"),
    "last_for_all": ("factor * dy[:, :, t, :]", "cache[-1] * dy[:, :, t, :]"),
}
