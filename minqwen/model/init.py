"""Fresh parameters.

Matrices and the embedding are drawn from N(0, 0.02**2), biases are 0, norm gains 1. The matrices
of a layer that write into the residual stream, o_proj and every down_proj, are drawn smaller,
0.02 / sqrt(2 L): after L layers 2 L terms have been added up, and their sum should not grow with L.

Paper:    neither report states it; the values are those of Qwen's released modelling code.
Origin:   Radford et al. 2019 (GPT-2) for the factor 1 / sqrt(2 L).
"""

from __future__ import annotations

import numpy as np

from ..params import Params
from .config import QwenConfig, param_shapes

RESIDUAL = ("o_proj.weight", "down_proj.weight", "experts.down_proj")


def init_params(
    config: QwenConfig, rng: np.random.Generator, dtype: str | np.dtype[np.generic] = "float32"
) -> Params:
    """Draw the parameters of a new model.

    Args:
        config: sizes; `initializer_range` is the standard deviation.
        rng: the same generator state gives the same parameters.
        dtype: "float32" or "float64" (or a half precision); the numbers are drawn in float32 or
            float64 and then rounded.

    Returns:
        Parameters on the host, with the names of param_shapes(config).

    >>> config = QwenConfig(vocab_size=9, hidden_size=4, intermediate_size=6, num_hidden_layers=1,
    ...                     num_attention_heads=2)
    >>> params = init_params(config, np.random.default_rng(0))
    >>> params["lm_head.weight"].shape, params["model.norm.weight"].tolist()
    ((9, 4), [1.0, 1.0, 1.0, 1.0])
    """
    dtype = np.dtype(dtype)
    draw = np.float64 if dtype == np.float64 else np.float32
    small = config.initializer_range / (2 * config.num_hidden_layers) ** 0.5
    params: Params = {}
    for name, shape in param_shapes(config).items():
        if name.endswith("bias"):
            value = np.zeros(shape, draw)
        elif len(shape) == 1:
            value = np.ones(shape, draw)
        else:
            std = small if name.endswith(RESIDUAL) else config.initializer_range
            value = rng.standard_normal(shape, dtype=draw)
            value *= std
        params[name] = value.astype(dtype, copy=False)
    return params
