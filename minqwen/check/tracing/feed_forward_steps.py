"""The steps of the feed-forward branch of a block: SwiGLU, or a mixture of experts."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ...backend import Array
from ...layers.moe_experts import moe_experts_forward
from ...layers.moe_router import moe_router_forward, softmax
from ...layers.swiglu import sigmoid
from .step import Call, Model, OnBank, Step, linear_step


def swiglu_steps(m: Model, mlp: str, x: str, rows: bool = False) -> Iterator[Step]:
    """Yield the steps of a SwiGLU network."""

    def hidden(gate: Array, up: Array) -> Array:
        return gate * sigmoid(gate) * up

    def on_bank(call: Call, gate: Array, up: Array) -> Array:
        """A network whose matrices only pick: its first half is the gate, its second is up."""
        F = gate.shape[-1]
        pick = np.eye(2 * F)
        x = np.concatenate((gate, up), axis=-1)
        return call(x=x, w_gate=pick[:F], w_up=pick[F:], w_down=pick[: 2 * F, :F])[0][..., :F]

    yield linear_step(m, f"{mlp}.gate_proj", x, f"{mlp}.gate_proj.weight", rows)
    yield linear_step(m, f"{mlp}.up_proj", x, f"{mlp}.up_proj.weight", rows)
    both = (f"{mlp}.gate_proj", f"{mlp}.up_proj")
    yield Step(f"{mlp}.hidden", both, hidden, "swiglu", (("swiglu", on_bank),))
    yield linear_step(m, f"{mlp}.down_proj", f"{mlp}.hidden", f"{mlp}.down_proj.weight")


def moe_steps(m: Model, layer: str) -> Iterator[Step]:
    """Yield the steps of a mixture of experts."""
    c, mlp, x = m.config, f"{layer}.mlp", f"{layer}.post_attention_layernorm"
    K, norm = c.num_experts_per_tok, c.norm_topk_prob

    def route(which: int) -> Callable[..., Array]:
        def run(logits: Array) -> Array:
            weights, ids, _ = moe_router_forward(logits, np.eye(logits.shape[-1]), K, norm)
            return ids if which else weights

        return run

    def on_bank(which: int) -> OnBank:
        def run(call: Call, logits: Array) -> Array:
            w = np.eye(logits.shape[-1])
            return call(x=logits, w=w, num_experts_per_tok=K, norm_topk_prob=norm)[which]

        return run

    def outputs(x: Array, ids: Array) -> Array:
        ones = np.ones(ids.shape)
        w = (m.wide(f"{mlp}.experts.gate_up_proj"), m.wide(f"{mlp}.experts.down_proj"))
        return moe_experts_forward(x.reshape(-1, x.shape[-1]), ids, ones, *w)[1].outputs

    yield linear_step(m, f"{mlp}.router_logits", x, f"{mlp}.gate.weight", rows=True)
    logits = (f"{mlp}.router_logits",)
    yield Step(f"{mlp}.router_probs", logits, lambda z: softmax(z)[0], "softmax")
    for which, name in ((1, "expert_ids"), (0, "expert_weights")):
        bank = (("moe_router", on_bank(which)),)
        how = {"K": K, "norm": norm, "which": which}
        yield Step(f"{mlp}.{name}", logits, route(which), "moe_router", bank, "", how)
    weight = f"{mlp}.experts.gate_up_proj"
    facts = {"model": m, "mlp": mlp}
    ids = f"{mlp}.expert_ids"
    yield Step(f"{mlp}.expert_outputs", (x, ids), outputs, "experts", (), weight, facts)
    yield Step(
        f"{mlp}.experts",
        (f"{mlp}.expert_weights", f"{mlp}.expert_outputs"),
        lambda w, y: (w[:, :, None] * y).sum(axis=1),
        "weighted",
    )
    shape = (m.B, m.T, -1)
    if not c.shared_expert_intermediate_size:
        yield Step(f"{mlp}", (f"{mlp}.experts",), lambda y: y.reshape(shape), "reshape")
        return
    yield from swiglu_steps(m, f"{mlp}.shared_expert", x, rows=True)
    gate = f"{mlp}.shared_expert_gate"
    yield linear_step(m, gate, x, f"{gate}.weight", rows=True)
    yield Step(
        mlp,
        (f"{mlp}.experts", f"{mlp}.shared_expert.down_proj", gate),
        lambda y, s, g: (y + sigmoid(g) * s).reshape(shape),
        "shared_expert",
        facts={"shape": shape},
    )
