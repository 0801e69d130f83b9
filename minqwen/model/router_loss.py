"""The losses on the routers of a whole model, added to the loss of its words in training.

    router_loss = coef * balance + z_coef * z          coef is config.router_aux_loss_coef

    balance     how unevenly the experts are used: layers/load_balancing_loss.py
    z           how far the router's logits are from 0: layers/router_z_loss.py; off by default

A model has a router in every sparse layer, and there are two ways to join them:

    by layer    balance = mean over the layers of E * sum_e f_e P_e       the default
    pooled      the tokens of all layers are counted together, as if of one router: f and P first,
                then their product. transformers computes it in this way.

Pooled layers can hide each other's faults. Where layer 1 uses its first experts only and layer 2
its last ones only, the pooled counts are even and the loss is that of even routing.

In both, f counts choices a token, so that it sums to K as in transformers and the coefficients of
released configs mean what they mean there: the loss of even routing is K.

The gradient. Each logit is in one term of the mean, so it gets its layer's gradient over the number
of layers. Pooled, the layers are laid end to end and the gradient is cut at the same places.

Paper:    Qwen2 Technical Report, 2.2.2: nothing is said about losses on the router; released
          configs have router_aux_loss_coef 0.001.
Origin:   see the two files; pooling: transformers, `load_balancing_loss_func`.
Differs:  transformers adds the loss only where output_router_logits is set, which it is not by
          default; we add it in every training. The z-loss is not in the released models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ..backend import Array, array_module
from ..layers.load_balancing_loss import (
    LoadBalancingLossCache,
    count_choices,
    load_balancing_loss_backward,
    load_balancing_loss_forward,
)
from ..layers.moe_router import MoeRouterCache
from ..layers.router_z_loss import RouterZLossCache, router_z_loss_backward, router_z_loss_forward


class RouterLossCache(NamedTuple):
    balance: list[LoadBalancingLossCache]  # of each layer, or one for all
    z: list[RouterZLossCache]  # of each layer; empty when its coefficient is 0
    coef: float
    z_coef: float
    tokens: list[int]  # of each layer


def router_loss_forward(
    routers: Sequence[MoeRouterCache],
    coef: float,
    real: Array | None = None,
    *,
    z_coef: float = 0.0,
    pool_layers: bool = False,
) -> tuple[Array, Array, RouterLossCache]:
    """Measure how unevenly a model used its experts.

    Args:
        routers: of the sparse layers, from `router_caches(cache)` of a forward pass.
        coef: of the balance loss, `config.router_aux_loss_coef`.
        real: (B, T) bool, False for padding, which does not count; or None.
        z_coef: of the z-loss.
        pool_layers: count the tokens of all layers together, as transformers does.

    Returns:
        loss: (), coef * balance + z_coef * z, to be added to the loss of the words.
        balance: (), the balance loss itself, `aux_loss`: K for even routing, up to E.
        cache: for router_loss_backward.

    Raises:
        ValueError: there are no routers.
    """
    if not routers:
        raise ValueError("routers is empty: the model has no sparse layer")
    real = None if real is None else real.reshape(-1)
    L = len(routers)
    pairs = [(router.router_logits, router.expert_ids) for router in routers]
    balance_real = real
    if pool_layers:
        xp = array_module(pairs[0][0])
        pairs = [tuple(xp.concatenate(arrays) for arrays in zip(*pairs, strict=True))]
        balance_real = None if real is None else xp.concatenate([real] * L)
    terms = [
        load_balancing_loss_forward(logits, ids, balance_real, f_sums_to_k=True)
        for logits, ids in pairs
    ]
    balance: Any = sum(loss for loss, _ in terms) / len(terms)
    loss = coef * balance
    z_terms = []
    if z_coef:
        z_terms = [router_z_loss_forward(router.router_logits, real) for router in routers]
        loss = loss + z_coef * (sum(z for z, _ in z_terms) / L)
    return (
        loss,
        balance,
        RouterLossCache(
            [cache for _, cache in terms],
            [cache for _, cache in z_terms],
            coef,
            z_coef,
            [router.router_logits.shape[0] for router in routers],
        ),
    )


def router_loss_backward(dloss: Array | float, cache: RouterLossCache) -> list[Array]:
    """Return for every router the gradient of its logits, (N, E), for language_model_backward."""
    balance, z, coef, z_coef, tokens = cache
    share = dloss * (coef / len(balance))
    drouter_logits = [load_balancing_loss_backward(share, term) for term in balance]
    if len(balance) < len(tokens):  # pooled: cut into layers again
        (pooled,) = drouter_logits
        N = tokens[0]
        drouter_logits = [pooled[i * N : (i + 1) * N] for i in range(len(tokens))]
    if z:
        share = dloss * (z_coef / len(z))
        extra = [router_z_loss_backward(share, term) for term in z]
        drouter_logits = [d + more for d, more in zip(drouter_logits, extra, strict=True)]
    return drouter_logits


def expert_counts(routers: Sequence[MoeRouterCache], real: Array | None = None) -> Array:
    """Count how often each expert was chosen by real tokens, (sparse layers, E) int.

    Args:
        routers: of the sparse layers.
        real: (B, T) bool, False for padding, or None.
    """
    real = None if real is None else real.reshape(-1)
    xp, E = array_module(routers[0].router_logits), routers[0].router_logits.shape[1]
    counts: Array = xp.stack([count_choices(router.expert_ids, E, real) for router in routers])
    return counts
