"""Units of text: words, and characters where a script does not divide words by spaces.

Chinese, Japanese, Thai, Lao, Burmese and Khmer do not. There every character is a unit of its own;
any other run without spaces is one. Punctuation belongs to the unit that it touches:

    say：“好”, fine.      ->      say：“   好”,   fine.

A text is "undivided" where at least half of its units are such characters; 1.5 of them count as one
word, which is about the length of a word in Chinese.

Tokens are smaller than units: a character of these scripts, a word without its punctuation, or a
sign by itself. Classifier and blocklist read tokens, the rules of quality read units.

Differs:  no dictionary divides Chinese into words, so that nothing depends on one.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from dataclasses import dataclass
from functools import cache
from itertools import count, pairwise
from typing import Literal

import numpy as np

from ..backend import Array

CHARACTERS_PER_WORD = 1.5
# Thai and Lao, Burmese, Khmer; kana, bopomofo and Han with its extensions
UNDIVIDED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u312f\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
CHARACTER = re.compile(f"[{UNDIVIDED}]")
UNIT = re.compile(rf"[^\w\s{UNDIVIDED}]*[{UNDIVIDED}][^\w\s{UNDIVIDED}]*|[^\s{UNDIVIDED}]+")
TOKEN = re.compile(rf"[{UNDIVIDED}]|[^\W{UNDIVIDED}]+|[^\w\s]")  # a character, a word, a sign
WORD = re.compile(rf"[^\W{UNDIVIDED}]+")
PARAGRAPH = re.compile(r"\n\s*\n")
MARKS = 256


SPACE, IN_WORD, ALONE = range(3)  # what a character is to a token


@dataclass(frozen=True, eq=False)  # one text is itself only, so that its repeats can be kept
class DividedText:
    """A document, divided."""

    text: str
    units: list[str]
    distinct: list[str]  # the units, each once, in the order in which they come first
    numbers: Array  # (units,) int64, which of the distinct ones each is
    lengths: Array  # (units,) int64, characters of each
    before: Array  # (units + 1,) int64, characters in the units before each; last, in all
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
    has_characters = not text.isascii() and CHARACTER.search(text)
    units = UNIT.findall(text) if has_characters else text.split()  # the same there, but faster
    number = dict(zip(dict.fromkeys(units), count(), strict=False))
    numbers = np.fromiter(map(number.__getitem__, units), np.int64, len(units))
    lengths = np.fromiter(map(len, number), np.int64, len(number))[numbers]
    is_character = np.zeros(len(units), bool)
    if has_characters:
        is_character = np.array([bool(CHARACTER.search(unit)) for unit in number])[numbers]
    lines, paragraphs = (
        [stripped for part in parts if (stripped := part.strip())]
        for parts in (text.split("\n"), PARAGRAPH.split(text))
    )
    return DividedText(
        text,
        units,
        list(number),
        numbers,
        lengths,
        np.append(np.zeros(1, np.int64), lengths.cumsum()),
        is_character,
        int(is_character.sum()),
        lines,
        paragraphs,
    )


def unicode_form(form: Literal["NFC", "NFD", "NFKC"], text: str) -> str:
    """Return unicodedata.normalize(form, text), but never in days.

    To put marks, such as accents, in their order takes it the square of how many follow each other,
    and some megabytes of them can stand in a hostile file. Therefore each block of MARKS characters
    that are all marks is taken by itself. No writing has as many.

    >>> unicode_form("NFC", "e\\u0301")
    'é'
    """
    cuts = [
        i
        for i in range(0, len(text) - MARKS + 1, MARKS)
        if _is_mark(text[i]) and all(map(_is_mark, text[i : i + MARKS]))
    ]
    pieces = pairwise([0, *cuts, len(text)])
    return "".join(unicodedata.normalize(form, text[start:end]) for start, end in pieces)


def _is_mark(character: str) -> bool:
    """Say whether a character, or what it is composed of, begins with a mark."""
    return unicodedata.combining(unicodedata.normalize("NFKD", character)[0]) > 0


def normalise(text: str) -> str:
    """Bring texts that differ in form only together: NFKC, lower case, one space for any.

    >>> normalise("Ｆｕｌｌ  width\\n")
    'full width'
    """
    return " ".join(unicode_form("NFKC", text).casefold().split())


def token_spans(text: str) -> tuple[Array, Array]:
    """Find the tokens of a text: where TOKEN matches, in a fraction of the time.

    Returns:
        starts: (tokens,) int64.
        ends: (tokens,) int64, one past the last character of each.

    >>> token_spans("fine, 好 1")
    (array([0, 4, 6, 8]), array([4, 5, 7, 9]))
    """
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    kinds = _kinds_of_characters()[codes]
    edges = np.ones(len(kinds) + 1, bool)  # between characters; only within a word there is none
    edges[1:-1] = (kinds[1:] != IN_WORD) | (kinds[:-1] != IN_WORD)
    solid = kinds != SPACE
    return np.flatnonzero(edges[:-1] & solid), np.flatnonzero(edges[1:] & solid) + 1


@cache  # 1.1 MB, made when first wanted
def _kinds_of_characters() -> Array:
    """Return SPACE, IN_WORD or ALONE for every character there is, (0x110000,) uint8."""
    every = "".join(map(chr, range(sys.maxunicode + 1)))
    kinds = np.full(len(every), ALONE, np.uint8)
    for pattern, kind in ((r"\s+", SPACE), (WORD, IN_WORD)):
        for run in re.finditer(pattern, every):
            kinds[slice(*run.span())] = kind
    return kinds
