"""Units of text: words, and characters where a script does not divide words by spaces.

Chinese, Japanese, Thai, Lao, Burmese and Khmer do not. There every character is a unit of its own;
any other run without spaces is one. Punctuation belongs to the unit that it touches:

    say：“好”, fine.      ->      say：“   好”,   fine.

A text is "undivided" where at least half of its units are such characters.

Repeats are found among n-grams, n units in a row. Equal n-grams get equal numbers without a hash,
so nothing is taken for a repeat by accident: an n-gram is its first n - 1 units, which have a
number already, and the last one.

Differs:  no dictionary divides Chinese into words, so that nothing depends on one.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..backend import Array

# Thai and Lao, Burmese, Khmer; kana, bopomofo and Han with its extensions
UNDIVIDED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u312f\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
CHARACTER = re.compile(f"[{UNDIVIDED}]")
UNIT = re.compile(rf"[^\w\s{UNDIVIDED}]*[{UNDIVIDED}][^\w\s{UNDIVIDED}]*|[^\s{UNDIVIDED}]+")
TOKEN = re.compile(rf"[{UNDIVIDED}]|[^\W{UNDIVIDED}]+|[^\w\s]")  # a character, a word, a sign
PARAGRAPH = re.compile(r"\n\s*\n")


@dataclass(frozen=True, eq=False)  # one text is itself only, so that its n-grams can be kept
class DividedText:
    """A document, divided."""

    text: str
    units: list[str]
    lengths: Array  # (units,) int64, characters of each
    is_character: Array  # (units,) bool, of an undivided script
    characters: int  # how many are
    lines: list[str]  # stripped, without the blank ones
    paragraphs: list[str]  # stripped, without the blank ones

    @property
    def undivided(self) -> bool:
        """At least half of the units are characters of an undivided script."""
        return 2 * self.characters >= len(self.units) > 0


def read_text(text: str) -> DividedText:
    """Divide a document.

    >>> read_text("say：“好”, fine.").units
    ['say：“', '好”,', 'fine.']
    """
    units = UNIT.findall(text)
    lengths = np.fromiter(map(len, units), np.int64, len(units))
    is_character = np.zeros(len(units), bool)
    if CHARACTER.search(text):
        is_character[:] = [bool(CHARACTER.search(unit)) for unit in units]
    lines, paragraphs = (
        [part.strip() for part in parts if part.strip()]
        for parts in (text.split("\n"), PARAGRAPH.split(text))
    )
    characters = int(is_character.sum())
    return DividedText(text, units, lengths, is_character, characters, lines, paragraphs)


def normalise(text: str) -> str:
    """Bring texts that differ in form only together: NFKC, lower case, one space for any.

    >>> normalise("Ｆｕｌｌ  width\\n")
    'full width'
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


@lru_cache(maxsize=16)  # as the next n wants the numbers of this one
def ngram_numbers(text: DividedText, n: int) -> Array:
    """Number the n-grams of units: equal ones have equal numbers.

    Args:
        text: of `read_text`.
        n: units of an n-gram, at least 1.

    Returns:
        (units - n + 1,) int64, not to be changed; empty where the text has fewer than n units.

    >>> ngram_numbers(read_text("a b a b a"), 2).tolist()
    [0, 1, 0, 1]
    """
    if n == 1:
        numbers: dict[str, int] = {}
        listed = [numbers.setdefault(unit, len(numbers)) for unit in text.units]
        return np.array(listed, np.int64)
    single, shorter = ngram_numbers(text, 1), ngram_numbers(text, n - 1)
    if len(shorter) < 2:
        return shorter[:0]
    pairs = shorter[:-1] * len(single) + single[n - 1 :]  # below units^2, which int64 holds
    kinds: Array = np.unique(pairs, return_inverse=True)[1]
    return kinds


def covered_share(text: DividedText, starts: Array, n: int) -> float:
    """Share of the characters that n-grams cover, each character counted once.

    Args:
        text: of `read_text`, with a unit at least.
        starts: (units - n + 1,) bool, where the n-grams begin.
        n: units of an n-gram.

    >>> covered_share(read_text("a b c d"), np.array([True, True, False]), 2)
    0.75
    """
    change = np.zeros(len(text.units) + 1, np.int64)
    change[: len(starts)] += starts
    change[n : n + len(starts)] -= starts
    inside = np.cumsum(change)[:-1] > 0
    return float(text.lengths[inside].sum() / text.lengths.sum())
