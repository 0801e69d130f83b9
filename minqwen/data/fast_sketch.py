"""Fast similarity sketching: signatures like MinHash's, in n + P log P steps instead of n P.

A signature has P bins. In round i = 0 ... 2P - 1 every shingle x of the document is thrown once,
and each bin keeps the least of what fell into it:

    h_i(x) = mix(x + mix(seed B + i + 1))      64 bits, another function in each round
    the bin: h's upper 24 bits, times P / 2^24           i < P;    bin i - P for i >= P
    the value: (i, h's lower 40 bits)                    the round counts more than the bits

MinHash asks P functions about each of n shingles. Here each shingle is asked once a round, and the
rounds end when all bins are full, for no later one could win: n/P shingles fall into a bin at a
time, so a set of more than P log P needs one round as a rule, and others as many as make P log P
throws. What is empty after P rounds is filled by the next P, each made for one bin: no set but the
empty one leaves a bin empty.

Equal entries. The rule favours no shingle, so of the union of two sets each shingle is the least in
a bin with the same chance, and the sets have the same entry just where that one lies in both. Hence
the share of equal entries estimates the Jaccard similarity J without bias, for any n.

Two bins that one round filled hold different shingles, as if drawn without putting back; two bins
of different rounds know nothing of each other. With n shingles in the union, and the chance s that
two bins were filled in the same round, the variance is

    J (1 - J) / P  (1 - s (P - 1) / (n - 1))

s is 0 for MinHash, so this is never less sharp. For n far above P, s = 1: the factor is that of
drawing P of n. For n far below P, s = (n - 1) / (2 P) and the factor is one half. One-permutation
hashing, which stops after one round and fills the empty bins with copies of others, does worse than
MinHash on such short documents.

The bands of lsh.py find what the S-curve says for n far above P. For n up to P the curve is a
little steeper: more of the pairs above the threshold are found, and fewer of those below.

Paper:    Qwen Technical Report, 2.1 Data: fuzzy deduplication with MinHash and LSH.
Origin:   Dahlgaard, Knudsen and Thorup 2017, Fast similarity sketching, arXiv:1704.04370.
Differs:  the report names MinHash. The paper draws the bin and the value from two tabulation
          hashes; both are parts of one number here. Two values tie with the chance n / (P 2^40).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from ..backend import Array, array_module
from ..shapes import require_axes
from .shingles import BASE, groups, joined, letters, mix, run_numbers

EMPTY = 2**64 - 1  # an empty set has it in every bin; no value is as large
LOW40 = 2**40 - 1
BLOCK = 2**14  # numbers at a time: what a step needs stays in the processor's cache
LONG = 2**18  # shingles of a long document at a time, so that memory stays bounded


def fast_sketch(shingle_set: Array, num_perm: int, seed: int) -> Array:
    """Return the signature of a set of shingles. Only those of one num_perm and seed compare.

    Args:
        shingle_set: (n,) uint64, as from shingles; order and repeats do not matter.
        num_perm: P, the length of the signature, below 2^23.
        seed: of the functions h_i.

    Returns:
        (P,) uint64; EMPTY everywhere for an empty set, which so equals other empty ones only.

    Raises:
        TypeError: shingle_set is not uint64.
        ValueError: shingle_set has not one axis, or num_perm is out of range.

    >>> one, more = np.arange(1, 31, dtype=np.uint64), np.arange(1, 41, dtype=np.uint64)
    >>> a, b = (fast_sketch(x, num_perm=1000, seed=0) for x in (one, more))
    >>> 0.7 < float((a == b).mean()) < 0.8  # J = 30 / 40
    True
    """
    owner = array_module(shingle_set).zeros(len(require_set(shingle_set)), np.int64)
    signature: Array = throw(shingle_set, owner, 1, num_perm, seed)[0]
    return signature


def sketch_sets(shingle_sets: Iterable[Array], num_perm: int, seed: int) -> Array:
    """Return the signatures of many sets, (n, P) uint64: fast_sketch of each, small ones together.

    Args:
        shingle_sets: each (n,) uint64, on the host; read when needed.
        num_perm, seed: as of fast_sketch.

    Raises: as of fast_sketch.

    >>> one, other = (np.array(x, np.uint64) for x in ([1, 2], [3, 4, 5]))
    >>> one, same, other = sketch_sets([one, one[::-1], other], num_perm=16, seed=0)
    >>> int((one == same).sum()), int((one == other).sum())
    (16, 0)
    """
    parts = (
        (*joined(group), len(group)) for group in groups(map(require_set, shingle_sets), BLOCK)
    )
    return throw_parts(parts, num_perm, seed)


def fast_sketches(
    documents: Iterable[str | Sequence[int] | Array], num_perm: int, seed: int, ngram_size: int
) -> Array:
    """Return the signatures of many documents, (n, P) uint64: fast_sketch of each one's shingles.

    Args:
        documents: texts, or the ids of tokens; read when needed.
        num_perm, seed: as of fast_sketch.
        ngram_size: k, characters or tokens in a shingle.

    Raises: as of letters and fast_sketch.

    >>> one, same, other = fast_sketches(["abc", "abc", "xyz"], num_perm=16, seed=0, ngram_size=2)
    >>> int((one == same).sum()), int((one == other).sum())
    (16, 0)
    """

    def runs(group: list[Array]) -> tuple[Array, Array]:  # with repeats: faster than without
        row, owner = joined(group)
        first, last = owner[: 1 - ngram_size or None], owner[ngram_size - 1 :]
        inside = first == last  # and not over the end of a document
        return np.compress(inside, run_numbers(row, ngram_size)), np.compress(inside, first)

    rows = groups((letters(document, ngram_size) for document in documents), BLOCK)
    return throw_parts(((*runs(group), len(group)) for group in rows), num_perm, seed)


def require_set(shingle_set: Array) -> Array:
    """Return the argument, if it is (n,) uint64.

    >>> require_set(np.ones(2))
    Traceback (most recent call last):
    ...
    TypeError: shingle_set must be uint64, got float64
    """
    require_axes("shingle_set", shingle_set, "n")
    if shingle_set.dtype != np.uint64:
        raise TypeError(f"shingle_set must be uint64, got {shingle_set.dtype}")
    return shingle_set


def throw_parts(parts: Iterable[tuple[Array, Array, int]], num_perm: int, seed: int) -> Array:
    """Return the signatures that throw makes of each (x, owner, n), in one array.

    >>> throw_parts([], num_perm=3, seed=0).shape
    (0, 3)
    """
    nothing = throw(np.empty(0, np.uint64), np.empty(0, np.int64), 0, num_perm, seed)
    return np.concatenate([nothing, *(throw(*part, num_perm, seed) for part in parts)])


def throw(x: Array, owner: Array, n: int, num_perm: int, seed: int) -> Array:
    """Fill the bins of n sets at once.

    Args:
        x: (m,) uint64, the shingles of all sets.
        owner: (m,) int64, the set that each belongs to, in [0, n).
        n: sets.
        num_perm, seed: as of fast_sketch.

    Returns:
        (n, P) uint64.

    Raises:
        ValueError: num_perm is out of range.

    >>> (throw(np.array([4], np.uint64), np.array([1]), 2, num_perm=3, seed=0) == EMPTY).tolist()
    [[True, True, True], [False, False, False]]
    """
    if not 0 < num_perm < 2**23:
        raise ValueError(f"num_perm must be positive and below 2^23, got {num_perm}")
    xp, P = array_module(x), num_perm
    first_key = (seed * BASE + 1) % 2**64
    bins: Array = xp.full((n, P), EMPTY, np.uint64)
    i, unfilled = 0, n
    while i < 2 * P and unfilled and len(x):
        some = max(1, min(BLOCK, unfilled * P * P.bit_length()) // len(x))  # for each step costs
        rounds = xp.arange(i, min(i + some, 2 * P), dtype=np.uint64)[:, None]
        keys = mix(rounds + first_key)
        i += some  # rounds that come too late for a set change nothing in it
        for start in range(0, len(x), LONG):
            part = slice(start, start + LONG)
            h = mix(x[part] + keys)  # (rounds, m), or a part of m
            into = (h >> 40) * P >> 24
            if i > P:  # the rounds that are made for one bin
                into = xp.where(rounds < P, into, rounds - P)
            place = owner[part] * P + into.view(np.int64)
            h &= LOW40
            h |= rounds << 40
            xp.minimum.at(bins.reshape(-1), place.reshape(-1), h.reshape(-1))
        not_full = (bins == EMPTY).any(axis=1)
        unfilled = int(not_full.sum())
        if unfilled:
            still = xp.flatnonzero(not_full[owner])
            x, owner = x[still], owner[still]
    return bins
