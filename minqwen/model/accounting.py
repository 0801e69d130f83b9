"""What a model of some size costs: parameters, operations, memory, before anything is run.

A product of (N, Din) with (Din, Dout) takes N * Din * Dout multiplications and as many additions,
so 2 N Din Dout FLOPs. Attention takes 2 * 2 * T * S * H * Dh for scores and outputs; causal
attention needs half of it, since a query sees on average half of the keys. The backward pass takes
the forward's FLOPs twice: once for the gradient of the inputs and once for that of the weights.

In a mixture of experts a token passes through K of E experts. The parameters that work on it are
the activated ones: all but those of E - K experts in each sparse layer.

Norms, rotations and activations are left out, a thousandth of the whole in the published sizes, and
so is what block_attention computes twice in its backward pass.

Origin:   Kaplan et al. 2020, arXiv:2001.08361, section 2.1, counts the same way.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from .config import QwenConfig, param_shapes
from .kv_cache import ROLLING_ROOM
from .layer_plan import layer_plans
from .long_context_fields import layer_windows
from .moe_fields import sparse_layers


class Operation(NamedTuple):
    """One step of a decoder block, or of the model around it."""

    name: str
    axes: str  # letters of the result
    shape: tuple[int, ...]  # of the result
    flops: int  # forward
    saved: int  # numbers kept for the backward pass


class Cost(NamedTuple):
    """Totals for a batch of B rows of T tokens."""

    parameters: int
    activated_parameters: int  # that work on a token; all of them in a dense model
    embedding_parameters: int  # of the table, and of the output layer if it has its own
    forward_flops: int
    training_flops: int  # forward and backward
    kv_cache_per_token: int  # numbers, one row
    kv_cache: int  # numbers that KVCache takes for all rows; a layer with a window needs less
    activations: int  # numbers kept for the backward pass


def block_operations(
    config: QwenConfig, B: int, T: int, window: int | None = None, sparse: bool = False
) -> list[Operation]:
    """List what one decoder block does, in order.

    Args:
        config: sizes.
        B: rows.
        T: tokens in a row.
        window: tokens that a query of this layer sees; None = all before it.
        sparse: the layer has experts.

    >>> config = QwenConfig(vocab_size=9, hidden_size=4, intermediate_size=6, num_hidden_layers=1,
    ...                     num_attention_heads=2)
    >>> block_operations(config, 1, 3)[1]
    Operation(name='self_attn.q_proj', axes='B T H*Dh', shape=(1, 3, 4), flops=96, saved=0)
    """
    D = config.hidden_size
    H, Hkv, Dh = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    N = B * T
    W = min(T, window or T)
    pairs = B * H * (W * (W + 1) // 2 + (T - W) * W)  # (query, key) that causal attention looks at
    places = 1 if config.dual_chunk_attention_config is None else 3  # DCA turns q three ways
    stream = (B, T, D)
    norms = [
        Operation(f"self_attn.{x}_norm", f"B {letter} T Dh", (B, heads, T, Dh), 0, kept)
        for x, letter, heads in (("q", "H", H), ("k", "Hkv", Hkv))
        for kept in [N * heads * (Dh + 1)]  # the input, and a number for each vector
        if config.qk_norm
    ]
    attention = [
        Operation("input_layernorm", "B T D", stream, 0, 2 * N * D + N),
        Operation("self_attn.q_proj", "B T H*Dh", (B, T, H * Dh), 2 * N * D * H * Dh, 0),
        Operation("self_attn.k_proj", "B T Hkv*Dh", (B, T, Hkv * Dh), 2 * N * D * Hkv * Dh, 0),
        Operation("self_attn.v_proj", "B T Hkv*Dh", (B, T, Hkv * Dh), 2 * N * D * Hkv * Dh, 0),
        *norms,
        Operation("self_attn.q_rope", "B H T Dh", (B, H, T, Dh), 0, places * N * H * Dh),
        Operation("self_attn.k_rope", "B Hkv T Dh", (B, Hkv, T, Dh), 0, 2 * N * Hkv * Dh),
        Operation(
            "self_attn.attention", "B H T Dh", (B, H, T, Dh), 4 * pairs * Dh, N * H * (Dh + 1)
        ),
        Operation("self_attn.o_proj", "B T D", stream, 2 * N * D * H * Dh, N * H * Dh),
        Operation("post_attention_layernorm", "B T D", stream, 0, 2 * N * D + N),
    ]
    if not sparse:
        return attention + swiglu_operations("mlp", "F", B, T, D, config.intermediate_size)
    E, K, Fe, Fs = (
        config.num_experts,
        config.num_experts_per_tok,
        config.moe_intermediate_size,
        config.shared_expert_intermediate_size,
    )
    rows, name = N * K, "mlp.experts"  # a token is copied to each of its experts
    routed = [
        Operation("mlp.gate", "B T E", (B, T, E), 2 * N * D * E, 2 * N * E + rows),
        Operation(
            f"{name}.gate_up_proj",
            "B T K 2Fe",
            (B, T, K, 2 * Fe),
            2 * rows * D * 2 * Fe,
            rows * (D + 2 * Fe),
        ),
        Operation(f"{name}.silu(gate) * up", "B T K Fe", (B, T, K, Fe), 0, rows * Fe),
        Operation(f"{name}.down_proj", "B T K D", (B, T, K, D), 2 * rows * D * Fe, rows * D),
    ]
    if not Fs:
        return attention + routed
    gate = Operation("mlp.shared_expert_gate", "B T 1", (B, T, 1), 2 * N * D, N + N * D)
    return attention + routed + swiglu_operations("mlp.shared_expert", "Fs", B, T, D, Fs) + [gate]


def swiglu_operations(name: str, letter: str, B: int, T: int, D: int, F: int) -> list[Operation]:
    """List what a SwiGLU network of this name and width does to (B, T, D)."""
    N, wide, axes = B * T, (B, T, F), f"B T {letter}"
    return [
        Operation(f"{name}.gate_proj", axes, wide, 2 * N * D * F, N * F),
        Operation(f"{name}.up_proj", axes, wide, 2 * N * D * F, N * F),
        Operation(f"{name}.silu(gate) * up", axes, wide, 0, N * F),
        Operation(f"{name}.down_proj", "B T D", (B, T, D), 2 * N * D * F, 0),
    ]


def cost(config: QwenConfig, B: int, T: int) -> Cost:
    """Add up what B rows of T tokens cost.

    Args:
        config: sizes.
        B: rows.
        T: tokens in a row.

    Returns:
        Cost: parameters, FLOPs and numbers kept (not bytes: times 4 in float32, 2 in bfloat16).
    """
    V, D, L = config.vocab_size, config.hidden_size, config.num_hidden_layers
    parameters = sum(math.prod(shape) for shape in param_shapes(config).values())
    windows, sparse = layer_windows(config), sparse_layers(config)
    idle = (config.num_experts - config.num_experts_per_tok) * 3 * D * config.moe_intermediate_size
    blocks = [
        op
        for window, experts in zip(windows, sparse, strict=True)
        for op in block_operations(config, B, T, window, experts)
    ]
    forward = sum(op.flops for op in blocks) + 2 * B * T * D * V
    per_layer = 2 * config.num_key_value_heads * config.head_dim  # keys and values of a token
    # cos and sin, shared by the layers that turn alike
    kinds = len(set(layer_plans(config, [T])))
    tables = 2 * T * config.head_dim * (3 if config.dual_chunk_attention_config else kinds)
    around = tables + 2 * B * T * D + B * T  # the last norm, and the input of the head
    return Cost(
        parameters=parameters,
        activated_parameters=parameters - sum(sparse) * idle,
        embedding_parameters=V * D * (1 if config.tie_word_embeddings else 2),
        forward_flops=forward,
        training_flops=3 * forward,
        kv_cache_per_token=L * per_layer,
        kv_cache=B * per_layer * sum(min(T, ROLLING_ROOM * (window or T)) for window in windows),
        activations=sum(op.saved for op in blocks) + around,
    )
