"""The router z-loss: how it is called, tried, and got wrong."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import numpy as np

from ...backend import Array
from ..spec import Arguments, Mistake, Probe, Spec
from .moe_router import GLOBAL_MAX, NO_MAX


def run(m: ModuleType, a: Arguments) -> tuple[Array, ...]:
    """Compute the loss with a copy of layers/router_z_loss.py."""
    return (m.router_z_loss_forward(a["router_logits"], a["real"])[0],)


def pull(m: ModuleType, a: Arguments, dy: tuple[Array, ...]) -> dict[str, Array]:
    """Compute the gradient of the logits with a copy of layers/router_z_loss.py."""
    _, cache = m.router_z_loss_forward(a["router_logits"], a["real"])
    return {"router_logits": m.router_z_loss_backward(np.asarray(dy[0]), cache)}


def inputs(
    rng: np.random.Generator, N: int, E: int, padding: Sequence[int] = (), size: float = 1.0
) -> Arguments:
    """Return logits, and which tokens are padding."""
    logits = size * rng.standard_normal((N, E))
    return {"router_logits": logits, "real": ~np.isin(np.arange(N), padding)}


def far_apart(rng: np.random.Generator) -> Arguments:
    """Return logits near 800, 0 and -800; whole numbers, so that no rounding enters."""
    a = inputs(rng, 5, 7, [3])
    order = np.stack([rng.permutation(7) for _ in range(5)])
    a["router_logits"] = order + np.array([0.0, 800.0, -800.0, 40.0, 96.0])[:, None]
    return a


def large(rng: np.random.Generator) -> Arguments:
    """Return logits near 800; whole numbers too."""
    a = inputs(rng, 3, 5)
    a["router_logits"] = 800.0 + np.stack([rng.permutation(5) for _ in range(3)])
    return a


def zeros(rng: np.random.Generator) -> Arguments:
    """Return logits that are all zero."""
    return inputs(rng, 3, 5, [1], size=0.0)


PROBES = (
    Probe("ordinary", lambda rng: inputs(rng, 11, 7), "7 experts, no padding", hard=False),
    Probe(
        "padding",
        lambda rng: inputs(rng, 13, 5, [0, 4, 5], size=2.0),
        "3 of 13 tokens are padding",
    ),
    Probe("one token", lambda rng: inputs(rng, 1, 5), "a single token"),
    Probe("one expert", lambda rng: inputs(rng, 5, 1, [2]), "a router with nothing to choose"),
    Probe(
        "zeros",
        zeros,
        "logits of zero: the loss is ln(E) squared",
        gradient=False,  # for some mistakes it is zero, or rounding
    ),
    Probe(
        "far apart",
        far_apart,
        "logits near 800, 0 and -800, each token for itself",
        gradient=False,  # exp(z - lse), as in torch, has an error of 800 roundings
    ),
    Probe("large", large, "logits near 800", gradient=False),
    Probe(
        "no real token",
        lambda rng: inputs(rng, 3, 5, [0, 1, 2]),
        "nothing but padding: the loss is 0",
        gradient=False,
    ),
)

_LOSS = "loss = (lse * lse).sum() / tokens"
_MASK = "    probs, lse = (xp.where(real[:, None], x, 0) for x in (probs, lse))\n"
_SOFTMAX = "probs, lse = softmax(router_logits)"
FORWARD = (
    Mistake(
        "not_squared",
        _LOSS,
        "loss = lse.sum() / tokens",
        "the logarithm is not squared.",
        "Logits far below 0 are as bad as those far above: does the loss say so?",
    ),
    Mistake(
        "absolute",
        _LOSS,
        "loss = xp.abs(lse).sum() / tokens",
        "the absolute value is taken for the square.",
        "Double all logits: by how much must the loss grow, about?",
    ),
    Mistake(
        "square_of_mean",
        _LOSS,
        "loss = (lse.sum() / tokens) ** 2",
        "the mean is squared; each token's logarithm is squared first.",
        "Two tokens with 3 and -3: is the loss 0?",
    ),
    Mistake(
        "sum",
        _LOSS,
        "loss = (lse * lse).sum()",
        "the squares are summed over the tokens, not averaged.",
        "Take every token twice: the loss must stay as it is.",
    ),
    Mistake(
        "half",
        _LOSS,
        "loss = 0.5 * (lse * lse).sum() / tokens",
        "there is a factor 1/2 in front.",
        "Zeros for two experts: the loss must be ln(2) squared.",
        "convention",
    ),
    Mistake(
        "coefficient_inside",
        _LOSS,
        "loss = 0.001 * (lse * lse).sum() / tokens",
        "a coefficient of 0.001 is in the loss already; here it comes later.",
        "Zeros for two experts: the loss must be ln(2) squared.",
        "convention",
    ),
    Mistake(
        "mean_of_exponentials",
        _SOFTMAX,
        f"{_SOFTMAX}\n    lse = lse - xp.log(float(router_logits.shape[1]))",
        "the exponentials are averaged over the experts, not summed.",
        "Zeros for two experts: the loss must be ln(2) squared.",
    ),
    Mistake(
        "max_for_lse",
        _SOFTMAX,
        "probs, lse = softmax(router_logits)[0], router_logits.max(axis=-1, keepdims=True)",
        "the largest logit is taken for the log of the sum of exponentials.",
        "Zeros for two experts: the loss must be ln(2) squared.",
    ),
    Mistake(
        "max_lost",
        "peak + xp.log(total)",
        "xp.log(total)",
        "the largest logit is taken out before the exponential, but not added again to the "
        "logarithm.",
        "Add 1 to all logits: the log of the sum must grow by 1.",
        module="minqwen.layers.moe_router",
    ),
    Mistake(
        "log2",
        _LOSS,
        "loss = (lse * lse).sum() / tokens / xp.log(2.0) ** 2",
        "the logarithm has base 2; it must be the natural one.",
        "Zeros for two experts: the loss must be ln(2) squared.",
    ),
    Mistake(
        "squares_of_logits",
        _LOSS,
        "loss = (router_logits * router_logits * real[:, None]).sum() / tokens",
        "the logits themselves are squared and summed.",
        "Raise one logit that is already far above the rest: the others hardly matter.",
    ),
    Mistake(
        "mean_of_squared_logits",
        _LOSS,
        "loss = (router_logits * router_logits * real[:, None]).mean(axis=-1).sum() / tokens",
        "the logits themselves are squared and averaged.",
        "Raise one logit that is already far above the rest: the others hardly matter.",
    ),
    Mistake(
        "of_probabilities",
        _SOFTMAX,
        "probs, lse = softmax(softmax(router_logits)[0])",
        "the log of the sum is taken over the exponentials of probabilities; it must be over those "
        "of the logits.",
        "Add 1 to all logits: the loss must change.",
    ),
    Mistake(
        "over_tokens",
        f"    {_SOFTMAX}\n{_MASK}",
        "    probs, lse = softmax(router_logits)\n"
        "    lse = softmax(xp.where(real[:, None], router_logits, -xp.inf).T)[1]\n"
        "    lse = xp.nan_to_num(lse, nan=-xp.inf)  # without a token: the log of 0\n"
        "    tokens = tokens * 0 + len(lse)\n",
        "the sum of exponentials runs over the tokens; it must run over the experts of a token.",
        "Change one token: by how much may the part of another change?",
    ),
    Mistake(
        "all_tokens",
        _LOSS,
        "loss = (lse * lse).sum() / len(lse)",
        "padding is left out of the sum, but the sum is divided by the number of all tokens.",
        "Add padding: the loss must stay as it is.",
    ),
    Mistake(
        "padding_in_sum",
        _MASK,
        "",
        "padding is added to the sum, which is divided by the number of real tokens.",
        "Change the logits of a padding token: the loss must stay as it is.",
    ),
    Mistake(
        "real_ignored",
        "real_tokens(real, router_logits)",
        "real_tokens(None, router_logits)",
        "padding counts like any token.",
        "Change the logits of a padding token: the loss must stay as it is.",
    ),
    Mistake(
        "no_tokens_nan",
        _LOSS,
        "loss = (lse * lse).sum() / real.sum()",
        "with nothing but padding, 0 is divided by 0.",
        "A batch may hold no real token: what should it add to the loss?",
        "numeric",
    ),
    NO_MAX,
    GLOBAL_MAX,
)

_DZ = "dlogits = probs * (2 * lse * (dloss / tokens).astype(lse.dtype))"
BACKWARD = (
    Mistake(
        "no_2",
        "2 * lse * (dloss",
        "lse * (dloss",
        "the factor 2 of the square's derivative is missing.",
        "What is the derivative of a square?",
    ),
    Mistake(
        "square_forgotten",
        _DZ,
        "dlogits = probs * (dloss / tokens)",
        "the gradient is that of the logarithm; the square around it is forgotten.",
        "Logits far from 0 must be pulled more strongly.",
    ),
    Mistake(
        "softmax_forgotten",
        _DZ,
        "dlogits = 2 * lse * (dloss / tokens) + 0 * probs",
        "all logits of a token get the same gradient; each must get its share of the exponentials.",
        "What is the derivative of log sum exp?",
    ),
    Mistake(
        "not_divided",
        "(dloss / tokens)",
        "(dloss + 0 * tokens)",
        "the gradient is not divided by the number of tokens.",
        "Take every token twice: the gradient of each must be halved.",
    ),
    Mistake(
        "all_tokens",
        "(dloss / tokens)",
        "(dloss / (len(lse) + 0 * tokens))",
        "the gradient is divided by the number of all tokens; padding does not count.",
        "Add padding: the gradient of the real tokens must stay as it is.",
    ),
    Mistake(
        "padding_too",
        "return loss, RouterZLossCache(probs, lse,",
        "return loss, RouterZLossCache(*softmax(router_logits),",
        "padding gets a gradient.",
        "Does the loss change with the logits of a padding token?",
    ),
    Mistake(
        "dloss_ignored",
        "(dloss / tokens)",
        "(1 / tokens)",
        "the gradient that arrives from above is taken for 1.",
        "The loss is multiplied by a coefficient later: where does it enter?",
    ),
    Mistake(
        "coupled",
        _DZ,
        "dp = 2 * lse * (dloss / tokens) * probs\n"
        "    dlogits = probs * (dp - (probs * dp).sum(axis=-1, keepdims=True))",
        "the gradient goes through the softmax's derivative once more; the log of the sum has "
        "given it already.",
        "The gradients of a token's logits add up to 2 lse / M here, not to 0.",
    ),
)

SPEC = Spec(
    name="router_z_loss",
    module="minqwen.layers.router_z_loss",
    arguments=("router_logits", "real"),
    axes={"router_logits": "N E", "real": "N", "loss": ""},
    outputs=("loss",),
    run=run,
    pull=pull,
    probes=PROBES,
    forward=FORWARD,
    backward=BACKWARD,
    notes="One number, the mean over the real tokens. real is True for a real token and False for "
    "padding; without a real token the loss is 0.",
)
