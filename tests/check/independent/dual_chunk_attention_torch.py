"""Dual chunk attention (arXiv:2402.17463, section 3) in PyTorch: three score matrices, one mask."""

import torch


def rotate(x, place, base):
    d = x.shape[-1]
    angle = place.to(torch.float64)[:, None] / base ** (
        torch.arange(0, d, 2, dtype=torch.float64) / d
    )
    angle = torch.cat((angle, angle), dim=-1)
    one, two = x.chunk(2, dim=-1)
    return x * angle.cos().to(x.dtype) + torch.cat((-two, one), dim=-1) * angle.sin().to(x.dtype)


def forward(q, k, v, chunk_size, local_size, base):
    length = chunk_size - local_size
    limit = chunk_size - 1
    groups = q.shape[1] // k.shape[1]
    k = k.repeat_interleave(groups, dim=1)
    v = v.repeat_interleave(groups, dim=1)
    keys = torch.arange(k.shape[2])
    queries = keys[k.shape[2] - q.shape[2] :]
    own = queries % length
    nearby = (own + length).clamp(max=limit)
    far = torch.full_like(own, min(2 * length - 1, limit))
    turned = rotate(k, keys % length, base)
    intra, succ, inter = (
        rotate(q, p, base) @ turned.mT / q.shape[-1] ** 0.5 for p in (own, nearby, far)
    )
    apart = (queries // length)[:, None] - keys // length
    scores = torch.where(apart == 0, intra, torch.where(apart == 1, succ, inter))
    scores = scores.masked_fill(keys > queries[:, None], float("-inf"))
    return torch.softmax(scores, dim=-1) @ v


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

FORWARD = {
    "plain": ("length = chunk_size - local_size", "length = 10**6"),
    "limit_c": ("limit = chunk_size - 1", "limit = chunk_size"),
    "keys_in_text": ("rotate(k, keys % length, base)", "rotate(k, keys, base)"),
    "far_own_place": ("far = torch.full_like(own, min(2 * length - 1, limit))", "far = nearby"),
    "far_not_limited": (
        "far = torch.full_like(own, min(2 * length - 1, limit))",
        "far = torch.full_like(own, 2 * length - 1)",
    ),
    "far_from_chunk": ("far = torch.full_like(own, min(2 * length - 1, limit))", "far = own"),
    "before_not_limited": ("(own + length).clamp(max=limit)", "own + length"),
    "before_not_moved": ("(own + length).clamp(max=limit)", "own"),
    "before_as_far": ("apart == 1, succ, inter", "apart == 1, inter, inter"),
    "before_causal": (
        "    scores = scores.masked_fill(",
        "    scores = scores.masked_fill((apart == 1) & (keys % length > "
        "own[:, None]), float('-inf'))\n"
        "    scores = scores.masked_fill(",
    ),
    "far_hidden": (
        "    scores = scores.masked_fill(",
        "    scores = scores.masked_fill(apart > 1, float('-inf'))\n"
        "    scores = scores.masked_fill(",
    ),
    "own_chunk_only": (
        "    scores = scores.masked_fill(",
        "    scores = scores.masked_fill(apart > 0, float('-inf'))\n"
        "    scores = scores.masked_fill(",
    ),
    "no_scale": (" / q.shape[-1] ** 0.5", ""),
    "scale_dh": ("q.shape[-1] ** 0.5", "q.shape[-1]"),
    "queries_not_turned": ("rotate(q, p, base) @", "rotate(q, 0 * p, base) @"),
    "keys_not_turned": ("turned = rotate(k, keys % length, base)", "turned = k"),
    "heads_tiled": (
        "    k = k.repeat_interleave(groups, dim=1)\n    v = v.repeat_interleave(groups, dim=1)\n",
        "    k = k.repeat(1, groups, 1, 1)\n    v = v.repeat(1, groups, 1, 1)\n",
    ),
    "interleaved": (
        "    angle = torch.cat((angle, angle), dim=-1)\n"
        "    one, two = x.chunk(2, dim=-1)\n"
        "    return x * angle.cos().to(x.dtype) + torch.cat((-two, one), "
        "dim=-1) * angle.sin().to(x.dtype)\n",
        "    angle = angle.repeat_interleave(2, dim=-1)\n"
        "    one, two = x[..., ::2], x[..., 1::2]\n"
        "    other = torch.stack((-two, one), dim=-1).flatten(-2)\n"
        "    return x * angle.cos().to(x.dtype) + other * angle.sin().to(x.dtype)\n",
    ),
}

BACKWARD = {
    "own_chunk_only": ("rotate(q, p, base)", "rotate(q if p is own else q.detach(), p, base)"),
    "last_place_only": ("rotate(q, p, base)", "rotate(q if p is far else q.detach(), p, base)"),
    "dk_own_chunk_only": ("@ turned.mT", "@ (turned if p is own else turned.detach()).mT"),
    "dk_far_only": ("@ turned.mT", "@ (turned if p is far else turned.detach()).mT"),
    "group_mean": (
        "    k = k.repeat_interleave(groups, dim=1)\n    v = v.repeat_interleave(groups, dim=1)\n",
        "    k, v = k.detach() + (k - k.detach()) / groups, v.detach() + (v "
        "- v.detach()) / groups\n"
        "    k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))\n",
    ),
}
