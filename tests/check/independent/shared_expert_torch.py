"""The shared expert of Qwen2-MoE in PyTorch: sigmoid(x g) times a SwiGLU network."""

import torch
from torch.nn import functional as F


def forward(x, w_gate, w_up, w_down, w_shared_gate):
    logit = F.linear(x, w_shared_gate)
    gate = torch.sigmoid(logit)
    branch = F.silu(F.linear(x, w_gate))
    other = F.linear(x, w_up)
    output = F.linear(branch * other, w_down)
    return gate * output


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

FORWARD = {
    "no_gate": ("return gate * output", "return output"),
    "gate_per_feature": ("logit = F.linear(x, w_shared_gate)", "logit = x * w_shared_gate"),
    "no_sigmoid": ("gate = torch.sigmoid(logit)", "gate = logit"),
    "silu_gate": ("gate = torch.sigmoid(logit)", "gate = F.silu(logit)"),
    "tanh_gate": ("gate = torch.sigmoid(logit)", "gate = torch.tanh(logit)"),
    "relu_gate": ("gate = torch.sigmoid(logit)", "gate = F.relu(logit)"),
    "shut_for_open": ("gate = torch.sigmoid(logit)", "gate = 1 - torch.sigmoid(logit)"),
    "one_gate_for_all": ("torch.sigmoid(logit)", "torch.sigmoid(logit).mean()"),
    "gate_of_mean": ("torch.sigmoid(logit)", "torch.sigmoid(logit.mean())"),
    "gate_twice": ("return gate * output", "return gate * (gate * output)"),
    "gate_before": ("    branch =", "    x, gate = gate * x, torch.ones_like(gate)\n    branch ="),
    "gate_added": ("return gate * output", "return gate + output"),
    "gate_of_output": (
        "return gate * output",
        "return torch.sigmoid(F.linear(output, w_shared_gate)) * output",
    ),
    "weight_not_transposed": (
        "F.silu(F.linear(x, w_gate))",
        "F.silu(x @ w_gate)",
        "F.linear(x, w_up)",
        "x @ w_up",
        "F.linear(branch * other, w_down)",
        "(branch * other) @ w_down",
    ),
    "branches_swapped": (
        "    branch = F.silu(F.linear(x, w_gate))\n    other = F.linear(x, w_up)\n",
        "    branch = F.linear(x, w_gate)\n    other = F.silu(F.linear(x, w_up))\n",
    ),
    "sigmoid_for_silu": ("F.silu(F.linear(x, w_gate))", "torch.sigmoid(F.linear(x, w_gate))"),
    "no_up": ("branch * other", "branch"),
    "sigmoid_overflows": ("torch.sigmoid(logit)", "torch.exp(logit) / (1 + torch.exp(logit))"),
    "residual": ("return gate * output", "return x + gate * output"),
}

BACKWARD = {
    "gate_path_lost": ("F.linear(x, w_shared_gate)", "F.linear(x.detach(), w_shared_gate)"),
    "network_path_lost": ("    branch =", "    x = x.detach()\n    branch ="),
    "slope_forgotten": (
        "gate = torch.sigmoid(logit)",
        "gate = torch.sigmoid(logit).detach() + logit - logit.detach()",
    ),
    "gate_forgotten": (
        "return gate * output",
        "return gate * output.detach() + output - output.detach()",
    ),
    "output_forgotten": (
        "return gate * output",
        "return gate.detach() * output + (gate - gate.detach())",
    ),
    "gated_output": (
        "return gate * output",
        "return gate.detach() * (output + output.detach() * (gate - gate.detach()))",
    ),
    "token_mean": (
        "F.linear(x, w_shared_gate)",
        "F.linear(x, w_shared_gate.detach() + (w_shared_gate - "
        "w_shared_gate.detach()) / (x.numel() // x.shape[-1]))",
    ),
    "half_slope": (
        "gate = torch.sigmoid(logit)",
        "gate = torch.sigmoid(logit)\n    gate = gate.detach() * (1 + logit - logit.detach())",
    ),
}
