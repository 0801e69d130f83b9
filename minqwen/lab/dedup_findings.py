"""What the study of copies concludes from its numbers.

Paper:    Qwen Technical Report (arXiv), 2.1 Data, which names the methods and gives no numbers.
Origin:   Lee et al. 2021, arXiv:2107.06499; Carlini et al. 2022, arXiv:2202.07646.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from .dedup_changes import EXACT
from .dedup_measure import ARMS, GROUPS, OFTEN
from .findings import AGREES, DISAGREES, PARTLY, UNDECIDED, Finding
from .recipe_study import SURE, difference, mean_and_spread, values, verdict
from .results import Results

LIGHT = ("2 % of words", "5 % of words", "end cut off")  # changes that both methods should see
MOST, FEW, PURE = 0.9, 0.05, 0.99  # shares found, of copies with light changes and of translations
LEE = "Lee et al. 2021"


def findings(results: Results) -> list[Finding]:
    """Return what the numbers say about each claim."""
    makers = (_finds, _translated, _memorises, _fuzzy_too, _copies, _loss, _gap)
    return [make(results) for make in makers]


def shares(results: Results, change: str, arm: str = "fuzzy") -> list[float]:
    """Return a number of the copies with a change, of every seed; "fuzzy": found by both."""
    return values(results, "found", f"changes.{change}.{arm}")


def percent(numbers: list[float]) -> str:
    """Return a share over the seeds as it stands in a table."""
    return mean_and_spread(numbers, 1, percent=True)


def _finds(results: Results) -> Finding:
    same = min(x for change in EXACT for x in shares(results, change, "exact"))
    light = {change: shares(results, change) for change in LIGHT}
    precision = values(results, "found", "precision")
    pure = min(precision) >= PURE
    if len(precision) < SURE:
        agree = UNDECIDED
    elif same < 1 or not pure:
        agree = DISAGREES
    else:
        agree = AGREES if min(map(min, light.values())) >= MOST else PARTLY
    ours = ", ".join(f"{change} {percent(x)}" for change, x in light.items())
    return Finding(
        "Exact matching finds all copies that are alike after normalisation, MinHash with LSH most "
        "of those with few changes, and nothing else is dropped.",
        "both methods are used; no numbers",
        f"the former {100 * same:.0f} %; {ours}; of the dropped documents {percent(precision)} "
        "are copies of the one kept",
        agree,
    )


def _translated(results: Results) -> Finding:
    found = shares(results, "translated")
    agree = AGREES if max(found) <= FEW else DISAGREES
    return Finding(
        "A translation is a copy that neither method sees.",
        "nothing; it follows from comparing characters",
        f"translations found: {percent(found)}; stories filled anew: "
        f"{percent(shares(results, 'filled anew'))}",
        agree if len(found) >= SURE else UNDECIDED,
    )


def memorised(results: Results, arm: str, group: str) -> list[float]:
    """Return the shares of continuations that an arm repeats, of every seed."""
    return values(results, arm, f"memory.{group}.share")


def judged(results: Results, sign: int, *groups: str) -> str:
    """Return the verdict, unless a seed had no question in one of the groups."""
    asked = (n for group in groups for n in values(results, "raw", f"memory.{group}.prompts"))
    return verdict(sign) if min(asked) > 0 else UNDECIDED


def _memorises(results: Results) -> Finding:
    raw, both = (memorised(results, arm, "often") for arm in ("raw", "fuzzy"))
    d = difference(raw, both)
    return Finding(
        "With deduplication a model repeats less of its training text.",
        f"memorised text ten times less often ({LEE})",
        f"repeated, of what came {OFTEN} times or more: {percent(raw)} and {percent(both)}, "
        f"raw minus exact + fuzzy {d.text(1, percent=True)}",
        judged(results, d.sure, "often"),
    )


def _fuzzy_too(results: Results) -> Finding:
    d = difference(*(memorised(results, arm, "near") for arm in ("exact", "fuzzy")))
    same = difference(*(memorised(results, arm, "exact") for arm in ("raw", "exact")))
    return Finding(
        "Exact matching is not enough: copies with changes are memorised too.",
        "both methods are used; no numbers",
        f"repeated, of what came {OFTEN} times or more with changes, exact minus exact + fuzzy: "
        f"{d.text(1, percent=True)}; copies without changes, raw minus exact: "
        f"{same.text(1, percent=True)}",
        judged(results, d.sure, "near"),
    )


def _copies(results: Results) -> Finding:
    groups = {name: memorised(results, "raw", name) for name in list(GROUPS)[1:]}
    d = difference(list(groups.values())[-1], groups["1"])
    means = [float(np.mean(x)) for x in groups.values()]
    agree = judged(results, d.sure, *groups)
    if agree == AGREES and any(later < earlier for earlier, later in pairwise(means)):
        agree = PARTLY
    listed = ", ".join(
        f"{name}: {100 * mean:.1f} %" for name, mean in zip(groups, means, strict=True)
    )
    return Finding(
        "The more often a document comes, the more of it is memorised.",
        "grows with the logarithm of the number of copies (Carlini et al. 2022)",
        f"repeated by raw, by how often it came: {listed}; last minus first "
        f"{d.text(1, percent=True)}",
        agree,
    )


def _loss(results: Results) -> Finding:
    raw, exact, both, clean = (values(results, arm, "held_out.all") for arm in ARMS)
    d = difference(raw, both)
    return Finding(
        "At equal tokens, the loss on held-out text is lower with deduplication.",
        f"fewer steps to the same or better accuracy ({LEE})",
        f"raw minus exact + fuzzy: {d.text()} nats; raw minus exact: "
        f"{difference(raw, exact).text()}; exact + fuzzy minus no copies: "
        f"{difference(both, clean).text()}",
        verdict(d.sure),
    )


def _gap(results: Results) -> Finding:
    raw, both = (values(results, arm, "gap") for arm in ("raw", "fuzzy"))
    d = difference(raw, both)
    return Finding(
        "Copies make the loss on the training text look better than the model is.",
        "nothing; it follows from memorising",
        f"held-out loss minus that of the training rows: raw {mean_and_spread(raw)}, exact + fuzzy "
        f"{mean_and_spread(both)}; difference {d.text()} nats",
        verdict(d.sure),
    )
