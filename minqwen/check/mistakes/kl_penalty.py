"""The rewards of PPO: how they are asked for, tried, and got wrong."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import numpy as np

from ...backend import Array
from ..spec import Arguments, Mistake, Probe, Spec


def run(m: ModuleType, a: Arguments) -> tuple[Array, ...]:
    """Compute the rewards with a copy of alignment/kl_penalty.py."""
    arrays = (a[name] for name in ("logprobs", "ref_logprobs", "mask", "scores"))
    return (m.kl_penalty(*arrays, kl_coef=a["kl_coef"]),)


def spans(T: int, answers: Sequence[tuple[int, int]]) -> Array:
    """Return a mask (B, T) of answers from a first place up to, without it, a last one.

    >>> spans(3, [(0, 2), (1, 3)])
    array([[ True,  True, False],
           [False,  True,  True]])
    """
    first, stop = np.array(answers).T[:, :, None]
    mask: Array = (first <= np.arange(T)) & (np.arange(T) < stop)
    return mask


def inputs(
    rng: np.random.Generator,
    T: int,
    *answers: tuple[int, int],
    kl_coef: float = 0.04,
    distance: float = 1.0,
) -> Arguments:
    """Return log-probabilities of two policies and scores; padding has numbers too."""
    B = len(answers)
    ref = -rng.uniform(0.5, 3.0, (B, T))
    return {
        "logprobs": ref + distance * rng.uniform(-0.4, 0.5, (B, T)),
        "ref_logprobs": ref,
        "mask": spans(T, answers),
        "scores": rng.uniform(0.3, 2.0, B) * rng.choice([-1, 1], B),
        "kl_coef": kl_coef,
    }


PROBES = (
    Probe(
        "ordinary",
        lambda rng: inputs(rng, 7, (0, 7), (0, 7), (0, 7)),
        "three answers of the same length",
        hard=False,
    ),
    Probe(
        "padding",
        lambda rng: inputs(rng, 11, (0, 4), (0, 11), (0, 7), (0, 2), (0, 5)),
        "five answers of different length, padding on the right",
        hard=False,
    ),
    Probe(
        "other coefficient",
        lambda rng: inputs(rng, 5, (0, 3), (0, 5), kl_coef=1.7),
        "a coefficient of 1.7",
    ),
    Probe(
        "padding on the left",
        lambda rng: inputs(rng, 7, (3, 7), (0, 7), (5, 7), kl_coef=0.3),
        "padding on the left: every answer ends in the last column",
    ),
    Probe(
        "far apart",
        lambda rng: inputs(rng, 5, (0, 5), (0, 4), (0, 2), distance=20.0, kl_coef=0.1),
        "policies that are far apart",
    ),
    Probe(
        "equal policies",
        lambda rng: inputs(rng, 7, (0, 3), (0, 6), distance=0.0),
        "equal policies: the score alone is left",
    ),
    Probe(
        "one token",
        lambda rng: inputs(rng, 5, (0, 1), (0, 3), kl_coef=0.2),
        "an answer of a single token",
    ),
)

_KL = "kl = kl_estimate(new - ref, estimator)  # 0 for padding"
_LAST = "last = mask & (left == 1)"
_SCORE = "score = xp.where(last, scores[:, None], 0)"
_REWARDS = "(score - float(kl_coef) * kl)"


def _kl(value: str) -> str:
    return f"kl = {value}"


FORWARD = (
    Mistake(
        "sign",
        _REWARDS,
        "(score + float(kl_coef) * kl)",
        "the reward rises when the policy leaves the reference: the KL term has the wrong sign.",
        "A token that the policy likes more than the reference does: is it paid or charged?",
    ),
    Mistake(
        "swapped",
        _KL,
        _kl("kl_estimate(ref - new, estimator)"),
        "the two log-probabilities are exchanged: leaving the reference is paid.",
        "A token that the policy likes more than the reference does: is it paid or charged?",
        same_as="sign",
    ),
    Mistake(
        "k3",
        _KL,
        _kl('kl_estimate(new - ref, "k3")'),
        "the estimator is exp(-d) - 1 + d, of low variance; here it is the plain difference d.",
        "Can the price of a token be negative, that is, a reward?",
        "convention",
    ),
    Mistake(
        "k2",
        _KL,
        _kl('kl_estimate(new - ref, "k2")'),
        "the estimator is half of the squared difference; here it is the plain difference.",
        "Can the price of a token be negative, that is, a reward?",
        "convention",
    ),
    Mistake(
        "absolute",
        _KL,
        _kl("abs(new - ref)"),
        "the absolute difference is charged; the signs must be able to cancel over the tokens.",
        "Can the price of a token be negative, that is, a reward?",
    ),
    Mistake(
        "cut_at_0",
        _KL,
        _kl("xp.maximum(new - ref, 0)"),
        "negative differences are cut off at 0; the estimate is then too large on average.",
        "Can the price of a token be negative, that is, a reward?",
    ),
    Mistake(
        "of_probabilities",
        _KL,
        _kl("mask * (xp.exp(new) - xp.exp(ref))"),
        "probabilities are subtracted; it must be their logarithms.",
        "In which unit is the price of a token: is it the logarithm of a ratio?",
    ),
    Mistake(
        "ratio",
        _KL,
        _kl("mask * xp.exp(new - ref)"),
        "the ratio of the probabilities is charged; it must be its logarithm.",
        "With two equal policies there is nothing to pay.",
    ),
    Mistake(
        "weighted",
        _KL,
        _kl("xp.exp(new) * (new - ref)"),
        "the difference is weighted with the probability of the token once more: sampling has done "
        "that already.",
        "How often does a token come up whose probability is 0.1?",
    ),
    Mistake(
        "no_coefficient",
        _REWARDS,
        "(score - kl)",
        "the KL term is not multiplied by the coefficient.",
        "Which numbers depend on the argument kl_coef?",
    ),
    Mistake(
        "no_kl",
        _REWARDS,
        "(score - 0 * kl)",
        "the KL term is missing: nothing holds the policy near the reference.",
        "Which numbers depend on the reference?",
    ),
    Mistake(
        "coefficient_on_score",
        _REWARDS,
        "(float(kl_coef) * (score - kl))",
        "the score is multiplied by the KL coefficient too.",
        "Double the coefficient: what may change at the last token?",
    ),
    Mistake(
        "score_all",
        _SCORE,
        "score = xp.where(mask, scores[:, None], 0)",
        "the score is given to every token of the answer; it is given once.",
        "With equal policies, what do the rewards of an answer add up to?",
    ),
    Mistake(
        "score_shared",
        _SCORE,
        "score = xp.where(mask, scores[:, None], 0) / xp.maximum(left[:, :1], 1)",
        "the score is spread over the tokens in equal parts; it belongs to the last one.",
        "With equal policies, how many tokens are rewarded?",
    ),
    Mistake(
        "score_first",
        _LAST,
        "last = mask & (left == left[:, :1])",
        "the score is given to the first token; it belongs to the last one.",
        "When does one know how good an answer is?",
    ),
    Mistake(
        "score_at_end",
        _LAST,
        "last = xp.arange(mask.shape[1]) == xp.full_like(left, mask.shape[1] - 1)",
        "the score stands in the last column, which is padding in a short answer.",
        "Add a column of padding: where does the score go?",
    ),
    Mistake(
        "last_off",
        _LAST,
        "last = xp.roll(mask & (left == 1), -1, axis=1)",
        "the score is given one token too early.",
        "Which token is the last one of the answer: is the end token one of them?",
    ),
    Mistake(
        "score_after_end",
        _LAST,
        "last = mask & (left == 1)\n"
        "    last = xp.where(mask[:, -1:], last, xp.roll(last, 1, axis=1))",
        "the score stands one place after the last token where there is one, as in TRL; here it "
        "is added at the last token itself.",
        "Add a column of padding: may the score move?",
        "convention",
    ),
    Mistake(
        "count_minus_1",
        _LAST,
        "last = xp.arange(mask.shape[1]) == left[:, :1] - 1",
        "the place of the last token is taken to be their number minus 1, which is wrong with "
        "padding on the left.",
        "Which column holds the last token when padding comes first?",
        "convention",
    ),
    Mistake(
        "mask",
        _KL,
        _kl("logprobs - ref_logprobs"),
        "padding gets a reward: the KL term is not masked.",
        "What do the rewards in the padding add up to?",
    ),
    Mistake(
        "overwrites",
        _REWARDS,
        "xp.where(last, scores[:, None], -float(kl_coef) * kl)",
        "the score replaces the KL term of the last token; it must be added.",
        "Does the reward of the last token depend on the reference?",
    ),
    Mistake(
        "kl_summed",
        _KL,
        _kl("(new - ref).sum(axis=1, keepdims=True)\n")
        + "    kl = kl * (mask & (xp.cumsum(mask[:, ::-1], axis=1)[:, ::-1] == 1))",
        "the KL of the whole answer is charged at its last token; here each token pays for itself.",
        "Does a token in the middle have a reward?",
        "convention",
    ),
    Mistake(
        "kl_averaged",
        _KL,
        _kl("mask * (new - ref).sum(axis=1, keepdims=True) / mask.sum(axis=1, keepdims=True)"),
        "every token is charged with the mean of its answer; each must pay for itself.",
        "Do two tokens of an answer have the same reward?",
    ),
    Mistake(
        "per_token_coefficient",
        _REWARDS,
        "(score - float(kl_coef) * kl / xp.maximum(left[:, :1], 1))",
        "the KL term is divided by the length of the answer.",
        "A token is added at the end: what happens to the reward of the first?",
    ),
)

SPEC = Spec(
    name="kl_penalty",
    module="minqwen.alignment.kl_penalty",
    arguments=("logprobs", "ref_logprobs", "mask", "scores", "kl_coef"),
    axes={"logprobs": "B T", "ref_logprobs": "B T", "mask": "B T", "scores": "B", "rewards": "B T"},
    run=run,
    probes=PROBES,
    forward=FORWARD,
    outputs=("rewards",),
    notes="mask is True for a token of the answer, its end token included. The score is added to "
    "the reward of the last token, and padding is 0. The estimator is the plain difference (k1).",
)
