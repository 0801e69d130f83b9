"""The rows of model/: for each concept its functions and small inputs; see concepts.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from ..backend import Array, array_module
from ..layers.moe_router import MoeRouterCache
from ..layers.rope import rope_inv_freq, rope_tables
from ..model.config import QwenConfig, param_shapes
from ..model.decoder_block import decoder_block_backward, decoder_block_forward
from ..model.feed_forward import feed_forward_backward, feed_forward_forward
from ..model.language_model import language_model_backward, language_model_forward
from ..model.layer_plan import LayerPlan, PositionTables, position_tables
from ..model.router_loss import router_loss_backward, router_loss_forward
from ..model.self_attention import self_attention_backward, self_attention_forward
from ..params import scope
from .concept_row import Concept, Inputs
from .rows_moe import spread_tokens

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


ATTENTION_SHAPES = {n: s for n, s in BLOCK_SHAPES.items() if n.startswith("self_attn")}
PLANS = {
    "GQA, padding": LayerPlan(),
    "window, LogN, alpha": LayerPlan((3.0,), 2, 2),
    "dual chunks, LogN": LayerPlan(train_length=3, chunks=(4, 2, 3)),
}


def _attention_case(plan: str) -> Callable[[np.random.Generator], Inputs]:
    """Return a maker of x, the weights, which tokens are real, and the name of a plan."""

    def make(rng: np.random.Generator) -> Inputs:
        real = np.array([[True] * 5, [False, True, True, True, True]])
        x = rng.standard_normal((2, 5, 7))
        return (x, *_weights(ATTENTION_SHAPES, rng), real, plan)  # type: ignore[arg-type]

    return make


def _attention(x: Array, *rest: Any) -> tuple[Array, Any]:
    """Run the attention branch of a block whose parameters come as arrays."""
    *weights, real, plan = rest
    positions = array_module(x).arange(x.shape[1])
    tables = position_tables(PLANS[plan], BLOCK, positions, positions, x)
    params = dict(zip(ATTENTION_SHAPES, weights, strict=True))
    return self_attention_forward(x, params, BLOCK, tables, real=real)


def _attention_backward(dy: Array, cache: Any) -> tuple[Array, ...]:
    dx, grads = self_attention_backward(dy, cache)
    return (dx, *(grads[name] for name in ATTENTION_SHAPES))


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
    return decoder_block_forward(x, params, BLOCK, PositionTables(cos, sin), real=real)


def _block_backward(dy: Array, cache: Any) -> tuple[Array, ...]:
    dx, grads = decoder_block_backward(dy, cache)
    return (dx, *(grads[name] for name in BLOCK_SHAPES))


LONG: dict[str, dict[str, Any]] = {
    "tied, padding": {},
    "NTK, LogN, windows": {
        "max_position_embeddings": 3,
        "use_dynamic_ntk": True,
        "use_logn_attn": True,
        "layer_windows": [2, None],
    },
    "YaRN, dual chunks": {
        "max_position_embeddings": 8,
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 2.0,
            "original_max_position_embeddings": 4,
        },
        "dual_chunk_attention_config": {"chunk_size": 3, "local_size": 1},
    },
}


def _model_case(long: str) -> Callable[[np.random.Generator], Inputs]:
    """Return a maker of the weights, ids, which are real, and the name of a config."""

    def make(rng: np.random.Generator) -> Inputs:
        real = np.array([[True] * 5, [False, False, True, True, True]])
        ids = np.array([[2, 10, 2, 7, 1], [0, 0, 3, 3, 9]])
        return (*_weights(MODEL_SHAPES, rng), ids, real, long)

    return make


def _model(*inputs: Any) -> tuple[Array, Any]:
    """Run a two-layer tied model whose parameters come as arrays."""
    *weights, ids, real, long = inputs
    params = dict(zip(MODEL_SHAPES, weights, strict=True))
    config = dataclasses.replace(MODEL, **LONG[long])
    return language_model_forward(params, config, ids, attention_mask=real)


def _model_backward(dlogits: Array, cache: Any) -> tuple[Array, ...]:
    grads = language_model_backward(dlogits, cache)
    return tuple(grads[name] for name in MODEL_SHAPES)


EXPERTS = dataclasses.replace(
    BLOCK,
    model_type="qwen2_moe",
    num_experts=5,
    num_experts_per_tok=2,
    moe_intermediate_size=3,
    shared_expert_intermediate_size=2,
)
EXPERT_SHAPES = {
    name: shape
    for name, shape in scope(param_shapes(EXPERTS), "model.layers.0").items()  # type: ignore[arg-type]
    if name.startswith("mlp")
}


def _feed_forward_case(rng: np.random.Generator) -> Inputs:
    x, w_router = spread_tokens(rng, 6, 7, 5)
    weights = dict(zip(EXPERT_SHAPES, _weights(EXPERT_SHAPES, rng), strict=True))  # type: ignore[arg-type]
    return (x.reshape(2, 3, 7), *{**weights, "mlp.gate.weight": w_router}.values())


def _feed_forward(x: Array, *weights: Array) -> tuple[Array, Any]:
    """Run a sparse layer whose parameters come as arrays."""
    return feed_forward_forward(x, dict(zip(EXPERT_SHAPES, weights, strict=True)), EXPERTS)


def _feed_forward_backward(dy: Array, cache: Any) -> tuple[Array, ...]:
    dx, grads = feed_forward_backward(dy, cache)
    return (dx, *(grads[name] for name in EXPERT_SHAPES))


def _router_loss_case(z_coef: float, pool: bool) -> Callable[[np.random.Generator], Inputs]:
    """Return a maker of the logits of two layers' routers, their choices, and the switches."""

    def make(rng: np.random.Generator) -> Inputs:
        ids = np.stack([rng.permutation(5)[:2] for _ in range(14)])
        real = np.array([[True] * 7]) if pool else np.array([[False] * 2 + [True] * 5])
        return (*rng.standard_normal((2, 7, 5)), ids[:7], ids[7:], real, z_coef, pool)

    return make


def _router_loss(*inputs: Any) -> tuple[Array, Any]:
    """Join the losses of two routers of which only logits and choices are known."""
    *arrays, real, z_coef, pool = inputs
    routers = [
        MoeRouterCache(logits, logits, ids, logits, False, None)  # type: ignore[arg-type]
        for logits, ids in zip(arrays[:2], arrays[2:], strict=True)
    ]
    loss, _, cache = router_loss_forward(routers, 0.7, real, z_coef=z_coef, pool_layers=pool)
    return loss, cache


def _router_loss_backward(dloss: Array, cache: Any) -> tuple[Array, ...]:
    return tuple(router_loss_backward(dloss, cache))


QWEN = "Qwen 2.3.1 Architecture"
MOE = "Qwen2 2.2.2 Mixture-of-experts Model"

MODEL_ROWS = (
    Concept(
        "self_attention",
        "minqwen.model.self_attention",
        _attention,
        _attention_backward,
        {name: _attention_case(name) for name in PLANS},
        ("x", *ATTENTION_SHAPES),
        f"{QWEN}; 2.3.2 Context Length Extension",
        "y = attention(rope(x w_q^T + b_q), ...) w_o^T",
    ),
    Concept(
        "feed_forward",
        "minqwen.model.feed_forward",
        _feed_forward,
        _feed_forward_backward,
        {"experts and a shared one": _feed_forward_case},
        ("x", *EXPERT_SHAPES),
        f"{QWEN}; {MOE}",
        "y = swiglu(x), or moe(x) in a sparse layer",
    ),
    Concept(
        "router_loss",
        "minqwen.model.router_loss",
        _router_loss,
        _router_loss_backward,
        {
            "by layer, z, padding": _router_loss_case(0.3, pool=False),
            "pooled": _router_loss_case(0.0, pool=True),
        },
        ("router_logits of layer 0", "router_logits of layer 1"),
        f"{MOE} (released configs)",
        "loss = coef * balance + z_coef * z",
    ),
    Concept(
        "decoder_block",
        "minqwen.model.decoder_block",
        _block,
        _block_backward,
        {"GQA, padding": _block_case},
        ("x", *BLOCK_SHAPES),
        QWEN,
        "h = x + self_attention(norm(x)); y = h + swiglu(norm(h))",
    ),
    Concept(
        "language_model",
        "minqwen.model.language_model",
        _model,
        _model_backward,
        {name: _model_case(name) for name in LONG},
        tuple(MODEL_SHAPES),
        QWEN,
        "logits = norm(blocks(embedding(ids))) w_head^T",
    ),
)
