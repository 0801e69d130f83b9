"""The costs are compared with what a run really does: FLOPs of its products, bytes it keeps."""

import numpy as np
import pytest
from helpers.models import random_params, small_config

from minqwen.model.accounting import block_operations, cost
from minqwen.model.kv_cache import KVCache
from minqwen.model.language_model import language_model_forward
from minqwen.model.presets import preset
from minqwen.params import count

EXPERTS = {
    "model_type": "qwen2_moe",
    "num_experts": 7,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 5,
}


def kept_numbers(tree, params):
    """Count the numbers that the cache holds and the parameters do not, each memory once."""
    owners = {}

    def walk(x):
        if isinstance(x, (tuple, list)):
            for part in x:
                walk(part)
        elif isinstance(x, np.ndarray) and x.dtype.kind == "f":
            while x.base is not None:
                x = x.base
            owners[id(x)] = x

    walk(tree)
    for value in params.values():
        owners.pop(id(value), None)
    return sum(x.size for x in owners.values())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_key_value_heads": 6},
        {"num_hidden_layers": 3},
        {"layer_windows": [2, None]},
        {"use_dynamic_ntk": True, "max_position_embeddings": 5},
        {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}},
        {"dual_chunk_attention_config": {"chunk_size": 5, "local_size": 2}},
        EXPERTS,
        {**EXPERTS, "shared_expert_intermediate_size": 11},
        {**EXPERTS, "decoder_sparse_step": 2, "num_hidden_layers": 3},
        {"model_type": "qwen3", "attention_bias": False},
        {**EXPERTS, "model_type": "qwen3_moe", "attention_bias": False},
    ],
)
def test_activations_are_what_the_cache_holds(changes):
    config = small_config(**changes)
    params = random_params(config, dtype="float32")
    _, cache = language_model_forward(params, config, np.zeros((3, 11), int))
    assert cost(config, 3, 11).activations == kept_numbers(cache, params)
    assert cost(config, 3, 11).parameters == count(params)


def test_shapes_are_those_of_the_run():
    config = small_config()
    _, cache = language_model_forward(random_params(config), config, np.zeros((3, 11), int))
    block, listed = cache.blocks[0], {op.name: op.shape for op in block_operations(config, 3, 11)}
    assert listed["self_attn.q_rope"] == block.self_attn.attention.shape
    assert listed["mlp.gate_proj"] == block.mlp.gate.shape
    assert listed["input_layernorm"] == block.input_norm.x.shape
    assert listed["self_attn.o_proj"] == block.mlp_norm.x.shape


def test_flops_of_experts():
    """Two per activated weight of a matrix and token, plus attention as in a dense model."""
    config = small_config(**EXPERTS, shared_expert_intermediate_size=11)
    dense = small_config()
    names = random_params(config)
    matrices = sum(v.size for k, v in names.items() if v.ndim == 2 and "embed" not in k)
    experts = sum(v.size for v in names.values() if v.ndim == 3) * 3 // 7
    attention = cost(dense, 3, 11).forward_flops - 2 * 33 * sum(
        v.size for k, v in random_params(dense).items() if v.ndim == 2 and "embed" not in k
    )
    assert cost(config, 3, 11).forward_flops == 2 * 33 * (matrices + experts) + attention
    _, cache = language_model_forward(names, config, np.zeros((3, 11), int))
    shapes = {op.name: op.shape for op in block_operations(config, 3, 11, sparse=True)}
    assert shapes["mlp.experts.down_proj"] == (3, 11, 3, 29)
    assert cache.blocks[0].mlp.experts.outputs.shape == (33, 3, 29)
    assert shapes["mlp.gate"] == (3, 11, 7)


def test_flops_of_a_forward_pass():
    """Counted by hand: two per weight and token, plus four per visible pair, head and feature."""
    config = small_config()
    matrices = sum(
        v.size for k, v in random_params(config).items() if v.ndim == 2 and "embed" not in k
    )
    pairs = sum(t + 1 for t in range(11))
    want = 2 * 3 * 11 * matrices + 2 * 3 * 6 * 4 * 10 * pairs
    assert cost(config, 3, 11).forward_flops == want
    assert cost(config, 3, 11).training_flops == 3 * want


@pytest.mark.parametrize(
    ("name", "bytes_per_token"),
    [("qwen-7b", 524288), ("qwen2-7b", 57344), ("qwen2-72b", 327680), ("qwen2-0.5b", 12288)],
)
def test_published_kv_cache_bytes_in_bfloat16(name, bytes_per_token):
    assert 2 * cost(preset(name), 1, 1).kv_cache_per_token == bytes_per_token


@pytest.mark.parametrize("windows", [None, [3, None], [1, 7]])
def test_the_kv_cache_takes_what_was_announced(windows):
    config = small_config(layer_windows=windows)
    kv_cache = KVCache(config, 3, 11)
    assert kv_cache.nbytes == 4 * cost(config, 3, 11).kv_cache


def test_a_window_saves_work_in_proportion():
    """Of T tokens each sees W instead of (T + 1) / 2."""
    config, B, T, W = small_config(), 3, 100, 10
    full, short = (
        next(
            op for op in block_operations(config, B, T, window) if op.name == "self_attn.attention"
        )
        for window in (None, W)
    )
    pairs = sum(min(t + 1, W) for t in range(T))
    assert short.flops * (T * (T + 1) // 2) == full.flops * pairs
