"""Mixture of experts: the feed-forward layer of Qwen2-57B-A14B and Qwen1.5-MoE.

    y = sum over the K chosen e of  w_e F_e(x)   +   sigmoid(x w_shared_gate^T) S(x)

A router chooses K of E experts for each token and weighs them (moe_router.py), the experts compute
(moe_experts.py), and the shared expert S sees every token (shared_expert.py). So a layer has the
parameters of E experts, and a token costs the work of K.

The gradient. The three parts are added, so dy goes into each. Experts and router form a chain: what
arrives at the weights w goes back through the router's softmax. x feeds all three:

    dx = dx through the experts  +  dx through the router  +  dx through the shared expert

Which experts are chosen is a step function of x. Its derivative is zero where there is one: the
router learns from the weights alone, and from the losses on its logits.

Paper:    Qwen2 Technical Report, 2.2.2 Qwen2 Mixture-of-experts Model.
Origin:   Shazeer et al. 2017, arXiv:1701.06538; Dai et al. 2024, arXiv:2401.06066.
Differs:  nothing. Qwen3-MoE has no shared expert: shared=None.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from ..backend import Array
from ..shapes import require_axes, require_float, require_shape
from .moe_experts import MoeExpertsCache, moe_experts_backward, moe_experts_forward
from .moe_router import MoeRouterCache, moe_router_backward, moe_router_forward
from .shared_expert import SharedExpertCache, shared_expert_backward, shared_expert_forward

Shared: TypeAlias = tuple[Array, ...]  # w_gate, w_up, w_down, w_shared_gate; or their gradients


class MoeCache(NamedTuple):
    router: MoeRouterCache
    experts: MoeExpertsCache
    shared: SharedExpertCache | None
    shape: tuple[int, ...]  # of x


def moe_forward(
    x: Array,
    w_router: Array,
    w_gate_up: Array,
    w_down: Array,
    num_experts_per_tok: int,
    norm_topk_prob: bool = False,
    shared: Shared | None = None,
) -> tuple[Array, MoeCache]:
    """Let each token choose its experts, run through them, and through the shared expert.

    Args:
        x: (..., D) float; all leading axes are batch axes.
        w_router: (E, D) float, `mlp.gate.weight`.
        w_gate_up: (E, 2Fe, D) float, `mlp.experts.gate_up_proj`, gate over up.
        w_down: (E, D, Fe) float, `mlp.experts.down_proj`.
        num_experts_per_tok: K.
        norm_topk_prob: whether the K weights of a token are made to sum to 1.
        shared: w_gate (Fs, D), w_up (Fs, D), w_down (D, Fs), w_shared_gate (1, D) of the shared
            expert; None: there is none.

    Returns:
        y: (..., D) in x.dtype.
        cache: for moe_backward; cache.router has the logits that the balance loss needs.

    Raises:
        TypeError: an array is not floating point, or the dtypes differ.
        ValueError: a weight does not fit, K is not in [1, E], or shared is not four arrays.

    >>> import numpy as np
    >>> x, w_router = np.array([[1.0]]), np.array([[0.0], [50.0]])
    >>> w_gate_up, w_down = np.ones((2, 2, 1)), np.array([[[1.0]], [[100.0]]])
    >>> y, cache = moe_forward(x, w_router, w_gate_up, w_down, num_experts_per_tok=1)
    >>> y.round(4), cache.router.expert_ids  # the second expert: 100 silu(1)
    (array([[73.1059]]), array([[1]]))
    """
    require_float(x=x, w_router=w_router)
    require_axes("w_down", w_down, "E D Fe")
    require_shape("w_router", w_router, E=w_down.shape[0], D=x.shape[-1])
    if shared is not None and len(shared) != 4:
        raise ValueError(f"shared must be four arrays or None, got {len(shared)} arrays")

    rows = x.reshape(-1, x.shape[-1])  # (N, D)
    weights, ids, router = moe_router_forward(rows, w_router, num_experts_per_tok, norm_topk_prob)
    y, experts = moe_experts_forward(rows, ids, weights, w_gate_up, w_down)
    shared_cache = None
    if shared is not None:
        s, shared_cache = shared_expert_forward(rows, *shared)
        y = y + s
    return y.reshape(x.shape), MoeCache(router, experts, shared_cache, x.shape)


def moe_backward(
    dy: Array, cache: MoeCache, drouter_logits: Array | None = None
) -> tuple[Array, Array, Array, Array, Shared | None]:
    """Return (dx, dw_router, dw_gate_up, dw_down, dshared) from dy (..., D).

    Args:
        dy: (..., D) float.
        cache: of moe_forward.
        drouter_logits: (N, E) float, what arrives at the logits from the losses on them, or None.

    Returns:
        The gradients, shaped like the arguments; dshared is a tuple of four, or None without a
        shared expert.
    """
    router, experts, shared, shape = cache
    if dy.shape != shape:
        raise ValueError(f"dy must have the shape of x, {shape}, got {dy.shape}")
    dy = dy.reshape(-1, shape[-1])  # (N, D)
    dx_experts, dexpert_weights, dw_gate_up, dw_down = moe_experts_backward(dy, experts)
    dx_router, dw_router = moe_router_backward(dexpert_weights, router, drouter_logits)
    dx, dshared = dx_experts + dx_router, None
    if shared is not None:
        dx_shared, *gradients = shared_expert_backward(dy, shared)
        dx, dshared = dx + dx_shared, tuple(gradients)
    return dx.reshape(shape), dw_router, dw_gate_up, dw_down, dshared
