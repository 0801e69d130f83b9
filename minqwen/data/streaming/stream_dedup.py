"""Deduplication of files of any size, on one machine or many: exact copies, then near ones.

    sketch     every block      digests and band keys of its documents, to files
    group      every key range  documents with equal digests; of each group the first stays
    group      every key range  documents that share a band
    gather     every block      shingles of these documents only, to files
    compare    pairs            true Jaccard similarity; clusters by union-find, the first stays
    write      every block      what is kept and why the rest is not

The result is that of exact_dedup and then fuzzy_dedup on all documents in memory, document for
document. Pairs are compared in two rounds, so that a thousand documents made from one template are
not half a million pairs: first all with the first of their group, then only those in groups that
still hold several clusters; of large ones many pairs at once, see dedup_tiles.py. Clusters are what
verified pairs join, so the order does not matter.

Paper:    Qwen Technical Report, 2.1 Data: exact-match and fuzzy deduplication, of all data.
Differs:  the report gives neither sizes nor thresholds, see fuzzy_dedup.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...backend import Array
from ..fuzzy_dedup import join
from .dedup_groups import (
    PairsJob,
    RangeJob,
    compare_pairs,
    gather_block,
    group_range,
)
from .dedup_sketch import DedupSettings, settings_of, sketch_block
from .dedup_tiles import Side, compare_tile, tile_jobs
from .file_run import Job, Plan
from .postings import ranges
from .workers import Watch, Workers, save_whole

AT_ONCE = 2**22  # postings of a range, 16 to 24 bytes each, several times while they are sorted
TASK = 256  # pairs of a job
ROUND = 64 * TASK  # pairs looked up in the clusters together; the same for any number of workers

LARGE = 32  # documents of a group; above, its pairs are compared by tiles


class Clusters(NamedTuple):
    kept: Array  # (n,) int64, of each document's cluster the one kept; itself where it is kept
    first: Array  # (n,) int64, the first with the same normalised text; itself where it is new
    similarity: Array  # (n,) float64, true Jaccard of a near copy with the one kept; else 1
    compared: int  # pairs whose true similarity was computed to find clusters


def find_clusters(work: Path, plan: Plan, workers: Workers, watch: Watch) -> Clusters:
    """Do all passes but the writing. What work holds already is not done again.

    Args:
        work: folder with plan.json, which all workers see under this path.
        plan: what plan.json holds.
        workers: who does the jobs.
        watch: called as watch(phase, results, how many), goes through the results.
    """
    settings = settings_of(plan)
    jobs = [Job(str(work), i) for i in range(len(plan.blocks))]
    counts = list(watch("sketch", workers.map(sketch_block, jobs), len(jobs)))
    save_whole(work / "offsets.npy", np.cumsum([0, *counts]))
    n = sum(counts)
    parent = np.arange(n)
    for groups in _groups(work, "exact", n, workers, watch):
        copies = _copies(groups)
        parent[copies[0]] = copies[1]
    if not settings.near:
        return Clusters(parent, parent, np.ones(n), 0)

    first = parent.copy()
    save_whole(work / "before-same.npy", first == np.arange(n))
    for groups in _groups(work, "same", n, workers, watch):
        copies = _copies(groups)
        parent[copies[0]] = copies[1]
    alike = parent.copy()
    save_whole(work / "before-bands.npy", alike == np.arange(n))

    shared = np.zeros(n, bool)
    for groups in _groups(work, "bands", n * settings.bands, workers, watch):
        shared[groups[1]] = True
    save_whole(work / "shared.npy", shared)
    _go_through(watch("gather", workers.map(gather_block, jobs), len(jobs)))
    compared = _join_pairs(work, settings, parent, workers, watch)
    kept = _roots(parent, np.arange(n))

    moved = np.flatnonzero((kept != alike) & (alike == np.arange(n)))
    pairs = np.stack([kept[moved], moved], axis=1)
    similarity = np.ones(n)
    similarity[moved] = _similarities(work, pairs, workers, watch)
    return Clusters(kept, first, similarity[alike], compared)


def _groups(
    work: Path, kind: str, postings: int, workers: Workers, watch: Watch
) -> Iterable[Array]:
    jobs = [RangeJob(str(work), kind, i, r) for i, r in enumerate(ranges(postings, AT_ONCE))]
    return watch(f"group {kind}", workers.map(group_range, jobs), len(jobs))


def _copies(groups: Array) -> Array:
    """Return the documents that are not the first of their group, and that first one: (2, m)."""
    first = np.unique(groups[0], return_index=True)[1]
    group = np.searchsorted(groups[0, first], groups[0])
    pairs = np.stack([groups[1], groups[1, first[group]]])
    return pairs[:, pairs[0] != pairs[1]]


def _join_pairs(
    work: Path, settings: DedupSettings, parent: Array, workers: Workers, watch: Watch
) -> int:
    """Compare documents that share a band, and join those that are alike; changes parent."""
    n, compared, unlike = len(parent), 0, np.empty(0, np.int64)
    postings = n * settings.bands
    for pairs_of in (_with_the_first, _with_all):
        for groups in _groups(work, "bands", postings, workers, watch):
            for pairs in pairs_of(groups, parent):
                for start in range(0, pairs.shape[1], ROUND):
                    low, high = np.sort(pairs[:, start : start + ROUND], axis=0)
                    codes = np.unique(low * n + high)
                    codes = codes[~np.isin(codes, unlike)]
                    found = np.stack(np.divmod(codes, n), axis=1)
                    found = found[_roots(parent, found[:, 0]) != _roots(parent, found[:, 1])]
                    likeness = _similarities(work, found, workers)
                    compared += len(found)
                    alike = likeness >= settings.threshold
                    for one, other in found[alike].tolist():
                        join(parent, one, other)
                    unlike = np.union1d(unlike, found[~alike] @ [n, 1])
            if pairs_of is _with_all:
                compared += _join_large(work, settings, groups, parent, workers)
    return compared


def _join_large(
    work: Path, settings: DedupSettings, groups: Array, parent: Array, workers: Workers
) -> int:
    """Join what is alike in large groups, one group after the other; changes parent."""
    compared = 0
    large = _of_several_clusters(groups, parent) & (np.bincount(groups[0])[groups[0]] > LARGE)
    for group in np.unique(groups[0, large]):
        documents = groups[1, slice(*np.searchsorted(groups[0], [group, group + 1]))]
        side = Side(documents, _roots(parent, documents))
        jobs = tile_jobs(work, side, settings.threshold)
        for pairs in workers.map(compare_tile, jobs):
            for one, other in pairs.tolist():
                join(parent, one, other)
        sizes = np.unique(side.clusters, return_counts=True)[1]
        compared += (len(documents) ** 2 - int(sizes @ sizes)) // 2
    return compared


def _of_several_clusters(groups: Array, parent: Array) -> Array:
    """Say for each row of groups, (m,) bool, whether its group holds several clusters."""
    first = np.unique(groups[0], return_index=True)[1]
    if not len(first):
        return np.zeros(0, bool)
    cluster = _roots(parent, groups[1])
    several = np.minimum.reduceat(cluster, first) < np.maximum.reduceat(cluster, first)
    found: Array = several[np.searchsorted(groups[0, first], groups[0])]
    return found


def _with_the_first(groups: Array, parent: Array) -> Iterator[Array]:
    """Yield (2, m) pairs of each document with the first of its group."""
    yield _copies(groups)


def _with_all(groups: Array, parent: Array) -> Iterator[Array]:
    """Yield (2, m) pairs in the same group, if it is not large, but not in the same cluster."""
    groups = groups[:, _of_several_clusters(groups, parent)]
    groups = groups[:, np.bincount(groups[0], minlength=1)[groups[0]] <= LARGE]
    (group, document), cluster = groups, _roots(parent, groups[1])
    starts = np.arange(len(group))
    for distance in range(1, len(group)):
        starts = starts[starts < len(group) - distance]
        starts = starts[group[starts] == group[starts + distance]]  # the others' groups end before
        if not len(starts):
            return
        apart = starts[cluster[starts] != cluster[starts + distance]]
        yield np.stack([document[apart], document[apart + distance]])


def _roots(parent: Array, documents: Array) -> Array:
    found = parent[documents]
    while ((above := parent[found]) != found).any():
        found = above
    return found


def _similarities(work: Path, pairs: Array, workers: Workers, watch: Watch | None = None) -> Array:
    """Return the true Jaccard similarity of pairs, (m, 2) -> (m,)."""
    jobs = [PairsJob(str(work), pairs[i : i + TASK]) for i in range(0, len(pairs), TASK)]
    found: Iterable[Array] = workers.map(compare_pairs, jobs)
    if watch is not None:
        found = watch("compare", found, len(jobs))
    return np.concatenate([np.empty(0), *found])


def _go_through(results: Iterable[object]) -> None:
    for _ in results:
        pass
