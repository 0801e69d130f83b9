"""A table of token vectors in NumPy, one token after another."""

import numpy as np


def forward(ids, w):
    rows = []
    for v in ids.flat:
        rows.append(w[v])
    return np.array(rows).reshape(*ids.shape, w.shape[1]), (ids, w.shape)


def backward(dy, cache):
    ids, shape = cache
    dw = np.zeros(shape)
    for v in range(len(dw)):
        dw[v] = dy[ids == v].sum(0)
    return (dw,)


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

_ROW = "rows.append(w[v])"
_START = "rows = []\n"
FORWARD = {
    "scaled_by_root": (_ROW, "rows.append(w[v] * np.sqrt(w.shape[1]))"),
    "divided_by_root": (_ROW, "rows.append(w[v] / np.sqrt(w.shape[1]))"),
    "ids_from_one": (_ROW, "rows.append(w[v - 1])"),
    "next_row": (_ROW, "rows.append(w[v + 1 if v + 1 < len(w) else 0])"),
    "padding_zero": (_ROW, "rows.append(w[v] if v else np.zeros(w.shape[1]))"),
    "unit_length": (_ROW, "rows.append(w[v] / np.linalg.norm(w[v]))"),
    "centred": (_ROW, "rows.append(w[v] - w[v].sum() / len(w[v]))"),
    "shifted_right": (
        _START,
        "rows = []\n    ids = np.concatenate((ids[..., -1:], ids[..., :-1]), -1)\n",
    ),
    "reversed_text": (_START, "rows = []\n    ids = np.flip(ids, -1)\n"),
    "tokens_mixed": ("in ids.flat", "in ids.T.flat"),
    "first_text_only": (
        _START,
        "rows = []\n    ids = np.stack([ids[0]] * len(ids)) if ids.ndim > 1 else ids\n",
    ),
    "half_precision": (_ROW, "rows.append(np.float16(w[v]).astype(float))"),
}

_SUM = "dy[ids == v].sum(0)"
_ZERO = "dw = np.zeros(shape)\n"
BACKWARD = {
    "last_one_kept": (_SUM, "dy[ids == v][-1] if v in ids else 0"),
    "mean_of_repeats": (_SUM, "dy[ids == v].mean(0) if v in ids else 0"),
    "mean_of_tokens": (_SUM, "dy[ids == v].sum(0) / ids.size"),
    "padding_no_gradient": ("range(len(dw))", "range(1, len(dw))"),
    "last_text_only": (
        _ZERO,
        f"{_ZERO}    ids, dy = (ids[-1], dy[-1]) if ids.ndim > 1 else (ids, dy)\n",
    ),
    "neighbour_row": ("dw[v] = dy", "dw[v - 1] = dy"),
    "scaled_by_root": (_SUM, "dy[ids == v].sum(0) * np.sqrt(shape[1])"),
    "dy_ignored": (_SUM, "np.count_nonzero(ids == v)"),
}
