"""Settings: the defaults of the report, impossible values named, JSON that holds every one."""

import dataclasses
import json
import math

import numpy as np
import pytest
from training.small_run import SETTINGS

from minqwen.training.settings import PretrainSettings


def test_the_defaults_are_those_of_the_report():
    s = PretrainSettings()
    assert (s.beta1, s.beta2, s.eps, s.weight_decay, s.max_norm) == (0.9, 0.95, 1e-8, 0.1, 1.0)
    assert (s.peak_lr, s.min_lr_ratio, s.context_length, s.dtype) == (3e-4, 0.1, 2048, "float32")
    assert set(SETTINGS) <= {field.name for field in dataclasses.fields(s)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps must be a whole number, at least 1, got 0"),
        ({"steps": 2.5}, r"steps must be a whole number, at least 1, got 2\.5"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"warmup_steps": 7}, "warmup_steps must be at most steps=6, got 7"),
        ({"accumulate": 6}, r"accumulate must be at most batch_size=5, got 6"),
        ({"dtype": "float16"}, "dtype must be float32 or float64, got 'float16'"),
        ({"precision": "half"}, "precision must be one of .'float32', 'bfloat16', 'float16'., got"),
        (
            {"precision": "float16", "dtype": "float64"},
            "precision must be float32 where dtype is float64, got 'float16'",
        ),
        ({"loss_scale_interval": 0}, "loss_scale_interval must be a whole number, at least 1"),
        ({"beta2": 1.0}, r"beta2 must be in \[0, 1\), got 1\.0"),
        ({"peak_lr": math.nan}, "peak_lr must be positive, got nan"),
        ({"steps": True}, "steps must be a whole number, at least 1, got True"),
        ({"max_norm": 0.0}, r"max_norm must be positive, got 0\.0"),
        ({"max_norm": math.nan}, "max_norm must be positive, got nan"),
        ({"z_loss_coef": -0.1}, r"z_loss_coef must be 0 or more, got -0\.1"),
        ({"z_loss_coef": math.nan}, "z_loss_coef must be 0 or more, got nan"),
        ({"router_loss_pooled": 1}, "router_loss_pooled must be true or false, got 1"),
        ({"max_norm": None}, "max_norm must be an int or a float, got None"),
        ({"peak_lr": "0.1"}, "peak_lr must be an int or a float, got '0.1'"),
        ({"eps": np.float32(1e-8)}, "eps must be an int or a float"),  # JSON cannot hold it
    ],
)
def test_impossible_values_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        PretrainSettings(**{**SETTINGS, **change})


def test_every_value_fits_into_json():
    assert PretrainSettings().to_dict() == dataclasses.asdict(PretrainSettings())
    s = PretrainSettings(max_norm=math.inf, peak_lr=np.float64(0.1), weight_decay=0)
    written = json.loads(json.dumps(s.to_dict(), allow_nan=False))
    assert written == s.to_dict()
    assert written["max_norm"] is None  # no clipping
    assert written["peak_lr"] == 0.1
