"""The schedule: its ends, its shape, known mistakes, errors."""

import math

import numpy as np
import pytest

from minqwen.training.lr_schedule import cosine_lr

OPTIONS = {"peak_lr": 3e-4, "min_lr": 3e-5, "warmup_steps": 10, "total_steps": 100}


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 3e-4 / 11), (4, 3e-4 * 5 / 11), (9, 3e-4 * 10 / 11), (10, 3e-4), (55, 1.65e-4)],
)
def test_fixture_of_the_fact_sheet_with_a_warm_up_that_moves_at_once(step, expected):
    assert cosine_lr(step, **OPTIONS) == pytest.approx(expected, rel=1e-14)


def test_the_peak_and_the_end_are_exact():
    for i in range(1, 200):  # min + (peak - min) * 1 is not always peak
        peak, low = i * 1e-5, i * 1e-5 / (1 + i % 7)
        options = {**OPTIONS, "peak_lr": peak, "min_lr": low}
        assert cosine_lr(10, **options) == peak
        assert cosine_lr(100, **options) == cosine_lr(101, **options) == low
        assert cosine_lr(10**9, **options) == low


def test_rises_then_falls_and_every_update_moves():
    rates = [cosine_lr(step, **OPTIONS) for step in range(101)]
    assert min(rates) > 0
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert max(rates) == rates[10]


def test_the_minimum_is_a_tenth_of_the_peak_unless_given():
    assert cosine_lr(5, peak_lr=2.0, warmup_steps=0, total_steps=5) == 0.2
    assert cosine_lr(5, peak_lr=2.0, min_lr=0.0, warmup_steps=0, total_steps=5) == 0.0


def test_no_warm_up_and_nothing_but_warm_up():
    assert cosine_lr(0, peak_lr=1.0, warmup_steps=0, total_steps=3) == 1.0
    assert cosine_lr(2, peak_lr=1.0, warmup_steps=3, total_steps=3) == 0.75
    assert cosine_lr(3, peak_lr=1.0, warmup_steps=3, total_steps=3) == 0.1


def test_gives_a_python_float_which_keeps_float32():
    numpys = {key: np.asarray(value)[()] for key, value in OPTIONS.items()}
    for step in (0, 10, 50, 100):
        assert type(cosine_lr(step, **OPTIONS)) is float
        assert type(cosine_lr(np.int64(step), **numpys)) is float
        assert cosine_lr(np.int64(step), **numpys) == cosine_lr(step, **OPTIONS)
    assert type(cosine_lr(5, peak_lr=np.float64(1), warmup_steps=0, total_steps=5)) is float
    assert type(cosine_lr(5, peak_lr=1, warmup_steps=0, total_steps=5)) is float


@pytest.mark.parametrize(
    ("step", "change", "message"),
    [
        (-1, {}, "step must be 0 or more, got -1"),
        (0, {"warmup_steps": -1}, "warmup_steps=-1"),
        (0, {"warmup_steps": 101}, "warmup_steps=101, total_steps=100"),
        (0, {"min_lr": 1.0}, "min_lr=1.0"),
        (0, {"min_lr": -1.0}, "min_lr=-1.0"),
        (0, {"peak_lr": math.nan}, "peak_lr=nan"),
        (0, {"peak_lr": math.inf}, "peak_lr=inf"),
    ],
)
def test_impossible_values_are_named(step, change, message):
    with pytest.raises(ValueError, match=message):
        cosine_lr(step, **{**OPTIONS, **change})
