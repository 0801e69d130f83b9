"""The model as a whole: causality, padding, positions, the KV cache, dropout, precision, errors."""

import numpy as np
import pytest
from helpers.fake_device import count_syncs, from_fake, install, to_fake
from helpers.models import random_params, small_config

from minqwen.layers.cross_entropy import cross_entropy_backward, cross_entropy_forward
from minqwen.model.backbone import default_positions
from minqwen.model.kv_cache import KVCache
from minqwen.model.language_model import language_model_backward, language_model_forward


@pytest.fixture
def config():
    return small_config()


@pytest.fixture
def params(config):
    return random_params(config)


@pytest.fixture
def ids():
    return np.random.default_rng(1).integers(0, 61, (3, 11))


def test_a_later_token_changes_no_earlier_logit(config, params, ids):
    a, cache = language_model_forward(params, config, ids)
    changed = ids.copy()
    changed[:, 6:] = 5
    b, _ = language_model_forward(params, config, changed)
    np.testing.assert_array_equal(a[:, :6], b[:, :6])

    dlogits = np.zeros_like(a)
    dlogits[:, 5] = 1  # a loss at position 5 only
    table = language_model_backward(dlogits, cache)["model.embed_tokens.weight"]
    later_only = sorted(set(ids[:, 6:].ravel()) - set(ids[:, :6].ravel()))
    assert later_only
    assert (table[later_only] == 0).all()


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_changes_nothing_for_the_real_tokens(config, params, ids, side):
    mask = np.ones(ids.shape, dtype=bool)
    pad = slice(0, 4) if side == "left" else slice(7, 11)
    text = slice(4, 11) if side == "left" else slice(0, 7)
    mask[1, pad] = False
    padded, cache = language_model_forward(params, config, ids, attention_mask=mask)
    alone, alone_cache = language_model_forward(params, config, ids[1:2, text])
    np.testing.assert_allclose(padded[1:2, text], alone, atol=1e-12)

    dlogits = np.zeros_like(padded)
    dlogits[1, text] = np.random.default_rng(2).standard_normal((7, 61))
    grads = language_model_backward(dlogits, cache)
    want = language_model_backward(dlogits[1:2, text], alone_cache)
    for name in grads:
        np.testing.assert_allclose(grads[name], want[name], atol=1e-10 * np.abs(want[name]).max())


def test_a_hole_in_the_middle_is_as_if_the_token_were_not_there(config, params, ids):
    """Padding at an end only shifts the positions of the rest, a hole changes distances."""
    mask = np.ones(ids.shape, dtype=bool)
    mask[0, 3] = False
    holed, _ = language_model_forward(params, config, ids, attention_mask=mask)
    without, _ = language_model_forward(params, config, np.delete(ids[:1], 3, axis=1))
    np.testing.assert_allclose(np.delete(holed[:1], 3, axis=1), without, atol=1e-12)
    whole, _ = language_model_forward(params, config, ids)
    np.testing.assert_allclose(holed[1:], whole[1:], atol=1e-12)
    assert np.abs(holed[0, 4:] - whole[0, 4:]).max() > 0.1


def test_default_positions_count_the_real_tokens():
    real = np.array(
        [[True] * 6, [False, False, True, True, True, True], [True, False, True, True, False, True]]
    )
    want = [[0, 1, 2, 3, 4, 5], [0, 0, 0, 1, 2, 3], [0, 0, 1, 2, 2, 3]]
    np.testing.assert_array_equal(default_positions(real, 0, 6), want)
    np.testing.assert_array_equal(default_positions(real, 4, 2), np.array(want)[:, 4:])
    np.testing.assert_array_equal(default_positions(None, 4, 2), [4, 5])


@pytest.mark.parametrize("side", ["left", "right", "hole"])
def test_positions_default_to_default_positions(config, params, ids, side):
    mask = np.ones(ids.shape, dtype=bool)
    mask[1, {"left": slice(0, 4), "right": slice(7, 11), "hole": slice(3, 5)}[side]] = False
    positions = default_positions(mask, 0, 11)
    got, cache = language_model_forward(params, config, ids, attention_mask=mask)
    want, want_cache = language_model_forward(
        params, config, ids, attention_mask=mask, positions=positions
    )
    np.testing.assert_array_equal(got, want)
    # left padding shifts a row as a whole, which the scores do not show and the tables do
    got, want = (c.blocks[0].self_attn.q_rope.cos for c in (cache, want_cache))
    np.testing.assert_array_equal(got, want)


def test_a_row_of_padding_only_is_finite(config, params, ids):
    mask = np.ones(ids.shape, dtype=bool)
    mask[0] = False
    logits, cache = language_model_forward(params, config, ids, attention_mask=mask)
    loss, loss_cache = cross_entropy_forward(logits, ids, mask)
    grads = language_model_backward(cross_entropy_backward(1.0, loss_cache), cache)
    assert np.isfinite(logits).all()
    assert np.isfinite(loss)
    assert all(np.isfinite(g).all() for g in grads.values())


def test_positions_shifted_by_a_constant_change_nothing_and_scaled_ones_do(config, params, ids):
    a, _ = language_model_forward(params, config, ids)
    b, _ = language_model_forward(params, config, ids, positions=np.arange(11) + 1000)
    np.testing.assert_allclose(a, b, atol=1e-10)
    c, _ = language_model_forward(params, config, ids, positions=2 * np.arange(11))
    assert np.abs(a - c).max() > 0.1
    rows = np.tile(np.arange(11), (3, 1))
    np.testing.assert_array_equal(a, language_model_forward(params, config, ids, positions=rows)[0])


@pytest.mark.parametrize("cuts", [[1] * 11, [11], [4, 1, 1, 5], [7, 3, 1]])
@pytest.mark.parametrize("padding", [False, True])
def test_decoding_with_the_cache_equals_one_pass(config, params, ids, cuts, padding):
    mask = np.ones(ids.shape, dtype=bool)
    if padding:
        mask[0, :3] = mask[2, :10] = False
    full, _ = language_model_forward(params, config, ids, attention_mask=mask if padding else None)
    kv_cache, start, parts = KVCache(config, 3, 11, dtype="float64"), 0, []
    for n in cuts:
        given = mask[:, : start + n] if padding else None
        new, cache = language_model_forward(
            params, config, ids[:, start : start + n], attention_mask=given, kv_cache=kv_cache
        )
        assert cache is None
        parts.append(new)
        start += n
    assert kv_cache.length == 11
    stepwise = np.concatenate(parts, axis=1)
    np.testing.assert_allclose(stepwise[mask], full[mask], atol=1e-12 * np.abs(full).max())


def test_the_cache_remembers_padding(config, params, ids):
    mask = np.ones(ids.shape, dtype=bool)
    mask[0, :3] = False
    full, _ = language_model_forward(params, config, ids, attention_mask=mask)
    kv_cache = KVCache(config, 3, 20, like=params["model.norm.weight"])
    language_model_forward(
        params, config, ids[:, :10], attention_mask=mask[:, :10], kv_cache=kv_cache
    )
    last, _ = language_model_forward(params, config, ids[:, 10:], kv_cache=kv_cache)
    np.testing.assert_allclose(last[:, 0], full[:, -1], atol=1e-11)


def test_the_cache_says_its_bytes_and_refuses_what_does_not_fit(config, params, ids):
    kv_cache = KVCache(config, 3, 11)
    assert kv_cache.nbytes == 2 * 2 * 3 * 3 * 11 * 10 * 4  # keys and values, L B Hkv length Dh
    kv_cache = KVCache(config, 3, 10, dtype="float64")
    with pytest.raises(ValueError, match="room for 10 tokens and holds 0; 11 more do not fit"):
        language_model_forward(params, config, ids, kv_cache=kv_cache)
    with pytest.raises(ValueError, match="kv_cache is for B=3, input_ids have B=2"):
        language_model_forward(params, config, ids[:2, :4], kv_cache=kv_cache)
    other = KVCache(small_config(num_hidden_layers=3), 3, 11, dtype="float64")
    with pytest.raises(ValueError, match=r"kv_cache is for \(L, Hkv, Dh\) = \(3, 3, 10\)"):
        language_model_forward(params, config, ids, kv_cache=other)
    assert kv_cache.length == 0


def test_last_only_is_the_last(config, params, ids):
    full, _ = language_model_forward(params, config, ids)
    last, cache = language_model_forward(params, config, ids, last_only=True)
    np.testing.assert_allclose(last, full[:, -1:], atol=1e-12)
    with pytest.raises(ValueError, match="no backward pass through kv_cache or last_only"):
        language_model_backward(last, cache)


def test_tied_model_uses_one_table():
    config = small_config(tie_word_embeddings=True)
    params = random_params(config)
    assert "lm_head.weight" not in params
    untied = {**params, "lm_head.weight": params["model.embed_tokens.weight"]}
    ids = np.array([[1, 2, 3, 2]])
    logits, cache = language_model_forward(params, config, ids)
    again, untied_cache = language_model_forward(untied, small_config(), ids)
    np.testing.assert_array_equal(logits, again)
    dlogits = np.random.default_rng(0).standard_normal(logits.shape)
    grads = language_model_backward(dlogits, cache)
    parts = language_model_backward(dlogits, untied_cache)
    want = parts["model.embed_tokens.weight"] + parts["lm_head.weight"]
    np.testing.assert_array_equal(grads["model.embed_tokens.weight"], want)


def test_float32_stays_float32(config, ids):
    params = random_params(config, dtype="float32")
    logits, cache = language_model_forward(params, config, ids)
    loss, loss_cache = cross_entropy_forward(logits, ids)
    grads = language_model_backward(cross_entropy_backward(1.0, loss_cache), cache)
    assert {a.dtype for a in (logits, loss, *grads.values())} == {np.dtype("float32")}
    found = []

    def walk(tree):
        if isinstance(tree, (tuple, list)):
            for part in tree:
                walk(part)
        elif isinstance(tree, np.ndarray) and tree.dtype == np.float64:
            found.append(tree)

    walk(cache)
    assert not found


def test_dropout_acts_in_training_only_and_its_gradient_is_right(ids):
    config = small_config(dropout=0.3)
    params = random_params(config)
    plain, _ = language_model_forward(params, config, ids)
    a, cache = language_model_forward(
        params, config, ids, training=True, rng=np.random.default_rng(5)
    )
    assert np.abs(a - plain).max() > 0.1
    np.testing.assert_array_equal(plain, language_model_forward(params, small_config(), ids)[0])
    with pytest.raises(ValueError, match="dropout needs rng"):
        language_model_forward(params, config, ids, training=True)

    dlogits = np.random.default_rng(6).standard_normal(a.shape)
    grads = language_model_backward(dlogits, cache)
    h = 1e-6
    for name, index in (
        ("model.embed_tokens.weight", (int(ids[0, 0]), 5)),
        ("model.layers.0.self_attn.v_proj.weight", (0, 0)),
        ("model.layers.0.self_attn.v_proj.weight", (29, 28)),
        ("model.layers.1.self_attn.o_proj.weight", (7, 3)),
        ("model.layers.1.mlp.down_proj.weight", (7, 3)),
    ):
        ends = []
        for sign in (1, -1):
            moved = {**params, name: params[name].copy()}
            moved[name][index] += sign * h
            y, _ = language_model_forward(
                moved, config, ids, training=True, rng=np.random.default_rng(5)
            )
            ends.append((y * dlogits).sum())
        want = (ends[0] - ends[1]) / (2 * h)
        assert abs(grads[name][index] - want) < 1e-6 * np.abs(grads[name]).max(), name


def test_dropout_acts_on_the_embedding_and_on_both_branches_each_with_a_mask_of_its_own():
    config = small_config(dropout=0.3)
    params = random_params(config)
    ids = np.random.default_rng(1).integers(0, 61, (4, 50))
    _, cache = language_model_forward(
        params, config, ids, training=True, rng=np.random.default_rng(5)
    )
    factors = [cache.dropout.factor]
    for block in cache.blocks:
        factors += [block.attention_dropout.factor, block.mlp_dropout.factor]
    assert len(factors) == 1 + 2 * 2
    for i, factor in enumerate(factors):
        dropped = factor == 0
        assert factor.shape == (4, 50, 29)
        assert abs(dropped.mean() - 0.3) < 0.03  # 5 standard deviations
        np.testing.assert_allclose(factor[~dropped], 1 / 0.7)
        for other in factors[:i]:  # two independent masks agree at 0.3^2 + 0.7^2 of the places
            assert abs(((other == 0) == dropped).mean() - 0.58) < 0.04


def test_a_training_step_on_the_strict_fake_device(config, ids, monkeypatch):
    from minqwen.training.adamw import adamw_init, adamw_step
    from minqwen.training.grad_clip import clip_grad_norm

    def step(params, ids):
        logits, cache = language_model_forward(params, config, ids)
        loss, loss_cache = cross_entropy_forward(logits, ids)
        grads = language_model_backward(cross_entropy_backward(1.0, loss_cache), cache)
        clipped = clip_grad_norm(grads, 1.0)
        grads = clipped[0] if isinstance(clipped, tuple) else grads
        adamw_step(params, grads, adamw_init(params), lr=1e-2)
        return loss, params

    loss, updated = step(random_params(config, dtype="float32"), ids)
    fake = to_fake(random_params(config, dtype="float32"))
    install(monkeypatch)
    with count_syncs() as syncs:
        fake_loss, fake_updated = step(fake, ids)
    np.testing.assert_array_equal(from_fake(fake_loss), loss)
    for name, value in updated.items():
        np.testing.assert_array_equal(from_fake(fake_updated[name]), value)
    assert sum(syncs.values()) <= 1, dict(syncs)  # the gradient norm


def test_generation_on_the_strict_fake_device(config, ids, monkeypatch):
    from minqwen.model.generate import generate

    params = random_params(config, dtype="float32")
    mask = np.ones(ids.shape, dtype=bool)
    mask[1, :5] = False
    options = {"max_new_tokens": 6, "temperature": 0.8, "top_k": 20, "top_p": 0.9}
    want = generate(
        params, config, ids, attention_mask=mask, rng=np.random.default_rng(0), **options
    )
    install(monkeypatch)
    with count_syncs() as syncs:
        got = generate(
            to_fake(params),
            config,
            ids,
            attention_mask=mask,
            rng=np.random.default_rng(0),
            **options,
        )
    np.testing.assert_array_equal(got, want)
    assert dict(syncs) == {"asnumpy": 6}  # one copy of logits to the host per token


def test_errors(config, params, ids):
    cases = [
        (ValueError, r"input_ids must have axes \(B, T\)", {"input_ids": ids[0]}),
        (ValueError, "at least one token", {"input_ids": ids[:, :0]}),
        (TypeError, "input_ids must be an array, got list", {"input_ids": [[1, 2]]}),
        (TypeError, "attention_mask must be an array", {"attention_mask": [[True]]}),
        (ValueError, r"ids must be in \[0, V=61\)", {"input_ids": ids + 60}),
        (TypeError, "ids must be an integer array", {"input_ids": ids * 1.0}),
        (TypeError, "attention_mask must be boolean", {"attention_mask": np.ones(ids.shape)}),
        (
            ValueError,
            r"attention_mask must have shape \(B=3, S=11\)",
            {"attention_mask": np.ones((3, 10), dtype=bool)},
        ),
        (ValueError, r"positions must have shape \(T=11\)", {"positions": np.arange(10)}),
        (
            ValueError,
            r"positions must have shape \(B=3, T=11\)",
            {"positions": np.zeros((2, 11), int)},
        ),
        (TypeError, "positions must be integers", {"positions": np.arange(11.0)}),
        (ValueError, r"missing lm_head\.weight", {"config": small_config(), "params": {}}),
        (
            ValueError,
            r"mixed dtypes \(model\.norm\.weight is float32, .* is float64\)",
            {"params": {**params, "model.norm.weight": np.ones(29, np.float32)}},
        ),
    ]
    for error, message, changes in cases:
        arguments = {"params": params, "config": config, "input_ids": ids, **changes}
        with pytest.raises(error, match=message):
            language_model_forward(**arguments)
