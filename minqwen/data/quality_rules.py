r"""Rules of quality: what good text looks like, as numbers that can be counted without a model.

    measure(text) in [low, high]      for every rule, else the document is dropped, and why is told

A rule that cannot be asked of a text (the length of words where there are none) passes.

Words are units of text_units.py. Where Chinese and the like make up at least half of the units,
these are characters, and the text is "undivided":

    length of a document     1.5 characters count as one word
    repeated n-grams         n words are ceil(1.5 n) units; in divided text n units
    length of words          not asked

Repeated is what stood before already: of three equal lines two are repeated. No character is
counted twice where n-grams overlap.

Paper:    Qwen Technical Report, 2.1 Data: rule-based methods, without any number.
Origin:   Rae et al. 2021 (Gopher), arXiv:2112.11446, A.1.1 and Table A1; Raffel et al. 2020 (C4),
          arXiv:1910.10683, 2.2; Penedo et al. 2024 (FineWeb), arXiv:2406.17557, 3.6.
Differs:  all of these were set for English web pages. The 1.5 characters per word, the Chinese stop
          words and full stops are ours. The stop words fit English and Chinese only: leave that
          rule out for other languages. A most common n-gram that comes once counts as none, and
          its overlaps are counted once. C4 drops single lines too; here documents stay whole.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from .text_units import DividedText, covered_share, ngram_numbers, read_text

LETTER = re.compile(r"[^\W\d_]")
CHARACTERS_PER_WORD = 1.5
STOP_WORDS = frozenset(["the", "be", "to", "of", "and", "that", "have", "with"])
CHINESE_STOP_WORDS = frozenset("的是不了在有和我他这也就")
ELLIPSES = ("...", "…")
BULLETS = ("•", "‣", "▪", "●", "·", "-", "*")
SENTENCE_ENDS = tuple(".!?。！？…\"'”’」』")


class Rule(NamedTuple):
    name: str
    measure: Callable[[DividedText], float | None]  # None: cannot be asked of this text
    low: float  # the document passes from here
    high: float  # to here, both included
    source: str


class Failure(NamedTuple):
    rule: str
    value: float
    reason: str  # to be read


class Decision(NamedTuple):
    kept: bool
    failures: list[Failure]  # of all rules, in their order; empty where kept


def word_count(text: DividedText) -> float:
    """Count words; 1.5 characters of an undivided script are one.

    >>> word_count(read_text("三个字 and two"))
    4.0
    """
    return len(text.units) - text.characters + text.characters / CHARACTERS_PER_WORD


def mean_word_length(text: DividedText) -> float | None:
    """Average the characters of a word; not asked of undivided text.

    >>> mean_word_length(read_text("a bcd"))
    2.0
    """
    if text.undivided or not text.units:
        return None
    return float(text.lengths[~text.is_character].mean())


def signs_per_word(text: DividedText, sign: str) -> float | None:
    """Count a sign, given as a regular expression, against the words.

    >>> signs_per_word(read_text("# a #b c"), "#")
    0.5
    """
    return len(re.findall(sign, text.text)) / word_count(text) if text.units else None


def share_with_letters(text: DividedText) -> float | None:
    """Share of the units that hold a letter or a character.

    >>> share_with_letters(read_text("a1 22 -- b"))
    0.5
    """
    return _share(bool(LETTER.search(unit)) for unit in text.units)


def stop_words(text: DividedText) -> float:
    """Count the different stop words, English or Chinese, whichever are more.

    >>> stop_words(read_text("The cat and the dog"))
    2
    """
    words = set(re.sub(r"[^\w\s]", "", " ".join(set(text.units))).lower().split())
    return max(len(words & STOP_WORDS), len(words & CHINESE_STOP_WORDS))


def lines_starting(text: DividedText, starts: tuple[str, ...]) -> float | None:
    """Share of the lines that start with one of these.

    >>> lines_starting(read_text("- a\\n\\nb"), ("-", "*"))
    0.5
    """
    return _share(line.startswith(starts) for line in text.lines)


def lines_ending(text: DividedText, ends: tuple[str, ...]) -> float | None:
    """Share of the lines that end with one of these.

    >>> lines_ending(read_text("more ...\\nb"), ("...",))
    0.5
    """
    return _share(line.endswith(ends) for line in text.lines)


def repeated_parts(text: DividedText, parts: str) -> float | None:
    """Share of the lines, or paragraphs, that stood before already.

    >>> repeated_parts(read_text("a\\nb\\na\\na"), "lines")
    0.5
    """
    found: list[str] = getattr(text, parts)
    return 1 - len(set(found)) / len(found) if found else None


def repeated_parts_characters(text: DividedText, parts: str) -> float | None:
    """Share of the characters of lines, or paragraphs, that are in repeated ones.

    >>> repeated_parts_characters(read_text("abc\\nd\\nabc\\nd"), "lines")
    0.5
    """
    found: list[str] = getattr(text, parts)
    total = sum(map(len, found))
    return 1 - sum(map(len, set(found))) / total if total else None


def most_common_ngram(text: DividedText, n: int) -> float | None:
    """Share of the characters that the most common n-gram of words covers, 0 if it comes once.

    >>> most_common_ngram(read_text("a b c a b d"), 2)
    0.6666666666666666
    """
    n = _units(text, n)
    kinds = ngram_numbers(text, n)
    if not len(kinds):
        return None
    counts = np.bincount(kinds)
    if counts.max() < 2:
        return 0.0
    shares = (
        covered_share(text, kinds == kind, n) for kind in np.flatnonzero(counts == counts.max())
    )
    return max(shares)  # of n-grams that are as common as each other


def repeated_ngrams(text: DividedText, n: int) -> float | None:
    """Share of the characters in n-grams of words that stood before already.

    >>> repeated_ngrams(read_text("a b c a b d"), 2)
    0.3333333333333333
    """
    n = _units(text, n)
    kinds = ngram_numbers(text, n)
    if not len(kinds):
        return None
    repeated = np.ones(len(kinds), bool)
    repeated[np.unique(kinds, return_index=True)[1]] = False  # the first of each kind
    return covered_share(text, repeated, n)


def phrases(text: DividedText, wanted: Sequence[str]) -> float:
    """Count phrases in lower case.

    >>> phrases(read_text("Lorem Ipsum dolor"), ["lorem ipsum"])
    1
    """
    lower = text.text.lower()
    return sum(lower.count(phrase) for phrase in wanted)


INF = math.inf
_GOPHER, _TABLE = "Gopher, A.1.1", "Gopher, Table A1"
GOPHER_QUALITY = (
    Rule("words", word_count, 50, 100_000, _GOPHER),
    Rule("mean word length", mean_word_length, 3, 10, _GOPHER),
    Rule("hashes per word", partial(signs_per_word, sign="#"), 0, 0.1, _GOPHER),
    Rule("ellipses per word", partial(signs_per_word, sign=r"\.{3,}|…+"), 0, 0.1, _GOPHER),
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
        reason = f"{rule.name}: {value:.4g}, wanted {wanted} ({rule.source})"
        failures.append(Failure(rule.name, float(value), reason))
    return Decision(not failures, failures)


def count_reasons(decisions: Iterable[Decision]) -> dict[str, int]:
    """Count how often each rule failed, the most frequent first; a document may fail several.

    >>> count_reasons([judge("a"), judge("b")])["words"]
    2
    """
    return dict(Counter(f.rule for d in decisions for f in d.failures).most_common())


def _share(flags: Iterable[bool]) -> float | None:
    found = list(flags)
    return sum(found) / len(found) if found else None


def _units(text: DividedText, words: int) -> int:
    return math.ceil(CHARACTERS_PER_WORD * words) if text.undivided else words
