"""Load-balancing loss: push a router to send its tokens evenly to all experts.

    loss = E * sum_e f_e P_e
    f_e = share of the choices that fell on expert e        P_e = mean over the tokens of p_ne

with p = softmax(router_logits). There are two conventions for f, a factor K apart. M is the number
of real tokens: padding is left out, of f and of P.

                                                     loss, if all P_e = 1 / E   all on one expert
    f_sums_to_k=False   f_e = choices of e / (M K)   1                          E / K
    f_sums_to_k=True    f_e = choices of e / M       K                          E

The first is not the least that is possible: the loss only asks that an expert with many tokens
become less likely.

The gradient. f counts: between two jumps it is constant, so it has no gradient, and is only the
weight with which P is pushed down. With g = dloss E and c_n = 1 for a real token, else 0:

    dP_e  = g f_e        dp_ne = c_n g f_e / M
    dz_ne = p_ne (dp_ne - sum_j p_nj dp_nj) = c_n g / M * p_ne (f_e - sum_j p_nj f_j)

Every logit gets some, chosen or not: an expert that nobody chose, f_e = 0, is pulled up.

Paper:    Qwen2 Technical Report, 2.2.2 Qwen2 Mixture-of-experts Model, which names no loss; the
          released configs do: router_aux_loss_coef, 0.001.
Origin:   Fedus et al. 2021 (Switch), arXiv:2101.03961, equations 4 to 6, with K = 1.
Differs:  nothing. transformers' load_balancing_loss_func is f_sums_to_k=True, and pools the tokens
          of all layers: the same as this, once, on the layers' rows one below the other.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..backend import Array, DType, add_at, array_module, at_least_float32, column_sums
from ..shapes import require_axes, require_bool, require_float, require_ids, require_shape
from .moe_router import softmax


class LoadBalancingLossCache(NamedTuple):
    probs: Array  # (N, E) in at_least_float32; zeros for padding, which so gets no gradient
    f: Array  # (E,) share of the choices, of the real tokens
    tokens: Array  # () how many are real, at least 1
    dtype: DType  # of router_logits


def load_balancing_loss_forward(
    router_logits: Array,
    expert_ids: Array,
    real: Array | None = None,
    *,
    f_sums_to_k: bool = False,
) -> tuple[Array, LoadBalancingLossCache]:
    """Multiply each expert's share of the choices by its mean probability, and add up.

    Args:
        router_logits: (N, E) float, from the cache of moe_router_forward.
        expert_ids: (N, K) int, the experts that were chosen, from the same cache.
        real: (N,) bool, True = a real token, False = padding; None = all real.
        f_sums_to_k: f is the share of the tokens that chose e, as in transformers, and not the
            share of the choices, as in Switch.

    Returns:
        loss: () in float32 or wider; 0 when no token is real.
        cache: for load_balancing_loss_backward.

    Raises:
        TypeError: router_logits are not floating point, expert_ids not integers, real not boolean.
        ValueError: a shape does not fit, or an id is not in [0, E). Ids on a GPU are not looked
            at: that would wait for the device.

    >>> logits, ids = np.zeros((2, 4)), np.array([[0, 1], [2, 3]])  # all equally likely
    >>> load_balancing_loss_forward(logits, ids)[0], load_balancing_loss_forward(
    ...     logits, ids, f_sums_to_k=True
    ... )[0]
    (np.float64(1.0), np.float64(2.0))
    """
    require_axes("router_logits", router_logits, "N E")
    require_axes("expert_ids", expert_ids, "N K")
    require_float(router_logits=router_logits)
    xp, (N, E), K = array_module(router_logits), router_logits.shape, expert_ids.shape[1]
    require_shape("expert_ids", expert_ids, N=N, K=K)
    if isinstance(expert_ids, np.ndarray):
        require_ids("expert_ids", expert_ids, E, "E")
    real, tokens = real_tokens(real, router_logits)

    probs = xp.where(real[:, None], softmax(router_logits)[0], 0)
    choices = count_choices(expert_ids, E, real).astype(probs.dtype)
    f = choices / (tokens if f_sums_to_k else tokens * K)  # (E,)
    P = column_sums(probs) / tokens  # (E,)
    loss = E * (f * P).sum()
    return loss, LoadBalancingLossCache(probs, f, tokens, router_logits.dtype)


def load_balancing_loss_backward(dloss: Array | float, cache: LoadBalancingLossCache) -> Array:
    """Return drouter_logits, shaped like router_logits; zeros for padding.

    >>> logits, ids = np.zeros((1, 4)), np.array([[0]])
    >>> _, cache = load_balancing_loss_forward(logits, ids)
    >>> load_balancing_loss_backward(1.0, cache)  # 4 * 1/4 * (f - 1/4): the chosen one goes down
    array([[ 0.75, -0.25, -0.25, -0.25]])
    """
    probs, f, tokens, dtype = cache
    dp = f * len(f) * (dloss / tokens).astype(f.dtype)  # (E,) the same for every token
    dlogits = probs * (dp - (probs * dp).sum(axis=-1, keepdims=True))
    drouter_logits: Array = dlogits.astype(dtype, copy=False)
    return drouter_logits


def count_choices(expert_ids: Array, E: int, real: Array | None = None) -> Array:
    """Return how often each expert was chosen, (E,) int, by the tokens that are real (N,).

    >>> count_choices(np.array([[0, 2], [2, 1]]), 4)
    array([1, 1, 2, 0])
    """
    xp, K = array_module(expert_ids), expert_ids.shape[1]
    if real is None:
        real = xp.ones(len(expert_ids), dtype=bool)
    counts: Array = xp.zeros(E, dtype=np.int64)  # bincount would wait for a GPU to say how long
    add_at(counts, expert_ids.reshape(-1), xp.repeat(real, K).astype(np.int64))
    return counts


def real_tokens(real: Array | None, router_logits: Array) -> tuple[Array, Array]:
    """Return `real` (N,), checked, with None for all, and how many it counts, at least 1, as float.

    >>> real_tokens(None, np.zeros((3, 2)))
    (array([ True,  True,  True]), np.float64(3.0))
    """
    xp, N = array_module(router_logits), len(router_logits)
    if real is None:
        real = xp.ones(N, dtype=bool)
    require_bool("real", real, "True = a real token")
    require_shape("real", real, N=N)
    tokens = xp.maximum(real.sum(), 1).astype(at_least_float32(router_logits))
    return real, tokens
