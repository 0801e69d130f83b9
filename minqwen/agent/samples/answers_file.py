"""What became of every answer in a run of self-instruct: answers.jsonl, a line for each.

    {"settings": {...}, "seeds": "3f...", "tools": "a0..."}       what must be the same to go on
    {"kept": [sample, ...], "dropped": [{"reason": ..., "why": ..., "text": ...}, ...]}

A line is added at the end, in one go, and is on the disk before the next answer is asked for.
Nothing is ever rewritten, so a kill can leave half a line at the end and do no other harm: the half
line is cut off when the run goes on. A lock on the file, which the system opens however the process
ends, keeps a second process out; Windows and some network disks have no such locks.

Paper:    none: a file of ours.
Differs:  the program of Wang et al. keeps what it kept only; here one can see what was dropped.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from ...data.jsonl import parse_json
from .sample import Sample
from .sample_files import sample_of, sample_record
from .sample_rules import Dropped

FILE = "answers.jsonl"


class Answer(NamedTuple):
    """What became of one answer: a line of the file."""

    kept: list[Sample]
    dropped: list[Dropped]


def read_answers(folder: str | os.PathLike[str]) -> list[Answer]:
    """Read what a run made of each answer, such as to look at what was dropped.

    Args:
        folder: of the run; it may still be going on.

    Raises:
        FileNotFoundError: there is no run.
        ValueError: its file is damaged.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with open(folder / FILE, "wb") as file:
    ...     append_record(file, {"settings": {}})
    ...     append_record(file, answer_record(Answer([], [Dropped("length", "short", "?")])))
    >>> read_answers(folder)
    [Answer(kept=[], dropped=[Dropped(reason='length', why='short', text='?')])]
    """
    return read_run(Path(folder) / FILE, None)[0]


def read_run(path: Path, facts: dict[str, Any] | None) -> tuple[list[Answer], int]:
    """Read the file of a run that is to go on.

    Args:
        path: of the file.
        facts: the first line must say the same; None: anything will do.

    Returns:
        answers: what became of each.
        end: bytes of the whole lines; what comes after them is to be cut off.

    Raises:
        ValueError: the file is of another run, or damaged, or something else.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / FILE
    >>> size = path.write_bytes(b'{"seeds": 1}\\n{"kept": [')
    >>> read_run(path, {"seeds": 1})
    ([], 13)
    """
    data = path.read_bytes()
    *lines, torn = data.split(b"\n")
    if not lines and facts is not None and not _encoded(facts).startswith(torn):
        raise ValueError(f"{path} is no file of a run: choose another folder")
    answers: list[Answer] = []
    for number, line in enumerate(lines, start=1):
        try:
            record = parse_json(line)
            if number > 1:
                kept = [sample_of(sample) for sample in record["kept"]]
                answers.append(Answer(kept, [Dropped(**one) for one in record["dropped"]]))
                continue
            other = [what for what, value in (facts or {}).items() if record[what] != value]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}, line {number} is damaged: {error}") from None
        if other:
            raise ValueError(f"{path} is of a run with other {other[0]}: choose another folder")
    return answers, len(data) - len(torn)


@contextlib.contextmanager
def open_run(path: Path, facts: dict[str, Any]) -> Iterator[tuple[IO[bytes], list[Answer]]]:
    """Begin a run or go on with one: its file at the end of its whole lines, and its answers.

    Args:
        path: of the file; made with its folder if missing.
        facts: the first line, which must say the same if it is there.

    Raises:
        ValueError: see `read_run`; nothing has been written.
        OSError: another process works in the file, or it cannot be used.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / FILE
    >>> with open_run(path, {"seeds": 1}) as (file, answers):
    ...     answers, file.tell(), path.stat().st_size
    ([], 13, 13)
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
        _lock(file, path)
        answers, end = read_run(path, facts)
        file.truncate(end)
        file.seek(end)
        if not end:
            append_record(file, facts)
        yield file, answers


def _lock(file: IO[bytes], path: Path) -> None:
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OSError(f"another process works in this file: {path}") from None
    except (ImportError, OSError):
        return  # a system or a disk without locks


def answer_record(answer: Answer) -> dict[str, Any]:
    """Return what stands on a line.

    >>> answer_record(Answer([], [Dropped("length", "too short", "?")]))["dropped"]
    [{'reason': 'length', 'why': 'too short', 'text': '?'}]
    """
    dropped = [one._asdict() for one in answer.dropped]
    return {"kept": [sample_record(sample) for sample in answer.kept], "dropped": dropped}


def append_record(file: IO[bytes], record: Any) -> None:
    """Write a line in one go, and return when it is on the disk; see `read_answers`.

    Args:
        file: open for writing, at its end.
        record: a JSON value.

    Raises:
        OSError: it cannot be written.
    """
    file.write(_encoded(record))
    file.flush()
    os.fsync(file.fileno())


def _encoded(record: Any) -> bytes:
    return (json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n").encode()
