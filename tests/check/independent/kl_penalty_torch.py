"""The rewards of PPO (arXiv:1909.08593, section 2), as trainers write them in PyTorch."""

import torch


def forward(logprobs, ref_logprobs, mask, scores, kl_coef):
    kl = logprobs - ref_logprobs
    rewards = (-kl_coef * kl).masked_fill(~mask, 0.0)
    columns = torch.arange(mask.shape[1])
    last = (columns * mask).argmax(dim=1)
    rewards[torch.arange(len(rewards)), last] += scores
    return rewards


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

_KL = "kl = logprobs - ref_logprobs"
_LAST = "last = (columns * mask).argmax(dim=1)"
_ADD = "rewards[torch.arange(len(rewards)), last] += scores"
_COUNT = "mask.sum(1, keepdim=True)"

FORWARD = {
    "sign": ("(-kl_coef * kl)", "(kl_coef * kl)"),
    "swapped": (_KL, "kl = ref_logprobs - logprobs"),
    "k3": (_KL, "kl = torch.expm1(ref_logprobs - logprobs) + logprobs - ref_logprobs"),
    "k2": (_KL, "kl = 0.5 * (logprobs - ref_logprobs).square()"),
    "absolute": (_KL, "kl = (logprobs - ref_logprobs).abs()"),
    "cut_at_0": (_KL, "kl = (logprobs - ref_logprobs).clamp(min=0)"),
    "of_probabilities": (_KL, "kl = logprobs.exp() - ref_logprobs.exp()"),
    "ratio": (_KL, "kl = (logprobs - ref_logprobs).exp()"),
    "weighted": (_KL, "kl = logprobs.exp() * (logprobs - ref_logprobs)"),
    "no_coefficient": ("(-kl_coef * kl)", "(-kl)"),
    "no_kl": ("(-kl_coef * kl)", "(0 * kl)"),
    "coefficient_on_score": ("+= scores", "+= kl_coef * scores"),
    "score_all": (_ADD, "rewards += scores[:, None] * mask"),
    "score_shared": (_ADD, f"rewards += scores[:, None] * mask / {_COUNT}"),
    "score_first": (_LAST, "last = mask.int().argmax(dim=1)"),
    "score_at_end": (_ADD, "rewards[:, -1] += scores"),
    "last_off": ("argmax(dim=1)", "argmax(dim=1) - 1"),
    "score_after_end": (
        "argmax(dim=1)",
        "argmax(dim=1) + 1\n    last = last.clamp(max=len(columns) - 1)",
    ),
    "count_minus_1": (_LAST, "last = mask.sum(dim=1) - 1"),
    "mask": (".masked_fill(~mask, 0.0)", ""),
    "overwrites": ("+= scores", "= scores"),
    "kl_averaged": (_KL, f"{_KL}\n    kl = (kl * mask).sum(1, keepdim=True) / {_COUNT} * mask"),
    "per_token_coefficient": ("(-kl_coef * kl)", f"(-kl_coef * kl / {_COUNT})"),
    "kl_summed": (
        _ADD,
        "total = rewards.sum(1)\n"
        "    rewards = torch.zeros_like(rewards)\n"
        "    rewards[torch.arange(len(rewards)), last] = total + scores",
    ),
}
