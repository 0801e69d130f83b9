r"""ROUGE-L: how much of two texts is the same words in the same order.

    LCS(a, b) = length of the longest row of words that stands in both, gaps allowed
    recall = LCS / len(a)      precision = LCS / len(b)      F = 2 LCS / (len(a) + len(b))

F is the harmonic mean of the two, so it does not matter which text is the reference.

The table of the longest common subsequence, L[i][j] of the first i words of b and the first j of
a, grows by 0 or 1 from a column to the next. So a row is a number: bit j of V is 0 where the row
grows from j to j + 1. M has the bits of the places in a where the next word of b stands. Then the
next row is

    U = V & M        V' = (V + U) | (V - U)

A match lets the row grow earlier: in each run of 1s below a 0, the growth moves from that 0 down
to the lowest match of the run, and the sum does so, as its carry ends in that 0. LCS is the number
of 0s in the last row. One step does a whole row, on a Python integer, which has as many bits as are
wanted: no text is too long, and nothing is padded. With NumPy a row is a loop over its columns.

To ask a new text against thousands, `RougePool` first counts the words that it shares with each,
in any order. LCS cannot be larger, so most need no table at all. This bound holds that of the
lengths too: of the shorter text no more words can be shared than it has.

Words are runs of letters and digits; a character of Chinese, Japanese, Thai and the like is a word;
signs are left out; NFKC and lower case first.

Origin:   Lin 2004, ROUGE: A Package for Automatic Evaluation of Summaries, section 3. The bits:
          Crochemore et al. 2001, A fast and practical bit-vector algorithm for the longest common
          subsequence problem; Hyyro 2004.
Differs:  Lin's F may weigh recall higher; here, as in the package rouge-score, both weigh the same.
          That package keeps only a to z and 0 to 9, so of Chinese nothing; on ASCII the words agree
          (without its stemmer).
"""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from ..backend import Array
from ..data.text_units import UNDIVIDED, normalise

WORD = re.compile(rf"[{UNDIVIDED}]|[^\W_{UNDIVIDED}]+")


class RougeL(NamedTuple):
    precision: float  # share of the candidate's words that are in the common row
    recall: float  # share of the reference's
    f1: float


class Nearest(NamedTuple):
    place: int  # of the text in the pool, from 0
    f1: float


def rouge_words(text: str) -> list[str]:
    """Cut a text into the words that ROUGE-L compares.

    >>> rouge_words("Don't ask: 3.5 km 多远?")
    ['don', 't', 'ask', '3', '5', 'km', '多', '远']
    """
    return WORD.findall(normalise(text))


def lcs_length(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
    """Count the words of the longest row that stands in both, in this order, gaps allowed.

    Args:
        a, b: words, or anything else that is equal or not.

    >>> lcs_length("the cat sat on the mat".split(), "the mat on the cat".split())
    3
    """
    return _lcs_length(_places(a), (1 << len(a)) - 1, b)


def rouge_l(reference: str | Sequence[str], candidate: str | Sequence[str]) -> RougeL:
    """Compare two texts by their longest common row of words.

    Args:
        reference: a text, cut by `rouge_words`, or words that are cut already.
        candidate: the same.

    Returns:
        Numbers from 0 to 1; all 0 when one of the two has no words.

    >>> rouge_l("the cat sat", "the dog sat down")  # the, sat
    RougeL(precision=0.5, recall=0.6666666666666666, f1=0.5714285714285714)
    """
    a, b = _words(reference), _words(candidate)
    if not a or not b:
        return RougeL(0.0, 0.0, 0.0)
    common = lcs_length(a, b)
    return RougeL(common / len(b), common / len(a), 2 * common / (len(a) + len(b)))


class RougePool:
    """Texts that a new one is compared with; it grows by `add`.

    >>> pool = RougePool(["What is 2 plus 3?", "Who wrote Faust?"])
    >>> pool.nearest("What is 7 plus 3?")  # 4 of 5 words
    Nearest(place=0, f1=0.8)
    >>> pool.nearest("Where is Paris?", least=0.7) is None
    True
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        """Begin with some texts."""
        self._texts: list[list[str]] = []
        self._lengths = array("q")
        # The n-th time that a word comes in a text -> the texts in which it comes n times. Two
        # texts share as many words, each as often as the rarer side has it, as they share keys.
        self._holders: dict[tuple[str, int], array[int]] = {}
        for text in texts:
            self.add(text)

    def __len__(self) -> int:
        """Count the texts."""
        return len(self._texts)

    def add(self, text: str) -> None:
        """Put a text at the end of the pool."""
        words = rouge_words(text)
        for key in _numbered(words):
            self._holders.setdefault(key, array("q")).append(len(self._texts))
        self._texts.append(words)
        self._lengths.append(len(words))

    def nearest(self, text: str, least: float = 0.0) -> Nearest | None:
        """Find a text of the pool with the highest F.

        Args:
            text: the new one; it is not added.
            least: an F below it is of no interest; a higher one makes the search faster.

        Returns:
            One of the nearest; None where no F is above 0 and at least `least`.
        """
        words = rouge_words(text)
        places, full = _places(words), (1 << len(words)) - 1
        bounds = self._bounds(words)
        asked = np.flatnonzero((bounds >= least) & (bounds > 0))
        best: Nearest | None = None
        for index in asked[np.argsort(-bounds[asked], kind="stable")].tolist():
            if best is not None and bounds[index] <= best.f1:
                break
            other = self._texts[index]
            f1 = 2 * _lcs_length(places, full, other) / (len(words) + len(other))
            if f1 >= least and f1 > (best.f1 if best else 0.0):
                best = Nearest(index, f1)
        return best

    def _bounds(self, words: list[str]) -> Array:
        """Return for each text an F that its own cannot exceed, (texts,) float64."""
        empty = array("q")
        held = [np.frombuffer(self._holders.get(key, empty), np.int64) for key in _numbered(words)]
        shared = np.bincount(np.concatenate([np.empty(0, np.int64), *held]), minlength=len(self))
        lengths = np.array(self._lengths, np.int64)
        return 2 * shared / np.maximum(lengths + len(words), 1)


def _words(text: str | Sequence[str]) -> Sequence[str]:
    return rouge_words(text) if isinstance(text, str) else text


def _lcs_length(places: dict[Hashable, int], full: int, b: Iterable[Hashable]) -> int:
    """Walk over b; places and full are the bits of a. A word that a lacks changes no row."""
    row = full
    for word in b:
        if bits := places.get(word):
            matches = row & bits
            row = ((row + matches) | (row - matches)) & full
    return full.bit_length() - row.bit_count()


def _places(words: Sequence[Hashable]) -> dict[Hashable, int]:
    """Return for each word the bits of the places where it stands."""
    places: dict[Hashable, int] = {}
    for i, word in enumerate(words):
        places[word] = places.get(word, 0) | 1 << i
    return places


def _numbered(words: Iterable[str]) -> list[tuple[str, int]]:
    """Tell the first, second, ... time of a word apart."""
    return [(word, n) for word, count in Counter(words).items() for n in range(count)]
