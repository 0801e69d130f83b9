"""Attention in PyTorch, with the query heads of a group beside each other and torch.softmax."""

import torch


def forward(q, k, v, mask):
    shared = k.shape[1]
    heads, queries, width = q.shape[1:]  # noqa: RUF059 (mistakes use it)
    q = q.unflatten(1, (shared, heads // shared))
    scores = torch.einsum("bkgtd,bksd->bkgts", q, k) * width**-0.5
    if mask is not None:
        mask = mask if mask.ndim == 2 else mask[:, None, None]
        some = mask.any(-1, keepdim=True)
        scores = scores.masked_fill(~mask, -torch.inf).masked_fill(~some, 0)
        weights = scores.softmax(-1) * some
    else:
        weights = scores.softmax(-1)
    return torch.einsum("bkgts,bksd->bkgtd", weights, v).flatten(1, 2)


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

_SCORES = 'scores = torch.einsum("bkgtd,bksd->bkgts", q, k) * width**-0.5'
_FILL = "scores = scores.masked_fill(~mask, -torch.inf).masked_fill(~some, 0)"
_WEIGHTS = "weights = scores.softmax(-1) * some"
_WEIGHTS_2 = "    else:\n        weights = scores.softmax(-1)"
_OUT = 'return torch.einsum("bkgts,bksd->bkgtd", weights, v).flatten(1, 2)'
_GROUP = "q = q.unflatten(1, (shared, heads // shared))"


def _scaled(factor):
    return _SCORES, f'scores = torch.einsum("bkgtd,bksd->bkgts", q, k){factor}'


def _every(k, v):
    """Return lines that write the keys and values out for every query head."""
    return (_GROUP, f"k, v, shared = {k}, {v}, heads\n    {_GROUP}")


_TILE, _REPEAT = "{}.repeat(1, heads // shared, 1, 1)", "{}.repeat_interleave(heads // shared, 1)"
FORWARD = {
    "no_scale": _scaled(""),
    "scale_by_width": _scaled(" / width"),
    "scale_multiplied": _scaled(" * width**0.5"),
    "scale_of_all_heads": _scaled(" * (width * heads) ** -0.5"),
    "scale_of_keys": _scaled(" * k.shape[2] ** -0.5"),
    "scale_of_heads": _scaled(" * heads**-0.5"),
    "scale_of_queries": _scaled(" * queries**-0.5"),
    "scale_after": (*_scaled(""), _OUT, f"{_OUT} / width**0.5"),
    "powers_of_two": _scaled(" * width**-0.5 * torch.tensor(2.0, dtype=q.dtype).log()"),
    "keys_for_values": (_OUT, _OUT.replace("weights, v", "weights, k")),
    "values_for_keys": (_SCORES, _SCORES.replace("q, k)", "q, v)")),
    "keys_and_values_swapped": (_GROUP, f"{_GROUP}\n    k, v = v, k"),
    "heads_by_tiling": _every(_TILE.format("k"), _TILE.format("v")),
    "keys_by_tiling": _every(_TILE.format("k"), _REPEAT.format("v")),
    "values_by_tiling": _every(_REPEAT.format("k"), _TILE.format("v")),
    "first_head_for_all": (_GROUP, f"{_GROUP}\n    k, v = (a[:, :1].expand_as(a) for a in (k, v))"),
    "mean_of_heads": (
        _GROUP,
        f"{_GROUP}\n    k, v = (a.mean(1, True).expand_as(a) for a in (k, v))",
    ),
    "heads_out_of_order": (_OUT, _OUT.replace(".flatten", ".transpose(1, 2).flatten")),
    "softmax_over_queries": (
        _WEIGHTS,
        "weights = scores.masked_fill(~some, -torch.inf).softmax(-2)",
        _WEIGHTS_2,
        "    else:\n        weights = scores.softmax(-2)",
    ),
    "softmax_over_batch": (
        _WEIGHTS,
        "weights = scores.masked_fill(~some, -torch.inf).softmax(0)",
        _WEIGHTS_2,
        "    else:\n        weights = scores.softmax(0)",
    ),
    "hidden_score_zero": (
        _FILL,
        "scores = scores * mask",
        _WEIGHTS,
        "weights = scores.softmax(-1)",
    ),
    "hidden_score_minus_10": (
        _FILL,
        "scores = scores.masked_fill(~mask, -10)",
        _WEIGHTS,
        "weights = scores.softmax(-1)",
    ),
    "hidden_score_minus_10000": (
        _FILL,
        "scores = scores.masked_fill(~mask, -10000)",
        _WEIGHTS,
        "weights = scores.softmax(-1)",
    ),
    "minus_10000_added": (
        _FILL,
        "scores = scores - 10000.0 * ~mask",
        _WEIGHTS,
        "weights = scores.softmax(-1)",
    ),
    "hidden_nan": (
        _FILL,
        "scores = scores + -torch.inf * ~mask\n        scores = scores.masked_fill(~some, 0)",
    ),
    "mask_after_softmax": (_FILL, "", _WEIGHTS, "weights = scores.softmax(-1) * mask"),
    "no_mask": ("if mask is not None:", "if False:"),
    "mask_inverted": (
        "some = mask.any",
        "mask = ~mask\n        some = mask.any",
    ),
    "mask_of_first_row": ("mask[:, None, None]", "mask[0]"),
    "nan_when_nothing_is_seen": (_FILL, "scores = scores.masked_fill(~mask, -torch.inf)"),
    "mean_when_nothing_is_seen": (_WEIGHTS, "weights = scores.softmax(-1)"),
    "all_when_nothing_is_seen": (
        _FILL,
        "scores = scores - 1e9 * ~mask",
        _WEIGHTS,
        "weights = scores.softmax(-1)",
    ),
}
BACKWARD = {
    "scale_forgotten_in_dq": (
        _SCORES,
        f"far = q * width**0.5\n    q = far + (q - far).detach()\n    {_SCORES}",
    ),
    "scale_forgotten_in_dk": (
        _SCORES,
        f"far = k * width**0.5\n    k = far + (k - far).detach()\n    {_SCORES}",
    ),
    "scale_forgotten": (
        _SCORES,
        f"{_SCORES}\n    far = scores * width**0.5\n    scores = far + (scores - far).detach()",
    ),
}
