"""The clipped value loss of PPO, as trainers write it in PyTorch."""

import torch


def forward(values, old_values, returns, mask, cliprange_value):
    low, high = old_values - cliprange_value, old_values + cliprange_value
    clipped = torch.clamp(values, low, high)
    losses1 = (values - returns).square()
    losses2 = (clipped - returns).square()
    worse = torch.max(losses1, losses2)
    count = mask.sum().clamp(min=1)
    return 0.5 * worse.masked_fill(~mask, 0.0).sum() / count


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

_BOUNDS = "low, high = old_values - cliprange_value, old_values + cliprange_value"
_CLIPPED = "clipped = torch.clamp(values, low, high)"
_WORSE = "worse = torch.max(losses1, losses2)"
_COUNT = "count = mask.sum().clamp(min=1)"
_RETURN = "return 0.5 * worse.masked_fill(~mask, 0.0).sum() / count"
_SECOND = "losses2 = (clipped - returns).square()"

FORWARD = {
    "min": (_WORSE, "worse = torch.min(losses1, losses2)"),
    "no_half": ("0.5 * worse", "worse"),
    "no_clip": (_WORSE, "worse = losses1"),
    "clip_only": (_WORSE, "worse = losses2"),
    "clip_of_value": (_CLIPPED, "clipped = values.clamp(-cliprange_value, cliprange_value)"),
    "clip_of_factor": (
        _BOUNDS,
        "low, high = old_values * (1 - cliprange_value), old_values * (1 + cliprange_value)",
    ),
    "clip_around_return": (
        _BOUNDS,
        "low, high = returns - cliprange_value, returns + cliprange_value",
    ),
    "return_clipped": (
        _CLIPPED,
        "clipped = torch.clamp(returns, low, high)",
        _SECOND,
        "losses2 = (values - clipped).square()",
    ),
    "change_alone": (
        _CLIPPED,
        "clipped = (values - old_values).clamp(-cliprange_value, cliprange_value)",
    ),
    "one_sided": (_CLIPPED, "clipped = torch.minimum(values, high)"),
    "no_upper_limit": (_CLIPPED, "clipped = torch.maximum(values, low)"),
    "range_fixed": (_BOUNDS, "low, high = old_values - 0.2, old_values + 0.2"),
    "range_doubled": (_BOUNDS, f"cliprange_value = cliprange_value * 2\n    {_BOUNDS}"),
    "absolute": (
        "losses1 = (values - returns).square()",
        "losses1 = (values - returns).abs()",
        _SECOND,
        "losses2 = (clipped - returns).abs()",
    ),
    "root": (_RETURN, "return (0.5 * worse.masked_fill(~mask, 0.0).sum() / count).sqrt()"),
    "max_of_sums": (
        _RETURN,
        "return 0.5 * torch.max((losses1 * mask).sum(), (losses2 * mask).sum()) / count",
    ),
    "mean_of_both": (_WORSE, "worse = (losses1 + losses2) / 2"),
    "huber": (
        _RETURN,
        "huber = torch.nn.functional.smooth_l1_loss\n"
        "    parts = (huber(x, returns, reduction='none') for x in (values, clipped))\n"
        "    return torch.max(*parts).masked_fill(~mask, 0.0).sum() / count",
    ),
    "mean_all": (_COUNT, "count = mask.numel()"),
    "unmasked": (_RETURN, "return 0.5 * worse.mean()"),
    "padding_in_sum": (".masked_fill(~mask, 0.0)", ""),
    "per_answer": (
        _RETURN,
        "return 0.5 * ((worse * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()",
    ),
    "sum": (" / count", ""),
    "no_tokens_nan": (".clamp(min=1)", ""),
}

BACKWARD = {
    "clip_forgotten": (_WORSE, f"{_WORSE}.detach() + (losses1 - losses1.detach())"),
    "zero_outside": (_WORSE, f"{_WORSE}.detach() + (losses2 - losses2.detach())"),
    "branches_exchanged": (
        _WORSE,
        f"{_WORSE}\n"
        "    other = torch.min(losses1, losses2)\n"
        "    worse = worse.detach() + other - other.detach()",
    ),
}
