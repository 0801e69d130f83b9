"""The clipped objective of PPO (arXiv:1707.06347, equation 7), one token at a time."""

import numpy as np


def forward(logprobs, old_logprobs, advantages, mask, cliprange):
    wide = np.promote_types(logprobs.dtype, np.float64)
    new, old, adv = (x.astype(wide) for x in (logprobs, old_logprobs, advantages))
    low, high = 1 - cliprange, 1 + cliprange
    tokens = list(zip(*np.nonzero(mask), strict=True))
    count = np.float64(max(len(tokens), 1))
    ratios = np.exp(np.minimum(new - old, 700.0))
    loss = np.float64(0)
    for i in tokens:
        ratio = ratios[i]
        gain = ratio * adv[i]
        held = min(max(ratio, low), high) * adv[i]
        loss = loss - min(gain, held)
    loss = loss / count
    return np.asarray(loss, dtype=logprobs.dtype), (ratios, adv, tokens, low, high, mask)


def backward(dy, cache):
    """d ratio / d log pi = ratio; where the clip holds the gain, nothing."""
    ratios, adv, tokens, low, high, mask = cache
    d = np.zeros(mask.shape)
    up = float(dy) / max(len(tokens), 1)
    for i in tokens:
        ratio = ratios[i]
        too_high = adv[i] > 0 and ratio > high
        too_low = adv[i] < 0 and ratio < low
        if too_high or too_low:
            continue
        d[i] = -adv[i] * ratio * up
    return d, None, None


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

_RATIOS = "ratios = np.exp(np.minimum(new - old, 700.0))"
_HELD = "held = min(max(ratio, low), high) * adv[i]"
_SUM = "loss = loss - min(gain, held)"
_MEAN = "    loss = loss / count\n"
_COUNT = "count = np.float64(max(len(tokens), 1))"
_TOKENS = "tokens = list(zip(*np.nonzero(mask), strict=True))"
_LIMITS = "low, high = 1 - cliprange, 1 + cliprange"

FORWARD = {
    "max": (_SUM, "loss = loss - max(gain, held)"),
    "sign": (_SUM, "loss = loss + min(gain, held)"),
    "sign_inside": (_SUM, "loss = loss + max(gain, held)"),
    "no_clip": (_SUM, "loss = loss - gain"),
    "clip_only": (_SUM, "loss = loss - held"),
    "ratio_inverted": (_RATIOS, "ratios = np.exp(np.minimum(old - new, 700.0))"),
    "ratio_log": (_RATIOS, "ratios = new - old"),
    "ratio_of_logs": (_RATIOS, "ratios = new / old"),
    "ratio_linear": (_RATIOS, "ratios = 1 + new - old"),
    "old_is_new": (_RATIOS, "ratios = np.ones(new.shape)"),
    "no_old": (_RATIOS, "ratios = np.exp(new)"),
    "asymmetric": (_LIMITS, "low, high = 1 / (1 + cliprange), 1 + cliprange"),
    "clip_of_log": (_LIMITS, "low, high = np.exp(-cliprange), np.exp(cliprange)"),
    "no_lower_limit": (_HELD, "held = min(ratio, high) * adv[i]"),
    "no_upper_limit": (_HELD, "held = max(ratio, low) * adv[i]"),
    "clip_of_product": (_HELD, "held = min(max(gain, low), high)"),
    "range_fixed": (_LIMITS, "low, high = 0.8, 1.2"),
    "range_around_0": (_LIMITS, "low, high = -cliprange, cliprange"),
    "absolute_advantage": (_LIMITS, f"{_LIMITS}\n    adv = abs(adv)"),
    "no_advantage": (_LIMITS, f"{_LIMITS}\n    adv = np.ones(adv.shape)"),
    "whitened": (
        _LIMITS,
        f"{_LIMITS}\n"
        "    if mask.any():\n"
        "        adv = (adv - adv[mask].mean()) / np.sqrt(adv[mask].var() + 1e-8)",
    ),
    "dual_clip": (
        _SUM,
        "loss = loss - max(min(gain, held), 3 * adv[i] if adv[i] < 0 else -np.inf)",
    ),
    "mean_all": (_COUNT, "count = np.float64(mask.size)"),
    "unmasked": (_TOKENS, "tokens = list(np.ndindex(*mask.shape))"),
    "padding_in_sum": (
        "    for i in tokens:\n        ratio = ratios[i]\n        gain",
        "    for i in np.ndindex(*mask.shape):\n        ratio = ratios[i]\n        gain",
    ),
    "per_answer": (
        "    for i in tokens:\n        ratio = ratios[i]\n        gain",
        "    weight = len(tokens) / np.maximum(mask.sum(1), 1) / len(mask)\n"
        "    for i in tokens:\n        ratio = ratios[i]\n        gain",
        _SUM,
        "loss = loss - weight[i[0]] * min(gain, held)",
    ),
    "sum": (_MEAN, ""),
    "sum_per_answer": (_COUNT, "count = np.float64(len(mask))"),
    "ratio_of_answer": (
        _RATIOS,
        "whole = ((new - old) * mask).sum(1, keepdims=True)\n"
        "    ratios = np.exp(np.minimum(whole, 354.8)) * np.ones(new.shape)",
    ),
    "no_tokens_nan": (_COUNT, "count = np.float64(len(tokens))"),
}

_D = "d[i] = -adv[i] * ratio * up"
_UP = "up = float(dy) / max(len(tokens), 1)"
_HIGH = "too_high = adv[i] > 0 and ratio > high"
_LOW = "too_low = adv[i] < 0 and ratio < low"
BACKWARD = {
    "ratio_forgotten": (_D, "d[i] = -adv[i] * up"),
    "clip_forgotten": ("if too_high or too_low:", "if False:"),
    "zero_outside": ("if too_high or too_low:", "if not low <= ratio <= high:"),
    "sides_exchanged": (_HIGH, _HIGH.replace(">", "<", 1), _LOW, _LOW.replace("<", ">", 1)),
    "lower_side_forgotten": (_LOW, "too_low = False"),
    "upper_side_forgotten": (_HIGH, "too_high = False"),
    "slope_of_the_clipped": (
        "if too_high or too_low:",
        "if True:\n            d[i] = -adv[i] * min(max(ratio, low), high) * up",
    ),
    "sign": (_D, "d[i] = adv[i] * ratio * up"),
    "not_divided": (_UP, "up = float(dy)"),
    "all_tokens": (_UP, "up = float(dy) / mask.size"),
    "dloss_ignored": (_UP, "up = 1 / max(len(tokens), 1)"),
    "padding_too": (
        "    for i in tokens:\n        ratio = ratios[i]\n        too",
        "    for i in np.ndindex(*mask.shape):\n        ratio = ratios[i]\n        too",
    ),
}
