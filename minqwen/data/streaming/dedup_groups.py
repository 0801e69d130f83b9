"""Deduplication of many files, second pass: who shares a key with whom, and their shingles.

    range of keys  ->  groups of documents with equal keys           group_range
    block          ->  shingles of its documents that are in groups  gather_block

The shingles of a document that shares no band with another are never needed again, and these are
most; those of the others go to a file, 8 bytes each, from which pairs are compared.

Paper:    Qwen Technical Report, 2.1 Data: exact-match and fuzzy deduplication.
"""

from __future__ import annotations

from collections.abc import Iterator
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
from .workers import once, save_array

SHINGLES = 2**21  # in memory at a time, on each side of pairs; or those of one document


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
    save_array(path, groups)


def gather_block(job: Job) -> None:
    """Write the shingles of those documents of a block that share a band, below work/shingles."""
    once(_shingles_path(Path(job.work), job.block), partial(_gather, job=job))


def _gather(folder: Path, job: Job) -> None:
    work = Path(job.work)
    plan, offsets = load_plan(work), block_offsets(work)
    settings = settings_of(plan)
    parts = plan.blocks[job.block]
    wanted = np.load(work / "shared.npy", mmap_mode="r")
    wanted = wanted[offsets[job.block] : offsets[job.block + 1]]
    asked = lines_of_parts(work, job.block, len(parts), wanted)
    others = lines_of_parts(work, job.block, len(parts), ~wanted)
    folder.mkdir()
    starts = [0]
    with (folder / "shingles.bin").open("wb") as stream:
        for part, lines, known in zip(parts, asked, others, strict=True):
            for document in read_documents(part, settings.form, known) if lines else ():
                if document.line in lines:
                    found = shingles(document.text, settings.ngram_size)
                    stream.write(found.tobytes())
                    starts.append(starts[-1] + len(found))
    save_array(folder / "rows.npy", np.flatnonzero(wanted))
    save_array(folder / "starts.npy", np.array(starts, np.int64))


def compare_pairs(job: PairsJob) -> Array:
    """Return the true Jaccard similarity of each pair of documents, (m,) float64."""
    work, found = Path(job.work), np.empty(len(job.pairs))
    sizes = gathered_sizes(work, job.pairs.ravel()).reshape(-1, 2).sum(axis=1)
    part = np.cumsum(sizes) // SHINGLES
    for number in np.unique(part):
        here = part == number
        documents, i = np.unique(job.pairs[here], return_inverse=True)
        sets = gathered(work, documents)
        found[here] = [jaccard(sets[one], sets[other]) for one, other in i.reshape(-1, 2).tolist()]
    return found


def gathered(work: Path, documents: Array) -> list[Array]:
    """Return the shingles of documents, by their numbers over all blocks, (m,) int64."""
    sets = [np.empty(0, np.uint64)] * len(documents)
    for block, which, starts, ends in _where_gathered(work, documents):
        with (_shingles_path(work, block) / "shingles.bin").open("rb") as stream:
            for i, start, end in zip(which.tolist(), starts.tolist(), ends.tolist(), strict=True):
                stream.seek(8 * start)
                sets[i] = np.frombuffer(stream.read(8 * (end - start)), np.uint64)
    return sets


def gathered_sizes(work: Path, documents: Array) -> Array:
    """Return how many shingles these documents have, (m,) int64."""
    sizes = np.zeros(len(documents), np.int64)
    for _, which, starts, ends in _where_gathered(work, documents):
        sizes[which] = ends - starts
    return sizes


def _where_gathered(work: Path, documents: Array) -> Iterator[tuple[int, Array, Array, Array]]:
    """Yield each block, which of the documents it has, and where their shingles begin and end."""
    offsets = block_offsets(work)
    blocks = np.searchsorted(offsets, documents, "right") - 1
    for block in np.unique(blocks).tolist():
        which = np.flatnonzero(blocks == block)
        rows, starts = _block_shingles(work, block)
        i = np.searchsorted(rows, documents[which] - offsets[block])
        yield block, which, starts[i], starts[i + 1]


@lru_cache(maxsize=64)
def block_places(work: Path, block: int) -> Array:
    """Return for each document of a block its part and its line: (2, n) int64."""
    places: Array = np.load(work / "sketch" / f"{block:06d}" / "places.npy")
    return places


def lines_of_parts(
    work: Path, block: int, parts: int, wanted: Array | slice = slice(None)
) -> list[frozenset[int]]:
    """Return for each part of a block the lines of its documents, or of the wanted ones.

    Args:
        work: with the places of documents.
        block: its number.
        parts: how many it has.
        wanted: (n,) bool, which of its documents.
    """
    part, line = block_places(work, block)[:, wanted]
    ends = np.searchsorted(part, np.arange(1, parts))
    return [frozenset(lines.tolist()) for lines in np.split(line, ends)]


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
