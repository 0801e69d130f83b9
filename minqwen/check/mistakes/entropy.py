"""The entropy of the policy: how it is called, tried, and got wrong."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from ...backend import Array
from ..spec import Arguments, Mistake, Probe, Spec


def run(m: ModuleType, a: Arguments) -> tuple[Array, ...]:
    """Compute the entropy of each position with a copy of alignment/entropy.py."""
    return (m.entropy_forward(a["logits"])[0],)


def pull(m: ModuleType, a: Arguments, dy: tuple[Array, ...]) -> dict[str, Array]:
    """Compute the gradient of the logits with a copy of alignment/entropy.py."""
    _, cache = m.entropy_forward(a["logits"])
    return {"logits": m.entropy_backward(dy[0], cache)}


def inputs(rng: np.random.Generator, *shape: int, size: float = 1.5) -> Arguments:
    """Return logits."""
    return {"logits": size * rng.standard_normal(shape)}


def large(rng: np.random.Generator) -> Arguments:
    """Return logits of which one is 1000, where exp overflows, and the others 0 or below."""
    logits = -rng.integers(0, 50, (2, 3, 7)).astype(np.float64)
    logits[..., 2] = 1000.0
    return {"logits": logits}


def vanishing(rng: np.random.Generator) -> Arguments:
    """Return logits of 0, and of -1000, whose probability is 0."""
    logits = np.zeros((2, 3, 8))
    for row in logits.reshape(-1, 8):
        row[rng.permutation(8)[: rng.integers(2, 6)]] = -1000.0
    return {"logits": logits}


PROBES = (
    Probe("ordinary", lambda rng: inputs(rng, 2, 5, 7), "seven tokens to choose from", hard=False),
    Probe(
        "sharp",
        lambda rng: inputs(rng, 3, 4, 11, size=4.0),
        "logits that are far apart: the choice is nearly made",
        hard=False,
    ),
    Probe(
        "moved",
        lambda rng: {"logits": inputs(rng, 3, 2, 5)["logits"] + 6.0},
        "logits around 6: what is added to all of a position must not matter",
    ),
    Probe(
        "uniform",
        lambda rng: inputs(rng, 2, 3, 5, size=0.0),
        "logits of zero: the entropy is ln V",
        gradient=False,  # it is zero, or rounding
    ),
    Probe("square", lambda rng: inputs(rng, 5, 5, 5), "all sizes equal: axes can be mixed up"),
    Probe("one axis", lambda rng: inputs(rng, 3, 13), "no batch axis"),
    Probe(
        "one choice",
        lambda rng: inputs(rng, 2, 3, 1),
        "a vocabulary of one token: nothing is undecided",
        gradient=False,
    ),
    Probe("large", large, "one logit is 1000, where exp overflows", gradient=False),
    Probe(
        "vanishing",
        vanishing,
        "logits of -1000, whose probability is 0",
        gradient=False,
    ),
)

_H = "H[rows] = -(p * log_p).sum(axis=-1, keepdims=True)"
_SOFTMAX = "lse[rows] = log_sum_exp(z[rows])\n        log_p, p = log_softmax(z[rows], lse[rows])"
_XP = "xp = array_module(z)\n        "


def _entropy(value: str) -> str:
    return f"H[rows] = {value}"


FORWARD = (
    Mistake(
        "sign",
        _H,
        _entropy("(p * log_p).sum(axis=-1, keepdims=True)"),
        "the minus is missing: an entropy is never negative.",
        "Two equally likely tokens: the entropy is ln 2.",
    ),
    Mistake(
        "log2",
        _H,
        _entropy("-(p * log_p).sum(axis=-1, keepdims=True) / np.log(2.0)"),
        "the logarithm has base 2; it must be the natural one.",
        "Two equally likely tokens: the entropy is ln 2.",
        "convention",
    ),
    Mistake(
        "over_log_vocabulary",
        _H,
        _entropy("-(p * log_p).sum(axis=-1, keepdims=True) / max(np.log(p.shape[-1]), 1e-15)"),
        "it is divided by ln V, so that it lies between 0 and 1; here it is in nats.",
        "Two equally likely tokens: the entropy is ln 2.",
        "convention",
    ),
    Mistake(
        "mean_over_vocabulary",
        _H,
        _entropy("-(p * log_p).mean(axis=-1, keepdims=True)"),
        "the terms are averaged over the vocabulary; they must be summed.",
        "Two equally likely tokens: the entropy is ln 2.",
    ),
    Mistake(
        "perplexity",
        _H,
        _entropy("array_module(z).exp(-(p * log_p).sum(axis=-1, keepdims=True))"),
        "the exponential of the entropy is returned, the perplexity.",
        "A token that is certain: what is the entropy?",
    ),
    Mistake(
        "not_weighted",
        _H,
        _entropy("-log_p.sum(axis=-1, keepdims=True)"),
        "the surprises are summed without their probabilities.",
        "How often does a token come up whose probability is 0.1?",
    ),
    Mistake(
        "surprise_averaged",
        _H,
        _entropy("-log_p.mean(axis=-1, keepdims=True)"),
        "the surprises are averaged over the vocabulary; each must have its probability as weight.",
        "How often does a token come up whose probability is 0.1?",
    ),
    Mistake(
        "of_logits",
        _H,
        _entropy("-(p * widen(z[rows])).sum(axis=-1, keepdims=True)"),
        "the logits are taken for log-probabilities: the log of the sum is not subtracted.",
        "Add 1 to all logits: the entropy must stay as it is.",
    ),
    Mistake(
        "no_softmax",
        _H,
        _entropy("-(widen(z[rows]) * log_p).sum(axis=-1, keepdims=True)"),
        "the logits are taken for probabilities.",
        "Add 1 to all logits: the entropy must stay as it is.",
    ),
    Mistake(
        "softmax_twice",
        _H,
        "log_p, p = log_softmax(p, log_sum_exp(p))\n        " + _H,
        "the softmax is applied twice: to the probabilities once more.",
        "A token that is certain: what is the entropy?",
    ),
    Mistake(
        "surprise_of_the_best",
        _H,
        _entropy("-log_p.max(axis=-1, keepdims=True)"),
        "the surprise of the likeliest token is returned; the entropy is a mean over all tokens.",
        "Does it matter how the rest of the probability is spread?",
    ),
    Mistake(
        "gini",
        _H,
        _entropy("1 - (p * p).sum(axis=-1, keepdims=True)"),
        "it is 1 minus the sum of the squared probabilities (Gini), which has no logarithm.",
        "Two equally likely tokens: the entropy is ln 2.",
    ),
    Mistake(
        "collision",
        _H,
        _entropy("-array_module(z).log((p * p).sum(axis=-1, keepdims=True))"),
        "it is minus the log of the sum of the squares (collision entropy), a lower bound.",
        "Which is taken first, the logarithm or the mean?",
    ),
    Mistake(
        "variance_of_surprise",
        _H,
        "log_p = log_p - (p * log_p).sum(axis=-1, keepdims=True)\n"
        "        H[rows] = (p * log_p * log_p).sum(axis=-1, keepdims=True)",
        "the variance of the surprise is returned; the entropy is its mean.",
        "Two equally likely tokens: the entropy is ln 2.",
    ),
    Mistake(
        "log_sum_exp",
        _H,
        _entropy("lse[rows] + 0 * p[:, :1]"),
        "the log of the sum of exponentials is returned; the mean of the logits must be "
        "subtracted from it, weighted with the probabilities.",
        "Add 1 to all logits: the entropy must stay as it is.",
    ),
    Mistake(
        "minus_plain_mean",
        _H,
        _entropy("lse[rows] - (p * 0 + widen(z[rows]).max(axis=-1, keepdims=True))[:, :1]"),
        "the largest logit is subtracted from the log of the sum; it must be the mean of the "
        "logits, weighted with the probabilities.",
        "Does it matter how the rest of the probability is spread?",
        same_as="surprise_of_the_best",
    ),
    Mistake(
        "other_axis",
        _SOFTMAX,
        "lse[rows] = log_sum_exp(z[rows])\n"
        "        turned = widen(logits).swapaxes(-1, -2)\n"
        "        flat = turned.reshape(-1, turned.shape[-1])\n"
        "        log_p, p = (\n"
        "            x.reshape(turned.shape).swapaxes(-1, -2).reshape(z.shape)[rows]\n"
        "            for x in log_softmax(flat, log_sum_exp(flat))\n"
        "        )",
        "the softmax runs over the positions; it must run over the vocabulary.",
        "Change one position: may the entropy of another change?",
    ),
    Mistake(
        "eps_in_log",
        _H,
        _entropy("-(p * array_module(z).log(p + 1e-8)).sum(axis=-1, keepdims=True)"),
        "a small number is added inside the logarithm: the entropy is a little too small.",
        "A token that is certain: is the entropy exactly 0?",
        "numeric",
    ),
    Mistake(
        "log_of_p",
        _H,
        _entropy("-(p * array_module(z).log(p)).sum(axis=-1, keepdims=True)"),
        "the logarithm is taken of a probability that may be 0: 0 times infinity is NaN.",
        "What if a logit lies 1000 below the others?",
        "numeric",
    ),
    Mistake(
        "no_max",
        _H,
        f"{_XP}p = xp.exp(widen(z[rows]))\n"
        "        total = p.sum(axis=-1, keepdims=True)\n"
        "        log_p, p = widen(z[rows]) - xp.log(total), p / total\n"
        f"        {_H}",
        "exp overflows for large logits: the largest one must be taken out first.",
        "What if a logit is 1000?",
        "numeric",
    ),
)

_DZ = "dz[rows] = -p * (log_p + H[rows]) * dH[rows]"


def _dz(value: str) -> str:
    return f"dz[rows] = {value}"


BACKWARD = (
    Mistake(
        "no_entropy",
        _DZ,
        _dz("-p * log_p * dH[rows]"),
        "the entropy is missing beside log p.",
        "Add 1 to all logits: what do the gradients of a position add up to?",
    ),
    Mistake(
        "plus_1",
        _DZ,
        _dz("-p * (log_p + 1) * dH[rows]"),
        "the derivative of p log p is taken for each token alone; p depends on all logits.",
        "Add 1 to all logits: what do the gradients of a position add up to?",
    ),
    Mistake(
        "with_respect_to_p",
        _DZ,
        _dz("-(log_p + 1) * dH[rows]"),
        "the gradient is that of the probabilities; the softmax is forgotten.",
        "Add 1 to all logits: what do the gradients of a position add up to?",
    ),
    Mistake(
        "entropy_subtracted",
        _DZ,
        _dz("-p * (log_p - H[rows]) * dH[rows]"),
        "the entropy has the wrong sign beside log p.",
        "Add 1 to all logits: what do the gradients of a position add up to?",
    ),
    Mistake(
        "sign",
        _DZ,
        _dz("p * (log_p + H[rows]) * dH[rows]"),
        "the sign is wrong: the gradient makes the choice sharper.",
        "The logit of the likeliest token grows: does the entropy rise or fall?",
    ),
    Mistake(
        "no_p",
        _DZ,
        _dz("-(log_p + H[rows]) * dH[rows]"),
        "the probability in front is missing.",
        "A token that is hardly possible: how much does its logit matter?",
    ),
    Mistake(
        "logits_for_log_p",
        _DZ,
        _dz("-p * (widen(z[rows]) + H[rows]) * dH[rows]"),
        "the logits are taken for log-probabilities.",
        "Add 1 to all logits: what must happen to the gradient?",
    ),
    Mistake(
        "dentropy_ignored",
        _DZ,
        _dz("-p * (log_p + H[rows]) + 0 * dH[rows]"),
        "the gradient that arrives from above is taken for 1.",
        "Positions may have different weights later: where do they enter?",
    ),
    Mistake(
        "softmax_again",
        _DZ,
        "dz[rows] = -p * (log_p + H[rows]) * dH[rows]\n"
        "        dz[rows] = p * (dz[rows] - (p * dz[rows]).sum(axis=-1, keepdims=True))",
        "the gradient goes through the derivative of the softmax once more.",
        "How many times does the softmax stand in the forward?",
    ),
    Mistake(
        "squared_p",
        _DZ,
        _dz("-p * p * (log_p + H[rows]) * dH[rows]"),
        "the probability stands in front twice.",
        "Add 1 to all logits: what do the gradients of a position add up to?",
    ),
    Mistake(
        "averaged",
        _DZ,
        _dz("-p * (log_p + H[rows]) * dH[rows] / len(H)"),
        "the gradient is divided by the number of positions; each has an entropy of its own.",
        "Take every position twice: may the gradients change?",
    ),
)

SPEC = Spec(
    name="entropy",
    module="minqwen.alignment.entropy",
    arguments=("logits",),
    axes={"logits": "... V", "entropy": "..."},
    outputs=("entropy",),
    run=run,
    pull=pull,
    probes=PROBES,
    forward=FORWARD,
    backward=BACKWARD,
    notes="One number for each position, in nats; nothing is averaged.",
)
