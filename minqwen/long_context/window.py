"""Window attention: a query sees the last W tokens only, and every layer may have its own W.

    key j is visible from query i        where  i - W < j <= i: W keys, the query's own included
    out = softmax(scale * q k^T, hidden pairs left out) v        as in layers/attention.py

A token that is out of sight is not out of reach: what layer 1 saw, layer 2 sees through it. A stack
of L layers reaches 1 + sum_l (W_l - 1) tokens back, about window times depth. And no query meets
a distance of W or more, so a W up to the trained length keeps RoPE to angles it was trained on.

Which layers? The report found lower layers to be more sensitive when a context is extended than
upper ones, and so gives them the *shorter* windows. `ladder_windows` does that. Qwen2's config in
transformers goes the other way: layers from `max_window_layers` *up* slide, those below see all
(`qwen2_windows`); every released Qwen2 has it switched off.

The gradient is that of attention: a hidden pair has probability 0 and passes nothing on.

This file makes the masks, which say what is meant. The model gives `window` to block_attention.py,
which never computes the hidden pairs: the same result in O(T * W) time. Its KV cache may drop a
key that is W tokens old, because no later query sees it.

Paper:    Qwen Technical Report, 2.3.2 Context Length Extension, window attention.
Origin:   Beltagy, Peters and Cohan 2020, arXiv:2004.05150 (Longformer).
Differs:  the report gives no sizes and no released file has windows per layer. Doubling every few
          layers is our choice, after an example of the authors (QwenLM/Qwen, issues 292, 422).
"""

from __future__ import annotations

from collections.abc import Sequence

from ..backend import Array, array_module
from ..layers.attention import causal_mask


def window_mask(T: int, S: int, window: int, like: Array | None = None) -> Array:
    """Return (T, S) bool, True where a query may look: at the last `window` tokens, itself too.

    The T queries are the last of the S positions, and positions count padding, as in transformers.
    The mask lives where `like` lives; without it, on the host.

    Raises:
        ValueError: window < 1.

    >>> window_mask(5, 5, 3).astype(int)
    array([[1, 0, 0, 0, 0],
           [1, 1, 0, 0, 0],
           [1, 1, 1, 0, 0],
           [0, 1, 1, 1, 0],
           [0, 0, 1, 1, 1]])
    """
    if window < 1:
        raise ValueError(f"window must be at least 1, a token sees itself, got {window}")
    too_old = array_module(like).tri(T, S, S - T - window, dtype=bool)
    mask: Array = causal_mask(T, S, like) & ~too_old
    return mask


def qwen2_windows(
    num_hidden_layers: int,
    use_sliding_window: bool,
    sliding_window: int | None,
    max_window_layers: int,
    layer_types: Sequence[str] | None = None,
) -> tuple[int | None, ...]:
    """Return the window of each layer, None = sees all, as transformers reads a Qwen2 config.

    Args:
        num_hidden_layers: L.
        use_sliding_window: False: sliding_window is ignored.
        sliding_window: W of the layers that slide.
        max_window_layers: the first layer that slides. The name says otherwise.
        layer_types: "full_attention" or "sliding_attention" per layer; wins over max_window_layers.

    Raises:
        ValueError: layer_types has not L entries or an unknown one, or a layer is to slide while
            sliding_window is off.

    >>> qwen2_windows(4, True, 4096, max_window_layers=3)
    (None, None, None, 4096)
    """
    window = sliding_window if use_sliding_window else None
    if layer_types is None:
        first = num_hidden_layers if window is None else max_window_layers
        return tuple(window if layer >= first else None for layer in range(num_hidden_layers))
    if len(layer_types) != num_hidden_layers:
        raise ValueError(f"layer_types must have L={num_hidden_layers} entries: {layer_types}")
    unknown = set(layer_types) - {"full_attention", "sliding_attention"}
    if unknown:
        raise ValueError(f"layer_types: {', '.join(sorted(unknown))} is not known")
    if "sliding_attention" in layer_types and window is None:
        raise ValueError("layer_types has sliding_attention, but sliding_window is off")
    return tuple(window if kind == "sliding_attention" else None for kind in layer_types)


def ladder_windows(num_hidden_layers: int, shortest: int, layers_per_step: int) -> tuple[int, ...]:
    """Return a window for each layer, the shortest in the lowest: doubled every few layers.

    Args:
        num_hidden_layers: L.
        shortest: W of the first step; the trained length in the authors' example.
        layers_per_step: layers that share a window; 4 in that example.

    Raises:
        ValueError: shortest or layers_per_step is below 1.

    >>> ladder_windows(6, shortest=2048, layers_per_step=2)
    (2048, 2048, 4096, 4096, 8192, 8192)
    """
    if shortest < 1 or layers_per_step < 1:
        raise ValueError(
            f"shortest and layers_per_step must be at least 1, got {shortest}, {layers_per_step}"
        )
    return tuple(shortest * 2 ** (layer // layers_per_step) for layer in range(num_hidden_layers))
