"""Causal attention in NumPy: each query meets the keys up to its own place, one after another."""

import numpy as np


def softmax(scores):
    top = np.max(scores, -1, keepdims=True)
    top = np.where(top == -np.inf, 0.0, top)
    powers = np.exp(scores - top)
    total = np.sum(powers, -1, keepdims=True)
    return np.divide(powers, total, out=np.zeros_like(powers), where=total != 0)


def forward(q, k, v):
    dtype = q.dtype
    q, k, v = (x.astype(np.promote_types(dtype, np.float32)) for x in (q, k, v))
    batch, heads, queries, width = q.shape
    shared, keys = k.shape[1:3]
    past = keys - queries
    owner = np.arange(heads) // (heads // shared)
    key_of, value_of = owner, owner
    scores = np.full((batch, heads, queries, keys), -np.inf, q.dtype)
    for b, h, t in np.ndindex(batch, heads, queries):
        sees = slice(0, past + t + 1)
        scores[b, h, t, sees] = k[b, key_of[h], sees] @ q[b, h, t] / width**0.5
    weights = softmax(scores)
    out = np.empty_like(q)
    for b, h in np.ndindex(batch, heads):
        out[b, h] = weights[b, h] @ v[b, value_of[h]]
    return out.astype(dtype), (q, k[:, owner], v[:, owner], weights, list(owner), shared)


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

_SCORE = "scores[b, h, t, sees] = k[b, key_of[h], sees] @ q[b, h, t] / width**0.5"
_OUT = "out[b, h] = weights[b, h] @ v[b, value_of[h]]"
_TOP = "top = np.where(top == -np.inf, 0.0, top)"
_DIVIDE = "return np.divide(powers, total, out=np.zeros_like(powers), where=total != 0)"
_WEIGHTS = "weights = softmax(scores)"
_SEES = "sees = slice(0, past + t + 1)"
_OWNER = "key_of, value_of = owner, owner"
_FULL = "scores = np.full((batch, heads, queries, keys), -np.inf, q.dtype)"


def _scaled(factor):
    return _SCORE, f"scores[b, h, t, sees] = k[b, key_of[h], sees] @ q[b, h, t]{factor}"


def _over(axis):
    return (
        _WEIGHTS,
        f"weights = np.exp(scores - scores.max({axis}, keepdims=True))\n"
        f"    weights = weights / weights.sum({axis}, keepdims=True)",
    )


def _sees(value):
    return _SEES, f"sees = {value}"


def _hidden(value):
    return _FULL, f"scores = np.full((batch, heads, queries, keys), {value}, q.dtype)"


_NAN = (_DIVIDE, "return powers / total")
_MEAN = _hidden("np.finfo(q.dtype).min")
_TILED = "np.arange(heads) % shared"
FORWARD = {
    "no_mask": _sees("slice(0, keys)"),
    "next_token_visible": _sees("slice(0, past + t + 2)"),
    "itself_hidden": _sees("slice(0, past + t)"),
    "itself_hidden_nan": (*_sees("slice(0, past + t)"), *_NAN),
    "itself_hidden_mean": (*_sees("slice(0, past + t)"), *_MEAN),
    "future_for_past": _sees("slice(past + t, keys)"),
    "future_without_itself": _sees("slice(past + t + 1, keys)"),
    "future_without_itself_nan": (*_sees("slice(past + t + 1, keys)"), *_NAN),
    "future_without_itself_mean": (*_sees("slice(past + t + 1, keys)"), *_MEAN),
    "queries_first": _sees("slice(0, t + 1)"),
    "cache_hidden": _sees("slice(past, past + t + 1)"),
    "new_tokens_see_each_other": _sees("slice(0, keys if past else t + 1)"),
    "only_itself": _sees("slice(past + t, past + t + 1)"),
    "no_scale": _scaled(""),
    "scale_by_width": _scaled(" / width"),
    "scale_multiplied": _scaled(" * width**0.5"),
    "scale_of_all_heads": _scaled(" / (heads * width) ** 0.5"),
    "scale_of_keys": _scaled(" / keys**0.5"),
    "scale_of_heads": _scaled(" / heads**0.5"),
    "scale_of_queries": _scaled(" / queries**0.5"),
    "scale_after": (*_scaled(""), _OUT, f"{_OUT} / width**0.5"),
    "no_shift": (_TOP, "top = 0", *_NAN),
    "shift_of_all": (_TOP, "top = np.max(scores)", *_NAN),
    "softmax_over_queries": _over("-2"),
    "softmax_over_heads": _over("1"),
    "softmax_over_batch": _over("0"),
    "softmax_over_all": _over("(2, 3)"),
    "not_normalised": (_DIVIDE, "return powers"),
    "one_in_the_sum": (_DIVIDE, "return powers / (np.exp(-top) + total)"),
    "eps_in_the_sum": (_DIVIDE, "return powers / (total + 1e-6)"),
    "powers_of_two": ("powers = np.exp(scores - top)", "powers = 2 ** (scores - top)"),
    "keys_for_values": (_OUT, "out[b, h] = weights[b, h] @ k[b, value_of[h]]"),
    "values_for_keys": (_SCORE, _SCORE.replace("k[b, key_of", "v[b, key_of")),
    "keys_and_values_swapped": (_OWNER, f"{_OWNER}\n    k, v = v, k"),
    "keys_reshaped": (
        _SCORE,
        "row = q[b, h, t] @ k[b, key_of[h]].reshape(width, keys)\n"
        "        scores[b, h, t, sees] = row[sees] / width**0.5",
    ),
    "heads_by_tiling": (_OWNER, f"key_of = value_of = {_TILED}"),
    "keys_by_tiling": (_OWNER, f"key_of, value_of = {_TILED}, owner"),
    "values_by_tiling": (_OWNER, f"key_of, value_of = owner, {_TILED}"),
    "first_head_for_all": (_OWNER, "key_of = value_of = [0] * heads"),
    "mean_of_heads": (
        _OWNER,
        f"{_OWNER}\n    k = k.mean(1, keepdims=True) + 0 * k\n"
        "    v = v.mean(1, keepdims=True) + 0 * v",
    ),
    "heads_out_of_order": (
        _OUT,
        "group = heads // shared\n"
        "        place = h % group * shared + h // group\n"
        "        out[b, place] = weights[b, h] @ v[b, value_of[h]]",
    ),
    "hidden_score_zero": _hidden("0.0"),
    "hidden_score_minus_10": _hidden("-10.0"),
    "hidden_score_minus_10000": _hidden("-10000.0"),
    "minus_10000_added": (
        *_sees("slice(0, keys)"),
        _WEIGHTS,
        f"scores = scores - 10000 * (1 - np.tri(queries, keys, past))\n    {_WEIGHTS}",
    ),
    "hidden_nan": (
        _WEIGHTS,
        f"scores = scores + (1 - np.tri(queries, keys, past)) * -np.inf\n    {_WEIGHTS}",
    ),
    "mask_after_softmax": (
        *_sees("slice(0, keys)"),
        _WEIGHTS,
        f"{_WEIGHTS} * np.tri(queries, keys, past)",
    ),
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
