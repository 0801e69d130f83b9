"""Measures of a text: words, signs, letters, stop words and lines, counted without a model.

    measure(text) = a number, or None where it cannot be asked (the length of words without words)

Words are units of text_units.py. Where Chinese and the like make up at least half of the units,
these are characters, and the text is "undivided":

    length of a document     1.5 characters count as one word
    length of words          not asked

What the numbers should be is in quality_rules.py; what is repeated, in repetition.py.

Origin:   Rae et al. 2021 (Gopher), arXiv:2112.11446, A.1.1; Raffel et al. 2020 (C4),
          arXiv:1910.10683, 2.2.
Differs:  these were made for English. The 1.5 characters per word and the Chinese stop words are
          ours. The stop words fit English and Chinese only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from .text_units import CHARACTERS_PER_WORD, DividedText

LETTER = re.compile(r"[^\W\d_]")
SIGNS = re.compile(r"[^\w\s]+")
STOP_WORDS = frozenset(["the", "be", "to", "of", "and", "that", "have", "with"])
CHINESE_STOP_WORDS = frozenset("的是不了在有和我他这也就")


def word_count(text: DividedText) -> float:
    """Count words; 1.5 characters of an undivided script are one.

    >>> from minqwen.data.text_units import read_text
    >>> word_count(read_text("三个字 and two"))
    4.0
    """
    return len(text.units) - text.characters + text.characters / CHARACTERS_PER_WORD


def mean_word_length(text: DividedText) -> float | None:
    """Average the characters of a word; not asked of undivided text.

    >>> from minqwen.data.text_units import read_text
    >>> mean_word_length(read_text("a bcd"))
    2.0
    """
    if text.undivided or not text.units:
        return None
    return float(text.lengths[~text.is_character].mean())


def signs_per_word(text: DividedText, sign: str) -> float | None:
    """Count a sign, given as a regular expression, against the words.

    >>> from minqwen.data.text_units import read_text
    >>> signs_per_word(read_text("# a #b c"), "#")
    0.5
    """
    return len(re.findall(sign, text.text)) / word_count(text) if text.units else None


def share_with_letters(text: DividedText) -> float | None:
    """Share of the units that hold a letter or a character.

    >>> from minqwen.data.text_units import read_text
    >>> share_with_letters(read_text("a1 22 -- b"))
    0.5
    """
    if not text.units:
        return None
    flags = [unit[0].isalpha() or bool(LETTER.search(unit)) for unit in text.distinct]
    return float(np.array(flags)[text.numbers].mean())


def stop_words(text: DividedText) -> float:
    """Count the different stop words, English or Chinese, whichever are more.

    >>> from minqwen.data.text_units import read_text
    >>> stop_words(read_text("The cat and the dog"))
    2
    """
    words = set(SIGNS.sub("", " ".join(text.distinct)).lower().split())
    return max(len(words & STOP_WORDS), len(words & CHINESE_STOP_WORDS))


def lines_starting(text: DividedText, starts: tuple[str, ...]) -> float | None:
    """Share of the lines that start with one of these.

    >>> from minqwen.data.text_units import read_text
    >>> lines_starting(read_text("- a\\n\\nb"), ("-", "*"))
    0.5
    """
    return _share([line.startswith(starts) for line in text.lines])


def lines_ending(text: DividedText, ends: tuple[str, ...]) -> float | None:
    """Share of the lines that end with one of these.

    >>> from minqwen.data.text_units import read_text
    >>> lines_ending(read_text("more ...\\nb"), ("...",))
    0.5
    """
    return _share([line.endswith(ends) for line in text.lines])


def phrases(text: DividedText, wanted: Sequence[str]) -> float:
    """Count phrases in lower case.

    >>> from minqwen.data.text_units import read_text
    >>> phrases(read_text("Lorem Ipsum dolor"), ["lorem ipsum"])
    1
    """
    lower = text.text.lower()
    return sum(lower.count(phrase) for phrase in wanted)


def _share(flags: list[bool]) -> float | None:
    return sum(flags) / len(flags) if flags else None
