"""Fuzzy deduplication: of documents that are nearly alike, the first stays.

    signatures -> candidates that share a band -> those whose true Jaccard similarity is at least t
    -> clusters, each of documents that such pairs join, directly or over others
    -> of each cluster the document with the lowest index is kept

Signatures are of fast_sketch.py or of minhash.py. The first is the default: for the same bands it
finds at least as many of the pairs above the threshold and no more of the others, and it asks each
shingle about once, not P times. The second is what the report names, and the one to read first.

Because each pair is verified on the shingles themselves, nothing is dropped for an error of the
estimate; what the bands miss, 1 - P(s) of the pairs of similarity s, stays in. A chain joins: if
1 is like 2 and 2 is like 3, then 3 goes with 1, even where 1 and 3 are less alike than t.

Documents with the same shingles are joined at once and only the first of them goes on, else a
thousand copies would be half a million pairs. A pair that is joined already is not compared.
Memory: 8 P bytes a document for signatures, and 16 bytes a candidate; shingles are made again when
a pair is compared.

Paper:    Qwen Technical Report, 2.1 Data: fuzzy deduplication with MinHash and LSH.
Origin:   Broder 1997; union-find: Galler and Fischer 1964.
Differs:  the report gives no sizes; 240 entries and a threshold of 0.7 are those of the program
          text-dedup, with shingles of characters instead of words. It names MinHash, which is here
          sketch="minhash".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np

from ..backend import Array
from .fast_sketch import sketch_sets
from .lsh import Bands, lsh_candidates, lsh_choose, lsh_keys
from .minhash import minhash_family, minhash_signature
from .shingles import jaccard, set_digest, shingles


class FuzzyCopy(NamedTuple):
    document: int  # index of the one that is dropped
    copy_of: int  # index of the one kept in its place, the lowest of its cluster
    similarity: float  # true Jaccard of the two; below the threshold only at the end of a chain


class FuzzyReport(NamedTuple):
    kept: list[int]  # ascending
    dropped: list[FuzzyCopy]  # ascending
    candidates: int  # pairs of documents with different shingles that share a band
    compared: int  # of those, pairs that were not joined yet, whose true similarity was computed


def fuzzy_dedup(
    documents: Sequence[str] | Sequence[Sequence[int]] | Sequence[Array],
    threshold: float = 0.7,
    *,
    num_perm: int = 240,
    ngram_size: int = 5,
    seed: int = 0,
    bands: Bands | None = None,
    sketch: Literal["fast", "minhash"] = "fast",
) -> FuzzyReport:
    """Say which documents stay, and of which kept one each of the others is nearly a copy.

    Args:
        documents: texts, or the ids of tokens; each is read again when it is a candidate.
        threshold: t, least Jaccard similarity of a pair that is joined, 0 < t < 1.
        num_perm: P, entries of a signature.
        ngram_size: characters or tokens in a shingle.
        seed: of the hash functions.
        bands: how the signatures are cut; None: lsh_choose(threshold, num_perm).
        sketch: what makes the signatures, fast_sketch.py or minhash.py.

    Raises:
        TypeError, ValueError: as of shingles, lsh_choose, lsh_keys and signatures.

    >>> texts = ["the cat sat on the mat", "something else altogether", "the cat sat on the mat."]
    >>> fuzzy_dedup(texts).dropped  # 18 shingles, and one more
    [FuzzyCopy(document=2, copy_of=0, similarity=0.9473684210526315)]
    """
    chosen = lsh_choose(threshold, num_perm)
    bands = chosen if bands is None else bands
    shingles_of = lru_cache(maxsize=256)(lambda i: shingles(documents[i], ngram_size))
    parent, first = list(range(len(documents))), dict[bytes, int]()

    def distinct_sets() -> Iterator[Array]:
        for i in range(len(documents)):
            parent[i] = first.setdefault(set_digest(shingles_of(i)), i)
            if parent[i] == i:
                yield shingles_of(i)

    keys = lsh_keys(signatures(distinct_sets(), sketch, num_perm, seed), *bands)
    distinct = np.array(list(first.values()), int)  # ascending: a dictionary keeps its order
    candidates = distinct[lsh_candidates(keys)]

    compared = 0
    for one, other in candidates.tolist():
        if root(parent, one) != root(parent, other):
            compared += 1
            if jaccard(shingles_of(one), shingles_of(other)) >= threshold:
                join(parent, one, other)
    report = FuzzyReport([], [], len(candidates), compared)
    for i in range(len(documents)):
        keep = root(parent, i)
        if keep == i:
            report.kept.append(i)
        else:
            likeness = jaccard(shingles_of(keep), shingles_of(i))
            report.dropped.append(FuzzyCopy(i, keep, likeness))
    return report


def signatures(sets: Iterable[Array], sketch: str, num_perm: int, seed: int) -> Array:
    """Return the signatures of many sets of shingles, (n, P) uint64.

    Raises:
        ValueError: there is no such sketch, or num_perm is out of range.

    >>> signatures([shingles("some text", 5)], "fast", num_perm=8, seed=0).shape
    (1, 8)
    """
    if sketch == "fast":
        return sketch_sets(sets, num_perm, seed)
    if sketch == "minhash":
        family = minhash_family(num_perm, seed)
        rows = [minhash_signature(x, family) for x in sets]
        return np.array(rows, np.uint64).reshape(-1, num_perm)
    raise ValueError(f'sketch must be "fast" or "minhash", got {sketch!r}')


def root(parent: list[int] | Array, i: int) -> int:
    """Return the lowest thing of the cluster of thing i: the end of the way up from it.

    Halves the way as it goes, so that the next walk is shorter.

    Args:
        parent: for each thing a lower one of its cluster, or itself; changed by the halving.
        i: a thing, not negative.

    >>> root([0, 0, 1], 2)
    0
    """
    while parent[i] != i:
        parent[i] = i = parent[parent[i]]
    return i


def join(parent: list[int] | Array, one: int, other: int) -> None:
    """Make one cluster of those of two things; changes parent.

    >>> parent = [0, 1, 2, 3]
    >>> join(parent, 3, 2)
    >>> join(parent, 1, 3)
    >>> [root(parent, i) for i in range(4)]
    [0, 1, 1, 1]
    """
    low, high = sorted((root(parent, one), root(parent, other)))
    parent[high] = low
