"""A step: how one tensor of a trace is computed from others, by name.

The functions that the bank's mistakes change (mistakes/) are called with the step's inputs by
`bank`; everything else by `run`. Sums, norms and linear layers stand here, for both branches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ...backend import Array
from ...layers.linear import linear_forward
from ...layers.rmsnorm import rmsnorm_forward
from ...model.config import QwenConfig
from ...model.self_attention import join_heads, split_heads
from ...params import Params

Call = Callable[..., tuple[Array, ...]]  # a function of the bank, by keyword
OnBank = Callable[..., Array]  # (call, *inputs) -> what the step gives if `call` computes it


class Step(NamedTuple):
    """How one tensor is computed."""

    name: str
    inputs: tuple[str, ...]
    run: Callable[..., Array]
    kind: str  # "linear", "rope", ...: what the mistakes of model_mistakes.py ask for
    bank: tuple[tuple[str, OnBank], ...] = ()  # specs of the bank that compute this
    weight: str = ""  # the parameter
    facts: dict[str, Any] = {}  # noqa: RUF012  what else a variant wants to know


class Model(NamedTuple):
    """What the steps of all layers share."""

    config: QwenConfig
    params: Params  # may be empty: then only the steps without weights are known
    positions: Array  # (T,) or (B, T)
    real: Array | None  # (B, T)
    segments: Array | None  # (B, T)
    B: int
    T: int

    def one_row(self) -> Array:
        """Return the positions, (T,) if all rows have the same."""
        if self.positions.ndim == 2 and bool((self.positions == self.positions[:1]).all()):
            row: Array = self.positions[0]
            return row
        return self.positions

    def wide(self, name: str) -> Array:
        """Return a parameter in float64."""
        return self.params[name].astype(np.float64)

    def bias(self, name: str) -> Array | None:
        """Return the bias beside a weight, in float64, or None."""
        bias = self.params.get(name.removesuffix("weight") + "bias")
        return None if bias is None else bias.astype(np.float64)


def linear_step(m: Model, name: str, x: str, weight: str, rows: bool = False) -> Step:
    """Return the step of a linear layer; rows: its input is cut into (N, D) first."""

    def shaped(x: Array) -> Array:
        return x.reshape(-1, x.shape[-1]) if rows else join_heads(x) if x.ndim == 4 else x

    def run(x: Array) -> Array:
        return linear_forward(shaped(x), m.wide(weight), m.bias(weight))[0]

    def on_bank(call: Call, x: Array) -> Array:
        b = m.bias(weight)
        return call(
            x=shaped(x), w=m.wide(weight), b=np.zeros(len(m.params[weight])) if b is None else b
        )[0]

    return Step(
        name, (x,), run, "linear", (("linear", on_bank),), weight, {"model": m, "shaped": shaped}
    )


def norm_step(m: Model, name: str, x: str, weight: str, heads: int = 0) -> Step:
    """Return the step of RMSNorm; heads: its input is cut into heads first."""
    eps = m.config.rms_norm_eps

    def shaped(x: Array) -> Array:
        return split_heads(x, heads) if heads else x

    def run(x: Array) -> Array:
        return rmsnorm_forward(shaped(x), m.wide(weight), eps)[0]

    def on_bank(call: Call, x: Array) -> Array:
        return call(x=shaped(x), w=m.wide(weight), eps=eps)[0]

    return Step(
        name, (x,), run, "rmsnorm", (("rmsnorm", on_bank),), weight, {"model": m, "shaped": shaped}
    )


def sum_step(name: str, stream: str, branch: str) -> Step:
    """Return the step that adds a branch to the stream."""
    return Step(name, (stream, branch), lambda x, y: x + y.reshape(x.shape), "residual")
