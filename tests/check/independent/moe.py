"""A mixture of SwiGLU experts, one token and one expert at a time."""

import numpy as np


def silu(a):
    return a * (np.tanh(a / 2) + 1) / 2


def forward(x, w_router, w_gate_up, w_down, num_experts_per_tok, norm_topk_prob):
    dtype, shape = x.dtype, x.shape
    tokens = np.asarray(x, float).reshape(-1, shape[-1])
    router, first, second = (np.asarray(w, float) for w in (w_router, w_gate_up, w_down))
    k, n_experts, width = num_experts_per_tok, len(router), second.shape[2]
    scores = tokens @ router.T
    p = np.exp(scores - scores.max(1, keepdims=True))
    p = p / p.sum(1, keepdims=True)
    y = np.zeros(tokens.shape)
    visits = []
    used = np.zeros(n_experts, int)
    for t in range(len(tokens)):
        picks = sorted(range(n_experts), key=lambda e: (-p[t, e], e))[:k]
        g = [p[t, e] for e in picks]
        if norm_topk_prob:
            g = [one / sum(g) for one in g]
        for e, weight in zip(picks, g, strict=True):
            number = e
            inside = tokens[t]
            rows = first[number] @ inside
            a, b = rows[:width], rows[width:]
            out = second[number] @ (silu(a) * b)
            used[e] += 1
            y[t] += weight * out
            visits.append((t, e, weight, a, b, out))
    cache = tokens, router, first, second, p, visits, norm_topk_prob
    return y.reshape(shape).astype(dtype), cache


def backward(dy, cache):
    """Go through all visits of a token to an expert, then through the router."""
    tokens, router, first, second, p, visits, normed = cache
    shape, dy = dy.shape, dy.reshape(tokens.shape)
    dx, drouter = np.zeros(tokens.shape), np.zeros(router.shape)
    dfirst, dsecond = np.zeros(first.shape), np.zeros(second.shape)
    pull = np.zeros(p.shape)  # gradient of the weights
    mine = np.zeros(p.shape)  # the weights
    for t, e, weight, a, b, out in visits:
        mine[t, e] = weight
        pull[t, e] = np.dot(dy[t], out)
        into = weight * dy[t]
        s = 1 / (1 + np.exp(-a))
        into_hidden = second[e].T @ into
        into_a = into_hidden * b * s * (1 + a * (1 - s))
        into_b = into_hidden * a * s
        dsecond[e] += np.outer(into, a * s * b)
        both = np.concatenate((into_a, into_b))
        dfirst[e] += np.outer(both, tokens[t])
        dx[t] += first[e].T @ both
    share = (mine * pull).sum(1, keepdims=True)
    dscores = mine * pull - (mine if normed else p) * share
    drouter += dscores.T @ tokens
    dx += dscores @ router
    return dx.reshape(shape), drouter, dfirst, dsecond


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

FORWARD = {
    "always_renormalised": ("        if norm_topk_prob:\n", "        if picks:\n"),
    "never_renormalised": ("            g = [one / sum(g) for one in g]\n", "            pass\n"),
    "router_not_transposed": ("scores = tokens @ router.T", "scores = tokens @ router"),
    "weight_not_transposed": (
        "            rows = first[number] @ inside\n"
        "            a, b = rows[:width], rows[width:]\n",
        "            a, b = inside @ first[number][:width], inside @ first[number][width:]\n",
        "second[number] @ (silu(a) * b)",
        "(silu(a) * b) @ second[number]",
    ),
    "logits_as_weights": ("g = [p[t, e] for e in picks]", "g = [scores[t, e] for e in picks]"),
    "uniform": ("g = [p[t, e] for e in picks]", "g = [1 / k] * k"),
    "least_likely": ("key=lambda e: (-p[t, e], e)", "key=lambda e: (p[t, e], e)"),
    "one_too_few": ("(-p[t, e], e))[:k]", "(-p[t, e], e))[: k - 1]"),
    "sigmoid": ("p = p / p.sum(1, keepdims=True)", "p = 1 / (1 + np.exp(-scores))"),
    "softmax_over_tokens": (
        "p = p / p.sum(1, keepdims=True)",
        "p = np.exp(scores) / np.exp(scores).sum(0)",
    ),
    "all_experts": (
        "        g = [p[t, e] for e in picks]\n"
        "        if norm_topk_prob:\n"
        "            g = [one / sum(g) for one in g]\n",
        "        picks, g = range(n_experts), list(p[t])\n",
    ),
    "ids_sorted": ("zip(picks, g, strict=True)", "zip(sorted(picks), g, strict=True)"),
    "weights_reversed": ("zip(picks, g, strict=True)", "zip(picks, g[::-1], strict=True)"),
    "no_weights": ("y[t] += weight * out", "y[t] += out"),
    "input_weighted": (
        "            inside = tokens[t]\n",
        "            inside, weight = weight * tokens[t], 1.0\n",
    ),
    "last_expert_only": ("y[t] += weight * out", "y[t] = weight * out"),
    "highest_number_only": (
        "for e, weight in zip(picks, g, strict=True):",
        "for e, weight in [max(zip(picks, g, strict=True))]:",
    ),
    "first_expert_only": ("zip(picks, g, strict=True)", "[(picks[0], g[0])]"),
    "mean_of_experts": ("y[t] += weight * out", "y[t] += weight * out / k"),
    "not_put_back": (
        "    cache = tokens, router, first, second, p, visits, norm_topk_prob\n",
        "    cache = tokens, router, first, second, p, visits, norm_topk_prob\n"
        "    line = sorted(visits, key=lambda v: v[1])\n"
        "    y[:] = 0\n"
        "    for (t, _, weight, *_), other in zip(visits, line, strict=True):\n"
        "        y[t] += weight * other[5]\n",
    ),
    "sorted_twice": (
        "    cache = tokens, router, first, second, p, visits, norm_topk_prob\n",
        "    cache = tokens, router, first, second, p, visits, norm_topk_prob\n"
        "    order = sorted(range(len(visits)), key=lambda i: visits[i][1])\n"
        "    y[:] = 0\n"
        "    for i, (t, _, weight, *_) in enumerate(visits):\n"
        "        y[t] += weight * visits[order[order[i]]][5]\n",
    ),
    "choices_for_tokens": ("inside = tokens[t]\n", "inside = tokens[len(visits) % len(tokens)]\n"),
    "branches_swapped": ("a, b = rows[:width], rows[width:]", "b, a = rows[:width], rows[width:]"),
    "branches_interleaved": ("a, b = rows[:width], rows[width:]", "a, b = rows.reshape(-1, 2).T"),
    "other_expert_down": ("out = second[number]", "out = second[number - 1]"),
    "experts_off_by_one": ("number = e\n", "number = (e - 1) % n_experts\n"),
    "capacity": (
        "y[t] += weight * out",
        "y[t] += weight * out * (used[e] <= np.ceil(len(tokens) * k / n_experts))",
    ),
    "residual": ("y = np.zeros(tokens.shape)", "y = tokens.copy()"),
}

BACKWARD = {
    "router_path_lost": ("    dx += dscores @ router\n", ""),
    "expert_path_lost": ("        dx[t] += first[e].T @ both\n", ""),
    "router_learns_nothing": ("pull[t, e] = np.dot(dy[t], out)", "pull[t, e] = 0"),
    "chosen_logits_only": ("(mine if normed else p)", "mine"),
    "as_if_not_divided": (
        "    share = (mine * pull).sum(1, keepdims=True)\n"
        "    dscores = mine * pull - (mine if normed else p) * share\n",
        "    share = (p * pull).sum(1, keepdims=True)\n    dscores = p * (pull - share)\n",
    ),
    "weighted_outputs": ("np.dot(dy[t], out)", "np.dot(dy[t], weight * out)"),
    "outputs_of_others": (
        "    share = (mine",
        "    k = len(visits) // len(tokens)\n"
        "    line = sorted(visits, key=lambda v: v[1])\n"
        "    for (t, e, *_), other in zip(visits, line, strict=True):\n"
        "        pull[t, e] = np.dot(dy[t], other[5])\n"
        "    share = (mine",
    ),
    "weights_forgotten": ("into = weight * dy[t]", "into = dy[t]"),
    "dx_of_last": ("dx[t] += first[e].T @ both", "dx[t] = first[e].T @ both"),
    "dx_not_put_back": (
        "    share = (mine",
        "    k = len(visits) // len(tokens)\n"
        "    pieces = []\n"
        "    for t, e, weight, a, b, _ in sorted(visits, key=lambda v: v[1]):\n"
        "        h, s = second[e].T @ (weight * dy[t]), 1 / (1 + np.exp(-a))\n"
        "        both = np.concatenate((h * b * s * (1 + a * (1 - s)), h * a "
        "* s))\n"
        "        pieces.append(first[e].T @ both)\n"
        "    dx = np.array(pieces).reshape(len(tokens), k, -1).sum(1)\n"
        "    share = (mine",
    ),
    "dy_not_sorted": (
        "    for t, e, weight, a, b, out in visits:\n",
        "    order = sorted(range(len(visits)), key=lambda i: visits[i][1])\n"
        "    mixed = [weight_i * dy[t_i] for t_i, _, weight_i, *_ in visits]\n"
        "    place = np.argsort(order)\n"
        "    for i, (t, e, weight, a, b, out) in enumerate(visits):\n",
        "into = weight * dy[t]",
        "into = mixed[place[i]]",
    ),
    "branches_swapped": (
        "dfirst[e] += np.outer(both, tokens[t])",
        "dfirst[e] += np.outer(np.concatenate((into_b, into_a)), tokens[t])",
    ),
    "mean_over_tokens": (
        "    share = (mine",
        "    for e in range(len(router)):\n"
        "        guests = max(sum(v[1] == e for v in visits), 1)\n"
        "        dfirst[e] /= guests\n"
        "        dsecond[e] /= guests\n"
        "    share = (mine",
    ),
    "coupling_dropped": ("mine * pull - (mine if normed else p) * share", "mine * pull"),
}
