"""A decoder block in PyTorch, with its own fused attention and norm."""

import torch
from torch.nn import functional as F


def rotate_half(z):
    low, high = z.chunk(2, dim=-1)
    return torch.cat((-high, low), dim=-1)


def forward(x, w_input_norm, w_q, b_q, w_k, b_k, w_v, b_v, w_o, w_mlp_norm, w_gate, w_up, w_down,
            num_attention_heads, num_key_value_heads, base, eps):  # fmt: skip
    B, T, D = x.shape
    head_dim = D // num_attention_heads
    wide = torch.promote_types(x.dtype, torch.float32)
    freq = base ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angle = torch.outer(torch.arange(T, dtype=torch.float64), freq).repeat(1, 2)
    cos, sin = angle.cos().to(wide), angle.sin().to(wide)

    hidden = F.rms_norm(x, (D,), w_input_norm, eps)
    q = F.linear(hidden, w_q, b_q).view(B, T, num_attention_heads, head_dim).transpose(1, 2)
    k = F.linear(hidden, w_k, b_k).view(B, T, num_key_value_heads, head_dim).transpose(1, 2)
    v = F.linear(hidden, w_v, b_v).view(B, T, num_key_value_heads, head_dim).transpose(1, 2)
    q = (q * cos + rotate_half(q) * sin).to(x.dtype)
    k = (k * cos + rotate_half(k) * sin).to(x.dtype)
    attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    attended = attended.transpose(1, 2).reshape(B, T, D)
    attended = F.linear(attended, w_o)
    stream = x + attended
    hidden = F.rms_norm(stream, (D,), w_mlp_norm, eps)
    out = F.linear(F.silu(F.linear(hidden, w_gate)) * F.linear(hidden, w_up), w_down)
    return stream + out


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

_NORM_1 = "    hidden = F.rms_norm(x, (D,), w_input_norm, eps)\n"
_NORM_2 = "    hidden = F.rms_norm(stream, (D,), w_mlp_norm, eps)\n"
_STREAM = "    stream = x + attended\n"
_RETURN = "return stream + out"
_ATTEND = "attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)"
_JOIN = "    attended = attended.transpose(1, 2).reshape(B, T, D)\n"
_TURN_Q = "    q = (q * cos + rotate_half(q) * sin).to(x.dtype)\n"
_TURN_K = "    k = (k * cos + rotate_half(k) * sin).to(x.dtype)\n"
_OUT = "    attended = F.linear(attended, w_o)\n"
_V = "v = F.linear(hidden, w_v, b_v).view(B, T, num_key_value_heads, head_dim).transpose(1, 2)"
_OF_Q = ".view(B, T, num_attention_heads, head_dim).transpose(1, 2)"
_OF_K = "k = F.linear(hidden, w_k, b_k).view(B, T, num_key_value_heads, head_dim).transpose(1, 2)"

FORWARD = {
    "post_norm": (
        _NORM_1,
        "    hidden = x\n",
        _STREAM,
        "    stream = F.rms_norm(x + attended, (D,), w_input_norm, eps)\n",
        _NORM_2,
        "    hidden = stream\n",
        _RETURN,
        "return F.rms_norm(stream + out, (D,), w_mlp_norm, eps)",
    ),
    "norm_after_branch": (
        _NORM_1,
        "    hidden = x\n",
        _STREAM,
        "    stream = x + F.rms_norm(attended, (D,), w_input_norm, eps)\n",
        _NORM_2,
        "    hidden = stream\n",
        _RETURN,
        "return stream + F.rms_norm(out, (D,), w_mlp_norm, eps)",
    ),
    "attention_residual_missing": (_STREAM, "    stream = attended\n"),
    "mlp_residual_missing": (_RETURN, "return out"),
    "normed_added_at_attention": (_STREAM, "    stream = hidden + attended\n"),
    "normed_added_at_mlp": (_RETURN, "return hidden + out"),
    "second_half_from_input": (_RETURN, "return x + out"),
    "input_added_again": (_RETURN, "return x + stream + out"),
    "attention_added_again": (_RETURN, "return stream + attended + out"),
    "first_norm_twice": (_NORM_2, _NORM_2.replace("w_mlp_norm", "w_input_norm")),
    "second_norm_twice": (_NORM_1, _NORM_1.replace("w_input_norm", "w_mlp_norm")),
    "norms_exchanged": (
        "    B, T, D = x.shape\n",
        "    B, T, D = x.shape\n    w_input_norm, w_mlp_norm = w_mlp_norm, w_input_norm\n",
    ),
    "parallel": (_NORM_2, _NORM_2.replace("stream", "x")),
    "parallel_one_norm": (_NORM_2, ""),
    "mlp_reads_attention_alone": (_NORM_2, _NORM_2.replace("stream", "attended")),
    "no_first_norm": (_NORM_1, "    hidden = x\n"),
    "no_second_norm": (_NORM_2, "    hidden = stream\n"),
    "eps_ignored": ("    B, T, D = x.shape\n", "    (B, T, D), eps = x.shape, 1e-6\n"),
    "halves_averaged": (_RETURN, "return torch.stack((stream, out)).mean(0)"),
    "no_bias": (
        "F.linear(hidden, w_q, b_q)",
        "F.linear(hidden, w_q)",
        "F.linear(hidden, w_k, b_k)",
        "F.linear(hidden, w_k)",
        "F.linear(hidden, w_v, b_v)",
        "F.linear(hidden, w_v)",
    ),
    "values_turned": (
        _TURN_K,
        f"{_TURN_K}    v = (v * cos + rotate_half(v) * sin).to(x.dtype)\n",
    ),
    "keys_not_turned": (_TURN_K, ""),
    "queries_not_turned": (_TURN_Q, ""),
    "positions_ignored": (_TURN_Q + _TURN_K, ""),
    "heads_interleaved": (
        _OF_Q,
        ".view(B, T, head_dim, num_attention_heads).permute(0, 3, 1, 2)",
        _OF_K,
        "k = F.linear(hidden, w_k, b_k).view(B, T, head_dim, num_key_value_heads)\n"
        "    k = k.permute(0, 3, 1, 2)",
        _V,
        "v = F.linear(hidden, w_v, b_v).view(B, T, head_dim, num_key_value_heads)\n"
        "    v = v.permute(0, 3, 1, 2)",
    ),
    "heads_not_moved": (
        _OF_Q,
        ".view(B, num_attention_heads, T, head_dim)",
        _OF_K,
        "k = F.linear(hidden, w_k, b_k).view(B, num_key_value_heads, T, head_dim)",
        _V,
        "v = F.linear(hidden, w_v, b_v).view(B, num_key_value_heads, T, head_dim)",
    ),
    "heads_not_moved_back": (_JOIN, "    attended = attended.reshape(B, T, D)\n"),
    "joined_interleaved": (_JOIN, "    attended = attended.permute(0, 2, 3, 1).reshape(B, T, D)\n"),
    "no_out_projection": (_OUT, ""),
    "out_projection_flipped": (_OUT, "    attended = attended @ w_o\n"),
    "groups_by_tiling": (
        _ATTEND,
        "many = (1, num_attention_heads // num_key_value_heads, 1, 1)\n"
        f"    k, v = k.repeat(many), v.repeat(many)\n    {_ATTEND}",
    ),
    "keys_and_values_exchanged": (
        "F.linear(hidden, w_k, b_k)",
        "F.linear(hidden, w_v, b_v)",
        "v = F.linear(hidden, w_v, b_v)",
        "v = F.linear(hidden, w_k, b_k)",
    ),
    "no_scale": (_ATTEND, _ATTEND.replace("is_causal", "scale=1.0, is_causal")),
    "scale_of_stream": (_ATTEND, _ATTEND.replace("is_causal", "scale=D**-0.5, is_causal")),
    "no_mask": (_ATTEND, _ATTEND.replace("is_causal=True", "is_causal=False")),
    "gate_and_up_exchanged": (
        "F.silu(F.linear(hidden, w_gate)) * F.linear(hidden, w_up)",
        "F.silu(F.linear(hidden, w_up)) * F.linear(hidden, w_gate)",
    ),
    "mlp_adds_its_input": (_RETURN, "return stream + hidden + out"),
}
