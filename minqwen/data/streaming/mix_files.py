"""Mix files of several sources into one text for pretraining, each source with its share.

    read     every block    its documents, line by line, with their sizes       mix_lines.py
    plan                    shares of the bytes -> draws -> a mixture           mix_plan.py
    write    every shard    10,000 draws of the mixture, copied                 mix_lines.py

A pass that was stopped goes on with the blocks and shards that are missing; the result is the same
for any number of workers.

Paper:    Qwen Technical Report, 2.1 Data: sources of high quality are up-sampled; instruction data
          is mixed into pretraining.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .file_run import BLOCK, Job, begin, finish, finished
from .input_files import InputFile, find_files
from .kept_documents import join_files
from .mix_lines import ShardJob, read_block, shard_path, write_shard
from .mix_plan import SHARD, MixSettings, byte_shares, plan_draws
from .workers import Watch, Workers, save_whole


def mix_files(
    sources: Mapping[str, Sequence[Path]],
    out: Path,
    settings: MixSettings,
    workers: Workers,
    watch: Watch,
    block_bytes: int = BLOCK,
) -> dict[str, Any]:
    """Write the mixture to out/documents/mixed-NNNNN.jsonl, and return the report.

    A line is an object of text, source, file and line. What is no document is told in
    out/aside.jsonl, and stays where it is.

    Args:
        sources: name -> files and folders, see input_files.py.
        out: folder; one in which the same pass was stopped is gone on with.
        settings: of the mixture.
        workers: who does the work; the result is the same.
        watch: see workers.py.
        block_bytes: of input in a job, about.

    Raises:
        FileNotFoundError, FileExistsError, ValueError: as of find_files, begin, byte_shares and
            plan_draws.
        OSError: a file cannot be read or written.
    """
    names = list(sources)
    byte_shares(dict.fromkeys(names, 1), settings)  # what is wrong with them is told at once
    files = [file for name in names for file in source_files(name, sources[name], out)]
    plain = settings._asdict() | {"form": settings.form._asdict(), "sources": names}
    work, plan = begin("minqwen mix", files, out, plain, block_bytes, workers, watch)
    if done := finished(out):
        return done
    jobs = [Job(str(work), i) for i in range(len(plan.blocks))]
    read = partial(read_block, sources=names, form=settings.form)
    counts = np.array(list(watch("read", workers.map(read, jobs), len(jobs))))  # (blocks, 2, names)
    save_whole(work / "ends.npy", counts[:, 0].cumsum(axis=0))
    count, size = (dict(zip(names, row, strict=True)) for row in counts.sum(axis=0).tolist())

    shares = byte_shares(size, settings)
    draws, mixture = plan_draws(count, size, shares, settings)
    shards = [
        ShardJob(str(work), number, min(SHARD, draws - start))
        for number, start in enumerate(range(0, draws, SHARD))
    ]
    write = partial(write_shard, mixture=mixture)
    found = list(watch("write", workers.map(write, shards), len(shards)))
    (out / "documents").mkdir(exist_ok=True)
    for shard in shards:
        target = out / "documents" / f"mixed-{shard.number:05d}.jsonl"
        os.replace(shard_path(work, shard.number), target)
    asides = [work / "read" / f"{job.block:06d}" / "aside.jsonl" for job in jobs]
    join_files(asides, out / "aside.jsonl", keep=True)
    with (out / "aside.jsonl").open("rb") as stream:
        aside = sum(1 for _ in stream)

    drawn = {name: [sum(x) for x in zip(*(f[name] for f in found), strict=True)] for name in names}
    text = sum(size for _, size in drawn.values())
    rows = {
        name: {
            "documents": count[name],
            "bytes": size[name],
            "share": shares[name],
            "drawn": drawn[name][0],
            "bytes_drawn": drawn[name][1],
            "share_met": drawn[name][1] / max(1, text),
            "epochs": drawn[name][0] / count[name],
        }
        for name in names
    }
    return finish(work, {"documents": draws, "bytes": text, "aside": aside, "of": rows})


def source_files(name: str, paths: Sequence[Path], out: Path) -> list[InputFile]:
    """Find the files of a source, and put its name before theirs."""
    return [file._replace(name=f"{name}/{file.name}") for file in find_files(paths, but=out)]
