"""Positions given by the caller: what goes by them, with a KV cache and without."""

import numpy as np
import pytest
from helpers.models import random_params, small_config

from minqwen.model.kv_cache import KVCache
from minqwen.model.language_model import language_model_forward

IDS = np.random.default_rng(0).integers(0, 61, (2, 19))
NTK = {"use_dynamic_ntk": True}
LOGN = {"use_logn_attn": True}
YARN = {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8}}
DCA = {"dual_chunk_attention_config": {"chunk_size": 7, "local_size": 2}}
CONFIGS = {
    "plain": {},
    "ntk": NTK,
    "logn": LOGN,
    "ntk, logn": NTK | LOGN,
    "yarn, logn": YARN | LOGN,
    "dynamic": {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
    "dca, logn": DCA | LOGN,
    "dca, ntk": DCA | NTK,
}
POSITIONS = {
    "offset": np.arange(100, 119),
    "gaps, each row its own": np.cumsum(np.random.default_rng(1).integers(1, 4, (2, 19)), axis=1),
    "unsigned": np.arange(19, dtype=np.uint64),
}


def model(name):
    config = small_config(max_position_embeddings=8, **CONFIGS[name])
    return config, random_params(config)


def run(config, params, positions, pieces):
    """Return the logits of all pieces."""
    kv_cache, start, parts = KVCache(config, 2, 19, dtype="float64"), 0, []
    for piece in pieces:
        now = slice(start, start + piece)
        logits, _ = language_model_forward(
            params, config, IDS[:, now], positions=positions[..., now], kv_cache=kv_cache
        )
        parts.append(logits)
        start += piece
    return parts


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("name", CONFIGS)
def test_cached_equals_full(name, positions):
    config, params = model(name)
    positions = POSITIONS[positions]
    got, start = run(config, params, positions, (8, 1, 5, 5)), 0
    for part in got:
        end = start + part.shape[1]
        want, _ = language_model_forward(
            params, config, IDS[:, :end], positions=positions[..., :end]
        )
        assert np.abs(part - want[:, start:]).max() < 1e-12 * np.abs(want).max()
        start = end


def test_logn_goes_by_the_position_and_not_by_the_number_of_tokens():
    (config, params), (plain, _) = model("logn"), model("plain")
    few = IDS[:, :3]
    far, near = np.array([0, 1, 100]), np.array([0, 1, 7])
    got, want = (language_model_forward(params, c, few, positions=far)[0] for c in (config, plain))
    np.testing.assert_array_equal(got[:, :2], want[:, :2])
    assert np.abs(got - want)[:, 2].max() > 1e-3
    got, want = (language_model_forward(params, c, few, positions=near)[0] for c in (config, plain))
    np.testing.assert_array_equal(got, want)


def test_positions_that_fall_do_not_change_alpha_back():
    """The length of a text is its highest position, also when the new tokens stand lower."""
    config, params = model("ntk")
    positions = np.concatenate((np.arange(10, 20), np.arange(9)))
    got = run(config, params, positions, (10, 9))[1]
    want, _ = language_model_forward(params, config, IDS, positions=positions)
    assert np.abs(got - want[:, 10:]).max() < 1e-12 * np.abs(want).max()


def test_positions_for_all_rows_and_then_for_each():
    config, params = model("ntk")
    kv_cache = KVCache(config, 2, 19, dtype="float64")
    for now, positions in (
        (slice(0, 7), np.arange(7)),
        (slice(7, 9), np.array([[7, 8], [9, 11]])),
        (slice(9, 19), np.arange(12, 22)),
    ):
        got, _ = language_model_forward(
            params, config, IDS[:, now], positions=positions, kv_cache=kv_cache
        )
    rows = np.array([[*range(7), 7, 8], [*range(7), 9, 11]])
    positions = np.concatenate((rows, np.tile(np.arange(12, 22), (2, 1))), axis=1)
    want, _ = language_model_forward(params, config, IDS, positions=positions)
    assert np.abs(got - want[:, 9:]).max() < 1e-12 * np.abs(want).max()


def test_a_negative_position_is_named_where_the_length_matters():
    config, params = model("ntk")
    with pytest.raises(ValueError, match="positions must be 0 or above, got -3"):
        language_model_forward(params, config, IDS, positions=np.arange(-3, 16))


def test_an_emptied_cache_as_released_takes_a_new_alpha():
    config, params = model("ntk")
    kv_cache = KVCache(config, 2, 19, dtype="float64", as_released=True)
    language_model_forward(params, config, IDS[:, :5], kv_cache=kv_cache)
    kv_cache.truncate(0)
    got, _ = language_model_forward(params, config, IDS, kv_cache=kv_cache)
    want, _ = language_model_forward(params, config, IDS)
    assert np.abs(got - want).max() < 1e-12 * np.abs(want).max()


@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in ("plain", "logn")])
def test_a_cache_made_for_another_config_is_refused(name):
    (config, params), (plain, _) = model(name), model("plain")
    with pytest.raises(ValueError, match=r"kv_cache is for .* the model has"):
        language_model_forward(params, config, IDS, kv_cache=KVCache(plain, 2, 19))
    with pytest.raises(ValueError, match=r"kv_cache is for .* the model has"):
        language_model_forward(params, plain, IDS, kv_cache=KVCache(config, 2, 19))


@pytest.mark.parametrize("name", CONFIGS)
def test_no_rows_give_no_logits(name):
    config, params = model(name)
    mask = np.ones((0, 19), dtype=bool)
    for options in ({}, {"attention_mask": mask}):
        logits, _ = language_model_forward(params, config, IDS[:0], **options)
        assert logits.shape == (0, 19, 61)


def test_a_long_prompt_keeps_no_more_than_its_windows():
    """Within a pass too: a rolling layer holds the last W - 1 and no view of all."""
    config = small_config(layer_windows=[3, 5])
    kv_cache = KVCache(config, 2, 1000, dtype="float64")
    language_model_forward(random_params(config), config, np.tile(IDS, (1, 50)), kv_cache=kv_cache)
    k = np.ones((2, 3, 900, 10))
    kv_cache.truncate(0)
    kv_cache.store(0, k, k)
    held = kv_cache._long[0]
    assert [a.shape[2] for a in held] == [2, 2]
    assert all(a.base is None for a in held)


@pytest.mark.parametrize("name", ["ntk", "logn", "dca, logn"])
def test_negative_positions_are_named(name):
    config, params = model(name)
    with pytest.raises(ValueError, match="positions must be 0 or above, got -5"):
        language_model_forward(params, config, IDS, positions=np.arange(19) - 5)
