"""SwiGLU feed-forward network: two branches, one of which opens and closes the other.

    gate = x w_gate^T        up = x w_up^T
    y = (silu(gate) * up) w_down^T            silu(a) = a sigmoid(a)

The gradient. With h = silu(gate) * up and s = sigmoid(gate):

    dh    = dy w_down
    dup   = dh * silu(gate)
    dgate = dh * up * silu'(gate)             silu'(a) = s + a s (1 - s) = s (1 + a (1 - s))

and x feeds both branches, so dx is the sum of what comes back through each.

Paper:    Qwen Technical Report, 2.3.1 Architecture, "Activation function": SwiGLU, with a width F
          of 8/3 D instead of 4 D, because there are three matrices instead of two.
Origin:   Shazeer 2020, arXiv:2002.05202.
Differs:  nothing. In Qwen's first code `w2` is the gate and `w1` is up: see model/qwen1.py.
"""

from __future__ import annotations

from typing import NamedTuple

from ..backend import Array, array_module, widen
from ..shapes import require_axes, require_shape
from .linear import LinearCache, linear_backward, linear_forward


class SwigluCache(NamedTuple):
    gate: Array  # (..., F)
    up: Array  # (..., F)
    gate_cache: LinearCache
    up_cache: LinearCache
    down_cache: LinearCache


def swiglu_forward(
    x: Array, w_gate: Array, w_up: Array, w_down: Array
) -> tuple[Array, SwigluCache]:
    """Widen each vector to F features, gate them, and come back to D.

    Args:
        x: (..., D) float.
        w_gate: (F, D) float, `mlp.gate_proj.weight`; SiLU acts on this branch.
        w_up: (F, D) float, `mlp.up_proj.weight`.
        w_down: (D, F) float, `mlp.down_proj.weight`.

    Returns:
        y: (..., D) in x.dtype.
        cache: for swiglu_backward.

    Raises:
        TypeError: an array is not floating point, or the dtypes differ.
        ValueError: a weight does not fit.

    >>> import numpy as np
    >>> one = np.ones((1, 1))
    >>> y, cache = swiglu_forward(np.array([[1.0]]), -10 * one, one, one)
    >>> y.round(6)  # silu(-10) = -10 / (1 + exp(10))
    array([[-0.000454]])
    """
    require_axes("w_gate", w_gate, "F D")
    (F, D) = w_gate.shape
    require_shape("w_up", w_up, F=F, D=D)
    require_shape("w_down", w_down, D=D, F=F)

    gate, gate_cache = linear_forward(x, w_gate)  # (..., F)
    up, up_cache = linear_forward(x, w_up)  # (..., F)
    h = widen(gate) * sigmoid(gate) * widen(up)
    y, down_cache = linear_forward(h.astype(x.dtype, copy=False), w_down)  # (..., D)
    return y, SwigluCache(gate, up, gate_cache, up_cache, down_cache)


def swiglu_backward(dy: Array, cache: SwigluCache) -> tuple[Array, Array, Array, Array]:
    """Return (dx, dw_gate, dw_up, dw_down), shaped like the arguments, from dy (..., D)."""
    gate, up, gate_cache, up_cache, down_cache = cache
    dh, dw_down, _ = linear_backward(dy, down_cache)
    dh, s = widen(dh), sigmoid(gate)
    dup = dh * (widen(gate) * s)
    dgate = dh * widen(up) * (s * (1 + widen(gate) * (1 - s)))
    dx_up, dw_up, _ = linear_backward(dup.astype(dy.dtype, copy=False), up_cache)
    dx_gate, dw_gate, _ = linear_backward(dgate.astype(dy.dtype, copy=False), gate_cache)
    return dx_gate + dx_up, dw_gate, dw_up, dw_down


def sigmoid(x: Array) -> Array:
    """Return 1 / (1 + exp(-x)) in at_least_float32, written with tanh, which cannot overflow.

    >>> import numpy as np
    >>> sigmoid(np.array([-1000.0, 0.0, 1000.0]))
    array([0. , 0.5, 1. ])
    """
    s: Array = 0.5 * (1 + array_module(x).tanh(0.5 * widen(x)))
    return s
