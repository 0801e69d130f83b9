r"""JSONL: a JSON value on each line, read strictly, so that a damaged line is not trained on.

    fine      a byte-order mark, blank lines, CRLF, a last line without line end, a file of gzip
    error     what is not UTF-8, not JSON (NaN is not), or nested too deeply; a number too large for
              a float; a key that comes twice in an object; NUL or half a surrogate pair anywhere in
              a text

Lines end at "\n" only, as JSONL has it: U+2028 in a text does not end one. What lines hold is told
in records.py.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NoReturn, TypeAlias, TypeVar

Source: TypeAlias = str | os.PathLike[str] | IO[bytes]
Record = TypeVar("Record")

NOT_TEXT = re.compile("[\0\ud800-\udfff]")  # the second are halves of a character in UTF-16


def name_and_data(source: Source) -> tuple[str, bytes]:
    """Return the name for errors and the bytes, unzipped, without a byte-order mark.

    Args:
        source: the path of a file, or a binary stream.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is a damaged file of gzip.

    >>> import io
    >>> name_and_data(io.BytesIO(gzip.compress(b"7")))
    ('the stream', b'7')
    """
    if isinstance(source, str | os.PathLike):
        name, data = str(source), Path(source).read_bytes()
    else:
        name, data = str(getattr(source, "name", "the stream")), source.read()
    if data.startswith(b"\x1f\x8b"):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{name} is a damaged file of gzip: {error}") from None
    return name, data.removeprefix(b"\xef\xbb\xbf")


def read_lines(
    name: str,
    data: bytes,
    make: Callable[[Any, int], Record],
    bad_lines: list[str] | None = None,
) -> list[Record]:
    r"""Make a record of each line that is not blank.

    Args:
        name: of the file, for errors.
        data: the lines.
        make: called as make(value, number of the line); what it raises is told of the line.
        bad_lines: None stops at the first bad line. A list gets the message of each bad line.

    Returns:
        What make returned for the good lines.

    Raises:
        ValueError: a line is bad, or there is none.

    >>> read_lines("f", b"1\n\n[2]", lambda value, number: (value, number))
    [(1, 1), ([2], 3)]
    """
    records: list[Record] = []
    lines = 0
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        lines += 1
        try:
            records.append(make(parse_json(line), number))
        except (ValueError, TypeError) as error:
            message = f"{name}, line {number}: {error}"
            if bad_lines is None:
                raise ValueError(message) from None
            bad_lines.append(message)
    if not lines:
        raise ValueError(f"{name} holds no lines")
    return records


@contextmanager
def on_line(path: str | os.PathLike[str], line: int) -> Iterator[None]:
    """Say file and line when what a line holds cannot be used.

    >>> with on_line("chats.jsonl", 3):
    ...     raise ValueError("no form for tools")
    Traceback (most recent call last):
    ...
    ValueError: chats.jsonl, line 3: no form for tools
    """
    try:
        yield
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}, line {line}: {error}") from None


def parse_json(line: bytes) -> Any:
    """Read one JSON value, more strictly than `json` does by itself.

    Args:
        line: UTF-8; a document of several lines will do, then a mistake names its line.

    Raises:
        ValueError: see above.

    >>> parse_json(b'{"a": 1, "a": 2}')
    Traceback (most recent call last):
    ...
    ValueError: the key 'a' comes twice in one object
    """
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text: {error}") from None
    try:
        record = json.loads(
            text,
            object_pairs_hook=_no_key_twice,
            parse_constant=_no_constant,
            parse_float=_finite,
        )
        _require_text("", record)
    except json.JSONDecodeError as error:
        problem = error.msg.removesuffix(" at")
        place = f"line {error.lineno}, " * (error.lineno > 1) + f"character {error.colno}"
        raise ValueError(f"not JSON: {problem} at {place}") from None
    except RecursionError:
        raise ValueError("not JSON that can be read: too deeply nested") from None
    return record


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r:.80} comes twice in one object")
        found[key] = value
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"not JSON: {name}")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {text:.80} is too large")
    return number


def _require_text(place: str, value: Any) -> None:
    """Refuse characters that no text holds, anywhere in the record; place says where."""
    if isinstance(value, str) and (found := NOT_TEXT.search(value)):
        character = f"U+{ord(found.group()):04X}"
        raise ValueError(f"{place:.80} holds {character} at character {found.start() + 1}")
    if isinstance(value, list):
        for i, item in enumerate(value):
            _require_text(f"{place}[{i}]", item)
    if isinstance(value, dict):
        for key, item in value.items():
            _require_text(f"a key in {place[:60] or 'the record'}", key)
            _require_text(f"{place}.{key}".removeprefix("."), item)
