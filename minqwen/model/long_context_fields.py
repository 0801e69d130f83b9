"""The fields of a config that select long-context techniques: which there are, and their checks.

What they do is worked out in layer_plan.py, once for each pass.

Paper:    Qwen Technical Report, 2.3.2 Context Length Extension; Qwen2 Technical Report, 3.2
          Long-context Training.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..long_context.window import qwen2_windows
from .rope_scaling import ROPE_TYPES, depends_on_length, inv_freq, rope_type

if TYPE_CHECKING:
    from .config import QwenConfig

LONG_CONTEXT_FIELDS = (
    "rope_scaling",
    "use_dynamic_ntk",
    "use_logn_attn",
    "use_sliding_window",
    "sliding_window",
    "max_window_layers",
    "layer_types",
    "layer_windows",
    "dual_chunk_attention_config",
)
LAYER_TYPES = ("full_attention", "sliding_attention")


def layer_windows(config: QwenConfig) -> tuple[int | None, ...]:
    """Return for each layer how many tokens a query sees, itself included; None = all before it."""
    if config.layer_windows is not None:
        return tuple(config.layer_windows)
    kinds = config.layer_types
    if kinds is None and config.use_sliding_window and config.sliding_window is not None:
        kinds = moe_layer_types(config)
    return qwen2_windows(
        config.num_hidden_layers,
        config.use_sliding_window,
        config.sliding_window,
        config.max_window_layers,
        kinds,
    )


def moe_layer_types(config: QwenConfig) -> list[str] | None:
    """Return which layers slide in a mixture of experts, where transformers has rules of its own.

    qwen2_moe: every second layer, from the lowest, below max_window_layers; the dense qwen2 has the
    layers from max_window_layers on instead. qwen3_moe: all layers. None for other types.
    """
    L, first = config.num_hidden_layers, config.max_window_layers
    if config.model_type == "qwen2_moe":
        return [LAYER_TYPES[i % 2 == 0 and i < first] for i in range(L)]
    return [LAYER_TYPES[1]] * L if config.model_type == "qwen3_moe" else None


def unsupported_long_context(config: QwenConfig) -> list[str]:
    """Name what these fields ask for and we do not compute."""
    found = []
    partial = (config.rope_scaling or {}).get("partial_rotary_factor")
    if (partial or config.extra.get("partial_rotary_factor") or 1) != 1:
        found.append("partial_rotary_factor")
    if rope_type(config) not in ROPE_TYPES:
        found.append(f"rope_scaling of type {rope_type(config)}")
    if config.use_dynamic_ntk and rope_type(config) != "default":
        found.append(f"use_dynamic_ntk together with rope_scaling of type {rope_type(config)}")
    if config.dual_chunk_attention_config is not None and any(layer_windows(config)):
        found.append("windows together with dual_chunk_attention_config")
    return found


def check_long_context(config: QwenConfig) -> None:
    """Raise ValueError, naming the field, when one of them has an impossible value."""
    for name in ("rope_scaling", "dual_chunk_attention_config"):
        value = getattr(config, name)
        good = value is None or isinstance(value, dict)
        require_field(name, good, "an object or null", value)
    _check_rope_scaling(config.rope_scaling, rope_type(config))
    _check_windows(config)
    if config.dual_chunk_attention_config is not None:
        _check_chunks(config.dual_chunk_attention_config)
    if config.use_logn_attn and config.max_position_embeddings < 2:
        raise ValueError("use_logn_attn needs max_position_embeddings of at least 2, got 1")
    layer_windows(config)  # checks what only the techniques themselves can tell
    try:
        inv_freq(config, 3.0 if depends_on_length(config) else 1.0, "float64")
    except (ValueError, OverflowError) as error:
        raise ValueError(f"rope_scaling, rope_theta or head_dim cannot be: {error}") from None


def _check_rope_scaling(scaling: Any, kind: str) -> None:
    if scaling is None:
        return
    if "rope_theta" in scaling:
        raise ValueError("rope_theta must stand beside rope_scaling, not in it")
    if kind not in ("linear", "dynamic", "yarn"):
        return  # nothing to compute with, or not ours: see unsupported_long_context
    get = scaling.get
    factor = get("factor")
    good = is_number(factor, 1) or (factor is None and kind == "yarn")  # YaRN can do without
    require_field("rope_scaling.factor", good, "at least 1", factor)
    for name in ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"):
        value = get(name)
        require_field(
            f"rope_scaling.{name}", value is None or is_number(value, 0), "0 or above", value
        )
    value = get("attention_factor")
    require_field("rope_scaling.attention_factor", value is None or value > 0, "above 0", value)
    value = get("truncate", True)
    require_field("rope_scaling.truncate", isinstance(value, bool), "true or false", value)
    name, value = "original_max_position_embeddings", get("original_max_position_embeddings")
    require_field(
        f"rope_scaling.{name}", value is None or is_whole(value, 1), "a whole number", value
    )


def _check_windows(config: QwenConfig) -> None:
    L, value = config.num_hidden_layers, config.sliding_window
    require_field(
        "sliding_window", value is None or is_whole(value, 1), "a whole number or null", value
    )
    first = config.max_window_layers
    require_field("max_window_layers", is_whole(first, 0), "a whole number", first)
    kinds = config.layer_types
    fits = isinstance(kinds, list) and len(kinds) == L and all(k in LAYER_TYPES for k in kinds)
    wanted = f"a list of L={L} times {' or '.join(LAYER_TYPES)}, or null"
    require_field("layer_types", kinds is None or fits, wanted, kinds)
    windows = config.layer_windows
    fits = isinstance(windows, list) and len(windows) == L
    fits = fits and all(W is None or is_whole(W, 1) for W in windows or ())
    wanted = f"a list of L={L} whole numbers, null where a layer sees all, or null"
    require_field("layer_windows", windows is None or fits, wanted, windows)


def _check_chunks(chunks: dict[str, Any]) -> None:
    def require(name: str, good: bool, wanted: str) -> None:
        require_field(f"dual_chunk_attention_config.{name}", good, wanted, chunks.get(name))

    get = chunks.get
    c: Any = get("chunk_size")
    w: Any = get("local_size")
    require("chunk_size", is_whole(c, 2), "a whole number of at least 2")
    require("local_size", is_whole(w, 1) and w < c, f"from 1 to {c - 1}")
    highest = get("highest_position", c - 1)
    fits = is_whole(highest, c - 1) and highest <= c
    require("highest_position", fits, f"{c - 1} (the paper) or {c} (released)")
    original = get("original_max_position_embeddings", 1)
    require("original_max_position_embeddings", is_whole(original, 1), "a whole number")


def require_field(name: str, good: bool, wanted: str, value: Any) -> None:
    """Raise ValueError that names a field, what it must be and what it is, unless it is good."""
    if not good:
        raise ValueError(f"{name} must be {wanted}, got {value!r}")


def is_whole(value: Any, least: int) -> Any:
    """Say whether a value is a whole number of at least so much."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_number(value: Any, least: float) -> bool:
    """Say whether a value is a finite number of at least so much."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and least <= value < float("inf")
