"""The clipped objective of PPO (arXiv:1707.06347, equation 7), as trainers write it in PyTorch."""

import torch


def forward(logprobs, old_logprobs, advantages, mask, cliprange):
    ratio = torch.exp(logprobs - old_logprobs)
    losses = -advantages * ratio
    limited = torch.clamp(ratio, 1.0 - cliprange, 1.0 + cliprange)
    losses2 = -advantages * limited
    worse = torch.max(losses, losses2)
    count = mask.sum().clamp(min=1)
    return worse.masked_fill(~mask, 0.0).sum() / count


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

_RATIO = "ratio = torch.exp(logprobs - old_logprobs)"
_LIMITED = "limited = torch.clamp(ratio, 1.0 - cliprange, 1.0 + cliprange)"
_WORSE = "worse = torch.max(losses, losses2)"
_COUNT = "count = mask.sum().clamp(min=1)"
_RETURN = "return worse.masked_fill(~mask, 0.0).sum() / count"

FORWARD = {
    "max": (_WORSE, "worse = torch.min(losses, losses2)"),
    "sign": (_WORSE, "worse = torch.min(-losses, -losses2)"),
    "sign_inside": (
        "losses = -advantages * ratio",
        "losses = advantages * ratio",
        "losses2 = -advantages * limited",
        "losses2 = advantages * limited",
    ),
    "no_clip": (_WORSE, "worse = losses"),
    "clip_only": (_WORSE, "worse = losses2"),
    "ratio_inverted": (_RATIO, "ratio = torch.exp(old_logprobs - logprobs)"),
    "ratio_log": (_RATIO, "ratio = logprobs - old_logprobs"),
    "ratio_of_logs": (_RATIO, "ratio = logprobs / old_logprobs"),
    "ratio_linear": (_RATIO, "ratio = 1 + logprobs - old_logprobs"),
    "old_is_new": (_RATIO, "ratio = torch.exp(logprobs - logprobs.detach())"),
    "no_old": (_RATIO, "ratio = logprobs.exp()"),
    "asymmetric": ("1.0 - cliprange", "1.0 / (1.0 + cliprange)"),
    "clip_of_log": (
        _LIMITED,
        "limited = (logprobs - old_logprobs).clamp(-cliprange, cliprange).exp()",
    ),
    "no_lower_limit": (_LIMITED, "limited = torch.clamp(ratio, max=1.0 + cliprange)"),
    "no_upper_limit": (_LIMITED, "limited = torch.clamp(ratio, min=1.0 - cliprange)"),
    "clip_of_product": (
        "losses2 = -advantages * limited",
        "losses2 = -(ratio * advantages).clamp(1.0 - cliprange, 1.0 + cliprange)",
    ),
    "range_fixed": (_LIMITED, "limited = torch.clamp(ratio, 0.8, 1.2)"),
    "range_around_0": (_LIMITED, "limited = torch.clamp(ratio, -cliprange, cliprange)"),
    "absolute_advantage": (_RATIO, f"advantages = advantages.abs()\n    {_RATIO}"),
    "no_advantage": (_RATIO, f"advantages = torch.ones_like(logprobs)\n    {_RATIO}"),
    "dual_clip": (
        _WORSE,
        f"{_WORSE}\n"
        "    worse = torch.where(advantages < 0, torch.min(worse, -3 * advantages), worse)",
    ),
    "mean_all": (_COUNT, "count = mask.numel()"),
    "unmasked": (_RETURN, "return worse.mean()"),
    "padding_in_sum": (_RETURN, "return worse.sum() / count"),
    "per_answer": (
        _RETURN,
        "return ((worse * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()",
    ),
    "sum": (" / count", ""),
    "sum_per_answer": (_COUNT, "count = len(mask)"),
    "no_tokens_nan": (".clamp(min=1)", ""),
}

BACKWARD = {
    "ratio_forgotten": (
        _RATIO,
        "log_ratio = logprobs - old_logprobs\n"
        "    ratio = log_ratio.exp().detach() + log_ratio - log_ratio.detach()",
    ),
    "clip_forgotten": (
        _WORSE,
        "worse = torch.max(losses, losses2).detach() + (losses - losses.detach())",
    ),
    "zero_outside": (
        _WORSE,
        "worse = torch.max(losses, losses2).detach() + (losses2 - losses2.detach())",
    ),
}
