# Rotary embedding as people post it for GPT-J and RoFormer: even and odd features form the pairs.
import torch


def rotate_every_two(x):
    x1 = x[..., ::2]
    x2 = x[..., 1::2]
    x = torch.stack((-x2, x1), dim=-1)
    return x.flatten(-2)


def fixed_pos_embedding(positions, dim, base):
    inv_freq = 1.0 / (base ** (torch.arange(0, dim, 2, dtype=torch.float64) / dim))
    sinusoid = positions.unsqueeze(-1).double() * inv_freq
    return torch.sin(sinusoid), torch.cos(sinusoid)


def apply_rotary(x, positions, base=10000.0):
    sin, cos = fixed_pos_embedding(positions, x.shape[-1], base)
    sin, cos = (t.repeat_interleave(2, dim=-1) for t in (sin, cos))
    if positions.dim() == 2:  # one row of positions for each text
        sin, cos = sin[:, None], cos[:, None]
    return ((x * cos) + (rotate_every_two(x) * sin)).to(x.dtype)
