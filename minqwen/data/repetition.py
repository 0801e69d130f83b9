"""Repetition: the share of a text that stood before already in the same text.

    share of the lines         = repeated lines / lines
    share of the characters    = characters in repeated lines (paragraphs, n-grams) / characters

Repeated is what stood before: of three equal lines two are repeated. No character is counted twice
where n-grams overlap.

Equal n-grams, n units of text_units.py in a row, are found without a hash, so nothing is taken for
a repeat by accident. Two n-grams are equal where the two (n - 1)-grams in each are:

    a b c d  =  a b c  then  b c d        both have a number already: the pair is compared

So an n-gram comes twice only where both of its parts do, and each length looks only at what the
one before has left over, which soon is little.

n counts words; in undivided text these are ceil(1.5 n) units.

Origin:   Rae et al. 2021 (Gopher), arXiv:2112.11446, Table A1; thresholds in quality_rules.py.
Differs:  a most common n-gram that comes once counts as none, and its overlaps are counted once.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ..backend import Array
from .text_units import CHARACTERS_PER_WORD, DividedText


class Repeats(NamedTuple):
    starts: Array  # (R,) int64, rising: units at which the n-grams begin that come twice or more
    kinds: Array  # (R,) int64, which one it is: the same number for equal ones, below the units


def repeated_parts(text: DividedText, parts: str) -> float | None:
    """Share of the lines, or paragraphs, that stood before already.

    >>> from minqwen.data.text_units import read_text
    >>> repeated_parts(read_text("a\\nb\\na\\na"), "lines")
    0.5
    """
    found: list[str] = getattr(text, parts)
    return 1 - len(set(found)) / len(found) if found else None


def repeated_parts_characters(text: DividedText, parts: str) -> float | None:
    """Share of the characters of lines, or paragraphs, that are in repeated ones.

    >>> from minqwen.data.text_units import read_text
    >>> repeated_parts_characters(read_text("abc\\nd\\nabc\\nd"), "lines")
    0.5
    """
    found: list[str] = getattr(text, parts)
    total = sum(map(len, found))
    return 1 - sum(map(len, set(found))) / total if total else None


def most_common_ngram(text: DividedText, n: int) -> float | None:
    """Share of the characters that the most common n-gram of words covers, 0 if it comes once.

    >>> from minqwen.data.text_units import read_text
    >>> most_common_ngram(read_text("a b c a b d"), 2)
    0.6666666666666666
    """
    n = _units(text, n)
    if len(text.units) < n:
        return None
    starts, kinds = find_repeats(text, n)
    if not len(kinds):
        return 0.0
    counts = np.bincount(kinds)
    top = np.flatnonzero(counts[kinds] == counts.max())
    top = top[np.argsort(kinds[top], kind="stable")]
    return float(covered_shares(text, starts[top], kinds[top], n).max())  # of equally common ones


def repeated_ngrams(text: DividedText, n: int) -> float | None:
    """Share of the characters in n-grams of words that stood before already.

    >>> from minqwen.data.text_units import read_text
    >>> repeated_ngrams(read_text("a b c a b d"), 2)
    0.3333333333333333
    """
    n = _units(text, n)
    if len(text.units) < n:
        return None
    starts, kinds = find_repeats(text, n)
    if not len(kinds):
        return 0.0
    first = np.zeros(len(text.units), np.int64)
    first[kinds[::-1]] = starts[::-1]  # where a kind is written several times, the last one stays
    later = starts[starts != first[kinds]]
    return float(covered_shares(text, later, np.zeros_like(later), n)[0])


@lru_cache(maxsize=16)  # as the next n wants those of this one
def find_repeats(text: DividedText, n: int) -> Repeats:
    """Find the n-grams of units that come twice or more.

    Args:
        text: of `read_text`.
        n: units of an n-gram, at least 1.

    Returns:
        Where they are and which; not to be changed.

    >>> from minqwen.data.text_units import read_text
    >>> starts, kinds = find_repeats(read_text("a b c a b a b"), 2)
    >>> starts.tolist(), kinds.tolist()
    ([0, 3, 5], [0, 0, 0])
    """
    if n == 1:
        starts, kinds = np.arange(len(text.units)), text.numbers
    else:
        starts, kinds = find_repeats(text, n - 1)
        if not len(starts):
            return Repeats(starts, kinds)
        (left,) = (starts[1:] == starts[:-1] + 1).nonzero()  # what begins one unit on is repeated
        starts = starts[left]
        pairs = kinds[left] * len(text.units) + kinds[left + 1]  # below units^2: no overflow
        kinds = _ranks(pairs)
    again = np.bincount(kinds)[kinds] > 1
    return Repeats(starts[again], kinds[again])


def covered_shares(text: DividedText, starts: Array, kinds: Array, n: int) -> Array:
    """Share of the characters that the n-grams of each kind cover, each character counted once.

    Args:
        text: of `read_text`, with a unit at least.
        starts: (R,) int64, units at which n-grams begin.
        kinds: (R,) int64, rising; starts rise within a kind.
        n: units of an n-gram.

    Returns:
        (kinds,) float64; 0 for a number that is no kind.

    >>> from minqwen.data.text_units import read_text
    >>> covered_shares(read_text("a b c d"), np.array([0, 1, 2]), np.array([0, 0, 2]), 2).tolist()
    [0.75, 0.0, 0.5]
    """
    ends = starts + n
    (overlap,) = ((kinds[1:] == kinds[:-1]) & (starts[1:] < ends[:-1])).nonzero()
    ends[overlap] = starts[overlap + 1]  # an n-gram counts up to where the next one begins
    characters = text.before[ends] - text.before[starts]
    shares: Array = np.bincount(kinds, characters, minlength=1) / text.before[-1]
    return shares


def _ranks(numbers: Array) -> Array:
    """Number the different values from 0 on, as np.unique does in twice the time."""
    order = numbers.argsort()
    ordered = numbers[order]
    ranks = np.zeros(len(numbers), np.int64)
    ranks[order[1:]] = (ordered[1:] != ordered[:-1]).cumsum()
    return ranks


def _units(text: DividedText, words: int) -> int:
    return math.ceil(CHARACTERS_PER_WORD * words) if text.undivided else words
