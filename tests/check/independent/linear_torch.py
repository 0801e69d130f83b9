"""A linear layer in PyTorch, with the bias as one more input that is always 1."""

import torch


def forward(x, w, b):
    if b is not None:
        x = torch.cat((x, torch.ones_like(x[..., :1])), -1)
        w = torch.cat((w, b[:, None]), 1)
    return torch.einsum("...i,oi->...o", x, w)


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

_ONES = "x = torch.cat((x, torch.ones_like(x[..., :1])), -1)"
_Y = 'return torch.einsum("...i,oi->...o", x, w)'
FORWARD = {
    "no_bias": ("if b is not None:", "if False:"),
    "bias_subtracted": (_ONES, _ONES.replace("torch.ones_like", "-torch.ones_like")),
    "bias_twice": (_ONES, _ONES.replace("torch.ones_like", "2 * torch.ones_like")),
    "relu": (_Y, _Y.replace("w)", "w).relu()")),
    "weight_not_transposed": (
        _Y,
        'return torch.einsum("...i,io->...o", x, w)',
        "w = torch.cat((w, b[:, None]), 1)",
        "w = torch.cat((w, b[None]), 0)",
    ),
    "weight_reshaped": (
        "if b is not None:",
        "w = w.reshape(w.shape[1], w.shape[0]).mT\n    if b is not None:",
    ),
    "input_reshaped": (
        "if b is not None:",
        "x = x.reshape(x.shape[-1], -1).mT.reshape(x.shape)\n    if b is not None:",
    ),
    "output_reshaped": (
        _Y,
        'return torch.einsum("ni,oi->on", x.reshape(-1, w.shape[1]), w).reshape('
        "*x.shape[:-1], len(w))",
    ),
}
BACKWARD = {
    "weight_gradient_mean": (
        "if b is not None:",
        "n = x.numel() // x.shape[-1]\n    w = w / n + (w - w / n).detach()\n    if b is not None:",
    ),
    "bias_gradient_mean": (
        "w = torch.cat((w, b[:, None]), 1)",
        "part = b * x.shape[-1] / x.numel()\n"
        "        w = torch.cat((w, (part + (b - part).detach())[:, None]), 1)",
    ),
    "input_gradient_doubled": (
        "if b is not None:",
        "x = 2 * x - x.detach()\n    if b is not None:",
    ),
}
