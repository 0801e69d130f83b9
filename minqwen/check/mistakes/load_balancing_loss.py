"""The load-balancing loss of a router: how it is called, tried, and got wrong."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import numpy as np

from ...backend import Array
from ..spec import Arguments, Mistake, Probe, Spec
from .moe_router import GLOBAL_MAX, NO_MAX


def run(m: ModuleType, a: Arguments) -> tuple[Array, ...]:
    """Compute the loss with a copy of layers/load_balancing_loss.py."""
    loss, _ = m.load_balancing_loss_forward(a["router_logits"], a["expert_ids"], a["real"])
    return (loss,)


def pull(m: ModuleType, a: Arguments, dy: tuple[Array, ...]) -> dict[str, Array]:
    """Compute the gradient of the logits with a copy of layers/load_balancing_loss.py."""
    _, cache = m.load_balancing_loss_forward(a["router_logits"], a["expert_ids"], a["real"])
    return {"router_logits": m.load_balancing_loss_backward(np.asarray(dy[0]), cache)}


def inputs(
    rng: np.random.Generator, N: int, E: int, K: int, padding: Sequence[int] = (), idle: int = 1
) -> Arguments:
    """Return logits, choices that leave the last experts idle, and which tokens are padding."""
    return {
        "router_logits": rng.standard_normal((N, E)),
        "expert_ids": np.stack([rng.permutation(E - idle)[:K] for _ in range(N)]),
        "real": ~np.isin(np.arange(N), padding),
    }


def collapsed(rng: np.random.Generator) -> Arguments:
    """Return tokens that all choose the same two experts, with a high probability."""
    a = inputs(rng, 7, 5, 2)
    a["expert_ids"] = np.tile([3, 1], (7, 1))
    a["router_logits"][:, [3, 1]] += [4.0, 3.0]
    return a


def far_apart(rng: np.random.Generator) -> Arguments:
    """Return logits near 800, 0 and -800; whole numbers, so that no rounding enters."""
    a = inputs(rng, 5, 7, 2, padding=[3])
    order = np.stack([rng.permutation(7) for _ in range(5)])
    a["router_logits"] = order + np.array([0.0, 800.0, -800.0, 40.0, 96.0])[:, None]
    return a


def large(rng: np.random.Generator) -> Arguments:
    """Return logits near 800; whole numbers too."""
    a = inputs(rng, 3, 5, 1)
    a["router_logits"] = 800.0 + np.stack([rng.permutation(5) for _ in range(3)])
    return a


PROBES = (
    Probe("ordinary", lambda rng: inputs(rng, 11, 7, 3), "3 of 7 experts, no padding", hard=False),
    Probe("one choice", lambda rng: inputs(rng, 13, 5, 1), "1 of 5 experts, no padding"),
    Probe(
        "padding",
        lambda rng: inputs(rng, 11, 7, 3, [0, 4, 5]),
        "3 of 11 tokens are padding, with choices of their own",
    ),
    Probe(
        "all experts",
        lambda rng: inputs(rng, 5, 3, 3, [4], idle=0),
        "every expert is chosen",
        gradient=False,  # f is even, so the gradient is zero, or rounding
    ),
    Probe("collapsed", collapsed, "all tokens choose the same experts"),
    Probe(
        "one real token",
        lambda rng: inputs(rng, 7, 5, 2, [0, 1, 2, 3, 5, 6]),
        "a single real token between padding",
    ),
    Probe("far apart", far_apart, "logits near 800, 0 and -800, each token for itself"),
    Probe("large", large, "logits near 800"),
    Probe(
        "no real token",
        lambda rng: inputs(rng, 3, 5, 2, [0, 1, 2]),
        "nothing but padding: the loss is 0",
        gradient=False,
    ),
)

_P = "P = column_sums(probs) / tokens"
_F = "count_choices(expert_ids, E, real)"
_BY = "tokens if f_sums_to_k else tokens * K"
_LOSS = "loss = E * (f * P).sum()"
_PROBS = "xp.where(real[:, None], softmax(router_logits)[0], 0)"
_REAL = "real, tokens = real_tokens(real, router_logits)"
_CHOSEN = "(expert_ids[:, :, None] == xp.arange(E)).any(axis=1)"
FORWARD = (
    Mistake(
        "no_E",
        _LOSS,
        "loss = (f * P).sum()",
        "the factor E, the number of experts, is missing.",
        "With all experts equally likely the loss must not depend on how many there are.",
    ),
    Mistake(
        "mean_of_products",
        _LOSS,
        "loss = (f * P).mean()",
        "the products are averaged over the experts; their sum is multiplied by E.",
        "With all experts equally likely the loss must not depend on how many there are.",
    ),
    Mistake(
        "f_sums_to_k",
        _BY,
        "tokens",
        "f is the share of the tokens that chose an expert, and sums to K, as in transformers; "
        "here it is the share of the choices, and sums to 1.",
        "What is the loss if all experts are equally likely: 1 or K?",
        "convention",
    ),
    Mistake(
        "sum_for_mean",
        _BY,
        "K",
        "the loss grows with the number of tokens: a count or a sum stands where a share or a mean "
        "belongs.",
        "Take every token twice: the loss must stay as it is.",
    ),
    Mistake(
        "P_for_f",
        _LOSS,
        "loss = E * (P * P).sum()",
        "the mean probability stands in both places; one of them is the share of the choices.",
        "Change the choices and keep the logits: the loss must change.",
    ),
    Mistake(
        "f_for_P",
        _LOSS,
        "loss = E * (f * f).sum()",
        "the share of the choices stands in both places; one of them is the mean probability.",
        "Counts have no gradient: what can a router learn from them alone?",
    ),
    Mistake(
        "P_of_logits",
        _PROBS,
        "xp.where(real[:, None], router_logits, 0)",
        "P is the mean of the logits; it must be the mean of the probabilities.",
        "Add 1 to all logits: the loss must stay as it is.",
    ),
    Mistake(
        "softmax_over_tokens",
        _PROBS,
        "xp.where(real[:, None], softmax(router_logits.T)[0].T, 0)",
        "the softmax runs over the tokens; it must run over the experts.",
        "What does P sum to?",
    ),
    Mistake(
        "sigmoid",
        _PROBS,
        "xp.where(real[:, None], 1 / (1 + xp.exp(-router_logits)), 0)",
        "each expert has a sigmoid of its own; here the experts share a softmax.",
        "Add 1 to all logits: the loss must stay as it is.",
        "convention",
    ),
    Mistake(
        "first_choice_only",
        _F,
        "(K * count_choices(expert_ids[:, :1], E, real))",
        "only the first choice of each token is counted.",
        "With K = 1 the result is right; what does f count with more?",
    ),
    Mistake(
        "P_of_chosen",
        _P,
        f"P = column_sums(probs * {_CHOSEN}) / tokens",
        "P holds the probabilities of chosen experts only; it is the mean over all tokens.",
        "An expert that a token did not choose has a probability too.",
    ),
    Mistake(
        "P_of_weights",
        _P,
        f"chosen = probs * {_CHOSEN}\n"
        "    P = column_sums(chosen / (chosen.sum(axis=-1, keepdims=True) + (real == 0)[:, None])) "
        "/ tokens",
        "P is the mean of the experts' weights, made to sum to 1; it is the mean of the "
        "probabilities over all experts.",
        "An expert that a token did not choose has a probability too.",
    ),
    Mistake(
        "real_ignored",
        _REAL,
        "real, tokens = real_tokens(None, router_logits)",
        "padding counts like any token.",
        "Change the logits of a padding token: the loss must stay as it is.",
    ),
    Mistake(
        "padding_in_f",
        "xp.repeat(real, K)",
        "xp.repeat(xp.ones_like(real), K)",
        "the choices of padding are counted in f.",
        "Change the choices of a padding token: the loss must stay as it is.",
    ),
    Mistake(
        "padding_in_P",
        _PROBS,
        "softmax(router_logits)[0]",
        "the probabilities of padding are added to P.",
        "Change the logits of a padding token: the loss must stay as it is.",
    ),
    Mistake(
        "all_tokens",
        "xp.maximum(real.sum(), 1)",
        "xp.maximum(len(real), 1)",
        "the sums leave padding out, but are divided by the number of all tokens.",
        "Add padding: the loss must stay as it is.",
    ),
    Mistake(
        "P_over_all_tokens",
        _P,
        "P = column_sums(probs) / len(probs)",
        "P leaves padding out of its sum, but is divided by the number of all tokens.",
        "Add padding: the loss must stay as it is.",
    ),
    Mistake(
        "coefficient_inside",
        _LOSS,
        "loss = 0.001 * E * (f * P).sum()",
        "the coefficient 0.001 of the config is in the loss already; here it comes later.",
        "What is the loss if all experts are equally likely?",
        "convention",
    ),
    Mistake(
        "minus_one",
        _LOSS,
        "loss = E * (f * P).sum() - 1",
        "the value of a balanced router, 1, is taken away.",
        "What is the loss if all experts are equally likely?",
        "convention",
    ),
    Mistake(
        "no_tokens_nan",
        "xp.maximum(real.sum(), 1)",
        "real.sum()",
        "with nothing but padding, 0 is divided by 0.",
        "A batch may hold no real token: what should it add to the loss?",
        "numeric",
    ),
    NO_MAX,
    GLOBAL_MAX,
)

_DP = "dp = f * len(f) * (dloss / tokens).astype(f.dtype)"
_COUPLED = "probs * (dp - (probs * dp).sum(axis=-1, keepdims=True))"
BACKWARD = (
    Mistake(
        "f_differentiated",
        "dp = f * len(f)",
        "dp = column_sums(probs) / tokens * len(f)",
        "the gradient is taken through f, and P is held constant; it is the other way round.",
        "Which of the two is made of counts?",
    ),
    Mistake(
        "no_E",
        "dp = f * len(f)",
        "dp = f",
        "the factor E is missing on the way back.",
        "Compare with the formula of the loss, factor by factor.",
    ),
    Mistake(
        "not_divided",
        "(dloss / tokens)",
        "np.asarray(dloss)",
        "the gradient is not divided by the number of tokens.",
        "Take every token twice: the gradient of each must be halved.",
    ),
    Mistake(
        "all_tokens",
        "(dloss / tokens)",
        "np.asarray(dloss / len(probs))",
        "the gradient is divided by the number of all tokens; padding does not count.",
        "Add padding: the gradient of the real tokens must stay as it is.",
    ),
    Mistake(
        "coupling_dropped",
        _COUPLED,
        "probs * dp",
        "the gradient stops at each expert's own probability; the softmax couples the logits.",
        "The gradients of a token's logits must add up to 0: do they?",
    ),
    Mistake(
        "softmax_forgotten",
        f"dlogits = {_COUPLED}",
        "dlogits = dp * (probs.sum(axis=-1, keepdims=True) > 0)",
        "the gradient of the probabilities is given for that of the logits.",
        "The gradients of a token's logits must add up to 0: do they?",
    ),
    Mistake(
        "idle_forgotten",
        "dlogits = probs * (dp -",
        "dlogits = (f > 0) * probs * (dp -",
        "an expert that nobody chose gets no gradient; it must be pulled up.",
        "The gradients of a token's logits must add up to 0: do they?",
    ),
    Mistake(
        "padding_too",
        "LoadBalancingLossCache(probs, f,",
        "LoadBalancingLossCache(softmax(router_logits)[0], f,",
        "padding gets a gradient.",
        "Does the loss change with the logits of a padding token?",
    ),
    Mistake(
        "dloss_ignored",
        "(dloss / tokens)",
        "np.asarray(1 / tokens)",
        "the gradient that arrives from above is taken for 1.",
        "The loss is multiplied by a coefficient later: where does it enter?",
    ),
)

SPEC = Spec(
    name="load_balancing_loss",
    module="minqwen.layers.load_balancing_loss",
    arguments=("router_logits", "expert_ids", "real"),
    axes={"router_logits": "N E", "expert_ids": "N K", "real": "N", "loss": ""},
    outputs=("loss",),
    run=run,
    pull=pull,
    probes=PROBES,
    forward=FORWARD,
    backward=BACKWARD,
    notes="One number. f, the share of the choices that fell on each expert, sums to 1. real is "
    "True for a real token and False for padding; without a real token the loss is 0.",
)
