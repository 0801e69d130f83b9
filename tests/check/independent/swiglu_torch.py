"""SwiGLU in PyTorch, with gate and up in one matrix."""

import torch


def silu(z):
    return z * torch.sigmoid(z)


def forward(x, w_gate, w_up, w_down):
    joined = torch.cat((w_gate, w_up))
    both = x @ joined.mT
    gate, up = both.chunk(2, -1)
    h = silu(gate) * up
    return h @ w_down.mT


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

_H = "h = silu(gate) * up"
_SILU = "return z * torch.sigmoid(z)"
_CHUNK = "gate, up = both.chunk(2, -1)"
_Y = "return h @ w_down.mT"
FORWARD = {
    "branches_swapped": (_CHUNK, "up, gate = both.chunk(2, -1)"),
    "weight_not_transposed": (
        "joined = torch.cat((w_gate, w_up))\n    both = x @ joined.mT\n"
        "    gate, up = both.chunk(2, -1)\n",
        "gate, up = x @ w_gate, x @ w_up\n",
        _Y,
        "return h @ w_down",
    ),
    "llama_order": ("joined = torch", "w_up, w_down = w_down, w_up\n    joined = torch"),
    "halves_interleaved": (_CHUNK, "gate, up = both[..., ::2], both[..., 1::2]"),
    "sigmoid_for_silu": (_SILU, "return torch.sigmoid(z)"),
    "relu": (_SILU, "return torch.relu(z)"),
    "relu_squared": (_SILU, "return torch.relu(z).square()"),
    "gelu": (_SILU, "return torch.nn.functional.gelu(z)"),
    "gelu_by_tanh": (_SILU, 'return torch.nn.functional.gelu(z, approximate="tanh")'),
    "quick_gelu": (_SILU, "return z * torch.sigmoid(1.702 * z)"),
    "tanh_gate": (_SILU, "return z * torch.tanh(z)"),
    "tanh": (_SILU, "return torch.tanh(z)"),
    "mish": (_SILU, "return torch.nn.functional.mish(z)"),
    "hard_swish": (_SILU, "return torch.nn.functional.hardswish(z)"),
    "sign_in_sigmoid": (_SILU, "return z * torch.sigmoid(-z)"),
    "silu_twice": (_H, "h = silu(silu(gate)) * up"),
    "no_activation": (_H, "h = gate * up"),
    "no_up": (_H, "h = silu(gate)"),
    "no_gate": (_H, "h = silu(up)"),
    "added": (_H, "h = silu(gate) + up"),
    "activation_on_both": (_H, "h = silu(gate) * silu(up)"),
    "activation_after": (_H, "h = silu(gate * up)"),
    "down_reshaped": (_Y, "return h @ w_down.reshape(w_down.shape[1], w_down.shape[0])"),
    "residual_added": (_Y, "return x + h @ w_down.mT"),
    "sigmoid_overflows": (_SILU, "return z * (z.exp() / (z.exp() + 1))"),
    "clamped": (_H, "h = silu(gate.clamp(max=7)) * up"),
}
BACKWARD = {
    "slope_without_second_term": (_SILU, "return z * torch.sigmoid(z).detach()"),
    "slope_of_sigmoid": (
        _SILU,
        "s = torch.sigmoid(z)\n    return (z * s).detach() + (s - s.detach())",
    ),
    "slope_lost": (_SILU, "return (z * torch.sigmoid(z)).detach() + (z - z.detach())"),
    "up_not_multiplied": (_H, "a = silu(gate)\n    h = a.detach() * up + (a - a.detach())"),
    "no_up_path": (
        "both = x @ joined.mT",
        "both = torch.cat((x @ w_gate.mT, x.detach() @ w_up.mT), -1)",
    ),
    "no_gate_path": (
        "both = x @ joined.mT",
        "both = torch.cat((x.detach() @ w_gate.mT, x @ w_up.mT), -1)",
    ),
}
