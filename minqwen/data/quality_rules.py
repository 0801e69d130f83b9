r"""Rules of quality: what good text looks like, as numbers that can be counted without a model.

    measure(text) in [low, high]      for every rule, else the document is dropped, and why is told

A rule that cannot be asked of a text (the length of words where there are none) passes. What is
counted, and how, is in text_measures.py and repetition.py. A rule of another kind is made by
classifier_rule, blocklist_rule, language_rule and perplexity_rule.

Paper:    Qwen Technical Report, 2.1 Data: rule-based methods, without any number.
Origin:   Rae et al. 2021 (Gopher), arXiv:2112.11446, A.1.1 and Table A1; Raffel et al. 2020 (C4),
          arXiv:1910.10683, 2.2; Penedo et al. 2024 (FineWeb), arXiv:2406.17557, 3.6.
Differs:  all of these were set for English web pages. The Chinese full stops are ours, and so is
          what text_measures.py and repetition.py say. The stop words fit English and Chinese only:
          leave that rule out for other languages. C4 drops single lines too; here documents stay
          whole.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

from .repetition import (
    most_common_ngram,
    repeated_ngrams,
    repeated_parts,
    repeated_parts_characters,
)
from .text_measures import (
    lines_ending,
    lines_starting,
    mean_word_length,
    phrases,
    share_with_letters,
    signs_per_word,
    stop_words,
    word_count,
)
from .text_units import DividedText, read_text

ELLIPSES = ("...", "…")
ELLIPSIS = r"\.\.\.+|……*"  # \.{3,}|…+ so written that the search skips what begins with neither
BULLETS = ("•", "‣", "▪", "●", "·", "-", "*")
SENTENCE_ENDS = tuple(".!?。！？…\"'”’」』")


class Rule(NamedTuple):
    name: str
    measure: Callable[[DividedText], float | None]  # None: cannot be asked of this text
    low: float  # the document passes from here
    high: float  # to here, both included
    source: str
    explain: Callable[[DividedText], str] | None = None  # what a number cannot say, for the reason


class Failure(NamedTuple):
    rule: str
    value: float
    reason: str  # to be read


class Decision(NamedTuple):
    kept: bool
    failures: list[Failure]  # of all rules, in their order; empty where kept


INF = math.inf
_GOPHER, _TABLE = "Gopher, A.1.1", "Gopher, Table A1"
GOPHER_QUALITY = (
    Rule("words", word_count, 50, 100_000, _GOPHER),
    Rule("mean word length", mean_word_length, 3, 10, _GOPHER),
    Rule("hashes per word", partial(signs_per_word, sign="#"), 0, 0.1, _GOPHER),
    Rule("ellipses per word", partial(signs_per_word, sign=ELLIPSIS), 0, 0.1, _GOPHER),
    Rule("lines with bullet", partial(lines_starting, starts=BULLETS), 0, 0.9, _GOPHER),
    Rule("lines ending in ellipsis", partial(lines_ending, ends=ELLIPSES), 0, 0.3, _GOPHER),
    Rule("words with a letter", share_with_letters, 0.8, 1, _GOPHER),
    Rule("stop words", stop_words, 2, INF, _GOPHER),
)
GOPHER_REPETITION = (
    Rule("repeated lines", partial(repeated_parts, parts="lines"), 0, 0.3, _TABLE),
    Rule("repeated paragraphs", partial(repeated_parts, parts="paragraphs"), 0, 0.3, _TABLE),
    Rule(
        "characters in repeated lines",
        partial(repeated_parts_characters, parts="lines"), 0, 0.2, _TABLE,
    ),
    Rule(
        "characters in repeated paragraphs",
        partial(repeated_parts_characters, parts="paragraphs"), 0, 0.2, _TABLE,
    ),
    *(
        Rule(f"characters in the top {n}-gram", partial(most_common_ngram, n=n), 0, most, _TABLE)
        for n, most in ((2, 0.20), (3, 0.18), (4, 0.16))
    ),
    *(
        Rule(f"characters in repeated {n}-grams", partial(repeated_ngrams, n=n), 0, most, _TABLE)
        for n, most in ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10))
    ),
)  # fmt: skip
C4 = (
    Rule("lorem ipsum", partial(phrases, wanted=("lorem ipsum",)), 0, 0, "C4, 2.2"),
    Rule("curly brackets", partial(phrases, wanted=("{",)), 0, 0, "C4, 2.2"),  # drops code
)
_ENDED = partial(lines_ending, ends=SENTENCE_ENDS)
FINEWEB = (Rule("lines that end a sentence", _ENDED, 0.12, 1, "FineWeb, 3.6"),)
RULES = GOPHER_QUALITY + GOPHER_REPETITION


def judge(document: str, rules: Iterable[Rule] = RULES) -> Decision:
    """Ask every rule of a document; it is kept if all pass.

    Args:
        document: its text.
        rules: these, or rules of your own.

    >>> judge("Buy now!", GOPHER_QUALITY[:1]).failures[0].reason
    'words: 2, wanted at least 50 (Gopher, A.1.1)'
    """
    text = read_text(document)
    failures = []
    for rule in rules:
        value = rule.measure(text)
        if value is None or rule.low <= value <= rule.high:
            continue
        wanted = f"at least {rule.low:g}" if value < rule.low else f"at most {rule.high:g}"
        found = f", {rule.explain(text)}" if rule.explain else ""
        reason = f"{rule.name}: {value:.4g}{found}, wanted {wanted} ({rule.source})"
        failures.append(Failure(rule.name, float(value), reason))
    return Decision(not failures, failures)


def count_reasons(decisions: Iterable[Decision]) -> dict[str, int]:
    """Count how often each rule failed, the most frequent first; a document may fail several.

    >>> count_reasons([judge("a"), judge("b")])["words"]
    2
    """
    return dict(Counter(f.rule for d in decisions for f in d.failures).most_common())
