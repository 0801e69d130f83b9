"""Whitening with a masked mean and a masked variance, as trainers write it in PyTorch."""

import torch


def masked_mean(values, mask):
    return (values * mask).sum() / mask.sum().clamp(min=1)


def masked_var(values, mask):
    centred = values - masked_mean(values, mask)
    return masked_mean(centred**2, mask)


def forward(x, mask, shift_mean):
    mean, var = masked_mean(x, mask), masked_var(x, mask)
    white = (x - mean) * torch.rsqrt(var + 1e-8)
    if not shift_mean:
        white = white + mean
    return white.masked_fill(~mask, 0.0)


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

_BOTH = "mean, var = masked_mean(x, mask), masked_var(x, mask)"
_WHITE = "white = (x - mean) * torch.rsqrt(var + 1e-8)"
_VAR = "return masked_mean(centred**2, mask)"

FORWARD = {
    "mean": (
        _BOTH,
        "mean = x.mean()\n    var = masked_mean((x - mean) ** 2, mask)",
    ),
    "var": (_BOTH, "mean = masked_mean(x, mask)\n    var = ((x - mean) ** 2).mean()"),
    "unmasked": (_BOTH, f"mask = torch.ones_like(mask)\n    {_BOTH}"),
    "ddof": (_VAR, "return (centred**2 * mask).sum() / (mask.sum() - 1)"),
    "eps_outside": (_WHITE, "white = (x - mean) / (var.sqrt() + 1e-8)"),
    "eps_large": ("var + 1e-8", "var + 1e-5"),
    "no_eps": ("var + 1e-8", "var"),
    "no_mean": ("if not shift_mean:", "if True:"),
    "shift_ignored": ("if not shift_mean:", "if False:"),
    "shift_upside_down": ("if not shift_mean:", "if shift_mean:"),
    "mean_scaled": ("white = white + mean", "white = white + mean * torch.rsqrt(var + 1e-8)"),
    "no_root": (_WHITE, "white = (x - mean) / (var + 1e-8)"),
    "not_divided": (_WHITE, "white = x - mean"),
    "multiplied": (_WHITE, "white = (x - mean) * (var + 1e-8).sqrt()"),
    "second_moment": ("centred = values - masked_mean(values, mask)", "centred = values"),
    "absolute_deviation": (
        _WHITE,
        "white = (x - mean) / (masked_mean((x - mean).abs(), mask) + 1e-8)",
    ),
    "per_row": (
        "(values * mask).sum() / mask.sum().clamp(min=1)",
        "(values * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)",
    ),
    "per_column": (
        "(values * mask).sum() / mask.sum().clamp(min=1)",
        "(values * mask).sum(0) / mask.sum(0).clamp(min=1)",
    ),
    "padding_kept": (".masked_fill(~mask, 0.0)", ""),
    "padding_minus_mean": (
        _BOTH,
        f"x = x * mask\n    {_BOTH}",
        "return white.masked_fill(~mask, 0.0)",
        "return white",
    ),
}
