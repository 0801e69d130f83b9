r"""The two jobs of a mixture of files: a block of documents becomes lines, draws become a shard.

    read/BLOCK/NUMBER.jsonl    the documents that a block has of source NUMBER, one on each line
    read/BLOCK/NUMBER.npy      where each line starts, and the bytes of its text
    written/SHARD.jsonl        draws SHARD * 10,000 and so on, copied from these lines

Draw i is a pure function of seed and i, so that any worker can write any shard at any time.

Paper:    Qwen Technical Report, 2.1 Data.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...backend import Array
from ..mixture import Draw, Mixture, draw_documents
from .document_files import Document, Form, read_documents
from .file_run import Job, load_plan
from .input_files import Part
from .mix_plan import SHARD
from .workers import once, save_array


class ShardJob(NamedTuple):
    work: str
    number: int
    draws: int


class Line(NamedTuple):
    path: Path
    start: int
    size: int  # bytes of the text in it


def read_block(job: Job, sources: Sequence[str], form: Form) -> list[list[int]]:
    """Write the documents of a block as lines; return documents and bytes of each source.

    Args:
        job: names the block; the files of a source are named SOURCE/....
        sources: names.
        form: of the documents.
    """
    work = Path(job.work)
    write = partial(_read, parts=load_plan(work).blocks[job.block], sources=sources, form=form)
    folder = once(work / "read" / f"{job.block:06d}", write)
    counts: list[list[int]] = json.loads((folder / "counts.json").read_text("utf-8"))
    return counts


def _read(folder: Path, parts: Sequence[Part], sources: Sequence[str], form: Form) -> None:
    folder.mkdir()
    starts: list[list[int]] = [[] for _ in sources]
    sizes: list[list[int]] = [[] for _ in sources]
    with ExitStack() as stack:
        aside, *streams = (
            stack.enter_context((folder / f"{name}.jsonl").open("wb"))
            for name in ("aside", *range(len(sources)))
        )
        for part in parts:
            source = part.file.name.split("/")[0]
            number = sources.index(source)
            for document in read_documents(part, form):
                if document.problem:
                    aside.write(as_line(document, {"problem": document.problem}))
                    continue
                starts[number].append(streams[number].tell())
                sizes[number].append(len(document.text.encode("utf-8", "surrogatepass")))
                streams[number].write(as_line(document, {"text": document.text, "source": source}))
    for number in range(len(sources)):
        save_array(folder / f"{number}.npy", np.array([starts[number], sizes[number]], np.int64))
    counts = [[len(x) for x in sizes], [sum(x) for x in sizes]]
    (folder / "counts.json").write_text(json.dumps(counts), "utf-8")


def as_line(document: Document, facts: dict[str, Any]) -> bytes:
    r"""Write an object with the place of a document, on one line.

    >>> as_line(Document("web/a.jsonl", 2, b"", "", ""), {"text": "half \ud800"})
    b'{"text": "half \\ud800", "file": "web/a.jsonl", "line": 2}\n'
    """
    facts = facts | {"file": document.name, "line": document.line or None}
    text = json.dumps(facts, ensure_ascii=False) + "\n"
    return text.encode("utf-8", "backslashreplace")  # \ud800 is how JSON writes half a pair


def shard_path(work: Path, number: int) -> Path:
    """Return where a shard is written."""
    return work / "written" / f"{number:05d}.jsonl"


def write_shard(job: ShardJob, mixture: Mixture) -> dict[str, tuple[int, int]]:
    """Write the draws of a shard; return documents and bytes of each source in it.

    Args:
        job: names the shard.
        mixture: of all draws; its sources are in the order of those of read_block.
    """
    work, sources = Path(job.work), list(mixture.documents)
    draws = list(islice(draw_documents(mixture, job.number * SHARD), job.draws))
    lines = [find_line(work, sources.index(draw.source), draw) for draw in draws]
    once(shard_path(work, job.number), partial(_copy, lines=lines))
    count, size = Counter[str](), Counter[str]()
    for draw, line in zip(draws, lines, strict=True):
        count[draw.source] += 1
        size[draw.source] += line.size
    return {source: (count[source], size[source]) for source in sources}


def find_line(work: Path, number: int, draw: Draw) -> Line:
    """Return where the drawn document of source `number` stands."""
    ends = _loaded(work / "ends.npy")[:, number]  # documents up to the end of each block
    block = int(np.searchsorted(ends, draw.document, "right"))
    row = draw.document - (int(ends[block - 1]) if block else 0)
    folder = work / "read" / f"{block:06d}"
    start, size = _loaded(folder / f"{number}.npy")[:, row].tolist()
    return Line(folder / f"{number}.jsonl", start, size)


def _copy(path: Path, lines: Sequence[Line]) -> None:
    with path.open("wb") as out:
        for line in lines:  # opened each time: there may be more blocks than files can be open
            with line.path.open("rb") as stream:
                stream.seek(line.start)
                out.write(stream.readline())


@lru_cache(maxsize=1024)
def _loaded(path: Path) -> Array:
    loaded: Array = np.load(path)
    return loaded
