"""What a model of some size costs: parameters, operations, memory, before anything is run.

A product of (N, Din) with (Din, Dout) takes N * Din * Dout multiplications and as many additions,
so 2 N Din Dout FLOPs. Attention takes 2 * 2 * T * S * H * Dh for scores and outputs; causal
attention needs half of it, since a query sees on average half of the keys. The backward pass takes
the forward's FLOPs twice: once for the gradient of the inputs and once for that of the weights.

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
    embedding_parameters: int  # of the table, and of the output layer if it has its own
    forward_flops: int
    training_flops: int  # forward and backward
    kv_cache_per_token: int  # numbers, one row
    kv_cache: int  # numbers that KVCache takes for all rows; a layer with a window needs less
    activations: int  # numbers kept for the backward pass


def block_operations(
    config: QwenConfig, B: int, T: int, window: int | None = None
) -> list[Operation]:
    """List what one decoder block does, in order.

    Args:
        config: sizes.
        B: rows.
        T: tokens in a row.
        window: tokens that a query of this layer sees; None = all before it.

    >>> config = QwenConfig(vocab_size=9, hidden_size=4, intermediate_size=6, num_hidden_layers=1,
    ...                     num_attention_heads=2)
    >>> block_operations(config, 1, 3)[1]
    Operation(name='self_attn.q_proj', axes='B T H*Dh', shape=(1, 3, 4), flops=96, saved=0)
    """
    D, F = config.hidden_size, config.intermediate_size
    H, Hkv, Dh = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    N = B * T
    W = min(T, window or T)
    pairs = B * H * (W * (W + 1) // 2 + (T - W) * W)  # (query, key) that causal attention looks at
    places = 1 if config.dual_chunk_attention_config is None else 3  # DCA turns q three ways
    stream, wide = (B, T, D), (B, T, F)
    return [
        Operation("input_layernorm", "B T D", stream, 0, 2 * N * D + N),
        Operation("self_attn.q_proj", "B T H*Dh", (B, T, H * Dh), 2 * N * D * H * Dh, 0),
        Operation("self_attn.k_proj", "B T Hkv*Dh", (B, T, Hkv * Dh), 2 * N * D * Hkv * Dh, 0),
        Operation("self_attn.v_proj", "B T Hkv*Dh", (B, T, Hkv * Dh), 2 * N * D * Hkv * Dh, 0),
        Operation("self_attn.q_rope", "B H T Dh", (B, H, T, Dh), 0, places * N * H * Dh),
        Operation("self_attn.k_rope", "B Hkv T Dh", (B, Hkv, T, Dh), 0, 2 * N * Hkv * Dh),
        Operation(
            "self_attn.attention", "B H T Dh", (B, H, T, Dh), 4 * pairs * Dh, N * H * (Dh + 1)
        ),
        Operation("self_attn.o_proj", "B T D", stream, 2 * N * D * H * Dh, N * H * Dh),
        Operation("post_attention_layernorm", "B T D", stream, 0, 2 * N * D + N),
        Operation("mlp.gate_proj", "B T F", wide, 2 * N * D * F, N * F),
        Operation("mlp.up_proj", "B T F", wide, 2 * N * D * F, N * F),
        Operation("mlp.silu(gate) * up", "B T F", wide, 0, N * F),
        Operation("mlp.down_proj", "B T D", stream, 2 * N * D * F, 0),
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
    windows = layer_windows(config)
    blocks = [op for window in windows for op in block_operations(config, B, T, window)]
    forward = sum(op.flops for op in blocks) + 2 * B * T * D * V
    per_layer = 2 * config.num_key_value_heads * config.head_dim  # keys and values of a token
    # cos and sin, shared by the layers that turn alike
    kinds = len(set(layer_plans(config, [T])))
    tables = 2 * T * config.head_dim * (3 if config.dual_chunk_attention_config else kinds)
    around = tables + 2 * B * T * D + B * T  # the last norm, and the input of the head
    return Cost(
        parameters=parameters,
        embedding_parameters=V * D * (1 if config.tie_word_embeddings else 2),
        forward_flops=forward,
        training_flops=3 * forward,
        kv_cache_per_token=L * per_layer,
        kv_cache=B * per_layer * sum(min(T, ROLLING_ROOM * (window or T)) for window in windows),
        activations=sum(op.saved for op in blocks) + around,
    )
