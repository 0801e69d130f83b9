"""Several texts in one row: each must be read as if it were alone, forward and backward."""

import numpy as np
import pytest
from helpers.models import random_params, small_config

from minqwen.layers.block_attention import block_attention_backward, block_attention_forward
from minqwen.model.backbone import default_positions
from minqwen.model.kv_cache import KVCache
from minqwen.model.language_model import language_model_backward, language_model_forward
from minqwen.model.layer_plan import layer_plans, position_tables, text_lengths
from minqwen.training.accumulate import Batch, loss_and_grads

LENGTHS = (5, 1, 7, 4)  # of four texts; two rows of 17 tokens hold them, one backwards
CONFIGS = {
    "dense": {},
    "tied": {"tie_word_embeddings": True},
    "qwen3": {"model_type": "qwen3", "attention_bias": False},
    "windows": {"layer_windows": [3, None]},
    "experts": {
        "model_type": "qwen2_moe",
        "num_experts": 5,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 7,
        "shared_expert_intermediate_size": 11,
        "router_aux_loss_coef": 0.0,
    },
    "yarn": {
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 8,
        },
    },
    "logn": {"use_logn_attn": True, "max_position_embeddings": 3},
    "dynamic": {
        "rope_scaling": {"rope_type": "dynamic", "factor": 2.0},
        "max_position_embeddings": 4,
    },
    "ntk": {"use_dynamic_ntk": True, "max_position_embeddings": 4},
    "ntk, windows, logn, q and k norms": {
        **{"use_dynamic_ntk": True, "use_logn_attn": True, "max_position_embeddings": 3},
        **{"layer_windows": [4, None], "model_type": "qwen3", "attention_bias": False},
    },
}


def two_rows():
    """Return ids (2, 17), segments, and for every text its row and where it stands."""
    ids = np.random.default_rng(3).integers(0, 61, (2, sum(LENGTHS)))
    places = []
    segments = np.zeros(ids.shape, int)
    for row, lengths in enumerate((LENGTHS, LENGTHS[::-1])):
        start = 0
        for number, length in enumerate(lengths):
            places.append((row, slice(start, start + length)))
            segments[row, start : start + length] = 2 * number - 1  # any rising numbers will do
            start += length
    return ids, segments, places


@pytest.mark.parametrize("name", CONFIGS)
def test_texts_that_share_a_row_are_read_as_if_alone(name):
    config = small_config(**CONFIGS[name])
    params = random_params(config)
    ids, segments, places = two_rows()
    logits, cache = language_model_forward(params, config, ids, segments=segments)
    dlogits = np.random.default_rng(5).standard_normal(logits.shape)
    grads = language_model_backward(dlogits, cache)
    alone = {key: np.zeros_like(w) for key, w in params.items()}
    for row, place in places:
        one, one_cache = language_model_forward(params, config, ids[row : row + 1, place])
        np.testing.assert_allclose(logits[row, place], one[0], rtol=0, atol=1e-11)
        for key, grad in language_model_backward(dlogits[row : row + 1, place], one_cache).items():
            alone[key] += grad
    for key, grad in grads.items():
        assert np.abs(grad - alone[key]).max() < 1e-11 * np.abs(alone[key]).max(), key


@pytest.mark.parametrize("name", ["dynamic", "ntk"])
def test_each_text_has_the_frequencies_of_its_own_length(name):
    """Not those of the longest text of its row, nor of the row."""
    config = small_config(**CONFIGS[name])
    _, segments, places = two_rows()
    positions = default_positions(None, 0, 17, segments)
    lengths = text_lengths(positions, segments)
    assert lengths == [*LENGTHS, *LENGTHS[::-1]]
    alphas = layer_plans(config, lengths)[0].alphas
    assert len(set(alphas)) > 1
    lone = [layer_plans(config, [length])[0].alphas[0] for length in lengths]
    assert list(alphas) == lone
    (plan, *_), like = layer_plans(config, lengths), np.zeros(1)
    tables = position_tables(plan, config, positions, positions, like, segments)
    for (row, place), length in zip(places, lengths, strict=True):
        own, at = layer_plans(config, [length])[0], np.arange(length)
        one = position_tables(own, config, at, at, like)
        np.testing.assert_array_equal(tables.cos[row, place], one.cos)
        np.testing.assert_array_equal(tables.sin[row, place], one.sin)


@pytest.mark.parametrize("name", ["dynamic", "ntk", "logn"])
def test_padding_behind_has_no_say_in_the_length(name):
    config = small_config(**CONFIGS[name])
    params, (ids, segments, _) = random_params(config), two_rows()
    wide, beyond = (np.pad(a, ((0, 0), (0, 9)), constant_values=50) for a in (ids, segments))
    real = np.pad(np.ones(ids.shape, bool), ((0, 0), (0, 9)))
    logits, _ = language_model_forward(params, config, ids, segments=segments)
    padded, _ = language_model_forward(params, config, wide, segments=beyond, attention_mask=real)
    np.testing.assert_allclose(padded[:, :17], logits, rtol=0, atol=1e-12)


def test_positions_that_are_given_are_of_the_texts_too():
    config = small_config(**CONFIGS["ntk"])
    params, (ids, segments, _) = random_params(config), two_rows()
    positions = default_positions(None, 0, 17, segments)
    logits, _ = language_model_forward(params, config, ids, segments=segments)
    given, _ = language_model_forward(params, config, ids, segments=segments, positions=positions)
    np.testing.assert_array_equal(given, logits)
    with pytest.raises(ValueError, match="positions must be 0 or above, got -1"):
        language_model_forward(params, config, ids, segments=segments, positions=np.arange(-1, 16))


def test_without_segments_the_texts_see_each_other():
    config = small_config()
    params = random_params(config)
    ids, segments, _ = two_rows()
    apart, _ = language_model_forward(params, config, ids, segments=segments)
    together, _ = language_model_forward(params, config, ids)
    assert np.abs(apart - together)[:, 5:].max() > 0.1
    # the first text of a row has nothing before it
    np.testing.assert_allclose(apart[0, :5], together[0, :5], rtol=0, atol=1e-12)


def test_a_batch_with_segments_has_the_loss_and_gradient_of_its_texts():
    config = small_config()
    params = random_params(config)
    ids, segments, places = two_rows()
    labels = np.random.default_rng(7).integers(0, 61, ids.shape)
    mask = np.random.default_rng(8).random(ids.shape) < 0.6
    packed = loss_and_grads(params, config, [Batch(ids, labels, mask, None, segments)])
    pieces = [
        Batch(*(a[row : row + 1, place] for a in (ids, labels, mask))) for row, place in places
    ]
    one_by_one = loss_and_grads(params, config, pieces)
    assert packed.tokens == one_by_one.tokens == mask.sum()
    assert packed.loss == pytest.approx(one_by_one.loss, rel=1e-13)
    for key, grad in packed.grads.items():
        assert np.abs(grad - one_by_one.grads[key]).max() < 1e-12 * np.abs(grad).max(), key


def test_padding_behind_the_texts_changes_nothing():
    config = small_config()
    params = random_params(config)
    ids, segments, _ = two_rows()
    wide = np.pad(ids, ((0, 0), (0, 3)), constant_values=11)
    real = np.pad(np.ones(ids.shape, bool), ((0, 0), (0, 3)))
    padded = np.pad(segments, ((0, 0), (0, 3)), constant_values=99)
    logits, _ = language_model_forward(params, config, ids, segments=segments)
    behind, _ = language_model_forward(params, config, wide, segments=padded, attention_mask=real)
    np.testing.assert_allclose(behind[:, :17], logits, rtol=0, atol=1e-12)
    assert np.isfinite(behind).all()


def test_left_padding_in_the_first_text_does_not_move_it():
    real = np.array([[False, False, True, True, True, True]])
    segments = np.array([[0, 0, 0, 0, 4, 4]])
    assert default_positions(real, 0, 6, segments).tolist() == [[0, 0, 0, 1, 0, 1]]


@pytest.mark.parametrize("block", [1, 2, 5, 64])
@pytest.mark.parametrize("window", [None, 3])
def test_attention_equals_a_loop_over_texts(block, window):
    rng = np.random.default_rng(0)
    q, k, v, dout = (rng.standard_normal((2, h, 11, 4)) for h in (6, 3, 3, 6))
    segments = np.array([[0] * 4 + [1] * 7, [2] * 1 + [3] * 3 + [7] * 7])
    out, cache = block_attention_forward(q, k, v, block=block, window=window, segments=segments)
    grads = block_attention_backward(dout, cache)
    for row in range(2):
        for number in np.unique(segments[row]):
            at = np.flatnonzero(segments[row] == number)
            place = (slice(row, row + 1), slice(None), slice(at[0], at[-1] + 1))
            one, one_cache = block_attention_forward(q[place], k[place], v[place], window=window)
            np.testing.assert_allclose(out[place], one, rtol=0, atol=1e-13)
            for grad, want in zip(
                grads, block_attention_backward(dout[place], one_cache), strict=True
            ):
                np.testing.assert_allclose(grad[place], want, rtol=0, atol=1e-13)


def test_float32_stays_float32():
    config = small_config()
    params = random_params(config, dtype="float32")
    ids, segments, _ = two_rows()
    assert language_model_forward(params, config, ids, segments=segments)[0].dtype == np.float32


@pytest.mark.parametrize(
    ("segments", "error", "says"),
    [
        (
            np.zeros((2, 5), int),
            ValueError,
            r"segments must have shape \(B=2, T=17\), got \(2, 5\)",
        ),
        (np.zeros((2, 17)), TypeError, "segments must be integers, got float64"),
        (np.tile([1] * 9 + [0] * 8, (2, 1)), ValueError, "segments must not fall along a row"),
    ],
)
def test_segments_that_cannot_be_are_refused(segments, error, says):
    config = small_config()
    with pytest.raises(error, match=says):
        language_model_forward(random_params(config), config, two_rows()[0], segments=segments)


def test_segments_are_refused_where_they_have_no_meaning():
    config = small_config()
    params, (ids, segments, _) = random_params(config), two_rows()
    with pytest.raises(ValueError, match="a KV cache holds one text a row"):
        language_model_forward(
            params, config, ids, segments=segments, kv_cache=KVCache(config, 2, 17, dtype="float64")
        )
    dca = small_config(dual_chunk_attention_config={"chunk_size": 8, "local_size": 2})
    with pytest.raises(NotImplementedError, match="dual chunk attention"):
        language_model_forward(params, dca, ids, segments=segments)
