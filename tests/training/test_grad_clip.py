"""Clipping: one factor for all, no overflow, gradients that are not finite are named."""

import math

import numpy as np
import pytest
from helpers.fake_device import count_syncs, install, to_fake

from minqwen.training import blocks
from minqwen.training.grad_clip import clip_grad_norm


def test_fixture_of_the_fact_sheet():
    grads, norm = clip_grad_norm({"a": np.array([3.0, 4.0]), "b": np.array([12.0])}, 1.0)
    assert norm == 13.0
    np.testing.assert_allclose(grads["a"], [0.230769, 0.307692], atol=1e-6)
    np.testing.assert_allclose(grads["b"], [0.923077], atol=1e-6)


def test_the_direction_stays(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 4)
    rng = np.random.default_rng(0)
    grads = {"a": rng.standard_normal((3, 5)), "b": 100 * rng.standard_normal(7)}
    flat = np.concatenate([g.ravel() for g in grads.values()])
    clipped, norm = clip_grad_norm(grads, 0.5)
    assert norm == pytest.approx(np.linalg.norm(flat), rel=1e-14)
    ratio = np.concatenate([clipped[key].ravel() / grads[key].ravel() for key in grads])
    np.testing.assert_allclose(ratio, 0.5 / norm, rtol=1e-6)  # per tensor they would differ
    assert clip_grad_norm(clipped, 1.0)[1] == pytest.approx(0.5, rel=1e-6)


def test_a_short_gradient_comes_back_as_it_is():
    grads = {"a": np.array([0.3, 0.4])}
    clipped, norm = clip_grad_norm(grads, 1.0)
    assert clipped["a"] is grads["a"]
    assert norm == pytest.approx(0.5)
    assert clip_grad_norm({"a": np.zeros(3)}, 1.0)[1] == 0.0
    assert clip_grad_norm({"a": np.full(3, 1e9)}, math.inf)[0]["a"][0] == 1e9


def test_the_added_millionth_is_there_as_in_pytorch():
    clipped, _ = clip_grad_norm({"a": np.array([1e-6])}, 1e-6)
    np.testing.assert_allclose(clipped["a"], [0.5e-6], rtol=1e-12)


def test_modifies_nothing_and_keeps_the_dtype():
    for dtype in (np.float16, np.float32, np.float64):
        grads = {"a": np.full(3, 5, dtype)}
        clipped, norm = clip_grad_norm(grads, 1.0)
        assert (grads["a"] == 5).all()
        assert clipped["a"].dtype == dtype
        assert type(norm) is float


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("kind", [np.float64, np.float32, int])
def test_the_type_of_max_norm_does_not_change_the_dtype(kind, in_place):
    grads = {"a": np.full(3, 5, np.float32)}
    expected, _ = clip_grad_norm(grads, 1.0)
    clipped, norm = clip_grad_norm(grads, kind(1), in_place=in_place)
    assert clipped["a"].dtype == np.float32
    assert type(norm) is float
    np.testing.assert_array_equal(clipped["a"], expected["a"])


def test_in_place_gives_the_same_in_the_same_arrays():
    rng = np.random.default_rng(0)
    grads = {key: rng.standard_normal((3, 5)).astype(np.float32) for key in "ab"}
    expected, _ = clip_grad_norm(grads, 0.5)
    arrays = dict(grads)
    clipped, _ = clip_grad_norm(grads, 0.5, in_place=True)
    for key in arrays:
        assert clipped[key] is arrays[key]
        np.testing.assert_array_equal(clipped[key], expected[key])


@pytest.mark.parametrize(("dtype", "size"), [(np.float32, 1e30), (np.float16, 6e4)])
def test_squares_that_overflow_the_dtype_do_not_overflow_the_norm(dtype, size):
    _, norm = clip_grad_norm({"a": np.full(4, size, dtype)}, 1.0)
    assert norm == pytest.approx(2 * float(dtype(size)))


def test_the_sum_of_many_small_squares_keeps_its_digits():
    _, norm = clip_grad_norm({"a": np.full(3_000_000, 0.1, np.float32)}, 1e9)
    assert norm == pytest.approx(float(np.float32(0.1)) * math.sqrt(3e6), rel=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_gradients_that_are_not_finite_are_named(bad):
    grads = {"a": np.ones(2), "b": np.array([1.0, bad]), "c": np.array([bad])}
    with pytest.raises(FloatingPointError, match=r"NaN or infinity: b, c$"):
        clip_grad_norm(grads, 1.0)


def test_a_norm_beyond_float64_is_an_error_of_its_own():
    with (
        np.errstate(over="ignore"),
        pytest.raises(FloatingPointError, match="gradients are finite, but"),
    ):
        clip_grad_norm({"a": np.full(2, 1e200)}, 1.0)


@pytest.mark.parametrize("max_norm", [0.0, -1.0, math.nan])
def test_max_norm_must_be_positive(max_norm):
    with pytest.raises(ValueError, match="max_norm must be positive"):
        clip_grad_norm({"a": np.ones(1)}, max_norm)


def test_waits_for_the_device_once(monkeypatch):
    install(monkeypatch)
    grads = {key: to_fake(np.ones((2, 3))) for key in "abc"}
    with count_syncs() as syncs:
        _, norm = clip_grad_norm(grads, 1.0)
    assert norm == pytest.approx(math.sqrt(18))
    assert sum(syncs.values()) == 1
