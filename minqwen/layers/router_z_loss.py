"""Router z-loss: keep the logits of a router small, where its softmax is exact in low precision.

    loss = mean over the real tokens n of lse_n^2        lse_n = log sum_e exp(z_ne)

The softmax does not change when all logits of a token grow together, so nothing else stops them.

The gradient. With p = softmax(z), c_n = 1 for a real token, else 0, and M real tokens:

    d lse_n / dz_ne = p_ne        so        dz_ne = dloss * c_n / M * 2 lse_n p_ne

Paper:    none of Qwen's reports: an option beside load_balancing_loss.py.
Origin:   Zoph et al. 2022 (ST-MoE), arXiv:2202.08906, equation 5.
Differs:  the mean is over the real tokens; the paper has no padding.
"""

from __future__ import annotations

from typing import NamedTuple

from ..backend import Array, DType, array_module
from ..shapes import require_axes, require_float
from .load_balancing_loss import real_tokens
from .moe_router import softmax


class RouterZLossCache(NamedTuple):
    probs: Array  # (N, E) in at_least_float32; zeros for padding
    lse: Array  # (N, 1) log of the sum of exponentials; zero for padding
    tokens: Array  # () how many are real, at least 1
    dtype: DType  # of router_logits


def router_z_loss_forward(
    router_logits: Array, real: Array | None = None
) -> tuple[Array, RouterZLossCache]:
    """Average the squared logarithm of the sum of exponentials over the real tokens.

    Args:
        router_logits: (N, E) float, from the cache of moe_router_forward.
        real: (N,) bool, True = a real token, False = padding; None = all real.

    Returns:
        loss: () in float32 or wider; 0 when no token is real.
        cache: for router_z_loss_backward.

    Raises:
        TypeError: router_logits are not floating point, or real is not boolean.
        ValueError: a shape does not fit.

    >>> import numpy as np
    >>> loss, cache = router_z_loss_forward(np.zeros((3, 4)))
    >>> float(loss.round(6)), float((np.log(4) ** 2).round(6))
    (1.921812, 1.921812)
    """
    require_axes("router_logits", router_logits, "N E")
    require_float(router_logits=router_logits)
    xp = array_module(router_logits)
    real, tokens = real_tokens(real, router_logits)

    probs, lse = softmax(router_logits)
    probs, lse = (xp.where(real[:, None], x, 0) for x in (probs, lse))
    loss = (lse * lse).sum() / tokens
    return loss, RouterZLossCache(probs, lse, tokens, router_logits.dtype)


def router_z_loss_backward(dloss: Array | float, cache: RouterZLossCache) -> Array:
    """Return drouter_logits, shaped like router_logits; zeros for padding."""
    probs, lse, tokens, dtype = cache
    dlogits = probs * (2 * lse * (dloss / tokens).astype(lse.dtype))
    drouter_logits: Array = dlogits.astype(dtype, copy=False)
    return drouter_logits
