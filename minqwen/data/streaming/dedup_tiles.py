"""Deduplication of many files: all pairs of a large group at once, by products of matrices.

    A_ij = 1 where document i holds shingle j      A B^T = how many shingles each pair has in common
    J = common / (shingles of one + shingles of the other - common)

Ten thousand pages from one template, each with a text of its own, share bands but are not alike, so
no cluster spares any of their 50 million pairs. One by one, at 0.15 ms, these would take two hours;
a tile of 1024 by 1024 pairs takes half a second. Only shingles that both sides hold have a column,
and 2048 columns are written out at a time, so that memory is bounded. The counts are exact, as the
products of ones and zeros are, and 2048 of them are far below 2^24.

Still quadratic: ten times as many pages are a hundred times as many pairs. Tiles are jobs, so that
workers share them.

Paper:    Qwen Technical Report, 2.1 Data: fuzzy deduplication with MinHash and LSH.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations_with_replacement
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...backend import Array
from ..shingles import joined
from .dedup_groups import SHINGLES, gathered, gathered_sizes

TILE = 1024  # documents of a side
WIDTH = 2048  # columns written out at a time


class Side(NamedTuple):
    documents: Array  # (m,) int64, ascending
    clusters: Array  # (m,) int64, the one that each is in


class TileJob(NamedTuple):
    work: str
    rows: Side
    columns: Side  # rows again, or documents that come after them
    threshold: float


def tile_jobs(work: Path, group: Side, threshold: float) -> Iterator[TileJob]:
    """Yield jobs that together compare all pairs of a group; those within one cluster are left out.

    Args:
        work: with the shingles of these documents.
        group: of documents that share a band.
        threshold: of the similarity.
    """
    sizes = gathered_sizes(work, group.documents).tolist()
    cuts, held = [0], 0
    for i, size in enumerate(sizes):
        if i - cuts[-1] == TILE or (held and held + size > SHINGLES):
            cuts.append(i)
            held = 0
        held += size
    sides = [
        Side(*(values[start:end] for values in group))
        for start, end in zip(cuts, [*cuts[1:], len(sizes)], strict=True)
    ]
    for rows, columns in combinations_with_replacement(sides, 2):
        if len(np.unique(np.concatenate([rows.clusters, columns.clusters]))) > 1:
            yield TileJob(str(work), rows, columns, threshold)


def compare_tile(job: TileJob) -> Array:
    """Return pairs that are alike, (m, 2) int64: one for each two clusters that they would join."""
    rows, columns = (gathered(Path(job.work), side.documents) for side in (job.rows, job.columns))
    common = common_shingles(rows, columns)
    both = np.add.outer([len(x) for x in rows], [len(x) for x in columns]) - common
    alike = common >= (1 - 1e-9) * job.threshold * both  # those few are divided, as jaccard does
    alike &= np.not_equal.outer(job.rows.clusters, job.columns.clusters)
    i, j = alike.nonzero()
    exact = common[i, j] / both[i, j] >= job.threshold
    i, j = i[exact], j[exact]
    clusters = np.sort([job.rows.clusters[i], job.columns.clusters[j]], axis=0)
    _, first = np.unique(clusters, axis=1, return_index=True)
    return np.stack([job.rows.documents[i[first]], job.columns.documents[j[first]]], axis=1)


def common_shingles(rows: list[Array], columns: list[Array]) -> Array:
    """Count the shingles that each of some documents has in common with each of others.

    Args:
        rows: m sets of shingles, each number once.
        columns: k sets.

    Returns:
        (m, k) int64.

    >>> a, b, c = (np.array(x, np.uint64) for x in ([1, 2, 3], [2, 3], [4]))
    >>> common_shingles([a, c], [a, b]).tolist()
    [[3, 2], [0, 0]]
    """
    sides = [joined(rows), joined(columns)]
    shared = np.intersect1d(sides[0][0], sides[1][0])
    counts = np.zeros((len(rows), len(columns)))
    entries = [_entries(numbers, owner, shared) for numbers, owner in sides]
    for start in range(0, len(shared), WIDTH):
        one, other = (
            _written_out(place, owner, start, n)
            for (place, owner), n in zip(entries, counts.shape, strict=True)
        )
        counts += one @ other.T
    return counts.astype(np.int64)


def _entries(numbers: Array, owner: Array, shared: Array) -> tuple[Array, Array]:
    """Return for each number that is shared its place among these, ascending, and its owner."""
    place = np.searchsorted(shared, numbers)
    inside = place < len(shared)
    inside[inside] = shared[place[inside]] == numbers[inside]
    place, owner = place[inside], owner[inside]
    order = np.argsort(place, kind="stable")
    return place[order], owner[order]


def _written_out(place: Array, owner: Array, start: int, n: int) -> Array:
    """Return the columns from start on as ones and zeros, (n, WIDTH) float32."""
    low, high = np.searchsorted(place, [start, start + WIDTH])
    ones = np.zeros((n, WIDTH), np.float32)
    ones[owner[low:high], place[low:high] - start] = 1
    return ones
