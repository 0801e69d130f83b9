"""Routed experts: E small feed-forward networks, of which each token runs through K.

    y_n = sum over the K choices k of  w_nk F_e(x_n)         e = expert_ids_nk,  F_e = SwiGLU

The N*K choices are sorted by expert. Then the tokens of one expert lie side by side: it is one
SwiGLU on a segment of rows, and what it gives is put back in the place it was sorted from. No token
is dropped, however many choose the same expert; an expert that nobody chose does nothing.

The gradient. Write F_nk for the expert's output. y_n is linear in w_nk and in F_nk:

    dw_nk = <F_nk, dy_n>             dF_nk = w_nk dy_n

dF goes back through the expert: its weights collect from the tokens of its segment, and are zero
without any. x_n was read by K experts, so dx_n is the sum of what comes back through each.

Paper:    Qwen2 Technical Report, 2.2.2 Qwen2 Mixture-of-experts Model, "Expert Granularity": many
          and narrow, so that a token can combine more of them at the same cost.
Origin:   Shazeer et al. 2017, arXiv:1701.06538; fine-grained: Dai et al. 2024, arXiv:2401.06066.
Differs:  nothing. The weights of all experts are stacked, gate over up, as transformers 5 holds
          them; one product for gate and up together is not faster, so SwiGLU stays as it is.
"""

from __future__ import annotations

from typing import NamedTuple

from ..backend import Array, array_module, to_numpy, widen
from ..shapes import require_axes, require_float, require_shape
from .swiglu import SwigluCache, swiglu_backward, swiglu_forward


class MoeExpertsCache(NamedTuple):
    order: Array  # (N*K,) int, the choices n*K + k, sorted by expert
    segments: list[tuple[int, slice]]  # each expert with a token, and its rows in that order
    experts: list[SwigluCache]  # one for each segment
    outputs: Array  # (N, K, D) of each token's experts, not yet weighted
    expert_weights: Array  # (N, K)
    w_gate_up: Array  # (E, 2Fe, D) only shape and dtype are used, as of w_down
    w_down: Array  # (E, D, Fe)


def moe_experts_forward(
    x: Array, expert_ids: Array, expert_weights: Array, w_gate_up: Array, w_down: Array
) -> tuple[Array, MoeExpertsCache]:
    """Send each token through its K experts and add up what they return, weighted.

    Args:
        x: (N, D) float, one row per token.
        expert_ids: (N, K) int in [0, E), the experts of each token, all different.
        expert_weights: (N, K) float, their factors.
        w_gate_up: (E, 2Fe, D) float, `mlp.experts.gate_up_proj`: per expert the Fe rows of the
            gate, then the Fe rows of up.
        w_down: (E, D, Fe) float, `mlp.experts.down_proj`.

    Returns:
        y: (N, D) in x.dtype.
        cache: for moe_experts_backward.

    Raises:
        TypeError: an array is not floating point, the dtypes differ, or ids are not integers.
        ValueError: a shape does not fit, an id is not in [0, E), or a token names one twice.

    >>> import numpy as np
    >>> one = np.ones((1, 1))  # two experts that differ in w_down only: silu(1) * 1 * w_down
    >>> ids, w_down = np.array([[1, 0]]), np.array([[[1.0]], [[100.0]]])
    >>> y, _ = moe_experts_forward(one, ids, np.array([[2.0, 1.0]]), np.ones((2, 2, 1)), w_down)
    >>> (y / 0.731058578).round(6)  # 2 * 100 + 1 * 1
    array([[201.]])
    """
    xp = array_module(x)
    require_float(x=x, expert_weights=expert_weights, w_gate_up=w_gate_up, w_down=w_down)
    require_axes("expert_ids", expert_ids, "N K")
    require_axes("w_down", w_down, "E D Fe")
    (N, K), (E, D, Fe) = expert_ids.shape, w_down.shape
    require_shape("x", x, N=N, D=D)
    require_shape("expert_weights", expert_weights, N=N, K=K)
    require_shape("w_gate_up", w_gate_up, **{"E": E, "2Fe": 2 * Fe, "D": D})

    order, segments = group_by_expert(expert_ids, E)
    x_sorted = x[order // K]  # (N*K, D) a token stands K times, once with each of its experts
    out, experts = xp.empty_like(x_sorted), []
    for e, rows in segments:
        out[rows], expert = swiglu_forward(
            x_sorted[rows], w_gate_up[e, :Fe], w_gate_up[e, Fe:], w_down[e]
        )
        experts.append(expert)
    outputs = put_back(out, order).reshape(N, K, D)
    y = (widen(expert_weights)[:, :, None] * widen(outputs)).sum(axis=1)  # (N, D)
    cache = MoeExpertsCache(order, segments, experts, outputs, expert_weights, w_gate_up, w_down)
    return y.astype(x.dtype, copy=False), cache


def moe_experts_backward(dy: Array, cache: MoeExpertsCache) -> tuple[Array, Array, Array, Array]:
    """Return (dx, dexpert_weights, dw_gate_up, dw_down), shaped like the arguments, from dy (N, D).

    The same segments again, each backwards.
    """
    order, segments, experts, outputs, expert_weights, w_gate_up, w_down = cache
    xp = array_module(outputs)
    (N, K, D), Fe = outputs.shape, w_down.shape[2]
    require_shape("dy", dy, N=N, D=D)

    dy = widen(dy)[:, None]  # (N, 1, D)
    dexpert_weights = (widen(outputs) * dy).sum(axis=-1)  # (N, K)
    dout = (widen(expert_weights)[:, :, None] * dy).reshape(N * K, D)[order]
    dx_sorted = xp.empty_like(outputs).reshape(N * K, D)
    dw_gate_up, dw_down = xp.zeros_like(w_gate_up), xp.zeros_like(w_down)
    for (e, rows), expert in zip(segments, experts, strict=True):
        dx_sorted[rows], dw_gate_up[e, :Fe], dw_gate_up[e, Fe:], dw_down[e] = swiglu_backward(
            dout[rows], expert
        )
    dx = widen(put_back(dx_sorted, order)).reshape(N, K, D).sum(axis=1)
    dx = dx.astype(outputs.dtype, copy=False)
    dexpert_weights = dexpert_weights.astype(expert_weights.dtype, copy=False)
    return dx, dexpert_weights, dw_gate_up, dw_down


def group_by_expert(expert_ids: Array, E: int) -> tuple[Array, list[tuple[int, slice]]]:
    """Return the choices of all tokens, sorted by expert, and each used expert's part of them.

    How long the parts are must be known to Python, so this waits for a GPU, once. The same
    numbers tell whether an id is out of range, or stands twice with a token.

    >>> import numpy as np
    >>> group_by_expert(np.array([[2, 0], [0, 3]]), E=4)
    (array([1, 2, 0, 3]), [(0, slice(0, 2, None)), (2, slice(2, 3, None)), (3, slice(3, 4, None))])
    """
    xp = array_module(expert_ids)
    if expert_ids.dtype.kind not in "iu":
        raise TypeError(f"expert_ids must be an integer array, got dtype {expert_ids.dtype}")
    K = expert_ids.shape[1]
    order = xp.argsort(expert_ids.reshape(-1), kind="stable")  # in a segment, token after token
    ids, tokens = expert_ids.reshape(-1)[order], order // K
    bounds = xp.searchsorted(ids, xp.arange(E + 1))  # before which place is every id below e?
    repeats = ((ids[1:] == ids[:-1]) & (tokens[1:] == tokens[:-1])).sum()
    *starts, stop, twice = to_numpy(xp.append(bounds, repeats)).tolist()
    starts.append(stop)
    if starts[0] or stop < len(order):
        raise ValueError(
            f"expert_ids must be in [0, E={E}), got {starts[0] + len(order) - stop} that are not"
        )
    if twice:
        raise ValueError(f"expert_ids must differ within a token, got {twice} that stand twice")
    return order, [(e, slice(*starts[e : e + 2])) for e in range(E) if starts[e] < starts[e + 1]]


def put_back(rows: Array, order: Array) -> Array:
    """Return the rows in the order they had before sorting: the inverse of rows[order]."""
    back: Array = array_module(rows).empty_like(rows)
    back[order] = rows  # `rows[order]` would sort a second time
    return back
