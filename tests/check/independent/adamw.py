"""AdamW in NumPy, from algorithm 2 of Loshchilov and Hutter 2017 (arXiv:1711.05101)."""

import numpy as np


def forward(w, g, m, v, step, lr, beta1, beta2, eps, weight_decay):
    dtype = w.dtype
    w, g, m, v = (x.astype(np.promote_types(dtype, np.float32)) for x in (w, g, m, v))
    m = m + (1 - beta1) * (g - m)
    v = v + (1 - beta2) * (g**2 - v)
    start1 = 1 - beta1**step
    start2 = 1 - beta2**step
    mean = m / start1
    size = np.sqrt(v / start2)
    move = mean / (size + eps)
    new = w - lr * (move + weight_decay * w)
    return new.astype(dtype), m, v


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

_M = "m = m + (1 - beta1) * (g - m)"
_V = "v = v + (1 - beta2) * (g**2 - v)"
_S1, _S2 = "start1 = 1 - beta1**step", "start2 = 1 - beta2**step"
_MEAN, _SIZE = "mean = m / start1", "size = np.sqrt(v / start2)"
_MOVE = "move = mean / (size + eps)"
_NEW = "new = w - lr * (move + weight_decay * w)"
_CAST = "dtype = w.dtype\n"
FORWARD = {
    "m_not_corrected": (_MEAN, "mean = m"),
    "v_not_corrected": (_SIZE, "size = np.sqrt(v)"),
    "none_corrected": (_MEAN, "mean = m", _SIZE, "size = np.sqrt(v)"),
    "step_plus_one": (_S1, f"step += 1\n    {_S1}"),
    "step_minus_one": (_S1, f"step -= 1\n    {_S1}"),
    "correction_multiplied": (_MEAN, "mean = m * start1", _SIZE, "size = np.sqrt(v * start2)"),
    "eps_inside": (_MOVE, "move = mean / np.sqrt(size**2 + eps)"),
    "eps_before_correction": (_MOVE, "move = mean / ((np.sqrt(v) + eps) / np.sqrt(start2))"),
    "no_eps": (_MOVE, "move = mean / size"),
    "eps_1e-6": (_MOVE, "move = mean / (size + 1e-6)"),
    "decay_in_gradient": (_M, f"g = g + weight_decay * w\n    {_M}", _NEW, "new = w - lr * move"),
    "decay_in_update": (_NEW, "new = w - lr * (move + weight_decay * w / (size + eps))"),
    "decay_without_lr": (_NEW, "new = w - lr * move - weight_decay * w"),
    "decay_sign": (_NEW, "new = w - lr * (move - weight_decay * w)"),
    "no_decay": (_NEW, "new = w - lr * move"),
    "decay_after": (_NEW, "new = w - lr * move\n    new = new - lr * weight_decay * new"),
    "no_root": (_SIZE, "size = v / start2"),
    "uphill": (_NEW, "new = w - lr * (weight_decay * w - move)"),
    "beta1_exchanged": (_M, "m = m + beta1 * (g - m)"),
    "beta2_exchanged": (_V, "v = v + beta2 * (g**2 - v)"),
    "betas_exchanged": (_M, "m = m + beta1 * (g - m)", _V, "v = v + beta2 * (g**2 - v)"),
    "betas_swapped": (_CAST, f"{_CAST}    beta1, beta2 = beta2, beta1\n"),
    "beta2_0.999": (_CAST, f"{_CAST}    beta2 = 0.999\n"),
    "m_is_a_sum": (_M, "m = beta1 * m + g"),
    "v_is_a_sum": (_V, "v = beta2 * v + g**2"),
    "v_of_absolute_values": (_V, "v = v + (1 - beta2) * (np.abs(g) - v)"),
    "v_of_differences": (_V, "v = v + (1 - beta2) * ((g - m) ** 2 - v)"),
    "v_of_the_mean": (_V, "v = v + (1 - beta2) * (m**2 - v)"),
    "moments_before_update": (
        _M,
        "old_m, old_v = m, v\n    m = m + (1 - beta1) * (g - m)",
        _MEAN,
        "mean = old_m / start1",
        _SIZE,
        "size = np.sqrt(old_v / start2)",
    ),
    "nesterov": (_MEAN, "mean = (m + (1 - beta1) * (g - m)) / start1"),
    "no_momentum": (_MEAN, "mean = g"),
}
