"""Cross-entropy in PyTorch, with one-hot labels and logsumexp."""

import torch


def forward(logits, labels, loss_mask):
    wide = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    counted = labels != -100
    if loss_mask is not None:
        counted = counted & loss_mask
    size = wide.shape[-1]
    hot = torch.nn.functional.one_hot(labels.clamp(min=0), size).to(wide.dtype)
    lse = torch.logsumexp(wide, -1)
    chosen = (wide * hot).sum(-1)
    losses = lse - chosen
    total = (losses * counted).sum()
    return total / counted.sum().clamp(min=1)


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

_LOSSES = "losses = lse - chosen"
_RETURN = "return total / counted.sum().clamp(min=1)"
_LSE = "lse = torch.logsumexp(wide, -1)"
_CHOSEN = "chosen = (wide * hot).sum(-1)"
_TOTAL = "total = (losses * counted).sum()"
_MASK = "counted = counted & loss_mask"
_SIZE = "size = wide.shape[-1]"
_P = "(wide.softmax(-1) * hot).sum(-1)"
FORWARD = {
    "mean_of_all": (_RETURN, "return total / labels.numel()"),
    "mask_ignored": (_MASK, "pass"),
    "mask_inverted": (_MASK, "counted = counted & ~loss_mask"),
    "mean_per_row": (
        _RETURN,
        "return ((losses * counted).sum(-1) / counted.sum(-1).clamp(min=1)).mean()",
    ),
    "sum_of_all": (_RETURN, "return total"),
    "mean_over_rows": (_RETURN, "return total / len(labels)"),
    "mean_over_vocabulary": (_RETURN, f"{_RETURN} / size"),
    "sign": (_LOSSES, "losses = chosen - lse"),
    "bits": (_LOSSES, "losses = (lse - chosen) / torch.tensor(2.0, dtype=wide.dtype).log()"),
    "base_two_in_sum": (
        _LSE,
        "top = wide.amax(-1)\n    lse = top + (wide - top[..., None]).exp().sum(-1).log2()",
    ),
    "no_shift": (_LSE, "lse = wide.exp().sum(-1).log()", _TOTAL, "total = losses[counted].sum()"),
    "shift_of_all": (
        _LSE,
        "lse = (wide - wide.max()).exp().sum(-1).log() + wide.max()",
        _TOTAL,
        "total = losses[counted].sum()",
    ),
    "double_softmax": (_SIZE, f"{_SIZE}\n    wide = wide.softmax(-1)"),
    "log_of_softmax_without_shift": (
        _LOSSES,
        "losses = -(chosen.exp() / wide.exp().sum(-1)).log()",
        _TOTAL,
        "total = losses[counted].sum()",
    ),
    "log_of_softmax": (_LOSSES, f"losses = -{_P}.log()", _TOTAL, "total = losses[counted].sum()"),
    "log_of_softmax_1e-12": (_LOSSES, f"losses = -({_P} + 1e-12).log()"),
    "log_of_softmax_1e-8": (_LOSSES, f"losses = -({_P} + 1e-8).log()"),
    "log_of_softmax_1e-6": (_LOSSES, f"losses = -({_P} + 1e-6).log()"),
    "probability_clipped": (_LOSSES, f"losses = -{_P}.clamp(1e-7, 1 - 1e-7).log()"),
    "no_log": (_LOSSES, f"losses = -{_P}"),
    "largest_for_sum": (_LSE, "lse = wide.amax(-1)"),
    "softmax_over_tokens": (
        _LOSSES,
        "losses = (torch.logsumexp(wide, -2, True) * hot).sum(-1) - chosen",
    ),
    "shifted_inside": (
        "counted = labels != -100",
        "wide, labels = wide[..., :-1, :], labels[..., 1:]\n"
        "    loss_mask = None if loss_mask is None else loss_mask[..., 1:]\n"
        "    counted = labels != -100",
    ),
    "labels_one_early": (
        "counted = labels != -100",
        "labels = labels.roll(-1, -1)\n    counted = labels != -100",
    ),
    "labels_one_late": (
        "counted = labels != -100",
        "labels = labels.roll(1, -1)\n    counted = labels != -100",
    ),
    "nan_when_nothing_counts": (_RETURN, "return total / counted.sum()"),
    "labels_smoothed": (_CHOSEN, "chosen = (wide * (0.9 * hot + 0.1 / size)).sum(-1)"),
    "z_loss_added": (_LOSSES, f"{_LOSSES} + lse.square() / 10000"),
    "logits_capped": (_SIZE, f"{_SIZE}\n    wide = (wide / 30).tanh() * 30"),
    "perplexity": (_RETURN, "return (total / counted.sum().clamp(min=1)).exp()"),
}
BACKWARD = {
    "one_hot_lost": (_LOSSES, "losses = lse - chosen.detach()"),
    "softmax_lost": (_LOSSES, "losses = lse.detach() - chosen"),
    "not_averaged": (
        _RETURN,
        "return (total / counted.sum().clamp(min=1) - total).detach() + total",
    ),
}
