"""The router of a mixture of experts: how it is called, tried, and got wrong."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from ...backend import Array
from ..rows_moe import spread_logits, spread_tokens
from ..spec import Arguments, Mistake, Probe, Spec


def run(m: ModuleType, a: Arguments) -> tuple[Array, ...]:
    """Compute the weights and the numbers of the experts with a copy of layers/moe_router.py."""
    weights, ids, _ = m.moe_router_forward(*(a[name] for name in ARGUMENTS))
    return weights, ids


def pull(m: ModuleType, a: Arguments, dy: tuple[Array, ...]) -> dict[str, Array]:
    """Compute the gradients from that of the weights; the choice has none."""
    *_, cache = m.moe_router_forward(*(a[name] for name in ARGUMENTS))
    return dict(zip(("x", "w"), m.moe_router_backward(dy[0], cache), strict=True))


ARGUMENTS = ("x", "w", "num_experts_per_tok", "norm_topk_prob")


def inputs(
    rng: np.random.Generator, N: int, D: int, E: int, K: int, norm: bool, size: float = 1.0
) -> Arguments:
    """Return tokens and a router whose logits are well apart within a token: no choice is close."""
    x, w = spread_tokens(rng, N, D, E)
    return {"x": size * x, "w": w, "num_experts_per_tok": K, "norm_topk_prob": norm}


def whole(logits: Array, K: int, norm: bool = False) -> Arguments:
    """Return whole numbers that have these logits, in any precision and order of summation."""
    E = logits.shape[1]
    offset = logits.min(axis=1, keepdims=True)
    x = np.concatenate((logits - offset, offset), axis=1).astype(float)
    w = np.concatenate((np.eye(E), np.ones((E, 1))), axis=1)
    return {"x": x, "w": w, "num_experts_per_tok": K, "norm_topk_prob": norm}


def far_apart(rng: np.random.Generator) -> Arguments:
    """Return tokens whose logits are all near 0, near 800, or near -800."""
    order = np.stack([rng.permutation(5) for _ in range(4)])
    return whole(order + np.array([[0], [800], [-800], [96]]), K=2)


def large(rng: np.random.Generator) -> Arguments:
    """Return logits up to 64: probabilities of nearly 1 and nearly 0."""
    return whole(16 * np.rint(2 * spread_logits(rng, 3, 5)), K=2, norm=True)


PROBES = (
    Probe("ordinary", lambda rng: inputs(rng, 5, 11, 7, 3, False), "3 of 7 experts", hard=False),
    Probe(
        "divided by the sum",
        lambda rng: inputs(rng, 7, 13, 5, 2, True),
        "2 of 5 experts, their weights made to sum to 1",
        hard=False,
    ),
    Probe("one expert", lambda rng: inputs(rng, 3, 7, 5, 1, False), "the best expert alone"),
    Probe("all experts", lambda rng: inputs(rng, 5, 7, 3, 3, False), "as many as there are"),
    Probe("one token", lambda rng: inputs(rng, 1, 11, 7, 4, True), "a single token"),
    Probe(
        "tiny",
        lambda rng: inputs(rng, 5, 11, 7, 2, False, size=1e-3),
        "logits near 0: all experts nearly equally likely",
    ),
    Probe(
        "square",
        lambda rng: inputs(rng, 5, 5, 5, 2, False),
        "as many experts as features: axes can be mixed up",
    ),
    Probe("far apart", far_apart, "logits near 800, 0 and -800, each token for itself"),
    Probe("large", large, "logits far apart within a token", gradient=False),
    Probe(
        "ties",
        lambda rng: whole(np.array([[1, 3, 3, 0, 3], [2, 2, 0, 2, 2], [0, 1, 0, 1, 0]]), K=2),
        "experts that are exactly equally likely",
        gradient=False,
        ties=True,
    ),
    Probe(
        "all equal",
        lambda rng: whole(np.zeros((2, 7)), K=3),
        "experts that are all equally likely",
        gradient=False,
        ties=True,
    ),
    Probe(
        "ties, divided",
        lambda rng: whole(np.array([[0, 5, 1, 1, 0, 1, 1], [3, 0, 0, 4, 3, 3, 4]]), 4, True),
        "equals at the last place, weights made to sum to 1",
        gradient=False,
        ties=True,
    ),
)

_SORT = "top_k(probs, K)"
_TAKE = "xp.take_along_axis(probs, expert_ids, axis=-1)  # (N, K)"
_SOFTMAX = "probs, _ = softmax(router_logits)"
_DIVIDE = "weights / weights.sum(axis=-1, keepdims=True)"
NO_MAX = Mistake(
    "no_max",
    "peak = z.max(axis=-1, keepdims=True)",
    "peak = 0 * z.max(axis=-1, keepdims=True)",
    "large logits overflow: the largest is not taken out before the exponential.",
    "On paper the softmax does not change when all logits of a token move together.",
    "numeric",
    "minqwen.layers.moe_router",
)
GLOBAL_MAX = Mistake(
    "global_max",
    "peak = z.max(axis=-1, keepdims=True)",
    "peak = z.max(keepdims=True)",
    "one largest logit is taken out for all tokens: those far below it come to 0 / 0.",
    "Which maximum does one row of the softmax need?",
    "numeric",
    "minqwen.layers.moe_router",
)
FORWARD = (
    Mistake(
        "always_renormalised",
        "    if norm_topk_prob:\n",
        "    if True:\n",
        "the weights of a token always sum to 1, as a softmax over the chosen logits alone gives "
        "(Mixtral, Qwen3-MoE); with norm_topk_prob=False Qwen2-MoE keeps the probabilities.",
        "Over how many experts does the softmax run before the choice?",
        "convention",
    ),
    Mistake(
        "never_renormalised",
        "    if norm_topk_prob:\n",
        "    if False:\n",
        "norm_topk_prob has no effect: the weights of a token sum to less than 1.",
        "With norm_topk_prob=True, what must the weights of a token add up to?",
    ),
    Mistake(
        "weight_not_transposed",
        "linear_forward(x, w)  #",
        "linear_forward(x, w.T)  #",
        "the logits are x @ w; w has a row for each expert, so they must be x @ w.T.",
        "What are the shapes of x and w, and what must that of the logits be?",
    ),
    Mistake(
        "logits_as_weights",
        _TAKE,
        "xp.take_along_axis(router_logits, expert_ids, axis=-1)",
        "the weights are the logits; they must be probabilities.",
        "No weight can be negative: which step makes it so?",
    ),
    Mistake(
        "least_likely",
        _SORT,
        "top_k(-probs, K)",
        "the experts with the smallest probabilities are chosen.",
        "In which direction does a sort run?",
    ),
    Mistake(
        "one_too_few",
        _SORT,
        "top_k(probs, K - 1)",
        "each token gets one expert too few.",
        "Count the columns of the result.",
    ),
    Mistake(
        "best_skipped",
        _SORT,
        'xp.argsort(-probs, axis=-1, kind="stable")[:, 1 : K + 1]',
        "the most likely expert is left out: the choice starts with the second.",
        "With K = 1, which expert should be chosen?",
    ),
    Mistake(
        "uniform",
        _TAKE,
        "xp.full(expert_ids.shape, 1 / K, dtype=probs.dtype)",
        "all chosen experts get the same weight, 1 / K.",
        "The router says how much each of them counts.",
    ),
    Mistake(
        "sigmoid",
        _SOFTMAX,
        "probs = 1 / (1 + xp.exp(-router_logits))",
        "each expert has a sigmoid of its own, as in DeepSeek-V3; here the experts share a "
        "softmax.",
        "Raise one logit: must the weights of the other experts change?",
        "convention",
    ),
    Mistake(
        "softmax_over_tokens",
        _SOFTMAX,
        "probs = softmax(router_logits.T)[0].T",
        "the softmax runs over the tokens; it must run over the experts.",
        "Change one token: the weights of the others must stay as they are.",
    ),
    Mistake(
        "softmax_of_probabilities",
        _DIVIDE,
        "softmax(weights)[0]",
        "the chosen probabilities go through a second softmax; they must be divided by their sum.",
        "The ratio of two weights must be the same with norm_topk_prob and without.",
    ),
    Mistake(
        "divided_by_largest",
        _DIVIDE,
        "weights / weights.max(axis=-1, keepdims=True)",
        "the chosen probabilities are divided by the largest of them, not by their sum.",
        "With norm_topk_prob=True, what must the weights of a token add up to?",
    ),
    Mistake(
        "scaled_logits",
        _SOFTMAX,
        "probs, _ = softmax(router_logits * D**-0.5)",
        "the logits are divided by sqrt(D), as scores of attention are; a router has no such "
        "scale.",
        "Compare the ratio of two weights with the exponential of the difference of their logits.",
    ),
    Mistake(
        "ids_sorted",
        "copy=False), expert_ids, cache",
        "copy=False), xp.sort(expert_ids, axis=-1), cache",
        "the numbers of the experts are sorted, but not the weights with them: a weight belongs "
        "to another expert than its number says.",
        "Look the probability of each number up: is it the weight beside it?",
    ),
    Mistake(
        "by_number",
        _SORT,
        f"xp.sort({_SORT}, axis=-1)",
        "the right experts with the right weights, but in the order of their numbers; here the "
        "largest weight comes first.",
        "A layer does not notice the order; who reads the first choice does.",
        "convention",
    ),
    Mistake(
        "smallest_first",
        _SORT,
        'xp.argsort(probs, axis=-1, kind="stable")[:, E - K :]',
        "the right experts, but the smallest weight first; here the largest comes first.",
        "A layer does not notice the order; who reads the first choice does.",
        "convention",
    ),
    Mistake(
        "ties_to_the_higher",
        _SORT,
        'xp.argsort(probs, axis=-1, kind="stable")[:, ::-1][:, :K]',
        "of equally likely experts the one with the higher number is taken; here it is the lower.",
        "What does turning a sorted list around do to equals?",
        "convention",
    ),
    NO_MAX,
    GLOBAL_MAX,
)

_FILL = "dlogits = xp.zeros_like(probs) if norm_topk_prob else -probs * mean  # (N, E)"
_PUT = "xp.put_along_axis(dlogits, expert_ids, weights * (dweights - mean), axis=-1)"
_OPEN = "    dweights = widen(dexpert_weights)\n"
BACKWARD = (
    Mistake(
        "chosen_only",
        "xp.zeros_like(probs) if norm_topk_prob else -probs * mean",
        "xp.zeros_like(probs)",
        "logits of experts that were not chosen get no gradient; without division by the sum "
        "they do.",
        "Over how many experts does the softmax of the forward pass run?",
    ),
    Mistake(
        "coupling_dropped",
        "mean = (weights * dweights).sum(",
        "mean = 0 * (weights * dweights).sum(",
        "each logit gets the gradient of its own weight alone; the softmax couples them.",
        "The gradients of a token's logits must add up to 0: do they?",
    ),
    Mistake(
        "as_if_divided",
        _OPEN,
        "    dweights, norm_topk_prob = widen(dexpert_weights), True\n"
        "    weights = weights / weights.sum(axis=-1, keepdims=True)\n",
        "the gradient is that of weights that sum to 1, also when they were not divided by "
        "their sum.",
        "Try norm_topk_prob=False: which step has the forward pass left out?",
    ),
    Mistake(
        "as_if_not_divided",
        _OPEN,
        "    dweights, norm_topk_prob = widen(dexpert_weights), False\n"
        "    weights = xp.take_along_axis(probs, expert_ids, axis=-1)\n",
        "the division of the weights by their sum is forgotten on the way back.",
        "With norm_topk_prob=True and one expert, the weight is always 1: what is its gradient?",
    ),
    Mistake(
        "sum_constant",
        f"    {_FILL}\n    {_PUT}\n",
        "    chosen = xp.take_along_axis(probs, expert_ids, axis=-1)\n"
        "    total = chosen.sum(axis=-1, keepdims=True) if norm_topk_prob else 1\n"
        "    dlogits = -probs * mean\n"
        f"    {_PUT.replace('- mean', '- total * mean')}\n",
        "the sum that the weights are divided by is taken for a constant.",
        "With norm_topk_prob=True and one expert, the weight is always 1: what is its gradient?",
    ),
    Mistake(
        "unchosen_pushed_up",
        "else -probs * mean",
        "else probs * mean",
        "the gradient of logits that were not chosen has the wrong sign.",
        "If such a logit grows, do the weights of the chosen grow or shrink?",
    ),
    Mistake(
        "mean_for_sum",
        "mean = (weights * dweights).sum(",
        "mean = (weights * dweights).mean(",
        "the coupling of the softmax is a mean over the chosen experts; it is a sum.",
        "The gradients of a token's logits must add up to 0: do they?",
    ),
    Mistake(
        "probability_forgotten",
        "expert_ids, weights * (dweights - mean)",
        "expert_ids, dweights - mean",
        "the gradient of a chosen logit is not multiplied by its weight.",
        "The softmax's derivative has one factor more.",
    ),
    Mistake(
        "to_other_experts",
        "xp.put_along_axis(dlogits, expert_ids, weights",
        "xp.put_along_axis(dlogits, xp.sort(expert_ids, axis=-1), weights",
        "the gradients of a token's weights arrive at other experts than they came from.",
        "In which order are the experts of a token, and their weights?",
    ),
    Mistake(
        "token_mean",
        "    return dx, dw\n",
        "    return dx, dw / N\n",
        "the gradient of w is a mean over the tokens; it must be their sum.",
        "Two tokens that both want w to grow: the gradient doubles.",
    ),
)

SPEC = Spec(
    name="moe_router",
    module="minqwen.layers.moe_router",
    arguments=ARGUMENTS,
    axes={"x": "N D", "w": "E D", "expert_weights": "N K", "expert_ids": "N K"},
    outputs=("expert_weights", "expert_ids"),
    exact=("expert_ids",),
    run=run,
    pull=pull,
    probes=PROBES,
    forward=FORWARD,
    backward=BACKWARD,
    notes="expert_weights and expert_ids, both (N, K), the largest weight first, of equals the "
    "lower number first. norm_topk_prob=False keeps the probabilities of the softmax over all "
    "experts, True divides the K of a token by their sum.",
    ties="of equally likely experts ours takes the lower number first",
)
