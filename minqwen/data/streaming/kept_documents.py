"""What a pass over files leaves behind: the documents kept, and for all others a line with why.

    OUT/documents/NAME    the documents kept, byte for byte as they came, under their old names
    OUT/dropped.jsonl     file, line, and why, of each document dropped
    OUT/aside.jsonl       file, line, and what is wrong, of what is no document
    OUT/aside/NAME        the lines put aside, to be mended; whole files only stay in the input

Files are cut into blocks, so each block writes segments first; what belongs to one file is joined
when all blocks are there. Segments of zipped files are zipped.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from .document_files import Document, Form, read_documents
from .input_files import Part, zipped
from .workers import naming

Verdict = Callable[[Document], dict[str, Any] | None]  # None: kept; else why not, for the report


class Counts(NamedTuple):
    documents: int
    kept: int
    aside: int
    bytes: int  # of the documents, as they came
    bytes_kept: int
    why: dict[str, int]  # how often each reason


def write_block(
    folder: Path,
    parts: Sequence[Part],
    form: Form,
    verdict: Verdict,
    known: Sequence[Container[int]] = (),
) -> None:
    """Write the segments of a block, its reports and its counts below a folder.

    Args:
        folder: made here.
        parts: of the block.
        form: of the documents.
        verdict: its reasons stand under "why": a text, or several in a list.
        known: for each part the lines that are documents and whose text verdict does not ask for;
            empty: none.
    """
    folder.mkdir()
    count: Counter[str] = Counter()
    why: Counter[str] = Counter()
    with ExitStack() as stack:
        reports = {
            name: stack.enter_context(
                (folder / f"{name}.jsonl").open("w", encoding="utf-8", errors="backslashreplace")
            )  # of a file's name what is not UTF-8 becomes \udc80 and the like, as JSON writes it
            for name in ("dropped", "aside")
        }

        def report(name: str, document: Document, facts: dict[str, Any]) -> None:
            place = {"file": document.name, "line": document.line or None}
            reports[name].write(json.dumps(place | facts, ensure_ascii=False) + "\n")

        for number, part in enumerate(parts):
            lines = known[number] if known else ()
            with Segments(folder, number, zipped(part.file.name)) as segments:
                for document in read_documents(part, form, lines):
                    if document.problem:
                        count["aside"] += 1
                        report("aside", document, {"problem": document.problem})
                        if document.line and document.raw:
                            segments.write("aside", document)
                        continue
                    count["documents"] += 1
                    count["bytes"] += len(document.raw)
                    reasons = verdict(document)
                    if reasons is None:
                        count["kept"] += 1
                        count["bytes_kept"] += len(document.raw)
                        segments.write("documents", document)
                        continue
                    report("dropped", document, reasons)
                    given = reasons["why"]
                    why.update([given] if isinstance(given, str) else given)
    counts = Counts(**{name: count[name] for name in Counts._fields[:-1]}, why=dict(why))
    (folder / "counts.json").write_text(json.dumps(counts._asdict()), encoding="utf-8")


class Segments:
    """The files of one part, opened when something is written to them."""

    def __init__(self, folder: Path, number: int, zip_them: bool) -> None:
        self.folder, self.number, self.zip_them = folder, number, zip_them
        self.open: dict[str, Any] = {}

    def __enter__(self) -> Segments:
        """Return itself."""
        return self

    def write(self, kind: str, document: Document) -> None:
        """Add a document to what is kept or put aside."""
        if kind not in self.open:
            path = self.folder / f"{kind}-{self.number}"
            stream: Any = path.open("wb")
            self.open[kind] = (
                gzip.GzipFile("", "wb", 6, stream, mtime=0) if self.zip_them else stream
            )
        self.open[kind].write(document.raw + b"\n" * (document.line > 0))

    def __exit__(self, *error: object) -> None:
        """Close the files."""
        for stream in self.open.values():
            raw = getattr(stream, "fileobj", None)
            stream.close()
            if raw is not None:
                raw.close()


def join_blocks(folders: Sequence[Path], blocks: Sequence[Sequence[Part]], out: Path) -> Counts:
    """Join the segments of all blocks to files, add up the counts, and put it all in its place.

    May be called again after a stop: what is in its place stays.

    Args:
        folders: of write_block, one for each block.
        blocks: their parts.
        out: folder of the output.
    """
    (out / "documents").mkdir(exist_ok=True)  # also where nothing is kept
    for kind in ("documents", "aside"):
        for name, segments in _by_file(kind, folders, blocks):
            target = out / kind / name
            target.parent.mkdir(parents=True, exist_ok=True)
            join_files(segments, target)
    for kind in ("dropped", "aside"):
        join_files(
            [folder / f"{kind}.jsonl" for folder in folders], out / f"{kind}.jsonl", keep=True
        )
    return add_counts(folders)


def add_counts(folders: Sequence[Path]) -> Counts:
    """Add up what the blocks counted."""
    total: Counter[str] = Counter()
    why: Counter[str] = Counter()
    for folder in folders:
        counts = json.loads((folder / "counts.json").read_text(encoding="utf-8"))
        why.update(counts.pop("why"))
        total.update(counts)
    return Counts(
        **{name: total[name] for name in Counts._fields[:-1]}, why=dict(why.most_common())
    )


def _by_file(
    kind: str, folders: Sequence[Path], blocks: Sequence[Sequence[Part]]
) -> Iterator[tuple[str, list[Path]]]:
    """Yield each file's name and its segments that are there; pieces of a file are neighbours."""
    name, segments = "", list[Path]()
    for folder, parts in zip(folders, blocks, strict=True):
        for number, part in enumerate(parts):
            if part.file.name != name:
                if segments:
                    yield name, segments
                name, segments = part.file.name, []
            path = folder / f"{kind}-{number}"
            if path.exists():
                segments.append(path)
    if segments:
        yield name, segments


def join_files(segments: Sequence[Path], target: Path, keep: bool = False) -> None:
    """Put files together as one; with keep, they stay, else the only one may become the target."""
    if len(segments) == 1 and not keep:
        os.replace(segments[0], target)
        return
    aside = segments[0].with_name(".joined")
    with naming(target), aside.open("wb") as stream:
        for path in segments:
            with path.open("rb") as segment:
                shutil.copyfileobj(segment, stream, 2**20)
    os.replace(aside, target)  # the segments stay until all is done, so that this can be repeated
