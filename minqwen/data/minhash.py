"""MinHash: a short signature of a document, from which its likeness to others can be estimated.

    S(d) = the set of all runs of k characters (or tokens) of d, its shingles
    J(d, e) = |S(d) and S(e)| / |S(d) or S(e)|                       the Jaccard similarity
    h_j(x) = (a_j x + b_j) mod p        p = 2^61 - 1        j = 1 ... P
    signature_j(d) = min of h_j(x) over x in S(d)

If h_j orders all shingles at random, the least one of both sets together lies in both with the
chance J, and just then the two minima are equal. So the share of equal entries estimates J without
bias, with the standard error sqrt(J (1 - J) / P): each entry is one throw of a coin.

x is the number of a shingle, at most p, as shingles.py gives it. The product a x has 122 bits,
uint64 has 64. With halves a = a1 2^31 + a0, x = x1 2^31 + x0 and m = a1 x0 + a0 x1 < 2^62:

    a x = a1 x1 2^62 + m 2^31 + a0 x0
        = 2 a1 x1 + m // 2^30 + (m mod 2^30) 2^31 + a0 x0   (mod p), because 2^61 = 1 (mod p)

and, b too, less than 2^63 + 2^61 + 2^32: nothing wraps. Folding the bits above 61 and taking p off
where it fits bring the sum below p.

Paper:    Qwen Technical Report, 2.1 Data: fuzzy deduplication with MinHash and LSH.
Origin:   Broder 1997, On the resemblance and containment of documents; Carter and Wegman 1979.
Differs:  the report gives no sizes. Common programs hash to 32 bits and let a x wrap in 64: their
          signatures are MinHash as well, but not of this family, so the two cannot be mixed. The
          same estimate for less work: fast_sketch.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from ..backend import Array, array_module
from ..shapes import require_axes, require_same_shape
from .shingles import PRIME, shingles

BLOCK = 2**14  # hashes at a time, so that the steps of the sum above stay in the processor's cache
LOW30, LOW31 = 2**30 - 1, 2**31 - 1


class Family(NamedTuple):
    a: Array  # (P,) uint64 in [1, PRIME)
    b: Array  # (P,) uint64 in [0, PRIME)


class Similarity(NamedTuple):
    jaccard: float  # share of equal entries
    standard_error: float  # of it, taken at the estimate: 0 when all or none are equal


def minhash_family(num_perm: int, seed: int) -> Family:
    """Draw P hash functions. Only signatures of one family can be compared.

    Args:
        num_perm: P, the length of a signature.
        seed: the same seed gives the same functions.

    Raises:
        ValueError: num_perm is not positive.

    >>> len(minhash_family(num_perm=8, seed=0).a)
    8
    """
    if num_perm < 1:
        raise ValueError(f"num_perm must be positive, got {num_perm}")
    rng = np.random.default_rng([seed, num_perm])
    return Family(
        rng.integers(1, PRIME, num_perm, dtype=np.uint64),
        rng.integers(0, PRIME, num_perm, dtype=np.uint64),
    )


def hashes(x: Array, family: Family, work: Array | None = None) -> Array:
    """Return (a_j x_i + b_j) mod PRIME, exactly.

    Args:
        x: (n,) uint64, at most PRIME.
        family: of P functions, on the device of x.
        work: (3, P, n) uint64 to write over. Fetching fresh memory costs nearly as much.

    Returns:
        (P, n) uint64 below PRIME; with work, a part of it.

    >>> hashes(np.array([2**60], np.uint64), Family(*np.array([[2], [5]], np.uint64)))
    array([[6]], dtype=uint64)
    """
    xp = array_module(x)
    a, b = family.a[:, None], family.b[:, None]
    a1, a0, x1, x0 = a >> 31, a & LOW31, x >> 31, x & LOW31
    work = xp.empty((3, len(a), len(x)), np.uint64) if work is None else work
    middle, product, total = work[0], work[1], work[2]
    xp.multiply(a1, x0, out=middle)
    middle += xp.multiply(a0, x1, out=product)
    xp.multiply(a1 << 1, x1, out=total)
    total += b
    total += xp.multiply(a0, x0, out=product)
    total += xp.right_shift(middle, 30, out=product)
    middle &= LOW30
    middle <<= 31
    total += middle
    xp.right_shift(total, 61, out=product)
    total &= PRIME
    total += product  # at most PRIME + 5
    xp.subtract(total, PRIME, out=product)  # wraps to a large number where total is below PRIME
    reduced: Array = xp.minimum(total, product, out=product)
    return reduced


def minhash_signature(shingle_set: Array, family: Family) -> Array:
    """Return the least hash of a set of shingles under each function.

    Args:
        shingle_set: (n,) uint64, at most PRIME, as from shingles.
        family: of P functions.

    Returns:
        (P,) uint64; PRIME, larger than any hash, everywhere for an empty set, which so equals
        other empty ones only.

    Raises:
        TypeError: shingle_set is not uint64.

    >>> family = Family(*np.array([[1, 1], [0, 5]], np.uint64))  # h(x) = x and x + 5
    >>> minhash_signature(np.array([3, 7], np.uint64), family).tolist()
    [3, 8]
    """
    require_axes("shingle_set", shingle_set, "n")
    if shingle_set.dtype != np.uint64:
        raise TypeError(f"shingle_set must be uint64, got {shingle_set.dtype}")
    xp, P = array_module(shingle_set), len(family.a)
    signature: Array = xp.full(P, PRIME, np.uint64)
    step = max(1, BLOCK // P)
    work = xp.empty((3, P, min(step, len(shingle_set))), np.uint64)
    for start in range(0, len(shingle_set), step):
        x = shingle_set[start : start + step]
        signature = xp.minimum(signature, hashes(x, family, work[:, :, : len(x)]).min(axis=1))
    return signature


def minhash_signatures(
    documents: Iterable[str | Sequence[int] | Array], family: Family, ngram_size: int
) -> Array:
    """Return the signatures of many documents, (n, P) uint64. Reads one document at a time.

    Raises: as of shingles.

    >>> family = minhash_family(num_perm=16, seed=0)
    >>> one, same, other = minhash_signatures(["abc", "abc", "xyz"], family, ngram_size=2)
    >>> int((one == same).sum()), int((one == other).sum())
    (16, 0)
    """
    rows = [minhash_signature(shingles(d, ngram_size), family) for d in documents]
    return np.stack(rows) if rows else np.empty((0, len(family.a)), np.uint64)


def minhash_jaccard(one: Array, other: Array) -> Similarity:
    """Estimate the Jaccard similarity of two documents from their signatures.

    Args:
        one, other: (P,) uint64 of the same family.

    >>> minhash_jaccard(np.array([1, 2, 3, 4]), np.array([1, 2, 3, 9]))
    Similarity(jaccard=0.75, standard_error=0.21650635094610965)
    """
    require_axes("one", one, "P")
    require_same_shape(one=one, other=other)
    P, j = len(one), float((one == other).mean())
    return Similarity(j, (j * (1 - j) / P) ** 0.5)
