"""A linear layer in NumPy, one output after another: y_o = sum_i w_oi x_i + b_o."""

import numpy as np


def forward(x, w, b):
    wide = x.astype(np.promote_types(x.dtype, np.float32))
    weight = w.astype(wide.dtype)
    width = x.shape[-1]  # noqa: F841 (mistakes use it)
    y = np.stack([(wide * row).sum(-1) for row in weight], -1)
    if b is not None:
        y = y + b.astype(wide.dtype)
    return y.astype(x.dtype), (wide, weight, b is not None)


def backward(dy, cache):
    x, w, has_bias = cache
    dx, dw, db = np.zeros_like(x), np.zeros_like(w), np.zeros(len(w))
    for o, row in enumerate(w):
        dx += dy[..., o : o + 1] * row
    tokens = list(np.ndindex(x.shape[:-1]))
    for token in tokens:
        dw += np.outer(dy[token], x[token])
        db += dy[token]
    return (dx, dw, db) if has_bias else (dx, dw)


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

_BIAS = "y = y + b.astype(wide.dtype)"
_WEIGHT = "weight = w.astype(wide.dtype)"
_SUM = "(wide * row).sum(-1)"
_RETURN = "return y.astype(x.dtype), (wide"
FORWARD = {
    "no_bias": (_BIAS, "pass"),
    "bias_subtracted": (_BIAS, "y = y - b"),
    "bias_twice": (_BIAS, "y = b + y + b"),
    "weight_reshaped": (_WEIGHT, "weight = w.reshape(w.shape[1], len(w)).T"),
    "weight_not_transposed": (_WEIGHT, "weight = w.astype(wide.dtype).T"),
    "input_reshaped": (
        _WEIGHT,
        f"{_WEIGHT}\n    wide = wide.reshape(x.shape[-1], -1).T.reshape(x.shape)",
    ),
    "output_reshaped": (_RETURN, "return np.moveaxis(y, -1, 0).reshape(y.shape), (wide"),
    "mean_for_sum": (_SUM, "(wide * row).mean(-1)"),
    "scaled_by_root": (_SUM, "(wide * row).sum(-1) / np.sqrt(width)"),
    "relu": (_RETURN, "return np.maximum(y, 0), (wide"),
}

_DW = "dw += np.outer(dy[token], x[token])"
_DB = "db += dy[token]"
_LAST = "return (dx, dw, db) if has_bias"
_DX = "dx += dy[..., o : o + 1] * row"
BACKWARD = {
    "weight_gradient_mean": (_DW, "dw += np.outer(dy[token], x[token]) / len(tokens)"),
    "bias_gradient_mean": (_DB, "db += dy[token] / len(tokens)"),
    "bias_gradient_first_axis": (_LAST, "return (dx, dw, np.add.reduce(dy)) if has_bias"),
    "weight_gradient_last_token": (_DW, "dw = np.outer(dy[token], x[token])"),
    "bias_gradient_last_token": (_DB, "db = dy[token]"),
    "weight_gradient_reshaped": (
        _LAST,
        "dw = dw.T.reshape(dw.shape)\n    return (dx, dw, db) if has_bias",
    ),
    "input_gradient_reshaped": (_DX, "dx += dy[..., o : o + 1] * w.T.reshape(w.shape)[o]"),
    "dy_ignored": ("x, w, has_bias = cache", "x, w, has_bias = cache\n    dy = np.ones(dy.shape)"),
    "input_gradient_doubled": (
        _DX,
        "dx += dy[..., o : o + 1] * row\n        dx += dy[..., o : o + 1] * row",
    ),
}
