"""Cross-entropy in NumPy, one token after another."""

import numpy as np


def forward(logits, labels, loss_mask):
    kind = np.promote_types(logits.dtype, np.float32)
    size = logits.shape[-1]  # noqa: F841 (mistakes use it)
    losses, counted = np.zeros(labels.shape, kind), np.zeros(labels.shape, bool)
    for n in np.ndindex(labels.shape):
        if labels[n] == -100:
            continue
        if loss_mask is not None and not loss_mask[n]:
            continue
        counted[n] = True
        z = logits[n].astype(kind)
        top = z.max()
        total = np.exp(z - top).sum()
        losses[n] = np.log(total) - (z[labels[n]] - top)
    count = max(int(counted.sum()), 1)
    loss = losses.sum() / count
    return loss, (logits, labels, counted, count)


def backward(dy, cache):
    """p_i = 1 / sum_j exp(z_j - z_i)."""
    logits, labels, counted, count = cache
    dz = np.zeros(logits.shape)
    for n in np.ndindex(labels.shape):
        if counted[n]:
            z = logits[n]
            p = 1 / np.exp(z - z[:, None]).sum(-1)
            dz[n] = p
            dz[n][labels[n]] -= 1
    return (dz * dy / count,)


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

_LOSS = "loss = losses.sum() / count"
_TOKEN = "losses[n] = np.log(total) - (z[labels[n]] - top)"
_COUNT = "count = max(int(counted.sum()), 1)"
_TOP = "top = z.max()"
_Z = "z = logits[n].astype(kind)"
_P = "np.exp(z[labels[n]] - top) / total"
_SIZE = "size = logits.shape[-1]"
FORWARD = {
    "mean_of_all": (_LOSS, "loss = losses.sum() / losses.size"),
    "mask_ignored": ("if loss_mask is not None and not loss_mask[n]:", "if False:"),
    "mask_inverted": ("not None and not loss_mask[n]", "not None and loss_mask[n]"),
    "mean_per_row": (_LOSS, "loss = np.mean(losses.sum(-1) / np.maximum(counted.sum(-1), 1))"),
    "sum_of_all": (_LOSS, "loss = losses.sum()"),
    "mean_over_rows": (_LOSS, "loss = losses.sum() / labels.shape[0]"),
    "mean_over_vocabulary": (_LOSS, "loss = losses.sum() / count / size"),
    "sign": (_TOKEN, "losses[n] = z[labels[n]] - top - np.log(total)"),
    "bits": (_TOKEN, "losses[n] = np.log2(total) - (z[labels[n]] - top) * np.log2(np.e)"),
    "base_two_in_sum": (_TOKEN, "losses[n] = np.log2(total) - (z[labels[n]] - top)"),
    "no_shift": (_TOP, "top = 0"),
    "shift_of_all": (_TOP, "top = logits.max()"),
    "double_softmax": (
        _TOP,
        "z = np.exp(z - z.max())\n        z = z / z.sum()\n        top = z.max()",
    ),
    "log_of_softmax_without_shift": (
        _TOKEN,
        "losses[n] = -np.log((np.exp(z) / np.exp(z).sum())[labels[n]])",
    ),
    "log_of_softmax": (_TOKEN, f"losses[n] = -np.log({_P})"),
    "log_of_softmax_1e-12": (_TOKEN, f"losses[n] = -np.log(1e-12 + {_P})"),
    "log_of_softmax_1e-8": (_TOKEN, f"losses[n] = -np.log(1e-8 + {_P})"),
    "log_of_softmax_1e-6": (_TOKEN, f"losses[n] = -np.log(1e-6 + {_P})"),
    "probability_clipped": (_TOKEN, f"losses[n] = -np.log(min(max({_P}, 1e-7), 1 - 1e-7))"),
    "no_log": (_TOKEN, f"losses[n] = -{_P}"),
    "largest_for_sum": (_TOKEN, "losses[n] = top - z[labels[n]]"),
    "softmax_over_tokens": (
        _Z,
        "z = logits[n].astype(kind)\n"
        "        column = logits[n[:-1]][:, labels[n]]\n"
        "        total = np.exp(column - column.max()).sum()\n"
        "        losses[n] = np.log(total) + column.max() - z[labels[n]]\n"
        "        continue",
    ),
    "shifted_inside": (
        _SIZE,
        "logits, labels = logits[..., :-1, :], labels[..., 1:]\n"
        "    loss_mask = loss_mask if loss_mask is None else loss_mask[..., 1:]\n"
        f"    {_SIZE}",
    ),
    "labels_one_early": (
        _SIZE,
        f"{_SIZE}\n    labels = np.concatenate((labels[..., 1:], labels[..., :1]), -1)",
    ),
    "labels_one_late": (
        _SIZE,
        f"{_SIZE}\n    labels = np.concatenate((labels[..., -1:], labels[..., :-1]), -1)",
    ),
    "minus_100_as_index": ("if labels[n] == -100:", "if False:"),
    "nan_when_nothing_counts": (_COUNT, "count = int(counted.sum())"),
    "labels_smoothed": (
        _TOKEN,
        "target = np.full(size, 0.1 / size)\n"
        "        target[labels[n]] += 0.9\n"
        "        losses[n] = (target * (np.log(total) + top - z)).sum()",
    ),
    "z_loss_added": (_TOKEN, f"{_TOKEN} + 1e-4 * (np.log(total) + top) ** 2"),
    "logits_capped": (_Z, "z = np.tanh(logits[n] / 30.0) * 30.0"),
    "perplexity": (_LOSS, "loss = np.exp(losses.sum() / count)"),
}

_HOT = "dz[n][labels[n]] -= 1"
_END = "return (dz * dy / count,)"
_ALL = "logits, labels, counted, count = cache"
BACKWARD = {
    "one_hot_lost": (_HOT, "pass"),
    "softmax_lost": ("dz[n] = p", "dz[n] = 0"),
    "sign": (_END, "return (-dz * dy / count,)"),
    "not_averaged": (_END, "return (dz * dy,)"),
    "mean_of_all": (_END, "return (dz * dy / labels.size,)"),
    "mask_forgotten": (
        _ALL,
        f"{_ALL}\n    counted, labels = np.ones_like(counted), np.where(labels < 0, 0, labels)",
    ),
    "mask_forgotten_in_softmax": (
        "if counted[n]:",
        "if True:",
        _HOT,
        "dz[n][labels[n]] -= counted[n]",
    ),
    "dloss_ignored": (_END, "return (dz / count,)"),
    "slope_of_softmax": (_HOT, "dz[n][labels[n]] -= 1\n            dz[n] *= p - p * p"),
    "over_vocabulary": (_END, "return (dz * dy / count / logits.shape[-1],)"),
}
