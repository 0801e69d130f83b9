"""Key/value cache: what decoding need not compute again.

The keys and values of earlier tokens do not change when a token is added (attention is causal),
so each layer keeps them and a decoding step runs the model on one token. The memory is

    2 * L * B * Hkv * length * Dh numbers      (2: keys and values)

which is why Qwen2 has fewer key/value heads: 8 in the 72B model instead of 64.

A layer with a window of W tokens never looks further back, so it keeps the last W only, however
long the text grows: its cache rolls. The room is two windows; when it is full, the last W - 1
tokens move to its front, so that keys stay in order and are moved once in W steps.

Dynamic NTK breaks the first sentence above. When the text grows past a power of two of the trained
length, alpha changes: the keys in the cache were turned by the old frequencies. Turning them again
would do for the first layer only; the keys of all other layers come from the output of a layer
that had worked with the old ones. Two ways out:

    consistent     when alpha changes, the whole text goes through the model once more. With Qwen's
                   rule that is once each time the text doubles (in a padded batch: that of any
                   row), so it costs about one more pass in all; with transformers' "dynamic" it is
                   at every token beyond the trained length, as if there were no cache. Every logit
                   is that of a run without a cache.
    as released    Qwen-7B's code keeps the alpha of the first call for ever; transformers turns
                   new tokens by the new frequencies and leaves the old keys. Cheaper, and not what
                   a run without a cache returns (tests/model/test_long_context_model.py).

Paper:    Qwen2 Technical Report, "Qwen2 Dense Model", Grouped Query Attention, which is there
          to make this cache smaller. Qwen Technical Report, 2.3.2: dynamic NTK, windows.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from ..backend import Array, array_module, to_numpy
from .config import QwenConfig
from .layer_plan import LayerPlan
from .long_context_fields import LONG_CONTEXT_FIELDS, layer_windows
from .rope_scaling import depends_on_length

ROLLING_ROOM = 2  # windows
RULES = ("rope_theta", "max_position_embeddings", *LONG_CONTEXT_FIELDS)  # what keys depend on


class KVCache:
    """Room for the keys and values of every layer, taken once and filled from the left.

    The one object of the model that changes. A pass calls `begin`, then `store` once in each
    layer, then `advance`; a pass that breaks off before `advance` loses nothing. Keys are kept
    after RoPE.

    Attributes:
        keys, values: for each layer (B, Hkv, room, Dh) float.
        length: tokens seen so far.
        real: (B, length) bool, False where the token is padding, or None while none is.
    """

    def __init__(
        self,
        config: QwenConfig,
        batch_size: int,
        max_length: int,
        like: Array | None = None,
        dtype: str = "float32",
        as_released: bool = False,
    ) -> None:
        """Take the room.

        Args:
            config: gives L, Hkv, Dh and the windows.
            batch_size: B.
            max_length: the most tokens a row can have.
            like: a parameter: the cache gets its dtype and device.
            dtype: without `like`: the dtype, on the host.
            as_released: with dynamic NTK, do as the released code does; see above.
        """
        xp, dt = array_module(like), np.dtype(dtype) if like is None else like.dtype
        self.batch_size, self.max_length, self.as_released = batch_size, max_length, as_released
        self.windows = layer_windows(config)
        Hkv, Dh = config.num_key_value_heads, config.head_dim
        rooms = [min(max_length, ROLLING_ROOM * (W or max_length)) for W in self.windows]
        self.keys: list[Array] = [xp.zeros((batch_size, Hkv, n, Dh), dtype=dt) for n in rooms]
        self.values: list[Array] = [xp.zeros_like(k) for k in self.keys]
        self.length = 0
        self.real: Array | None = None
        self._filled = 0  # tokens in the arrays: `length`, but for a pass over the whole text
        self._first = [0] * len(rooms)  # the oldest token that each layer still has
        self._long: dict[int, tuple[Array, Array]] = {}  # layer: its last W - 1, of a long pass
        self._end = 0  # `length` after this pass
        # ids and positions of the text, kept where they are asked for again
        self._remembers = (
            depends_on_length(config) or config.dual_chunk_attention_config is not None
        )
        self._text: tuple[Array, Array] | None = None
        self._next: tuple[Array, Array]  # the same with the tokens of this pass
        self._rules = copy.deepcopy({name: getattr(config, name) for name in RULES})
        self._plans: tuple[LayerPlan, ...] = ()
        self._next_plans: tuple[LayerPlan, ...] = ()
        self._frozen = config.use_dynamic_ntk  # as released, Qwen keeps alpha

    @property
    def nbytes(self) -> int:
        """Bytes taken by keys and values together."""
        return int(sum(k.nbytes + v.nbytes for k, v in zip(self.keys, self.values, strict=True)))

    def begin(
        self,
        plans: tuple[LayerPlan, ...],
        input_ids: Array,
        positions: Array,
        key_positions: Array,
    ) -> tuple[tuple[LayerPlan, ...], Array, Array]:
        """Start a pass over new tokens, or over the whole text if alpha has changed.

        Args:
            plans: of every layer, for the text with the new tokens.
            input_ids: (B, T) int.
            positions: (T,) or (B, T) int, of the new tokens.
            key_positions: from all_positions.

        Returns:
            plans, input_ids, positions: what the pass must take.
        """
        self._long = {}
        self._end = self.length + input_ids.shape[1]
        if not self._remembers:
            return plans, input_ids, positions
        ids = to_numpy(input_ids)
        if self._text is not None:
            ids = np.concatenate((self._text[0], ids), axis=1)
        self._next = (ids, key_positions)
        as_before = tuple(
            p._replace(alphas=q.alphas) for p, q in zip(plans, self._plans or plans, strict=True)
        )
        if plans != as_before:
            if not self.as_released:
                self._filled = 0
            elif self._frozen:
                plans = as_before
        self._next_plans = plans
        if self._filled < self.length:  # from the first token again
            self._first = [0] * len(self._first)
            return plans, *self._next
        return plans, input_ids, positions

    def store(self, layer: int, k: Array, v: Array) -> tuple[Array, Array]:
        """Write the keys and values of T new tokens; return all that the new tokens may see.

        Args:
            layer: 0 .. L-1.
            k: (B, Hkv, T, Dh) float, after RoPE.
            v: (B, Hkv, T, Dh) float.

        Returns:
            k, v: (B, Hkv, S, Dh), those of all tokens, or with a window at most the last W - 1
            before the new ones; views where possible.
        """
        keys, values, T = self.keys[layer], self.values[layer], k.shape[2]
        held, room = self._filled - self._first[layer], keys.shape[2]
        window = self.windows[layer]
        seen = held if window is None else min(held, window - 1)
        if held + T > room and seen + T <= room:  # what is still seen moves to the front
            for a in (keys, values):
                a[:, :, :seen] = a[:, :, held - seen : held].copy()
            self._first[layer], held = self._filled - seen, seen
        if held + T <= room:
            keys[:, :, held : held + T] = k
            values[:, :, held : held + T] = v
            return keys[:, :, held - seen : held + T], values[:, :, held - seen : held + T]
        xp = array_module(keys)  # more new tokens than a rolling layer keeps
        k = xp.concatenate((keys[:, :, held - seen : held], k), axis=2)
        v = xp.concatenate((values[:, :, held - seen : held], v), axis=2)
        first = k.shape[2] - min(k.shape[2], (window or 0) - 1)
        self._long[layer] = (k[:, :, first:].copy(), v[:, :, first:].copy())  # not a view of all
        return k, v

    def advance(self, real: Array | None) -> None:
        """Count the new tokens in, after every layer has stored them; real is (B, S) or None."""
        for layer, (k, v) in self._long.items():
            kept = k.shape[2]
            self.keys[layer][:, :, :kept], self.values[layer][:, :, :kept] = k, v
            self._first[layer] = self._end - kept
        self._long = {}
        self.length = self._filled = self._end
        self.real = real
        if self._remembers:
            self._text, self._plans = self._next, self._next_plans

    def truncate(self, length: int) -> None:
        """Forget all tokens but the first `length`.

        Raises:
            ValueError: there are fewer, or a layer with a window has already let go of tokens that
                the next one would see.
        """
        if not 0 <= length <= self.length:
            raise ValueError(f"length must be from 0 to {self.length}, got {length}")
        if length == 0:
            self._first = [0] * len(self._first)
        for window, first in zip(self.windows, self._first, strict=True):
            if window is not None and first > max(0, length - window + 1):
                raise ValueError(
                    f"a window of W={window} has rolled on: tokens before {first} are gone, "
                    f"and length={length} needs those from {max(0, length - window + 1)} on"
                )
        self.length, self._filled = length, min(self._filled, length)
        self._plans = self._plans if length else ()  # a new text, a new alpha
        self.real = None if self.real is None else self.real[:, :length]
        if self._text is not None:
            cut = (self._text[0][:, :length], self._text[1][..., :length])
            self._text = cut if length else None

    def all_positions(self, positions: Array) -> Array:
        """Return the positions of all tokens, (S,) or (B, S), where they matter; else of the new.

        Args:
            positions: (T,) or (B, T) int, of the new tokens: for all rows, or for each.
        """
        if self._text is None:
            return positions
        old = self._text[1]
        xp = array_module(old, positions)
        old, positions = xp.asarray(old), xp.asarray(positions)
        if old.ndim != positions.ndim:
            old, positions = (
                xp.broadcast_to(a, (self.batch_size, a.shape[-1])) for a in (old, positions)
            )
        joined: Array = xp.concatenate((old, positions), axis=-1)
        return joined

    def require_room(self, config: QwenConfig, batch_size: int, new_tokens: int) -> None:
        """Raise ValueError unless the cache fits the model and the batch, and has room."""
        _, Hkv, _, Dh = self.keys[0].shape
        have = (len(self.keys), Hkv, Dh)
        want = (config.num_hidden_layers, config.num_key_value_heads, config.head_dim)
        if have != want:
            raise ValueError(f"kv_cache is for (L, Hkv, Dh) = {have}, the model has {want}")
        for name, value in self._rules.items():
            if getattr(config, name) != value:
                raise ValueError(
                    f"kv_cache is for {name} = {value}, the model has {getattr(config, name)}"
                )
        if batch_size != self.batch_size:
            raise ValueError(f"kv_cache is for B={self.batch_size}, input_ids have B={batch_size}")
        if self.length + new_tokens > self.max_length:
            raise ValueError(
                f"kv_cache has room for {self.max_length} tokens and holds {self.length}; "
                f"{new_tokens} more do not fit"
            )

    def extend_real(self, new: Any, new_tokens: int) -> Array | None:
        """Return which of all tokens are real, (B, length + T) bool, or None when all are.

        Args:
            new: (B, length + T) bool for all tokens, or (B, T) for the new ones only, or None:
                the new ones are real. On the host, also for a model on a GPU, it stays there:
                what depends on it is then known without waiting.
            new_tokens: T.
        """
        xp = array_module(new, self.real)
        B, total = self.batch_size, self.length + new_tokens
        if new is not None and new.shape == (B, total):
            return xp.asarray(new)  # type: ignore[no-any-return]
        if new is None and self.real is None:
            return None
        old = self.real
        old = xp.ones((B, self.length), dtype=bool) if old is None else xp.asarray(old)
        added = xp.ones((B, new_tokens), dtype=bool) if new is None else xp.asarray(new)
        if added.shape != (B, new_tokens):
            raise ValueError(
                f"attention_mask must have shape (B={B}, S={total}) or (B={B}, T={new_tokens}), "
                f"got {added.shape}"
            )
        return xp.concatenate((old, added), axis=1)  # type: ignore[no-any-return]
