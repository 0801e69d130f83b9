"""Clipping by the norm of all gradients in NumPy, from Pascanu et al. 2013 (arXiv:1211.5063)."""

import numpy as np


def forward(grads, max_norm):
    everything = np.concatenate([np.float64(g).reshape(-1) for g in grads])
    norm = float(np.linalg.norm(everything))
    factor = max_norm / (norm + 1e-6)
    if factor >= 1:
        return tuple(np.copy(g) for g in grads)
    return tuple(g * factor for g in grads)


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

_NORM = "norm = float(np.linalg.norm(everything))"
_FACTOR = "factor = max_norm / (norm + 1e-6)"
_IF = "if factor >= 1:"
_CLIP = "return tuple(g * factor for g in grads)"
FORWARD = {
    "norm_of_each": (
        _NORM,
        f"{_NORM}\n    sizes = [np.linalg.norm(g) + 1e-6 for g in grads]\n"
        "    return tuple(g / max(1, n / max_norm) for g, n in zip(grads, sizes, strict=True))",
    ),
    "entries_clipped": (
        _NORM,
        f"{_NORM}\n    return tuple(np.maximum(np.minimum(g, max_norm), -max_norm) for g in grads)",
    ),
    "always_scaled": (_IF, "if False:"),
    "no_root": (_NORM, "norm = float(everything @ everything)"),
    "sum_of_absolute_values": (_NORM, "norm = float(np.linalg.norm(everything, 1))"),
    "largest_entry": (_NORM, "norm = float(np.linalg.norm(everything, np.inf))"),
    "mean_of_squares": (_NORM, "norm = float(np.sqrt(np.mean(everything**2)))"),
    "sum_of_norms": (_NORM, "norm = float(sum(np.linalg.norm(g) for g in grads))"),
    "largest_norm": (_NORM, "norm = float(max(np.linalg.norm(g) for g in grads))"),
    "last_norm": (_NORM, "norm = float(np.linalg.norm(grads[-1]))"),
    "norm_of_columns": (
        _NORM,
        f"{_NORM}\n    sizes = [np.sqrt(np.sum(g**2, 0)) + 1e-6 for g in grads]\n    return tuple("
        "np.where(n > max_norm, g * max_norm / n, g) for g, n in zip(grads, sizes, strict=True))",
    ),
    "limit_1": (_FACTOR, "factor = 1 / (norm + 1e-6)"),
    "limit_not_multiplied": (_CLIP, "return tuple(g / (norm + 1e-6) for g in grads)"),
    "upside_down": (_FACTOR, "factor = norm / max_norm"),
    "scaled_twice": (_CLIP, "return tuple(g * factor**2 for g in grads)"),
    "no_1e-6": (_FACTOR, "factor = max_norm / norm if norm else 1"),
    "root_of_factor": (_CLIP, "return tuple(g * np.sqrt(factor) for g in grads)"),
    "longest_only": (
        _CLIP,
        "return tuple(g * factor if np.linalg.norm(g) > max_norm else np.copy(g) for g in grads)",
    ),
}
