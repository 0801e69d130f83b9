"""Generalised advantage estimation (arXiv:1506.02438, equation 16), as a sum over later steps."""

import numpy as np


def one_answer(r, v, end, gamma, lam):
    """Add up (gamma lam)^k delta_{t+k} for each t of one answer; `end` is the value after it."""
    n = len(r)
    following = np.append(v[1:], end)
    delta = r + gamma * following - v
    advantages = np.zeros(n)
    for t in range(n):
        for k in range(n - t):
            advantages[t] += (gamma * lam) ** k * delta[t + k]
    return advantages


def forward(rewards, values, mask, gamma, lam, last_values):
    r, v = rewards.astype(float), values.astype(float)
    A, R = np.zeros(r.shape), np.zeros(r.shape)
    for b in range(len(r)):
        places = np.flatnonzero(mask[b])
        end = 0.0 if last_values is None else float(last_values[b])
        A[b, places] = one_answer(r[b, places], v[b, places], end, gamma, lam)
        R[b, places] = A[b, places] + v[b, places]
    return A.astype(rewards.dtype), R.astype(rewards.dtype)


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

_DELTA = "delta = r + gamma * following - v"
_TERM = "advantages[t] += (gamma * lam) ** k * delta[t + k]"
_RETURN = "R[b, places] = A[b, places] + v[b, places]"
_END = "end = 0.0 if last_values is None else float(last_values[b])"
_PLACES = "places = np.flatnonzero(mask[b])"
_OUT = "    return A.astype("
_ROW = "A[b, places] = one_answer(r[b, places], v[b, places], end, gamma, lam)"

FORWARD = {
    "no_done_boot": (
        _END,
        f"{_END}\n        if places[-1] + 1 < len(v[b]):\n            end = v[b, places[-1] + 1]",
    ),
    "no_done_run": (
        _ROW,
        "v_row, real = np.append(v[b], end), np.append(mask[b], False)\n"
        "        seen = np.array([v_row[t] if real[t] else end for t in range(1, len(real))])\n"
        "        d, a = r[b] + gamma * seen - v[b], 0.0\n"
        "        for t in reversed(range(len(d))):\n"
        "            a = d[t] + gamma * lam * a\n"
        "            A[b, t] = a if real[t] else 0.0",
    ),
    "masked_at_the_end": (
        _ROW,
        "A[b] = one_answer(r[b], v[b], end, gamma, lam)\n        A[b, ~mask[b]] = 0",
    ),
    "through_padding": (_PLACES, "places = np.arange(len(mask[b]))"),
    "done_shift": (
        _ROW,
        "later = mask[b, np.minimum(np.arange(len(v[b])) + 1, len(v[b]) - 1)]\n"
        "        a, after = 0.0, end\n"
        "        for t in reversed(range(len(v[b]))):\n"
        "            if later[t]:\n"
        "                rt, vt = (x if mask[b, t] else 0.0 for x in (r[b, t], v[b, t]))\n"
        "                a = rt + gamma * after - vt + gamma * lam * a\n"
        "            if later[t]:\n"
        "                after = vt\n"
        "            A[b, t] = a if mask[b, t] else 0.0",
    ),
    "no_last": (_END, "end = 0.0"),
    "last_in_sum": (
        "    return advantages",
        "    advantages += (gamma * lam) ** np.arange(n, 0, -1) * end\n    return advantages",
    ),
    "gamma_only": (_TERM, "advantages[t] += gamma**k * delta[t + k]"),
    "lam_only": (_TERM, "advantages[t] += lam**k * delta[t + k]"),
    "no_decay": (_TERM, "advantages[t] += delta[t + k]"),
    "no_gamma_v": (_DELTA, "delta = r + following - v"),
    "lam_on_v": (_DELTA, "delta = r + gamma * lam * following - v"),
    "no_next_v": (_DELTA, "delta = r - v"),
    "reward_discounted": (_DELTA, "delta = gamma * (r + following) - v"),
    "td_only": ("for k in range(n - t):", "for k in (0,):"),
    "forward": (
        f"for k in range(n - t):\n            {_TERM}",
        "for k in range(t + 1):\n            advantages[t] += (gamma * lam) ** k * delta[t - k]",
    ),
    "no_minus_v": (_DELTA, "delta = r + gamma * following"),
    "plus_v": (_DELTA, "delta = r - gamma * following + v"),
    "advantages_are_returns": (_OUT, "    A = R\n    return A.astype("),
    "returns_are_advantages": (_RETURN, "R[b, places] = A[b, places]"),
    "returns_minus_v": (_RETURN, "R[b, places] = A[b, places] - v[b, places]"),
    "returns_whitened": (
        _OUT,
        "    x = A[mask]\n"
        "    R[mask] = (x - x.mean()) / np.sqrt(x.var() + 1e-8) + v[mask]\n"
        "    return A.astype(",
    ),
    "returns_from_rewards": (
        _RETURN,
        "for i, t in enumerate(places):\n"
        "            R[b, t] = sum(gamma**k * r[b, s] for k, s in enumerate(places[i:]))",
    ),
    "padding_kept": (
        _OUT,
        "    before = mask.cumsum(1) == 0\n"
        "    A = np.where(before, A[range(len(A)), mask.argmax(1)][:, None], A)\n"
        "    R = np.where(before, A, R)\n"
        "    return A.astype(",
    ),
    "returns_padding": (_OUT, "    R = A + v\n    return A.astype("),
}
