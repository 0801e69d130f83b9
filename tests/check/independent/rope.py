"""RoPE in NumPy with complex numbers: a pair is x_i + j x_(i + Dh/2), a turn is exp(j angle)."""

import numpy as np


def forward(x, positions, base):
    width = x.shape[-1]
    half = width // 2
    freq = np.array([base ** (-2.0 * i / width) for i in range(half)])
    angle = np.multiply.outer(positions, freq)
    angle = angle[:, None] if positions.ndim == 2 else angle
    turn = np.exp(1j * angle)
    wide = x.astype(np.float64)
    pairs = wide[..., :half] + 1j * wide[..., half:]
    turned = pairs * turn
    y = np.concatenate((turned.real, turned.imag), -1)
    return y.astype(x.dtype), turn


def backward(dy, turn):
    half = turn.shape[-1]
    pairs = dy[..., :half] + 1j * dy[..., half:]
    back = pairs * turn.conj()
    return (np.concatenate((back.real, back.imag), -1),)


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

_PAIRS = "pairs = wide[..., :half] + 1j * wide[..., half:]"
_NEIGHBOURS = "pairs = wide[..., ::2] + 1j * wide[..., 1::2]"
_Y = "y = np.concatenate((turned.real, turned.imag), -1)"
_WOVEN = "y = np.stack((turned.real, turned.imag), -1).reshape(x.shape)"
_TURN = "turn = np.exp(1j * angle)"
_TURNED = "turned = pairs * turn"
_ANGLE = "angle = np.multiply.outer(positions, freq)"
_FREQ = "freq = np.array([base ** (-2.0 * i / width) for i in range(half)])"


def _freq(value):
    return _FREQ, f"freq = np.array([{value} for i in range(half)])"


def _short(value):
    """Round to 8 bits, as bfloat16 has."""
    return (
        f"part, power = np.frexp({value})\n"
        "    short = np.ldexp(np.round(part * 256) / 256, power)\n    "
    )


FORWARD = {
    "interleaved": (_PAIRS, _NEIGHBOURS, _Y, _WOVEN),
    "pairs_in_halves_out": (_PAIRS, _NEIGHBOURS),
    "halves_in_pairs_out": (_Y, _WOVEN),
    "table_for_pairs": (
        _Y,
        "table = np.repeat(angle, 2, -1)\n"
        "    other = np.concatenate((-wide[..., half:], wide[..., :half]), -1)\n"
        "    y = wide * np.cos(table) + other * np.sin(table)",
    ),
    "rotation_for_pairs": (
        _Y,
        "other = np.empty_like(wide)\n"
        "    other[..., ::2], other[..., 1::2] = -wide[..., 1::2], wide[..., ::2]\n"
        "    table = np.concatenate((angle, angle), -1)\n"
        "    y = wide * np.cos(table) + other * np.sin(table)",
    ),
    "backwards": (_TURN, "turn = np.exp(-1j * angle)"),
    "both_plus": (
        _TURNED,
        "turned = pairs * turn.real + (pairs.imag + 1j * pairs.real) * turn.imag",
    ),
    "both_minus": (
        _TURNED,
        "turned = pairs * turn.real - (pairs.imag + 1j * pairs.real) * turn.imag",
    ),
    "position_plus_one": (_ANGLE, "angle = np.multiply.outer(1 + positions, freq)"),
    "positions_ignored": (_FREQ, f"positions = np.arange(x.shape[2])\n    {_FREQ}"),
    "positions_of_first_row": (
        _FREQ,
        f"positions = positions[0] if positions.ndim == 2 else positions\n    {_FREQ}",
    ),
    "turned_twice": (_TURNED, "turned = pairs * turn * turn"),
    "degrees": (_TURN, "turn = np.exp(1j * np.deg2rad(angle))"),
    "not_turned": (_TURNED, "turned = pairs"),
    "sine_lost": (_TURNED, "turned = pairs * turn.real"),
    "sine_cosine_swapped": (_TURN, "turn = np.sin(angle) + 1j * np.cos(angle)"),
    "first_half_only": (_Y, "y = np.concatenate((turned.real, wide[..., half:]), -1)"),
    "added": (_Y, "y = wide + np.concatenate((np.sin(angle), np.cos(angle)), -1)"),
    "exponent_half": _freq("base ** (-i / width)"),
    "exponent_double": _freq("base ** (-2.0 * i / half)"),
    "exponent_from_one": _freq("base ** (-2.0 * (i + 1) / width)"),
    "exponent_to_one": _freq("base ** (-i / (half - 1))"),
    "frequencies_grow": _freq("base ** (2.0 * i / width)"),
    "frequencies_reversed": _freq("base ** (-2.0 * (half - 1 - i) / width)"),
    "base_10000": _freq("10000 ** (-2.0 * i / width)"),
    "base_1000000": _freq("1000000 ** (-2.0 * i / width)"),
    "frequencies_bfloat16": (
        _ANGLE,
        f"{_short('freq')}angle = np.multiply.outer(positions, short)",
    ),
    "frequencies_float16": (
        _ANGLE,
        "angle = np.multiply.outer(positions, np.float16(freq).astype(float))",
    ),
    "angles_bfloat16": (_TURN, f"{_short('angle')}turn = np.exp(1j * short)"),
    "positions_bfloat16": (
        _ANGLE,
        f"{_short('positions.astype(float)')}angle = np.multiply.outer(short, freq)",
    ),
}

_BACK = "back = pairs * turn.conj()"
_DX = "return (np.concatenate((back.real, back.imag), -1),)"
BACKWARD = {
    "forwards_again": (_BACK, "back = pairs * turn"),
    "not_turned": (_BACK, "back = pairs"),
    "sine_lost": (_BACK, "back = pairs * turn.real"),
    "sine_cosine_swapped": (_BACK, "back = pairs * (turn.imag - 1j * turn.real)"),
    "slope_of_the_angle": (_BACK, "back = pairs * (1j * turn.real - turn.imag)"),
    "first_half_only": (_DX, "return (np.concatenate((back.real, dy[..., half:]), -1),)"),
    "rotation_for_pairs": (
        _DX,
        "other = np.empty_like(dy)\n"
        "    other[..., ::2], other[..., 1::2] = -dy[..., 1::2], dy[..., ::2]\n"
        "    table = np.concatenate((turn, turn), -1)\n"
        "    return (dy * table.real - other * table.imag,)",
    ),
    "dy_ignored": (_BACK, "back = (1 + 1j) * turn.conj() + 0 * pairs"),
}
