"""The fast decoding step: the numbers of the plain pass, in every kind of model that it serves."""

import numpy as np
import pytest
from helpers.models import random_params, small_config

from minqwen.model import decode_step as module
from minqwen.model import generate as generate_module
from minqwen.model.decode_step import decode_step, decode_weights, row_layout
from minqwen.model.generate import generate, left_pad
from minqwen.model.kv_cache import KVCache
from minqwen.model.language_model import language_model_forward

YARN = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 8}
SERVED = {
    "plain": {},
    "tied": {"tie_word_embeddings": True},
    "windows": {"layer_windows": [4, None]},
    "qwen3": {"model_type": "qwen3", "attention_bias": False},
    "linear": {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    "yarn": {"rope_scaling": YARN},
    "moe": {
        "model_type": "qwen2_moe",
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 8,
        "shared_expert_intermediate_size": 8,
    },
}
LEFT_TO_PLAIN = {
    "ntk": {"use_dynamic_ntk": True},
    "dynamic": {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
    "logn": {"use_logn_attn": True},
    "dca": {"dual_chunk_attention_config": {"chunk_size": 7, "local_size": 2}},
}
ROOM = 24


def start(changes, dtype, real=None):
    """Return a model, two rows of tokens, and two caches that hold the first five of each."""
    config = small_config(**changes)
    params = {name: w.astype(dtype) for name, w in random_params(config).items()}
    ids = np.random.default_rng(0).integers(0, 61, (2, ROOM))
    caches = [KVCache(config, 2, ROOM, dtype=dtype) for _ in range(2)]
    for kv_cache in caches:
        language_model_forward(
            params, config, ids[:, :5], attention_mask=real, kv_cache=kv_cache, last_only=True
        )
    return config, params, ids, caches


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("dtype", "limit"), [("float64", 1e-13), ("float32", 1e-5)])
@pytest.mark.parametrize("kind", SERVED)
def test_every_step_gives_the_logits_of_the_plain_pass(kind, dtype, limit, padded):
    real = np.array([[True] * 5, [False, False, True, True, True]]) if padded else None
    config, params, ids, (ours, plain) = start(SERVED[kind], dtype, real)
    weights = decode_weights(params, config, ROOM)
    for i in range(5, ROOM):
        got = decode_step(weights, ids[:, i], ours)
        want, _ = language_model_forward(params, config, ids[:, i : i + 1], kv_cache=plain)
        assert got.dtype == dtype
        assert np.abs(got - want[:, 0]).max() <= limit * np.abs(want).max()
    assert ours.length == plain.length == ROOM
    for a, b in zip(ours.keys + ours.values, plain.keys + plain.values, strict=True):
        np.testing.assert_allclose(a, b, atol=limit * 100)


@pytest.mark.parametrize("changes", LEFT_TO_PLAIN.values(), ids=LEFT_TO_PLAIN)
def test_what_depends_on_the_length_is_left_to_the_plain_pass(changes):
    config = small_config(**{"max_position_embeddings": 8, **changes})
    params = random_params(config)
    assert decode_weights(params, config, ROOM) is None
    ids = np.random.default_rng(0).integers(0, 61, (1, 5))
    out = generate(params, config, ids, max_new_tokens=6)
    for end in range(5, 11):
        logits, _ = language_model_forward(params, config, out[:, :end], last_only=True)
        assert out[0, end] == logits.argmax()


def test_half_precision_is_left_to_the_plain_pass():
    config = small_config()
    params = {name: w.astype(np.float16) for name, w in random_params(config).items()}
    assert decode_weights(params, config, ROOM) is None


def test_generate_takes_it_for_all_tokens_but_the_first(monkeypatch):
    calls = []

    def count(*args):
        calls.append(args)
        return decode_step(*args)

    config = small_config()
    params = random_params(config)
    ids, mask = left_pad([[1, 2, 3], [4]], 0)
    monkeypatch.setattr(generate_module, "decode_weights", lambda *args: None)
    want = generate(params, config, ids, attention_mask=mask, max_new_tokens=7)
    monkeypatch.setattr(generate_module, "decode_weights", decode_weights)
    monkeypatch.setattr(generate_module, "decode_step", count)
    got = generate(params, config, ids, attention_mask=mask, max_new_tokens=7)
    np.testing.assert_array_equal(got, want)
    assert len(calls) == 6


def test_a_step_that_breaks_off_loses_nothing(monkeypatch):
    config, params, ids, (kv_cache, plain) = start({"layer_windows": [3, None]}, "float64")
    weights, whole = decode_weights(params, config, ROOM), module.sigmoid

    def stop(x):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "sigmoid", stop)
    with pytest.raises(KeyboardInterrupt):
        decode_step(weights, ids[:, 5], kv_cache)
    monkeypatch.setattr(module, "sigmoid", whole)
    for i in range(5, ROOM):
        want, _ = language_model_forward(params, config, ids[:, i : i + 1], kv_cache=plain)
        np.testing.assert_allclose(
            decode_step(weights, ids[:, i], kv_cache), want[:, 0], atol=1e-12
        )


def test_errors():
    config, params, ids, (kv_cache, _) = start({}, "float64")
    with pytest.raises(ValueError, match=f"kv_cache has max_length={ROOM}, weights 7"):
        decode_step(decode_weights(params, config, 7), ids[:, 5], kv_cache)
    weights = decode_weights(params, config, ROOM)
    with pytest.raises(ValueError, match="kv_cache is for B=2, input_ids have B=1"):
        decode_step(weights, ids[:1, 5], kv_cache)
    for i in range(5, ROOM):
        decode_step(weights, ids[:, i], kv_cache)
    with pytest.raises(ValueError, match="1 more do not fit"):
        decode_step(weights, ids[:, 0], kv_cache)


def test_row_layout_changes_strides_alone():
    config, params, ids, (ours, plain) = start(SERVED["moe"], "float64")
    laid_out = row_layout(params)
    assert list(laid_out) == list(params)
    for name, w in params.items():
        np.testing.assert_array_equal(laid_out[name], w)
    name = "model.layers.0.self_attn.q_proj.weight"
    assert laid_out[name].flags.f_contiguous
    got = decode_step(decode_weights(laid_out, config, ROOM), ids[:, 5], ours)
    want, _ = language_model_forward(params, config, ids[:, 5:6], kv_cache=plain)
    np.testing.assert_allclose(got, want[:, 0], rtol=1e-12, atol=1e-12)
