"""Deduplication of many files, second pass: who shares a key with whom, and their shingles.

    range of keys  ->  groups of documents with equal keys           group_range
    block          ->  shingles of its documents that are in groups  gather_block

The shingles of a document that shares no band with another are never needed again, and these are
most; those of the others go to a file, 8 bytes each, from which pairs are compared.

Paper:    Qwen Technical Report, 2.1 Data: exact-match and fuzzy deduplication.
"""

from __future__ import annotations

from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...backend import Array
from ..shingles import jaccard, shingles
from .dedup_sketch import settings_of
from .document_files import read_documents
from .file_run import Job, load_plan
from .postings import groups_in
from .workers import once


class RangeJob(NamedTuple):
    work: str
    kind: str  # exact, same or bands
    number: int
    bounds: tuple[int, int]


class PairsJob(NamedTuple):
    work: str
    pairs: Array  # (m, 2) int64


def block_offsets(work: Path) -> Array:
    """Return the number of the first document of each block, and of all: (blocks + 1,) int64."""
    return _loaded(work / "offsets.npy")


def group_range(job: RangeJob) -> Array:
    """Return groups and their documents, (2, m) int64, and keep them in a file of work/groups."""
    work = Path(job.work)
    path = work / "groups" / f"{job.kind}-{job.number:06d}.npy"
    groups: Array = np.load(once(path, partial(_group, work=work, job=job)))
    return groups


def _group(path: Path, work: Path, job: RangeJob) -> None:
    offsets = block_offsets(work)
    files = [work / "sketch" / f"{i:06d}" / f"{job.kind}.npy" for i in range(len(offsets) - 1)]
    groups = groups_in(files, offsets[:-1].tolist(), job.bounds)
    if job.kind != "exact":  # leave out what was dropped before
        groups = groups[:, np.load(work / f"before-{job.kind}.npy", mmap_mode="r")[groups[1]]]
        size = np.bincount(groups[0]) if groups.size else groups[0]
        groups = groups[:, size[groups[0]] > 1]
    np.save(path, groups)


def gather_block(job: Job) -> None:
    """Write the shingles of those documents of a block that share a band, below work/shingles."""
    once(_shingles_path(Path(job.work), job.block), partial(_gather, job=job))


def _gather(folder: Path, job: Job) -> None:
    work = Path(job.work)
    plan, offsets = load_plan(work), block_offsets(work)
    settings = settings_of(plan)
    wanted = np.load(work / "shared.npy", mmap_mode="r")[offsets[job.block] :]
    folder.mkdir()
    starts, rows = [0], list[int]()
    row = 0
    with (folder / "shingles.bin").open("wb") as stream:
        for part in plan.blocks[job.block]:
            for document in read_documents(part, settings.form):
                if document.problem:
                    continue
                if wanted[row]:
                    found = shingles(document.text, settings.ngram_size)
                    stream.write(found.tobytes())
                    starts.append(starts[-1] + len(found))
                    rows.append(row)
                row += 1
    np.save(folder / "rows.npy", np.array(rows, np.int64))
    np.save(folder / "starts.npy", np.array(starts, np.int64))


def compare_pairs(job: PairsJob) -> Array:
    """Return the true Jaccard similarity of each pair of documents, (m,) float64."""
    work = Path(job.work)
    return np.array(
        [jaccard(gathered(work, one), gathered(work, other)) for one, other in job.pairs.tolist()]
    )


def gathered(work: Path, document: int) -> Array:
    """Return the shingles of a document, by its number over all blocks."""
    offsets = block_offsets(work)
    block = int(np.searchsorted(offsets, document, "right")) - 1
    rows, starts = _block_shingles(work, block)
    i = int(np.searchsorted(rows, document - offsets[block]))
    path, count = _shingles_path(work, block) / "shingles.bin", int(starts[i + 1] - starts[i])
    return np.fromfile(path, np.uint64, count, offset=8 * int(starts[i]))


def _shingles_path(work: Path, block: int) -> Path:
    return work / "shingles" / f"{block:06d}"


@lru_cache(maxsize=64)
def _block_shingles(work: Path, block: int) -> tuple[Array, Array]:
    folder = _shingles_path(work, block)
    return np.load(folder / "rows.npy"), np.load(folder / "starts.npy")


@lru_cache(maxsize=4)
def _loaded(path: Path) -> Array:
    loaded: Array = np.load(path)
    return loaded
