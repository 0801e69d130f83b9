"""RMSNorm in NumPy, from equation 4 of Zhang and Sennrich 2019 (arXiv:1910.07467)."""

import numpy as np


def forward(x, w, eps):
    wide = x.astype(np.promote_types(x.dtype, np.float32))
    gain = w.astype(wide.dtype)
    size = x.shape[-1]
    square = np.einsum("...i,...i->...", wide, wide) / size
    root = np.sqrt(square + eps)
    y = np.empty_like(wide)
    for i in range(size):
        y[..., i] = gain[i] * wide[..., i] / root
    return y.astype(x.dtype), (wide, gain, root)


def backward(dy, cache):
    """Sum dy_j dy_j/dx_i over j: the matrix of derivatives is written out."""
    x, w, root = cache
    size = x.shape[-1]
    unit = np.eye(size)
    direct = unit / root[..., None, None]
    through = x[..., :, None] * x[..., None, :] / (size * root[..., None, None] ** 3)
    matrix = w[:, None] * (direct - through)
    dx = np.einsum("...j,...ji->...i", dy, matrix)
    normed = x / root[..., None]
    dw = sum(a * b for a, b in zip(dy.reshape(-1, size), normed.reshape(-1, size), strict=True))
    return dx, dw


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

_SQUARE = 'np.einsum("...i,...i->...", wide, wide) / size'
_ROOT = "root = np.sqrt(square + eps)"
_Y = "y[..., i] = gain[i] * wide[..., i] / root"
FORWARD = {
    "eps_outside": (_ROOT, "root = np.sqrt(square) + eps"),
    "no_eps": (_ROOT, "root = np.sqrt(square)"),
    "eps_1e-5": (_ROOT, "root = np.sqrt(square + 1e-5)"),
    "eps_1e-8": (_ROOT, "root = np.sqrt(square + 1e-8)"),
    "eps_as_floor": (_ROOT, "root = np.sqrt(np.where(square < eps, eps, square))"),
    "sum_for_mean": (_SQUARE, 'np.einsum("...i,...i->...", wide, wide)'),
    "centred": (
        _ROOT,
        "wide = wide - wide.sum(-1)[..., None] / size\n    root = np.sqrt(np.einsum("
        '"...i,...i->...", wide, wide) / size + eps)',
    ),
    "no_root": (_ROOT, "root = square + eps"),
    "no_gain": (_Y, "y[..., i] = wide[..., i] / root"),
    "gain_plus_one": (_Y, "y[..., i] = (gain[i] + 1) * wide[..., i] / root"),
    "gain_inside": (_Y, "y[..., i] = wide[..., i] / (gain[i] * root)"),
    "one_rms_for_all": (_ROOT, "root = np.sqrt(np.mean(square) + eps) + 0 * square"),
    "over_tokens": (
        _Y,
        "column = wide[..., i]\n"
        "        y[..., i] = gain[i] * column / np.sqrt((column**2).mean(-1)[..., None] + eps)",
    ),
    "absolute_mean": (_SQUARE, "(sum(abs(wide[..., i]) for i in range(size)) / size) ** 2"),
    "d_minus_one": (_SQUARE, 'np.einsum("...i,...i->...", wide, wide) / (size - 1)'),
}

_MATRIX = "matrix = w[:, None] * (direct - through)"
_THROUGH = "/ (size * root[..., None, None] ** 3)"
_DW = "dw = sum(a * b for a, b in zip(dy.reshape(-1, size), normed.reshape(-1, size), strict=True))"
BACKWARD = {
    "rms_constant": (_MATRIX, "matrix = w[:, None] * direct"),
    "sum_for_mean": (_THROUGH, "/ root[..., None, None] ** 3"),
    "gain_forgotten": (_MATRIX, "matrix = direct - through"),
    "not_divided": (
        _MATRIX,
        "matrix = w[:, None] * (direct - through) * root[..., None, None]",
    ),
    "gain_gradient_of_x": ("normed = x / root[..., None]", "normed = x"),
    "power": (_THROUGH, "/ (size * root[..., None, None] ** 2)"),
    "correction_of_dy": (_MATRIX, "matrix = w[:, None] * direct - through"),
    "gain_gradient_first_axis": (_DW, "dw = np.add.reduce(dy * normed, 0)"),
    "dy_ignored": ("unit = np.eye(size)", "unit, dy = np.eye(size), np.ones_like(dy)"),
    "correction_sign": (_MATRIX, "matrix = w[:, None] * (direct + through)"),
    "gain_gradient_mean": (_DW, "dw = np.mean((dy * normed).reshape(-1, size), 0)"),
}
