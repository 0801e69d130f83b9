"""Whitening of the numbers under a mask (arXiv:1909.08593, its code), on a flat list of them."""

import numpy as np

EPS = 1e-8


def forward(x, mask, shift_mean):
    wide = x.astype(np.promote_types(x.dtype, np.float64))
    y = np.zeros(x.shape)
    chosen = wide[mask]
    n = max(len(chosen), 1)
    mean = np.float64(chosen.sum() / n)
    var = np.float64(((chosen - mean) ** 2).sum() / n)
    white = (chosen - mean) / np.sqrt(var + EPS)
    if not shift_mean:
        white = white + mean
    y[mask] = white
    return y.astype(x.dtype)


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

_MEAN = "mean = np.float64(chosen.sum() / n)"
_VAR = "var = np.float64(((chosen - mean) ** 2).sum() / n)"
_WHITE = "white = (chosen - mean) / np.sqrt(var + EPS)"
_CHOSEN = "chosen = wide[mask]"
_N = "n = max(len(chosen), 1)"
_PUT = "y[mask] = white"

FORWARD = {
    "mean": (_MEAN, "mean = wide.mean()"),
    "var": (_VAR, "var = ((wide - mean) ** 2).mean()"),
    "unmasked": (_CHOSEN, "mask = np.ones_like(mask)\n    chosen = wide[mask]"),
    "divided_by_size": (
        _N,
        "n = x.size",
        _VAR,
        "var = np.float64(((chosen - mean) ** 2).sum() / n)\n"
        "    rest = (chosen - mean).sum() / n\n"
        "    var = ((chosen - mean - rest) ** 2).sum() / n",
        _WHITE,
        "white = (chosen - mean - rest) / np.sqrt(var + EPS)",
    ),
    "ddof": (_VAR, "var = ((chosen - mean) ** 2).sum() / np.float64(n - 1)"),
    "eps_outside": (_WHITE, "white = (chosen - mean) / (np.sqrt(var) + EPS)"),
    "eps_large": ("EPS = 1e-8", "EPS = 1e-5"),
    "no_eps": (_WHITE, "white = (chosen - mean) / np.sqrt(var)"),
    "no_mean": ("if not shift_mean:", "if True:"),
    "shift_ignored": ("if not shift_mean:", "if False:"),
    "shift_upside_down": ("if not shift_mean:", "if shift_mean:"),
    "mean_scaled": ("white = white + mean", "white = white + mean / np.sqrt(var + EPS)"),
    "no_root": (_WHITE, "white = (chosen - mean) / (var + EPS)"),
    "not_divided": (_WHITE, "white = chosen - mean"),
    "multiplied": (_WHITE, "white = (chosen - mean) * np.sqrt(var + EPS)"),
    "second_moment": (_VAR, "var = (chosen**2).sum() / n"),
    "absolute_deviation": (
        _WHITE,
        "white = (chosen - mean) / (abs(chosen - mean).sum() / n + EPS)",
    ),
    "range": (
        _WHITE,
        "white = (chosen - mean) / (np.ptp(chosen) + EPS) if len(chosen) else chosen",
    ),
    "per_row": (
        _PUT,
        "for b in range(len(y)):\n"
        "        row = wide[b][mask[b]]\n"
        "        if len(row):\n"
        "            z = (row - row.mean()) / np.sqrt(row.var() + EPS)\n"
        "            y[b, mask[b]] = z if shift_mean else z + row.mean()",
    ),
    "per_column": (
        _PUT,
        "for t in range(y.shape[1]):\n"
        "        row = wide[mask[:, t], t]\n"
        "        if len(row):\n"
        "            z = (row - row.mean()) / np.sqrt(row.var() + EPS)\n"
        "            y[mask[:, t], t] = z if shift_mean else z + row.mean()",
    ),
    "padding_kept": (
        _PUT,
        "y = (wide - mean) / np.sqrt(var + EPS)\n    if not shift_mean:\n        y = y + mean",
    ),
    "padding_minus_mean": (
        "y = np.zeros(x.shape)\n",
        "y = np.zeros(x.shape)\n    zeroed = np.where(mask, wide, 0)\n",
        _PUT,
        "y = (zeroed - mean) / np.sqrt(var + EPS)\n    if not shift_mean:\n        y = y + mean",
    ),
}
