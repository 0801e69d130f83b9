"""The rewards of PPO (arXiv:1909.08593, section 2), one answer at a time."""

import numpy as np


def forward(logprobs, ref_logprobs, mask, scores, kl_coef):
    wide = np.promote_types(logprobs.dtype, np.float32)
    p, q = logprobs.astype(wide), ref_logprobs.astype(wide)
    rewards = np.zeros(p.shape, wide)
    for b in range(len(p)):
        places = np.flatnonzero(mask[b])
        last = places[-1]
        for t in places:
            d = p[b, t] - q[b, t]
            rewards[b, t] -= kl_coef * d
        rewards[b, last] += scores[b]
    return rewards.astype(logprobs.dtype)


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

_D = "d = p[b, t] - q[b, t]"
_ADD = "rewards[b, last] += scores[b]"
_LAST = "last = places[-1]"
_PAY = "rewards[b, t] -= kl_coef * d"

FORWARD = {
    "sign": (_PAY, "rewards[b, t] += kl_coef * d"),
    "swapped": (_D, "d = q[b, t] - p[b, t]"),
    "k3": (_D, "d = np.exp(q[b, t] - p[b, t]) - 1 - (q[b, t] - p[b, t])"),
    "k2": (_D, "d = (p[b, t] - q[b, t]) ** 2 / 2"),
    "absolute": (_D, "d = abs(p[b, t] - q[b, t])"),
    "cut_at_0": (_D, "d = max(p[b, t] - q[b, t], 0)"),
    "of_probabilities": (_D, "d = np.exp(p[b, t]) - np.exp(q[b, t])"),
    "ratio": (_D, "d = np.exp(p[b, t]) / np.exp(q[b, t])"),
    "weighted": (_D, "d = np.exp(p[b, t]) * (p[b, t] - q[b, t])"),
    "no_coefficient": (_PAY, "rewards[b, t] -= d"),
    "no_kl": (_PAY, "rewards[b, t] -= 0"),
    "coefficient_on_score": (_ADD, "rewards[b, last] += kl_coef * scores[b]"),
    "score_all": (_ADD, "rewards[b, places] += scores[b]"),
    "score_shared": (_ADD, "rewards[b, places] += scores[b] / len(places)"),
    "score_first": (_LAST, "last = places[0]"),
    "score_at_end": (_LAST, "last = -1"),
    "last_off": (_LAST, "last = places[-1] - 1"),
    "score_after_end": (_LAST, "last = min(places[-1] + 1, len(mask[b]) - 1)"),
    "count_minus_1": (_LAST, "last = mask[b].sum() - 1"),
    "mask": ("for t in places:", "for t in range(p.shape[1]):"),
    "overwrites": (_ADD, "rewards[b, last] = scores[b]"),
    "kl_summed": (_PAY, "rewards[b, last] -= kl_coef * d"),
    "kl_averaged": (_PAY, "rewards[b, places] -= kl_coef * d / len(places)"),
    "per_token_coefficient": (_PAY, "rewards[b, t] -= kl_coef / len(places) * d"),
}
