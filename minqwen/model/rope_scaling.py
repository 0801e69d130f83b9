"""What `rope_scaling` of a config asks for: the frequencies of RoPE, and YaRN's attention factor.

Read as transformers 5 reads it; NTK's alpha, which depends on the length, comes from layer_plan.py.

Paper:    Qwen Technical Report, 2.3.2 Context Length Extension; Qwen2 Technical Report, 3.2
          Long-context Training.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..backend import Array
from ..long_context.ntk import interpolated_inv_freq, ntk_inv_freq
from ..long_context.yarn import yarn_attention_factor, yarn_inv_freq

if TYPE_CHECKING:
    from .config import QwenConfig

ROPE_TYPES = ("default", "linear", "dynamic", "yarn")


def rope_type(config: QwenConfig) -> str:
    """Return the kind of rope_scaling, "default" without; older files call the field `type`."""
    scaling = config.rope_scaling or {}
    if any(isinstance(value, dict) for value in scaling.values()):
        return "nested"  # one for each kind of layer
    return str(scaling.get("rope_type") or scaling.get("type") or "default")


def depends_on_length(config: QwenConfig) -> bool:
    """Say whether the frequencies depend on how long the text is."""
    return config.use_dynamic_ntk or rope_type(config) == "dynamic"


def inv_freq(config: QwenConfig, alpha: float, dtype: str) -> Array:
    """Return the Dh/2 frequencies, on the host: as trained, or as rope_scaling or NTK want them.

    Args:
        config: of the model.
        alpha: of NTK; 1 = as trained. rope_scaling of type linear or yarn has its own numbers.
        dtype: "float32" or "float64".
    """
    Dh, base, scaling = config.head_dim, config.rope_theta, config.rope_scaling or {}
    kind = rope_type(config)
    if kind == "linear":
        return interpolated_inv_freq(Dh, base, scaling["factor"], dtype)
    if kind == "yarn":
        factor, original = _yarn_factor(config)
        return yarn_inv_freq(
            Dh,
            base,
            factor,
            original,
            beta_fast=scaling.get("beta_fast") or 32.0,
            beta_slow=scaling.get("beta_slow") or 1.0,
            truncate=scaling.get("truncate", True),
            dtype=dtype,
        )
    return ntk_inv_freq(Dh, base, alpha, dtype)  # alpha = 1: as trained


def attention_factor(config: QwenConfig) -> float:
    """Return YaRN's factor on cos and sin, as transformers reads the config; 1 without YaRN."""
    if rope_type(config) != "yarn":
        return 1.0
    scaling = config.rope_scaling or {}
    if scaling.get("attention_factor") is not None:
        return float(scaling["attention_factor"])
    factor, _ = _yarn_factor(config)
    return yarn_attention_factor(factor, scaling.get("mscale"), scaling.get("mscale_all_dim"))


def _yarn_factor(config: QwenConfig) -> tuple[float, int]:
    """Return YaRN's factor and the original length; one of them may be left out of the file."""
    scaling, longest = config.rope_scaling or {}, config.max_position_embeddings
    original = scaling.get("original_max_position_embeddings") or longest
    factor = scaling.get("factor")
    return (longest / original if factor is None else float(factor)), original
