"""LogN scaling in PyTorch, as Qwen-7B's model file has it: a list of factors, and a product."""

import math

import torch


def forward(q, positions, train_length):
    length = positions.to(torch.float64) + 1
    factor = torch.log(length) / math.log(train_length)
    factor = factor.clamp(min=1)
    return q * factor.to(q.dtype)[:, None]


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

FORWARD = {
    "position_for_length": (
        "length = positions.to(torch.float64) + 1",
        "length = positions.double()",
    ),
    "one_too_many": ("(torch.float64) + 1", "(torch.float64) + 2"),
    "no_lower_limit": ("    factor = factor.clamp(min=1)\n", ""),
    "length_of_text": (
        "positions.to(torch.float64)",
        "positions.max().to(torch.float64).expand(len(positions))",
    ),
    "index_for_position": (
        "positions.to(torch.float64)",
        "torch.arange(len(positions), dtype=torch.float64)",
    ),
    "log_of_ratio": (
        "factor = torch.log(length) / math.log(train_length)",
        "factor = torch.log(length / train_length)",
    ),
    "log_of_ratio_plus_one": (
        "factor = torch.log(length) / math.log(train_length)",
        "factor = torch.log(length / train_length) + 1",
    ),
    "mixed_bases": (
        "factor = torch.log(length) / math.log(train_length)",
        "factor = 1 + torch.log(length / train_length) / math.log2(train_length)",
    ),
    "base_512": (
        "factor = torch.log(length) / math.log(train_length)",
        "factor = torch.log(length) / math.log(512)",
    ),
    "no_logarithm": (
        "factor = torch.log(length) / math.log(train_length)",
        "factor = length / train_length",
    ),
    "root": (
        "factor = torch.log(length) / math.log(train_length)",
        "factor = torch.log(length) / math.log(train_length)\n    factor = factor.sqrt()",
    ),
    "squared": ("q * factor.to(q.dtype)[:, None]", "q * factor.to(q.dtype)[:, None] ** 2"),
    "divided": ("q * factor.to(q.dtype)[:, None]", "q / factor.to(q.dtype)[:, None]"),
    "added": ("q * factor.to(q.dtype)[:, None]", "q + factor.to(q.dtype)[:, None]"),
    "ignored": (
        "q * factor.to(q.dtype)[:, None]",
        "q * torch.ones_like(factor).to(q.dtype)[:, None]",
    ),
}

BACKWARD = {
    "forgotten": (
        "return q * factor.to(q.dtype)[:, None]",
        "y = q * factor.to(q.dtype)[:, None]\n    return y.detach() + q - q.detach()",
    ),
    "divided": (
        "return q * factor.to(q.dtype)[:, None]",
        "y = q * factor.to(q.dtype)[:, None]\n"
        "    return y.detach() + (q - q.detach()) / factor.to(q.dtype)[:, None]",
    ),
    "squared": (
        "return q * factor.to(q.dtype)[:, None]",
        "y = q * factor.to(q.dtype)[:, None]\n"
        "    return y.detach() + (q - q.detach()) * factor.to(q.dtype)[:, "
        "None] ** 2",
    ),
    "last_for_all": (
        "return q * factor.to(q.dtype)[:, None]",
        "y = q * factor.to(q.dtype)[:, None]\n"
        "    return y.detach() + (q - q.detach()) * factor.to(q.dtype)[-1]",
    ),
}
