"""A mixture of experts: how it is called, tried, and got wrong."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from ...backend import Array
from ..rows_moe import spread_tokens
from ..spec import Arguments, Mistake, Probe, Spec

FLOATS = ("x", "w_router", "w_gate_up", "w_down")
ARGUMENTS = (*FLOATS, "num_experts_per_tok", "norm_topk_prob")
EXPERTS, ROUTER = "minqwen.layers.moe_experts", "minqwen.layers.moe_router"


def run(m: ModuleType, a: Arguments) -> tuple[Array, ...]:
    """Compute y with a copy of layers/moe.py."""
    return (m.moe_forward(*(a[name] for name in ARGUMENTS))[0],)


def pull(m: ModuleType, a: Arguments, dy: tuple[Array, ...]) -> dict[str, Array]:
    """Compute the gradients with a copy of layers/moe.py."""
    _, cache = m.moe_forward(*(a[name] for name in ARGUMENTS))
    return dict(zip(FLOATS, m.moe_backward(dy[0], cache)[:4], strict=True))


def inputs(
    rng: np.random.Generator,
    N: int,
    D: int,
    E: int,
    Fe: int,
    K: int,
    norm: bool,
    size: float = 1.0,
) -> Arguments:
    """Return tokens, a router whose logits are well apart within a token, and E experts."""
    x, w_router = spread_tokens(rng, N, D, E)
    return {
        "x": size * x,
        "w_router": w_router,
        "w_gate_up": rng.standard_normal((E, 2 * Fe, D)),
        "w_down": rng.standard_normal((E, D, Fe)),
        "num_experts_per_tok": K,
        "norm_topk_prob": norm,
    }


def batch(rng: np.random.Generator) -> Arguments:
    """Return two rows of three tokens."""
    a = inputs(rng, 6, 7, 5, 3, 3, norm=False)
    a["x"] = a["x"].reshape(2, 3, 7)
    return a


def crowded(rng: np.random.Generator) -> Arguments:
    """Return tokens that differ by little and so all choose the same experts; the others idle."""
    a = inputs(rng, 1, 7, 5, 3, 2, norm=False)
    a["x"] = a["x"] + 1e-3 * rng.standard_normal((11, 7))
    return a


PROBES = (
    Probe(
        "ordinary",
        lambda rng: inputs(rng, 13, 7, 5, 3, 2, norm=False),
        "13 tokens choose 2 of 5 experts",
        hard=False,
    ),
    Probe(
        "divided by the sum",
        lambda rng: inputs(rng, 11, 5, 3, 7, 2, norm=True),
        "2 of 3 experts, their weights made to sum to 1",
        hard=False,
    ),
    Probe("batch", batch, "two rows of three tokens, 3 of 5 experts"),
    Probe(
        "one expert each",
        lambda rng: inputs(rng, 7, 11, 7, 2, 1, norm=False),
        "1 of 7 experts, some of them idle",
    ),
    Probe(
        "all experts",
        lambda rng: inputs(rng, 5, 7, 3, 5, 3, norm=False),
        "every token runs through every expert",
    ),
    Probe("crowded", crowded, "all tokens choose the same two experts"),
    Probe(
        "only expert",
        lambda rng: inputs(rng, 3, 5, 1, 7, 1, norm=False),
        "E = K = 1: an ordinary feed-forward network",
    ),
    Probe("one token", lambda rng: inputs(rng, 1, 7, 5, 3, 2, norm=True), "a single token"),
    Probe(
        "square",
        lambda rng: inputs(rng, 5, 5, 5, 5, 2, norm=False),
        "all sizes equal: axes can be mixed up",
    ),
    Probe(
        "tiny",
        lambda rng: inputs(rng, 7, 7, 5, 3, 2, norm=False, size=1e-3),
        "small tokens: all experts nearly equally likely",
    ),
)

_Y = "y = (widen(expert_weights)[:, :, None] * widen(outputs)).sum(axis=1)  # (N, D)"
_CALL = "x_sorted[rows], w_gate_up[e, :Fe], w_gate_up[e, Fe:], w_down[e]"
_LOOP = "    for e, rows in segments:\n"
_TAKE = "xp.take_along_axis(probs, expert_ids, axis=-1)  # (N, K)"
_SOFTMAX = "probs, _ = softmax(router_logits)"
_SORT = "top_k(probs, K)"
_RUN = "moe_experts_forward(rows, ids, weights, w_gate_up, w_down)"
FORWARD = (
    Mistake(
        "always_renormalised",
        "rows, w_router, num_experts_per_tok, norm_topk_prob)",
        "rows, w_router, num_experts_per_tok, True)",
        "the weights of a token always sum to 1, as a softmax over the chosen logits alone gives "
        "(Mixtral, Qwen3-MoE); with norm_topk_prob=False Qwen2-MoE keeps the probabilities.",
        "Over how many experts does the softmax run before the choice?",
        "convention",
    ),
    Mistake(
        "never_renormalised",
        "rows, w_router, num_experts_per_tok, norm_topk_prob)",
        "rows, w_router, num_experts_per_tok, False)",
        "norm_topk_prob has no effect: the weights of a token sum to less than 1.",
        "With norm_topk_prob=True, what must the weights of a token add up to?",
    ),
    Mistake(
        "router_not_transposed",
        "linear_forward(x, w)  #",
        "linear_forward(x, w.T)  #",
        "the router's logits are x @ w_router; it has a row for each expert, so they must be "
        "x @ w_router.T.",
        "Try the router alone: minqwen check moe_router.",
        module=ROUTER,
    ),
    Mistake(
        "weight_not_transposed",
        _CALL,
        "x_sorted[rows], w_gate_up[e, :Fe].T, w_gate_up[e, Fe:].T, w_down[e].T",
        "the products in an expert are x @ w; its weights are (out, in), so they must be x @ w.T.",
        "What are the shapes of a token and of w_gate_up[0], and what must that of their product "
        "be?",
        module=EXPERTS,
    ),
    Mistake(
        "logits_as_weights",
        _TAKE,
        "xp.take_along_axis(router_logits, expert_ids, axis=-1)",
        "the outputs are weighted by logits; the weights must be probabilities.",
        "Try the router alone: minqwen check moe_router.",
        module=ROUTER,
    ),
    Mistake(
        "uniform",
        _TAKE,
        "xp.full(expert_ids.shape, 1 / K, dtype=probs.dtype)",
        "all chosen experts count the same, 1 / K.",
        "Try the router alone: minqwen check moe_router.",
        module=ROUTER,
    ),
    Mistake(
        "least_likely",
        _SORT,
        "top_k(-probs, K)",
        "the experts with the smallest probabilities are chosen.",
        "Try the router alone: minqwen check moe_router.",
        module=ROUTER,
    ),
    Mistake(
        "one_too_few",
        _SORT,
        f"{_SORT}[:, : K - 1]",
        "each token runs through one expert too few.",
        "With K = 1, how many experts should it be?",
        module=ROUTER,
    ),
    Mistake(
        "sigmoid",
        _SOFTMAX,
        "probs = 1 / (1 + xp.exp(-router_logits))",
        "each expert has a sigmoid of its own, as in DeepSeek-V3; here the experts share a "
        "softmax.",
        "Raise one logit: must the weights of the other experts change?",
        "convention",
        ROUTER,
    ),
    Mistake(
        "softmax_over_tokens",
        _SOFTMAX,
        "probs = softmax(router_logits.T)[0].T",
        "the router's softmax runs over the tokens; it must run over the experts.",
        "Change one token: the others must stay as they are.",
        module=ROUTER,
    ),
    Mistake(
        "all_experts",
        _RUN,
        "moe_experts_forward(\n"
        "        rows,\n"
        "        ids[:, :1] * 0 + list(range(len(w_router))),\n"
        "        router.router_probs,\n"
        "        w_gate_up,\n"
        "        w_down,\n"
        "    )",
        "every token runs through all experts, weighted by their probabilities: nothing is chosen.",
        "What does num_experts_per_tok do?",
    ),
    Mistake(
        "ids_sorted",
        "group_by_expert(expert_ids, E)\n    x",
        "group_by_expert(xp.sort(expert_ids, axis=1), E)\n    x",
        "the experts of a token are visited in the order of their numbers, but its weights are "
        "not: an output gets the weight of another expert.",
        "In which order are the weights of a token?",
        module=EXPERTS,
    ),
    Mistake(
        "weights_reversed",
        "y = (widen(expert_weights)[:, :, None]",
        "y = (widen(expert_weights)[:, ::-1, None]",
        "the weights of a token belong to its experts in the opposite order.",
        "The most likely expert must count most.",
        module=EXPERTS,
    ),
    Mistake(
        "no_weights",
        _Y,
        "y = widen(outputs).sum(axis=1)",
        "the outputs of the chosen experts are added up without their weights.",
        "The router says how much each of them counts.",
        module=EXPERTS,
    ),
    Mistake(
        "input_weighted",
        "    x_sorted = x[order // K]  # (N*K, D) a token stands K times, once with each of its "
        "experts\n    out, experts = xp.empty_like(x_sorted), []\n",
        "    x_sorted = x[order // K] * expert_weights.reshape(-1)[order][:, None]\n"
        "    out, experts = xp.empty_like(x_sorted), []\n"
        "    expert_weights = xp.ones_like(expert_weights)\n",
        "the weight is applied to what goes into an expert; it must be applied to what comes out.",
        "An expert is not linear: where does the formula have the weight?",
        module=EXPERTS,
    ),
    Mistake(
        "last_expert_only",
        _Y,
        "y = (widen(expert_weights)[:, :, None] * widen(outputs))[:, -1]",
        "a token's least likely expert overwrites the others.",
        "A token has K outputs: what becomes of the first when the next arrives?",
        module=EXPERTS,
    ),
    Mistake(
        "highest_number_only",
        _Y,
        "y = xp.take_along_axis(\n"
        "        widen(expert_weights)[:, :, None] * widen(outputs),\n"
        "        expert_ids.argmax(axis=1)[:, None, None],\n"
        "        axis=1,\n"
        "    )[:, 0]",
        "of a token's experts the one with the highest number overwrites the others.",
        "A loop over the experts comes to a token K times: what becomes of the first output?",
        module=EXPERTS,
    ),
    Mistake(
        "first_expert_only",
        _Y,
        "y = (widen(expert_weights)[:, :, None] * widen(outputs))[:, 0]",
        "only a token's most likely expert counts.",
        "A token has K outputs: where do the others go?",
        module=EXPERTS,
    ),
    Mistake(
        "mean_of_experts",
        _Y,
        f"{_Y[: _Y.index('.sum')]}.mean(axis=1)",
        "the weighted outputs are averaged; they must be added up.",
        "With E = K = 2 and two equal experts, what must come out?",
        module=EXPERTS,
    ),
    Mistake(
        "not_put_back",
        "put_back(out, order)",
        "out",
        "the outputs stay in the order of the experts: they belong to other tokens.",
        "Send one token alone: is it right then?",
        module=EXPERTS,
    ),
    Mistake(
        "sorted_twice",
        "    back[order] = rows ",
        "    back = rows[order] ",
        "the outputs are sorted once more instead of being put back: they belong to other tokens.",
        "How is a sort undone: by the same indices, or by their inverse?",
        module=EXPERTS,
    ),
    Mistake(
        "choices_for_tokens",
        "x[order // K]",
        "x[order % N]",
        "a choice is taken to another token than the one that made it.",
        "Choices lie side by side, K of a token: which token has choice number i?",
        module=EXPERTS,
    ),
    Mistake(
        "branches_swapped",
        _CALL,
        "x_sorted[rows], w_gate_up[e, Fe:], w_gate_up[e, :Fe], w_down[e]",
        "silu acts on the second half of w_gate_up; the gate is the first.",
        "Which half of w_gate_up is the gate?",
        module=EXPERTS,
    ),
    Mistake(
        "branches_interleaved",
        _CALL,
        "x_sorted[rows], w_gate_up[e, ::2], w_gate_up[e, 1::2], w_down[e]",
        "the rows of w_gate_up are read as gate, up, gate, up; here all of the gate comes first.",
        "Which rows of w_gate_up are the gate?",
        "convention",
        EXPERTS,
    ),
    Mistake(
        "other_expert_down",
        "w_gate_up[e, Fe:], w_down[e]\n",
        "w_gate_up[e, Fe:], w_down[e - 1]\n",
        "w_down is taken from another expert than w_gate_up.",
        "Which number has the expert of a segment?",
        module=EXPERTS,
    ),
    Mistake(
        "experts_off_by_one",
        _CALL,
        "x_sorted[rows], w_gate_up[e - 1, :Fe], w_gate_up[e - 1, Fe:], w_down[e - 1]",
        "each token runs through the neighbours of its experts.",
        "Do numbers of experts start at 0 or at 1?",
        module=EXPERTS,
    ),
    Mistake(
        "capacity",
        _LOOP,
        "    out[:] = 0\n"
        "    capacity = -(-N * K // E)\n"
        "    for e, rows in [(e, slice(r.start, min(r.stop, r.start + capacity))) "
        "for e, r in segments]:\n",
        "tokens above an expert's capacity, N K / E rounded up, are dropped; this model drops "
        "none.",
        "Let all tokens choose the same expert: are the last ones zero?",
        "convention",
        EXPERTS,
    ),
    Mistake(
        "residual",
        "return y.reshape(x.shape)",
        "return (y + rows).reshape(x.shape)",
        "x is added to the result; that is done outside, by the block.",
        "A layer whose w_down are zero must give 0.",
    ),
)

_SUM = "= dx_experts + dx_router, None"
_ROUTER_BACK = "moe_router_backward(dexpert_weights, router"
_WEIGHTS_BACK = "dexpert_weights = (widen(outputs) * dy)"
BACKWARD = (
    Mistake(
        "router_path_lost",
        _SUM,
        "= dx_experts, None",
        "dx lacks what comes back through the router.",
        "x goes two ways in the forward pass.",
    ),
    Mistake(
        "expert_path_lost",
        _SUM,
        "= dx_router, None",
        "dx lacks what comes back through the experts.",
        "x goes two ways in the forward pass.",
    ),
    Mistake(
        "router_learns_nothing",
        _ROUTER_BACK,
        "moe_router_backward(0 * dexpert_weights, router",
        "the weights of the experts are taken for constants: the router gets no gradient.",
        "Which part of the router is a jump, and which is smooth?",
    ),
    Mistake(
        "chosen_logits_only",
        "xp.zeros_like(probs) if norm_topk_prob else -probs * mean",
        "xp.zeros_like(probs)",
        "the router's logits of experts that were not chosen get no gradient; without division by "
        "the sum they do.",
        "Try the router alone: minqwen check moe_router.",
        module=ROUTER,
    ),
    Mistake(
        "as_if_not_divided",
        "    dweights = widen(dexpert_weights)\n",
        "    dweights, norm_topk_prob = widen(dexpert_weights), False\n"
        "    weights = xp.take_along_axis(probs, expert_ids, axis=-1)\n",
        "the division of the weights by their sum is forgotten on the way back.",
        "Try the router alone: minqwen check moe_router.",
        module=ROUTER,
    ),
    Mistake(
        "weighted_outputs",
        _WEIGHTS_BACK,
        "dexpert_weights = (widen(outputs) * widen(expert_weights)[:, :, None] * dy)",
        "the gradient of a weight is taken with the weighted output; it must be the output itself.",
        "What stood beside the weight in the product?",
        module=EXPERTS,
    ),
    Mistake(
        "outputs_of_others",
        _WEIGHTS_BACK,
        "dexpert_weights = (widen(outputs).reshape(N * K, D)[order].reshape(N, K, D) * dy)",
        "the gradient of a weight is taken with the output of another token.",
        "In which order are the outputs, and in which the weights?",
        module=EXPERTS,
    ),
    Mistake(
        "weights_forgotten",
        "(widen(expert_weights)[:, :, None] * dy)",
        "(widen(expert_weights * 0 + 1)[:, :, None] * dy)",
        "what goes back into an expert is not multiplied by its weight.",
        "An expert that hardly counts must hardly learn.",
        module=EXPERTS,
    ),
    Mistake(
        "dx_of_last",
        "D).sum(axis=1)\n    dx =",
        "D)[:, -1]\n    dx =",
        "dx comes back from a token's last expert alone; it must be the sum over all K.",
        "How often was a token read?",
        module=EXPERTS,
    ),
    Mistake(
        "dx_not_put_back",
        "put_back(dx_sorted, order)",
        "dx_sorted",
        "dx stays in the order of the experts: it belongs to other tokens.",
        "Send one token alone: is it right then?",
        module=EXPERTS,
    ),
    Mistake(
        "dy_not_sorted",
        "reshape(N * K, D)[order]",
        "reshape(N * K, D)",
        "the experts get the gradients of other tokens.",
        "In which order are the tokens of an expert?",
        module=EXPERTS,
    ),
    Mistake(
        "branches_swapped",
        "dw_gate_up[e, :Fe], dw_gate_up[e, Fe:], dw_down[e] = swiglu_backward",
        "dw_gate_up[e, Fe:], dw_gate_up[e, :Fe], dw_down[e] = swiglu_backward",
        "the gradients of gate and up are exchanged.",
        "Which half of w_gate_up is the gate?",
        module=EXPERTS,
    ),
    Mistake(
        "mean_over_tokens",
        "            dout[rows], expert\n        )\n",
        "            dout[rows], expert\n        )\n"
        "        dw_gate_up[e] /= rows.stop - rows.start\n"
        "        dw_down[e] /= rows.stop - rows.start\n",
        "the gradients of an expert's weights are means over its tokens; they must be sums.",
        "Two tokens that both want a weight to grow: the gradient doubles.",
        module=EXPERTS,
    ),
    Mistake(
        "coupling_dropped",
        "mean = (weights * dweights).sum(",
        "mean = 0 * (weights * dweights).sum(",
        "each of the router's logits gets the gradient of its own weight alone; the softmax "
        "couples them.",
        "Try the router alone: minqwen check moe_router.",
        module=ROUTER,
    ),
)

SPEC = Spec(
    name="moe",
    module="minqwen.layers.moe",
    arguments=ARGUMENTS,
    axes={
        "x": "... D",
        "w_router": "E D",
        "w_gate_up": "E 2Fe D",
        "w_down": "E D Fe",
        "y": "... D",
    },
    run=run,
    pull=pull,
    probes=PROBES,
    forward=FORWARD,
    backward=BACKWARD,
    depth=4,
    notes="Routed experts without a shared one. w_gate_up holds for each expert the Fe rows of the "
    "gate, then the Fe rows of up. norm_topk_prob=False keeps the probabilities of the softmax "
    "over all experts, True divides the K of a token by their sum.",
)
