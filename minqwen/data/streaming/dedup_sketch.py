"""Deduplication of many files, first pass: from each document what is needed to compare it.

    exact copies     16 bytes: digest of the normalised text                 exact_dedup.py
    same shingles    16 bytes: digest of the set
    near copies      8 bytes a band: keys of the signature                   fast_sketch.py, lsh.py
    its place        part of the block, line

A block is read once, one document at a time; its numbers go to files of postings. Documents are
numbered within their block, as how many stand in the blocks before is not known yet.

Paper:    Qwen Technical Report, 2.1 Data: exact-match and fuzzy deduplication.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...backend import Array
from ..exact_dedup import text_digest
from ..fast_sketch import sketch_sets
from ..lsh import lsh_keys
from ..shingles import set_digest, shingles
from .document_files import Form, read_documents
from .file_run import Job, Plan, load_plan
from .input_files import Part
from .postings import write_postings
from .workers import once, save_array

BATCH = 2**18  # shingles held before they become keys, which are shorter


class DedupSettings(NamedTuple):
    form: Form = Form()
    near: bool = True  # False: exact copies only
    threshold: float = 0.7
    num_perm: int = 240
    ngram_size: int = 5
    seed: int = 0
    nfc: bool = True
    white_space: bool = True
    case: bool = False
    bands: int = 24  # lsh_choose(0.7, 240)
    rows: int = 10


def settings_of(plan: Plan) -> DedupSettings:
    """Read the settings back from JSON."""
    form = Form(**plan.settings["form"])
    return DedupSettings(**{**plan.settings, "form": form})


def sketch_block(job: Job) -> int:
    """Write the postings and places of one block below work/sketch, and return its documents."""
    work = Path(job.work)
    plan = load_plan(work)
    parts = plan.blocks[job.block]
    folder = once(
        work / "sketch" / f"{job.block:06d}",
        partial(_write, parts=parts, settings=settings_of(plan)),
    )
    return int(np.load(folder / "places.npy", mmap_mode="r").shape[1])


def _write(folder: Path, parts: list[Part], settings: DedupSettings) -> None:
    folder.mkdir()
    exact, same = list[bytes](), list[bytes]()
    keys, sets, held, places = list[Array](), list[Array](), 0, list[tuple[int, int]]()

    def make_keys() -> None:
        signatures = sketch_sets(sets, settings.num_perm, settings.seed)
        keys.append(lsh_keys(signatures, settings.bands, settings.rows))
        sets.clear()

    for number, part in enumerate(parts):
        for document in read_documents(part, settings.form):
            if document.problem:
                continue  # told when the output is written
            places.append((number, document.line))
            exact.append(
                text_digest(
                    document.text,
                    nfc=settings.nfc,
                    white_space=settings.white_space,
                    case=settings.case,
                )
            )
            if not settings.near:
                continue
            found = shingles(document.text, settings.ngram_size)
            same.append(set_digest(found))
            sets.append(found)
            held += max(len(found), settings.num_perm)
            if held >= BATCH:
                make_keys()
                held = 0
    make_keys()

    save_array(folder / "places.npy", np.array(places, np.int64).reshape(-1, 2).T)
    documents = np.arange(len(places))
    write_postings(folder / "exact.npy", _words(exact), documents)
    if settings.near:
        flat = np.concatenate(keys).ravel()
        keys.clear()  # half of the memory
        write_postings(folder / "same.npy", _words(same), documents)
        write_postings(folder / "bands.npy", flat[None], np.repeat(documents, settings.bands))


def _words(digests: list[bytes]) -> Array:
    """Return digests as (2, n) words."""
    return np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 2).T
