"""Files that hold documents: found below folders, cut into blocks of work.

    NAME.jsonl, NAME.ndjson    a document on each line
    any other                  the whole file is a document
    NAME.gz                    either of the two, zipped; never cut, for it is read from its start

A block is many small files, or a piece of a large one. A line belongs to the piece in which its
first byte stands. What is in files is told in document_files.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

LINES = (".jsonl", ".ndjson")
CHUNK = 2**20


class InputFile(NamedTuple):
    path: str
    name: str  # below the folder of the output, with slashes
    size: int  # bytes
    changed: int  # when, in nanoseconds


class Part(NamedTuple):
    file: InputFile
    start: int  # byte at which the first line begins; 0 for what is not cut
    end: int  # the first byte of the lines that come after; for what is not cut, the size
    line: int  # number of the first line


def of_lines(name: str) -> bool:
    """Say whether a file of this name holds a document on each line.

    >>> of_lines("a.jsonl.gz"), of_lines("a.json")
    (True, False)
    """
    return name.lower().removesuffix(".gz").endswith(LINES)


def zipped(name: str) -> bool:
    """Say whether a file of this name is unzipped when it is read.

    >>> zipped("a.jsonl.gz"), zipped("a.jsonl")
    (True, False)
    """
    return name.lower().endswith(".gz")


def find_files(paths: Sequence[Path], but: Path) -> list[InputFile]:
    """List the files, and those of folders in the order of their names, but for hidden ones.

    Links to files are followed, links to folders inside a folder are not.

    Args:
        paths: files and folders; what is in a folder is named FOLDER/....
        but: the folder of the output, which is not read.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: there is no file, a pipe instead of one, one is named twice, or two cannot both
            be written under their names.
        OSError: a folder cannot be read.
    """
    found: dict[str, InputFile] = {}
    taken: set[Path] = set()
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"no file or folder {path}")
        root = path.resolve().parent
        if path.is_dir():
            inside = sorted(_files_below(path.resolve(), but.resolve()))
        else:
            inside = [path.parent.resolve() / path.name]  # a link keeps its own name
        for file in inside:
            name = file.relative_to(root).as_posix() if path.is_dir() else file.name
            if not file.is_file():
                raise ValueError(f"{file} is no regular file, which can be read several times")
            if file in taken:  # also when a folder and another inside it are named
                raise ValueError(f"{file} is named twice")
            if name in found:
                raise ValueError(f"{found[name].path} and {file} would both be written as {name}")
            taken.add(file)
            facts = file.stat()
            found[name] = InputFile(str(file), name, facts.st_size, facts.st_mtime_ns)
    if not found:
        raise ValueError(f"no files in {', '.join(map(str, paths)) or 'nothing'}")
    for name in found:
        for above in map(str, PurePosixPath(name).parents):
            if above in found:
                one, other = found[above].path, found[name].path
                raise ValueError(f"{one} cannot be written beside {other}")
    return list(found.values())


def _files_below(folder: Path, but: Path) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        raise error  # os.walk would pass over a folder that cannot be read

    for place, folders, files in os.walk(folder, onerror=fail):
        folders[:] = [f for f in folders if f[0] != "." and Path(place, f).resolve() != but]
        yield from (Path(place, f) for f in files if f[0] != "." and Path(place, f).is_file())


def is_cut(file: InputFile, block_bytes: int) -> bool:
    """Say whether cut_file has to read the file; of the others it makes one part at once.

    >>> [is_cut(InputFile("", "a.jsonl", size, 0), block_bytes=100) for size in (100, 101)]
    [False, True]
    """
    return of_lines(file.name) and not zipped(file.name) and file.size > block_bytes


def cut_file(file: InputFile, block_bytes: int) -> list[Part]:
    """Cut a file of lines after about every block_bytes; what is zipped or one document stays.

    Args:
        file: as found.
        block_bytes: the size of a piece, positive. A longer line makes a longer piece.

    Raises:
        OSError: it cannot be read.
    """
    if not is_cut(file, block_bytes):
        return [Part(file, 0, file.size, 1)]
    starts = [(0, 1)]  # bytes, and numbers of lines
    with open(file.path, "rb") as stream:
        while True:
            start, line = starts[-1]
            end = _line_end(stream, start + block_bytes - 1)
            if end >= file.size:
                break
            starts.append((end, line + _count_lines(stream, start, end)))
    ends = [start for start, _ in starts[1:]] + [file.size]
    return [Part(file, start, end, line) for (start, line), end in zip(starts, ends, strict=True)]


def _line_end(stream: IO[bytes], place: int) -> int:
    """Return the place after the first line end from place on, or that of the end."""
    stream.seek(place)
    while chunk := stream.read(CHUNK):
        if (at := chunk.find(b"\n")) >= 0:
            return place + at + 1
        place += len(chunk)
    return place


def _count_lines(stream: IO[bytes], start: int, end: int) -> int:
    stream.seek(start)
    return sum(stream.read(min(CHUNK, end - at)).count(b"\n") for at in range(start, end, CHUNK))


def make_blocks(parts: Iterable[Part], block_bytes: int) -> list[list[Part]]:
    """Put small parts together, in order, until they hold block_bytes."""
    blocks: list[list[Part]] = []
    size = 0
    for part in parts:
        if not blocks or size + part.end - part.start > block_bytes:
            blocks.append([])
            size = 0
        blocks[-1].append(part)
        size += part.end - part.start
    return blocks
