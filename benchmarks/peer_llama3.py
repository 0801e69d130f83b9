"""llama3.np restated: what another NumPy model does at each step, for timing beside ours.

llama3.np (github.com/likejazz/llama3.np, `llama3.py`) is not on PyPI. This file is not its code. It
is a restatement, written for this benchmark from reading the original: the same array operations in
the same order and, which decides its speed, in the same dtypes. What was kept:

    weights        float32, transposed once and left as views; a product each for q, k, v, gate, up
    RoPE           tables of cos and sin in float64; pairs of neighbours, taken apart, turned, and
                   stacked again. From there on queries and keys are float64
    KV cache       float64, one array for keys and one for values in every layer, (B, room, Hkv, Dh)
    attention      keys repeated for each query head, all T x S scores at once, divided by a scalar,
                   a float64 mask made anew in each pass of more than one token, a whole softmax
    all the rest   float64, since the output of attention is: every later product first turns its
                   float32 weights into float64, in every call
    silu, norm     x * (1 / (1 + exp(-x))); x**2, a mean, a division, a product
    head           logits of the last token only

What is not kept: reading files, its tokenizer, its classes, and its loop. The original's loop
leaves out one position between prompt and answer; here every token stands where it belongs, so that
the logits can be compared with ours. That changes no cost.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from minqwen.backend import Array
from minqwen.model.config import QwenConfig
from minqwen.params import Params


class Layer(NamedTuple):
    """Weights of a block, all (in, out), and its cache."""

    attention_norm: Array
    q: Array
    k: Array
    v: Array
    o: Array
    feed_forward_norm: Array
    gate: Array
    up: Array
    down: Array
    keys: Array  # (B, room, Hkv, Dh) float64
    values: Array


class Llama3:
    """The model for one batch size; each call fills its caches from `start` on."""

    def __init__(self, params: Params, config: QwenConfig, batch_size: int, room: int) -> None:
        """Take parameters with the names of ours; without biases on q, k and v, as Llama has none.

        Ours turns the two halves of a head against each other, Llama neighbours: the rows of q and
        k are put in that order, which changes no score.
        """
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim, self.eps = config.head_dim, config.rms_norm_eps
        self.table = params["model.embed_tokens.weight"]
        self.norm, self.head = params["model.norm.weight"], params["lm_head.weight"].T
        self.layers = []
        for i in range(config.num_hidden_layers):
            at = f"model.layers.{i}"
            q, k = (
                neighbours(params[f"{at}.self_attn.{x}_proj.weight"], self.head_dim) for x in "qk"
            )
            cache = (batch_size, room, self.kv_heads, self.head_dim)
            self.layers.append(
                Layer(
                    params[f"{at}.input_layernorm.weight"],
                    q.T,
                    k.T,
                    params[f"{at}.self_attn.v_proj.weight"].T,
                    params[f"{at}.self_attn.o_proj.weight"].T,
                    params[f"{at}.post_attention_layernorm.weight"],
                    *(params[f"{at}.mlp.{x}_proj.weight"].T for x in ("gate", "up", "down")),
                    np.zeros(cache),
                    np.zeros(cache),
                )
            )
        frequencies = config.rope_theta ** -(np.arange(0, self.head_dim, 2) / self.head_dim)
        angles = np.outer(np.arange(room), frequencies)  # (room, Dh/2)
        self.cos, self.sin = np.cos(angles), np.sin(angles)

    def __call__(self, ids: Array, start: int) -> Array:
        """Return the logits (B, 1, V) after the last of ids (B, T), which begin at `start`."""
        T = ids.shape[1]
        x = self.table[ids]
        turns = self.cos[start : start + T], self.sin[start : start + T]
        mask = None
        if T > 1:
            ahead = np.triu(np.full((T, T), -np.inf), k=1)
            mask = np.concatenate((np.zeros((T, start)), ahead), axis=1)
        for layer in self.layers:
            x = x + self.attend(self.normed(x, layer.attention_norm), layer, start, mask, turns)
            y = self.normed(x, layer.feed_forward_norm)
            gate = y @ layer.gate
            x = x + (gate * (1 / (1 + np.exp(-gate))) * (y @ layer.up)) @ layer.down
        return self.normed(x, self.norm)[:, [-1]] @ self.head

    def normed(self, x: Array, gain: Array) -> Array:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + self.eps) * gain

    def attend(
        self, x: Array, layer: Layer, start: int, mask: Array | None, turns: tuple[Array, Array]
    ) -> Array:
        B, T, _ = x.shape
        q = (x @ layer.q).reshape(B, T, self.heads, self.head_dim)
        k = (x @ layer.k).reshape(B, T, self.kv_heads, self.head_dim)
        v = (x @ layer.v).reshape(B, T, self.kv_heads, self.head_dim)
        q, k = turned(q, *turns), turned(k, *turns)
        layer.keys[:B, start : start + T] = k
        layer.values[:B, start : start + T] = v
        keys, values = (c[:B, : start + T] for c in (layer.keys, layer.values))
        if (G := self.heads // self.kv_heads) > 1:
            keys, values = np.repeat(keys, G, axis=2), np.repeat(values, G, axis=2)
        q, keys, values = (a.transpose(0, 2, 1, 3) for a in (q, keys, values))
        scores = q @ keys.transpose(0, 1, 3, 2) / math.sqrt(self.head_dim)
        if mask is not None:
            scores = scores + mask
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores = scores / scores.sum(-1, keepdims=True)
        return (scores @ values).transpose(0, 2, 1, 3).reshape(B, T, -1) @ layer.o


def turned(x: Array, cos: Array, sin: Array) -> Array:
    """Turn each pair of neighbours of x (B, T, H, Dh); the result is float64, as the tables are."""
    pairs = x.reshape(*x.shape[:-1], -1, 2)
    a, b = (part.squeeze(-1) for part in np.split(pairs, 2, axis=-1))
    cos, sin = cos[None, :, None], sin[None, :, None]
    return np.stack((a * cos - b * sin, a * sin + b * cos), axis=-1).reshape(x.shape)


def neighbours(w: Array, head_dim: int) -> Array:
    """Return the rows of w (heads * Dh, D) so that row i of a head stands beside row i + Dh/2.

    >>> neighbours(np.arange(4.0)[:, None], head_dim=4).ravel()
    array([0., 2., 1., 3.])
    """
    halves = w.reshape(-1, 2, head_dim // 2, w.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(w.shape)
