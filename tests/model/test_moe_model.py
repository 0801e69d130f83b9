"""Mixture-of-experts models: fields, experts in files, router losses, KV cache, Qwen3's norms."""

import dataclasses
import json
import math

import numpy as np
import pytest
from helpers.fake_device import count_syncs, from_fake, install, to_fake
from helpers.models import random_params, small_config

from minqwen.layers.cross_entropy import cross_entropy_backward, cross_entropy_forward
from minqwen.layers.load_balancing_loss import load_balancing_loss_forward
from minqwen.layers.moe_router import moe_router_forward
from minqwen.model.accounting import cost
from minqwen.model.checkpoint import load_checkpoint, save_checkpoint
from minqwen.model.config import QwenConfig, param_shapes
from minqwen.model.expert_files import split_experts
from minqwen.model.generate import generate
from minqwen.model.init import init_params
from minqwen.model.kv_cache import KVCache
from minqwen.model.language_model import (
    language_model_backward,
    language_model_forward,
    router_caches,
)
from minqwen.model.long_context_fields import layer_windows
from minqwen.model.moe_fields import sparse_layers
from minqwen.model.presets import OWN_SIZES, own_size, preset
from minqwen.model.router_loss import expert_counts, router_loss_backward, router_loss_forward

MOE = {
    "model_type": "qwen2_moe",
    "num_experts": 7,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 5,
    "shared_expert_intermediate_size": 11,
    "router_aux_loss_coef": 0.3,
}
QWEN3 = {"model_type": "qwen3_moe", "attention_bias": False, "shared_expert_intermediate_size": 0}
CASES = {
    "shared": MOE,
    "no shared, weights sum to 1": {
        **MOE,
        "shared_expert_intermediate_size": 0,
        "norm_topk_prob": True,
    },
    "every second layer": {**MOE, "num_hidden_layers": 4, "decoder_sparse_step": 2},
    "windows": {**MOE, "use_sliding_window": True, "sliding_window": 3},
    "qwen3_moe": {**MOE, **QWEN3},
    "qwen3": {"model_type": "qwen3", "attention_bias": False},
}
IDS = np.random.default_rng(1).integers(0, 61, (3, 11))


def router_losses(params, config, ids, real=None, **options):
    """Return the loss of the words plus that of the routers, and its gradient."""
    logits, cache = language_model_forward(params, config, ids[:, :-1], attention_mask=real)
    loss, loss_cache = cross_entropy_forward(logits, ids[:, 1:], real)
    routers = router_caches(cache)
    extra, _, extra_cache = router_loss_forward(
        routers, config.router_aux_loss_coef, real, **options
    )
    dlogits = cross_entropy_backward(1.0, loss_cache)
    return loss + extra, language_model_backward(
        dlogits, cache, router_loss_backward(1.0, extra_cache)
    )


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("cuts", [range(1, 12), (4, 5, 11), (10, 11)])
def test_the_cache_gives_what_the_full_pass_gives(case, cuts):
    config = small_config(**CASES[case])
    params = random_params(config)
    real = np.ones(IDS.shape, bool)
    real[1, :3] = False
    full, _ = language_model_forward(params, config, IDS, attention_mask=real)
    kv_cache, start, parts = KVCache(config, 3, 11, dtype="float64"), 0, []
    for stop in cuts:
        part = language_model_forward(
            params,
            config,
            IDS[:, start:stop],
            attention_mask=real[:, :stop],
            kv_cache=kv_cache,
        )[0]
        parts.append(part)
        start = stop
    got = np.concatenate(parts, axis=1)
    assert np.abs(got - full)[real].max() < 1e-12 * np.abs(full).max()


@pytest.mark.parametrize("case", CASES)
def test_padding_changes_nothing_for_the_real_tokens(case):
    config = small_config(**CASES[case])
    params = random_params(config)
    real = np.ones(IDS.shape, bool)
    real[1, :4] = False
    padded, _ = language_model_forward(params, config, IDS, attention_mask=real)
    alone, _ = language_model_forward(params, config, IDS[1:2, 4:])
    np.testing.assert_allclose(padded[1:2, 4:], alone, atol=1e-12)


@pytest.mark.parametrize("case", [name for name in CASES if name != "qwen3"])
@pytest.mark.parametrize(
    "options", [{}, {"pool_layers": True}, {"z_coef": 0.2}, {"pool_layers": True, "z_coef": 0.2}]
)
def test_the_gradient_of_all_losses_together(case, options):
    """Against a central difference along a random direction in each parameter."""
    config = small_config(**CASES[case])
    params = random_params(config, seed=4)
    ids = np.random.default_rng(5).integers(0, 61, (2, 6))
    real = np.ones((2, 5), bool)
    real[1, :2] = False
    _, grads = router_losses(params, config, ids, real, **options)
    assert list(grads.keys() ^ params.keys()) == []
    rng = np.random.default_rng(6)
    for name, w in params.items():
        direction = rng.standard_normal(w.shape)
        step = 1e-6
        sides = [
            router_losses({**params, name: w + s * step * direction}, config, ids, real, **options)
            for s in (1, -1)
        ]
        want = (sides[0][0] - sides[1][0]) / (2 * step)
        got = (grads[name] * direction).sum()
        scale = np.sqrt((grads[name] ** 2).sum()) + 1e-3
        assert abs(got - want) < 2e-7 * scale, name


def test_losses_on_routers_must_be_as_many_as_routers():
    config = small_config(**MOE)
    params = random_params(config)
    logits, cache = language_model_forward(params, config, IDS)
    with pytest.raises(ValueError, match="one for each of 2 sparse layers, got 1"):
        language_model_backward(logits, cache, [np.zeros((33, 7))])
    with pytest.raises(ValueError, match="routers is empty"):
        router_loss_forward([], 0.1)


def collapsed(layers, E=8, tokens=16):
    """Routers of K = 2: in layer i always experts 2 i and 2 i + 1, with all of the probability."""
    caches = []
    for i in range(layers):
        x = np.ones((tokens, 1))
        w = np.full((E, 1), -50.0)
        w[2 * i : 2 * i + 2] = 50.0
        caches.append(moe_router_forward(x, w, 2)[2])
    return caches


def test_pooled_layers_hide_that_each_has_collapsed():
    routers = collapsed(4)
    _, pooled, _ = router_loss_forward(routers, 1.0, pool_layers=True)
    _, by_layer, _ = router_loss_forward(routers, 1.0)
    assert abs(pooled - 2.0) < 1e-12  # K: looks perfect
    assert abs(by_layer - 8.0) < 1e-12  # E: as bad as can be
    counts = expert_counts(routers)
    assert counts.tolist() == [[16 * (e // 2 == i) for e in range(8)] for i in range(4)]


def test_the_balance_of_layers_is_their_mean_and_even_routing_gives_k():
    config = small_config(**{**MOE, "num_hidden_layers": 3})
    params = random_params(config)
    _, cache = language_model_forward(params, config, IDS)
    routers = router_caches(cache)
    loss, balance, _ = router_loss_forward(routers, 0.25, z_coef=0.5)
    each = [
        load_balancing_loss_forward(r.router_logits, r.expert_ids, f_sums_to_k=True)[0]
        for r in routers
    ]
    assert abs(balance - np.mean(each)) < 1e-12
    lse = [np.log(np.exp(r.router_logits).sum(1)) for r in routers]
    assert abs(loss - (0.25 * balance + 0.5 * np.mean([(z**2).mean() for z in lse]))) < 1e-12
    for name in params:
        if name.endswith("mlp.gate.weight"):
            params[name] *= 0
    _, cache = language_model_forward(params, config, IDS)
    _, balance, _ = router_loss_forward(router_caches(cache), 1.0)
    assert abs(balance - 3.0) < 1e-12  # K, though ties send every token to experts 0 1 2


def test_padding_is_left_out_of_the_z_loss_and_of_the_counts():
    config = small_config(**MOE)
    params = random_params(config)
    real = np.ones(IDS.shape, bool)
    real[1, :4] = False
    found = []
    for ids in (IDS, np.where(real, IDS, 60 - IDS)):
        _, cache = language_model_forward(params, config, ids, attention_mask=real)
        routers = router_caches(cache)
        found.append(router_loss_forward(routers, 0.0, real, z_coef=1.0)[0])
        assert expert_counts(routers, real).sum() == 2 * 3 * real.sum()
    assert abs(found[0] - found[1]) < 1e-12
    assert abs(router_loss_forward(routers, 0.0, z_coef=1.0)[0] - found[1]) > 1e-3


def test_padding_is_left_out_of_the_balance():
    config = small_config(**MOE)
    params = random_params(config)
    real = np.ones(IDS.shape, bool)
    real[1, :4] = False
    real[2, 2:] = False
    balances = []
    for ids in (IDS, np.where(real, IDS, 60 - IDS)):
        _, cache = language_model_forward(params, config, ids, attention_mask=real)
        routers = router_caches(cache)
        balances += [
            router_loss_forward(routers, 1.0, real, pool_layers=pool)[1] for pool in (False, True)
        ]
    assert abs(balances[0] - balances[2]) < 1e-12
    assert abs(balances[1] - balances[3]) < 1e-12
    assert abs(router_loss_forward(routers, 1.0)[1] - balances[2]) > 1e-3


def test_following_the_balance_loss_alone_makes_the_load_even():
    """From a router that likes one expert more, or less, than all others."""
    config = small_config(**{**MOE, "num_experts": 5, "num_experts_per_tok": 1})
    params = random_params(config)
    ids = np.random.default_rng(3).integers(0, 61, (6, 11))
    routers = [name for name in params if name.endswith("mlp.gate.weight")]
    for name in routers:
        params[name][1:] = params[name][0] + 0.01 * params[name][1:]
    for step in range(40):
        _, cache = language_model_forward(params, config, ids)
        _, _, loss_cache = router_loss_forward(router_caches(cache), 1.0)
        counts = expert_counts(router_caches(cache))
        if step == 0:
            uneven = counts.max()
        drouter = router_loss_backward(1.0, loss_cache)
        grads = language_model_backward(np.zeros((6, 11, 61)), cache, drouter)
        for name in routers:
            params[name] = params[name] - 1.0 * grads[name]
    assert counts.max() < 0.8 * uneven


def test_one_expert_for_all_is_the_dense_model():
    dense = small_config()
    params = random_params(dense)
    sparse = small_config(
        model_type="qwen2_moe", num_experts=1, num_experts_per_tok=1, moe_intermediate_size=23
    )
    moe_params = {}
    for name in param_shapes(sparse):
        layer = name.split(".mlp.")[0]
        if name.endswith("gate_up_proj"):
            gate, up = (params[f"{layer}.mlp.{part}_proj.weight"] for part in ("gate", "up"))
            moe_params[name] = np.concatenate([gate, up])[None]
        elif name.endswith("experts.down_proj"):
            moe_params[name] = params[f"{layer}.mlp.down_proj.weight"][None]
        elif name.endswith("mlp.gate.weight"):
            moe_params[name] = np.ones((1, 29))
        else:
            moe_params[name] = params[name]
    want, cache = language_model_forward(params, dense, IDS)
    got, moe_cache = language_model_forward(moe_params, sparse, IDS)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-12)
    grads = language_model_backward(want, cache)
    moe_grads = language_model_backward(want, moe_cache)
    for name, grad in moe_grads.items():
        layer = name.split(".mlp.")[0]
        if name.endswith("gate_up_proj"):
            gate, up = (grads[f"{layer}.mlp.{part}_proj.weight"] for part in ("gate", "up"))
            theirs = np.concatenate([gate, up])[None]
        elif name.endswith("experts.down_proj"):
            theirs = grads[f"{layer}.mlp.down_proj.weight"][None]
        elif name.endswith("mlp.gate.weight"):
            assert (grad == 0).all()
            continue
        else:
            theirs = grads[name]
        np.testing.assert_allclose(grad, theirs, rtol=0, atol=1e-11 * np.abs(theirs).max())


def test_generation_with_the_cache_is_generation_without():
    config = small_config(**MOE)
    params = random_params(config, dtype="float32")
    got = generate(params, config, IDS[:, :4], max_new_tokens=9)
    ids = IDS[:, :4]
    for _ in range(9):
        logits, _ = language_model_forward(params, config, ids, last_only=True)
        ids = np.concatenate([ids, logits[:, -1:].argmax(-1)], axis=1)
    np.testing.assert_array_equal(got, ids)


def test_on_a_device_every_sparse_layer_waits_once(monkeypatch):
    install(monkeypatch)
    config = small_config(**{**MOE, "num_hidden_layers": 3})
    params = random_params(config, dtype="float32")
    want, _ = language_model_forward(params, config, IDS)
    moved = {name: to_fake(w) for name, w in params.items()}
    with count_syncs() as syncs:
        logits, _ = language_model_forward(moved, config, IDS)
    assert syncs == {"asnumpy": 3}
    np.testing.assert_array_equal(from_fake(logits), want)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_experts": -1}, "num_experts must be a whole number, got -1"),
        ({"num_experts_per_tok": 0}, "num_experts_per_tok must be from 1 to num_experts=7, got 0"),
        ({"num_experts_per_tok": 8}, "num_experts_per_tok must be from 1 to num_experts=7, got 8"),
        ({"moe_intermediate_size": 0}, "moe_intermediate_size must be at least 1, got 0"),
        ({"shared_expert_intermediate_size": 1.5}, "shared_expert_intermediate_size must be"),
        ({"norm_topk_prob": 1}, "norm_topk_prob must be true or false, got 1"),
        ({"router_aux_loss_coef": -0.1}, "router_aux_loss_coef must be 0 or above, got -0.1"),
        ({"decoder_sparse_step": 0}, "decoder_sparse_step must be a whole number of at least 1"),
        ({"mlp_only_layers": 3}, "mlp_only_layers must be a list of layer numbers, got 3"),
        ({"model_type": "qwen2"}, "num_experts=7 needs model_type qwen2_moe or qwen3_moe"),
        ({"model_type": "qwen3_moe"}, "qwen3_moe has no shared expert"),
    ],
)
def test_a_wrong_field_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        small_config(**{**MOE, **changes})


def test_which_layers_are_sparse():
    def of(**changes):
        return sparse_layers(small_config(**{**MOE, "num_hidden_layers": 6, **changes}))

    assert of() == (True,) * 6
    assert of(decoder_sparse_step=3) == (False, False, True, False, False, True)
    assert of(mlp_only_layers=[0, 5]) == (False, True, True, True, True, False)
    assert of(decoder_sparse_step=2, mlp_only_layers=[1]) == (False,) * 3 + (True, False, True)
    assert of(num_experts=0) == (False,) * 6


def test_which_layers_slide_in_a_mixture_of_experts():
    def of(**changes):
        values = {**MOE, "num_hidden_layers": 5, "use_sliding_window": True, "sliding_window": 4}
        return layer_windows(small_config(**{**values, **changes}))

    assert of(max_window_layers=3) == (4, None, 4, None, None)
    assert of(**QWEN3, max_window_layers=3) == (4,) * 5
    assert of(use_sliding_window=False) == (None,) * 5
    assert of(sliding_window=None) == (None,) * 5
    kinds = ["full_attention"] * 4 + ["sliding_attention"]
    assert of(layer_types=kinds) == (None,) * 4 + (4,)
    values = {**MOE, **QWEN3, "num_hidden_layers": 5, "use_sliding_window": True}
    values = small_config(**values, sliding_window=4).to_dict()
    assert layer_windows(QwenConfig.from_dict({**values, "layer_types": kinds})) == (4,) * 5


@pytest.mark.parametrize("case", CASES)
def test_a_config_goes_into_a_file_and_comes_back(case):
    config = small_config(**CASES[case])
    values = json.loads(json.dumps(config.to_dict()))
    assert QwenConfig.from_dict(values) == config
    assert ("num_experts" in values) == ("moe" in config.model_type)
    name = {"qwen2_moe": "Qwen2Moe", "qwen3_moe": "Qwen3Moe", "qwen3": "Qwen3"}[config.model_type]
    assert values["architectures"] == [f"{name}ForCausalLM"]


def test_nested_fields_are_copies():
    layers = [1]
    config = small_config(**MOE, mlp_only_layers=layers)
    layers.append(0)
    config.to_dict()["mlp_only_layers"].append(0)
    assert config.mlp_only_layers == [1]


def test_a_whole_number_for_the_coefficient_becomes_a_float():
    """transformers refuses a file with a 0 there."""
    coef = small_config(**{**MOE, "router_aux_loss_coef": 0}).to_dict()["router_aux_loss_coef"]
    assert isinstance(coef, float)


def test_fields_of_files_under_other_names_or_missing():
    values = small_config(**MOE).to_dict()
    assert values["qkv_bias"] is True
    assert "attention_bias" not in values
    assert not QwenConfig.from_dict({**values, "qkv_bias": False}).attention_bias
    both = {**values, "qkv_bias": False, "attention_bias": True}
    assert not QwenConfig.from_dict(both).attention_bias
    with pytest.raises(ValueError, match="num_experts must be a whole number, got None"):
        QwenConfig.from_dict({**values, "num_experts": None})
    assert QwenConfig.from_dict({**values, "sliding_window": 0}).sliding_window is None
    assert QwenConfig.from_dict({**values, "mlp_only_layers": None}).mlp_only_layers == []
    values = small_config(**{**MOE, **QWEN3}).to_dict()
    values["num_local_experts"] = values.pop("num_experts")
    assert QwenConfig.from_dict(values).num_experts == 7
    assert QwenConfig.from_dict({**values, "num_experts": 9}).num_experts == 7
    assert not QwenConfig.from_dict(
        {k: v for k, v in values.items() if "bias" not in k}
    ).attention_bias
    bare = {"model_type": "qwen3_moe", "vocab_size": 9, "hidden_size": 8, "intermediate_size": 8}
    bare |= {"num_hidden_layers": 1, "num_attention_heads": 32, "head_dim": 4}
    config = QwenConfig.from_dict(bare)
    assert config.num_key_value_heads == 4
    assert (config.num_experts, config.num_experts_per_tok, config.moe_intermediate_size) == (
        *(128, 8, 768),
    )
    config = QwenConfig.from_dict({**bare, "model_type": "qwen2_moe"})
    assert (config.num_experts, config.shared_expert_intermediate_size) == (60, 5632)
    assert (config.num_experts_per_tok, config.num_key_value_heads) == (4, 16)
    dense = QwenConfig.from_dict({**bare, "model_type": "qwen3", "head_dim": None})
    assert (dense.num_key_value_heads, dense.head_dim, dense.attention_bias) == (32, 128, False)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("file_format", ["safetensors", "npz"])
def test_experts_in_files_one_by_one(tmp_path, case, file_format):
    if file_format == "safetensors":
        pytest.importorskip("safetensors")
    config = small_config(**CASES[case])
    params = random_params(config, dtype="float32")
    save_checkpoint(tmp_path / "m", config, params, file_format=file_format)
    again, loaded = load_checkpoint(tmp_path / "m", dtype=None)
    assert again == config
    assert list(loaded) == list(params)
    for name, w in params.items():
        np.testing.assert_array_equal(loaded[name], w)
    if file_format == "npz" and "moe" in config.model_type:
        names = np.load(tmp_path / "m" / "model.npz").files
        assert "model.layers.1.mlp.experts.6.up_proj.weight" in names
        assert not any("gate_up" in name for name in names)


def test_experts_in_files_stacked(tmp_path):
    config = small_config(**MOE)
    params = random_params(config, dtype="float32")
    save_checkpoint(tmp_path / "m", config, params, file_format="npz")
    np.savez(tmp_path / "m" / "model.npz", **params)
    _, loaded = load_checkpoint(tmp_path / "m")
    for name, w in params.items():
        np.testing.assert_array_equal(loaded[name], w)


def test_more_than_ten_experts_stay_in_order(tmp_path):
    """In the order of text, 10 would come before 2."""
    config = small_config(**{**MOE, "num_experts": 13})
    params = random_params(config, dtype="float32")
    save_checkpoint(tmp_path / "m", config, params, file_format="npz")
    _, loaded = load_checkpoint(tmp_path / "m")
    for name, w in params.items():
        np.testing.assert_array_equal(loaded[name], w)


def test_where_an_expert_stands_in_the_stack():
    rng = np.random.default_rng(0)
    gate_up, down = rng.standard_normal((3, 10, 4)), rng.standard_normal((3, 4, 5))
    name = "model.layers.7.mlp.experts"
    parts = split_experts({f"{name}.gate_up_proj": gate_up, f"{name}.down_proj": down, "b": 1})
    np.testing.assert_array_equal(parts[f"{name}.2.gate_proj.weight"], gate_up[2, :5])
    np.testing.assert_array_equal(parts[f"{name}.2.up_proj.weight"], gate_up[2, 5:])
    np.testing.assert_array_equal(parts[f"{name}.2.down_proj.weight"], down[2])
    assert len(parts) == 10


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("missing", r"the experts do not fit the config: missing .*experts\.4\.up_proj\.weight"),
        ("extra", r"extra model\.layers\.1\.mlp\.experts\.7\.up_proj\.weight"),
        ("shape", r"experts\.4\.up_proj\.weight \(5, 28\) instead of \(5, 29\)"),
        (
            "expert 0",
            r"do not fit the config: missing model\.layers\.1\.mlp\.experts\.0\.down_proj",
        ),
        ("both layouts", r"layers\.1\.mlp\.experts is there twice, one by one and stacked"),
        ("all of a layer", r"missing model\.layers\.1\.mlp\.experts\.down_proj, model\.layers\.1"),
    ],
)
def test_experts_that_do_not_fit_are_named(tmp_path, damage, message):
    config = small_config(**MOE)
    params = random_params(config, dtype="float32")
    save_checkpoint(tmp_path / "m", config, params, file_format="npz")
    parts = split_experts(params)
    name = "model.layers.1.mlp.experts.4.up_proj.weight"
    if damage == "missing":
        del parts[name]
    elif damage == "extra":
        parts[name.replace("4", "7")] = parts[name]
    elif damage == "shape":
        parts[name] = parts[name][:, :-1]
    elif damage == "expert 0":
        parts = {k: w for k, w in parts.items() if "layers.1.mlp.experts.0." not in k}
    elif damage == "both layouts":
        stack = "model.layers.1.mlp.experts.gate_up_proj"
        parts[stack] = params[stack]
    else:
        parts = {k: w for k, w in parts.items() if "layers.1.mlp.experts" not in k}
    np.savez(tmp_path / "m" / "model.npz", **parts)
    with pytest.raises(ValueError, match=message):
        load_checkpoint(tmp_path / "m")


def test_experts_of_several_precisions_become_the_widest(tmp_path):
    config = small_config(**MOE)
    params = random_params(config, dtype="float32")
    save_checkpoint(tmp_path / "m", config, params, file_format="npz")
    parts = split_experts(params)
    for name in parts:
        if ".experts.0." in name:
            parts[name] = parts[name].astype("float16")
    np.savez(tmp_path / "m" / "model.npz", **parts)
    _, loaded = load_checkpoint(tmp_path / "m")
    for name, w in params.items():
        assert loaded[name].dtype == np.float32
        np.testing.assert_allclose(loaded[name], w, rtol=1e-3, atol=1e-3)


def test_published_sizes():
    """Total and activated, with and without embeddings; the sums are written out for the second."""
    small, large = preset("qwen1.5-moe-a2.7b"), preset("qwen2-57b-a14b")
    found = cost(small, 1, 1)
    assert found.parameters == 14_315_784_192
    assert found.activated_parameters == 2_689_173_504
    assert found.activated_parameters - found.embedding_parameters == 2_066_843_648
    found = cost(large, 1, 1)
    V, D, L, H, Hkv, Dh, E, K, Fe = 151936, 3584, 28, 28, 4, 128, 64, 8, 2560
    attention = 2 * D * H * Dh + 2 * D * Hkv * Dh + H * Dh + 2 * Hkv * Dh
    shared = 3 * D * 8 * Fe + D
    around = 2 * V * D + D
    total = around + L * (attention + 2 * D + E * D + E * 3 * D * Fe + shared)
    assert found.parameters == total == 57_408_658_944
    assert found.activated_parameters == total - L * (E - K) * 3 * D * Fe == 14_249_270_784
    assert found.activated_parameters - found.embedding_parameters == 13_160_193_536
    half = dataclasses.replace(large, decoder_sparse_step=2)
    found = cost(half, 1, 1)
    assert found.activated_parameters == found.parameters - 14 * (E - K) * 3 * D * Fe
    dense = cost(preset("qwen2-7b"), 1, 1)
    assert dense.activated_parameters == dense.parameters


@pytest.mark.parametrize("name", [name for name in OWN_SIZES if name.endswith("-moe")])
def test_our_own_sizes_activate_what_their_dense_twin_has(name):
    sparse, dense = (own_size(n, 500) for n in (name, name.removesuffix("-moe")))
    extra = dense.num_hidden_layers * dense.hidden_size * (8 + 1)  # the router and the shared gate
    assert cost(sparse, 1, 1).activated_parameters == cost(dense, 1, 1).parameters + extra
    assert cost(sparse, 1, 1).parameters > 1.5 * cost(dense, 1, 1).activated_parameters


def test_fresh_experts():
    config = dataclasses.replace(own_size("medium-moe", 500), num_hidden_layers=2)
    params = init_params(config, np.random.default_rng(0))
    name = "model.layers.0.mlp"
    for part, std in (
        ("gate.weight", 0.02),
        ("experts.gate_up_proj", 0.02),
        ("experts.down_proj", 0.02 / 2),
        ("shared_expert.down_proj.weight", 0.02 / 2),
    ):
        w = params[f"{name}.{part}"]
        assert abs(w.std() - std) < 4 * std / math.sqrt(2 * w.size), part


def test_queries_and_keys_are_normalised_in_qwen3():
    """Their length does not matter, and each head has its own root mean square."""
    config = small_config(model_type="qwen3", attention_bias=False, rms_norm_eps=1e-12)
    params = random_params(config)
    assert params["model.layers.0.self_attn.q_norm.weight"].shape == (10,)
    want, _ = language_model_forward(params, config, IDS)
    for part in ("q", "k"):
        scaled = {**params}
        name = f"model.layers.0.self_attn.{part}_proj.weight"
        scaled[name] = (
            params[name] * np.repeat(np.arange(2.0, 2 + len(params[name]) // 10), 10)[:, None]
        )
        got, _ = language_model_forward(scaled, config, IDS)
        np.testing.assert_allclose(got, want, atol=1e-9)
