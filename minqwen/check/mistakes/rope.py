"""RoPE: how it is called, tried, and got wrong."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from ...backend import Array
from ..spec import Arguments, Mistake, Probe, Spec

BASE = 10000.0


def forward(m: ModuleType, a: Arguments) -> Any:
    """Turn x with a copy of layers/rope.py: y and the cache."""
    dtype = np.promote_types(a["x"].dtype, np.float32).name
    inv_freq = m.rope_inv_freq(a["x"].shape[-1], a["base"], dtype)
    return m.rope_forward(a["x"], *m.rope_tables(a["positions"], inv_freq))


def run(m: ModuleType, a: Arguments) -> tuple[Array, ...]:
    """Compute y with a copy of layers/rope.py."""
    return (forward(m, a)[0],)


def pull(m: ModuleType, a: Arguments, dy: tuple[Array, ...]) -> dict[str, Array]:
    """Compute the gradient of x with a copy of layers/rope.py."""
    return {"x": m.rope_backward(dy[0], forward(m, a)[1])}


def inputs(
    rng: np.random.Generator, B: int, H: int, Dh: int, positions: Array, base: float = BASE
) -> Arguments:
    """Return x of order 1 for these positions."""
    positions = np.asarray(positions)
    x = rng.standard_normal((B, H, positions.shape[-1], Dh))
    return {"x": x, "positions": positions, "base": base}


PROBES = (
    Probe(
        "ordinary",
        lambda rng: inputs(rng, 2, 3, 10, np.arange(7)),
        "seven tokens from position 0 on",
        hard=False,
    ),
    Probe(
        "later positions",
        lambda rng: inputs(rng, 2, 3, 14, np.arange(5) + 41),
        "new tokens after 41 that are in a cache",
    ),
    Probe(
        "positions per row",
        lambda rng: inputs(rng, 2, 5, 6, np.array([[0, 0, 0, 1, 2, 3, 4], np.arange(7) + 3])),
        "each row of the batch has positions of its own, as with padding on the left",
    ),
    Probe(
        "other base",
        lambda rng: inputs(rng, 2, 3, 10, np.array([0, 1, 5, 100, 300]), base=1e6),
        "base 1,000,000, as in Qwen2, and positions with gaps",
    ),
    Probe(
        "small base",
        lambda rng: inputs(rng, 1, 2, 8, np.array([3, 1, 2]), base=100.0),
        "base 100, and positions that are not in order",
    ),
    Probe(
        "long text",
        lambda rng: inputs(rng, 1, 2, 22, np.array([127, 255, 257, 383, 511])),
        "positions up to 511, where low precision shows",
    ),
    Probe(
        "square",
        lambda rng: inputs(rng, 4, 4, 4, np.arange(4)),
        "all sizes equal: axes can be mixed up",
    ),
    Probe(
        "one token",
        lambda rng: inputs(rng, 1, 1, 6, np.array([13])),
        "a single token, a single head",
    ),
)

_TURN = "y: Array = widen(x) * cos + rotate_half(widen(x)) * sin"
_EXPONENT = "np.arange(0, head_dim, 2, dtype=np.float64) / head_dim"
_FREQUENCY = "inv_freq: Array = (base**-exponent).astype(dtype)"
_ANGLES = "angles = positions[..., None].astype(inv_freq.dtype) * inv_freq  # (..., T, Dh/2)"
_TWICE = "angles = xp.concatenate((angles, angles), axis=-1)"
_ROTATED = "(-x[..., half:], x[..., :half])"
_BACK = "dx: Array = widen(dy) * cos - rotate_half(widen(dy)) * sin"
# to bfloat16 and back: the upper half of the bits of a float32, rounded to even
_BF16 = (
    "(((bits := ({}).astype('f4').view('u4')) + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).view('f4')"
)
_HALVES = "xp, half = array_module(x), Dh // 2\n    "
_PAIRED = "xp.concatenate((x[..., ::2], x[..., 1::2]), axis=-1)"
FORWARD = (
    Mistake(
        "interleaved",
        _TURN,
        f"{_HALVES}x_pairs = widen({_PAIRED})\n"
        "    turned = x_pairs * cos + rotate_half(x_pairs) * sin\n"
        "    y = xp.stack((turned[..., :half], turned[..., half:]), axis=-1).reshape(x.shape)",
        "pairs are (0, 1), (2, 3), ... as in the paper and in GPT-J; Qwen pairs i with i + Dh/2.",
        "Turn a vector with a single 1 in it: where does its second number appear?",
        "convention",
    ),
    Mistake(
        "pairs_in_halves_out",
        _TURN,
        f"{_HALVES}x_pairs = widen({_PAIRED})\n    y = x_pairs * cos + rotate_half(x_pairs) * sin",
        "pairs are read as (0, 1), (2, 3), ... and written as (i, i + Dh/2): features move.",
        "At position 0 nothing is turned: is the vector still in order there?",
    ),
    Mistake(
        "halves_in_pairs_out",
        _TURN,
        f"{_HALVES}turned = widen(x) * cos + rotate_half(widen(x)) * sin\n"
        "    y = xp.stack((turned[..., :half], turned[..., half:]), axis=-1).reshape(x.shape)",
        "pairs are read as (i, i + Dh/2) and written as (0, 1), (2, 3), ...: features move.",
        "At position 0 nothing is turned: is the vector still in order there?",
    ),
    Mistake(
        "table_for_pairs",
        _TWICE,
        "angles = xp.repeat(angles, 2, axis=-1)",
        "the table repeats each angle for neighbours (0, 1), but the rotation pairs halves.",
        "Both features of a pair need one angle, or the length of the vector changes.",
    ),
    Mistake(
        "rotation_for_pairs",
        _TURN,
        "xp = array_module(x)\n"
        "    turned = xp.stack((-widen(x)[..., 1::2], widen(x)[..., ::2]), axis=-1)\n"
        "    y = widen(x) * cos + turned.reshape(x.shape) * sin",
        "the rotation pairs neighbours (0, 1), but the table is made for halves.",
        "Both features of a pair need one angle, or the length of the vector changes.",
    ),
    Mistake(
        "backwards",
        _TURN,
        "y: Array = widen(x) * cos - rotate_half(widen(x)) * sin",
        "vectors are turned backwards; scores hide it, since queries and keys both do it.",
        "Turn (1, 0) at position 1: the second number must be positive.",
    ),
    Mistake(
        "both_plus",
        _ROTATED,
        "(x[..., half:], x[..., :half])",
        "there is a plus in both lines: that is not a rotation, vectors change their length.",
        "A rotation matrix has one minus sign: where?",
    ),
    Mistake(
        "both_minus",
        _ROTATED,
        "(-x[..., half:], -x[..., :half])",
        "there is a minus in both lines: that is not a rotation, vectors change their length.",
        "A rotation matrix has one minus sign: where?",
    ),
    Mistake(
        "position_plus_one",
        "positions[..., None].astype(inv_freq.dtype)",
        "(positions[..., None] + 1).astype(inv_freq.dtype)",
        "positions are counted from 1; scores hide it, since queries and keys both do it.",
        "The first token must stay as it is.",
    ),
    Mistake(
        "positions_ignored",
        "positions[..., None].astype(inv_freq.dtype)",
        "(0 * positions + xp.arange(positions.shape[-1]))[..., None].astype(inv_freq.dtype)",
        "the positions that were given are not used: 0, 1, 2, ... are taken for them.",
        "Try a single new token after a cache of 41: is it turned at all?",
    ),
    Mistake(
        "positions_of_first_row",
        "positions[..., None].astype(inv_freq.dtype)",
        "(0 * positions + positions.reshape(-1, positions.shape[-1])[0])[..., None]"
        ".astype(inv_freq.dtype)",
        "every row of the batch is turned by the positions of the first.",
        "Pad one row on the left: does it matter which row comes first?",
    ),
    Mistake(
        "turned_twice",
        _ANGLES,
        "angles = positions[..., None].astype(inv_freq.dtype) * inv_freq * 2",
        "every angle is doubled: the vectors are turned twice.",
        "Is a key that comes from the cache turned once more?",
    ),
    Mistake(
        "degrees",
        _ANGLES,
        "angles = positions[..., None].astype(inv_freq.dtype) * inv_freq * (np.pi / 180)",
        "angles are taken for degrees; cos and sin need radians.",
        "At position 1 the fastest pair turns by 1 rad, that is 57 degrees.",
    ),
    Mistake(
        "not_turned",
        _TURN,
        "y: Array = widen(x) + 0 * cos",
        "nothing is turned: x comes back as it was.",
        "Compare your result with x.",
    ),
    Mistake(
        "sine_lost",
        _TURN,
        "y: Array = widen(x) * cos + 0 * sin",
        "only the cosine part is there: the other feature of the pair is missing.",
        "Turn a vector with a single 1 in it: two numbers must come out.",
    ),
    Mistake(
        "sine_cosine_swapped",
        _TURN,
        "y: Array = widen(x) * sin + rotate_half(widen(x)) * cos",
        "cos and sin are exchanged.",
        "At position 0 nothing may change, and cos(0) = 1.",
    ),
    Mistake(
        "first_half_only",
        _TURN,
        "y = array_module(x).where(np.arange(Dh) < Dh // 2, "
        "widen(x) * cos + rotate_half(widen(x)) * sin, x)",
        "only the first half of the features is turned; the second comes back as it was.",
        "The rotation of a pair changes both numbers: look at the second half.",
    ),
    Mistake(
        "added",
        _TURN,
        "y = widen(x) + array_module(x).where(np.arange(Dh) < Dh // 2, sin, cos)",
        "sines and cosines are added to the vectors, as in the first Transformer.",
        "Double x: a rotation gives twice the result.",
    ),
    Mistake(
        "exponent_half",
        _EXPONENT,
        "np.arange(head_dim // 2, dtype=np.float64) / head_dim",
        "the factor 2 is missing in the exponent -2i/Dh: frequencies fall too slowly.",
        "Dh/2 frequencies share the way from 1 to almost 1/base: how far does yours get?",
    ),
    Mistake(
        "exponent_double",
        _EXPONENT,
        "np.arange(0, head_dim, 2, dtype=np.float64) / (head_dim // 2)",
        "the exponent is -4i/Dh: it is divided by half the width, and frequencies fall too fast.",
        "Dh/2 frequencies share the way from 1 to almost 1/base: how far does yours get?",
    ),
    Mistake(
        "exponent_from_one",
        _EXPONENT,
        "np.arange(2, head_dim + 2, 2, dtype=np.float64) / head_dim",
        "the exponents start one step late: the first frequency must be 1.",
        "Print the list of frequencies: what is the first?",
    ),
    Mistake(
        "exponent_to_one",
        _EXPONENT,
        "np.linspace(0, 1, head_dim // 2)",
        "the frequencies end at 1/base itself, as in tensor2tensor; they must stop just before it.",
        "Print the list of frequencies: what is the last?",
        "convention",
    ),
    Mistake(
        "frequencies_grow",
        _FREQUENCY,
        "inv_freq: Array = (base**exponent).astype(dtype)",
        "the sign of the exponent is missing: frequencies grow; they must fall from 1.",
        "Print the list of frequencies: which pair must turn slowest?",
    ),
    Mistake(
        "frequencies_reversed",
        _FREQUENCY,
        "inv_freq: Array = (base**-exponent).astype(dtype)[::-1]",
        "the slowest frequency stands first; the first pair must turn fastest.",
        "Print the list of frequencies: what is the first?",
    ),
    Mistake(
        "base_10000",
        _FREQUENCY,
        "inv_freq: Array = (10000.0**-exponent).astype(dtype)",
        "the base is 10000, whatever is given.",
        "Which numbers depend on the argument base?",
        "convention",
    ),
    Mistake(
        "base_1000000",
        _FREQUENCY,
        "inv_freq: Array = (1e6**-exponent).astype(dtype)",
        "the base is 1,000,000, as in Qwen2, whatever is given.",
        "Which numbers depend on the argument base?",
        "convention",
    ),
    Mistake(
        "frequencies_bfloat16",
        _FREQUENCY,
        f"inv_freq: Array = {_BF16.format('base**-exponent')}.astype(dtype)",
        "the frequencies were rounded to bfloat16: the error of an angle grows with the position.",
        "Keep the frequencies out of what is cast to half precision with the model.",
        "numeric",
    ),
    Mistake(
        "frequencies_float16",
        _FREQUENCY,
        "inv_freq: Array = (base**-exponent).astype('float16').astype(dtype)",
        "the frequencies were rounded to float16: the error of an angle grows with the position.",
        "Keep the frequencies out of what is cast to half precision with the model.",
        "numeric",
    ),
    Mistake(
        "angles_bfloat16",
        _ANGLES,
        f"angles = {_BF16.format('positions[..., None] * inv_freq')}.astype(inv_freq.dtype)",
        "the angles were rounded to bfloat16, which keeps three digits of them.",
        "In which dtype is position times frequency?",
        "numeric",
    ),
    Mistake(
        "positions_bfloat16",
        "positions[..., None].astype(inv_freq.dtype)",
        f"{_BF16.format('positions[..., None]')}.astype(inv_freq.dtype)",
        "the positions were rounded to bfloat16, which has no whole numbers between 256 and 258.",
        "Are the tokens at positions 256 and 257 turned alike?",
        "numeric",
    ),
)
BACKWARD = (
    Mistake(
        "forwards_again",
        _BACK,
        "dx: Array = widen(dy) * cos + rotate_half(widen(dy)) * sin",
        "the gradient is turned forwards; it must be turned back.",
        "The transpose of a rotation turns by the negative angle.",
    ),
    Mistake(
        "not_turned",
        _BACK,
        "dx: Array = widen(dy) + 0 * cos",
        "the gradient comes back as it came; it must be turned too.",
        "dx must depend on the position.",
    ),
    Mistake(
        "sine_lost",
        _BACK,
        "dx: Array = widen(dy) * cos",
        "only the cosine part is there: each input of a pair acts on both outputs.",
        "Give a dy with a single 1 in it: two numbers must come out.",
    ),
    Mistake(
        "sine_cosine_swapped",
        _BACK,
        "dx: Array = widen(dy) * sin - rotate_half(widen(dy)) * cos",
        "cos and sin are exchanged.",
        "At position 0 dx is dy.",
    ),
    Mistake(
        "slope_of_the_angle",
        _BACK,
        "dx: Array = rotate_half(widen(dy)) * cos - widen(dy) * sin",
        "cos and sin are differentiated; they are constants, x is what counts.",
        "By which quantity is the derivative taken?",
    ),
    Mistake(
        "first_half_only",
        _BACK,
        "dx: Array = array_module(dy).where(np.arange(dy.shape[-1]) < dy.shape[-1] // 2, "
        "widen(dy) * cos - rotate_half(widen(dy)) * sin, dy)",
        "only the first half of the gradient is turned back.",
        "Look at the two halves of dx one by one.",
    ),
    Mistake(
        "rotation_for_pairs",
        _BACK,
        "xp = array_module(dy)\n"
        "    turned = xp.stack((-widen(dy)[..., 1::2], widen(dy)[..., ::2]), axis=-1)\n"
        "    dx: Array = widen(dy) * cos - turned.reshape(dy.shape) * sin",
        "the gradient is turned in pairs of neighbours, the forward pass in pairs of halves.",
        "Give a dy with a single 1 in it: where does the second number appear?",
    ),
    Mistake(
        "dy_ignored",
        _BACK,
        "dx: Array = (0 * widen(dy) + 1) * cos - rotate_half(0 * widen(dy) + 1) * sin",
        "the incoming gradient is not used: ones are taken for it.",
        "Double dy: dx must double.",
    ),
)

SPEC = Spec(
    name="rope",
    module="minqwen.layers.rope",
    arguments=("x", "positions", "base"),
    axes={"x": "B H T Dh", "positions": "T", "y": "B H T Dh"},
    run=run,
    pull=pull,
    probes=PROBES,
    forward=FORWARD,
    backward=BACKWARD,
    depth=16,  # an angle is 511 times a frequency that is itself rounded
    notes="positions are (T,), or (B, T) where each row has its own; every head is turned alike.",
    defaults={"base": BASE},
)
