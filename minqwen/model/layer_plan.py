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
          In a batch with padding every row is read as if it were alone, and so is every text of a
          row with segments: it has an alpha of its own (transformers takes that of the longest
          row), and LogN counts real tokens (the released code counts padding too). The highest
          position of a query in DCA is the paper's, chunk_size - 1; `"highest_position":
          chunk_size` gives that of the released code, which is what vLLM does with a config of
          Qwen2.5-1M. vLLM's temperature that grows with the text is not applied: give
          rope_scaling.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..backend import Array, array_module, at_least_float32, to_numpy
from ..long_context.dual_chunk import DualChunkTables, dual_chunk_tables
from ..long_context.logn import logn_scale
from ..long_context.ntk import continuous_ntk_alpha, dynamic_ntk_alpha
from ..long_context.yarn import yarn_tables
from .long_context_fields import layer_windows
from .rope_scaling import attention_factor, inv_freq, rope_type

if TYPE_CHECKING:
    from .config import QwenConfig


class LayerPlan(NamedTuple):
    """What acts in one layer."""

    alphas: tuple[float, ...] = (1.0,)  # of NTK: one for all texts of the batch, or one for each
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
    segments: Array | None = None  # (B, T) int, which text a token belongs to


def layer_plans(
    config: QwenConfig, lengths: Sequence[int], training: bool = False
) -> tuple[LayerPlan, ...]:
    """Return the plan of every layer.

    Args:
        config: of the model.
        lengths: of each row, with what is in a KV cache; one number if all are alike. With
            segments, of each text, row by row: text_lengths.
        training: the report applies NTK and LogN at inference only.

    Raises:
        ValueError: a length is below 0.

    >>> from .presets import own_size
    >>> config = own_size("tiny", vocab_size=300)
    >>> config.max_position_embeddings, config.use_dynamic_ntk = 128, True
    >>> layer_plans(config, [128])[0].alphas, layer_plans(config, [129])[0].alphas
    ((1.0,), (3.0,))
    """
    trained, kind = config.max_position_embeddings, rope_type(config)
    dca = config.dual_chunk_attention_config
    chunks = None
    if dca is not None:
        c = dca["chunk_size"]
        chunks = (c, dca["local_size"], dca.get("highest_position", c - 1))
    logn = trained if config.use_logn_attn and not training and max(lengths) > trained else None

    def alpha(length: int, window: int | None) -> float:
        if kind == "dynamic":
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
    plan: LayerPlan,
    config: QwenConfig,
    positions: Array,
    key_positions: Array,
    like: Array,
    segments: Array | None = None,
) -> PositionTables:
    """Return the arrays of a plan.

    Args:
        plan: of a layer.
        config: of the model.
        positions: (T,) or (B, T) int, of the new tokens; with DCA best on the host.
        key_positions: (S,) or (B, S) int, of all tokens.
        like: a parameter: gives device and precision.
        segments: (B, T) int on the host, or None: a row is one text.

    Returns:
        PositionTables, in at_least_float32 of `like` and on its device.

    Raises:
        ValueError: with DCA, key_positions fall along a row or do not end in positions.
    """
    xp, dtype = array_module(like), at_least_float32(like).name
    rows = [inv_freq(config, alpha, dtype) for alpha in plan.alphas]  # each (Dh/2,)
    if len(rows) == 1:
        freq = xp.asarray(rows[0])
    elif segments is None:
        freq = xp.asarray(np.stack(rows)[:, None])  # (B, 1, Dh/2)
    else:
        freq = xp.asarray(np.stack(rows)[text_numbers(segments)])  # (B, T, Dh/2)
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
    segments = None if segments is None else xp.asarray(segments)
    return PositionTables(cos, sin, q_scale, plan.window, chunks, segments)


def text_numbers(segments: Array) -> Array:
    """Return which text of the batch each token belongs to, counted row by row.

    Args:
        segments: (B, T) int on the host, not falling along a row.

    >>> text_numbers(np.array([[0, 0, 7], [7, 8, 8]]))
    array([[0, 0, 1],
           [2, 3, 3]])
    """
    starts = np.ones(segments.shape, bool)
    starts[:, 1:] = segments[:, 1:] != segments[:, :-1]
    numbers: Array = starts.ravel().cumsum().reshape(segments.shape) - 1
    return numbers


def text_lengths(positions: Array, segments: Array) -> list[int]:
    """Return how long each text of rows with segments is by its positions, row by row.

    Args:
        positions: (T,) or (B, T) int, of all tokens.
        segments: (B, T) int on the host.

    Raises:
        ValueError: a position is below 0.

    >>> text_lengths(np.array([[0, 1, 0]]), np.array([[4, 4, 5]]))
    [2, 1]
    """
    on_host = np.broadcast_to(to_numpy(positions), segments.shape)
    if on_host.min() < 0:
        raise ValueError(f"positions must be 0 or above, got {on_host.min()}")
    first = np.unique(text_numbers(segments), return_index=True)[1]  # where each text begins
    lengths: list[int] = (np.maximum.reduceat(on_host.ravel(), first) + 1).tolist()
    return lengths


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
