"""Blocklist: words and phrases that a document should not hold.

    word, phrase of divided script      only whole words: "ass" is not in "class"
    Chinese and the like                anywhere: 赌博 is in 网络赌博网站

Text and entries are brought to one form first (normalise: NFKC, lower case, one space for any).
Then a text is a row of words, characters of undivided scripts, and signs (token_spans of
text_units.py), and an entry is found where it fills some of them from edge to edge. Every span that
is as many tokens long as some entry is looked up in a set, so the cost does not grow with the list.

Paper:    Qwen Technical Report, 2.1 Data: offensive content is found, by models. A list finds what
          is named, text_classifier.py what is like it.
Differs:  Qwen's lists are not published and none is shipped here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

from .quality_rules import Rule
from .text_units import DividedText, normalise, token_spans


class Blocklist(NamedTuple):
    entries: frozenset[str]  # normalised
    sizes: tuple[int, ...]  # how many tokens entries have


def make_blocklist(entries: Iterable[str]) -> Blocklist:
    """Prepare words and phrases; blank ones are left out.

    Args:
        entries: such as the lines of a file.

    Raises:
        TypeError: entries is one text.
        ValueError: there is no entry.

    >>> make_blocklist(["Bad  word", "赌博"]).sizes
    (2,)
    """
    if isinstance(entries, str):
        raise TypeError("entries must be several texts, got one")
    found = frozenset(filter(None, map(normalise, entries)))
    if not found:
        raise ValueError("entries must hold at least one that is not blank")
    return Blocklist(found, tuple(sorted({len(token_spans(entry)[0]) for entry in found})))


def find_blocked(blocklist: Blocklist, text: str) -> dict[str, int]:
    """Count the entries that a text holds, the most frequent first.

    >>> find_blocked(make_blocklist(["ass", "赌博"]), "First class. ASS! 网络赌博网站")
    {'ass': 1, '赌博': 1}
    """
    text = normalise(text)
    starts, ends = (places.tolist() for places in token_spans(text))
    found = Counter(
        text[start:end]
        for size in blocklist.sizes
        for start, end in zip(starts, ends[size - 1 :], strict=False)
        if text[start:end] in blocklist.entries
    )
    return dict(found.most_common())


def blocklist_rule(blocklist: Blocklist, most: int = 0, name: str = "blocked phrases") -> Rule:
    """Make a rule for `judge` of quality_rules: at most so many blocked phrases.

    >>> from minqwen.data.quality_rules import judge
    >>> judge("One bad word.", [blocklist_rule(make_blocklist(["bad"]))]).failures[0].reason
    'blocked phrases: 1, wanted at most 0 (blocklist)'
    """
    return Rule(name, partial(_measure, blocklist), 0, most, "blocklist")


def _measure(blocklist: Blocklist, text: DividedText) -> float:
    return sum(find_blocked(blocklist, text.text).values())
