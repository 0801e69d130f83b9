"""Router of a mixture of experts: to which K of E experts a token goes, and how much each counts.

    z = x w^T                   one logit for each expert
    p = softmax(z)              over all E experts
    e_1 .. e_K                  the experts with the K largest p; of equals the lower number first
    q_k = p_{e_k}               their weights: together less than 1
    q_k = p_{e_k} / S           with norm_topk_prob; S = sum_k p_{e_k}, so together exactly 1

The gradient. The choice is a jump: expert_ids have no gradient, the chosen stay chosen. From dq_k,
the gradient of a weight, that of its probability:

    as they are    dp_{e_k} = dq_k               divided by S    dp_{e_k} = (dq_k - m) / S

with m = sum_k q_k dq_k; dp of an expert that was not chosen is 0. The softmax couples all logits:

    dz_e = p_e (dp_e - sum_j p_j dp_j)

As they are, this sum is m: a chosen logit gets q_k (dq_k - m), and one that was not chosen still
gets -p_e m, for if it grows, every weight shrinks. Divided by S, the sum is that of q_k (dq_k - m),
m - m = 0: a chosen logit gets q_k (dq_k - m) again, an unchosen one exactly 0. It must: q is
then the softmax over the chosen logits alone. Last, dx = dz w and dw = dz^T x.

Paper:    Qwen2 Technical Report, 2.2.2 Qwen2 Mixture-of-experts Model, "Expert Routing".
Origin:   Shazeer et al. 2017, arXiv:1701.06538.
Differs:  torch.topk leaves open which of two equal experts it takes; here the lower number wins.
          No noise, no capacity: no token is dropped.
"""

from __future__ import annotations

from typing import NamedTuple

from ..backend import Array, array_module, top_k, widen
from ..shapes import require_axes, require_shape
from .linear import LinearCache, linear_backward, linear_forward


class MoeRouterCache(NamedTuple):
    router_logits: Array  # (N, E) in x.dtype
    router_probs: Array  # (N, E) in at_least_float32; each row sums to 1
    expert_ids: Array  # (N, K) int
    weights: Array  # (N, K) expert_weights before they are rounded to x.dtype
    norm_topk_prob: bool
    linear_cache: LinearCache


def moe_router_forward(
    x: Array, w: Array, num_experts_per_tok: int, norm_topk_prob: bool = False
) -> tuple[Array, Array, MoeRouterCache]:
    """Choose K experts for every token, and weigh them.

    Args:
        x: (N, D) float, tokens.
        w: (E, D) float, `mlp.gate.weight`: one row for each expert.
        num_experts_per_tok: K, from 1 to E.
        norm_topk_prob: divide the K weights by their sum. Qwen1.5-MoE and Qwen2: no; Qwen3: yes.

    Returns:
        expert_weights: (N, K) in x.dtype, the largest first.
        expert_ids: (N, K) int, in the same order.
        cache: for moe_router_backward; its router_logits and expert_ids feed the losses.

    Raises:
        TypeError: an array is not floating point, or the dtypes differ.
        ValueError: a shape does not fit, or K is not in [1, E].

    >>> import numpy as np
    >>> x, w = np.ones((1, 1)), np.array([[0.0], [2.0], [-1.0], [1.0]])  # the logits 0 2 -1 1
    >>> weights, ids, cache = moe_router_forward(x, w, 2)
    >>> ids, weights.round(4)  # e^2, e^1 over e^0 + e^2 + e^-1 + e^1
    (array([[1, 3]]), array([[0.6439, 0.2369]]))
    >>> moe_router_forward(x, w, 2, norm_topk_prob=True)[0].round(4)  # e^2, e^1 over e^2 + e^1
    array([[0.7311, 0.2689]])
    """
    require_axes("x", x, "N D")
    require_axes("w", w, "E D")
    xp, (E, D), K = array_module(x), w.shape, num_experts_per_tok
    require_shape("x", x, N=len(x), D=D)
    if not 1 <= K <= E:
        raise ValueError(f"num_experts_per_tok must be in [1, E={E}], got {K}")

    router_logits, linear_cache = linear_forward(x, w)  # (N, E)
    probs, _ = softmax(router_logits)
    expert_ids = top_k(probs, K)  # of equals the lower number first
    weights = xp.take_along_axis(probs, expert_ids, axis=-1)  # (N, K)
    if norm_topk_prob:
        weights = weights / weights.sum(axis=-1, keepdims=True)  # the largest is at least 1 / E
    cache = MoeRouterCache(router_logits, probs, expert_ids, weights, norm_topk_prob, linear_cache)
    return weights.astype(x.dtype, copy=False), expert_ids, cache


def moe_router_backward(
    dexpert_weights: Array, cache: MoeRouterCache, drouter_logits: Array | None = None
) -> tuple[Array, Array]:
    """Return (dx, dw), shaped like x and w, from dexpert_weights (N, K).

    drouter_logits (N, E), if given, is what the losses on the router (load_balancing_loss.py,
    router_z_loss.py) send back to the logits; it is added to what comes through the weights.

    >>> import numpy as np
    >>> x, w = np.ones((1, 1)), np.array([[0.0], [2.0], [-1.0], [1.0]])
    >>> for norm in (False, True):  # x = 1, so dw is dz
    ...     _, _, cache = moe_router_forward(x, w, 2, norm)
    ...     moe_router_backward(np.array([[1.0, 0.0]]), cache)[1].ravel().round(4)
    array([-0.0561,  0.2293, -0.0206, -0.1525])
    array([ 0.    ,  0.1966,  0.    , -0.1966])
    """
    _, probs, expert_ids, weights, norm_topk_prob, linear_cache = cache
    xp, (N, E), K = array_module(probs), probs.shape, expert_ids.shape[1]
    require_shape("dexpert_weights", dexpert_weights, N=N, K=K)

    dweights = widen(dexpert_weights)
    mean = (weights * dweights).sum(axis=-1, keepdims=True)  # m, (N, 1)
    dlogits = xp.zeros_like(probs) if norm_topk_prob else -probs * mean  # (N, E)
    xp.put_along_axis(dlogits, expert_ids, weights * (dweights - mean), axis=-1)
    if drouter_logits is not None:
        require_shape("drouter_logits", drouter_logits, N=N, E=E)
        dlogits += widen(drouter_logits)
    dx, dw, _ = linear_backward(dlogits, linear_cache)
    return dx, dw


def softmax(logits: Array) -> tuple[Array, Array]:
    """Return the softmax over the last axis, and log sum exp (..., 1), in at_least_float32.

    With the largest logit taken out first, so that no exponential overflows.

    >>> import numpy as np
    >>> softmax(np.array([1e4, 1e4]))
    (array([0.5, 0.5]), array([10000.69314718]))
    """
    xp, z = array_module(logits), widen(logits)
    peak = z.max(axis=-1, keepdims=True)
    weights = xp.exp(z - peak)
    total = weights.sum(axis=-1, keepdims=True)
    return weights / total, peak + xp.log(total)
