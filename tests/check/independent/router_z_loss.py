"""The router z-loss of ST-MoE (arXiv:2202.08906, equation 5), one token at a time."""

import numpy as np


def log_sum_exp(z):
    """Logarithm of the sum of exponentials, adding one expert after the other."""
    highest = z.max(1)
    total = np.zeros(len(z))
    for e in range(z.shape[1]):
        total = total + np.exp(z[:, e] - highest)
    return np.log(total) + highest


def forward(router_logits, real):
    z = np.asarray(router_logits, float)
    logs = log_sum_exp(z)
    keep = np.flatnonzero(real)
    count = max(len(keep), 1)
    loss = 0.0
    for t in keep:
        loss += logs[t] ** 2
    loss = loss / count
    return np.asarray(loss, dtype=router_logits.dtype), (z, logs, keep)


def backward(dy, cache):
    """d(l * l) = 2 l dl, and dl / dz_e = exp(z_e - l)."""
    z, logs, keep = cache
    dz = np.zeros(z.shape)
    for t in keep:
        up = float(dy) / len(keep)
        share = np.exp(z[t] - logs[t])
        dz[t] = up * 2 * logs[t] * share
    return (dz,)


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

FORWARD = {
    "not_squared": ("loss += logs[t] ** 2", "loss += logs[t]"),
    "absolute": ("loss += logs[t] ** 2", "loss += abs(logs[t])"),
    "square_of_mean": (
        "loss += logs[t] ** 2\n    loss = loss / count",
        "loss += logs[t]\n    loss = (loss / count) ** 2",
    ),
    "sum": ("    loss = loss / count\n", ""),
    "half": ("loss = loss / count", "loss = loss / (2 * count)"),
    "coefficient_inside": ("loss = loss / count", "loss = 1e-3 * loss / count"),
    "mean_of_exponentials": ("np.log(total) + highest", "np.log(total / z.shape[1]) + highest"),
    "max_for_lse": ("return np.log(total) + highest", "return highest"),
    "max_lost": ("return np.log(total) + highest", "return np.log(total)"),
    "log2": ("return np.log(total) + highest", "return np.log2(total) + highest / np.log(2)"),
    "squares_of_logits": ("loss += logs[t] ** 2", "loss += np.dot(z[t], z[t])"),
    "mean_of_squared_logits": ("loss += logs[t] ** 2", "loss += np.dot(z[t], z[t]) / z.shape[1]"),
    "of_probabilities": (
        "logs = log_sum_exp(z)",
        "logs = log_sum_exp(np.exp(z - log_sum_exp(z)[:, None]))",
    ),
    "over_tokens": (
        "    logs = log_sum_exp(z)\n    keep = np.flatnonzero(real)\n",
        "    logs = log_sum_exp(z[real].T)\n    keep = range(len(logs))\n",
    ),
    "all_tokens": ("count = max(len(keep), 1)", "count = len(z)"),
    "padding_in_sum": ("for t in keep:\n        loss", "for t in range(len(z)):\n        loss"),
    "real_ignored": ("keep = np.flatnonzero(real)", "keep = range(len(real))"),
    "no_tokens_nan": ("count = max(len(keep), 1)", "count = np.float64(len(keep))"),
    "no_max": ("highest = z.max(1)", "highest = np.zeros(len(z))"),
    "global_max": ("highest = z.max(1)", "highest = z.max()"),
}

BACKWARD = {
    "no_2": ("up * 2 * logs[t]", "up * logs[t]"),
    "square_forgotten": ("up * 2 * logs[t] * share", "up * share"),
    "softmax_forgotten": ("up * 2 * logs[t] * share", "up * 2 * logs[t]"),
    "not_divided": ("float(dy) / len(keep)", "float(dy)"),
    "all_tokens": ("float(dy) / len(keep)", "float(dy) / len(z)"),
    "padding_too": ("    for t in keep:\n        up", "    for t in range(len(z)):\n        up"),
    "dloss_ignored": ("float(dy) / len(keep)", "1 / len(keep)"),
    "coupled": (
        "dz[t] = up * 2 * logs[t] * share",
        "dz[t] = (np.diag(share) - np.outer(share, share)) @ (up * 2 * logs[t] * share)",
    ),
}
