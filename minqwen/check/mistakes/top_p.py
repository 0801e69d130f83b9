"""Top-p, the smallest set of best tokens that reaches a probability: how it is called, got wrong.

Our function, keep_top_p, takes probabilities and sets the unlikely ones to zero; what is asked for
is the whole way, from logits to probabilities that sum to 1 again.
"""

from __future__ import annotations

from types import ModuleType

import numpy as np

from ...backend import Array
from ...layers.moe_router import softmax
from ..spec import Arguments, Mistake, Probe, Spec


def run(m: ModuleType, a: Arguments) -> tuple[Array, ...]:
    """Compute the probabilities with a copy of model/sampling.py."""
    # at p = 1 keep_top_p returns at once; other people's code goes on, and so do its mistakes
    p = min(a["p"], np.nextafter(1.0, 0.0))
    kept = m.keep_top_p(softmax(a["logits"])[0], p)
    return (kept / kept.sum(axis=-1, keepdims=True),)


def inputs(rng: np.random.Generator, B: int, V: int, p: float, size: float = 1.5) -> Arguments:
    """Return logits of which no set of best tokens comes close to p."""
    while True:
        logits = size * rng.standard_normal((B, V))
        sums = -np.sort(-softmax(logits)[0], axis=-1)
        if p == 1 or np.abs(sums.cumsum(axis=-1) - p).min() > 0.03:
            return {"logits": logits, "p": p}


def peaked(rng: np.random.Generator) -> Arguments:
    """Return rows whose best token alone has a higher probability than p."""
    a = inputs(rng, 3, 7, 0.6)
    a["logits"][[0, 1, 2], [4, 0, 6]] += 9
    return a


def whole(logits: list[list[int]], p: float) -> Arguments:
    """Return logits that are whole numbers: equals are equal in any precision."""
    return {"logits": np.array(logits, dtype=np.float64), "p": p}


PROBES = (
    Probe("ordinary", lambda rng: inputs(rng, 3, 11, 0.8), "11 tokens, p = 0.8", hard=False),
    Probe("other sizes", lambda rng: inputs(rng, 5, 23, 0.6), "23 tokens, p = 0.6", hard=False),
    Probe("one row", lambda rng: inputs(rng, 1, 13, 0.5), "a single row, p = 0.5"),
    Probe("small p", lambda rng: inputs(rng, 3, 7, 0.01), "p = 0.01: the best token alone"),
    Probe("peaked", peaked, "the best token alone has more than p"),
    Probe("p = 1", lambda rng: inputs(rng, 2, 7, 1.0), "p = 1: every token stays"),
    Probe("one token", lambda rng: inputs(rng, 2, 1, 0.5), "a vocabulary of one token"),
    Probe(
        "far apart",
        lambda rng: whole([[800, 799, 0, 801], [-800, -801, -799, -803]], 0.7),
        "logits near 800 and -800",
    ),
    Probe(
        "ties",
        lambda rng: whole([[2, 0, 2, 2, 0, 2], [0, 3, 0, 0, 3, 0], [1, 1, 1, 1, 1, 1]], 0.6),
        "tokens that are exactly equally likely",
        ties=True,
    ),
)

_ORDER = 'order = np.argsort(-probs, axis=-1, kind="stable")'
_KEEP = "ranked = np.where(before < p - slack, ranked, 0.0)"
_BEST = (
    "    ranked[:, 0] = np.take_along_axis(probs, order[:, :1], axis=-1)[:, 0]"
    "  # the best one always\n"
)
_SUM = "before = ranked.cumsum(axis=-1) - ranked  # the sum of all better tokens"
_BACK = "np.put_along_axis(out, order, ranked, axis=-1)"
FORWARD = (
    Mistake(
        "crossing_dropped",
        _KEEP,
        "ranked = np.where(before + ranked <= p + slack, ranked, 0.0)",
        "the token with which the sum passes p is dropped; it stays.",
        "The set must reach p: does it?",
    ),
    Mistake(
        "crossing_dropped_empty",
        f"    {_KEEP}\n{_BEST}",
        "    ranked = np.where(before + ranked <= p + slack, ranked, 0.0)\n",
        "the token with which the sum passes p is dropped, even the best: nothing may be left.",
        "What is left if the best token alone has more than p?",
    ),
    Mistake(
        "one_too_many",
        _SUM,
        "before = ranked.cumsum(axis=-1) - ranked\n    before[:, 1:] = before[:, :-1].copy()",
        "one token too many stays.",
        "Leave out the last token that stayed: does the sum still reach p?",
    ),
    Mistake(
        "ascending",
        _ORDER,
        'order = np.argsort(probs, axis=-1, kind="stable")',
        "the sum starts from the least likely token.",
        "Which token must stay in any case?",
    ),
    Mistake(
        "not_sorted",
        _ORDER,
        "order = np.tile(np.arange(probs.shape[-1]), (len(probs), 1))",
        "the sum runs over the tokens in the order of their ids; it must start from the best.",
        "Which token must stay in any case?",
    ),
    Mistake(
        "first_row_for_all",
        _ORDER,
        'order = np.argsort(-probs, axis=-1, kind="stable")[:1].repeat(len(probs), axis=0)',
        "all rows are sorted as the first one is; each row has an order of its own.",
        "Try each row alone.",
    ),
    Mistake(
        "over_rows",
        _SUM,
        "before = ranked.cumsum(axis=0) - ranked",
        "the sum runs down the rows; it must run over the tokens of a row.",
        "Try each row alone.",
    ),
    Mistake(
        "not_put_back",
        _BACK,
        "out = ranked",
        "the result is in the order of the probabilities; it must be in that of the ids.",
        "Which token is the first number of the result about?",
    ),
    Mistake(
        "sorted_twice",
        _BACK,
        "out = np.take_along_axis(ranked, order, axis=-1)",
        "the result is sorted once more instead of being put back: a probability stands at another "
        "token.",
        "How is a sort undone: by the same indices, or by their inverse?",
    ),
    Mistake(
        "ignored",
        _KEEP,
        "ranked = 1.0 * ranked",
        "p has no effect: every token stays.",
        "How many tokens are zero?",
    ),
    Mistake(
        "best_only",
        _KEEP,
        "ranked = 0 * ranked",
        "the best token alone stays, whatever p is.",
        "How many tokens does it take to reach p?",
    ),
    Mistake(
        "threshold_p",
        _KEEP,
        "ranked = np.where(ranked >= p, ranked, 0.0)",
        "tokens stay whose own probability is at least p; it is their sum that must reach p.",
        "p = 0.95: how many tokens can have as much each?",
    ),
    Mistake(
        "threshold_rest",
        _KEEP,
        "ranked = np.where(ranked >= 1 - p, ranked, 0.0)",
        "tokens stay whose own probability is at least 1 - p; it is their sum that must reach p.",
        "Many equal tokens: how many stay?",
    ),
    Mistake(
        "min_p",
        _KEEP,
        "ranked = np.where(ranked >= p * ranked[:, :1], ranked, 0.0)",
        "tokens stay that have at least the part p of the best one's probability: that is min-p "
        "sampling.",
        "Many equal tokens: how many stay?",
        "convention",
    ),
    Mistake(
        "share_of_vocabulary",
        _KEEP,
        "ranked = np.where(np.arange(probs.shape[-1]) < p * probs.shape[-1], ranked, 0.0)",
        "the part p of all tokens stays, the best ones; it is their sum that must reach p.",
        "Make one token much more likely: must as many stay as before?",
    ),
    Mistake(
        "rest_for_p",
        _KEEP,
        "ranked = np.where(before < 1 - p - slack, ranked, 0.0)",
        "the set reaches 1 - p; it must reach p.",
        "Is p the part that stays, or the part that is cut off?",
    ),
    Mistake(
        "softmax_again",
        f"{_BACK}\n    return out",
        f"{_BACK}\n    return np.where(out > 0, np.exp(out), 0.0)",
        "what stays goes through a second softmax; it must be divided by its sum.",
        "The ratio of two probabilities must stay as it was.",
    ),
    Mistake(
        "zeros_in_softmax",
        f"{_BACK}\n    return out",
        f"{_BACK}\n    return np.exp(out)",
        "a second softmax runs over the probabilities, and gives tokens that were cut off their "
        "part of it.",
        "Must the softmax of 0 be 0?",
    ),
    Mistake(
        "ties_to_the_higher",
        _ORDER,
        'order = probs.shape[-1] - 1 - np.argsort(-probs[:, ::-1], axis=-1, kind="stable")',
        "of equally likely tokens those with higher ids stay; here it is the lower.",
        "What does turning a sorted list around do to equals?",
        "convention",
    ),
    Mistake(
        "all_ties",
        f"{_BACK}\n    return out",
        "least = np.where(ranked > 0, ranked, np.inf).min(axis=-1, keepdims=True)\n"
        "    return np.where(probs >= least, probs, 0.0)",
        "all tokens that are as likely as the last one that stays do too; here only as many stay "
        "as reach p.",
        "Six equal tokens and p = 0.6: how many stay?",
        "convention",
    ),
)

SPEC = Spec(
    name="top_p",
    module="minqwen.model.sampling",
    arguments=("logits", "p"),
    axes={"logits": "B V", "probs": "B V"},
    outputs=("probs",),
    run=run,
    probes=PROBES,
    forward=FORWARD,
    notes="The probabilities, by id, zero for tokens that are cut off, summing to 1. The token "
    "with which the sum reaches p stays; of equals the lower ids do.",
    ties="of equally likely tokens ours keeps the lower ids, as many as reach p",
)
