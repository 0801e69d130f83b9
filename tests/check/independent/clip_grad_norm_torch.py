"""Clipping by the norm of all gradients in PyTorch: the norm of the norms."""

import torch


def forward(grads, max_norm):
    norms = torch.stack([torch.linalg.vector_norm(g.double()) for g in grads])
    norm = torch.linalg.vector_norm(norms)
    factor = max_norm / (norm + 1e-6)
    factor = factor.clamp(max=1)
    return tuple((g * factor).to(g.dtype) for g in grads)


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

_NORM = "norm = torch.linalg.vector_norm(norms)"
_FACTOR = "factor = max_norm / (norm + 1e-6)"
_CLAMP = "factor = factor.clamp(max=1)"
_CLIP = "return tuple((g * factor).to(g.dtype) for g in grads)"
FORWARD = {
    "norm_of_each": (
        _CLIP,
        "each = (max_norm / (norms + 1e-6)).clamp(max=1)\n"
        "    return tuple(g * one for g, one in zip(grads, each, strict=True))",
    ),
    "entries_clipped": (_CLIP, "return tuple(g.clamp(-max_norm, max_norm) for g in grads)"),
    "always_scaled": (_CLAMP, ""),
    "no_root": (_NORM, "norm = norms.square().sum()"),
    "sum_of_absolute_values": (_NORM, "norm = sum(g.abs().sum() for g in grads)"),
    "largest_entry": (_NORM, "norm = torch.stack([g.abs().max() for g in grads]).max()"),
    "mean_of_squares": (
        _NORM,
        "norm = torch.cat([g.flatten() for g in grads]).square().mean().sqrt()",
    ),
    "sum_of_norms": (_NORM, "norm = norms.sum()"),
    "largest_norm": (_NORM, "norm = norms.max()"),
    "last_norm": (_NORM, "norm = norms[-1]"),
    "limit_1": (_FACTOR, "factor = 1 / (norm + 1e-6)"),
    "upside_down": (_FACTOR, "factor = norm / max_norm"),
    "scaled_twice": (_CLIP, "return tuple(g * factor * factor for g in grads)"),
    "no_1e-6": (_FACTOR, "factor = max_norm / norm if norm > 0 else torch.ones_like(norm)"),
    "root_of_factor": (_CLAMP, f"{_CLAMP}.sqrt()"),
    "longest_only": (
        _CLIP,
        "return tuple(\n"
        "        g * factor if n > max_norm else g.clone()\n"
        "        for g, n in zip(grads, norms, strict=True)\n"
        "    )",
    ),
}
