"""The feed-forward branch of a block: one network for every token, or experts to choose from.

    dense layer     y = swiglu(x)
    sparse layer    y = moe(x)              the router's choice of experts, and a shared expert

Which layers are sparse says `sparse_layers(config)`; here it is seen by the router being there.

The gradient is that of swiglu.py or moe.py; this file only gives the arrays their names.

Paper:    Qwen Technical Report, 2.3.1 Architecture; Qwen2 Technical Report, 2.2.2 Qwen2
          Mixture-of-experts Model: experts replace the network in every layer.
Differs:  nothing.
"""

from __future__ import annotations

from typing import TypeAlias

from ..backend import Array
from ..layers.moe import MoeCache, moe_backward, moe_forward
from ..layers.swiglu import SwigluCache, swiglu_backward, swiglu_forward
from ..params import Params
from .config import QwenConfig

SWIGLU = ("mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight")
ROUTER, GATE_UP, DOWN = "mlp.gate.weight", "mlp.experts.gate_up_proj", "mlp.experts.down_proj"
SHARED = (
    "mlp.shared_expert.gate_proj.weight",
    "mlp.shared_expert.up_proj.weight",
    "mlp.shared_expert.down_proj.weight",
    "mlp.shared_expert_gate.weight",
)
FeedForwardCache: TypeAlias = SwigluCache | MoeCache


def feed_forward_forward(
    x: Array, params: Params, config: QwenConfig
) -> tuple[Array, FeedForwardCache]:
    """Work on each token by itself.

    Args:
        x: (B, T, D) float, normalised.
        params: of one layer: `mlp.gate_proj.weight` and its siblings, without the prefix.
        config: gives K and whether the weights of the chosen experts are made to sum to 1.

    Returns:
        y: (B, T, D) in x.dtype.
        cache: for feed_forward_backward.
    """
    if ROUTER not in params:
        return swiglu_forward(x, *(params[name] for name in SWIGLU))
    shared = tuple(params[name] for name in SHARED) if SHARED[0] in params else None
    return moe_forward(
        x,
        params[ROUTER],
        params[GATE_UP],
        params[DOWN],
        config.num_experts_per_tok,
        config.norm_topk_prob,
        shared,
    )


def feed_forward_backward(
    dy: Array, cache: FeedForwardCache, drouter_logits: Array | None = None
) -> tuple[Array, Params]:
    """Return (dx, grads) from dy (B, T, D); grads has the keys of params.

    Args:
        dy: (B, T, D).
        cache: of feed_forward_forward.
        drouter_logits: (B*T, E), what the losses on the router send back, or None.
    """
    if isinstance(cache, SwigluCache):
        dx, *dw = swiglu_backward(dy, cache)
        return dx, dict(zip(SWIGLU, dw, strict=True))
    dx, drouter, dgate_up, ddown, dshared = moe_backward(dy, cache, drouter_logits)
    grads: Params = {ROUTER: drouter, GATE_UP: dgate_up, DOWN: ddown}
    if dshared is not None:
        grads.update(zip(SHARED, dshared, strict=True))
    return dx, grads
