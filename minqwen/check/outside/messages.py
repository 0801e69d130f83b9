"""What passes between the checker and the process in which a stranger's code runs.

A message is a frame: 4 letters, two lengths, a header in JSON, and the plain bytes of the arrays
that the header lists (little-endian, in C order). Nothing is ever pickled, and no length or dtype
is believed: the stranger's code can write any reply it likes, and all that it can reach is a reply
that is damaged, or numbers, which are compared like any others.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ...backend import Array

KINDS = (
    "missing file",
    "missing function",
    "missing package",
    "wrong name",
    "import raised",
    "raised",
    "hung",
    "exited",
    "killed",
    "out of memory",
    "wrong type",
    "too much output",
    "reply damaged",
)
MAGIC = b"MQ6\n"
MAX_HEADER = 4 << 20
MAX_BODY = 256 << 20
MAX_NOTES = 12  # lines that a reply may add to the report
_LENGTHS = struct.Struct("<IQ")
_DTYPES = {
    name: np.dtype(name).newbyteorder("<")
    for name in (
        *("float64", "float32", "float16", "bool"),
        *("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8"),
    )
}


class Problem(NamedTuple):
    """Why a call gave no answer."""

    kind: str  # one of KINDS
    says: str  # one plain sentence
    where: str = ""  # their file and line


@dataclass(frozen=True)
class Reply:
    """What came of one call of a stranger's function."""

    outputs: tuple[Array, ...] | None = None  # on the host; bfloat16 as float32
    dtypes: tuple[str, ...] = ()  # of the outputs, as they came
    gradients: dict[str, Array | None] = field(default_factory=dict)  # None: detached
    changed: tuple[str, ...] = ()  # inputs into which the call wrote
    printed: str = ""  # to stdout and stderr, cut
    problem: Problem | None = None
    notes: tuple[str, ...] = ()  # what had to be converted, in sentences
    seconds: float = 0.0  # of the call, on the clock


class Damaged(ValueError):
    """A frame that is not one of ours."""


def pack(header: dict[str, Any], arrays: Sequence[Array] = ()) -> bytes:
    """Write a message.

    >>> read_frame(stream(pack({"do": "forward"}, [np.ones(2)])))
    ({'do': 'forward'}, [array([1., 1.])])
    """
    parts, listed = [], []
    for array in arrays:
        dtype = _DTYPES[array.dtype.name]
        parts.append(np.array(array, dtype=dtype, order="C").tobytes())
        listed.append([array.dtype.name, list(array.shape)])
    text = json.dumps({"header": header, "arrays": listed}).encode("ascii")
    body = b"".join(parts)
    return MAGIC + _LENGTHS.pack(len(text), len(body)) + text + body


def stream(data: bytes) -> Callable[[int], bytes]:
    """Return a reader of so many bytes at a time.

    >>> read = stream(b"abc"); read(2), read(2)
    (b'ab', b'c')
    """
    view = memoryview(data)
    place = 0

    def read(count: int) -> bytes:
        nonlocal place
        place += count
        return bytes(view[place - count : place])

    return read


def read_frame(read: Callable[[int], bytes]) -> tuple[dict[str, Any], list[Array]]:
    """Read a message, believing nothing.

    Args:
        read: returns so many bytes, fewer only at the end of the stream.

    Raises:
        EOFError: the stream ended where a message would begin.
        Damaged: anything else that is not a message of ours.
    """
    magic = read(4)
    if not magic:
        raise EOFError
    if magic != MAGIC:
        raise Damaged("it does not begin like a reply")
    lengths = read(_LENGTHS.size)
    if len(lengths) < _LENGTHS.size:
        raise Damaged("it ends early")
    header_length, body_length = _LENGTHS.unpack(lengths)
    if header_length > MAX_HEADER or body_length > MAX_BODY:
        raise Damaged("its length is impossible")
    text, body = read(header_length), read(body_length)
    if len(text) < header_length or len(body) < body_length:
        raise Damaged("it ends early")
    try:
        message = json.loads(text)
        header, listed = message["header"], message["arrays"]
        if not isinstance(header, dict) or not isinstance(listed, list):
            raise Damaged("its header is not one")
        arrays, start = [], 0
        for name, shape in listed:
            dtype = _DTYPES[name]
            if len(shape) > 32 or any(type(n) is not int or not 0 <= n <= MAX_BODY for n in shape):
                raise Damaged("the shape of an array is impossible")
            stop = start + math.prod(shape) * dtype.itemsize
            if stop > body_length:
                raise Damaged("an array is longer than the reply")
            array = np.frombuffer(body[start:stop], dtype).reshape(shape)
            arrays.append(array.astype(dtype.newbyteorder("=")))
            start = stop
    except Damaged:
        raise
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
        raise Damaged(f"it cannot be read ({type(error).__name__})") from None
    if start != body_length:
        raise Damaged("bytes are left over")
    return header, arrays


def write_tree(value: Any, arrays: list[Array]) -> Any:
    """Return a value as plain JSON; the arrays in it are appended to `arrays`.

    A value is an array, a number, a text, bytes, None, or a list, tuple or dict of values.

    >>> write_tree((1, [np.ones(2)]), [])
    ['tuple', [1, ['list', [['array', 0]]]]]
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, np.ndarray):
        arrays.append(value)
        return ["array", len(arrays) - 1]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, bytes):
        return ["bytes", value.decode("latin-1")]
    if isinstance(value, dict):
        keys = [write_tree(key, arrays) for key in value]
        return ["dict", [keys, [write_tree(entry, arrays) for entry in value.values()]]]
    if isinstance(value, (list, tuple)):
        kind = "list" if isinstance(value, list) else "tuple"
        return [kind, [write_tree(entry, arrays) for entry in value]]
    raise TypeError(f"a {type(value).__name__} cannot be handed to another process")


def read_tree(value: Any, arrays: Sequence[Array]) -> Any:
    """Return the value that write_tree wrote.

    >>> arrays = []; read_tree(write_tree({"x": (b"a", None)}, arrays), arrays)
    {'x': (b'a', None)}
    """
    if not isinstance(value, list):
        return value
    kind, content = value
    if kind == "array":
        return arrays[content]
    if kind == "bytes":
        return content.encode("latin-1")
    if kind == "dict":
        keys, entries = ([read_tree(entry, arrays) for entry in part] for part in content)
        return dict(zip(keys, entries, strict=True))
    entries = [read_tree(entry, arrays) for entry in content]
    return tuple(entries) if kind == "tuple" else entries


def write_reply(reply: Reply, arrays: list[Array]) -> dict[str, Any]:
    """Return a reply as plain JSON; its arrays are appended to `arrays`."""

    def number(array: Array | None) -> int | None:
        if array is None:
            return None
        arrays.append(array)
        return len(arrays) - 1

    return {
        "outputs": None if reply.outputs is None else [number(y) for y in reply.outputs],
        "dtypes": list(reply.dtypes),
        "gradients": {name: number(g) for name, g in reply.gradients.items()},
        "changed": list(reply.changed),
        "problem": None if reply.problem is None else list(reply.problem),
        "notes": list(reply.notes),
    }


def read_reply(header: Any, arrays: Sequence[Array], printed: str, seconds: float) -> Reply:
    """Return the reply that write_reply wrote, or that a stranger forged.

    Raises:
        Damaged: a part is missing or of the wrong type.
    """
    try:
        outputs = header["outputs"]
        found = None if outputs is None else tuple(_pick(arrays, i) for i in outputs)
        gradients = {
            clean(name): None if i is None else _pick(arrays, i)
            for name, i in header["gradients"].items()
        }
        problem = header["problem"]
        if problem is not None:
            kind, says, where = (clean(part) for part in problem)
            if kind not in KINDS:
                raise Damaged("it names an unknown kind of problem")
            problem = Problem(kind, says, where)
        elif found is None:
            raise Damaged("it holds no outputs")
        dtypes, changed = (
            tuple(clean(text, 100) for text in header[key]) for key in ("dtypes", "changed")
        )
        changed = changed[:MAX_NOTES]
        notes = tuple(clean(text, 200) for text in list(header["notes"])[:MAX_NOTES])
        if found is not None and len(dtypes) != len(found):
            raise Damaged("it names too many or too few dtypes")
    except Damaged:
        raise
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise Damaged(f"a part is missing or wrong ({type(error).__name__})") from None
    return Reply(found, dtypes, gradients, changed, printed, problem, notes, seconds)


def _pick(arrays: Sequence[Array], index: Any) -> Array:
    if type(index) is not int or index < 0:
        raise Damaged("an array has no number")
    return arrays[index]


def clean(text: Any, most: int = 500) -> str:
    """Return a text on one line, cut, without characters that a terminal obeys.

    >>> clean("a\\n\\x1b[2Jb")
    'a ?[2Jb'
    """
    if not isinstance(text, str):
        raise Damaged("a text is not a text")
    line = " ".join(text[: 4 * most].split())
    line = "".join(c if c.isprintable() else "?" for c in line)
    return line if len(line) <= most else line[: most - 4] + " ..."
