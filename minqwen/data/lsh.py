"""Locality-sensitive hashing: find pairs of like documents without looking at all pairs.

    a signature of P entries is cut into b bands of r rows each      b r <= P
    two documents are candidates when any of their bands are equal throughout

Entries are equal with the chance s, the Jaccard similarity. A band of r is equal with s^r, none of
b with (1 - s^r)^b, hence

    P(s) = 1 - (1 - s^r)^b

an S-shaped curve that is steepest near (1 / b)^(1 / r). b and r are chosen so that the two areas
of error together are least, for a threshold t:

    integral of P from 0 to t (candidates that are not alike) + of 1 - P from t to 1 (missed pairs)

Both are polynomials in s of degree b r, so Gauss's rule with P / 2 + 1 points gives them exactly.

Paper:    Qwen Technical Report, 2.1 Data: fuzzy deduplication with MinHash and LSH.
Origin:   Indyk and Motwani 1998; Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, 3.4.
Differs:  the report gives no bands and no threshold.
"""

from __future__ import annotations

from typing import NamedTuple, overload

import numpy as np

from ..backend import Array, array_module
from ..shapes import require_axes
from .shingles import mix


class Bands(NamedTuple):
    bands: int  # b
    rows: int  # r, entries of the signature in each


@overload
def lsh_probability(similarity: float, bands: int, rows: int) -> float: ...
@overload
def lsh_probability(similarity: Array, bands: int, rows: int) -> Array: ...
def lsh_probability(similarity: float | Array, bands: int, rows: int) -> float | Array:
    """Return the chance that documents of this Jaccard similarity become candidates.

    >>> lsh_probability(0.5, bands=2, rows=1)  # either of two coins
    0.75
    """
    return 1 - (1 - similarity**rows) ** bands


def lsh_choose(threshold: float, num_perm: int) -> Bands:
    """Choose bands and rows whose curve errs least about a threshold, both errors weighing alike.

    Args:
        threshold: t, the Jaccard similarity from which on pairs shall be found, 0 < t < 1.
        num_perm: P, entries in a signature; some may stay unused.

    Raises:
        ValueError: threshold or num_perm is out of range.

    >>> lsh_choose(0.7, num_perm=240)
    Bands(bands=24, rows=10)
    """
    if not 0 < threshold < 1:
        raise ValueError(f"threshold must be between 0 and 1, got {threshold}")
    if num_perm < 1:
        raise ValueError(f"num_perm must be positive, got {num_perm}")
    points, weights = np.polynomial.legendre.leggauss(num_perm // 2 + 1)  # for -1 to 1
    points, weights = (points + 1) / 2, weights / 2

    def error(choice: Bands) -> float:
        low, high = threshold * points, threshold + (1 - threshold) * points
        false = threshold * (weights @ lsh_probability(low, *choice))
        missed = (1 - threshold) * (weights @ (1 - lsh_probability(high, *choice)))
        return float(false + missed)

    choices = [Bands(b, r) for r in range(1, num_perm + 1) for b in range(1, num_perm // r + 1)]
    return min(choices, key=error)


def lsh_keys(signatures: Array, bands: int, rows: int) -> Array:
    """Turn each band of each signature into one number, the key of a bucket.

    The number of the band goes into the key, so that equal entries in different bands, which come
    from different hash functions or bins and mean nothing, do not meet. Different bands get the
    same key with the chance 2^-64.

    Args:
        signatures: (n, P) uint64.
        bands, rows: b and r, b r <= P; entries past b r are not used.

    Returns:
        (n, bands) uint64.

    Raises:
        TypeError: signatures are not uint64.
        ValueError: bands or rows is not positive, or the signatures are too short.

    >>> one, two = lsh_keys(np.array([[3, 4, 5, 6], [3, 4, 9, 6]], np.uint64), bands=2, rows=2)
    >>> (one == two).tolist()
    [True, False]
    """
    require_axes("signatures", signatures, "n P")
    n, P = signatures.shape
    if signatures.dtype != np.uint64:
        raise TypeError(f"signatures must be uint64, got {signatures.dtype}")
    if bands < 1 or rows < 1 or bands * rows > P:
        raise ValueError(f"need 1 <= bands * rows <= P={P}, got {bands} * {rows}")
    xp = array_module(signatures)
    entries = signatures[:, : bands * rows].reshape(n, bands, rows)
    keys: Array = mix(xp.arange(1, bands + 1, dtype=np.uint64)) + xp.zeros((n, 1), np.uint64)
    for i in range(rows):
        keys = mix(keys + entries[:, :, i])
    return keys


def lsh_candidates(keys: Array) -> Array:
    """Return the pairs of documents that share a bucket, each pair once.

    A bucket of m documents holds m (m - 1) / 2 pairs, and so much memory is needed. Put copies
    that are wholly alike aside first; fuzzy_dedup does.

    Args:
        keys: (n, bands) uint64, of lsh_keys, on the host.

    Returns:
        (m, 2) int64, the lower index first, in ascending order.

    >>> lsh_candidates(np.array([[1, 5], [1, 6], [2, 5]], np.uint64))
    array([[0, 1],
           [0, 2]])
    """
    require_axes("keys", keys, "n bands")
    n, bands = keys.shape
    flat = keys.ravel()
    order = np.argsort(flat, kind="stable")  # equal keys side by side, lower documents first
    flat, owner = flat[order], order // bands
    starts = np.arange(len(flat))
    codes = [np.empty(0, np.int64)]
    for distance in range(1, len(flat)):
        starts = starts[starts < len(flat) - distance]
        starts = starts[flat[starts] == flat[starts + distance]]  # the others' buckets end before
        if not len(starts):
            break
        low, high = owner[starts], owner[starts + distance]
        codes.append((low * n + high)[low < high])  # a document may have a key twice
    code = np.unique(np.concatenate(codes))
    return np.stack(np.divmod(code, max(n, 1)), axis=1)
