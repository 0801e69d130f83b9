"""Log-probabilities of given tokens in NumPy, one position after another."""

import numpy as np


def forward(logits, ids, temperature):
    kind = np.promote_types(logits.dtype, np.float32)
    found = np.zeros(ids.shape, kind)
    for n in np.ndindex(ids.shape):
        raw = logits[n].astype(kind)
        z = raw / temperature
        top = z.max()
        total = np.log(np.exp(z - top).sum())
        found[n] = z[ids[n]] - top - total
    return found.astype(logits.dtype), (logits, ids, temperature)


def backward(dy, cache):
    """The matrix of derivatives of log softmax, row of the token: one_hot - p."""
    logits, ids, temperature = cache
    dz = np.zeros(logits.shape)
    for n in np.ndindex(ids.shape):
        z = logits[n] / temperature
        p = 1 / np.exp(z - z[:, None]).sum(-1)
        up = dy[n] / temperature
        row = np.zeros(len(z))
        row[ids[n]] = 1
        dz[n] = up * (row - p)
    return (dz,)


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

_Z = "z = raw / temperature"
_FOUND = "found[n] = z[ids[n]] - top - total"
_TOTAL = "total = np.log(np.exp(z - top).sum())"
_TOP = "top = z.max()"
_NEW = "found = np.zeros(ids.shape, kind)"
_RETURN = "return found.astype(logits.dtype), (logits"
_P = "np.exp(z[ids[n]] - top - total)"
FORWARD = {
    "temperature_ignored": (_Z, "z = raw"),
    "temperature_multiplied": (_Z, "z = raw * temperature"),
    "temperature_on_logprobs": (
        _Z,
        "z = raw",
        _RETURN,
        _RETURN.replace("found", "(found / temperature)"),
    ),
    "temperature_on_token_only": (
        _Z,
        "z = raw",
        _FOUND,
        "found[n] = (z[ids[n]] - top) / temperature - total",
    ),
    "temperature_on_token_only/2": (
        _FOUND,
        "found[n] = z[ids[n]] - top - np.log(np.exp(raw - raw.max()).sum())",
    ),
    "no_log": (_FOUND, f"found[n] = {_P}"),
    "sign": (_FOUND, "found[n] = total + top - z[ids[n]]"),
    "logits_returned": (_FOUND, "found[n] = z[ids[n]]"),
    "largest_for_sum": (_FOUND, "found[n] = z[ids[n]] - top"),
    "likeliest_token": (_FOUND, "found[n] = z[z.argmax()] - top - total"),
    "bits": (_FOUND, f"{_FOUND}\n        found[n] *= np.log2(np.e)"),
    "base_two_in_sum": (_TOTAL, "total = np.log2(np.exp(z - top).sum())"),
    "softmax_first": (
        _TOP,
        "z = np.exp(z - z.max())\n        z = z / z.sum()\n        top = z.max()",
    ),
    "softmax_over_tokens": (
        _FOUND,
        "column = logits[n[0], :, ids[n]].astype(kind) / temperature\n"
        "        found[n] = z[ids[n]] - column.max() - np.log(np.exp(column - column.max()).sum())",
    ),
    "shifted_inside": (_NEW, f"ids, logits = ids[:, 1:], logits[:, :-1]\n    {_NEW}"),
    "ids_one_early": (_NEW, f"ids = np.concatenate([ids[:, 1:], ids[:, :1]], 1)\n    {_NEW}"),
    "ids_one_late": (_NEW, f"ids = np.concatenate([ids[:, -1:], ids[:, :-1]], 1)\n    {_NEW}"),
    "no_shift": (_TOP, "top = 0"),
    "shift_of_all": (_TOP, "top = logits.astype(kind).max() / temperature"),
    "log_of_softmax": (_FOUND, f"found[n] = np.log({_P})"),
    "log_of_softmax_1e-8": (_FOUND, f"found[n] = np.log(1e-8 + {_P})"),
    "log_of_softmax_1e-10": (_FOUND, f"found[n] = np.log(1e-10 + {_P})"),
}

_ROW = "row[ids[n]] = 1"
_UP = "up = dy[n] / temperature"
_DZ = "dz[n] = up * (row - p)"
BACKWARD = {
    "one_hot_lost": (_ROW, "pass"),
    "softmax_lost": (_DZ, "dz[n] = up * row"),
    "sign": (_DZ, "dz[n] = up * (p - row)"),
    "temperature_forgotten": (_UP, "up = dy[n]"),
    "temperature_multiplied": (_UP, "up = dy[n] * temperature"),
    "softmax_at_temperature_1": (
        "p = 1 / np.exp(z - z[:, None]).sum(-1)",
        "p = np.exp(logits[n] - logits[n].max())\n        p = p / p.sum()",
    ),
    "dlogprobs_ignored": (_UP, "up = 1 / temperature"),
    "averaged": (_UP, "up = dy[n] / temperature / ids.size"),
    "of_probability": (_DZ, "dz[n] = up * p[ids[n]] * (row - p)"),
}
