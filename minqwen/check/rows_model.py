"""The rows of model/: for each concept its functions and small inputs; see concepts.py."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import Array, array_module
from ..layers.rope import rope_inv_freq, rope_tables
from ..model.config import QwenConfig, param_shapes
from ..model.decoder_block import decoder_block_backward, decoder_block_forward
from ..model.language_model import language_model_backward, language_model_forward
from ..params import scope
from .concept_row import Concept, Inputs

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


QWEN = "Qwen 2.3.1 Architecture"

MODEL_ROWS = (
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
