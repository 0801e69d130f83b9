"""The KV cache: passes over the whole text, passes that break off, truncation, positions.

What is right is always the same: the logits of a run without a cache.
"""

import copy

import numpy as np
import pytest
from helpers.models import random_params, small_config

from minqwen.model import backbone
from minqwen.model.kv_cache import KVCache
from minqwen.model.language_model import language_model_forward

TRAINED, T = 8, 20
CONFIGS = {
    "plain": {},
    "ntk": {"use_dynamic_ntk": True},
    "dynamic": {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
    "windows": {"layer_windows": [4, None]},
    "ntk, windows": {"use_dynamic_ntk": True, "layer_windows": [3, None]},
    "dca": {"dual_chunk_attention_config": {"chunk_size": 7, "local_size": 2}},
}


def model(name, **changes):
    config = small_config(**{"max_position_embeddings": TRAINED, **CONFIGS[name], **changes})
    return config, random_params(config)


def tokens(rows=2, length=T, seed=0):
    return np.random.default_rng(seed).integers(0, 61, (rows, length))


def filled(config, params, ids, pieces, real=None, **options):
    """Return a cache that has seen the pieces of ids."""
    kv_cache, start = KVCache(config, len(ids), 64, dtype="float64", **options), 0
    for piece in pieces:
        end = start + piece
        mask = None if real is None else real[:, :end]
        language_model_forward(
            params, config, ids[:, start:end], attention_mask=mask, kv_cache=kv_cache
        )
        start = end
    return kv_cache


def assert_goes_on(kv_cache, config, params, ids, ends):
    """The next passes, up to each of the ends, return the logits of a run without a cache."""
    start = kv_cache.length
    for end in ends:
        got, _ = language_model_forward(params, config, ids[:, start:end], kv_cache=kv_cache)
        want, _ = language_model_forward(params, config, ids[:, :end])
        error = np.abs(got - want[:, start:]).max() / np.abs(want).max()
        assert error < 1e-12, (start, end)
        start = end


def break_off(monkeypatch, layer, *args, **kwargs):
    """Run a pass that Ctrl-C ends when it comes to this layer."""
    whole = backbone.decoder_block_forward

    def stop(*args, **kwargs):
        if kwargs["layer"] == layer:
            raise KeyboardInterrupt
        return whole(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(backbone, "decoder_block_forward", stop)
        with pytest.raises(KeyboardInterrupt):
            language_model_forward(*args, **kwargs)


# --- passes over the whole text -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changes", "whole"),
    [
        ("ntk", {}, [5, 9, 17, 33]),  # Qwen's alpha doubles with the text
        ("ntk", {"layer_windows": [8, None]}, [5, 9, 17, 33]),
        ("dynamic", {}, range(5, 65)),  # that of transformers grows with each token
        ("dca", {"use_logn_attn": True}, []),
        ("windows", {}, []),
    ],
)
def test_how_often_the_whole_text_goes_through_the_model(monkeypatch, name, changes, whole):
    config, params = model(name, max_position_embeddings=4, **changes)
    widths, block = [], backbone.decoder_block_forward

    def counted(x, *args, **kwargs):
        if kwargs["layer"] == 0:
            widths.append(x.shape[1])
        return block(x, *args, **kwargs)

    monkeypatch.setattr(backbone, "decoder_block_forward", counted)
    filled(config, params, tokens(1, 64), [1] * 64)
    assert widths == [n if n in whole else 1 for n in range(1, 65)]


@pytest.mark.parametrize("pieces", [(1,) * 20, (7, 1, 1, 8, 1, 2), (8, 12), (17, 3)])
def test_a_rolling_layer_starts_anew_when_alpha_changes(pieces):
    config, params = model("ntk, windows")
    kv_cache = KVCache(config, 2, T, dtype="float64")
    assert_goes_on(kv_cache, config, params, tokens(), np.cumsum(pieces))


# --- passes that break off ------------------------------------------------------------------------


def test_what_a_broken_pass_had_for_a_rolling_layer_is_not_kept(monkeypatch):
    """Layer 0 got more tokens than it has room for; they must not come with the next pass."""
    config, params = model("windows", layer_windows=[3, 6])
    ids, other = tokens(length=40), tokens(length=40, seed=1)
    kv_cache = filled(config, params, ids, [8])
    break_off(monkeypatch, 1, params, config, other[:, 8:28], kv_cache=kv_cache)
    assert_goes_on(kv_cache, config, params, ids, (10, 12, 13))


@pytest.mark.parametrize("name", ["ntk", "dynamic", "ntk, windows"])
def test_truncate_after_a_pass_over_the_whole_text_broke_off(monkeypatch, name):
    """Layer 0 has the keys of the new alpha already, layer 1 those of the old one."""
    config, params = model(name)
    ids = tokens()
    for length in (0, 6, 8):
        kv_cache = filled(config, params, ids, [8])
        break_off(monkeypatch, 1, params, config, ids[:, 8:9], kv_cache=kv_cache)
        kv_cache.truncate(length)
        assert_goes_on(kv_cache, config, params, tokens_after(ids, length), (length + 1, 12))


# --- truncate -------------------------------------------------------------------------------------


def tokens_after(ids, length):
    """Return the first tokens of ids, and others after them."""
    return np.concatenate((ids[:, :length], tokens(length=30, seed=1)), axis=1)


@pytest.mark.parametrize(
    "pieces", [(1,) * 20, (20,), (6, 11, 1, 1, 1)], ids=["steps", "one pass", "both"]
)
@pytest.mark.parametrize("name", ["plain", "ntk", "windows", "ntk, windows", "dca"])
def test_truncate_refuses_or_the_text_goes_on_rightly(name, pieces):
    config, params = model(name)
    ids = tokens()
    full, refused = filled(config, params, ids, pieces), []
    for length in range(T + 1):
        kv_cache = copy.deepcopy(full)
        try:
            kv_cache.truncate(length)
        except ValueError:
            refused.append(length)
        assert kv_cache.length == (T if length in refused else length)
        n = kv_cache.length
        assert_goes_on(kv_cache, config, params, tokens_after(ids, n), [n + 2])
    assert not {0, T} & set(refused)
    assert config.layer_windows is not None or not refused


@pytest.mark.parametrize("windows", [[4, None], [1, 3]])
def test_one_step_can_always_be_taken_back(windows):
    """After steps of one token W are there, of which the next one sees W - 1."""
    config, params = model("windows", layer_windows=windows)
    ids, kv_cache = tokens(), KVCache(config, 2, T, dtype="float64")
    for n in range(T):
        assert_goes_on(kv_cache, config, params, ids, [n + 1])
        before = copy.deepcopy(kv_cache)
        before.truncate(n)
        assert_goes_on(before, config, params, tokens_after(ids, n), [n + 1])


@pytest.mark.parametrize("name", ["plain", "ntk", "dynamic", "windows", "dca"])
def test_truncate_forgets_which_of_the_forgotten_were_padding(name):
    config, params = model(name)
    ids, real = tokens(), np.ones((2, T), dtype=bool)
    real[1, :3] = real[0, 16:] = False
    kv_cache = filled(config, params, ids, [17, 1, 1, 1], real)
    kv_cache.truncate(19)
    got, _ = language_model_forward(params, config, ids[:, 19:], kv_cache=kv_cache)
    real[:, 19] = True  # no mask: the new ones are
    want = language_model_forward(params, config, ids, attention_mask=real)[0][:, 19:]
    assert np.abs(got - want).max() < 1e-12 * np.abs(want).max()


@pytest.mark.parametrize("as_released", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_after_truncate_to_nothing_the_cache_is_as_new(name, as_released):
    """Padding, positions for each row, a rolled window, as released an alpha: nothing is left."""
    config, params = model(name)
    ids, real = tokens(), np.ones((2, T), dtype=bool)
    real[1, :3] = False
    kv_cache = filled(config, params, ids, [7, 13], real, as_released=as_released)
    kv_cache.truncate(0)
    assert_goes_on(kv_cache, config, params, tokens(seed=1), [6])
    kv_cache.truncate(0)
    assert_goes_on(kv_cache, config, params, tokens(seed=2), [T])


# --- positions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("each_row", [(0, 1, 0), (1, 0, 1)], ids=["all first", "each first"])
@pytest.mark.parametrize("name", ["ntk", "ntk, windows", "dynamic", "dca"])
def test_positions_of_all_rows_and_of_each_row_may_follow_each_other(name, each_row):
    config, params = model(name)
    ids, kv_cache, start = tokens(), KVCache(config, 2, T, dtype="float64"), 0
    rows = np.zeros((2, 0), dtype=int)
    for i, (piece, each) in enumerate(zip((6, 7, 3), each_row, strict=True)):
        end = start + piece
        positions = np.arange(start, end) + 2 * i
        positions = positions + np.array([[0], [2]]) if each else positions
        got, _ = language_model_forward(
            params, config, ids[:, start:end], positions=positions, kv_cache=kv_cache
        )
        rows = np.concatenate((rows, np.broadcast_to(positions, (2, piece))), axis=1)
        want, _ = language_model_forward(params, config, ids[:, :end], positions=rows)
        assert np.abs(got - want[:, start:]).max() < 1e-12 * np.abs(want).max()
        start = end
