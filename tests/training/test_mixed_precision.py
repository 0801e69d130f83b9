"""Rounding to 16 bits, bit for bit, and what a model computes with such numbers."""

import math
from fractions import Fraction

import numpy as np
import pytest
from helpers.fake_device import count_syncs, from_fake, install, to_fake

from minqwen.layers.cross_entropy import IGNORED
from minqwen.model.config import QwenConfig
from minqwen.model.init import init_params
from minqwen.training.accumulate import Batch, as_batch, loss_and_grads
from minqwen.training.adamw import adamw_init, adamw_step
from minqwen.training.mixed_precision import (
    bfloat16_bits,
    half_params,
    mixed_loss_and_grads,
    precision_dtype,
    round_to_bfloat16,
    to_precision,
)

EVERY = np.arange(2**16, dtype=np.uint32)  # all patterns of 16 bits


def floats(bits):
    return np.asarray(bits, np.uint32).view(np.float32)


def bits_of(x):
    return np.asarray(x, np.float32).view(np.uint32)


# --- rounding ----------------------------------------------------------------------------------


def test_every_bfloat16_stays_what_it_is():
    bits = bfloat16_bits(floats(EVERY << 16))
    nan = np.isnan(floats(EVERY << 16))
    np.testing.assert_array_equal(bits[~nan], EVERY[~nan])
    np.testing.assert_array_equal(bits[nan], EVERY[nan] | 0x40)  # quiet, sign and payload kept
    assert nan.sum() == 2 * 127


@pytest.mark.parametrize("low", [0x0001, 0x7FFF, 0x8000, 0x8001, 0xFFFF])
def test_the_lower_half_decides(low):
    """Below, at and above the tie, for all upper halves: subnormals and the largest among them."""
    finite = EVERY[~np.isnan(floats((EVERY << 16) | low))]
    up = (low > 0x8000) | ((low == 0x8000) & (finite % 2 == 1))
    np.testing.assert_array_equal(bfloat16_bits(floats((finite << 16) | low)), finite + up)


def test_nearest_by_exact_arithmetic():
    rng = np.random.default_rng(0)
    x = floats(rng.integers(0, 2**32, 400, dtype=np.uint32))
    for value in x[np.isfinite(x)]:
        below = floats(bits_of(value) & 0xFFFF0000)
        above = floats((bits_of(value) & 0xFFFF0000) + 0x10000)  # further from zero
        if not np.isfinite(above):
            continue
        gaps = [abs(Fraction(float(value)) - Fraction(float(y))) for y in (below, above)]
        nearest = below if gaps[0] < gaps[1] else above
        assert round_to_bfloat16(np.array([value]))[0] == nearest


def test_all_bits_are_those_of_ml_dtypes():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    rng = np.random.default_rng(1)
    lows = [0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF, *rng.integers(0, 2**16, 10)]
    for low in lows:
        x = floats((EVERY << 16) | np.uint32(low))
        with np.errstate(invalid="ignore"):  # ml_dtypes warns at a signalling NaN
            theirs = x.astype(ml_dtypes.bfloat16)
        ours = to_precision(x, "bfloat16")
        assert ours.dtype == theirs.dtype
        nan = np.isnan(x)
        np.testing.assert_array_equal(ours[~nan].view(np.uint16), theirs[~nan].view(np.uint16))
        assert np.isnan(ours[nan].astype(np.float32)).all()
        back = round_to_bfloat16(x)
        np.testing.assert_array_equal(bits_of(back)[~nan], bits_of(theirs.astype(np.float32))[~nan])


def test_infinities_and_nan():
    x = floats([0x7F800000, 0xFF800000, 0x7F7FFFFF, 0xFF7FFFFF, 0x7FFFFFFF, 0xFF800001, 0x80000000])
    y = round_to_bfloat16(x)
    assert y[:4].tolist() == [math.inf, -math.inf, math.inf, -math.inf]  # the largest round up
    assert np.isnan(y[4:6]).all()
    assert bits_of(y[4:6]).tolist() == [0x7FFF0000, 0xFFC00000]  # a sum would give -0 and -inf
    assert bits_of(y[6]) == 0x80000000  # minus zero


@pytest.mark.parametrize("shape", [(), (0,), (2, 3), (4, 1, 2)])
def test_any_shape_and_the_argument_stays(shape):
    x = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
    before = np.array(x)
    y = round_to_bfloat16(np.asarray(x))
    assert y.shape == shape
    assert y.dtype == np.float32
    np.testing.assert_array_equal(x, before)
    turned = np.ones((3, 2), np.float32).T
    assert round_to_bfloat16(turned).shape == (2, 3)


def test_half_a_step_is_the_largest_error():
    x = np.random.default_rng(3).uniform(1, 2, 10_000).astype(np.float32)
    error = np.abs(round_to_bfloat16(x) - x).max()
    assert 0.99 * 2**-8 < error <= 2**-8  # cutting off would give 2^-7


def test_float16_overflows_without_a_warning():
    x = np.array([65519.0, 65520.0, 2**-25, 2**-24, math.nan], np.float32)
    y = to_precision(x, "float16")
    assert y[:4].tolist() == [65504.0, math.inf, 0.0, 2**-24]
    assert np.isnan(y[4])
    assert to_precision(y, "float16") is y
    assert to_precision(x, "float32") is x


def test_refused():
    with pytest.raises(TypeError, match="x must be float32, got float64"):
        bfloat16_bits(np.ones(2))
    with pytest.raises(TypeError, match="x must be float32 or float16, got float64"):
        to_precision(np.ones(2), "float16")
    with pytest.raises(ValueError, match="precision must be one of float32, bfloat16, float16"):
        precision_dtype("half")


def test_without_ml_dtypes_there_is_a_pip_line(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ml_dtypes", None)
    with pytest.raises(ImportError, match=r"ml_dtypes is missing: pip install 'minqwen\[hf\]'"):
        precision_dtype("bfloat16")


# --- a model -----------------------------------------------------------------------------------

CONFIG = QwenConfig(
    vocab_size=23,
    hidden_size=12,
    intermediate_size=20,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    tie_word_embeddings=True,
)
HALVES = ("bfloat16", "float16")


@pytest.fixture(scope="module")
def model():
    rng = np.random.default_rng(4)
    return init_params(CONFIG, rng), as_batch(rng.integers(0, 23, (3, 8)))


def test_float32_is_what_training_computes(model):
    params, batch = model
    loss, grads = mixed_loss_and_grads(params, CONFIG, batch, "float32", 8.0)
    expected = loss_and_grads(params, CONFIG, [batch])
    assert float(loss) == expected.loss
    for key, g in expected.grads.items():
        assert grads[key].dtype == np.float32
        np.testing.assert_allclose(grads[key], g, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("precision", "bound"), [("bfloat16", 0.1), ("float16", 0.01)])
def test_16_bits_are_near_and_masters_stay(model, precision, bound):
    pytest.importorskip("ml_dtypes")
    params, batch = model
    before = {key: w.copy() for key, w in params.items()}
    loss, grads = mixed_loss_and_grads(params, CONFIG, batch, precision, 1024.0)
    exact_loss, exact = mixed_loss_and_grads(params, CONFIG, batch, "float32")
    assert loss.dtype == np.float32
    assert abs(loss - exact_loss) < 0.01
    for key, g in exact.items():
        assert grads[key].dtype == np.float32
        error = np.abs(grads[key] - g).max() / np.abs(g).max()
        assert 0 < error < bound, key  # 0 would mean that nothing was rounded
        np.testing.assert_array_equal(params[key], before[key])


def test_what_is_rounded(model):
    """Every gradient is on the grid of bfloat16 and so are the logits; the loss is not."""
    pytest.importorskip("ml_dtypes")
    params, batch = model
    loss, grads = mixed_loss_and_grads(params, CONFIG, batch, "bfloat16")
    for g in grads.values():
        np.testing.assert_array_equal(round_to_bfloat16(g), g)
    assert round_to_bfloat16(loss) != loss
    half = half_params(params, "bfloat16")
    assert {w.dtype.name for w in half.values()} == {"bfloat16"}
    again = mixed_loss_and_grads(half, CONFIG, batch, "bfloat16")[0]
    assert float(again) == float(loss)


def test_bfloat16_needs_no_scale(model):
    """A power of two changes no digit as long as nothing leaves the range."""
    pytest.importorskip("ml_dtypes")
    params, batch = model
    grads = mixed_loss_and_grads(params, CONFIG, batch, "bfloat16")[1]
    for scale in (2.0**-14, 2.0**14):
        scaled = mixed_loss_and_grads(params, CONFIG, batch, "bfloat16", scale)[1]
        for key, g in grads.items():
            np.testing.assert_array_equal(scaled[key], g)


def test_float16_loses_small_gradients_and_a_scale_brings_them_back(model):
    params, batch = model
    exact = mixed_loss_and_grads(params, CONFIG, batch, "float32")[1]
    lost = {}
    for scale in (2.0**-14, 2.0**10):
        grads = mixed_loss_and_grads(params, CONFIG, batch, "float16", scale)[1]
        zeros = sum(int(((g == 0) & (exact[key] != 0)).sum()) for key, g in grads.items())
        lost[scale] = zeros / sum(g.size for g in grads.values())
    assert lost[2.0**-14] > 0.5
    assert lost[2.0**10] < 0.02


def test_too_large_a_scale_overflows_in_silence(model):
    params, batch = model
    loss, grads = mixed_loss_and_grads(params, CONFIG, batch, "float16", 2.0**30)
    assert np.isfinite(loss)
    assert not all(np.isfinite(g).all() for g in grads.values())


def test_masks_reach_the_loss(model):
    params, batch = model
    mask = np.zeros(batch.labels.shape, bool)
    mask[0, :3] = True
    labels = np.where(mask, batch.labels, IGNORED)
    by_mask = mixed_loss_and_grads(params, CONFIG, batch._replace(loss_mask=mask), "float16")[0]
    by_label = mixed_loss_and_grads(params, CONFIG, Batch(batch.input_ids, labels), "float16")[0]
    assert float(by_mask) == float(by_label)
    assert float(by_mask) != float(mixed_loss_and_grads(params, CONFIG, batch, "float16")[0])


@pytest.mark.parametrize("precision", HALVES)
def test_experts_have_their_losses_too(precision):
    pytest.importorskip("ml_dtypes")
    config = QwenConfig.from_dict(
        {"model_type": "qwen2_moe", "vocab_size": 23, "hidden_size": 12, "intermediate_size": 20,
         "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
         "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8,
         "shared_expert_intermediate_size": 8, "router_aux_loss_coef": 10.0}
    )  # fmt: skip
    rng = np.random.default_rng(0)
    params, batch = init_params(config, rng), as_batch(rng.integers(0, 23, (3, 8)))
    exact = loss_and_grads(params, config, [batch])
    loss, grads = mixed_loss_and_grads(params, config, batch, precision, 1024.0)
    assert float(loss) == pytest.approx(exact.loss, abs=0.01)
    g = exact.grads["model.layers.0.mlp.gate.weight"]
    error = np.abs(grads["model.layers.0.mlp.gate.weight"] - g).max() / np.abs(g).max()
    assert 0 < error < 0.1


def test_a_batch_in_which_no_token_counts_is_refused(model):
    params, batch = model
    nothing = batch._replace(labels=np.full_like(batch.labels, IGNORED))
    with pytest.raises(ValueError, match="no token that counts"):
        mixed_loss_and_grads(params, CONFIG, nothing, "float16")


def test_without_masters_small_updates_vanish():
    """Ten updates of a tenth of a step: the master moves by a whole one, the bfloat16 never."""
    pytest.importorskip("ml_dtypes")
    master = {"norm.weight": np.ones(3, np.float32)}
    weights = half_params(master, "bfloat16")
    states = adamw_init(master), adamw_init(weights)
    grads = {"norm.weight": -np.ones(3, np.float32)}
    for _ in range(10):
        adamw_step(master, grads, states[0], lr=2**-7 / 10)
        adamw_step(weights, grads, states[1], lr=2**-7 / 10)
    assert (weights["norm.weight"] == 1).all()
    rounded = round_to_bfloat16(master["norm.weight"])
    np.testing.assert_array_equal(rounded, np.full(3, 1 + 2**-7, np.float32))


# --- device ------------------------------------------------------------------------------------


def test_rounding_on_the_device(monkeypatch):
    pytest.importorskip("ml_dtypes")
    install(monkeypatch)
    x = floats((EVERY[::7] << 16) | 0x8000)
    with count_syncs() as syncs:
        rounded, half = round_to_bfloat16(to_fake(x)), to_precision(to_fake(x), "bfloat16")
    assert not syncs
    np.testing.assert_array_equal(from_fake(rounded), round_to_bfloat16(x))
    assert half.dtype.name == "bfloat16"


@pytest.mark.parametrize("precision", HALVES)
def test_a_gradient_on_the_device(model, monkeypatch, precision):
    pytest.importorskip("ml_dtypes")
    params, batch = model
    loss, grads = mixed_loss_and_grads(params, CONFIG, batch, precision, 256.0)
    install(monkeypatch)
    on_device = {key: to_fake(w) for key, w in params.items()}
    with count_syncs() as syncs:
        their_loss, theirs = mixed_loss_and_grads(on_device, CONFIG, batch, precision, 256.0)
    assert not syncs
    assert float(from_fake(their_loss)) == float(loss)
    for key, g in grads.items():
        np.testing.assert_allclose(from_fake(theirs[key]), g, rtol=1e-3, atol=1e-4)
