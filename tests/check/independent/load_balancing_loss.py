"""The load-balancing loss, E times the sum over the experts of share times mean probability."""

import numpy as np


def softmax_rows(z):
    biggest = np.array([max(row) for row in z])
    e = np.exp(z - biggest[:, None])
    return e / e.sum(axis=1)[:, None]


def parts(router_logits, expert_ids, real):
    """Shares f, mean probabilities P, probabilities, and which tokens count."""
    z = np.asarray(router_logits, float)
    n_experts, k = z.shape[1], expert_ids.shape[1]
    p = softmax_rows(z)
    keep = [t for t in range(len(z)) if real[t]]
    count = len(keep)
    f, big_p = np.zeros(n_experts), np.zeros(n_experts)
    for t in keep:
        for e in expert_ids[t]:
            f[e] += 1.0
    for t in keep:
        big_p += p[t]
    return f / max(count * k, 1), big_p / max(count, 1), p, keep


def forward(router_logits, expert_ids, real):
    f, big_p, p, keep = parts(router_logits, expert_ids, real)
    loss = len(f) * np.dot(f, big_p)
    return np.asarray(loss, dtype=router_logits.dtype), (f, p, keep)


def backward(dy, cache):
    """Counts have no gradient; the matrix of the softmax's derivatives is written out."""
    f, p, keep = cache
    out = np.zeros(p.shape)
    n_experts = out.shape[1]
    for t in keep:
        into_p = float(dy) * n_experts * f / len(keep)
        jacobian = np.diag(p[t]) - np.outer(p[t], p[t])
        out[t] = jacobian @ into_p
    return (out,)


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

FORWARD = {
    "no_E": ("loss = len(f) * np.dot(f, big_p)", "loss = np.dot(f, big_p)"),
    "mean_of_products": ("loss = len(f) * np.dot(f, big_p)", "loss = np.mean(f * big_p)"),
    "f_sums_to_k": ("f / max(count * k, 1)", "f / max(count, 1)"),
    "sum_for_mean": ("big_p / max(count, 1)", "big_p"),
    "P_for_f": ("np.dot(f, big_p)", "np.dot(big_p, big_p)"),
    "f_for_P": ("np.dot(f, big_p)", "np.dot(f, f)"),
    "P_of_logits": ("        big_p += p[t]\n", "        big_p += z[t]\n"),
    "softmax_over_tokens": ("    p = softmax_rows(z)\n", "    p = softmax_rows(z.T).T\n"),
    "sigmoid": ("    p = softmax_rows(z)\n", "    p = 1 / (1 + np.exp(-z))\n"),
    "first_choice_only": (
        "        for e in expert_ids[t]:\n            f[e] += 1.0\n",
        "        f[expert_ids[t][0]] += k\n",
    ),
    "P_of_chosen": (
        "        big_p += p[t]\n",
        "        big_p[expert_ids[t]] += p[t][expert_ids[t]]\n",
    ),
    "P_of_weights": (
        "        big_p += p[t]\n",
        "        big_p[expert_ids[t]] += p[t][expert_ids[t]] / p[t][expert_ids[t]].sum()\n",
    ),
    "real_ignored": ("for t in range(len(z)) if real[t]]", "for t in range(len(z))]"),
    "padding_in_f": ("for t in keep:\n        for e", "for t in range(len(z)):\n        for e"),
    "padding_in_P": ("for t in keep:\n        big_p", "for t in range(len(z)):\n        big_p"),
    "all_tokens": ("count = len(keep)", "count = len(z)"),
    "P_over_all_tokens": ("big_p / max(count, 1)", "big_p / len(z)"),
    "coefficient_inside": ("loss = len(f) *", "loss = 0.001 * len(f) *"),
    "minus_one": ("np.dot(f, big_p)\n", "np.dot(f, big_p) - 1\n"),
    "no_tokens_nan": (
        "f / max(count * k, 1), big_p / max(count, 1)",
        "f / np.float64(count * k), big_p / np.float64(count)",
    ),
    "no_max": ("biggest = np.array([max(row) for row in z])", "biggest = np.zeros(len(z))"),
    "global_max": (
        "biggest = np.array([max(row) for row in z])",
        "biggest = np.full(len(z), z.max())",
    ),
}

BACKWARD = {
    "f_differentiated": ("n_experts * f / len(keep)", "n_experts * p[keep].mean(0) / len(keep)"),
    "no_E": ("n_experts * f / len(keep)", "f / len(keep)"),
    "not_divided": ("n_experts * f / len(keep)", "n_experts * f"),
    "all_tokens": ("n_experts * f / len(keep)", "n_experts * f / len(out)"),
    "coupling_dropped": ("np.diag(p[t]) - np.outer(p[t], p[t])", "np.diag(p[t])"),
    "softmax_forgotten": ("jacobian @ into_p", "into_p"),
    "idle_forgotten": ("jacobian @ into_p", "(jacobian @ into_p) * (f != 0)"),
    "padding_too": (
        "    for t in keep:\n        into_p",
        "    for t in range(len(out)):\n        into_p",
    ),
    "dloss_ignored": ("float(dy) * n_experts", "1.0 * n_experts"),
}
