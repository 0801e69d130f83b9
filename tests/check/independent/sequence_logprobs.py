"""Log-probabilities of whole answers in NumPy, one answer after another."""

import numpy as np


def forward(logprobs, mask):
    wide = logprobs.astype(np.promote_types(logprobs.dtype, np.float32))
    chosen = [np.flatnonzero(row) for row in mask]
    sums = np.array([wide[b][t].sum() for b, t in enumerate(chosen)], wide.dtype)
    return sums.astype(logprobs.dtype), (chosen, logprobs.shape)


def backward(dy, cache):
    """Every token of an answer has the derivative 1."""
    chosen, shape = cache
    out = np.zeros(shape)
    for b, t in enumerate(chosen):
        share = 1.0
        out[b, t] = dy[b] * share
    return (out,)


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

_CHOSEN = "chosen = [np.flatnonzero(row) for row in mask]"
_SUM = "wide[b][t].sum()"
_SUMS = "sums = np.array([wide[b][t].sum() for b, t in enumerate(chosen)], wide.dtype)"
FORWARD = {
    "mean_for_sum": (_SUM, "wide[b][t].sum() / max(len(t), 1)"),
    "mean_over_row": (_SUM, "wide[b][t].sum() / len(mask[b])"),
    "mask_ignored": (_CHOSEN, "chosen = [np.arange(len(row)) for row in mask]"),
    "mask_inverted": ("np.flatnonzero(row)", "np.flatnonzero(~row)"),
    "prompt_included": (
        _CHOSEN,
        "chosen = [np.arange(np.flatnonzero(row).max(initial=-1) + 1) for row in mask]",
    ),
    "padding_included": (
        _CHOSEN,
        "chosen = [np.flatnonzero(np.maximum.accumulate(row)) for row in mask]",
    ),
    "end_left_out": ("np.flatnonzero(row)", "np.flatnonzero(row)[:-1]"),
    "start_left_out": ("np.flatnonzero(row)", "np.flatnonzero(row)[1:]"),
    "mask_one_late": ("np.flatnonzero(row)", "(np.flatnonzero(row) + 1) % len(row)"),
    "mask_one_early": ("np.flatnonzero(row)", "np.flatnonzero(row) - 1"),
    "sign": (_SUM, "-wide[b][t].sum()"),
    "probabilities_added": (
        _SUM,
        "np.where(mask[b], np.exp(np.where(mask[b], wide[b], 0)), 0).sum()",
    ),
    "exponential": (_SUM, "np.prod(np.exp(wide[b][t]))"),
    "over_rows": (_SUMS, "sums = np.where(mask, wide, 0).sum(0)"),
    "product_with_mask": (_SUM, "(wide[b] * mask[b]).sum()"),
}

_SHARE = "share = 1.0"
_OUT = "out[b, t] = dy[b] * share"
BACKWARD = {
    "mask_forgotten": (_OUT, "out[b, :] = dy[b] * share"),
    "mean_for_sum": (_SHARE, "share = 1 / max(len(t), 1)"),
    "mean_over_row": (_SHARE, "share = 1 / shape[1]"),
    "mean_over_batch": (_SHARE, "share = 1 / shape[0]"),
    "sign": (_SHARE, "share = -1.0"),
    "dy_ignored": (_OUT, "out[b, t] = share"),
    "dy_of_all_rows": (_OUT, "out[b, t] = np.sum(dy) * share"),
    "end_only": (_OUT, "out[b, t[-1:]] = dy[b] * share"),
}
