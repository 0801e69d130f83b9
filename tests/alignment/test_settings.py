"""Settings of the stages: what is refused, and the numbers of the report."""

import json
import math

import pytest

from minqwen.alignment.settings import (
    REPORT_PPO,
    REPORT_REWARD,
    REPORT_SFT,
    DpoSettings,
    PpoSettings,
    RewardSettings,
    SftSettings,
    steps_of_epochs,
)

KINDS = (SftSettings, RewardSettings, DpoSettings, PpoSettings)
TRAINED = KINDS[:3]


def test_the_numbers_of_the_report():
    s = REPORT_SFT
    assert (s.batch_size, s.steps, s.warmup_steps, s.peak_lr) == (128, 4000, 1430, 2e-6)
    assert (s.weight_decay, s.dropout, s.max_norm) == (0.1, 0.1, 1.0)
    assert (s.beta1, s.beta2, s.eps, s.context_length) == (0.9, 0.95, 1e-8, 2048)
    r = REPORT_REWARD
    assert (r.peak_lr, r.batch_size, r.context_length) == (3e-6, 64, 2048)
    assert (r.min_lr_ratio, r.warmup_steps) == (1.0, 0)  # a constant rate
    p = REPORT_PPO
    assert (p.policy_lr, p.value_lr, p.value_warmup_steps) == (1e-6, 5e-6, 50)
    assert (p.kl_coef, p.cliprange_value, p.top_p, p.responses_per_query) == (0.04, 0.15, 0.9, 2)
    assert not p.scale_rewards  # by the running mean only


@pytest.mark.parametrize("kind", KINDS)
def test_json_holds_settings_and_gives_them_back(kind):
    for settings in (kind(), kind(max_norm=math.inf, seed=3)):
        read = json.loads(json.dumps(settings.to_dict(), allow_nan=False))
        read["max_norm"] = math.inf if read["max_norm"] is None else read["max_norm"]
        assert kind(**read) == settings


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("steps", 0, "steps must be a whole number, at least 1, got 0"),
        ("batch_size", 2.0, "batch_size must be a whole number, at least 1, got 2.0"),
        ("seed", -1, "seed must be a whole number, at least 0, got -1"),
        ("checkpoint_every", True, "checkpoint_every must be a whole number"),
        ("beta2", 1.0, r"beta2 must be in \[0, 1\), got 1.0"),
        ("eps", -1e-8, "eps must be 0 or more"),
        ("weight_decay", math.inf, "weight_decay must be 0 or more, got inf"),
        ("max_norm", 0, "max_norm must be positive, got 0"),
        ("dtype", "float16", "dtype must be float32 or float64, got 'float16'"),
    ],
)
def test_what_no_stage_can_have(kind, field, value, says):
    with pytest.raises(ValueError, match=says):
        kind(**{field: value})


@pytest.mark.parametrize("kind", TRAINED)
@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"peak_lr": 0.0}, "peak_lr must be positive"),
        ({"peak_lr": "1e-3"}, "peak_lr must be an int or a float"),
        ({"min_lr_ratio": 1.5}, r"min_lr_ratio must be in \[0, 1\]"),
        ({"steps": 5, "warmup_steps": 6}, "warmup_steps must be at most steps=5, got 6"),
        ({"batch_size": 4, "accumulate": 5}, "accumulate must be at most batch_size=4, got 5"),
        ({"context_length": 1}, "context_length must be a whole number, at least 2"),
    ],
)
def test_what_no_training_with_a_schedule_can_have(kind, fields, says):
    with pytest.raises(ValueError, match=says):
        kind(**fields)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: SftSettings(dropout=1.0), r"dropout must be in \[0, 1\), got 1.0"),
        (lambda: SftSettings(packed=1), "packed must be true or false, got 1"),
        (lambda: RewardSettings(center_coef=math.inf), "center_coef must be 0 or more, got inf"),
        (lambda: DpoSettings(beta=0.0), "beta must be positive, got 0.0"),
        (lambda: DpoSettings(reduction="max"), "reduction must be sum or mean, got 'max'"),
        (lambda: PpoSettings(top_p=0), r"top_p must be in \(0, 1\], got 0"),
        (lambda: PpoSettings(temperature=0), "temperature must be positive, got 0"),
        (lambda: PpoSettings(lam=1.1), r"lam must be in \[0, 1\], got 1.1"),
        (lambda: PpoSettings(kl_coef=-0.1), "kl_coef must be 0 or more"),
        (lambda: PpoSettings(kl_estimator="k4"), "kl_estimator must be k1 or k2 or k3"),
        (lambda: PpoSettings(missing_end="add"), "missing_end must be subtract or replace"),
        (lambda: PpoSettings(missing_end_penalty=math.nan), "_penalty must be 0 or more, got nan"),
        (lambda: PpoSettings(missing_end_penalty=-1.0), "missing_end_penalty must be 0 or more"),
        (lambda: PpoSettings(cliprange_value=0.0), "cliprange_value must be positive"),
        (lambda: PpoSettings(value_warmup_steps=-1), "value_warmup_steps must be a whole number"),
        (lambda: PpoSettings(whiten_advantages=None), "whiten_advantages must be true or false"),
        (lambda: PpoSettings(batch_size=3, minibatches=4), "minibatches must be a divisor"),
    ],
)
def test_what_one_stage_cannot_have(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_no_clipping_of_the_value_is_infinity():
    """A study without the clip must be possible."""
    assert PpoSettings(cliprange=1e9, cliprange_value=1e9).cliprange_value == 1e9


@pytest.mark.parametrize(
    ("epochs", "examples", "batch_size", "steps"), [(1, 64, 64, 1), (1, 65, 64, 2), (3, 10, 4, 8)]
)
def test_steps_of_epochs(epochs, examples, batch_size, steps):
    assert steps_of_epochs(epochs, examples, batch_size) == steps


def test_steps_of_nothing_are_refused():
    with pytest.raises(ValueError, match="must be 1 or more, got 1, 0, 4"):
        steps_of_epochs(1, 0, 4)
