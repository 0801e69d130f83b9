r"""Documents in files, one at a time, so that files of any size can stream through.

    NAME.jsonl, NAME.ndjson    each line an object, its field "text" is a document
    any other                  the whole file is a document
    NAME.gz                    either of the two, zipped

A line or file from which no document can be made has a `problem` instead, so that whoever reads it
can put it aside and say why:

    not UTF-8       a problem, or, with replace, U+FFFD stands for the bytes that are wrong
    not JSON        and whatever else jsonl.py refuses; no such field; the field is no text
    NUL             a picture or an archive, in a text file; in JSON as well
    too long        more bytes than `most`: passed over without being held in memory

A byte-order mark at the beginning of a file goes. Blank lines of JSONL are no documents.
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Container, Iterator
from typing import IO, Any, NamedTuple

from ..jsonl import parse_json
from .input_files import CHUNK, Part, of_lines, zipped
from .workers import naming

BOM = b"\xef\xbb\xbf"


class Form(NamedTuple):
    field: str = "text"  # of the objects of JSONL
    replace: bool = False  # what is not UTF-8 by U+FFFD
    most: int = 16 * 2**20  # bytes of a document


class Document(NamedTuple):
    name: str  # of the file
    line: int  # from 1; 0: the document is the file
    raw: bytes  # as it stands there, without the line end; empty where it was too long
    text: str  # empty where there is a problem
    problem: str  # empty where there is none


def read_documents(
    part: Part, form: Form, known: Container[int] = frozenset()
) -> Iterator[Document]:
    """Yield the documents of a part, and the problems where there are none.

    Args:
        part: of a file.
        form: of the documents.
        known: lines that were found to be documents before and whose text is not wanted again: it
            is left empty, for to parse and check it takes longer than to read it.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not the one that was found, but was changed.
    """
    file = part.file
    lines = of_lines(file.name)
    line = part.line if lines else 0
    with naming(file.path), _open(part) as stream:
        try:
            if part.start:
                stream.seek(part.start)
            for raw, whole in _lines(stream, part, form.most) if lines else _all(stream, form.most):
                if not whole:
                    problem = f"longer than {form.most} bytes, left in the input"
                    yield Document(file.name, line, b"", "", problem)
                elif line in known:
                    raw = raw.decode("utf-8", "replace").encode() if form.replace else raw
                    yield Document(file.name, line, raw, "", "")
                elif not lines or raw.strip():
                    yield _document(file.name, line, raw, form)
                line += lines
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            yield Document(file.name, line, b"", "", f"damaged file of gzip from here on: {error}")


def _open(part: Part) -> Any:
    """Open the file of a part for bytes, unzipped."""
    facts = os.stat(part.file.path)
    if (facts.st_size, facts.st_mtime_ns) != (part.file.size, part.file.changed):
        raise ValueError(f"{part.file.path} was changed since it was found: begin again")
    return gzip.open(part.file.path) if zipped(part.file.name) else open(part.file.path, "rb")


def _all(stream: IO[bytes], most: int) -> Iterator[tuple[bytes, bool]]:
    """Yield the bytes of a file without a byte-order mark, and whether they are all."""
    chunks, left = list[bytes](), most + len(BOM) + 1
    while left and (chunk := stream.read(min(left, CHUNK))):
        chunks.append(chunk)
        left -= len(chunk)
    data = b"".join(chunks).removeprefix(BOM)
    yield (data, True) if len(data) <= most else (b"", False)


def _lines(stream: IO[bytes], part: Part, most: int) -> Iterator[tuple[bytes, bool]]:
    """Yield lines without their ends, the first without the mark, and whether they are whole."""
    place, to_the_end = part.start, zipped(part.file.name)
    while to_the_end or place < part.end:
        raw = stream.readline(most + len(BOM) + 1)
        if not raw:
            return
        ended = raw.endswith(b"\n")
        line = raw.removesuffix(b"\n") if place else raw.removesuffix(b"\n").removeprefix(BOM)
        place += len(raw)
        while not ended and (rest := stream.readline(CHUNK)):
            place += len(rest)
            ended = rest.endswith(b"\n")
        yield (line, True) if len(line) <= most else (b"", False)


def _document(name: str, line: int, raw: bytes, form: Form) -> Document:
    came = raw  # what is put aside stays as it came
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        if not form.replace:
            return Document(name, line, came, "", f"not UTF-8 text: {error}")
        raw = raw.decode("utf-8", "replace").encode()
    if not line:
        if b"\0" in raw:
            return Document(name, line, came, "", "not text, it holds NUL bytes")
        return Document(name, line, raw, raw.decode("utf-8"), "")
    try:
        record = parse_json(raw)
        if not isinstance(record, dict):
            raise ValueError(f"an object is needed, got {type(record).__name__}")
        if form.field not in record:
            raise ValueError(f"the object lacks the field {form.field!r}")
        if not isinstance(record[form.field], str):
            kind = type(record[form.field]).__name__
            raise ValueError(f"the field {form.field!r} must be a text, got {kind}")
    except ValueError as error:
        return Document(name, line, came, "", str(error))
    return Document(name, line, raw, record[form.field], "")
