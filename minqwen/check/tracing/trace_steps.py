"""The model as a list of steps: how each named tensor comes from those before it.

A trace of another program may have some of the names of trace_names.py, or all. Fed with *their*
inputs, a step of ours says what their next tensor should be. So a tensor that differs because
something before it differs is told apart from one that is computed in another way.

A step runs in float64, whatever the trace is in, and takes the inputs it needs by name. Where a
trace lacks an input, it is computed by its own step, and so on up to the token ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ...backend import Array
from ...layers.attention import attention_forward
from ...layers.linear import linear_forward
from ...layers.moe_experts import moe_experts_forward
from ...layers.moe_router import moe_router_forward, softmax
from ...layers.rmsnorm import rmsnorm_forward
from ...layers.rope import rope_forward
from ...layers.swiglu import sigmoid
from ...long_context.dual_chunk import DualChunkTables, dual_chunk_attention_forward
from ...long_context.logn import logn_forward
from ...model.config import QwenConfig
from ...model.layer_plan import LayerPlan, PositionTables, layer_plans, position_tables, row_lengths
from ...model.moe_fields import sparse_layers
from ...model.rope_scaling import depends_on_length
from ...model.self_attention import join_heads, split_heads
from ...params import Params

Call = Callable[..., tuple[Array, ...]]  # a function of the bank, by keyword
OnBank = Callable[..., Array]  # (call, *inputs) -> what the step gives if `call` computes it


class Step(NamedTuple):
    """How one tensor is computed."""

    name: str
    inputs: tuple[str, ...]
    run: Callable[..., Array]
    kind: str  # "linear", "rope", ...: what the mistakes of step_variants.py ask for
    bank: tuple[tuple[str, OnBank], ...] = ()  # specs of the bank that compute this
    weight: str = ""  # the parameter
    facts: dict[str, Any] = {}  # noqa: RUF012  what else a variant wants to know


class Model(NamedTuple):
    """What the steps of all layers share."""

    config: QwenConfig
    params: Params  # may be empty: then only the steps without weights are known
    positions: Array  # (T,) or (B, T)
    real: Array | None  # (B, T)
    B: int
    T: int

    def wide(self, name: str) -> Array:
        """Return a parameter in float64."""
        return self.params[name].astype(np.float64)

    def bias(self, name: str) -> Array | None:
        """Return the bias beside a weight, in float64, or None."""
        bias = self.params.get(name.removesuffix("weight") + "bias")
        return None if bias is None else bias.astype(np.float64)


def all_steps(
    config: QwenConfig,
    params: Params,
    input_ids: Array,
    positions: Array,
    real: Array | None = None,
) -> dict[str, list[Step]]:
    """Return for each name the ways to compute it, best first.

    Args:
        config: of the model.
        params: of the model; empty where only steps without weights are wanted.
        input_ids: (B, T) int.
        positions: (T,) or (B, T) int.
        real: (B, T) bool, or None.
    """
    model = Model(config, params, positions, real, *input_ids.shape)
    asks = depends_on_length(config) or config.use_logn_attn
    plans = layer_plans(config, row_lengths(positions) if asks else [model.T])
    like = np.zeros(0)
    tables = {p: position_tables(p, config, positions, positions, like) for p in set(plans)}
    found: dict[str, list[Step]] = {}

    def add(steps: Iterator[Step]) -> None:
        for step in steps:
            if not step.weight or step.weight in params:
                found.setdefault(step.name, []).append(step)

    add(_ends(model))
    before = "model.embed_tokens"
    for i, (plan, sparse) in enumerate(zip(plans, sparse_layers(config), strict=True)):
        layer = f"model.layers.{i}"
        add(_attention(model, plan, tables[plan], before, layer))
        add(
            _moe(model, layer)
            if sparse
            else _swiglu(model, f"{layer}.mlp", f"{layer}.post_attention_layernorm")
        )
        branch = f"{layer}.mlp" if sparse else f"{layer}.mlp.down_proj"
        add(iter([_sum(layer, f"{layer}.after_attention", branch)]))
        before = layer
    return found


def _ends(m: Model) -> Iterator[Step]:
    """Yield the steps before and behind the blocks."""
    table, L = "model.embed_tokens.weight", m.config.num_hidden_layers

    def embed(ids: Array) -> Array:
        return m.wide(table)[ids]

    def on_bank(call: Call, ids: Array) -> Array:
        return call(ids=ids, w=m.wide(table))[0]

    yield Step(
        "model.embed_tokens", ("input_ids",), embed, "embedding", (("embedding", on_bank),), table
    )
    last = f"model.layers.{L - 1}" if L else "model.embed_tokens"
    yield _norm(m, "model.norm", last, "model.norm.weight")
    head = table if m.config.tie_word_embeddings else "lm_head.weight"
    yield _linear(m, "logits", "model.norm", head)


def _linear(m: Model, name: str, x: str, weight: str, rows: bool = False) -> Step:
    """Return the step of a linear layer; rows: its input is cut into (N, D) first."""

    def shaped(x: Array) -> Array:
        return x.reshape(-1, x.shape[-1]) if rows else join_heads(x) if x.ndim == 4 else x

    def run(x: Array) -> Array:
        return linear_forward(shaped(x), m.wide(weight), m.bias(weight))[0]

    def on_bank(call: Call, x: Array) -> Array:
        b = m.bias(weight)
        return call(
            x=shaped(x), w=m.wide(weight), b=np.zeros(len(m.params[weight])) if b is None else b
        )[0]

    return Step(
        name, (x,), run, "linear", (("linear", on_bank),), weight, {"model": m, "shaped": shaped}
    )


def _norm(m: Model, name: str, x: str, weight: str, heads: int = 0) -> Step:
    """Return the step of RMSNorm; heads: its input is cut into heads first."""
    eps = m.config.rms_norm_eps

    def shaped(x: Array) -> Array:
        return split_heads(x, heads) if heads else x

    def run(x: Array) -> Array:
        return rmsnorm_forward(shaped(x), m.wide(weight), eps)[0]

    def on_bank(call: Call, x: Array) -> Array:
        return call(x=shaped(x), w=m.wide(weight), eps=eps)[0]

    return Step(
        name, (x,), run, "rmsnorm", (("rmsnorm", on_bank),), weight, {"model": m, "shaped": shaped}
    )


def _sum(name: str, stream: str, branch: str) -> Step:
    """Return the step that adds a branch to the stream."""
    return Step(name, (stream, branch), lambda x, y: x + y.reshape(x.shape), "residual")


def _attention(
    m: Model, plan: LayerPlan, tables: PositionTables, before: str, layer: str
) -> Iterator[Step]:
    """Yield the steps of the attention branch."""
    c, a = m.config, f"{layer}.self_attn"
    heads = {"q": c.num_attention_heads, "k": c.num_key_value_heads, "v": c.num_key_value_heads}
    yield _norm(m, f"{layer}.input_layernorm", before, f"{layer}.input_layernorm.weight")
    for x in "qkv":
        yield _linear(m, f"{a}.{x}_proj", f"{layer}.input_layernorm", f"{a}.{x}_proj.weight")
    source = {"q": f"{a}.q_proj", "k": f"{a}.k_proj"}
    if c.qk_norm:
        for x in "qk":
            yield _norm(m, f"{a}.{x}_norm", source[x], f"{a}.{x}_norm.weight", heads[x])
            source[x] = f"{a}.{x}_norm"
    for x in "qk" if tables.chunks is None else "k":
        yield _rope(m, plan, tables, f"{a}.{x}_rope", source[x], heads[x])
    q = f"{a}.q_rope"
    if tables.q_scale is not None:
        scale = tables.q_scale
        yield Step(f"{a}.q_logn", (q,), lambda x: logn_forward(x, scale)[0], "logn")
        q = f"{a}.q_logn"
    if tables.chunks is None:
        yield from _scores(m, tables.window, a, q, heads["k"])
    else:
        yield _chunked(m, tables.chunks, a, source["q"], heads)
    yield _linear(m, f"{a}.o_proj", f"{a}.attention", f"{a}.o_proj.weight")
    yield _sum(f"{layer}.after_attention", before, f"{a}.o_proj")
    name = f"{layer}.post_attention_layernorm"
    yield _norm(m, name, f"{layer}.after_attention", f"{name}.weight")


def _rope(m: Model, plan: LayerPlan, tables: PositionTables, name: str, x: str, heads: int) -> Step:
    """Return the step that turns queries or keys by their positions."""
    flat = m.positions if m.positions.ndim == 1 else m.positions[0]
    alike = m.positions.ndim == 1 or bool((m.positions == flat).all())

    def shaped(x: Array) -> Array:
        return split_heads(x, heads) if x.ndim == 3 else x

    def run(x: Array) -> Array:
        return rope_forward(shaped(x), tables.cos, tables.sin)[0]

    def on_bank(call: Call, x: Array) -> Array:
        return call(x=shaped(x), positions=flat, base=m.config.rope_theta)[0]

    def tables_at(positions: Array) -> tuple[Array, Array]:
        moved = position_tables(plan, m.config, positions, positions, np.zeros(0))
        return moved.cos, moved.sin

    plain = alike and m.config.rope_scaling is None and not m.config.use_dynamic_ntk
    bank = (("rope", on_bank),) if plain else ()
    facts = {
        **{"model": m, "shaped": shaped, "heads": heads, "cos": tables.cos, "sin": tables.sin},
        "tables_at": tables_at,
    }
    return Step(name, (x,), run, "rope", bank, "", facts)


def _scores(m: Model, window: int | None, a: str, q: str, Hkv: int) -> Iterator[Step]:
    """Yield the steps of scaled dot-product attention."""
    near = np.arange(m.T)[:, None] - np.arange(m.T)
    mask = (near >= 0) & (near < (window or m.T))
    if m.real is not None:
        mask = mask & m.real[:, None, :]
    plain = window is None and m.real is None
    k, v = f"{a}.k_rope", f"{a}.v_proj"

    def probs(q: Array, k: Array) -> Array:
        cache = attention_forward(q, k, k, mask)[1]
        return cache.probs.reshape(*q.shape[:3], k.shape[2])

    def attention(q: Array, k: Array, v: Array) -> Array:
        return attention_forward(q, k, values(v), mask)[0]

    def averaged(probs: Array, v: Array) -> Array:
        means: Array = probs @ np.repeat(values(v), probs.shape[1] // Hkv, axis=1)
        return means

    def values(v: Array) -> Array:
        return split_heads(v, Hkv) if v.ndim == 3 else v

    def bank(masked: bool) -> OnBank:
        def on_bank(call: Call, q: Array, k: Array, v: Array) -> Array:
            more = {"mask": mask} if masked else {}
            return call(q=q, k=k, v=values(v), **more)[0]

        return on_bank

    def bank_probs(masked: bool) -> OnBank:
        def on_bank(call: Call, q: Array, k: Array) -> Array:
            """Attention to values that are rows of the identity gives the weights themselves."""
            S, Dh = k.shape[2:]
            columns = []
            for start in range(0, S, Dh):
                v = np.zeros_like(k)
                j = np.arange(start, min(start + Dh, S))
                v[:, :, j, j - start] = 1
                columns.append(bank(masked)(call, q, k, v)[..., : len(j)])
            return np.concatenate(columns, axis=-1)

        return on_bank

    def specs(make: Callable[[bool], OnBank]) -> tuple[tuple[str, OnBank], ...]:
        causal = (("causal_attention", make(False)),) if plain else ()
        return (("attention", make(True)), *causal)

    facts = {"Hkv": Hkv, "values": values, "mask": mask}
    yield Step(f"{a}.probs", (q, k), probs, "probs", specs(bank_probs), "", facts)
    yield Step(f"{a}.attention", (f"{a}.probs", v), averaged, "averaged", (), "", facts)
    yield Step(f"{a}.attention", (q, k, v), attention, "attention", specs(bank), "", facts)


def _chunked(m: Model, chunks: DualChunkTables, a: str, q: str, heads: dict[str, int]) -> Step:
    """Return the step of dual chunk attention, which turns the queries itself."""

    def run(q: Array, k: Array, v: Array) -> Array:
        q, v = (x if x.ndim == 4 else split_heads(x, heads[n]) for x, n in ((q, "q"), (v, "v")))
        return dual_chunk_attention_forward(q, k, v, chunks, m.real)[0]

    return Step(f"{a}.attention", (q, f"{a}.k_rope", f"{a}.v_proj"), run, "dual_chunk_attention")


def _swiglu(m: Model, mlp: str, x: str, rows: bool = False) -> Iterator[Step]:
    """Yield the steps of a SwiGLU network."""

    def hidden(gate: Array, up: Array) -> Array:
        return gate * sigmoid(gate) * up

    def on_bank(call: Call, gate: Array, up: Array) -> Array:
        """A network whose matrices only pick: its first half is the gate, its second is up."""
        F = gate.shape[-1]
        pick = np.eye(2 * F)
        x = np.concatenate((gate, up), axis=-1)
        return call(x=x, w_gate=pick[:F], w_up=pick[F:], w_down=pick[: 2 * F, :F])[0][..., :F]

    yield _linear(m, f"{mlp}.gate_proj", x, f"{mlp}.gate_proj.weight", rows)
    yield _linear(m, f"{mlp}.up_proj", x, f"{mlp}.up_proj.weight", rows)
    both = (f"{mlp}.gate_proj", f"{mlp}.up_proj")
    yield Step(f"{mlp}.hidden", both, hidden, "swiglu", (("swiglu", on_bank),))
    yield _linear(m, f"{mlp}.down_proj", f"{mlp}.hidden", f"{mlp}.down_proj.weight")


def _moe(m: Model, layer: str) -> Iterator[Step]:
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

    yield _linear(m, f"{mlp}.router_logits", x, f"{mlp}.gate.weight", rows=True)
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
    yield from _swiglu(m, f"{mlp}.shared_expert", x, rows=True)
    gate = f"{mlp}.shared_expert_gate"
    yield _linear(m, gate, x, f"{gate}.weight", rows=True)
    yield Step(
        mlp,
        (f"{mlp}.experts", f"{mlp}.shared_expert.down_proj", gate),
        lambda y, s, g: (y + sigmoid(g) * s).reshape(shape),
        "shared_expert",
        facts={"shape": shape},
    )
