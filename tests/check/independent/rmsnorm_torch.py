"""RMSNorm in PyTorch, as in LLaMA's published code: rsqrt of the mean square."""

import torch


def forward(x, w, eps):
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    variance = wide.pow(2).mean(-1, keepdim=True)
    factor = torch.rsqrt(variance + eps)
    y = w * (wide * factor)
    return y.to(x.dtype)


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

_VARIANCE = "variance = wide.pow(2).mean(-1, keepdim=True)"
_FACTOR = "factor = torch.rsqrt(variance + eps)"
_Y = "y = w * (wide * factor)"
FORWARD = {
    "eps_outside": (_FACTOR, "factor = 1 / (variance.sqrt() + eps)"),
    "no_eps": (_FACTOR, "factor = torch.rsqrt(variance)"),
    "eps_1e-5": (_FACTOR, "factor = torch.rsqrt(variance + 1e-5)"),
    "eps_1e-8": (_FACTOR, "factor = torch.rsqrt(variance + 1e-8)"),
    "eps_as_floor": (_FACTOR, "factor = torch.rsqrt(variance.clamp(min=eps))"),
    "sum_for_mean": (_VARIANCE, "variance = wide.norm(dim=-1, keepdim=True) ** 2"),
    "centred": (_VARIANCE, f"wide = wide - wide.mean(-1, keepdim=True)\n    {_VARIANCE}"),
    "no_root": (_FACTOR, "factor = 1 / (variance + eps)"),
    "no_gain": (_Y, "y = wide * factor"),
    "gain_plus_one": (_Y, "y = wide * factor\n    y = y + y * w"),
    "gain_inside": (_Y, "y = wide * factor / w"),
    "one_rms_for_all": (_VARIANCE, "variance = wide.pow(2).mean()"),
    "over_tokens": (_VARIANCE, "variance = wide.pow(2).mean(-2, keepdim=True)"),
    "absolute_mean": (_VARIANCE, "variance = wide.abs().mean(-1, keepdim=True).square()"),
    "d_minus_one": (_VARIANCE, f"{_VARIANCE} * len(w) / (len(w) - 1)"),
}
BACKWARD = {
    "rms_constant": (_FACTOR, f"{_FACTOR}.detach()"),
    "gain_gradient_mean": (
        _Y,
        "part = w * len(w) / x.numel()\n    y = (part + (w - part).detach()) * (wide * factor)",
    ),
}
