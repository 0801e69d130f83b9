"""The rows of a mixture of experts: for each concept its functions and small inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..backend import Array
from ..layers.load_balancing_loss import load_balancing_loss_backward, load_balancing_loss_forward
from ..layers.moe import MoeCache, moe_backward, moe_forward
from ..layers.moe_experts import moe_experts_backward, moe_experts_forward
from ..layers.moe_router import moe_router_backward, moe_router_forward
from ..layers.router_z_loss import router_z_loss_backward, router_z_loss_forward
from ..layers.shared_expert import shared_expert_backward, shared_expert_forward
from .concept_row import Concept, Inputs, normal


def spread_logits(rng: np.random.Generator, N: int, E: int) -> Array:
    """Return router logits (N, E) whose distances within a row are at least 0.3.

    The choice of experts is a jump: no step of a difference, and no rounding, may cross it.
    """
    order = np.stack([rng.permutation(E) for _ in range(N)])
    return 0.5 * order + rng.uniform(-0.1, 0.1, (N, E))


def spread_tokens(rng: np.random.Generator, N: int, D: int, E: int) -> tuple[Array, Array]:
    """Return tokens x (N, D) and a router w (E, D), D >= E, with such logits."""
    w = rng.standard_normal((E, D))
    return spread_logits(rng, N, E) @ np.linalg.pinv(w).T, w  # x w^T = logits pinv(w)^T w^T


def _moe_router(x: Array, w: Array, K: int, norm_topk_prob: bool) -> tuple[Array, Any]:
    """Return the weights, and pass over the ids, which have no gradient."""
    expert_weights, _, cache = moe_router_forward(x, w, K, norm_topk_prob)
    return expert_weights, cache


def _moe_router_case(K: int, norm_topk_prob: bool) -> Callable[[np.random.Generator], Inputs]:
    """Return a maker of five tokens and a router for seven experts."""
    return lambda rng: (*spread_tokens(rng, 5, 11, 7), K, norm_topk_prob)


def _load_balancing_loss(
    router_logits: Array, expert_ids: Array, real: Array | None, f_sums_to_k: bool
) -> tuple[Array, Any]:
    """Pass the switch on by its name."""
    return load_balancing_loss_forward(router_logits, expert_ids, real, f_sums_to_k=f_sums_to_k)


def _padding(hidden: bool) -> Array | None:
    """Return which of eleven tokens are real; None for all."""
    return ~np.isin(np.arange(11), (0, 4, 5)) if hidden else None


def _load_balancing_loss_case(
    hidden: bool, f_sums_to_k: bool
) -> Callable[[np.random.Generator], Inputs]:
    """Return a maker of the logits of 7 experts, 3 choices of the first 6, real, and the switch."""

    def make(rng: np.random.Generator) -> Inputs:
        expert_ids = np.stack([rng.permutation(6)[:3] for _ in range(11)])
        return (*normal((11, 7))(rng), expert_ids, _padding(hidden), f_sums_to_k)

    return make


def _router_z_loss_case(hidden: bool) -> Callable[[np.random.Generator], Inputs]:
    """Return a maker of the logits of 7 experts, and real."""
    return lambda rng: (*normal((11, 7))(rng), _padding(hidden))


def _moe_experts_case(N: int, E: int, K: int, idle: int) -> Callable[[np.random.Generator], Inputs]:
    """Return a maker of N tokens, their ids and weights, and E experts, the last ones `idle`."""

    def make(rng: np.random.Generator) -> Inputs:
        expert_ids = np.stack([rng.permutation(E - idle)[:K] for _ in range(N)])
        x, *weights = normal((N, 5), (N, K), (E, 4, 5), (E, 5, 2))(rng)
        return x, expert_ids, *weights

    return make


SHARED_SHAPES = ((11, 7), (11, 7), (7, 11), (1, 7))  # Fs = 11, D = 7


def _moe_case(norm_topk_prob: bool, shared: bool) -> Callable[[np.random.Generator], Inputs]:
    """Return a maker of thirteen tokens, a router and five experts, of which they choose two."""

    def make(rng: np.random.Generator) -> Inputs:
        experts = normal((5, 6, 7), (5, 7, 3), *(SHARED_SHAPES if shared else ()))(rng)
        return (*spread_tokens(rng, 13, 7, 5), *experts[:2], 2, norm_topk_prob, *experts[2:])

    return make


def _moe(
    x: Array,
    w_router: Array,
    w_gate_up: Array,
    w_down: Array,
    K: int,
    norm_topk_prob: bool,
    *shared: Array,
) -> tuple[Array, MoeCache]:
    """Run a layer whose shared expert, where it has one, is given as four more arrays."""
    return moe_forward(x, w_router, w_gate_up, w_down, K, norm_topk_prob, shared or None)


def _moe_backward(dy: Array, cache: MoeCache) -> tuple[Array, ...]:
    """Return the gradients in one row, those of the shared expert last."""
    *gradients, dshared = moe_backward(dy, cache)
    return *gradients, *(dshared or ())


MOE = "Qwen2 Mixture-of-experts Model"

MOE_ROWS = (
    Concept(
        "moe_router",
        "minqwen.layers.moe_router",
        _moe_router,
        moe_router_backward,
        {
            "K = 3": _moe_router_case(3, norm_topk_prob=False),
            "K = 2, divided by the sum": _moe_router_case(2, norm_topk_prob=True),
        },
        ("x", "w"),
        f"{MOE}, Expert Routing",
        "q = the K largest of softmax(x w^T)",
    ),
    Concept(
        "load_balancing_loss",
        "minqwen.layers.load_balancing_loss",
        _load_balancing_loss,
        load_balancing_loss_backward,
        {
            "f sums to 1": _load_balancing_loss_case(hidden=False, f_sums_to_k=False),
            "f sums to K, padding": _load_balancing_loss_case(hidden=True, f_sums_to_k=True),
        },
        ("router_logits",),
        f"{MOE} (released configs)",
        "loss = E sum_e f_e P_e",
    ),
    Concept(
        "router_z_loss",
        "minqwen.layers.router_z_loss",
        router_z_loss_forward,
        router_z_loss_backward,
        {"": _router_z_loss_case(hidden=False), "padding": _router_z_loss_case(hidden=True)},
        ("router_logits",),
        f"{MOE} (an option)",
        "loss = mean((log sum_e exp(z_e))^2)",
    ),
    Concept(
        "moe_experts",
        "minqwen.layers.moe_experts",
        moe_experts_forward,
        moe_experts_backward,
        {
            "3 of 7 experts, one idle": _moe_experts_case(11, 7, 3, idle=1),
            "all 3 experts": _moe_experts_case(7, 3, 3, idle=0),
        },
        ("x", "expert_weights", "w_gate_up", "w_down"),
        f"{MOE}, Expert Granularity",
        "y = sum_k w_k F_{e_k}(x)",
    ),
    Concept(
        "shared_expert",
        "minqwen.layers.shared_expert",
        shared_expert_forward,
        shared_expert_backward,
        {"": normal((2, 3, 7), *SHARED_SHAPES)},
        ("x", "w_gate", "w_up", "w_down", "w_shared_gate"),
        f"{MOE}, Expert Routing",
        "y = sigmoid(x w_shared_gate^T) swiglu(x)",
    ),
    Concept(
        "moe",
        "minqwen.layers.moe",
        _moe,
        _moe_backward,
        {
            "2 of 5 experts and a shared one": _moe_case(norm_topk_prob=False, shared=True),
            "2 of 5 experts, divided by the sum": _moe_case(norm_topk_prob=True, shared=False),
        },
        (
            "x",
            "w_router",
            "w_gate_up",
            "w_down",
            "shared w_gate",
            "shared w_up",
            "shared w_down",
            "w_shared_gate",
        ),
        MOE,
        "y = moe_experts(x, moe_router(x)) + shared_expert(x)",
    ),
)
