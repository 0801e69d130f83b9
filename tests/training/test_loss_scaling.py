"""The scale of the loss: when it grows, when it falls, and what it is for."""

import math

import numpy as np
import pytest
from helpers.fake_device import count_syncs, install, to_fake

from minqwen.training.loss_scaling import LossScale, all_finite, next_loss_scale, unscale


def test_a_script_of_good_and_bad_steps():
    state, seen = LossScale(), []
    for finite in (True, True, False, True, True, True, True, False, False):
        state = next_loss_scale(state, finite, interval=3)
        seen.append((math.log2(state.scale), state.good_steps))
    assert seen == [(16, 1), (16, 2), (15, 0), (15, 1), (15, 2), (16, 0), (16, 1), (15, 0), (14, 0)]


def test_a_skipped_step_starts_the_count_again():
    state = LossScale(8.0, good_steps=5, skipped=2)
    state = next_loss_scale(state, False, interval=6)
    assert next_loss_scale(state, True, interval=6) == LossScale(4.0, 1, skipped=3)
    assert next_loss_scale(state, True, interval=1) == LossScale(8.0, 0, skipped=3)


def test_it_never_becomes_infinite():
    top = LossScale(2.0**127)
    assert next_loss_scale(top, True, interval=1) == LossScale(2.0**127, 0)


def test_a_nan_that_no_scale_mends_ends_the_run():
    state = LossScale(4.0)
    state = next_loss_scale(next_loss_scale(state, False), False)
    assert state.scale == 1.0
    with pytest.raises(FloatingPointError, match="not finite with a loss scale of 1"):
        next_loss_scale(state, False)


@pytest.mark.parametrize(
    "wrong",
    [{"growth": 0.5}, {"backoff": 1.0}, {"backoff": 0.0}, {"interval": 0}, {"smallest": -1.0}],
)
def test_numbers_without_sense_are_refused(wrong):
    with pytest.raises(ValueError, match="next_loss_scale needs growth >= 1"):
        next_loss_scale(LossScale(), True, **wrong)


def test_unscaling_keeps_what_float16_has_not():
    tiny = np.array([2.0**-24], np.float16)  # the smallest one
    grads = {"w": tiny}
    assert unscale(grads, 2.0**16)["w"].tolist() == [2.0**-40]
    assert unscale({"w": np.ones(1)}, 4.0)["w"].dtype == np.float64
    assert grads["w"] is tiny
    wide = np.ones(1, np.float32)
    assert unscale({"w": wide}, 1.0)["w"] is wide  # float32 training makes no copy
    assert unscale(grads, 1.0)["w"].dtype == np.float32


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_one_bad_number_is_enough(bad, dtype):
    grads = {"a": np.zeros((2, 3), dtype), "b": np.ones(5, dtype)}
    assert all_finite(grads)
    grads["b"][3] = bad
    assert not all_finite(grads)


def test_bfloat16_gradients_are_asked_too():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    grads = {"w": np.array([1, math.inf], ml_dtypes.bfloat16)}
    assert not all_finite(grads)
    assert all_finite({"w": grads["w"][:1]})


def test_one_wait_for_the_device(monkeypatch):
    install(monkeypatch)
    grads = {"a": to_fake(np.ones((2, 3), np.float16)), "b": to_fake(np.ones(5, np.float16))}
    with count_syncs() as syncs:
        wide = unscale(grads, 8.0)
    assert not syncs
    with count_syncs() as syncs:
        assert all_finite(wide)
    assert sum(syncs.values()) == 1
