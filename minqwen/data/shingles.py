"""Shingles: a document as the set of its runs of k characters, each run a number.

    S(d) = the set of all runs of k characters (or tokens) of d, its shingles
    J(d, e) = |S(d) and S(e)| / |S(d) or S(e)|                       the Jaccard similarity

A run c_1 ... c_k of letters, from 1 on, becomes a polynomial in an odd constant B,

    x = c_1 B^(k-1) + c_2 B^(k-2) + ... + c_k   (mod 2^64)

which `mix` then scatters, one to one, because sums follow lines and a hash must not. All runs are
summed at once: those of 2 m letters from two of m that follow each other, those of 2 m + 1 from
one of 2 m and a letter. That takes log2 k steps.

Do two runs get one number? Their polynomials are equal if their differences d_i, letter by letter,
have sum_i d_i B^(k-i) = 0 (mod 2^64). These d form the lattice of the spectral test of generators
x -> B x + c, and B is one whose lattices have no short vectors: none shorter than 6598 at k = 5, so
letters that are at most 6598 / sqrt(5) = 2950 apart, such as Latin, Greek, Cyrillic, Arabic and
Hindi together, never meet. At k = 3 all of Unicode never meets. Of the other runs, a pair meets
with a chance of about 2^-64. The last 3 bits are shifted out, to stay below 2^61 for minhash.py:
of n different runs, a pair gets one number with a chance of about n^2 / 2^62.

Paper:    Qwen Technical Report, 2.1 Data: fuzzy deduplication with MinHash and LSH.
Origin:   Broder 1997, On the resemblance and containment of documents; Karp and Rabin 1987 (the
          polynomial); Steele and Vigna 2021, Computationally easy, spectrally good multipliers (B);
          Steele, Lea and Flood 2014 (SplitMix, whose last step is mix).
Differs:  the report gives no sizes, and not what its shingles are made of.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b

import numpy as np

from ..backend import Array, array_module

PRIME = 2**61 - 1  # numbers of shingles do not exceed it
BASE = 0xD1342543DE82EF95  # B
BLOCK = 2**14  # runs at a time: what a step needs stays in the processor's cache


def mix(x: Array) -> Array:
    """Scatter uint64 numbers over all of 64 bits, one to one: the last step of SplitMix64.

    >>> int(mix(np.array([0], np.uint64))[0])  # the only number that stays
    0
    """
    x = x ^ (x >> 30)  # a new array, which the next lines may change
    x *= 0xBF58476D1CE4E5B9  # these products wrap, and should
    x ^= x >> 27
    x *= 0x94D049BB133111EB
    x ^= x >> 31
    return x


def letters(document: str | Sequence[int] | Array, ngram_size: int) -> Array:
    """Return the characters or tokens of a document as numbers from 1 on.

    A document that is shorter than one run is filled up in front with zeros, which add nothing to a
    polynomial: it has one run, all of it. An empty one stays empty.

    Args:
        document: a text, or the ids of tokens, not negative.
        ngram_size: k, characters or tokens in a shingle.

    Returns:
        (n,) uint64, n = 0 or n >= ngram_size.

    Raises:
        TypeError: the document is neither a text nor integers in one row.
        ValueError: ngram_size is not positive, or an id is negative.

    >>> letters([5, 7], 3).tolist()
    [0, 6, 8]
    """
    if ngram_size < 1:
        raise ValueError(f"ngram_size must be positive, got {ngram_size}")
    if isinstance(document, str):
        codes = np.frombuffer(document.encode("utf-32-le", "surrogatepass"), "<u4")
    else:
        codes = np.asarray(document)
        if codes.ndim != 1 or (codes.size and codes.dtype.kind not in "iu"):
            raise TypeError(f"document must be a text or ids, got {codes.dtype} of {codes.shape}")
        if codes.size and codes.min() < 0:
            raise ValueError(f"document holds the id {codes.min()}, ids are not negative")
    numbers = codes.astype(np.uint64)
    numbers += 1
    if 0 < len(numbers) < ngram_size:
        numbers = np.concatenate([np.zeros(ngram_size - len(numbers), np.uint64), numbers])
    return numbers


def run_numbers(x: Array, ngram_size: int) -> Array:
    """Return the number of each run of ngram_size letters.

    Args:
        x: (n,) uint64, as from letters.
        ngram_size: k.

    Returns:
        (max(n - k + 1, 0),) uint64 below 2^61, in the order of the runs.

    >>> one, two, three = run_numbers(np.array([1, 2, 1, 2], np.uint64), 2).tolist()
    >>> one == three, one == two  # 12, 21, 12
    (True, False)
    """
    xp = array_module(x)
    numbers: Array = xp.empty(max(len(x) - ngram_size + 1, 0), np.uint64)
    step = max(BLOCK, ngram_size)
    for start in range(0, len(numbers), step):
        part = x[start : start + step + ngram_size - 1]
        numbers[start : start + step] = _run_numbers(part, ngram_size)
    return numbers


def _run_numbers(x: Array, ngram_size: int) -> Array:
    runs, length = x, 1
    for bit in f"{ngram_size:b}"[1:]:  # the length grows from its first binary digit to all of them
        runs = runs[:-length] * pow(BASE, length, 2**64) + runs[length:]
        length *= 2
        if bit == "1":
            runs = runs[:-1] * BASE + x[length:]
            length += 1
    numbers: Array = mix(runs)
    numbers >>= 3
    return numbers


def shingles(document: str | Sequence[int] | Array, ngram_size: int) -> Array:
    """Return the set of shingles of a document, each as a number.

    Characters, not words, so that Chinese works. A document shorter than ngram_size has one
    shingle, all of it; an empty one has none.

    Args:
        document: a text, or the ids of tokens, not negative.
        ngram_size: k, characters or tokens in a shingle.

    Returns:
        (n,) uint64 below 2^61, each once, ascending.

    Raises:
        TypeError, ValueError: as of letters.

    >>> [len(shingles(text, 2)) for text in ("abab", "a", "")]  # ab, ba; a; none
    [2, 1, 0]
    """
    numbers = run_numbers(letters(document, ngram_size), ngram_size)
    numbers.sort()
    first = np.ones(len(numbers), bool)  # of its kind; np.unique takes three times as long
    np.not_equal(numbers[1:], numbers[:-1], out=first[1:])
    return np.compress(first, numbers)


def groups(rows: Iterable[Array], least: int) -> Iterator[list[Array]]:
    """Yield the rows again, in lists that hold `least` numbers or a few more.

    >>> [len(group) for group in groups([np.zeros(3)] * 3, least=4)]
    [2, 1]
    """
    group: list[Array] = []
    size = 0
    for row in rows:
        group.append(row)
        size += len(row)
        if size >= least:
            yield group
            group, size = [], 0
    if group:
        yield group


def joined(group: list[Array]) -> tuple[Array, Array]:
    """Return all numbers of a group in one row, and beside each which of the group it is from.

    >>> [x.tolist() for x in joined([np.array([5, 7]), np.array([], int), np.array([9])])]
    [[5, 7, 9], [0, 0, 2]]
    """
    return np.concatenate(group), np.repeat(np.arange(len(group)), [len(x) for x in group])


def set_digest(shingle_set: Array) -> bytes:
    """Return the 16 bytes that stand for a set of shingles, ascending.

    >>> set_digest(shingles("abab", 2)) == set_digest(shingles("baba", 2))  # ab, ba
    True
    """
    return blake2b(shingle_set.tobytes(), digest_size=16).digest()


def jaccard(one: Array, other: Array) -> float:
    """Return the share of shingles that two sets have in common; 1 when both are empty.

    Args:
        one, other: of shingles, each number once, ascending.

    >>> jaccard(shingles("abcd", 2), shingles("bcde", 2))  # bc, cd of ab, bc, cd, de
    0.5
    """
    both = np.concatenate([one, other])
    both.sort(kind="stable")  # of two sorted runs: merges them
    common = int((both[1:] == both[:-1]).sum())
    return common / (len(both) - common) if len(both) else 1.0
