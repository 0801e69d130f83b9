"""The clipped value loss of PPO (OpenAI baselines; arXiv:2403.17031), one token at a time."""

import numpy as np


def forward(values, old_values, returns, mask, cliprange_value):
    wide = np.promote_types(values.dtype, np.float64)
    v, v_old, target = (x.astype(wide) for x in (values, old_values, returns))
    tokens = list(zip(*np.nonzero(mask), strict=True))
    count = np.float64(max(len(tokens), 1))
    c = cliprange_value
    far, near, held = np.zeros(v.shape), np.zeros(v.shape), np.zeros(v.shape)
    for i in np.ndindex(*mask.shape):
        change = min(max(v[i] - v_old[i], -c), c)
        held[i] = v_old[i] + change
        far[i] = (v[i] - target[i]) ** 2
        near[i] = (held[i] - target[i]) ** 2
    loss = np.float64(0)
    for i in tokens:
        loss = loss + 0.5 * max(far[i], near[i])
    loss = loss / count
    cache = (v, v_old, target, far, near, held, tokens, c, mask)
    return np.asarray(loss, dtype=values.dtype), cache


def backward(dy, cache):
    """d(x * x / 2) = x dx; a value that is held does not move."""
    v, v_old, target, far, near, held, tokens, c, mask = cache  # noqa: RUF059
    d = np.zeros(mask.shape)
    up = float(dy) / max(len(tokens), 1)
    for i in tokens:
        inside = abs(v[i] - v_old[i]) <= c
        if inside or far[i] > near[i]:
            d[i] = up * (v[i] - target[i])
    return d, None, None


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

_CHANGE = "change = min(max(v[i] - v_old[i], -c), c)"
_HELD = "held[i] = v_old[i] + change"
_NEAR = "near[i] = (held[i] - target[i]) ** 2"
_FAR = "far[i] = (v[i] - target[i]) ** 2"
_SUM = "loss = loss + 0.5 * max(far[i], near[i])"
_COUNT = "count = np.float64(max(len(tokens), 1))"
_MEAN = "    loss = loss / count\n"
_C = "c = cliprange_value"

FORWARD = {
    "min": (_SUM, "loss = loss + 0.5 * min(far[i], near[i])"),
    "no_half": (_SUM, "loss = loss + max(far[i], near[i])"),
    "no_clip": (_SUM, "loss = loss + 0.5 * far[i]"),
    "clip_only": (_SUM, "loss = loss + 0.5 * near[i]"),
    "clip_of_value": (_HELD, "held[i] = min(max(v[i], -c), c)"),
    "clip_of_factor": (_HELD, "held[i] = min(max(v[i], v_old[i] * (1 - c)), v_old[i] * (1 + c))"),
    "clip_around_return": (_HELD, "held[i] = min(max(v[i], target[i] - c), target[i] + c)"),
    "return_clipped": (
        _NEAR,
        "near[i] = (v[i] - min(max(target[i], v_old[i] - c), v_old[i] + c)) ** 2",
    ),
    "change_alone": (_HELD, "held[i] = change"),
    "one_sided": (_CHANGE, "change = min(v[i] - v_old[i], c)"),
    "no_upper_limit": (_CHANGE, "change = max(v[i] - v_old[i], -c)"),
    "range_fixed": (_C, "c = 0.2"),
    "range_doubled": (_C, "c = 2 * cliprange_value"),
    "absolute": (
        _FAR,
        "far[i] = abs(v[i] - target[i])",
        _NEAR,
        "near[i] = abs(held[i] - target[i])",
    ),
    "root": (_MEAN, "    loss = np.sqrt(loss / count)\n"),
    "max_of_sums": (
        _MEAN,
        "    loss = 0.5 * max(far[mask].sum(), near[mask].sum()) / count\n",
    ),
    "mean_of_both": (_SUM, "loss = loss + 0.5 * (far[i] + near[i]) / 2"),
    "huber": (
        _SUM,
        "loss = loss + max(s / 2 if s <= 1 else s**0.5 - 0.5 for s in (far[i], near[i]))",
    ),
    "mean_all": (_COUNT, "count = np.float64(mask.size)"),
    "unmasked": (
        "tokens = list(zip(*np.nonzero(mask), strict=True))",
        "tokens = list(np.ndindex(*mask.shape))",
    ),
    "padding_in_sum": (
        "for i in tokens:\n        loss",
        "for i in np.ndindex(*mask.shape):\n        loss",
    ),
    "per_answer": (
        _SUM,
        "loss = loss + 0.5 * max(far[i], near[i]) * len(tokens) / len(mask) / mask[i[0]].sum()",
    ),
    "sum": (_MEAN, ""),
    "no_tokens_nan": (_COUNT, "count = np.float64(len(tokens))"),
}

_D = "d[i] = up * (v[i] - target[i])"
_UP = "up = float(dy) / max(len(tokens), 1)"
_IF = "if inside or far[i] > near[i]:"
BACKWARD = {
    "clip_forgotten": (_IF, "if True:"),
    "zero_outside": (_IF, "if inside:"),
    "branches_exchanged": (_IF, "if inside or far[i] < near[i]:"),
    "slope_of_the_clipped": (
        _D,
        f"{_D}\n        else:\n            d[i] = up * (held[i] - target[i])",
    ),
    "factor_2": (_D, "d[i] = 2 * up * (v[i] - target[i])"),
    "half_left": (_D, "d[i] = up / 2 * (v[i] - target[i])"),
    "sign": (_D, "d[i] = up * (target[i] - v[i])"),
    "sign_only": (_D, "d[i] = up * np.sign(v[i] - target[i])"),
    "not_divided": (_UP, "up = float(dy)"),
    "all_tokens": (_UP, "up = float(dy) / mask.size"),
    "dloss_ignored": (_UP, "up = 1 / max(len(tokens), 1)"),
    "padding_too": (
        "for i in tokens:\n        inside",
        "for i in np.ndindex(*mask.shape):\n        inside",
    ),
}
