"""A decoder block: how it is called, tried, and got wrong."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from ...backend import Array
from ...layers.rope import rope_inv_freq, rope_tables
from ...model.config import QwenConfig
from ...model.layer_plan import PositionTables
from ..spec import Arguments, Mistake, Probe, Spec

NAMES = {  # of the weights among the arguments, and in a checkpoint
    "w_input_norm": "input_layernorm.weight",
    "w_q": "self_attn.q_proj.weight",
    "b_q": "self_attn.q_proj.bias",
    "w_k": "self_attn.k_proj.weight",
    "b_k": "self_attn.k_proj.bias",
    "w_v": "self_attn.v_proj.weight",
    "b_v": "self_attn.v_proj.bias",
    "w_o": "self_attn.o_proj.weight",
    "w_mlp_norm": "post_attention_layernorm.weight",
    "w_gate": "mlp.gate_proj.weight",
    "w_up": "mlp.up_proj.weight",
    "w_down": "mlp.down_proj.weight",
}
ARGUMENTS = ("x", *NAMES, "num_attention_heads", "num_key_value_heads", "base", "eps")
ATTENTION, MLP = "minqwen.model.self_attention", "minqwen.model.feed_forward"


def forward(m: ModuleType, a: Arguments) -> Any:
    """Run a copy of model/decoder_block.py on tokens at positions 0 .. T-1: y and the cache."""
    x = a["x"]
    config = QwenConfig(
        vocab_size=1,
        hidden_size=x.shape[-1],
        intermediate_size=len(a["w_gate"]),
        num_hidden_layers=1,
        num_attention_heads=a["num_attention_heads"],
        num_key_value_heads=a["num_key_value_heads"],
        rope_theta=a["base"],
        rms_norm_eps=a["eps"],
    )
    dtype = np.promote_types(x.dtype, np.float32).name
    inv_freq = rope_inv_freq(config.head_dim, config.rope_theta, dtype)
    tables = PositionTables(*rope_tables(np.arange(x.shape[1]), inv_freq))
    params = {name: a[argument] for argument, name in NAMES.items()}
    return m.decoder_block_forward(x, params, config, tables)


def run(m: ModuleType, a: Arguments) -> tuple[Array, ...]:
    """Compute y with a copy of model/decoder_block.py."""
    return (forward(m, a)[0],)


def pull(m: ModuleType, a: Arguments, dy: tuple[Array, ...]) -> dict[str, Array]:
    """Compute the gradients with a copy of model/decoder_block.py."""
    dx, grads = m.decoder_block_backward(dy[0], forward(m, a)[1])
    return {"x": dx, **{argument: grads.get(name) for argument, name in NAMES.items()}}


def inputs(
    rng: np.random.Generator,
    B: int,
    T: int,
    D: int,
    F: int,
    H: int,
    Hkv: int,
    *,
    base: float = 100.0,
    eps: float = 1e-6,
    size: float = 1.0,
) -> Arguments:
    """Return x of this size, and weights that keep numbers of order 1."""
    kv = Hkv * D // H
    shapes = {
        "w_input_norm": (D,),
        **{"w_q": (D, D), "b_q": (D,), "w_k": (kv, D), "b_k": (kv,), "w_v": (kv, D), "b_v": (kv,)},
        **{"w_o": (D, D), "w_mlp_norm": (D,), "w_gate": (F, D), "w_up": (F, D), "w_down": (D, F)},
    }
    x = size * rng.standard_normal((B, T, D))
    weights = {
        name: rng.standard_normal(shape) / (shape[-1] ** 0.5 if len(shape) == 2 else 1.0)
        for name, shape in shapes.items()
    }
    heads = {"num_attention_heads": H, "num_key_value_heads": Hkv}
    return {"x": x, **weights, **heads, "base": base, "eps": eps}


PROBES = (
    Probe(
        "ordinary",
        lambda rng: inputs(rng, 2, 5, 24, 11, 4, 2),
        "five tokens, four query heads on two key and value heads",
        hard=False,
    ),
    Probe(
        "other sizes",
        lambda rng: inputs(rng, 3, 7, 20, 17, 2, 1, base=1e4, eps=1e-5),
        "seven tokens, two query heads on a single key and value head, eps 1e-5",
        hard=False,
    ),
    Probe(
        "a key head each",
        lambda rng: inputs(rng, 2, 4, 18, 5, 3, 3),
        "three heads, each with keys and values of its own",
    ),
    Probe(
        "groups of three",
        lambda rng: inputs(rng, 1, 6, 24, 7, 6, 2, base=1e6),
        "six query heads on two key and value heads, base 1,000,000 as in Qwen2",
    ),
    Probe(
        "tiny",
        lambda rng: inputs(rng, 2, 5, 12, 7, 2, 1, size=1e-3),
        "small inputs, where eps counts and the branches outweigh the stream",
    ),
    Probe(
        "large",
        lambda rng: inputs(rng, 2, 5, 12, 7, 2, 2, size=30.0),
        "a stream that outweighs what the branches add",
    ),
    Probe(
        "longer text",
        lambda rng: inputs(rng, 1, 37, 8, 5, 2, 1, base=1e4),
        "37 tokens",
    ),
    Probe(
        "one token",
        lambda rng: inputs(rng, 2, 1, 12, 5, 3, 1),
        "a token that sees only itself",
        gradient=False,  # that of w_q and w_k is 0: rounding is all there is to compare
    ),
    Probe(
        "square",
        lambda rng: inputs(rng, 4, 4, 8, 8, 4, 4),
        "many sizes equal: axes can be mixed up",
    ),
)

_EPS = "    eps = config.rms_norm_eps\n"
_BODY = """\
    n, input_norm = fast_rmsnorm_forward(x, params["input_layernorm.weight"], eps)
    a, self_attn = self_attention_forward(
        n, params, config, tables, real=real, kv_cache=kv_cache, layer=layer
    )
    a, attention_dropout = dropout_forward(a, dropout, rng)
    h = x + a

    n, mlp_norm = fast_rmsnorm_forward(h, params["post_attention_layernorm.weight"], eps)
    m, mlp = feed_forward_forward(n, params, config)
    m, mlp_dropout = dropout_forward(m, dropout, rng)
    y = h + m
"""
_ATTEND = "self_attention_forward(\n        n, params"
_FEED = "feed_forward_forward(n, params"
_FIRST, _SECOND = "    h = x + a\n", "    y = h + m\n"
_NORM_1 = '(x, params["input_layernorm.weight"]'
_NORM_2 = '(h, params["post_attention_layernorm.weight"]'
_KEYS = '    k, k_proj = project(x, params, "self_attn.k_proj")  # (B, T, Hkv*Dh)\n'
_VALUES = '    v, v_proj = project(x, params, "self_attn.v_proj")\n'
_TURN_Q = "q, q_rope = rope_forward(q, cos, sin)"
_TURN_K = "    k, k_rope = rope_forward(k, cos, sin)\n"
_ATTENTION = """\
        a, attention = block_attention_forward(
            q, k, v, real, window=window, segments=segments
        )  # (B, H, T, Dh)
"""
_SPLIT = "x.reshape(B, T, heads, width // heads).swapaxes(1, 2)"
_JOIN = "x.swapaxes(1, 2).reshape(B, T, heads * Dh)"
_OUT = 'y, o_proj = project(join_heads(a), params, "self_attn.o_proj")'
_SWIGLU = "return swiglu_forward(x, *(params[name] for name in SWIGLU))"
_EVERY = "every = [h // (q.shape[1] // k.shape[1]) for h in range(q.shape[1])]"


def _body(*edits: tuple[str, str]) -> str:
    """Return both halves of the block with some texts changed."""
    text = _BODY
    for find, put in edits:
        assert text.count(find) == 1, find
        text = text.replace(find, put)
    return text


def _normed(result: str, cache: str, x: str, weight: str) -> str:
    return f"    {result}, {cache} = fast_rmsnorm_forward({x}, params[{weight!r}], eps)\n".replace(
        "'", '"'
    )


_LINE_1 = _normed("n", "input_norm", "x", "input_layernorm.weight")
_LINE_2 = _normed("n", "mlp_norm", "h", "post_attention_layernorm.weight")

WIRING = (
    Mistake(
        "post_norm",
        _BODY,
        _body(
            (_LINE_1, ""),
            (_ATTEND, _ATTEND.replace("n, params", "x, params")),
            (_FIRST, _normed("h", "input_norm", "x + a", "input_layernorm.weight")),
            (_LINE_2, ""),
            (_FEED, _FEED.replace("(n", "(h")),
            (_SECOND, _normed("y", "mlp_norm", "h + m", "post_attention_layernorm.weight")),
        ),
        "the norms stand behind the sums, as in the first transformer of 2017; here each stands "
        "in front of its branch, and the stream itself is never normalised.",
        "With w_o and w_down at 0 the block must return x: does yours?",
        "convention",
    ),
    Mistake(
        "norm_after_branch",
        _BODY,
        _body(
            (_LINE_1, ""),
            (_ATTEND, _ATTEND.replace("n, params", "x, params")),
            (_FIRST, _normed("n", "input_norm", "a", "input_layernorm.weight") + "    h = x + n\n"),
            (_LINE_2, ""),
            (_FEED, _FEED.replace("(n", "(h")),
            (
                _SECOND,
                _normed("n", "mlp_norm", "m", "post_attention_layernorm.weight")
                + "    y = h + n\n",
            ),
        ),
        "each norm acts on what its branch gives, as in OLMo 2; here it acts on what the branch "
        "reads.",
        "Make x ten times as large: what the first branch adds must stay nearly the same.",
        "convention",
    ),
    Mistake(
        "attention_residual_missing",
        _FIRST,
        "    h = a\n",
        "what attention gives replaces the stream; it must be added to it.",
        "With w_o and w_down at 0 the block must return x: does yours?",
    ),
    Mistake(
        "mlp_residual_missing",
        _SECOND,
        "    y = m\n",
        "what the feed-forward network gives replaces the stream; it must be added to it.",
        "With w_down at 0 the block must return x plus what attention adds: does yours?",
    ),
    Mistake(
        "normed_added_at_attention",
        _FIRST,
        "    h = n + a\n",
        "what attention gives is added to the normalised x; it must be added to x itself.",
        "With w_o and w_down at 0 the block must return x: does yours?",
    ),
    Mistake(
        "normed_added_at_mlp",
        _SECOND,
        "    y = n + m\n",
        "what the feed-forward network gives is added to its normalised input; it must be added "
        "to the stream before the norm.",
        "With w_o and w_down at 0 the block must return x: does yours?",
    ),
    Mistake(
        "second_half_from_input",
        _SECOND,
        "    y = x + m\n",
        "the second sum starts from x again: what attention gives is read by the feed-forward "
        "network and then lost.",
        "With w_down at 0, what must be left of the first half?",
    ),
    Mistake(
        "input_added_again",
        _SECOND,
        "    y = x + h + m\n",
        "x is added a second time in the second half: the stream holds it already.",
        "With w_o and w_down at 0 the block must return x: does yours?",
    ),
    Mistake(
        "attention_added_again",
        _SECOND,
        "    y = h + a + m\n",
        "what attention gives is added a second time in the second half.",
        "With w_down at 0, how often is the result of attention in y?",
    ),
    Mistake(
        "first_norm_twice",
        _NORM_2,
        '(h, params["input_layernorm.weight"]',
        "both halves use w_input_norm; the second has a gain of its own, w_mlp_norm.",
        "Change w_mlp_norm: does anything change?",
    ),
    Mistake(
        "second_norm_twice",
        _NORM_1,
        '(x, params["post_attention_layernorm.weight"]',
        "both halves use w_mlp_norm; the first has a gain of its own, w_input_norm.",
        "Change w_input_norm: does anything change?",
    ),
    Mistake(
        "norms_exchanged",
        _EPS,
        f"{_EPS}"
        '    first, second = "input_layernorm.weight", "post_attention_layernorm.weight"\n'
        "    params = {**params, first: params[second], second: params[first]}\n",
        "the gains of the two norms are exchanged: w_input_norm belongs before attention.",
        "Which norm do the names of a checkpoint put after attention?",
    ),
    Mistake(
        "parallel",
        _NORM_2,
        '(x, params["post_attention_layernorm.weight"]',
        "both branches read x, side by side, as in GPT-NeoX; here the second reads what the first "
        "has left in the stream.",
        "Change w_o: must what the feed-forward network adds change?",
        "convention",
    ),
    Mistake(
        "parallel_one_norm",
        _LINE_2,
        _normed("n", "mlp_norm", "x", "input_layernorm.weight"),
        "both branches read the same normalised x, as in GPT-J and PaLM; here the second reads the "
        "stream after the first, behind a norm of its own.",
        "Change w_o, then w_mlp_norm: must what the feed-forward network adds change?",
        "convention",
    ),
    Mistake(
        "mlp_reads_attention_alone",
        _NORM_2,
        '(a, params["post_attention_layernorm.weight"]',
        "the feed-forward network reads what attention gives, without x: the sum comes first.",
        "With w_o at 0, what must the second norm read?",
    ),
    Mistake(
        "no_first_norm",
        _ATTEND,
        _ATTEND.replace("n, params", "x, params"),
        "attention reads x as it is; it must read the normalised x.",
        "Make x ten times as large: what attention adds must stay nearly the same.",
    ),
    Mistake(
        "no_second_norm",
        _FEED,
        _FEED.replace("(n", "(h"),
        "the feed-forward network reads the stream as it is; it must read it normalised.",
        "Change w_mlp_norm: does anything change?",
    ),
    Mistake(
        "mlp_first",
        _BODY,
        """\
    n, mlp_norm = fast_rmsnorm_forward(x, params["post_attention_layernorm.weight"], eps)
    m, mlp = feed_forward_forward(n, params, config)
    m, mlp_dropout = dropout_forward(m, dropout, rng)
    h = x + m

    n, input_norm = fast_rmsnorm_forward(h, params["input_layernorm.weight"], eps)
    a, self_attn = self_attention_forward(
        n, params, config, tables, real=real, kv_cache=kv_cache, layer=layer
    )
    a, attention_dropout = dropout_forward(a, dropout, rng)
    y = h + a
""",
        "the feed-forward network comes first; attention must.",
        "Let the tokens be alike but for the first: which of the halves can tell them apart?",
    ),
    Mistake(
        "eps_ignored",
        _EPS,
        "    eps = 1e-6\n",
        "eps is always 1e-6, whatever is given.",
        "Is the eps of your norms the one that you are given?",
    ),
    Mistake(
        "halves_averaged",
        _SECOND,
        "    y = (h + m) / 2\n",
        "the last sum is halved: branches are added, not averaged.",
        "With w_o and w_down at 0 the block must return x: does yours?",
    ),
)
BRANCHES = (
    Mistake(
        "no_bias",
        'params.get(f"{name}.bias")',
        "None",
        "q, k and v have no bias, as in Llama; in Qwen they have.",
        "With x at 0, what are queries, keys and values?",
        "convention",
        ATTENTION,
    ),
    Mistake(
        "values_turned",
        _TURN_K,
        f"{_TURN_K}    v = rope_forward(v, cos, sin)[0]\n",
        "values are turned by their positions too; only queries and keys are.",
        "With a single key to see, must what a token gets depend on where it stands?",
        module=ATTENTION,
    ),
    Mistake(
        "keys_not_turned",
        _TURN_K,
        "    k_rope = rope_forward(k, cos, sin)[1]\n",
        "keys are not turned by their positions; queries and keys must both be.",
        "A score must depend on the distance of two tokens alone: shift both.",
        module=ATTENTION,
    ),
    Mistake(
        "queries_not_turned",
        _TURN_Q,
        "q_rope = rope_forward(q, cos, sin)[1]",
        "queries are not turned by their positions; queries and keys must both be.",
        "A score must depend on the distance of two tokens alone: shift both.",
        module=ATTENTION,
    ),
    Mistake(
        "positions_ignored",
        _ATTENTION.splitlines()[0],
        "        q, k = rope_backward(q, q_rope), rope_backward(k, k_rope)\n"
        f"{_ATTENTION.splitlines()[0]}",
        "nothing is turned by its position: the order of earlier tokens makes no difference.",
        "Exchange two tokens: must what a later one gets change?",
        module=ATTENTION,
    ),
    Mistake(
        "heads_interleaved",
        _SPLIT,
        "x.reshape(B, T, width // heads, heads).transpose(0, 3, 1, 2)",
        "a head takes every H-th feature; it must take Dh that lie side by side.",
        "Which rows of w_q belong to the first head?",
        module=ATTENTION,
    ),
    Mistake(
        "heads_not_moved",
        _SPLIT,
        "x.reshape(B, heads, T, width // heads)",
        "heads are cut out by a reshape alone: tokens and heads are mixed up.",
        "Change the last token: the first must stay as it is.",
        module=ATTENTION,
    ),
    Mistake(
        "heads_not_moved_back",
        _JOIN,
        "x.reshape(B, T, heads * Dh)",
        "heads are joined by a reshape alone, without moving their axis back: tokens and heads are "
        "mixed up.",
        "In which order do the axes stand before the heads are joined?",
        module=ATTENTION,
    ),
    Mistake(
        "joined_interleaved",
        _JOIN,
        "x.transpose(0, 2, 3, 1).reshape(B, T, heads * Dh)",
        "the features of the heads are woven into each other before w_o; those of a head must lie "
        "side by side.",
        "Which columns of w_o belong to the first head?",
        module=ATTENTION,
    ),
    Mistake(
        "no_out_projection",
        _OUT,
        f"_, o_proj = {_OUT.partition(' = ')[2]}\n    y = join_heads(a)",
        "w_o is not applied: the joined heads are added to the stream as they are.",
        "Change w_o: does anything change?",
        module=ATTENTION,
    ),
    Mistake(
        "out_projection_flipped",
        _OUT,
        'y, o_proj = linear_forward(join_heads(a), params["self_attn.o_proj.weight"].T)',
        "the joined heads are multiplied by w_o; a weight is (out, in), so it must be by w_o.T.",
        "Which axis of w_o is as long as all heads together, when it is not square?",
        module=ATTENTION,
    ),
    Mistake(
        "groups_by_tiling",
        _ATTENTION,
        "        tiled = list(range(k.shape[1])) * (q.shape[1] // k.shape[1])\n"
        "        k, v = k[:, tiled], v[:, tiled]\n"
        f"{_ATTENTION}",
        "query head h uses key head h mod Hkv; neighbouring query heads must share one.",
        "With 4 query and 2 key heads, which key head has query head 1?",
        module=ATTENTION,
    ),
    Mistake(
        "keys_and_values_exchanged",
        _KEYS + _VALUES,
        _KEYS.replace("n.k_proj", "n.v_proj") + _VALUES.replace("n.v_proj", "n.k_proj"),
        "keys come from w_v and values from w_k.",
        "Change w_k: must the scores change?",
        module=ATTENTION,
    ),
    Mistake(
        "no_scale",
        "q, k, v, real, window",
        "q, k, v, real, 1.0, window",
        "scores are not divided by the root of the head width, Dh.",
        "Try attention alone: minqwen check causal_attention.",
        module=ATTENTION,
    ),
    Mistake(
        "scale_of_stream",
        "q, k, v, real, window",
        "q, k, v, real, x.shape[-1] ** -0.5, window",
        "scores are divided by the root of D, the width of the stream; it must be that of a head.",
        "Try attention alone: minqwen check causal_attention.",
        module=ATTENTION,
    ),
    Mistake(
        "no_mask",
        _ATTENTION,
        f"{_ATTENTION}        {_EVERY}\n"
        "        scores = q @ k[:, every].swapaxes(-1, -2) * q.shape[-1] ** -0.5\n"
        "        weights = 2.718281828459045 ** (scores - scores.max(axis=-1, keepdims=True))\n"
        "        a = weights / weights.sum(axis=-1, keepdims=True) @ v[:, every]\n",
        "the future is visible: the result of a token changes when a later token changes.",
        "Change the last token: which results change?",
        module=ATTENTION,
    ),
    Mistake(
        "gate_and_up_exchanged",
        'SWIGLU = ("mlp.gate_proj.weight", "mlp.up_proj.weight",',
        'SWIGLU = ("mlp.up_proj.weight", "mlp.gate_proj.weight",',
        "silu acts on the branch of w_up; it must act on that of w_gate.",
        "Try the network alone: minqwen check swiglu.",
        module=MLP,
    ),
    Mistake(
        "mlp_adds_its_input",
        _SWIGLU,
        "y, cache = swiglu_forward(x, *(params[name] for name in SWIGLU))\n"
        "        return x + y, cache",
        "the feed-forward network adds its own input, and the block adds the stream once more.",
        "With w_down at 0 the network must give 0: does yours?",
        module=MLP,
    ),
)
FORWARD = (*WIRING, *BRANCHES)

_DH, _RETURN = "    dh = dy + dn\n", "    return dh + dn, grads"
_GATHER = "    grads.update(attention_grads)\n"
_BACK_1 = "fast_rmsnorm_backward(dn, cache.input_norm)"
BACKWARD = (
    Mistake(
        "mlp_residual_lost",
        _DH,
        "    dh = dn\n",
        "dy does not go straight past the feed-forward network: only what comes back through it "
        "goes on.",
        "How often is the stream read in the second half?",
    ),
    Mistake(
        "mlp_branch_lost",
        _DH,
        "    dh = dy\n",
        "what comes back through the feed-forward network does not reach the first half.",
        "How often is the stream read in the second half?",
    ),
    Mistake(
        "attention_residual_lost",
        _RETURN,
        "    return dn, grads",
        "the gradient does not go straight past attention: dx lacks what went on along the stream.",
        "How often is x read?",
    ),
    Mistake(
        "attention_branch_lost",
        _RETURN,
        "    return dh, grads",
        "dx lacks what comes back through attention.",
        "How often is x read?",
    ),
    Mistake(
        "straight_from_dy",
        _RETURN,
        "    return dy + dn, grads",
        "past attention goes dy itself, without what came back through the feed-forward network.",
        "What is the gradient of the stream between the two halves?",
    ),
    Mistake(
        "attention_gets_dy",
        "da = dropout_backward(dh,",
        "da = dropout_backward(dy,",
        "attention gets dy; it must get the whole gradient of the stream behind it.",
        "What reads the result of attention?",
    ),
    Mistake(
        "straight_path_twice",
        _RETURN,
        "    return dh + dn + dy, grads",
        "dy is added to dx once more: it is in the gradient of the stream already.",
        "With w_o and w_down at 0, dx must be dy: is it?",
    ),
    Mistake(
        "second_norm_skipped",
        _DH,
        "    dh = dy + dm\n",
        "what comes back through the feed-forward network does not pass its norm.",
        "What did the feed-forward network read: the stream, or the normalised stream?",
    ),
    Mistake(
        "first_norm_skipped",
        f'    dn, grads["input_layernorm.weight"] = {_BACK_1}',
        f'    _, grads["input_layernorm.weight"] = {_BACK_1}',
        "what comes back through attention does not pass its norm.",
        "What did attention read: x, or the normalised x?",
    ),
    Mistake(
        "first_norm_twice",
        "cache.mlp_norm)",
        "cache.input_norm)",
        "on the way back the second norm takes what was kept of the first.",
        "Which of the caches belongs to which norm?",
    ),
    Mistake(
        "norm_gradients_exchanged",
        _RETURN,
        '    first, second = "input_layernorm.weight", "post_attention_layernorm.weight"\n'
        "    grads[first], grads[second] = grads[second], grads[first]\n"
        f"{_RETURN}",
        "the gradients of w_input_norm and w_mlp_norm are exchanged.",
        "Which of the two norms does the way back meet first?",
    ),
    Mistake(
        "attention_gradients_lost",
        _GATHER,
        "    grads.update({name: 0 * g for name, g in attention_grads.items()})\n",
        "the weights of attention get no gradient.",
        "From how many places do gradients have to be gathered?",
    ),
    Mistake(
        "queries_lost",
        "        project_backward(join_heads(dq), cache.q_proj",
        "        0 * project_backward(join_heads(dq), cache.q_proj",
        "what comes back through the queries does not reach x.",
        "Three products read the same input: how do their gradients meet?",
        module=ATTENTION,
    ),
    Mistake(
        "keys_lost",
        "+ project_backward(join_heads(dk), cache.k_proj",
        "+ 0 * project_backward(join_heads(dk), cache.k_proj",
        "what comes back through the keys does not reach x.",
        "Three products read the same input: how do their gradients meet?",
        module=ATTENTION,
    ),
    Mistake(
        "values_lost",
        "+ project_backward(join_heads(dv), cache.v_proj",
        "+ 0 * project_backward(join_heads(dv), cache.v_proj",
        "what comes back through the values does not reach x.",
        "Three products read the same input: how do their gradients meet?",
        module=ATTENTION,
    ),
    Mistake(  # not turned at all would be no evidence: then the gradient of b_k is 0, or rounding
        "keys_turned_on",
        "    dk = rope_backward(dk, cache.k_rope)\n",
        "    dk = rope_forward(dk, cache.k_rope.cos, cache.k_rope.sin)[0]\n",
        "the gradient of the keys is turned further by their positions; it must be turned back.",
        "Which way does a gradient take through a rotation?",
        module=ATTENTION,
    ),
    Mistake(
        "queries_not_turned_back",
        "dq = rope_backward(dq, cache.q_rope)",
        "pass",
        "the gradient of the queries is not turned back by their positions.",
        "What stood between w_q and the scores?",
        module=ATTENTION,
    ),
    Mistake(
        "values_turned_back",
        "    dk = rope_backward(dk, cache.k_rope)\n",
        "    dk, dv = rope_backward(dk, cache.k_rope), rope_backward(dv, cache.k_rope)\n",
        "the gradient of the values is turned back by their positions; they were never turned.",
        "Which of q, k and v were turned?",
        module=ATTENTION,
    ),
    Mistake(
        "heads_not_moved",
        "da = split_heads(da, cache.attention.shape[1])",
        "da = da.reshape(cache.attention.shape)",
        "on the way back heads are cut out by a reshape alone: tokens and heads are mixed up.",
        "How is the joining of heads undone?",
        module=ATTENTION,
    ),
    Mistake(
        "bias_gradients_lost",
        '        grads[f"{name}.bias"] = db',
        '        grads[f"{name}.bias"] = 0 * db',
        "the biases get no gradient.",
        "To how many tokens is a bias added?",
        module=ATTENTION,
    ),
    Mistake(
        "bias_gradients_averaged",
        '        grads[f"{name}.bias"] = db',
        '        grads[f"{name}.bias"] = db / (dy.shape[0] * dy.shape[1])',
        "the gradient of a bias is a mean over the tokens; it must be a sum.",
        "To how many tokens is a bias added?",
        module=ATTENTION,
    ),
    Mistake(
        "gate_and_up_exchanged",
        "dict(zip(SWIGLU, dw, strict=True))",
        "dict(zip(SWIGLU, (dw[1], dw[0], dw[2]), strict=True))",
        "the gradients of w_gate and w_up are exchanged.",
        "Try the network alone: minqwen check swiglu.",
        module=MLP,
    ),
)

SPEC = Spec(
    name="decoder_block",
    module="minqwen.model.decoder_block",
    arguments=ARGUMENTS,
    axes={
        "x": "B T D",
        "w_input_norm": "D",
        "w_q": "D D",
        "b_q": "D",
        "w_k": "Hkv*Dh D",
        "b_k": "Hkv*Dh",
        "w_v": "Hkv*Dh D",
        "b_v": "Hkv*Dh",
        "w_o": "D D",
        "w_mlp_norm": "D",
        "w_gate": "F D",
        "w_up": "F D",
        "w_down": "D F",
        "y": "B T D",
    },
    run=run,
    pull=pull,
    probes=PROBES,
    forward=FORWARD,
    backward=BACKWARD,
    depth=4,
    notes="Tokens stand at positions 0 .. T-1 and see only themselves and earlier ones. The width "
    "of a head is Dh = D / num_attention_heads; RoPE pairs feature i with i + Dh/2 and has the "
    "frequencies base ** (-2i / Dh). Weights are (out, in).",
)
