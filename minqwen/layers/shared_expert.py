"""Shared expert: a feed-forward network that every token runs through, behind a gate of its own.

    y_n = g_n S(x_n)         g_n = sigmoid(<w_shared_gate, x_n>), one number per token;  S = SwiGLU

What all tokens need is learned here once, so that the routed experts need not learn it E times.

The gradient. y_n is linear in S_n and in g_n, and sigmoid' = g (1 - g):

    dS_n = g_n dy_n          dg_n = <S_n, dy_n>          da_n = dg_n g_n (1 - g_n)

with a_n = <w_shared_gate, x_n>. x feeds the network and the gate, so dx is the sum of what comes
back through S and of da_n w_shared_gate.

Paper:    Qwen2 Technical Report, 2.2.2 Qwen2 Mixture-of-experts Model, "Expert Routing": shared
          experts beside the routed ones.
Origin:   Rajbhandari et al. 2022, arXiv:2201.05596; Dai et al. 2024, arXiv:2401.06066.
Differs:  the report speaks of 8 shared experts and of no gate. The released models have one, as
          wide as all of them: networks that are added up are one network of their joint width. Its
          gate is in the released code, `mlp.shared_expert_gate`.
"""

from __future__ import annotations

from typing import NamedTuple

from ..backend import Array, widen
from ..shapes import require_float, require_same_shape, require_shape
from .linear import LinearCache, linear_backward, linear_forward
from .swiglu import SwigluCache, sigmoid, swiglu_backward, swiglu_forward


class SharedExpertCache(NamedTuple):
    gate: Array  # (..., 1) between 0 and 1, in at_least_float32
    out: Array  # (..., D) of the network, before the gate
    gate_cache: LinearCache
    swiglu: SwigluCache


def shared_expert_forward(
    x: Array, w_gate: Array, w_up: Array, w_down: Array, w_shared_gate: Array
) -> tuple[Array, SharedExpertCache]:
    """Run every token through the network, and let as much through as the gate is open.

    Args:
        x: (..., D) float.
        w_gate: (Fs, D) float, `mlp.shared_expert.gate_proj.weight`: the gate within SwiGLU.
        w_up: (Fs, D) float, `mlp.shared_expert.up_proj.weight`.
        w_down: (D, Fs) float, `mlp.shared_expert.down_proj.weight`.
        w_shared_gate: (1, D) float, `mlp.shared_expert_gate.weight`: the gate behind it.

    Returns:
        y: (..., D) in x.dtype.
        cache: for shared_expert_backward.

    Raises:
        TypeError: an array is not floating point, or the dtypes differ.
        ValueError: a weight does not fit.

    >>> import numpy as np
    >>> one = np.ones((1, 1))
    >>> y, cache = shared_expert_forward(one, one, one, one, 0 * one)
    >>> y.round(6), cache.gate  # half of silu(1) = 0.731059
    (array([[0.365529]]), array([[0.5]]))
    """
    require_float(x=x, w_shared_gate=w_shared_gate)
    require_shape("w_shared_gate", w_shared_gate, rows=1, D=x.shape[-1])

    a, gate_cache = linear_forward(x, w_shared_gate)  # (..., 1)
    out, swiglu = swiglu_forward(x, w_gate, w_up, w_down)  # (..., D)
    gate = sigmoid(a)
    y = gate * widen(out)
    return y.astype(x.dtype, copy=False), SharedExpertCache(gate, out, gate_cache, swiglu)


def shared_expert_backward(
    dy: Array, cache: SharedExpertCache
) -> tuple[Array, Array, Array, Array, Array]:
    """Return (dx, dw_gate, dw_up, dw_down, dw_shared_gate), shaped like the arguments.

    dy is (..., D).
    """
    gate, out, gate_cache, swiglu = cache
    require_same_shape(dy=dy, y=out)

    dy_wide = widen(dy)
    dgate = (widen(out) * dy_wide).sum(axis=-1, keepdims=True)  # (..., 1)
    da = (dgate * gate * (1 - gate)).astype(dy.dtype, copy=False)
    dout = (gate * dy_wide).astype(dy.dtype, copy=False)  # (..., D)
    dx_gate, dw_shared_gate, _ = linear_backward(da, gate_cache)
    dx_out, dw_gate, dw_up, dw_down = swiglu_backward(dout, swiglu)
    return dx_out + dx_gate, dw_gate, dw_up, dw_down, dw_shared_gate
