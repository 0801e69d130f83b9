"""Small random models for tests."""

import numpy as np

from minqwen.model.config import QwenConfig, param_shapes


def small_config(**changes):
    """Return a Qwen2 of prime or forced sizes: D=29, H=6, Hkv=3, Dh=10 (not D / H), F=23."""
    values = {
        "vocab_size": 61,
        "hidden_size": 29,
        "intermediate_size": 23,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "head_dim": 10,
        "rope_theta": 1000.0,
    }
    return QwenConfig(**{**values, **changes})


def random_params(config, seed=0, dtype="float64"):
    """Return weights of order one, biases and gains too, so that a mistake anywhere shows."""
    rng = np.random.default_rng(seed)
    params = {}
    for name, shape in param_shapes(config).items():
        value = rng.standard_normal(shape) * (0.3 if len(shape) == 2 else 0.5)
        params[name] = (value + (len(shape) == 1 and name.endswith("weight"))).astype(dtype)
    return params
