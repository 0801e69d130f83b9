"""The steps of the attention branch of a block: norm, projections, RoPE, scores, averages, sum."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ...backend import Array
from ...layers.attention import attention_forward
from ...layers.rope import rope_forward
from ...long_context.dual_chunk import DualChunkTables, dual_chunk_attention_forward
from ...long_context.logn import logn_forward
from ...model.layer_plan import LayerPlan, PositionTables, position_tables
from ...model.self_attention import split_heads
from .step import Call, Model, OnBank, Step, linear_step, norm_step, sum_step


def attention_steps(
    m: Model, plan: LayerPlan, tables: PositionTables, before: str, layer: str
) -> Iterator[Step]:
    """Yield the steps of the attention branch."""
    c, a = m.config, f"{layer}.self_attn"
    heads = {"q": c.num_attention_heads, "k": c.num_key_value_heads, "v": c.num_key_value_heads}
    yield norm_step(m, f"{layer}.input_layernorm", before, f"{layer}.input_layernorm.weight")
    for x in "qkv":
        yield linear_step(m, f"{a}.{x}_proj", f"{layer}.input_layernorm", f"{a}.{x}_proj.weight")
    source = {"q": f"{a}.q_proj", "k": f"{a}.k_proj"}
    if c.qk_norm:
        for x in "qk":
            yield norm_step(m, f"{a}.{x}_norm", source[x], f"{a}.{x}_norm.weight", heads[x])
            source[x] = f"{a}.{x}_norm"
    for x in "qk" if tables.chunks is None else "k":
        yield rope_step(m, plan, tables, f"{a}.{x}_rope", source[x], heads[x])
    q = f"{a}.q_rope"
    if tables.q_scale is not None:
        scale = tables.q_scale
        yield Step(f"{a}.q_logn", (q,), lambda x: logn_forward(x, scale)[0], "logn")
        q = f"{a}.q_logn"
    if tables.chunks is None:
        yield from score_steps(m, tables.window, a, q, heads["k"])
    else:
        yield chunked_step(m, tables.chunks, a, source["q"], heads)
    yield linear_step(m, f"{a}.o_proj", f"{a}.attention", f"{a}.o_proj.weight")
    yield sum_step(f"{layer}.after_attention", before, f"{a}.o_proj")
    name = f"{layer}.post_attention_layernorm"
    yield norm_step(m, name, f"{layer}.after_attention", f"{name}.weight")


def rope_step(
    m: Model, plan: LayerPlan, tables: PositionTables, name: str, x: str, heads: int
) -> Step:
    """Return the step that turns queries or keys by their positions."""
    flat = m.one_row()

    def shaped(x: Array) -> Array:
        return split_heads(x, heads) if x.ndim == 3 else x

    def run(x: Array) -> Array:
        return rope_forward(shaped(x), tables.cos, tables.sin)[0]

    def on_bank(call: Call, x: Array) -> Array:
        return call(x=shaped(x), positions=flat, base=m.config.rope_theta)[0]

    def tables_at(positions: Array) -> tuple[Array, Array]:
        moved = position_tables(plan, m.config, positions, positions, np.zeros(0))
        return moved.cos, moved.sin

    plain = flat.ndim == 1 and m.config.rope_scaling is None and not m.config.use_dynamic_ntk
    bank = (("rope", on_bank),) if plain else ()
    facts = {
        **{"model": m, "shaped": shaped, "heads": heads, "cos": tables.cos, "sin": tables.sin},
        "tables_at": tables_at,
    }
    return Step(name, (x,), run, "rope", bank, "", facts)


def score_steps(m: Model, window: int | None, a: str, q: str, Hkv: int) -> Iterator[Step]:
    """Yield the steps of scaled dot-product attention."""
    near = np.arange(m.T)[:, None] - np.arange(m.T)
    mask = (near >= 0) & (near < (window or m.T))
    if m.real is not None:
        mask = mask & m.real[:, None, :]
    if m.segments is not None:
        mask = mask & (m.segments[:, :, None] == m.segments[:, None, :])
    plain = window is None and m.real is None and m.segments is None
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


def chunked_step(m: Model, chunks: DualChunkTables, a: str, q: str, heads: dict[str, int]) -> Step:
    """Return the step of dual chunk attention, which turns the queries itself."""

    def run(q: Array, k: Array, v: Array) -> Array:
        q, v = (x if x.ndim == 4 else split_heads(x, heads[n]) for x, n in ((q, "q"), (v, "v")))
        return dual_chunk_attention_forward(q, k, v, chunks, m.real)[0]

    return Step(f"{a}.attention", (q, f"{a}.k_rope", f"{a}.v_proj"), run, "dual_chunk_attention")
