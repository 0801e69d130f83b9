"""Which long-context techniques act in which layer: worked out from the config for each pass.

    field of the config            acts                          on
    rope_scaling linear, yarn      always                        frequencies; yarn also cos and sin
    rope_scaling dynamic           beyond the trained length     frequencies
    use_dynamic_ntk                beyond it, not in training    frequencies
    use_logn_attn                  beyond it, not in training    queries
    sliding or layer_windows       always                        which keys a query sees
    dual_chunk_attention_config    always                        positions

The trained length is max_position_embeddings. A LayerPlan is a few numbers, equal for layers that
do the same; position_tables makes the arrays of it that a layer needs.

Where a layer has a window and `use_dynamic_ntk` is on, the layer never sees more tokens than its
window, so its alpha is that of a text as long as the window.

Paper:    Qwen Technical Report, 2.3.2 Context Length Extension; Qwen2 Technical Report, 3.2
          Long-context Training.
Differs:  a window for each layer was never released with Qwen; the sizes, and an alpha for each
          window, follow what the authors have said about it (QwenLM/Qwen, issues 292 and 422).
          In a batch with padding every row is read as if it were alone: it has an alpha of its own
          (transformers takes that of the longest row), and LogN counts real tokens (the released
          code counts padding too). The highest position of a query in DCA is the paper's,
          chunk_size - 1; `"highest_position": chunk_size` gives that of the released code, which
          is what vLLM does with a config of Qwen2.5-1M. vLLM's temperature that grows with the
          text is not applied: give rope_scaling.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..backend import Array, array_module, at_least_float32, to_numpy
from ..long_context.dual_chunk import DualChunkTables, dual_chunk_tables
from ..long_context.logn import logn_scale
from ..long_context.ntk import (
    continuous_ntk_alpha,
    dynamic_ntk_alpha,
    interpolated_inv_freq,
    ntk_inv_freq,
)
from ..long_context.window import qwen2_windows
from ..long_context.yarn import yarn_attention_factor, yarn_inv_freq, yarn_tables

if TYPE_CHECKING:
    from .config import QwenConfig


class LayerPlan(NamedTuple):
    """What acts in one layer."""

    alphas: tuple[float, ...] = (1.0,)  # of NTK: one for all rows of the batch, or one for each
    window: int | None = None  # tokens that a query sees; None = all before it
    train_length: int | None = None  # of LogN; None = no LogN
    chunks: tuple[int, int, int] | None = None  # DCA: chunk_size, local_window, highest position


class PositionTables(NamedTuple):
    """What a layer needs to know about where tokens are, and how far each may look."""

    cos: Array  # (T, Dh) or (B, T, Dh) for queries and keys; with DCA for keys
    sin: Array  # the same shape
    q_scale: Array | None = None  # (T,) or (B, T), LogN's factor on each query
    window: int | None = None
    chunks: DualChunkTables | None = None


def layer_plans(
    config: QwenConfig, lengths: Sequence[int], training: bool = False
) -> tuple[LayerPlan, ...]:
    """Return the plan of every layer.

    Args:
        config: of the model.
        lengths: of each row, with what is in a KV cache; one number if all are alike.
        training: the report applies NTK and LogN at inference only.

    Raises:
        ValueError: a length is below 0.

    >>> from .presets import own_size
    >>> config = own_size("tiny", vocab_size=300)
    >>> config.max_position_embeddings, config.use_dynamic_ntk = 128, True
    >>> layer_plans(config, [128])[0].alphas, layer_plans(config, [129])[0].alphas
    ((1.0,), (3.0,))
    """
    trained = config.max_position_embeddings
    dca = config.dual_chunk_attention_config
    chunks = None
    if dca is not None:
        c = dca["chunk_size"]
        chunks = (c, dca["local_size"], dca.get("highest_position", c - 1))
    logn = trained if config.use_logn_attn and not training and max(lengths) > trained else None

    def alpha(length: int, window: int | None) -> float:
        if rope_type(config) == "dynamic":
            factor = (config.rope_scaling or {})["factor"]
            return continuous_ntk_alpha(length, trained, factor)
        if config.use_dynamic_ntk and not training:
            return dynamic_ntk_alpha(min(length, window or length), trained)
        return 1.0

    plans = []
    for window in layer_windows(config):
        alphas = tuple(alpha(length, window) for length in lengths)
        alphas = alphas[:1] if len(set(alphas)) == 1 else alphas
        plans.append(LayerPlan(alphas, window, logn, chunks))
    return tuple(plans)


def position_tables(
    plan: LayerPlan, config: QwenConfig, positions: Array, key_positions: Array, like: Array
) -> PositionTables:
    """Return the arrays of a plan.

    Args:
        plan: of a layer.
        config: of the model.
        positions: (T,) or (B, T) int, of the new tokens; with DCA best on the host.
        key_positions: (S,) or (B, S) int, of all tokens.
        like: a parameter: gives device and precision.

    Returns:
        PositionTables, in at_least_float32 of `like` and on its device.

    Raises:
        ValueError: with DCA, key_positions fall along a row or do not end in positions.
    """
    xp, dtype = array_module(like), at_least_float32(like).name
    rows = [inv_freq(config, alpha, dtype) for alpha in plan.alphas]  # each (Dh/2,)
    freq = xp.asarray(rows[0] if len(rows) == 1 else np.stack(rows)[:, None])  # or (B, 1, Dh/2)
    factor = attention_factor(config)
    chunks = None
    if plan.chunks is None:
        cos, sin = yarn_tables(xp.asarray(positions), freq, factor)  # factor 1: those of RoPE
    else:
        chunks = dual_chunk_tables(
            positions, key_positions, freq, *plan.chunks, attention_factor=factor
        )
        cos, sin = chunks.key
    q_scale = None
    if plan.train_length is not None:
        q_scale = logn_scale(xp.asarray(positions), plan.train_length, dtype)
    return PositionTables(cos, sin, q_scale, plan.window, chunks)


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


def rope_type(config: QwenConfig) -> str:
    """Return the kind of rope_scaling, "default" without; older files call the field `type`."""
    scaling = config.rope_scaling or {}
    if any(isinstance(value, dict) for value in scaling.values()):
        return "nested"  # one for each kind of layer
    return str(scaling.get("rope_type") or scaling.get("type") or "default")


def layer_windows(config: QwenConfig) -> tuple[int | None, ...]:
    """Return for each layer how many tokens a query sees, itself included; None = all before it."""
    if config.layer_windows is not None:
        return tuple(config.layer_windows)
    return qwen2_windows(
        config.num_hidden_layers,
        config.use_sliding_window,
        config.sliding_window,
        config.max_window_layers,
        config.layer_types,
    )


def depends_on_length(config: QwenConfig) -> bool:
    """Say whether the frequencies depend on how long the text is."""
    return config.use_dynamic_ntk or rope_type(config) == "dynamic"


def row_lengths(positions: Array) -> list[int]:
    """Return how long the text of each row is by its positions; one number if all are alike.

    Positions on a device, which those of padded rows are, are waited for.

    Args:
        positions: (S,) or (B, S) int, of all tokens.

    Raises:
        ValueError: a position is below 0.

    >>> row_lengths(np.array([[0, 1, 2], [0, 0, 1]])), row_lengths(np.array([7, 8]))
    ([3, 2], [9])
    """
    on_host = to_numpy(positions)
    if on_host.size == 0:
        return [0]
    if on_host.min() < 0:
        raise ValueError(f"positions must be 0 or above, got {on_host.min()}")
    last: list[int] = on_host.max(axis=-1, keepdims=positions.ndim == 1).tolist()
    return [position + 1 for position in last]


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
ROPE_TYPES = ("default", "linear", "dynamic", "yarn")
LAYER_TYPES = ("full_attention", "sliding_attention")


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
    L = config.num_hidden_layers

    def require(name: str, good: bool, wanted: str, value: Any) -> None:
        if not good:
            raise ValueError(f"{name} must be {wanted}, got {value!r}")

    def whole(value: Any, least: int) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value >= least

    def number(value: Any, least: float) -> bool:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return is_number and least <= value < float("inf")

    value: Any = config.rope_scaling
    require("rope_scaling", value is None or isinstance(value, dict), "an object or null", value)
    if "rope_theta" in (value or {}):
        raise ValueError("rope_theta must stand beside rope_scaling, not in it")
    if rope_type(config) in ("linear", "dynamic", "yarn"):
        factor = value.get("factor")
        optional = rope_type(config) == "yarn" and factor is None
        require("rope_scaling.factor", optional or number(factor, 1), "at least 1", factor)
        for name in ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"):
            got = value.get(name)
            require(f"rope_scaling.{name}", got is None or number(got, 0), "0 or above", got)
        got = value.get("attention_factor", 1.0)
        require("rope_scaling.attention_factor", got is None or got > 0, "above 0", got)
        got = value.get("truncate", True)
        require("rope_scaling.truncate", isinstance(got, bool), "true or false", got)
        original = value.get("original_max_position_embeddings")
        require(
            "rope_scaling.original_max_position_embeddings",
            original is None or whole(original, 1),
            "a whole number",
            original,
        )
    value = config.sliding_window
    require("sliding_window", value is None or whole(value, 1), "a whole number or null", value)
    value = config.max_window_layers
    require("max_window_layers", whole(value, 0), "a whole number", value)
    value = config.layer_types
    fits = isinstance(value, list) and len(value) == L and all(k in LAYER_TYPES for k in value)
    wanted = f"a list of L={L} times {' or '.join(LAYER_TYPES)}, or null"
    require("layer_types", value is None or fits, wanted, value)
    value = config.layer_windows
    fits = isinstance(value, list) and len(value) == L
    fits = fits and all(window is None or whole(window, 1) for window in value)
    wanted = f"a list of L={L} whole numbers, null where a layer sees all, or null"
    require("layer_windows", value is None or fits, wanted, value)
    value = config.dual_chunk_attention_config
    fits = value is None or isinstance(value, dict)
    require("dual_chunk_attention_config", fits, "an object or null", value)
    if value is not None:
        c, w = value.get("chunk_size"), value.get("local_size")
        require("dual_chunk_attention_config.chunk_size", whole(c, 2), "at least 2", c)
        fits = whole(w, 1) and w < c
        require("dual_chunk_attention_config.local_size", fits, f"from 1 to {c - 1}", w)
        highest = value.get("highest_position", c - 1)
        name = "dual_chunk_attention_config.highest_position"
        fits = whole(highest, c - 1) and highest <= c
        require(name, fits, f"{c - 1} (the paper) or {c} (released)", highest)
        original = value.get("original_max_position_embeddings", 1)
        name = "dual_chunk_attention_config.original_max_position_embeddings"
        require(name, whole(original, 1), "a whole number", original)
    if config.use_logn_attn and config.max_position_embeddings < 2:
        raise ValueError("use_logn_attn needs max_position_embeddings of at least 2, got 1")
    layer_windows(config)  # checks what only the techniques themselves can tell
    try:
        inv_freq(config, 3.0 if depends_on_length(config) else 1.0, "float64")
    except (ValueError, OverflowError) as error:
        raise ValueError(f"rope_scaling, rope_theta or head_dim cannot be: {error}") from None
