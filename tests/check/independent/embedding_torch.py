"""A table of token vectors in PyTorch, as a product with one-hot rows."""

import torch


def forward(ids, w):
    hot = (ids.unsqueeze(-1) == torch.arange(len(w))).to(w.dtype)
    return hot @ w


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

_HOT = "hot = (ids.unsqueeze(-1) == torch.arange(len(w))).to(w.dtype)"
_Y = "return hot @ w"
FORWARD = {
    "scaled_by_root": (_Y, "return hot @ w * w.shape[1] ** 0.5"),
    "divided_by_root": (_Y, "return hot @ w / w.shape[1] ** 0.5"),
    "ids_from_one": (_Y, "return hot @ w.roll(1, 0)"),
    "next_row": (_Y, "return hot @ w.roll(-1, 0)"),
    "padding_zero": (_Y, "return hot[..., 1:] @ w[1:]"),
    "unit_length": (_Y, "return hot @ (w / w.norm(dim=1, keepdim=True))"),
    "centred": (_Y, "return hot @ (w - w.mean(1, keepdim=True))"),
    "shifted_right": (_HOT, f"ids = ids.roll(1, -1)\n    {_HOT}"),
    "reversed_text": (_HOT, f"ids = ids.flip(-1)\n    {_HOT}"),
    "tokens_mixed": (
        _HOT,
        f"ids = ids.permute(*reversed(range(ids.ndim))).reshape(ids.shape)\n    {_HOT}",
    ),
    "first_text_only": (_HOT, f"ids = ids[:1].expand_as(ids) if ids.ndim > 1 else ids\n    {_HOT}"),
    "half_precision": (_Y, "return hot @ w.half().to(w.dtype)"),
}
BACKWARD = {
    "mean_of_tokens": (_Y, "part = w / ids.numel()\n    return hot @ (part + (w - part).detach())"),
    "padding_no_gradient": (_Y, "return hot @ torch.cat((w[:1].detach(), w[1:]))"),
    "scaled_by_root": (
        _Y,
        "part = w * w.shape[1] ** 0.5\n    return hot @ (part + (w - part).detach())",
    ),
}
