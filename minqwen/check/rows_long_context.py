"""The rows of long_context/: for each concept its functions and small inputs; see concepts.py."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import Array, array_module
from ..layers.attention import attention_backward, attention_forward
from ..layers.rope import rope_backward, rope_forward, rope_inv_freq, rope_tables
from ..long_context.dual_chunk import (
    dual_chunk_attention_backward,
    dual_chunk_attention_forward,
    dual_chunk_tables,
)
from ..long_context.logn import logn_backward, logn_forward, logn_scale
from ..long_context.ntk import dynamic_ntk_alpha, ntk_inv_freq
from ..long_context.window import window_mask
from ..long_context.yarn import yarn_attention_factor, yarn_inv_freq, yarn_tables
from .concept_row import Concept, normal


def _ntk(x: Array, positions: Array, train_length: int) -> tuple[Array, Any]:
    """Run RoPE with the frequencies that Qwen takes for a text of T tokens."""
    xp, dtype = array_module(x), np.promote_types(x.dtype, "f4").name
    alpha = dynamic_ntk_alpha(x.shape[2], train_length)
    inv_freq = xp.asarray(ntk_inv_freq(x.shape[-1], 100.0, alpha, dtype))
    return rope_forward(x, *rope_tables(positions, inv_freq))


def _yarn(x: Array, positions: Array, truncate: bool) -> tuple[Array, Any]:
    """Run RoPE with YaRN's tables, for the factor 4; some pairs stay, some lie on the ramp."""
    xp, dtype = array_module(x), np.promote_types(x.dtype, "f4").name
    inv_freq = yarn_inv_freq(x.shape[-1], 100.0, 4.0, 128, 8.0, 1.0, truncate, dtype)
    tables = yarn_tables(positions, xp.asarray(inv_freq), yarn_attention_factor(4.0))
    return rope_forward(x, *tables)


def _logn(q: Array, positions: Array) -> tuple[Array, Any]:
    """Scale queries of a model that was trained on 3 tokens."""
    return logn_forward(q, logn_scale(positions, 3, np.promote_types(q.dtype, "f4").name))


def _window(q: Array, k: Array, v: Array, window: int) -> tuple[Array, Any]:
    """Run plain attention within the window."""
    return attention_forward(q, k, v, window_mask(q.shape[2], k.shape[2], window, like=q))


def _dual_chunk(
    q: Array,
    k: Array,
    v: Array,
    positions: tuple[Any, ...],
    highest: int | None,
    real: Array | None,
) -> tuple[Array, Any]:
    """Turn the keys, then run dual chunk attention with chunks of 3 tokens: c = 5 and w = 2."""
    xp, dtype, T = array_module(q), np.promote_types(q.dtype, "f4").name, q.shape[2]
    inv_freq = xp.asarray(rope_inv_freq(q.shape[-1], 100.0, dtype))
    at = np.asarray(positions)  # on the host, as the model has them
    all_keys = dual_chunk_tables(at, at, inv_freq, 5, 2, highest).key
    tables = dual_chunk_tables(at[..., -T:], at, inv_freq, 5, 2, highest)
    k, k_rope = rope_forward(k, *all_keys)
    out, cache = dual_chunk_attention_forward(q, k, v, tables, real, block=4)
    return out, (cache, k_rope)


def _dual_chunk_backward(dout: Array, cache: Any) -> tuple[Array, Array, Array]:
    """Go back through the attention, then turn the gradient of the keys back."""
    dq, dk, dv = dual_chunk_attention_backward(dout, cache[0])
    return dq, rope_backward(dk, cache[1]), dv


def _padded() -> tuple[tuple[tuple[int, ...], ...], Array]:
    """Return positions and real for 11 tokens: 2 of padding on the left, or 1 on the right."""
    real = np.ones((2, 11), dtype=bool)
    real[0, :2] = real[1, 10:] = False
    positions = np.maximum(np.cumsum(real, axis=1) - 1, 0)
    return tuple(tuple(row) for row in positions.tolist()), real


EXTENSION = "Qwen 2.3.2 Context Length Extension"

LONG_CONTEXT_ROWS: tuple[Concept, ...] = (
    Concept(
        "ntk",
        "minqwen.long_context.ntk",
        _ntk,
        rope_backward,
        {
            "alpha 3": lambda rng: (*normal((2, 3, 5, 10))(rng), np.arange(5) + 7, 3),
            "alpha 7, positions per row": lambda rng: (
                *normal((2, 3, 5, 10))(rng),
                np.array([[0, 0, 1, 2, 3], [11, 3, 2, 5, 100]]),
                2,
            ),
        },
        ("x",),
        f"{EXTENSION}, NTK-aware interpolation",
        "f_i = (base alpha^(Dh / (Dh - 2)))^(-2i / Dh)",
        pair="rope",
    ),
    Concept(
        "yarn",
        "minqwen.long_context.yarn",
        _yarn,
        rope_backward,
        {
            "low and high rounded": lambda rng: (
                *normal((2, 3, 5, 10))(rng),
                np.arange(5) + 7,
                True,
            ),
            "not rounded, positions per row": lambda rng: (
                *normal((2, 3, 5, 10))(rng),
                np.array([[0, 0, 1, 2, 3], [11, 3, 2, 5, 100]]),
                False,
            ),
        },
        ("x",),
        "Qwen2 Long-context Training, YaRN",
        "f_i' = f_i (1 - r_i) + f_i r_i / s, y = (0.1 ln s + 1) rope(x)",
        pair="rope",
    ),
    Concept(
        "logn",
        "minqwen.long_context.logn",
        _logn,
        logn_backward,
        {
            "one row of positions": lambda rng: (*normal((2, 3, 5, 7))(rng), np.arange(5) + 1),
            "positions per row": lambda rng: (
                *normal((2, 3, 5, 7))(rng),
                np.array([[0, 0, 1, 2, 3], [11, 3, 2, 5, 100]]),
            ),
        },
        ("q",),
        f"{EXTENSION}, LogN-Scaling",
        "q' = max(1, ln(p + 1) / ln L0) q",
    ),
    Concept(
        "window",
        "minqwen.long_context.window",
        _window,
        attention_backward,
        {
            "3 of 7": lambda rng: (*normal(*((2, 3, 7, 5),) * 3)(rng), 3),
            "GQA, S > T": lambda rng: (
                *normal((2, 6, 5, 3), (2, 2, 7, 3), (2, 2, 7, 3))(rng),
                2,
            ),
        },
        ("q", "k", "v"),
        f"{EXTENSION}, window attention",
        "query i sees key j where i - W < j <= i",
        pair="attention",
    ),
    Concept(
        "dual_chunk_attention",
        "minqwen.long_context.dual_chunk",
        _dual_chunk,
        _dual_chunk_backward,
        {
            "MHA, four chunks": lambda rng: (
                *normal(*((2, 3, 11, 4),) * 3)(rng),
                tuple(range(11)),
                None,
                None,
            ),
            "GQA, S > T, released code": lambda rng: (
                *normal((2, 6, 5, 4), *((2, 3, 11, 4),) * 2)(rng),
                tuple(range(11)),
                5,
                None,
            ),
            "GQA, S > T, padding": lambda rng: (
                *normal((2, 6, 7, 4), *((2, 3, 11, 4),) * 2)(rng),
                _padded()[0],
                None,
                _padded()[1],
            ),
        },
        ("q", "k", "v"),
        "Qwen2 Dense Model, Dual Chunk Attention with YARN",
        "s_ij = R(place of query i for key j) q_i . R(j mod s) k_j",
    ),
)
