"""SwiGLU in NumPy, from section 2 of Shazeer 2020 (arXiv:2002.05202)."""

import math  # noqa: F401 (mistakes use it)

import numpy as np


def sigmoid(z):
    small = np.exp(-np.abs(z))
    return np.where(z < 0, small, 1) / (1 + small)


def forward(x, w_gate, w_up, w_down):
    dtype = x.dtype
    x, w_gate, w_up, w_down = (
        a.astype(np.promote_types(dtype, np.float32)) for a in (x, w_gate, w_up, w_down)
    )
    a = np.einsum("fd,...d->...f", w_gate, x)
    b = np.einsum("fd,...d->...f", w_up, x)
    h = a * b * sigmoid(a)
    y = np.einsum("df,...f->...d", w_down, h)
    return y.astype(dtype), (x, w_gate, w_up, w_down, a, b, h)


def backward(dy, cache):
    """Go through the tokens one by one."""
    x, w_gate, w_up, w_down, a, b, h = cache
    dx = np.zeros_like(x)
    dw_gate, dw_up, dw_down = np.zeros_like(w_gate), np.zeros_like(w_up), np.zeros_like(w_down)
    for n in np.ndindex(x.shape[:-1]):
        dh = w_down.T @ dy[n]
        s = sigmoid(a[n])
        slope = s + a[n] * (s - s * s)
        da = dh * b[n] * slope
        db = dh * a[n] * s
        dx[n] = w_gate.T @ da + w_up.T @ db
        dw_gate += np.outer(da, x[n])
        dw_up += np.outer(db, x[n])
        dw_down += np.outer(dy[n], h[n])
    return dx, dw_gate, dw_up, dw_down


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

_H = "h = a * b * sigmoid(a)"
_A = 'a = np.einsum("fd,...d->...f", w_gate, x)'
_Y = 'y = np.einsum("df,...f->...d", w_down, h)'


def _act(value):
    return _H, f"h = b * ({value})"


FORWARD = {
    "branches_swapped": (_H, "h = a * (b * sigmoid(b))"),
    "weight_not_transposed": (_A, f"w_gate, w_up, w_down = w_gate.T, w_up.T, w_down.T\n    {_A}"),
    "llama_order": (_A, f"w_up, w_down = w_down, w_up\n    {_A}"),
    "halves_interleaved": (
        _A,
        "joined = np.concatenate((w_gate, w_up))\n"
        f"    w_gate, w_up = joined[::2], joined[1::2]\n    {_A}",
    ),
    "sigmoid_for_silu": _act("sigmoid(a)"),
    "relu": _act("np.maximum(a, 0)"),
    "relu_squared": _act("np.maximum(a, 0) ** 2"),
    "gelu": _act(
        "a * np.array([0.5 + 0.5 * math.erf(z / math.sqrt(2)) for z in a.flat]).reshape(a.shape)"
    ),
    "gelu_by_tanh": _act(
        "a / 2 * (1 + np.tanh(0.7978845608028654 * a + 0.7978845608028654 * 0.044715 * a**3))"
    ),
    "quick_gelu": _act("a * sigmoid(1.702 * a)"),
    "tanh_gate": _act("a * np.tanh(a)"),
    "tanh": _act("np.tanh(a)"),
    "mish": _act("a * np.tanh(np.log1p(np.exp(-np.abs(a))) + np.maximum(a, 0))"),
    "hard_swish": _act("a * np.minimum(np.maximum(a / 6 + 0.5, 0), 1)"),
    "sign_in_sigmoid": _act("a * (1 - sigmoid(a))"),
    "silu_twice": _act("a * sigmoid(a) * sigmoid(a * sigmoid(a))"),
    "no_activation": _act("a"),
    "no_up": (_H, "h = a * sigmoid(a)"),
    "no_gate": (_H, "h = b * sigmoid(b)"),
    "added": (_H, "h = b + a * sigmoid(a)"),
    "activation_on_both": (_H, "h = a * sigmoid(a) * (b * sigmoid(b))"),
    "activation_after": (_H, "h = a * b\n    h = h * sigmoid(h)"),
    "down_reshaped": (_Y, 'y = np.einsum("fd,...f->...d", w_down.reshape(w_down.shape[::-1]), h)'),
    "residual_added": (_Y, f"{_Y} + x"),
    "sigmoid_overflows": (
        "return np.where(z < 0, small, 1) / (1 + small)",
        "return np.exp(z) / (np.exp(z) + 1)",
    ),
    "clamped": (_H, "a = np.where(a > 7, 7, a)\n    h = a * b * sigmoid(a)"),
}

_SLOPE = "slope = s + a[n] * (s - s * s)"
_DX = "dx[n] = w_gate.T @ da + w_up.T @ db"
_DB = "db = dh * a[n] * s"
BACKWARD = {
    "slope_of_sigmoid": (_SLOPE, "slope = s - s * s"),
    "slope_without_second_term": (_SLOPE, "slope = s"),
    "slope_sign": (_SLOPE, "slope = s - a[n] * (s - s * s)"),
    "slope_lost": (_SLOPE, "slope = 1"),
    "silu_for_its_slope": (_SLOPE, "slope = a[n] * s"),
    "up_not_multiplied": ("da = dh * b[n] * slope", "da = dh * slope"),
    "gate_for_silu": (_DB, "db = dh * a[n]"),
    "sigmoid_for_silu": (_DB, "db = dh * s"),
    "no_up_path": (_DX, "dx[n] = w_gate.T @ da"),
    "no_gate_path": (_DX, "dx[n] = w_up.T @ db"),
    "paths_averaged": (_DX, "dx[n] = 0.5 * (w_gate.T @ da + w_up.T @ db)"),
    "weight_gradients_swapped": ("return dx, dw_gate, dw_up", "return dx, dw_up, dw_gate"),
    "dy_ignored": ("dx = np.zeros_like(x)", "dx, dy = np.zeros_like(x), np.ones_like(dy)"),
}
