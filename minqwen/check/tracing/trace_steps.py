"""The model as a list of steps: how each named tensor comes from those before it.

A trace of another program may have some of the names of trace_names.py, or all. Fed with *their*
inputs, a step of ours says what their next tensor should be. So a tensor that differs because
something before it differs is told apart from one that is computed in another way.

A step runs in float64, whatever the trace is in, and takes the inputs it needs by name. Where a
trace lacks an input, it is computed by its own step, and so on up to the token ids.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...backend import Array
from ...model.config import QwenConfig
from ...model.layer_plan import layer_plans, position_tables, row_lengths
from ...model.moe_fields import sparse_layers
from ...model.rope_scaling import depends_on_length
from ...params import Params
from .attention_steps import attention_steps
from .feed_forward_steps import moe_steps, swiglu_steps
from .step import Call, Model, Step, linear_step, norm_step, sum_step


def all_steps(
    config: QwenConfig,
    params: Params,
    input_ids: Array,
    positions: Array,
    real: Array | None = None,
    segments: Array | None = None,
) -> dict[str, list[Step]]:
    """Return for each name the ways to compute it, best first.

    Args:
        config: of the model.
        params: of the model; empty where only steps without weights are wanted.
        input_ids: (B, T) int.
        positions: (T,) or (B, T) int.
        real: (B, T) bool, or None.
        segments: (B, T) int, or None.
    """
    model = Model(config, params, positions, real, segments, *input_ids.shape)
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
        add(attention_steps(model, plan, tables[plan], before, layer))
        add(
            moe_steps(model, layer)
            if sparse
            else swiglu_steps(model, f"{layer}.mlp", f"{layer}.post_attention_layernorm")
        )
        branch = f"{layer}.mlp" if sparse else f"{layer}.mlp.down_proj"
        add(iter([sum_step(layer, f"{layer}.after_attention", branch)]))
        before = layer
    return found


def _ends(m: Model) -> Iterator[Step]:
    """Yield the steps before and behind the blocks."""
    table, L = "model.embed_tokens.weight", m.config.num_hidden_layers

    def embed(ids: Array) -> Array:
        return m.wide(table)[ids]

    def on_bank(call: Call, ids: Array) -> Array:
        return call(ids=ids, w=m.wide(table))[0]

    bank = (("embedding", on_bank),)
    facts = {"model": m}
    yield Step("model.embed_tokens", ("input_ids",), embed, "embedding", bank, table, facts)
    last = f"model.layers.{L - 1}" if L else "model.embed_tokens"
    yield norm_step(m, "model.norm", last, "model.norm.weight")
    head = table if m.config.tie_word_embeddings else "lm_head.weight"
    yield linear_step(m, "logits", "model.norm", head)
