"""Deduplicate files: the passes of stream_dedup.py, then what is kept, and why the rest is not.

Paper:    Qwen Technical Report, 2.1 Data: exact-match and fuzzy deduplication.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .dedup_groups import block_offsets, block_places, lines_of_parts
from .dedup_sketch import DedupSettings, settings_of
from .document_files import Document
from .file_run import BLOCK, Job, begin, finish, finished, load_plan
from .input_files import find_files
from .kept_documents import join_blocks, write_block
from .stream_dedup import Clusters, find_clusters
from .workers import Watch, Workers, once, save_whole

SHOWN = 20  # of the largest clusters, and of the documents of each


def dedup_files(
    paths: Sequence[Path],
    out: Path,
    settings: DedupSettings,
    workers: Workers,
    watch: Watch,
    block_bytes: int = BLOCK,
) -> dict[str, Any]:
    """Write the documents that stay to out/documents, and return the report.

    Args:
        paths: files and folders, see input_files.py; of documents that are alike the first stays,
            in the order of these and of the lines.
        out: folder; one in which the same pass was stopped is gone on with.
        settings: of the comparison.
        workers: who does the work; the result is the same.
        watch: see workers.py.
        block_bytes: of input in a job, about.

    Raises:
        FileNotFoundError, FileExistsError, ValueError: as of find_files and begin.
        OSError: a file cannot be read or written.
    """
    files = find_files(paths, but=out)
    plain = settings._asdict() | {"form": settings.form._asdict()}
    work, plan = begin("minqwen dedup", files, out, plain, block_bytes, workers, watch)
    if done := finished(out):
        return done
    clusters = find_clusters(work, plan, workers, watch)
    save_whole(work / "kept.npy", clusters.kept)
    save_whole(work / "first.npy", clusters.first)
    save_whole(work / "similarity.npy", clusters.similarity)
    jobs = [Job(str(work), i) for i in range(len(plan.blocks))]
    folders = list(watch("write", workers.map(write_deduplicated, jobs), len(jobs)))
    counts = join_blocks([Path(folder) for folder in folders], plan.blocks, out)
    report = counts._asdict() | {"pairs_compared": clusters.compared}
    return finish(work, report | {"clusters": describe_clusters(work, clusters)})


def write_deduplicated(job: Job) -> str:
    """Write the segments of one block, and return their folder."""
    work = Path(job.work)
    plan = load_plan(work)
    kept, first, similarity = (
        np.load(work / f"{name}.npy", mmap_mode="r") for name in ("kept", "first", "similarity")
    )
    number = int(block_offsets(work)[job.block]) - 1  # of the document, over all blocks

    def verdict(document: Document) -> dict[str, Any] | None:
        nonlocal number
        number += 1
        if kept[number] == number:
            return None
        if first[number] != number:  # which may be a near copy of another itself
            return {"why": "exact copy", "copy_of": place(first[number])}
        likeness = round(float(similarity[number]), 6)
        return {"why": "near copy", "copy_of": place(kept[number]), "similarity": likeness}

    def place(document: int) -> dict[str, Any]:
        return dict(zip(("file", "line"), place_of(work, int(document)), strict=True))

    write = partial(
        write_block,
        parts=plan.blocks[job.block],
        form=settings_of(plan).form,
        verdict=verdict,
        known=lines_of_parts(work, job.block, len(plan.blocks[job.block])),
    )
    return str(once(work / "written" / f"{job.block:06d}", write))


def place_of(work: Path, document: int) -> tuple[str, int | None]:
    """Return file and line of a document, by its number over all blocks; line None: all of it."""
    offsets = block_offsets(work)
    block = int(np.searchsorted(offsets, document, "right")) - 1
    part, line = block_places(work, block)[:, document - offsets[block]].tolist()
    return load_plan(work).blocks[block][part].file.name, line or None


def describe_clusters(work: Path, clusters: Clusters) -> dict[str, Any]:
    """Say how many clusters there are of each size, and where the largest are.

    Args:
        work: with the places of documents.
        clusters: of find_clusters.
    """
    sizes = np.bincount(clusters.kept, minlength=len(clusters.kept))
    large = np.flatnonzero(sizes > 1)
    largest = large[np.argsort(-sizes[large], kind="stable")[:SHOWN]]
    count = np.bincount(sizes[large])
    order = np.argsort(clusters.kept, kind="stable")
    starts = np.searchsorted(clusters.kept[order], largest)
    return {
        "number": len(large),
        "of_size": {str(size): int(count[size]) for size in np.flatnonzero(count)},
        "largest": [
            {
                "size": int(sizes[first]),
                "documents": [
                    dict(zip(("file", "line"), place_of(work, int(i)), strict=True))
                    for i in order[start : start + min(sizes[first], SHOWN)]
                ],
            }
            for first, start in zip(largest, starts, strict=True)
        ],
    }
