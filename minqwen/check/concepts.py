"""The table of concepts: for each its forward, its backward, small inputs, and where it stands.

Tests, `minqwen check`, the tour, the strict fake device and the docs are all driven by this
table: a new concept is one file and one row.

The inputs are small float64 arrays. All sizes differ, are prime or forced by another size, and are
above one, so that a transposed or wrongly summed axis cannot fit by accident; all weights are of
order one, so that no mistake hides behind a small factor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backend import Array, array_module
from ..layers.attention import attention_backward, attention_forward, causal_mask, padding_mask
from ..layers.block_attention import block_attention_backward, block_attention_forward
from ..layers.cross_entropy import cross_entropy_backward, cross_entropy_forward
from ..layers.dropout import dropout_backward, dropout_forward
from ..layers.embedding import embedding_backward, embedding_forward
from ..layers.linear import linear_backward, linear_forward
from ..layers.rmsnorm import rmsnorm_backward, rmsnorm_forward
from ..layers.rope import rope_backward, rope_forward, rope_inv_freq, rope_tables
from ..layers.swiglu import swiglu_backward, swiglu_forward
from ..model.config import QwenConfig, param_shapes
from ..model.decoder_block import decoder_block_backward, decoder_block_forward
from ..model.language_model import language_model_backward, language_model_forward
from ..params import scope
from .gradients import GradientError, gradient_errors

Inputs = tuple[Any, ...]
BOUND = 1e-7  # of a gradient's error, over its scale


@dataclass(frozen=True)
class Concept:
    """One row: a pair of functions and what is needed to try and to find it."""

    name: str
    module: str  # the file, as a module
    forward: Callable[..., Any]
    backward: Callable[..., Any]
    cases: dict[str, Callable[[np.random.Generator], Inputs]]  # small inputs, by a short name
    arguments: tuple[str, ...]  # names of the float array inputs, in order
    report: str  # section and title
    equation: str


def gradient_table(concept: Concept, seed: int = 0) -> Iterator[tuple[str, GradientError]]:
    """Compare every gradient of a concept with central differences.

    Yields:
        (case, GradientError) for each case and each float input.
    """
    for case, make in concept.cases.items():
        inputs = make(np.random.default_rng(seed))
        for error in gradient_errors(
            concept.forward, concept.backward, *inputs, seed=seed + 1, names=concept.arguments
        ):
            yield case, error


def _normal(*shapes: tuple[int, ...]) -> Callable[[np.random.Generator], Inputs]:
    """Return a maker of one normal array per shape."""
    return lambda rng: tuple(rng.standard_normal(shape) for shape in shapes)


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
        return (*_normal(*shapes)(rng), mask)

    return make


def _block_attention_case(
    H: int, Hkv: int, T: int, S: int, hidden: bool
) -> Callable[[np.random.Generator], Inputs]:
    """Return a maker of q, k, v and real, which block_attention takes in place of a mask."""

    def make(rng: np.random.Generator) -> Inputs:
        *qkv, mask = _attention_case(H, Hkv, T, S, hidden)(rng)
        return (*qkv, mask[:, -1] if hidden else None)

    return make


def _block_attention(q: Array, k: Array, v: Array, real: Array | None) -> tuple[Array, Any]:
    """Run attention in blocks of 2 queries, so that several blocks and a short one occur."""
    return block_attention_forward(q, k, v, real, block=2)


def _cross_entropy(logits: Array, labels: Array, loss_mask: Array | None) -> tuple[Array, Any]:
    """Run cross-entropy in blocks of 2 tokens, so that several blocks and a short one occur."""
    return cross_entropy_forward(logits, labels, loss_mask, block=2 * logits.shape[-1])


BLOCK = QwenConfig(
    vocab_size=13,
    hidden_size=7,
    intermediate_size=11,
    num_hidden_layers=1,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=6,
    rope_theta=100.0,
)
MODEL = QwenConfig(
    vocab_size=11,
    hidden_size=5,
    intermediate_size=7,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=4,
    rope_theta=100.0,
    tie_word_embeddings=True,
)


def _weights(shapes: dict[str, tuple[int, ...]], rng: np.random.Generator) -> list[Array]:
    """Return weights of order one; products of matrices stay of order one too."""
    return [rng.standard_normal(s) / (s[1] ** 0.5 if len(s) == 2 else 1) for s in shapes.values()]


BLOCK_SHAPES = {
    name: shape
    for name, shape in scope(param_shapes(BLOCK), "model.layers.0").items()  # type: ignore[arg-type]
}
MODEL_SHAPES = param_shapes(MODEL)


def _block_case(rng: np.random.Generator) -> Inputs:
    real = np.array([[True] * 3, [False, True, True]])
    return (rng.standard_normal((2, 3, 7)), *_weights(BLOCK_SHAPES, rng), real)  # type: ignore[arg-type]


def _block(x: Array, *rest: Array) -> tuple[Array, Any]:
    """Run a decoder block whose parameters come as arrays."""
    xp = array_module(x)
    *weights, real = rest
    inv_freq = xp.asarray(rope_inv_freq(6, 100.0, np.promote_types(x.dtype, "f4").name))
    cos, sin = rope_tables(xp.arange(x.shape[1]), inv_freq)
    params = dict(zip(BLOCK_SHAPES, weights, strict=True))
    return decoder_block_forward(x, params, BLOCK, cos, sin, real=real)


def _block_backward(dy: Array, cache: Any) -> tuple[Array, ...]:
    dx, grads = decoder_block_backward(dy, cache)
    return (dx, *(grads[name] for name in BLOCK_SHAPES))


def _model_case(rng: np.random.Generator) -> Inputs:
    real = np.array([[True] * 5, [False, False, True, True, True]])
    ids = np.array([[2, 10, 2, 7, 1], [0, 0, 3, 3, 9]])
    return (*_weights(MODEL_SHAPES, rng), ids, real)


def _model(*inputs: Array) -> tuple[Array, Any]:
    """Run a two-layer tied model whose parameters come as arrays."""
    *weights, ids, real = inputs
    params = dict(zip(MODEL_SHAPES, weights, strict=True))
    return language_model_forward(params, MODEL, ids, attention_mask=real)


def _model_backward(dlogits: Array, cache: Any) -> tuple[Array, ...]:
    grads = language_model_backward(dlogits, cache)
    return tuple(grads[name] for name in MODEL_SHAPES)


QWEN, QWEN2 = "Qwen 2.3.1 Architecture", "Qwen2 Dense Model"

CONCEPTS = (
    Concept(
        "linear",
        "minqwen.layers.linear",
        linear_forward,
        linear_backward,
        {
            "with bias": _normal((2, 3, 5), (7, 5), (7,)),
            "no bias": lambda rng: (*_normal((2, 3, 5), (7, 5))(rng), None),
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
        {"repeated ids": lambda rng: (np.array([[2, 5, 2], [2, 0, 5]]), *_normal((7, 5))(rng))},
        ("w",),
        f"{QWEN}, Embedding and output projection",
        "x_n = w[ids_n]",
    ),
    Concept(
        "rmsnorm",
        "minqwen.layers.rmsnorm",
        rmsnorm_forward,
        rmsnorm_backward,
        {"one axis": _normal((5,), (5,)), "three axes": _normal((2, 3, 5), (5,))},
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
            "one row of positions": lambda rng: (*_normal((2, 3, 5, 6))(rng), np.arange(5) + 7),
            "positions per row": lambda rng: (
                *_normal((2, 3, 5, 6))(rng),
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
        },
        ("q", "k", "v"),
        f"{QWEN2}, Grouped Query Attention",
        "P_ij = exp(s_ij - lse_i)",
    ),
    Concept(
        "swiglu",
        "minqwen.layers.swiglu",
        swiglu_forward,
        swiglu_backward,
        {"": _normal((2, 3, 5), (7, 5), (7, 5), (5, 7))},
        ("x", "w_gate", "w_up", "w_down"),
        f"{QWEN}, Activation function",
        "y = (silu(x w_gate^T) * (x w_up^T)) w_down^T",
    ),
    Concept(
        "dropout",
        "minqwen.layers.dropout",
        _dropout,
        dropout_backward,
        {"rate 0.3": _normal((2, 3, 5))},
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
            "all count": lambda rng: (*_normal((2, 3, 7))(rng), rng.integers(0, 7, (2, 3)), None),
            "masked": lambda rng: (
                *_normal((2, 3, 7))(rng),
                np.array([[1, -100, 6], [0, 3, 3]]),
                np.array([[True, True, False], [True, False, True]]),
            ),
        },
        ("logits",),
        "Qwen 2.4 Training",
        "loss = mean(log sum_v exp(z_v) - z_label)",
    ),
    Concept(
        "decoder_block",
        "minqwen.model.decoder_block",
        _block,
        _block_backward,
        {"GQA, padding": _block_case},
        ("x", *BLOCK_SHAPES),
        QWEN,
        "h = x + attention(norm(x)); y = h + swiglu(norm(h))",
    ),
    Concept(
        "language_model",
        "minqwen.model.language_model",
        _model,
        _model_backward,
        {"tied, padding": _model_case},
        tuple(MODEL_SHAPES),
        QWEN,
        "logits = norm(blocks(embedding(ids))) w_head^T",
    ),
)


def concept(name: str) -> Concept:
    """Return the row of this name; ValueError, with the list, if there is none.

    >>> concept("rmsnorm").module
    'minqwen.layers.rmsnorm'
    """
    for row in CONCEPTS:
        if row.name == name:
            return row
    raise ValueError(f"no concept {name!r}; there are {', '.join(row.name for row in CONCEPTS)}")
