"""RoPE in PyTorch: a matrix of two rows and two columns for each pair and position."""

import torch


def forward(x, positions, base):
    width = x.shape[-1]
    half = width // 2
    step = torch.arange(half, dtype=torch.float64)
    theta = torch.pow(torch.tensor(float(base), dtype=torch.float64), -2 * step / width)
    angle = positions.double().unsqueeze(-1) * theta
    if positions.ndim == 2:
        angle = angle.unsqueeze(1)
    cos, sin = angle.cos(), angle.sin()
    turn = torch.stack((torch.stack((cos, -sin), -1), torch.stack((sin, cos), -1)), -2)
    pairs = torch.stack((x[..., :half], x[..., half:]), -1).double()
    turned = (turn @ pairs.unsqueeze(-1)).squeeze(-1)
    y = torch.cat((turned[..., 0], turned[..., 1]), -1)
    return y.to(x.dtype)


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

_STEP = "step = torch.arange(half, dtype=torch.float64)"
_THETA = "theta = torch.pow(torch.tensor(float(base), dtype=torch.float64), -2 * step / width)"
_ANGLE = "angle = positions.double().unsqueeze(-1) * theta"
_COS = "cos, sin = angle.cos(), angle.sin()"
_TURN = "turn = torch.stack((torch.stack((cos, -sin), -1), torch.stack((sin, cos), -1)), -2)"
_PAIRS = "pairs = torch.stack((x[..., :half], x[..., half:]), -1).double()"
_Y = "y = torch.cat((turned[..., 0], turned[..., 1]), -1)"
FORWARD = {
    "interleaved": (
        _PAIRS,
        "pairs = x.unflatten(-1, (half, 2)).double()",
        _Y,
        "y = turned.flatten(-2)",
    ),
    "pairs_in_halves_out": (_PAIRS, "pairs = x.unflatten(-1, (half, 2)).double()"),
    "halves_in_pairs_out": (_Y, "y = turned.flatten(-2)"),
    "table_for_pairs": (
        _Y,
        "cos, sin = (t.repeat_interleave(2, -1) for t in (cos, sin))\n"
        "    y = x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin",
    ),
    "rotation_for_pairs": (
        _Y,
        "cos, sin = torch.cat((cos, cos), -1), torch.cat((sin, sin), -1)\n"
        "    y = x * cos + torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2) * sin",
    ),
    "backwards": (_TURN, f"{_TURN}.mT"),
    "both_plus": (_TURN, _TURN.replace("-sin", "sin")),
    "both_minus": (_TURN, _TURN.replace("(sin, cos)", "(-sin, cos)")),
    "position_plus_one": (_ANGLE, "angle = (positions.double() + 1).unsqueeze(-1) * theta"),
    "positions_ignored": (_STEP, f"{_STEP}\n    positions = torch.arange(x.shape[2])"),
    "positions_of_first_row": (
        _STEP,
        f"{_STEP}\n    positions = positions[:1] if positions.ndim == 2 else positions",
    ),
    "turned_twice": (_TURN, f"{_TURN}\n    turn = turn @ turn"),
    "degrees": (_COS, "angle = angle / 180 * torch.pi\n    cos, sin = angle.cos(), angle.sin()"),
    "not_turned": (_Y, "y = x.clone()"),
    "sine_lost": (_TURN, f"sin = torch.zeros_like(cos)\n    {_TURN}"),
    "sine_cosine_swapped": (_COS, "sin, cos = angle.cos(), angle.sin()"),
    "first_half_only": (_Y, "y = torch.cat((turned[..., 0], x[..., half:]), -1)"),
    "added": (_Y, "y = x + torch.cat((sin, cos), -1)"),
    "exponent_half": (_THETA, _THETA.replace("-2 * step", "-step")),
    "exponent_double": (_THETA, _THETA.replace("-2 * step", "-4 * step")),
    "exponent_from_one": (_STEP, "step = torch.arange(1, half + 1, dtype=torch.float64)"),
    "exponent_to_one": (_THETA, _THETA.replace("-2 * step / width", "-step / (half - 1)")),
    "frequencies_grow": (_THETA, _THETA.replace("-2 * step", "2 * step")),
    "frequencies_reversed": (_THETA, f"{_THETA}.flip(0)"),
    "base_10000": (_THETA, _THETA.replace("base", "10000")),
    "base_1000000": (_THETA, _THETA.replace("base", "1000000")),
    "frequencies_bfloat16": (_ANGLE, f"theta = theta.bfloat16().double()\n    {_ANGLE}"),
    "frequencies_float16": (_ANGLE, f"theta = theta.half().double()\n    {_ANGLE}"),
    "angles_bfloat16": (_COS, f"angle = angle.bfloat16().double()\n    {_COS}"),
    "positions_bfloat16": (_ANGLE, "angle = positions.bfloat16().double().unsqueeze(-1) * theta"),
}
