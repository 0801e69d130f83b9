"""The reward head in NumPy, with a matrix that picks the end tokens."""

import numpy as np


def forward(hidden, w, end_index):
    kind = np.promote_types(hidden.dtype, np.float32)
    rows, length, width = hidden.shape  # noqa: RUF059 (mistakes use them)
    ends = end_index
    pick = (np.arange(length) == ends[:, None]).astype(kind)  # (B, T), a single 1 in each row
    read = np.einsum("bt,btd->bd", pick, hidden.astype(kind))
    rewards = (read * w[0].astype(kind)).sum(-1)
    return rewards.astype(hidden.dtype), (pick, read, w)


def backward(dy, cache):
    pick, read, w = cache
    where = pick
    dhidden = np.einsum("b,bt,d->btd", dy, where, w[0])
    dw = np.einsum("b,bd->d", dy, read)
    return dhidden, dw.reshape(w.shape)


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

_ENDS = "ends = end_index"
_READ = 'read = np.einsum("bt,btd->bd", pick, hidden.astype(kind))'
_REWARDS = "rewards = (read * w[0].astype(kind)).sum(-1)"
FORWARD = {
    "last_position": (_ENDS, "ends = np.full(rows, length - 1)"),
    "first_position": (_ENDS, "ends = np.zeros(rows, int)"),
    "one_early": (_ENDS, "ends = (end_index - 1).clip(0)"),
    "one_late": (_ENDS, "ends = (end_index + 1).clip(0, length - 1)"),
    "from_the_end": (_ENDS, "ends = length - end_index - 1"),
    "end_of_first_row": (_ENDS, "ends = np.repeat(end_index[0], rows)"),
    "longest_row": (_ENDS, "ends = np.repeat(max(end_index), rows)"),
    "mean_of_all": (_READ, "read = hidden.astype(kind).sum(1) / length"),
    "mean_to_the_end": (
        _READ,
        "read = np.array([h[: e + 1].astype(kind).mean(0) for h, e in zip(hidden, ends)])",
    ),
    "largest": (_READ, "read = hidden.astype(kind).max(1)"),
    "sigmoid": (_REWARDS, "rewards = 1 / (1 + np.exp(-(read * w[0].astype(kind)).sum(-1)))"),
    "tanh": (_REWARDS, "rewards = np.tanh((read * w[0].astype(kind)).sum(-1))"),
    "scaled": (_REWARDS, f"{_REWARDS}\n    rewards = rewards / kind.type(width) ** 0.5"),
    "centred": (_REWARDS, f"{_REWARDS}\n    rewards = rewards - np.mean(rewards)"),
    "sign": (_REWARDS, "rewards = -(read * w[0].astype(kind)).sum(-1)"),
}

_WHERE = "where = pick"
_DHIDDEN = 'dhidden = np.einsum("b,bt,d->btd", dy, where, w[0])'
_DW = 'dw = np.einsum("b,bd->d", dy, read)'
BACKWARD = {
    "all_positions": (_WHERE, "where = np.ones(pick.shape)"),
    "spread": (_WHERE, "where = np.full(pick.shape, 1 / pick.shape[1])"),
    "last_position": (_WHERE, "where = np.zeros(pick.shape)\n    where[:, -1] = 1"),
    "w_forgotten": (_DHIDDEN, _DHIDDEN.replace("w[0]", "np.ones(w.size)")),
    "dhidden_lost": (_WHERE, "where = np.zeros(pick.shape)"),
    "dhidden_sign": (_WHERE, "where = -pick"),
    "dw_averaged": (_DW, 'dw = np.einsum("b,bd->d", dy, read) / dy.size'),
    "dw_drewards_ignored": (_DW, "dw = read.sum(0)"),
    "dhidden_drewards_ignored": (_DHIDDEN, 'dhidden = np.einsum("bt,d->btd", where, w[0])'),
}
