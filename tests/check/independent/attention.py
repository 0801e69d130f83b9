"""Attention in NumPy as in Vaswani et al. 2017, with the keys written out for every query head."""

import numpy as np


def softmax(scores):
    top = np.max(scores, -1, keepdims=True)
    top = np.where(top == -np.inf, 0.0, top)
    powers = np.exp(scores - top)
    total = np.sum(powers, -1, keepdims=True)
    return np.divide(powers, total, out=np.zeros_like(powers), where=total != 0)


def forward(q, k, v, mask):
    dtype = q.dtype
    q, k, v = (x.astype(np.promote_types(dtype, np.float32)) for x in (q, k, v))
    heads, queries, width = q.shape[1:]  # noqa: RUF059 (mistakes use it)
    shared, keys = k.shape[1:3]  # noqa: RUF059 (mistakes use it)
    owner = [h * shared // heads for h in range(heads)]
    every_k = np.stack([k[:, g] for g in owner], 1)
    every_v = np.stack([v[:, g] for g in owner], 1)
    scores = np.einsum("bhtd,bhsd->bhts", q, every_k) / width**0.5
    if mask is not None:
        seen = np.broadcast_to(mask if mask.ndim == 2 else mask[:, None], scores.shape)
        scores = np.where(seen, scores, -np.inf)
    weights = softmax(scores)
    out = np.einsum("bhts,bhsd->bhtd", weights, every_v)
    return out.astype(dtype), (q, every_k, every_v, weights, owner, shared)


def backward(dy, cache):
    """Write the matrix of derivatives of the softmax out: dp_s/dz_u = p_s ([s = u] - p_u)."""
    q, k, v, p, owner, shared = cache
    keys, width = k.shape[2:]
    dp = np.einsum("bhtd,bhsd->bhts", dy, v)
    jacobian = p[..., :, None] * (np.eye(keys) - p[..., None, :])
    dz = np.einsum("bhts,bhtsu->bhtu", dp, jacobian) / np.sqrt(width)
    dq = np.einsum("bhtu,bhud->bhtd", dz, k)
    every_dk = np.einsum("bhtu,bhtd->bhud", dz, q)
    every_dv = np.einsum("bhts,bhtd->bhsd", p, dy)
    dk = np.zeros((len(k), shared, keys, width))
    dv = np.zeros_like(dk)
    for h, g in enumerate(owner):
        dk[:, g] += every_dk[:, h]
        dv[:, g] += every_dv[:, h]
    return dq, dk, dv


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

_SCORES = 'scores = np.einsum("bhtd,bhsd->bhts", q, every_k) / width**0.5'
_OUT = 'out = np.einsum("bhts,bhsd->bhtd", weights, every_v)'
_TOP = "top = np.where(top == -np.inf, 0.0, top)"
_DIVIDE = "return np.divide(powers, total, out=np.zeros_like(powers), where=total != 0)"
_WEIGHTS = "weights = softmax(scores)"
_MASKED = "scores = np.where(seen, scores, -np.inf)"
_SEEN = "seen = np.broadcast_to(mask if mask.ndim == 2 else mask[:, None], scores.shape)"
_OWNER = "owner = [h * shared // heads for h in range(heads)]"
_EVERY_K = "every_k = np.stack([k[:, g] for g in owner], 1)"
_EVERY_V = "every_v = np.stack([v[:, g] for g in owner], 1)"


def _scaled(factor):
    return _SCORES, f'scores = np.einsum("bhtd,bhsd->bhts", q, every_k){factor}'


def _over(axis):
    return (
        _WEIGHTS,
        f"weights = np.exp(scores - scores.max({axis}, keepdims=True))\n"
        f"    weights = weights / weights.sum({axis}, keepdims=True)",
    )


def _hidden(value):
    return _MASKED, f"scores = np.where(seen, scores, {value})"


_SHARED = {
    "no_scale": _scaled(""),
    "scale_by_width": _scaled(" / width"),
    "scale_multiplied": _scaled(" * width**0.5"),
    "scale_of_all_heads": _scaled(" / (heads * width) ** 0.5"),
    "scale_of_keys": _scaled(" / keys**0.5"),
    "scale_of_heads": _scaled(" / heads**0.5"),
    "scale_of_queries": _scaled(" / queries**0.5"),
    "scale_after": (*_scaled(""), _OUT, f"{_OUT} / width**0.5"),
    "no_shift": (_TOP, "top = 0", _DIVIDE, "return powers / total"),
    "shift_of_all": (_TOP, "top = np.max(scores)", _DIVIDE, "return powers / total"),
    "softmax_over_queries": _over("-2"),
    "softmax_over_heads": _over("1"),
    "softmax_over_batch": _over("0"),
    "softmax_over_all": _over("(2, 3)"),
    "not_normalised": (_DIVIDE, "return powers"),
    "one_in_the_sum": (_DIVIDE, "return powers / (np.exp(-top) + total)"),
    "eps_in_the_sum": (_DIVIDE, "return powers / (total + 1e-6)"),
    "powers_of_two": ("powers = np.exp(scores - top)", "powers = 2 ** (scores - top)"),
    "keys_for_values": (_OUT, 'out = np.einsum("bhts,bhsd->bhtd", weights, every_k)'),
    "values_for_keys": (_SCORES, 'scores = np.einsum("bhtd,bhsd->bhts", q, every_v) / width**0.5'),
    "keys_and_values_swapped": (_OWNER, f"{_OWNER}\n    k, v = v, k"),
    "keys_reshaped": (
        _SCORES,
        "flat = every_k.reshape(len(k), heads, width, keys)\n"
        '    scores = np.einsum("bhtd,bhds->bhts", q, flat) / width**0.5',
    ),
    "heads_by_tiling": (_OWNER, "owner = [h % shared for h in range(heads)]"),
    "keys_by_tiling": (_EVERY_K, "every_k = np.concatenate([k] * (heads // shared), 1)"),
    "values_by_tiling": (_EVERY_V, "every_v = np.concatenate([v] * (heads // shared), 1)"),
    "first_head_for_all": (_OWNER, "owner = [0] * heads"),
    "mean_of_heads": (
        _OWNER,
        f"{_OWNER}\n    k = k.mean(1, keepdims=True) + 0 * k\n"
        "    v = v.mean(1, keepdims=True) + 0 * v",
    ),
    "heads_out_of_order": (
        _OUT,
        f"{_OUT}\n    out = out[:, [h for g in range(heads // shared) for h in range(g, heads, "
        "heads // shared)]]",
    ),
    "hidden_score_zero": _hidden("0"),
    "hidden_score_minus_10": _hidden("-10"),
    "hidden_score_minus_10000": _hidden("-10000"),
    "minus_10000_added": (_MASKED, "scores = scores - 10000 * (1 - seen)"),
    "hidden_nan": (_MASKED, "scores = scores + (1 - seen) * -np.inf"),
    "mask_after_softmax": (
        _MASKED,
        "",
        _WEIGHTS,
        f"{_WEIGHTS} if mask is None else softmax(scores) * seen",
    ),
}
FORWARD = {
    **_SHARED,
    "no_mask": (_MASKED, ""),
    "mask_inverted": (_MASKED, "scores = np.where(seen, -np.inf, scores)"),
    "mask_of_first_row": (_SEEN, _SEEN.replace("mask[:, None]", "mask[0]")),
    "nan_when_nothing_is_seen": (_DIVIDE, "return powers / total"),
    "mean_when_nothing_is_seen": _hidden("np.finfo(q.dtype).min"),
    "all_when_nothing_is_seen": (_MASKED, "scores = scores - 1e9 * (1 - seen)"),
}

_JACOBIAN = "jacobian = p[..., :, None] * (np.eye(keys) - p[..., None, :])"
_DZ = 'dz = np.einsum("bhts,bhtsu->bhtu", dp, jacobian) / np.sqrt(width)'
_DK, _DV = "dk[:, g] += every_dk[:, h]", "dv[:, g] += every_dv[:, h]"
BACKWARD = {
    "softmax_sum_lost": (_JACOBIAN, "jacobian = p[..., :, None] * np.eye(keys)"),
    "softmax_sum_sign": (_JACOBIAN, _JACOBIAN.replace(" - ", " + ")),
    "softmax_mean_for_sum": (
        _JACOBIAN,
        _JACOBIAN.replace("p[..., None, :])", "p[..., None, :] / keys)"),
    ),
    "softmax_diagonal": (_JACOBIAN, f"{_JACOBIAN} * np.eye(keys)"),
    "softmax_factor_lost": (_JACOBIAN, "jacobian = np.eye(keys) - p[..., :, None]"),
    "scale_forgotten": (_DZ, 'dz = np.einsum("bhts,bhtsu->bhtu", dp, jacobian)'),
    "scale_twice": (_DZ, 'dz = np.einsum("bhts,bhtsu->bhtu", dp, jacobian) / width'),
    "scale_forgotten_in_dq": (
        '"bhtu,bhud->bhtd", dz, k)',
        '"bhtu,bhud->bhtd", dz, k) * width**0.5',
    ),
    "scale_forgotten_in_dk": (
        '"bhtu,bhtd->bhud", dz, q)',
        '"bhtu,bhtd->bhud", dz, q) * width**0.5',
    ),
    "dk_mean_of_group": (_DK, "dk[:, g] += every_dk[:, h] / owner.count(g)"),
    "dv_mean_of_group": (_DV, "dv[:, g] += every_dv[:, h] / owner.count(g)"),
    "dk_of_last_head": (_DK, "dk[:, g] = every_dk[:, h]"),
    "dv_of_last_head": (_DV, "dv[:, g] = every_dv[:, h]"),
    "dv_without_weights": ('bhsd", p, dy)', 'bhsd", np.ones_like(p), dy)'),
    "weights_constant": (_DZ, "dz = np.zeros_like(dp)"),
    "dy_ignored": (
        "keys, width = k.shape[2:]",
        "keys, width = k.shape[2:]\n    dy = np.ones(q.shape)",
    ),
}
