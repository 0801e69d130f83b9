"""Mixture-of-experts models, and Qwen3, against transformers: all losses, gradients, folders."""

import json

import numpy as np
import pytest
from helpers.models import random_params, small_config
from parity.oracle import float64_transformers, transformers_config, transformers_model

from minqwen.layers.cross_entropy import cross_entropy_backward, cross_entropy_forward
from minqwen.model.checkpoint import load_checkpoint, save_checkpoint
from minqwen.model.config import QwenConfig
from minqwen.model.generate import generate, left_pad
from minqwen.model.kv_cache import KVCache
from minqwen.model.language_model import (
    language_model_backward,
    language_model_forward,
    router_caches,
)
from minqwen.model.long_context_fields import layer_windows
from minqwen.model.router_loss import router_loss_backward, router_loss_forward

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

MOE = {
    "model_type": "qwen2_moe",
    "num_experts": 7,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 5,
    "shared_expert_intermediate_size": 11,
    "router_aux_loss_coef": 0.3,
}
QWEN3 = {
    **MOE,
    "model_type": "qwen3_moe",
    "attention_bias": False,
    "shared_expert_intermediate_size": 0,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
CASES = {
    "qwen2_moe": MOE,
    "weights sum to 1": {**MOE, "norm_topk_prob": True},
    "every second layer": {**MOE, "decoder_sparse_step": 2, "num_hidden_layers": 4},
    "first layer dense": {**MOE, "mlp_only_layers": [0]},
    "tied, no bias": {**MOE, "tie_word_embeddings": True, "attention_bias": False},
    "windows": {
        **{**MOE, "num_hidden_layers": 3, "max_window_layers": 2},
        **{"use_sliding_window": True, "sliding_window": 3},
    },
    "yarn": {**MOE, "rope_scaling": YARN, "max_position_embeddings": 128},
    "K = E": {**MOE, "num_experts_per_tok": 7},
    "E = 64, K = 8": {**MOE, "num_experts": 64, "num_experts_per_tok": 8},
    "K = 1": {**MOE, "num_experts_per_tok": 1},
    "qwen3_moe": QWEN3,
    "qwen3_moe, weights sum to 1": {**QWEN3, "norm_topk_prob": True},
    "qwen3_moe, windows, first dense": {
        **{**QWEN3, "mlp_only_layers": [0]},
        **{"use_sliding_window": True, "sliding_window": 3},
    },
    "qwen3": {"model_type": "qwen3", "attention_bias": False},
    "qwen3, windows": {
        **{"model_type": "qwen3", "attention_bias": False, "max_window_layers": 1},
        **{"use_sliding_window": True, "sliding_window": 3},
    },
}
IDS = np.random.default_rng(5).integers(0, 61, (2, 13))


def batch(padding):
    rng = np.random.default_rng(3)
    ids, labels = rng.integers(0, 61, (2, 3, 13))
    mask = np.ones((3, 13), dtype=bool)
    if padding == "left":
        mask[1, :5] = mask[2, :11] = False
    elif padding == "right":
        mask[1, 9:] = mask[2, 4:] = False
    return ids, np.where(mask, labels, -100), mask


def worst(ours, theirs):
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def run_both(config, params, padding):
    """Return logits, loss of the words, balance loss and all gradients, ours and theirs."""
    ids, labels, mask = batch(padding)
    given = None if padding is None else mask
    logits, cache = language_model_forward(params, config, ids, attention_mask=given)
    loss, loss_cache = cross_entropy_forward(logits, labels, labels >= 0)
    dlogits = cross_entropy_backward(1.0, loss_cache)
    routers, balance, drouter = router_caches(cache), np.float64(0), None
    if routers:
        coef = config.router_aux_loss_coef
        _, balance, extra = router_loss_forward(routers, coef, given, pool_layers=True)
        drouter = router_loss_backward(1.0, extra)
    grads = language_model_backward(dlogits, cache, drouter)

    model = transformers_model(config, params)
    kwargs = {}
    if padding is not None:
        kwargs["attention_mask"] = torch.from_numpy(mask.astype(np.int64))
        kwargs["position_ids"] = torch.from_numpy(np.maximum(mask.cumsum(1) - 1, 0))
    if routers:
        kwargs["output_router_logits"] = True
    out = model(input_ids=torch.from_numpy(ids), **kwargs)
    their_loss = torch.nn.functional.cross_entropy(
        out.logits.reshape(-1, 61), torch.from_numpy(labels).reshape(-1), ignore_index=-100
    )
    their_balance = out.aux_loss if routers else torch.zeros(())
    (their_loss + config.router_aux_loss_coef * their_balance).backward()
    theirs = {n: p.grad.numpy() for n, p in model.named_parameters()}
    return (
        (logits[mask], float(loss), float(balance), grads),
        (out.logits.detach().numpy()[mask], their_loss.item(), their_balance.item(), theirs),
    )


@pytest.mark.parametrize("padding", [None, "left", "right"])
@pytest.mark.parametrize("case", CASES)
def test_float64(case, padding):
    config = small_config(**CASES[case])
    params = random_params(config)
    with float64_transformers():
        ours, theirs = run_both(config, params, padding)
    assert worst(ours[0], theirs[0]) < 1e-9
    for mine, yours in zip(ours[1:3], theirs[1:3], strict=True):
        assert abs(mine - yours) <= 1e-9 * abs(yours)
    assert set(ours[3]) == set(theirs[3])
    for name, grad in ours[3].items():
        assert worst(grad, theirs[3][name]) < 1e-9, name


@pytest.mark.parametrize("case", ["qwen2_moe", "qwen3_moe, weights sum to 1"])
def test_float32(case):
    """The same experts are chosen; a tie within rounding would show as a large difference."""
    config = small_config(**CASES[case])
    params = random_params(config, dtype="float32")
    ours, theirs = run_both(config, params, "left")
    assert worst(ours[0], theirs[0]) < 1e-5
    assert abs(ours[2] - theirs[2]) < 1e-5 * abs(theirs[2])
    for name, grad in ours[3].items():
        assert worst(grad, theirs[3][name]) < 2e-5, name


@pytest.mark.parametrize("case", ["qwen2_moe", "windows", "qwen3_moe", "qwen3, windows"])
def test_token_by_token_with_both_caches(case):
    config = small_config(**CASES[case])
    params = random_params(config)
    with float64_transformers(), torch.no_grad():
        model = transformers_model(config, params)
        kv_cache, cache = KVCache(config, 2, 13, dtype="float64"), None
        for start, stop in ((0, 5), *((t, t + 1) for t in range(5, 13))):
            ours, _ = language_model_forward(params, config, IDS[:, start:stop], kv_cache=kv_cache)
            out = model(torch.from_numpy(IDS[:, start:stop]), cache=cache, use_cache=True)
            cache = out.cache
            assert worst(ours, out.logits.numpy()) < 1e-9, start


@pytest.mark.parametrize("case", ["qwen2_moe", "qwen3_moe"])
def test_greedy_decoding_gives_the_same_tokens(case):
    config = small_config(**CASES[case])
    params = random_params(config, dtype="float32")
    ids, mask = left_pad([[1, 2, 3, 4, 5, 6, 7], [8, 9]], pad_id=0)
    theirs = transformers_model(config, params).generate(
        torch.from_numpy(ids),
        attention_mask=torch.from_numpy(mask.astype(np.int64)),
        max_new_tokens=12,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=None,
    )
    ours = generate(params, config, ids, attention_mask=mask, max_new_tokens=12)
    np.testing.assert_array_equal(ours, theirs.numpy())


@pytest.mark.parametrize("case", CASES)
def test_windows_and_sparse_layers_are_theirs(case):
    config = small_config(**CASES[case])
    model = transformers_model(config, random_params(config, dtype="float32"))
    windows = [getattr(layer.self_attn, "sliding_window", None) for layer in model.model.layers]
    assert layer_windows(config) == tuple(W or None for W in windows)


@pytest.mark.parametrize("case", CASES)
def test_transformers_opens_what_we_save(tmp_path, case):
    pytest.importorskip("safetensors")
    config = small_config(**CASES[case])
    params = random_params(config, dtype="float32")
    save_checkpoint(tmp_path / "m", config, params)
    # not its default kernel for experts: that one refuses widths that are no multiple of 16 bytes
    more = {"experts_implementation": "eager"} if "moe" in config.model_type else {}
    model, notes = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "m",
        dtype=torch.float32,
        attn_implementation="eager",
        output_loading_info=True,
        **more,
    )
    assert not notes["missing_keys"], notes
    assert not notes["unexpected_keys"], notes
    theirs = model(torch.from_numpy(IDS)).logits.detach().numpy()
    ours, _ = language_model_forward(params, config, IDS)
    assert worst(ours, theirs) < 1e-5


@pytest.mark.parametrize("layout", ["one by one", "stacked", "in parts"])
@pytest.mark.parametrize("case", CASES)
def test_we_open_what_transformers_saves(tmp_path, case, layout):
    pytest.importorskip("safetensors")
    config = small_config(**CASES[case])
    params = random_params(config, dtype="float32")
    model = transformers_model(config, params)
    options = {"stacked": {"save_original_format": False}, "in parts": {"max_shard_size": "20KB"}}
    model.save_pretrained(tmp_path / "m", **options.get(layout, {}))
    loaded_config, loaded = load_checkpoint(tmp_path / "m")
    assert list(loaded) == list(params)
    for name, w in params.items():
        np.testing.assert_array_equal(loaded[name], w)
    ours, _ = language_model_forward(loaded, loaded_config, IDS)
    assert worst(ours, model(torch.from_numpy(IDS)).logits.detach().numpy()) < 1e-5


@pytest.mark.parametrize("kind", ["qwen2_moe", "qwen3_moe"])
def test_a_config_with_fields_left_out_is_read_as_transformers_reads_it(tmp_path, kind):
    bare = {"model_type": kind, "vocab_size": 61, "hidden_size": 32, "intermediate_size": 16}
    bare |= {"num_hidden_layers": 2, "num_attention_heads": 32, "head_dim": 4}
    (tmp_path / "config.json").write_text(json.dumps(bare), encoding="utf-8")
    ours = QwenConfig.from_pretrained(tmp_path)
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    names = ["num_experts", "num_experts_per_tok", "moe_intermediate_size", "norm_topk_prob"]
    names += [
        "num_key_value_heads",
        "router_aux_loss_coef",
        "decoder_sparse_step",
        "mlp_only_layers",
        "rms_norm_eps",
    ]
    for name in names:
        assert getattr(ours, name) == getattr(theirs, name), name
    again = transformers_config(ours)
    for name in names:
        assert getattr(again, name) == getattr(theirs, name), name
