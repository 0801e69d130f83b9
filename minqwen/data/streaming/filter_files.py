"""Filter files: every document is judged by rules, and each drop carries its reasons.

    judge(text) -> Decision        quality_rules.judge with rules of your choice

Documents are judged one by one, so any number of workers gives the same result.

Paper:    Qwen Technical Report, 2.1 Data: rules, models and classifiers decide what is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..quality_rules import Decision
from .document_files import Document, Form
from .file_run import BLOCK, Job, begin, finish, finished, load_plan
from .input_files import find_files
from .kept_documents import join_blocks, write_block
from .workers import Watch, Workers, once

Judge = Callable[[str], Decision]


def filter_files(
    paths: Sequence[Path],
    out: Path,
    settings: dict[str, Any],
    judge: Judge,
    form: Form,
    workers: Workers,
    watch: Watch,
    block_bytes: int = BLOCK,
) -> dict[str, Any]:
    """Write the documents that pass to out/documents, and return the report.

    Args:
        paths: files and folders, see input_files.py.
        out: folder; one in which the same pass was stopped is gone on with.
        settings: what judge was made from, as JSON holds it; a pass with others is refused.
        judge: can be pickled where workers are other processes.
        form: of the documents.
        workers: who does the work; the result is the same.
        watch: see workers.py.
        block_bytes: of input in a job, about.

    Raises:
        FileNotFoundError, FileExistsError, ValueError: as of find_files and begin.
        OSError: a file cannot be read or written.
    """
    files = find_files(paths, but=out)
    plain = settings | {"form": form._asdict()}
    work, plan = begin("minqwen filter", files, out, plain, block_bytes, workers, watch)
    if done := finished(out):
        return done
    jobs = [Job(str(work), i) for i in range(len(plan.blocks))]
    write = partial(write_filtered, judge=judge, form=form)
    folders = list(watch("filter", workers.map(write, jobs), len(jobs)))
    counts = join_blocks([Path(folder) for folder in folders], plan.blocks, out)
    return finish(work, counts._asdict())


def write_filtered(job: Job, judge: Judge, form: Form) -> str:
    """Write the segments of one block, and return their folder."""

    def verdict(document: Document) -> dict[str, Any] | None:
        decision = judge(document.text)
        if decision.kept:
            return None
        return {
            "why": [failure.rule for failure in decision.failures],
            "reasons": [failure.reason for failure in decision.failures],
        }

    work = Path(job.work)
    parts = load_plan(work).blocks[job.block]
    write = partial(write_block, parts=parts, form=form, verdict=verdict)
    return str(once(work / "written" / f"{job.block:06d}", write))
