"""Decontamination: what repeats a passage of a test set is not trained on.

    overlap = the runs of n words of a document that stand in a test text too      n = 13

Words are brought to one form (NFKC, lower case) and signs are left out, so that a comma more does
not hide a copy; a character of Chinese and the like is a word (text_units.py).

Words are numbered from 1 as the test texts have them, and any other word is 0, which none of theirs
is. A run becomes the polynomial of its words (shingles.py), and is sought among those of
the test texts in order, so a document costs little more than to divide it, however large the test
sets are. A run that is in none is taken for one that is with a chance of 2^-61 for each of theirs.

Paper:    Qwen Technical Report, 2.1 Data: instruction samples that share 13-grams with the test
          sets are left out.
Origin:   Brown et al. 2020 (GPT-3), arXiv:2005.14165, appendix C.
Differs:  the report does not say what its 13 are of. Qwen2 also asks for a long common subsequence,
          of 13 words and of 60 % of the shorter text, so that common phrases alone drop nothing;
          here they do. A test text of fewer than n words is not looked for: `short` counts these.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

import numpy as np

from ..backend import Array
from .quality_rules import Rule
from .shingles import mix, run_numbers
from .text_units import UNDIVIDED, DividedText, normalise

WORDS = re.compile(rf"[{UNDIVIDED}]|[^\W{UNDIVIDED}]+")


class HeldOut(NamedTuple):
    number: dict[str, int]  # of each word of the test texts, from 1
    runs: Array  # (m,) uint64, ascending, of their runs
    ngram_size: int  # n
    short: int  # test texts that have fewer words


def hold_out(texts: Iterable[str], ngram_size: int = 13) -> HeldOut:
    """Prepare test texts, whose passages are to be found.

    Args:
        texts: of the test sets: questions, and answers if they shall not be learnt either.
        ngram_size: n, words in a row that are an overlap.

    Raises:
        TypeError: texts is one text.
        ValueError: ngram_size is not positive, or no text has as many words.

    >>> hold_out(["What is two plus two?", "Why?"], ngram_size=3).short
    1
    """
    if isinstance(texts, str):
        raise TypeError("texts must be several texts, got one")
    if ngram_size < 1:
        raise ValueError(f"ngram_size must be positive, got {ngram_size}")
    number: dict[str, int] = {}
    runs, short = [np.empty(0, np.uint64)], 0
    for text in texts:
        words = WORDS.findall(normalise(text))
        short += len(words) < ngram_size
        ids = np.array([number.setdefault(w, len(number) + 1) for w in words], np.uint64)
        runs.append(run_numbers(mix(ids), ngram_size))
    found = np.unique(np.concatenate(runs))
    if not len(found):
        raise ValueError(f"no test text has {ngram_size} words, nothing can be found")
    return HeldOut(number, found, ngram_size, short)


def find_overlaps(held_out: HeldOut, text: str) -> list[str]:
    """Return the runs of a document that stand in a test text, in order.

    >>> held_out = hold_out(["What is two plus two?"], ngram_size=3)
    >>> find_overlaps(held_out, "So: what IS two, minus two?")
    ['what is two']
    """
    words, n = WORDS.findall(normalise(text)), held_out.ngram_size
    ids = np.array([held_out.number.get(word, 0) for word in words], np.uint64)
    runs = run_numbers(mix(ids), n)
    place = np.searchsorted(held_out.runs, runs)
    found = held_out.runs[np.minimum(place, len(held_out.runs) - 1)] == runs
    return [" ".join(words[i : i + n]) for i in np.flatnonzero(found).tolist()]


def overlap_rule(held_out: HeldOut) -> Rule:
    """Make a rule for `judge` of quality_rules: no overlap with the test sets.

    >>> from minqwen.data.quality_rules import judge
    >>> rule = overlap_rule(hold_out(["What is two plus two?"], ngram_size=3))
    >>> judge("What is two?", [rule]).failures[0].reason
    'overlap with test sets: 1, "what is two", wanted at most 0 (Qwen, 2.1)'
    """
    explain = partial(_explain, held_out)
    return Rule("overlap with test sets", partial(_measure, held_out), 0, 0, "Qwen, 2.1", explain)


def _measure(held_out: HeldOut, text: DividedText) -> float:
    return len(find_overlaps(held_out, text.text))


def _explain(held_out: HeldOut, text: DividedText) -> str:
    return f'"{find_overlaps(held_out, text.text)[0]}"'
