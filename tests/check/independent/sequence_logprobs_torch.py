"""Log-probabilities of whole answers in PyTorch, with masked_fill."""

import torch


def forward(logprobs, mask):
    wide = logprobs.float() if logprobs.dtype in (torch.float16, torch.bfloat16) else logprobs
    there = mask
    kept = wide.masked_fill(~there, 0.0)
    total = kept.sum(1)
    return total.to(logprobs.dtype)


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

_THERE = "there = mask"
_TOTAL = "total = kept.sum(1)"
_KEPT = "kept = wide.masked_fill(~there, 0.0)"
FORWARD = {
    "mean_for_sum": (_TOTAL, "total = kept.sum(1) / there.sum(1).clamp(min=1)"),
    "mean_over_row": (_TOTAL, "total = kept.mean(1)"),
    "mask_ignored": (_KEPT, "kept = wide"),
    "mask_inverted": (_KEPT, "kept = wide.masked_fill(there, 0.0)"),
    "prompt_included": (_THERE, "there = mask.flip(1).cumsum(1).flip(1) > 0"),
    "padding_included": (_THERE, "there = mask.cumsum(1) > 0"),
    "end_left_out": (_THERE, "there = mask & (mask.flip(1).cumsum(1).flip(1) > 1)"),
    "start_left_out": (_THERE, "there = mask & (mask.cumsum(1) > 1)"),
    "mask_one_late": (_THERE, "there = mask.roll(1, 1)"),
    "mask_one_early": (_THERE, "there = mask.roll(-1, 1)"),
    "sign": (_TOTAL, "total = -kept.sum(1)"),
    "probabilities_added": (_KEPT, "kept = wide.exp().masked_fill(~there, 0.0)"),
    "exponential": (_TOTAL, "total = kept.sum(1).exp()"),
    "over_rows": (_TOTAL, "total = kept.sum(0)"),
    "product_with_mask": (_KEPT, "kept = wide * there"),
}

BACKWARD = {
    "mask_forgotten": (
        _TOTAL,
        "every = wide.nan_to_num(neginf=0.0).sum(1)\n"
        "    total = kept.sum(1).detach() + every - every.detach()",
    ),
    "mean_for_sum": (
        _TOTAL,
        "mean = kept.sum(1) / there.sum(1).clamp(min=1)\n"
        "    total = kept.sum(1).detach() + mean - mean.detach()",
    ),
    "end_only": (
        _TOTAL,
        "end = (there & (mask.flip(1).cumsum(1).flip(1) == 1)) * kept.nan_to_num()\n"
        "    total = kept.sum(1).detach() + end.sum(1) - end.sum(1).detach()",
    ),
}
