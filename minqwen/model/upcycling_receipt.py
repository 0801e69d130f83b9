"""The receipt of an upcycling: sizes, and how far each step moved what comes out.

For every sparse layer, on the inputs that its network had in the dense model, the distance

    |y - FFN(x)| / |FFN(x)|          |.| over all tokens and features

of three outputs y, of which each has one more difference to the dense network:

    cut        all E experts, each with the weight F / (E Fe): 0 if no column was dropped
    routed     the layer as it starts, router, K experts and shared expert, before numbers are new
    new        the same after half of them were drawn anew: the layer that is trained

and for the whole model the mean loss on the next tokens: dense, routed, new.

Origin:   ours; the report gives no measurements of this kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from ..backend import Array, widen
from ..layers.cross_entropy import cross_entropy_forward
from ..layers.moe import moe_forward
from ..layers.rmsnorm import rmsnorm_forward
from ..params import Params, scope
from .config import QwenConfig
from .dense_to_experts import Cut, normal
from .feed_forward import DOWN, GATE_UP, ROUTER, feed_forward_forward
from .language_model import language_model_forward
from .moe_fields import sparse_layers

RANDOM_INPUTS = 64  # vectors for each layer, where there are no tokens to try


class LayerMoved(NamedTuple):
    """Relative distance of one layer's output from that of the dense network."""

    layer: int
    cut: float
    routed: float
    new: float


class Losses(NamedTuple):
    """Mean loss on the next tokens, in nats."""

    dense: float
    routed: float
    new: float


@dataclass(frozen=True)
class UpcyclingReceipt:
    """What an upcycling did. `to_dict` gives plain data, `table` a text for people."""

    cut: Cut  # how the experts lie on the copies
    parameters: tuple[int, int]  # before, after
    activated_parameters: tuple[int, int]  # that work on a token
    w_down_factors: tuple[float, float]  # routed, shared
    starts_equal: bool  # by rule: without new numbers the mixture is the dense model
    probe_tokens: int  # on which was measured; 0: random inputs
    layers: tuple[LayerMoved, ...]
    losses: Losses | None  # None without tokens

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that JSON can hold."""
        values = asdict(self)
        values["cut"] = self.cut._asdict()
        values["layers"] = [layer._asdict() for layer in self.layers]
        values["losses"] = None if self.losses is None else self.losses._asdict()
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    def table(self) -> str:
        """Return the receipt as text."""
        cut, (routed, shared) = self.cut, self.w_down_factors
        equal = "the dense model exactly" if self.starts_equal else "near the dense model at best"
        inputs = f"{self.probe_tokens:,} tokens" if self.probe_tokens else "random inputs"
        lines = [
            f"copies {cut.copies}, experts to a copy {cut.per_copy:g}; columns dropped "
            f"{cut.dropped:,}, experts across two copies {cut.straddling}",
            f"w_down times {routed:g} (shared expert: {shared:g}); before numbers are drawn anew: "
            f"{equal}",
            "parameters {:,} -> {:,}".format(*self.parameters),
            "activated  {:,} -> {:,}".format(*self.activated_parameters),
            f"distance of the layers' outputs from the dense ones, relative, on {inputs}",
            f"  {'layer':<6} {'cut':>9} {'routed':>9} {'new':>9}",
        ]
        lines += [f"  {i:<6} {a:>9.2g} {b:>9.2g} {c:>9.2g}" for i, a, b, c in self.layers]
        if self.losses is not None:
            dense, before, after = self.losses
            lines.append(f"loss   dense {dense:.4f}   routed {before:.4f}   new {after:.4f}")
        return "\n".join(lines)


def measure_layers(
    inputs: Sequence[Array],
    dense: tuple[Params, QwenConfig],
    routed: Params,
    new: Params,
    config: QwenConfig,
    factor: float,
) -> tuple[LayerMoved, ...]:
    """Compare every sparse layer with the network that it was made from.

    Args:
        inputs: for each layer (..., D), what its network reads in the dense model.
        dense: parameters and config of the dense model.
        routed: parameters of the mixture before numbers were drawn anew.
        new: and after.
        config: of the mixture.
        factor: by which w_down of the routed experts was made longer.
    """
    E, m = config.num_experts, config.intermediate_size / config.moe_intermediate_size
    moved = []
    for i in (i for i, sparse in enumerate(sparse_layers(config)) if sparse):
        x, prefix = inputs[i], f"model.layers.{i}"
        want, _ = feed_forward_forward(x, scope(dense[0], prefix), dense[1])
        layer = scope(routed, prefix)
        # a router of zeros and K = E: every expert has the weight 1 / E
        mean, _ = moe_forward(x, np.zeros_like(layer[ROUTER]), layer[GATE_UP], layer[DOWN], E)
        cut = widen(mean) * (m / factor)
        outputs = [feed_forward_forward(x, scope(p, prefix), config)[0] for p in (routed, new)]
        moved.append(LayerMoved(i, *(distance(y, want) for y in (cut, *outputs))))
    return tuple(moved)


def distance(y: Array, want: Array) -> float:
    """Return |y - want| / |want|, over all numbers.

    >>> distance(np.array([3.0, 0.0]), np.array([3.0, 4.0]))
    0.8
    """
    y, want = y.astype(np.float64), want.astype(np.float64)
    length = float(np.linalg.norm(want))
    return float(np.linalg.norm(y - want)) / (length or 1.0)


def true_inputs(
    params: Params, config: QwenConfig, input_ids: Array, labels: Array
) -> tuple[list[Array], float]:
    """Return what the feed-forward network of every layer reads, (B, T, D), and the mean loss."""
    logits, cache = language_model_forward(params, config, input_ids)
    assert cache is not None  # no kv_cache, no last_only
    inputs = [
        rmsnorm_forward(block.mlp_norm.x, block.mlp_norm.w, config.rms_norm_eps)[0]
        for block in cache.blocks
    ]
    return inputs, mean_loss(logits, labels)


def random_inputs(params: Params, config: QwenConfig, rng: np.random.Generator) -> list[Array]:
    """Return for every layer (64, D), what its norm makes of random vectors."""
    inputs = []
    for i in range(config.num_hidden_layers):
        gain = params[f"model.layers.{i}.post_attention_layernorm.weight"]
        x = normal((RANDOM_INPUTS, config.hidden_size), 1.0, gain, rng)
        inputs.append(rmsnorm_forward(x, gain, config.rms_norm_eps)[0])
    return inputs


def mean_loss(logits: Array, labels: Array) -> float:
    """Return the mean of -log p(label), in nats."""
    return float(cross_entropy_forward(logits, labels)[0])


def model_loss(params: Params, config: QwenConfig, input_ids: Array, labels: Array) -> float:
    """Return the mean loss of a model on these tokens."""
    return mean_loss(language_model_forward(params, config, input_ids)[0], labels)
