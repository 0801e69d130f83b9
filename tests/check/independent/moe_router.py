"""The router of a mixture of experts, one token at a time."""

import numpy as np


def likely(x, w):
    """Scores and probabilities of all experts, for each token."""
    scores = np.einsum("nd,ed->ne", np.asarray(x, float), np.asarray(w, float))
    shifted = scores - np.amax(scores, 1)[:, None]
    e = np.exp(shifted)
    return scores, e / np.sum(e, 1)[:, None]


def forward(x, w, num_experts_per_tok, norm_topk_prob):
    _, p = likely(x, w)
    k, n_experts = num_experts_per_tok, len(w)
    chosen, weights = [], []
    for t in range(len(x)):
        ranking = sorted(range(n_experts), key=lambda e: (-p[t, e], e))
        picks = ranking[:k]
        g = np.array([p[t, e] for e in picks])
        if norm_topk_prob:
            g = g / g.sum()
        numbers = picks
        chosen.append(numbers)
        weights.append(g)
    cache = np.asarray(x, float), np.asarray(w, float), p, k, norm_topk_prob
    return np.array(weights).astype(x.dtype), np.array(chosen, dtype=np.int64), cache


def backward(dy, cache):
    """Logits that were not chosen count too, unless the weights are divided by their sum."""
    x, w, p, k, norm_topk_prob = cache
    dx, dw = np.zeros(x.shape), np.zeros(w.shape)
    for t in range(len(x)):
        picks = sorted(range(len(w)), key=lambda e: (-p[t, e], e))[:k]
        normed = norm_topk_prob
        total = p[t, picks].sum() if normed else 1.0
        g = p[t, picks] / total
        inner = float(np.dot(g, dy[t]))
        dz = np.zeros(len(w))
        for e in range(len(w)):
            if e in picks:
                j = picks.index(e)
                dz[e] = g[j] * (dy[t, j] - inner)
            elif not normed:
                dz[e] = -p[t, e] * inner
        dx[t] = w.T @ dz
        dw += np.outer(dz, x[t])
    return dx, dw


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

FORWARD = {
    "always_renormalised": ("        if norm_topk_prob:\n", "        if k:\n"),
    "never_renormalised": ("            g = g / g.sum()\n", "            pass\n"),
    "weight_not_transposed": (
        'np.einsum("nd,ed->ne", np.asarray(x, float), np.asarray(w, float))',
        "np.asarray(x, float) @ np.asarray(w, float)",
    ),
    "logits_as_weights": (
        "np.array([p[t, e] for e in picks])",
        "np.array([np.dot(x[t], w[e]) for e in picks])",
    ),
    "least_likely": (
        "key=lambda e: (-p[t, e], e))\n        picks",
        "key=lambda e: (p[t, e], e))\n        picks",
    ),
    "one_too_few": ("picks = ranking[:k]", "picks = ranking[: k - 1]"),
    "best_skipped": ("picks = ranking[:k]", "picks = ranking[1 : k + 1]"),
    "uniform": ("np.array([p[t, e] for e in picks])", "np.array([1 / k for _ in picks])"),
    "sigmoid": (
        "return scores, e / np.sum(e, 1)[:, None]",
        "return scores, 1 / (1 + np.exp(-scores))",
    ),
    "softmax_over_tokens": (
        "shifted = scores - np.amax(scores, 1)[:, None]\n"
        "    e = np.exp(shifted)\n"
        "    return scores, e / np.sum(e, 1)[:, None]",
        "shifted = scores - np.amax(scores, 0)\n"
        "    e = np.exp(shifted)\n"
        "    return scores, e / np.sum(e, 0)",
    ),
    "softmax_of_probabilities": ("g = g / g.sum()", "g = np.exp(g) / np.exp(g).sum()"),
    "divided_by_largest": ("g = g / g.sum()", "g = g / max(g)"),
    "scaled_logits": ("    shifted =", "    scores = scores / x.shape[1] ** 0.5\n    shifted ="),
    "ids_sorted": ("numbers = picks", "numbers = sorted(picks)"),
    "by_number": ("picks = ranking[:k]", "picks = sorted(ranking[:k])"),
    "smallest_first": (
        "picks = ranking[:k]",
        "picks = sorted(range(n_experts), key=lambda e: (p[t, e], e))[n_experts - k :]",
    ),
    "ties_to_the_higher": (
        "key=lambda e: (-p[t, e], e))\n        picks",
        "key=lambda e: (-p[t, e], -e))\n        picks",
    ),
    "no_max": ("shifted = scores - np.amax(scores, 1)[:, None]", "shifted = scores"),
    "global_max": ("np.amax(scores, 1)[:, None]", "np.amax(scores)"),
}

BACKWARD = {
    "chosen_only": ("elif not normed:", "elif False:"),
    "coupling_dropped": ("inner = float(np.dot(g, dy[t]))", "inner = 0.0"),
    "as_if_divided": ("normed = norm_topk_prob", "normed = True"),
    "as_if_not_divided": ("normed = norm_topk_prob", "normed = False"),
    "sum_constant": (
        "dz[e] = g[j] * (dy[t, j] - inner)\n"
        "            elif not normed:\n"
        "                dz[e] = -p[t, e] * inner",
        "dz[e] = g[j] * dy[t, j] - p[t, e] * inner\n"
        "            else:\n"
        "                dz[e] = -p[t, e] * inner",
    ),
    "unchosen_pushed_up": ("dz[e] = -p[t, e] * inner", "dz[e] = p[t, e] * inner"),
    "mean_for_sum": ("float(np.dot(g, dy[t]))", "float(np.dot(g, dy[t])) / k"),
    "probability_forgotten": ("g[j] * (dy[t, j] - inner)", "dy[t, j] - inner"),
    "to_other_experts": ("j = picks.index(e)", "j = sorted(picks).index(e)"),
    "token_mean": ("return dx, dw", "return dx, dw / len(x)"),
}
