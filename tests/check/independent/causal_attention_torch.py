"""Causal attention in PyTorch, as in nanoGPT: a triangle of hidden places, and softmax."""

import torch


def forward(q, k, v):
    heads, queries, width = q.shape[1:]
    shared, keys = k.shape[1:3]
    every_k = k.repeat_interleave(heads // shared, dim=1)
    every_v = v.repeat_interleave(heads // shared, dim=1)
    att = (q @ every_k.transpose(-2, -1)) * (1.0 / width**0.5)
    place = torch.arange(keys - queries, keys)[:, None]
    seen = torch.arange(keys)[None] <= place
    att = att.masked_fill(~seen, float("-inf"))
    att = torch.softmax(att, dim=-1)
    return att @ every_v


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

_ATT = "att = (q @ every_k.transpose(-2, -1)) * (1.0 / width**0.5)"
_PLACE = "place = torch.arange(keys - queries, keys)[:, None]"
_SEEN = "seen = torch.arange(keys)[None] <= place"
_FILL = 'att = att.masked_fill(~seen, float("-inf"))'
_SOFTMAX = "att = torch.softmax(att, dim=-1)"
_OUT = "return att @ every_v"
_K, _V = (f"every_{a} = {a}.repeat_interleave(heads // shared, dim=1)" for a in "kv")


def _scaled(factor):
    return _ATT, f"att = (q @ every_k.transpose(-2, -1)){factor}"


FORWARD = {
    "no_mask": (_FILL, ""),
    "next_token_visible": (_SEEN, "seen = torch.arange(keys)[None] <= place + 1"),
    "itself_hidden_nan": (_SEEN, "seen = torch.arange(keys)[None] < place"),
    "itself_hidden_mean": (
        _SEEN,
        "seen = torch.arange(keys)[None] < place",
        _FILL,
        "att = att.masked_fill(~seen, torch.finfo(att.dtype).min)",
    ),
    "future_for_past": (_SEEN, "seen = torch.arange(keys)[None] >= place"),
    "future_without_itself_nan": (_FILL, 'att = att.masked_fill(seen, float("-inf"))'),
    "future_without_itself_mean": (
        _FILL,
        "att = att.masked_fill(seen, torch.finfo(att.dtype).min)",
    ),
    "queries_first": (_PLACE, "place = torch.arange(queries)[:, None]"),
    "cache_hidden": (_SEEN, f"{_SEEN}\n    seen = seen & (torch.arange(keys) >= keys - queries)"),
    "new_tokens_see_each_other": (_FILL, f"att = att if keys > queries else {_FILL[6:]}"),
    "only_itself": (_SEEN, "seen = torch.arange(keys)[None] == place"),
    "no_scale": _scaled(""),
    "scale_by_width": _scaled(" / width"),
    "scale_multiplied": _scaled(" * width**0.5"),
    "scale_of_all_heads": _scaled(" / (width * heads) ** 0.5"),
    "scale_of_keys": _scaled(" / keys**0.5"),
    "scale_of_heads": _scaled(" / heads**0.5"),
    "scale_of_queries": _scaled(" / queries**0.5"),
    "scale_after": (*_scaled(""), _OUT, "return att @ every_v / width**0.5"),
    "softmax_over_queries": (_SOFTMAX, "att = torch.softmax(att, dim=-2)"),
    "softmax_over_heads": (_SOFTMAX, "att = torch.softmax(att, dim=1)"),
    "softmax_over_batch": (_SOFTMAX, "att = torch.softmax(att, dim=0)"),
    "softmax_over_all": (_SOFTMAX, "att = torch.softmax(att.flatten(2), -1).view_as(att)"),
    "not_normalised": (_SOFTMAX, "att = torch.exp(att - att.amax(-1, keepdim=True))"),
    "no_shift": (_SOFTMAX, "att = att.exp()\n    att = att / att.sum(-1, keepdim=True)"),
    "keys_for_values": (_OUT, "return att @ every_k"),
    "values_for_keys": (_ATT, _ATT.replace("every_k", "every_v")),
    "keys_reshaped": (
        _ATT,
        "turned = every_k.reshape(*every_k.shape[:2], width, keys)\n"
        "    att = q @ turned / width**0.5",
    ),
    "heads_by_tiling": (
        _K,
        "every_k = k.repeat(1, heads // shared, 1, 1)",
        _V,
        "every_v = v.repeat(1, heads // shared, 1, 1)",
    ),
    "keys_by_tiling": (_K, "every_k = k.repeat(1, heads // shared, 1, 1)"),
    "values_by_tiling": (_V, "every_v = v.repeat(1, heads // shared, 1, 1)"),
    "hidden_score_zero": (_FILL, "att = att * seen"),
    "hidden_score_minus_10": (_FILL, "att = att.masked_fill(~seen, -10)"),
    "hidden_score_minus_10000": (_FILL, "att = att.masked_fill(~seen, -10000)"),
    "minus_10000_added": (_FILL, "att = att + torch.where(seen, 0.0, -10000.0)"),
    "hidden_nan": (_FILL, "att = att + float('-inf') * ~seen"),
    "mask_after_softmax": (_FILL, "", _SOFTMAX, "att = torch.softmax(att, dim=-1) * seen"),
}
