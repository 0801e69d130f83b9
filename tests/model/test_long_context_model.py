"""Long-context techniques inside the model: which act where, the KV cache, padding, training."""

import dataclasses
import math

import numpy as np
import pytest
from helpers import references
from helpers.fake_device import count_syncs, install, to_fake
from helpers.models import random_params, small_config

from minqwen.layers.rope import rope_forward
from minqwen.model.config import QwenConfig
from minqwen.model.generate import generate
from minqwen.model.kv_cache import KVCache
from minqwen.model.language_model import language_model_backward, language_model_forward
from minqwen.model.layer_plan import (
    LayerPlan,
    layer_plans,
    layer_windows,
    position_tables,
)
from minqwen.model.self_attention import self_attention_forward

NTK = {"use_dynamic_ntk": True}
LOGN = {"use_logn_attn": True}
LADDER = {"layer_windows": [3, 6]}
YARN = {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8}}
DCA = {"dual_chunk_attention_config": {"chunk_size": 7, "local_size": 2}}
CHUNKS = {"chunk_size": 8, "local_size": 2}
CONFIGS = {
    "plain": {},
    "ntk": NTK,
    "logn": LOGN,
    "ntk, logn": NTK | LOGN,
    "windows": LADDER,
    "window on the upper layer": {
        "use_sliding_window": True,
        "sliding_window": 4,
        "max_window_layers": 1,
    },
    "window 1": {"layer_windows": [1, None]},
    "ntk, logn, windows": NTK | LOGN | LADDER,
    "linear": {"rope_scaling": {"rope_type": "linear", "factor": 3.0}},
    "dynamic": {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
    "yarn": YARN,
    "yarn, windows": YARN | LADDER,
    "dca": DCA,
    "dca, yarn, logn": DCA | YARN | LOGN,
    "dca, ntk": DCA | NTK,
}
T, TRAINED = 19, 8


def model(name, **changes):
    config = small_config(**{"max_position_embeddings": TRAINED, **CONFIGS[name], **changes})
    return config, random_params(config)


def tokens(rows=2, length=T, seed=0):
    return np.random.default_rng(seed).integers(0, 61, (rows, length))


def difference(got, want):
    return np.abs(got - want).max() / np.abs(want).max()


def test_the_plan_of_each_layer():
    config, _ = model("ntk, logn, windows")
    assert layer_plans(config, [8]) == (LayerPlan((1.0,), 3), LayerPlan((1.0,), 6))
    wide = dataclasses.replace(config, layer_windows=[9, None])  # alpha follows what a layer sees
    assert [p.alphas for p in layer_plans(wide, [8])] == [(1.0,), (1.0,)]
    assert [p.alphas for p in layer_plans(wide, [9])] == [(3.0,), (3.0,)]
    assert [p.alphas for p in layer_plans(wide, [17])] == [(3.0,), (7.0,)]
    assert [p.alphas for p in layer_plans(wide, [8, 17])] == [(1.0, 3.0), (1.0, 7.0)]
    assert layer_plans(wide, [17])[0].train_length == 8
    assert layer_plans(wide, [17], training=True)[0] == LayerPlan(window=9)
    dynamic, _ = model("dynamic")
    assert layer_plans(dynamic, [16], training=True)[0].alphas == (3.0,)  # as transformers does
    narrow, _ = model("dynamic", layer_windows=[3, None])  # so is this: no alpha for each window
    assert [p.alphas for p in layer_plans(narrow, [16])] == [(3.0,), (3.0,)]
    chunks = layer_plans(model("dca")[0], [30])[0].chunks
    assert chunks == (7, 2, 6)  # no position above the trained range


@pytest.mark.parametrize("name", ["ntk", "logn", "ntk, logn", "dynamic"])
def test_up_to_the_trained_length_nothing_changes_in_any_bit(name):
    config, params = model(name)
    plain, _ = model("plain")
    for length in (1, 7, 8):
        got = language_model_forward(params, config, tokens(length=length))[0]
        want = language_model_forward(params, plain, tokens(length=length))[0]
        np.testing.assert_array_equal(got, want)
    got = language_model_forward(params, config, tokens(length=9))[0]
    assert difference(got, language_model_forward(params, plain, tokens(length=9))[0]) > 1e-3


def test_logn_leaves_the_first_positions_as_they_were():
    (config, params), (plain, _) = model("logn"), model("plain")
    got, want = (language_model_forward(params, c, tokens())[0] for c in (config, plain))
    np.testing.assert_array_equal(got[:, :8], want[:, :8])
    assert (np.abs(got - want)[:, 8:].max(axis=(0, 2)) > 1e-3).all()


def test_a_window_as_long_as_the_text_is_none():
    (config, params), (plain, _) = model("windows", layer_windows=[T, 50]), model("plain")
    got, want = (language_model_forward(params, c, tokens())[0] for c in (config, plain))
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("also", [{}, YARN, LOGN, NTK], ids=["alone", "yarn", "logn", "ntk"])
def test_dual_chunks_equal_plain_attention_up_to_their_range(also):
    """Whatever else acts: within 7 tokens nothing but the distances is theirs."""
    changes = {"max_position_embeddings": 4, **also}  # so that it does act within 7
    (config, params), (without, _) = model("dca", **changes), model("plain", **changes)
    got, want = (language_model_forward(params, c, tokens())[0] for c in (config, without))
    assert difference(got[:, :7], want[:, :7]) < 1e-12
    assert np.abs(got - want)[:, 7:].max() > 1e-3
    plain = language_model_forward(params, model("plain")[0], tokens())[0]
    assert not also or difference(want[:, :7], plain[:, :7]) > 1e-3


@pytest.mark.parametrize("name", ["ntk", "logn"])
def test_training_is_as_the_report_trained(name):
    (config, params), (plain, _) = model(name), model("plain")
    got = language_model_forward(params, config, tokens(), training=True)[0]
    np.testing.assert_array_equal(got, language_model_forward(params, plain, tokens())[0])


@pytest.mark.parametrize(
    "pieces", [(19,), (1,) * 19, (5, 4, 1, 1, 8), (8, 1, 10), (9, 10), (17, 2)]
)
@pytest.mark.parametrize("name", CONFIGS)
def test_the_cached_pass_equals_the_full_pass(name, pieces):
    """What a pass returns for its tokens is what a run without a cache returns up to there."""
    config, params = model(name)
    ids, start = tokens(), 0
    kv_cache = KVCache(config, 2, T, dtype="float64")
    for piece in pieces:
        end = start + piece
        got, _ = language_model_forward(params, config, ids[:, start:end], kv_cache=kv_cache)
        want, _ = language_model_forward(params, config, ids[:, :end])
        assert got.shape == (2, piece, 61)
        assert difference(got, want[:, start:]) < 1e-12
        start = end
        assert kv_cache.length == end


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_row_does_not_depend_on_padding_or_on_other_rows(name, side):
    config, params = model(name)
    ids, real, n = tokens(), np.ones((2, T), dtype=bool), 12
    padding = slice(0, T - n) if side == "left" else slice(n, T)
    kept = slice(T - n, T) if side == "left" else slice(0, n)
    real[1, padding] = False
    got = language_model_forward(params, config, ids, attention_mask=real)[0][1, kept]
    alone = language_model_forward(params, config, ids[1:, kept])[0][0]
    assert difference(got, alone) < 1e-12


@pytest.mark.parametrize("name", CONFIGS)
def test_the_cached_pass_with_left_padding(name):
    config, params = model(name)
    ids, real = tokens(), np.ones((2, T), dtype=bool)
    real[1, :5] = False
    kv_cache, start = KVCache(config, 2, T, dtype="float64"), 0
    for end in (7, 8, 12, 18, 19):
        got, _ = language_model_forward(
            params, config, ids[:, start:end], attention_mask=real[:, :end], kv_cache=kv_cache
        )
        want, _ = language_model_forward(params, config, ids[:, :end], attention_mask=real[:, :end])
        use = real[:, start:end]
        assert difference(got[use], want[:, start:][use]) < 1e-12
        start = end


@pytest.mark.parametrize("name", CONFIGS)
def test_greedy_decoding_with_the_cache_equals_decoding_without(name):
    config, params = model(name)
    ids = tokens(length=6)
    got = generate(params, config, ids, max_new_tokens=14)
    for _ in range(14):
        logits, _ = language_model_forward(params, config, ids)
        ids = np.concatenate((ids, logits[:, -1:].argmax(-1)), axis=1)
    np.testing.assert_array_equal(got, ids)


@pytest.mark.parametrize("name", ["ntk, logn, windows", "dca, yarn, logn", "dynamic"])
def test_gradients_pass_a_directional_check(name):
    """All parameters at once, at the sizes of this file; each one by itself is in the table."""
    config, params = model(name)
    rng = np.random.default_rng(3)
    logits, cache = language_model_forward(params, config, tokens())
    dlogits = rng.standard_normal(logits.shape)
    grads = language_model_backward(dlogits, cache)
    step = {key: rng.standard_normal(w.shape) for key, w in params.items()}

    def f(h):
        moved = {key: w + h * step[key] for key, w in params.items()}
        return (language_model_forward(moved, config, tokens())[0] * dlogits).sum()

    want = (f(1e-6) - f(-1e-6)) / 2e-6
    got = sum((grads[key] * step[key]).sum() for key in params)
    assert abs(got - want) < 1e-6 * abs(want)


# --- rope_scaling, key by key ---------------------------------------------------------------------


def yarn_config(scaling, **changes):
    """Return a config wide enough for every key to matter; a key of value None is left out."""
    values = {"rope_type": "yarn", "factor": 6.0, "original_max_position_embeddings": 4096}
    values = {key: value for key, value in (values | scaling).items() if value is not None}
    wide = {"head_dim": 32, "rope_theta": 1e4, "max_position_embeddings": 8 * 4096}
    return small_config(rope_scaling=values, **(wide | changes))


def tables_of(config, positions):
    like, plan = np.zeros(1), layer_plans(config, [int(positions.max()) + 1])[0]
    return position_tables(plan, config, positions, positions, like)


@pytest.mark.parametrize(
    ("scaling", "told"),
    [
        ({}, {}),
        ({"beta_fast": 8.0}, {"fast": 8.0}),
        ({"beta_slow": 4.0}, {"slow": 4.0}),
        ({"truncate": False}, {"truncate": False}),
        ({"factor": 2.0}, {"factor": 2.0}),
        ({"factor": None}, {"factor": 8.0}),  # max_position_embeddings over the original
        ({"original_max_position_embeddings": None}, {"length": 8 * 4096}),
        ({"type": "linear"}, {}),  # rope_type wins
        ({"rope_type": None, "type": "yarn"}, {}),
    ],
    ids=str,
)
def test_every_key_of_yarn_does_what_the_slow_loop_does(scaling, told):
    told = {"factor": 6.0, "length": 4096, "fast": 32.0, "truncate": True} | told
    x = np.random.default_rng(0).standard_normal((1, 2, 5, 32))
    positions = np.array([0, 1, 30, 400, 3000])
    tables = tables_of(yarn_config(scaling), positions)
    got, _ = rope_forward(x, tables.cos, tables.sin)
    assert difference(got, references.yarn(x, positions, base=1e4, **told)) < 1e-12


@pytest.mark.parametrize("also", [{}, DCA], ids=["", "dca"])
@pytest.mark.parametrize(
    ("scaling", "want"),
    [
        ({}, 1 + math.log(6) / 10),
        ({"factor": None}, 1 + math.log(8) / 10),
        ({"attention_factor": 1.7}, 1.7),
        ({"attention_factor": 0.8}, 0.8),
        ({"attention_factor": 1.0}, 1.0),
        ({"mscale": 2.0, "mscale_all_dim": 0.5}, (1 + math.log(6) / 5) / (1 + math.log(6) / 20)),
        ({"mscale": 0.5, "mscale_all_dim": 2.0}, (1 + math.log(6) / 20) / (1 + math.log(6) / 5)),
        ({"mscale": 2.0}, 1 + math.log(6) / 10),
        ({"mscale": 2.0, "mscale_all_dim": 0.5, "attention_factor": 1.7}, 1.7),
    ],
    ids=str,
)
def test_every_vector_gets_longer_by_the_attention_factor(scaling, want, also):
    tables = tables_of(yarn_config(scaling, **also), np.array([0, 1, 30, 400]))
    pairs = [tables[:2]]
    if also:
        pairs += [tables.chunks.key, tables.chunks.intra, tables.chunks.succ, tables.chunks.inter]
    for cos, sin in pairs:
        np.testing.assert_allclose(np.hypot(cos, sin), want, rtol=1e-14)


def test_dual_chunks_with_an_attention_factor_and_logn_equal_the_slow_loops():
    """A factor of m on queries and keys is one of m * m on the queries."""
    m = 1.3
    scaling = {"rope_type": "yarn", "factor": 1.0, "original_max_position_embeddings": 64}
    config = QwenConfig(
        vocab_size=3,
        hidden_size=11,
        intermediate_size=5,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=6,
        rope_theta=100.0,
        max_position_embeddings=3,
        use_logn_attn=True,
        rope_scaling={**scaling, "attention_factor": m},
        dual_chunk_attention_config={"chunk_size": 4, "local_size": 2},
    )
    layer = "model.layers.0."
    params = {name.removeprefix(layer): w for name, w in random_params(config).items()}
    x = np.random.default_rng(1).standard_normal((2, 9, 11))
    got, _ = self_attention_forward(x, params, config, tables_of(config, np.arange(9)))
    wq, bq, wk, bk, wv, bv, wo = (
        params[f"self_attn.{name}"]
        for name in (
            "q_proj.weight",
            "q_proj.bias",
            "k_proj.weight",
            "k_proj.bias",
            "v_proj.weight",
            "v_proj.bias",
            "o_proj.weight",
        )
    )
    want = references.self_attention(x, m * m * wq, m * m * bq, wk, bk, wv, bv, wo, None, "dca")
    assert difference(got, want) < 1e-12


# --- the rolling cache ----------------------------------------------------------------------------


def test_a_layer_with_a_window_keeps_two_windows_however_long_the_text():
    config, params = model("windows")
    kv_cache = KVCache(config, 1, 500, dtype="float64")
    assert [k.shape[2] for k in kv_cache.keys] == [6, 12]
    assert kv_cache.nbytes == 2 * 3 * (6 + 12) * 10 * 8  # keys and values, Hkv, tokens, Dh
    ids = tokens(1, 300)
    got = [
        language_model_forward(params, config, ids[:, i : i + 1], kv_cache=kv_cache)[0]
        for i in range(300)
    ]
    want, _ = language_model_forward(params, config, ids)
    assert difference(np.concatenate(got, axis=1), want) < 1e-12


def test_a_pass_that_breaks_off_leaves_the_cache_as_it_was(monkeypatch):
    from minqwen.model import backbone

    for name in ("windows", "ntk", "dca"):
        config, params = model(name)
        ids, kv_cache = tokens(), KVCache(config, 2, T, dtype="float64")
        language_model_forward(params, config, ids[:, :8], kv_cache=kv_cache)
        whole = backbone.decoder_block_forward

        def stop(*args, whole=whole, **kwargs):
            if kwargs["layer"] == 1:
                raise KeyboardInterrupt
            return whole(*args, **kwargs)

        for end in (9, 12, 19):  # new alpha; short; longer than a rolling layer
            with monkeypatch.context() as patch:
                patch.setattr(backbone, "decoder_block_forward", stop)
                with pytest.raises(KeyboardInterrupt):
                    language_model_forward(params, config, ids[:, 8:end], kv_cache=kv_cache)
            assert kv_cache.length == 8
        got, _ = language_model_forward(params, config, ids[:, 8:11], kv_cache=kv_cache)
        want, _ = language_model_forward(params, config, ids[:, :11])
        assert difference(got, want[:, 8:]) < 1e-12


@pytest.mark.parametrize("name", ["plain", "ntk", "dca"])
def test_truncate_forgets_the_last_tokens(name):
    config, params = model(name)
    ids, other, kv_cache = tokens(), tokens(seed=1), KVCache(config, 2, T, dtype="float64")
    language_model_forward(params, config, ids[:, :12], kv_cache=kv_cache)
    kv_cache.truncate(7)
    got, _ = language_model_forward(params, config, other[:, 7:10], kv_cache=kv_cache)
    both = np.concatenate((ids[:, :7], other[:, 7:10]), axis=1)
    assert difference(got, language_model_forward(params, config, both)[0][:, 7:]) < 1e-12


def test_truncate_says_what_it_cannot_do():
    config, params = model("windows")
    kv_cache = KVCache(config, 2, T, dtype="float64")
    language_model_forward(params, config, tokens(), kv_cache=kv_cache)
    with pytest.raises(ValueError, match="length must be from 0 to 19, got 20"):
        kv_cache.truncate(20)
    with pytest.raises(ValueError, match="window of W=3 has rolled on"):
        kv_cache.truncate(5)
    kv_cache.truncate(0)  # nothing is needed
    with pytest.raises(ValueError, match=r"kv_cache is for layer_windows = \[3, 6\]"):
        language_model_forward(
            params, model("plain")[0], tokens(length=1), kv_cache=KVCache(config, 2, T)
        )


# --- dynamic NTK with a cache ---------------------------------------------------------------------


def run(config, params, ids, pieces, **options):
    """Return the logits of the last piece."""
    kv_cache, start = KVCache(config, len(ids), ids.shape[1], dtype="float64", **options), 0
    for piece in pieces:
        logits, _ = language_model_forward(
            params, config, ids[:, start : start + piece], kv_cache=kv_cache
        )
        start += piece
    return logits


def test_as_released_qwen_keeps_the_alpha_of_the_first_call():
    """A short prompt keeps alpha = 1 for ever; a long one decodes like a full pass."""
    (config, params), (plain, _) = model("ntk"), model("plain")
    ids = tokens()
    full = language_model_forward(params, config, ids)[0][:, -1:]
    released = run(config, params, ids, (8, *[1] * 11), as_released=True)
    assert difference(released, language_model_forward(params, plain, ids)[0][:, -1:]) < 1e-12
    assert difference(released, full) > 0.1  # the price
    assert difference(run(config, params, ids, (8, *[1] * 11)), full) < 1e-12
    assert difference(run(config, params, ids, (17, 1, 1), as_released=True), full) < 1e-12
    with_logn, _ = model("ntk, logn")  # LogN goes on, also as released
    frozen = run(with_logn, params, ids, (8, *[1] * 11), as_released=True)
    want = language_model_forward(params, model("logn")[0], ids)[0][:, -1:]
    assert difference(frozen, want) < 1e-12


def test_turning_the_old_keys_again_would_do_for_one_layer_only():
    """The keys of the second layer come from a first layer that worked with the old alpha.

    The last token as released differs from a full pass in one layer too; with the old keys turned
    again it would not, but with two layers it still would: the values differ, which no turn mends.
    """
    config, params = model("ntk")
    values = []
    for pieces in ((8, 9), (17,)):
        kv_cache, start = KVCache(config, 2, T, dtype="float64", as_released=True), 0
        for piece in pieces:
            ids = tokens()[:, start : start + piece]
            kv_cache._frozen = False  # as transformers: new tokens by the new alpha
            language_model_forward(params, config, ids, kv_cache=kv_cache)
            start += piece
        values.append([v[:, :, :8].copy() for v in kv_cache.values])
    np.testing.assert_array_equal(values[0][0], values[1][0])
    assert difference(values[0][1], values[1][1]) > 1e-2


def test_as_released_transformers_leaves_old_keys_and_goes_on_with_new_frequencies():
    config, params = model("dynamic")
    ids = tokens()
    full = language_model_forward(params, config, ids)[0][:, -1:]
    released = run(config, params, ids, (8, *[1] * 11), as_released=True)
    assert difference(released, full) > 0.1
    plain = language_model_forward(params, model("plain")[0], ids)[0][:, -1:]
    assert difference(released, plain) > 0.1  # the frequencies of the prompt are not kept
    assert difference(run(config, params, ids, (8, *[1] * 11)), full) < 1e-12


# --- configs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
def test_the_fields_survive_a_config_file(name):
    config, _ = model(name)
    again = QwenConfig.from_dict(config.to_dict())
    assert again == config
    assert layer_plans(again, [30]) == layer_plans(config, [30])


def test_fields_that_are_as_always_stay_out_of_the_file():
    assert "use_sliding_window" not in small_config().to_dict()
    null = small_config(use_sliding_window=True, sliding_window=None, max_window_layers=0)
    assert null.to_dict()["sliding_window"] is None
    assert layer_windows(QwenConfig.from_dict(null.to_dict())) == (None, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_scaling": {"rope_type": "yarn", "factor": 0.5}}, "rope_scaling.factor must be at"),
        ({"rope_scaling": {"rope_type": "dynamic"}}, "rope_scaling.factor must be at least 1"),
        ({"layer_windows": [3]}, "layer_windows must be a list of L=2 whole numbers"),
        ({"layer_windows": [3, 0]}, "layer_windows must be a list of L=2 whole numbers"),
        ({"layer_types": ["sliding_attention"]}, "layer_types must be a list of L=2 times"),
        ({"layer_types": ["full_attention", "linear"]}, "layer_types must be a list of L=2 times"),
        ({"max_window_layers": -1}, "max_window_layers must be a whole number"),
        ({"sliding_window": 0}, "sliding_window must be a whole number or null"),
        ({"use_dynamic_ntk": 1}, "use_dynamic_ntk must be true or false"),
        ({"dual_chunk_attention_config": {"chunk_size": 8}}, "local_size must be from 1 to 7"),
        (
            {"dual_chunk_attention_config": {"chunk_size": 8, "local_size": 8}},
            "dual_chunk_attention_config.local_size must be from 1 to 7, got 8",
        ),
        (
            {
                "dual_chunk_attention_config": {
                    "chunk_size": 8,
                    "local_size": 2,
                    "highest_position": 9,
                }
            },
            r"highest_position must be 7 \(the paper\) or 8 \(released\), got 9",
        ),
    ],
)
def test_an_impossible_field_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        small_config(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_scaling": {"rope_type": "longrope"}}, "rope_scaling of type longrope"),
        ({"rope_scaling": {"type": "mrope"}}, "rope_scaling of type mrope"),
        (NTK | YARN, "use_dynamic_ntk together with rope_scaling of type yarn"),
        (DCA | LADDER, "windows together with dual_chunk_attention_config"),
        (DCA | {"layer_windows": [None, 3]}, "windows together with dual_chunk_attention_config"),
    ],
)
def test_what_is_not_computed_is_refused(changes, message):
    config = small_config(**changes)
    with pytest.raises(NotImplementedError, match=message):
        language_model_forward(random_params(config), config, tokens())


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_generation_on_the_strict_fake_device(name, padded, monkeypatch):
    """The same tokens; without padding nothing waits but the copy of the logits."""
    config, _ = model(name)
    params = random_params(config, dtype="float32")
    ids, mask = tokens(length=7), np.ones((2, 7), dtype=bool)
    mask[1, :3] = not padded
    want = generate(params, config, ids, max_new_tokens=8, attention_mask=mask)
    install(monkeypatch)
    with count_syncs() as syncs:
        got = generate(to_fake(params), config, ids, max_new_tokens=8, attention_mask=mask)
    np.testing.assert_array_equal(got, want)
    assert set(syncs) == {"asnumpy"}
    assert syncs["asnumpy"] <= 8 * (4 if padded else 1)
