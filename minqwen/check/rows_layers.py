"""The rows of layers/: for each concept its functions and small inputs; see concepts.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..backend import Array, array_module
from ..layers.attention import attention_backward, attention_forward, causal_mask, padding_mask
from ..layers.block_attention import block_attention_backward, block_attention_forward
from ..layers.cross_entropy import cross_entropy_backward, cross_entropy_forward
from ..layers.dropout import dropout_backward, dropout_forward
from ..layers.embedding import embedding_backward, embedding_forward
from ..layers.flash_attention import flash_attention_backward, flash_attention_forward
from ..layers.linear import linear_backward, linear_forward
from ..layers.rmsnorm import rmsnorm_backward, rmsnorm_forward
from ..layers.rope import rope_backward, rope_forward, rope_inv_freq, rope_tables
from ..layers.swiglu import swiglu_backward, swiglu_forward
from .concept_row import Concept, Inputs, normal


def _rope(x: Array, positions: Array) -> tuple[Array, Any]:
    """Run RoPE with the table that the model would make."""
    xp = array_module(x)
    inv_freq = xp.asarray(rope_inv_freq(x.shape[-1], 100.0, np.promote_types(x.dtype, "f4").name))
    return rope_forward(x, *rope_tables(positions, inv_freq))


def _dropout(x: Array) -> tuple[Array, Any]:
    """Run dropout with the same mask every time."""
    return dropout_forward(x, 0.3, np.random.default_rng(7))


def _attention_case(
    H: int, Hkv: int, T: int, S: int, hidden: bool
) -> Callable[[np.random.Generator], Inputs]:
    """Return a maker of q, k, v and a mask; `hidden`: padding hides some rows' every key."""

    def make(rng: np.random.Generator) -> Inputs:
        real = np.ones((2, S), dtype=bool)
        if hidden:
            real[0, :2] = False
        mask = causal_mask(T, S) & padding_mask(real)
        shapes = ((2, H, T, 5), (2, Hkv, S, 5), (2, Hkv, S, 5))
        return (*normal(*shapes)(rng), mask)

    return make


def _block_attention_case(
    H: int, Hkv: int, T: int, S: int, hidden: bool, window: int | None = None
) -> Callable[[np.random.Generator], Inputs]:
    """Return a maker of q, k, v, and real and window, which stand for the mask of attention."""

    def make(rng: np.random.Generator) -> Inputs:
        *qkv, mask = _attention_case(H, Hkv, T, S, hidden)(rng)
        return (*qkv, mask[:, -1] if hidden else None, window)

    return make


def _block_attention(
    q: Array, k: Array, v: Array, real: Array | None, window: int | None
) -> tuple[Array, Any]:
    """Run attention in blocks of 2 queries, so that several blocks and a short one occur."""
    return block_attention_forward(q, k, v, real, block=2, window=window)


def _flash_attention(
    q: Array, k: Array, v: Array, real: Array | None, window: int | None
) -> tuple[Array, Any]:
    """Run attention in tiles of 2 queries and 3 keys, so that a softmax is continued twice."""
    return flash_attention_forward(q, k, v, real, window=window, block_q=2, block_k=3)


def _cross_entropy(logits: Array, labels: Array, loss_mask: Array | None) -> tuple[Array, Any]:
    """Run cross-entropy in blocks of 2 tokens, so that several blocks and a short one occur."""
    return cross_entropy_forward(logits, labels, loss_mask, block=2 * logits.shape[-1])


QWEN, QWEN2 = "Qwen 2.3.1 Architecture", "Qwen2 Dense Model"

LAYER_ROWS = (
    Concept(
        "linear",
        "minqwen.layers.linear",
        linear_forward,
        linear_backward,
        {
            "with bias": normal((2, 3, 5), (7, 5), (7,)),
            "no bias": lambda rng: (*normal((2, 3, 5), (7, 5))(rng), None),
        },
        ("x", "w", "b"),
        f"{QWEN}, Bias",
        "y = x w^T + b",
    ),
    Concept(
        "embedding",
        "minqwen.layers.embedding",
        embedding_forward,
        embedding_backward,
        {"repeated ids": lambda rng: (np.array([[2, 5, 2], [2, 0, 5]]), *normal((7, 5))(rng))},
        ("w",),
        f"{QWEN}, Embedding and output projection",
        "x_n = w[ids_n]",
    ),
    Concept(
        "rmsnorm",
        "minqwen.layers.rmsnorm",
        rmsnorm_forward,
        rmsnorm_backward,
        {"one axis": normal((5,), (5,)), "three axes": normal((2, 3, 5), (5,))},
        ("x", "w"),
        f"{QWEN}, Pre-Norm & RMSNorm",
        "y = w x / sqrt(mean(x^2) + eps)",
    ),
    Concept(
        "rope",
        "minqwen.layers.rope",
        _rope,
        rope_backward,
        {
            "one row of positions": lambda rng: (*normal((2, 3, 5, 6))(rng), np.arange(5) + 7),
            "positions per row": lambda rng: (
                *normal((2, 3, 5, 6))(rng),
                np.array([[0, 0, 1, 2, 3], [11, 3, 2, 5, 100]]),
            ),
        },
        ("x",),
        f"{QWEN}, Positional embedding",
        "y = x cos(p f) + rotate_half(x) sin(p f)",
    ),
    Concept(
        "attention",
        "minqwen.layers.attention",
        attention_forward,
        attention_backward,
        {
            "MHA, causal": _attention_case(3, 3, 7, 7, hidden=False),
            "GQA, S > T": _attention_case(6, 3, 4, 7, hidden=False),
            "GQA, padding": _attention_case(6, 2, 7, 7, hidden=True),
        },
        ("q", "k", "v"),
        f"{QWEN2}, Grouped Query Attention",
        "out = softmax(scale q k^T, masked) v",
    ),
    Concept(
        "block_attention",
        "minqwen.layers.block_attention",
        _block_attention,
        block_attention_backward,
        {
            "MHA": _block_attention_case(3, 3, 7, 7, hidden=False),
            "GQA, S > T": _block_attention_case(6, 3, 4, 7, hidden=False),
            "GQA, padding": _block_attention_case(6, 2, 7, 7, hidden=True),
            "window 3": _block_attention_case(6, 3, 5, 7, hidden=False, window=3),
            "window 2, padding": _block_attention_case(3, 3, 7, 7, hidden=True, window=2),
        },
        ("q", "k", "v"),
        f"{QWEN2}, Grouped Query Attention",
        "P_ij = exp(s_ij - lse_i)",
    ),
    Concept(
        "flash_attention",
        "minqwen.layers.flash_attention",
        _flash_attention,
        flash_attention_backward,
        {
            "MHA": _block_attention_case(3, 3, 7, 7, hidden=False),
            "GQA, S > T": _block_attention_case(6, 3, 4, 7, hidden=False),
            "GQA, padding": _block_attention_case(6, 2, 7, 7, hidden=True),
            "window 5": _block_attention_case(6, 3, 5, 7, hidden=False, window=5),
            "window 2, padding": _block_attention_case(3, 3, 7, 7, hidden=True, window=2),
        },
        ("q", "k", "v"),
        "Qwen 2.4 Training, Flash Attention",
        "A' = A exp(M - M') + sum_j exp(s_j - M') v_j",
    ),
    Concept(
        "swiglu",
        "minqwen.layers.swiglu",
        swiglu_forward,
        swiglu_backward,
        {"": normal((2, 3, 5), (7, 5), (7, 5), (5, 7))},
        ("x", "w_gate", "w_up", "w_down"),
        f"{QWEN}, Activation function",
        "y = (silu(x w_gate^T) * (x w_up^T)) w_down^T",
    ),
    Concept(
        "dropout",
        "minqwen.layers.dropout",
        _dropout,
        dropout_backward,
        {"rate 0.3": normal((2, 3, 5))},
        ("x",),
        "Qwen 3.1.2 Training",
        "y = x m / (1 - rate)",
    ),
    Concept(
        "cross_entropy",
        "minqwen.layers.cross_entropy",
        _cross_entropy,
        cross_entropy_backward,
        {
            "all count": lambda rng: (*normal((2, 3, 7))(rng), rng.integers(0, 7, (2, 3)), None),
            "masked": lambda rng: (
                *normal((2, 3, 7))(rng),
                np.array([[1, -100, 6], [0, 3, 3]]),
                np.array([[True, True, False], [True, False, True]]),
            ),
        },
        ("logits",),
        "Qwen 2.4 Training",
        "loss = mean(log sum_v exp(z_v) - z_label)",
    ),
)
