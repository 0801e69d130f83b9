"""Hashed n-grams: a text as a sparse row of numbers, without a vocabulary.

    x_j = sqrt(count of the features in bucket j / all features)        so that |x| = 1

Features are words, phrases of words, and runs of characters, of the normalised text; a character
of Chinese and the like is a word (text_units.py). Features that share a bucket are added.

The hash. With c_k the mixed code of character k and B odd,

    S_e = sum over k < e of c_k B^k                 modulo 2^64, as unsigned integers wrap
    hash of characters s to e = (S_e - S_s) B^-s    the same wherever the characters stand

so every span costs two look-ups. It is mixed with a number for its kind and cut to V buckets. No
part depends on Python's own hash, which differs from process to process.

Origin:   Weinberger et al. 2009, arXiv:0902.2206; Karp and Rabin 1987; the mixing is splitmix64.
Differs:  Weinberger hashes a sign too, so that collisions cancel on average; here they add up.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from ..backend import Array
from .text_units import normalise, token_spans

BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
UNBASE = pow(BASE, -1, 2**64)


class HashedTexts(NamedTuple):
    text: Array  # (M,) int64, which text an entry belongs to
    bucket: Array  # (M,) int64
    value: Array  # (M,) float64, of x
    texts: int  # N


def hash_texts(
    texts: Iterable[str],
    buckets: int,
    character_ngrams: Sequence[int] = (2, 3, 4),
    word_ngrams: Sequence[int] = (1, 2),
) -> HashedTexts:
    """Turn texts into rows of a sparse matrix, each of length 1; an empty text is all zeros.

    Args:
        texts: documents, of any language.
        buckets: V, columns.
        character_ngrams: lengths of the runs of characters.
        word_ngrams: lengths of the phrases.

    Raises:
        ValueError: a number is not positive.

    >>> x = hash_texts(["a b", "b"], 2**18, character_ngrams=(), word_ngrams=(1,))
    >>> x.text.tolist(), (x.value**2).round(6).tolist()
    ([0, 0, 1], [0.5, 0.5, 1.0])
    """
    if min([buckets, *character_ngrams, *word_ngrams]) < 1:
        raise ValueError(
            f"buckets and n-grams must be positive, got {buckets}, {tuple(character_ngrams)} and "
            f"{tuple(word_ngrams)}"
        )
    rows = [_hash_text(text, buckets, character_ngrams, word_ngrams) for text in texts]
    lengths = [len(bucket) for bucket, _ in rows]
    return HashedTexts(
        np.repeat(np.arange(len(rows)), lengths),
        np.concatenate([np.empty(0, np.int64), *(bucket for bucket, _ in rows)]),
        np.concatenate([np.empty(0), *(value for _, value in rows)]),
        len(rows),
    )


def _hash_text(
    text: str, buckets: int, character_ngrams: Sequence[int], word_ngrams: Sequence[int]
) -> tuple[Array, Array]:
    """Return the buckets of a text, each once and in order, and their values."""
    text = normalise(text)
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    n = len(codes)
    powers, unpowers = _powers(BASE, n), _powers(UNBASE, n)
    sums = np.cumsum(np.append(np.zeros(1, np.uint64), _mix(codes) * powers[:n]))

    starts, ends = token_spans(text)
    found = [np.empty(0, np.uint64)]
    for size in character_ngrams:
        spans = sums[size:] - sums[: max(0, n + 1 - size)]
        found.append(_mix(spans * unpowers[: len(spans)] + np.uint64(size)))
    for size in word_ngrams:
        first, last = starts[: max(0, len(starts) + 1 - size)], ends[size - 1 :]
        salt = np.uint64(2**32 + size)  # a word is another feature than the same run of characters
        found.append(_mix((sums[last] - sums[first]) * unpowers[first] + salt))
    features = np.concatenate(found)
    bucket, counts = np.unique(features % np.uint64(buckets), return_counts=True)
    return bucket.astype(np.int64), np.sqrt(counts / max(1, len(features)))


def _powers(base: int, n: int) -> Array:
    """Return base^0 to base^n modulo 2^64."""
    powers = np.full(n + 1, base, np.uint64)
    powers[0] = 1
    return np.multiply.accumulate(powers, out=powers)


def _mix(x: Array) -> Array:
    """Spread every bit over all 64 (splitmix64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    spread: Array = x ^ (x >> np.uint64(31))
    return spread
