"""Key/value cache: what decoding need not compute again.

The keys and values of earlier tokens do not change when a token is added (attention is causal),
so each layer keeps them and a decoding step runs the model on one token. The memory is

    2 * L * B * Hkv * length * Dh numbers      (2: keys and values)

which is why Qwen2 has fewer key/value heads: 8 in the 72B model instead of 64.

Paper:    Qwen2 Technical Report, "Qwen2 Dense Model", Grouped Query Attention, which is there
          to make this cache smaller.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import Array, array_module
from .config import QwenConfig


class KVCache:
    """Room for the keys and values of every layer, taken once and filled from the left.

    The one object of the model that changes: `store` writes, `advance` moves on. Keys are kept
    after RoPE.

    Attributes:
        keys, values: (L, B, Hkv, max_length, Dh) float.
        length: tokens stored so far.
        real: (B, length) bool, False where the token is padding, or None while none is.
    """

    def __init__(
        self,
        config: QwenConfig,
        batch_size: int,
        max_length: int,
        like: Array | None = None,
        dtype: str = "float32",
    ) -> None:
        """Take the room.

        Args:
            config: gives L, Hkv and Dh.
            batch_size: B.
            max_length: the most tokens a row can have.
            like: a parameter: the cache gets its dtype and device.
            dtype: without `like`: the dtype, on the host.
        """
        xp, dt = array_module(like), np.dtype(dtype) if like is None else like.dtype
        heads = (config.num_hidden_layers, batch_size, config.num_key_value_heads)
        self.keys: Array = xp.zeros((*heads, max_length, config.head_dim), dtype=dt)
        self.values: Array = xp.zeros_like(self.keys)
        self.length = 0
        self.real: Array | None = None

    @property
    def batch_size(self) -> int:
        """B, the number of rows."""
        return int(self.keys.shape[1])

    @property
    def max_length(self) -> int:
        """The most tokens a row can have."""
        return int(self.keys.shape[3])

    @property
    def nbytes(self) -> int:
        """Bytes taken by keys and values together."""
        return int(self.keys.nbytes + self.values.nbytes)

    def store(self, layer: int, k: Array, v: Array) -> tuple[Array, Array]:
        """Write the keys and values of T new tokens; return those of all tokens, as views.

        Args:
            layer: 0 .. L-1.
            k: (B, Hkv, T, Dh) float, after RoPE.
            v: (B, Hkv, T, Dh) float.

        Returns:
            k, v: (B, Hkv, length + T, Dh). `length` moves on only by `advance`, once all layers
            have stored theirs.
        """
        end = self.length + k.shape[2]
        self.keys[layer, :, :, self.length : end] = k
        self.values[layer, :, :, self.length : end] = v
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def advance(self, new_tokens: int, real: Array | None) -> None:
        """Count the new tokens in, after every layer has stored them; real is (B, S) or None."""
        self.length += new_tokens
        self.real = real

    def require_room(self, config: QwenConfig, batch_size: int, new_tokens: int) -> None:
        """Raise ValueError unless the cache fits the model and the batch, and has room."""
        L, _, Hkv, _, Dh = self.keys.shape
        want = (config.num_hidden_layers, config.num_key_value_heads, config.head_dim)
        if (L, Hkv, Dh) != want:
            raise ValueError(f"kv_cache is for (L, Hkv, Dh) = {(L, Hkv, Dh)}, the model has {want}")
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
                the new ones are real.
            new_tokens: T.
        """
        xp = array_module(self.keys)
        B, total = self.batch_size, self.length + new_tokens
        if new is not None and new.shape == (B, total):
            return xp.asarray(new)  # type: ignore[no-any-return]
        if new is None and self.real is None:
            return None
        old = xp.ones((B, self.length), dtype=bool) if self.real is None else self.real
        added = xp.ones((B, new_tokens), dtype=bool) if new is None else xp.asarray(new)
        if added.shape != (B, new_tokens):
            raise ValueError(
                f"attention_mask must have shape (B={B}, S={total}) or (B={B}, T={new_tokens}), "
                f"got {added.shape}"
            )
        return xp.concatenate((old, added), axis=1)  # type: ignore[no-any-return]
