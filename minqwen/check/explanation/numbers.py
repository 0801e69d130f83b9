"""Numbers as a person would write them, in columns."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator
from typing import Any

import numpy as np

from ...backend import Array

WIDTH = 100
ROWS = 12  # of an array that are printed


def written(x: Any, digits: int = 5) -> str:
    """Return a number with this many digits, and no zeros at its end.

    >>> written(0.5), written(2.0), written(1 / 3), written(1.5e-7), written(-np.inf)
    ('0.5', '2', '0.33333', '1.5e-07', '-inf')
    """
    if isinstance(x, bool | np.bool_):
        return "1" if x else "0"
    if isinstance(x, int | np.integer):
        return str(int(x))
    x = float(x)
    if not math.isfinite(x):
        return str(x)
    if x == 0:
        return "0"
    if not 1e-4 <= abs(x) < 1e7:
        return f"{x:.{digits - 3}g}"
    return np.format_float_positional(x, precision=digits, fractional=False, trim="-")


def aligned(array: Array, digits: int = 5) -> Array:
    """Return the numbers as text of equal width, their points below each other.

    >>> aligned(np.array([1.0, -0.25])).tolist()
    [' 1   ', '-0.25']
    """
    texts = [written(x, digits) for x in array.ravel().tolist()]
    left = [len(t.split(".")[0]) if "e" not in t else 0 for t in texts]
    right = [len(t) - n for t, n in zip(texts, left, strict=True)]
    before, after = max(left, default=0), max(right, default=0)
    padded = []
    for text, n in zip(texts, left, strict=True):
        one = " " * (before - n) + text if "e" not in text else text.rjust(before)
        padded.append(one.ljust(before + after))
    result = np.empty(len(padded), object)
    result[:] = padded
    return result.reshape(array.shape)


def beside(left: Array, right: Array, digits: int = 5) -> bool:
    """Say whether two arrays of one shape fit on the page side by side.

    >>> beside(np.zeros((2, 4)), np.ones((2, 4))), beside(np.zeros(40), np.zeros(40))
    (True, False)
    """
    columns = max(left.shape[-1:], default=1)
    width = sum(len(aligned(a, digits).ravel()[0]) for a in (left, right) if a.size)
    return columns * width + 4 * (columns - 1) + 5 <= WIDTH - 12


def place(axes: str, index: tuple[int, ...], ndim: int) -> str:
    """Return the name of a matrix in an array, with the letters of its leading axes.

    >>> place("B H T Dh", (0, 1), 4), place("...", (2,), 3)
    ('B=0 H=1', '[2]')
    """
    letters = axes.replace("...", "").split()
    if len(letters) != ndim or not all(letter.isidentifier() for letter in letters):
        return str(list(index))
    return " ".join(f"{letter}={i}" for letter, i in zip(letters, index, strict=False))


def table(
    *arrays: Array, axes: str = "...", digits: int = 5, rows: int = ROWS, start: int = 0
) -> Iterator[str]:
    """Yield the rows of an array, or of several of one shape side by side.

    Args:
        arrays: (any shape) numbers or booleans.
        axes: letters of their axes.
        digits: of each number.
        rows: how many rows are printed at most.
        start: the first row.
    """
    shape = arrays[0].shape
    if not arrays[0].size:
        yield "(nothing)"
        return
    flat = [np.atleast_2d(aligned(a, digits)).reshape(-1, (shape or (1,))[-1]) for a in arrays]
    lead = shape[:-2]
    height = shape[-2] if len(shape) > 1 else 1
    for r in range(start, min(start + rows, len(flat[0]))):
        if lead and (r % height == 0 or r == start):
            index = tuple(int(i) for i in np.unravel_index(r // height, lead))
            yield f"{place(axes, index, len(shape))}:"
        yield from wrapped("  |  ".join("  ".join(part[r]) for part in flat).rstrip(), WIDTH - 12)
    if len(flat[0]) > start + rows:
        yield f"... {len(flat[0]) - start - rows} more rows"


def wrapped(text: str, width: int = WIDTH, indent: str = "", more: str = "    ") -> list[str]:
    """Break a line that is too long, and indent what follows.

    >>> wrapped("one two three", width=9)
    ['one two', '    three']
    """
    if len(indent + text) <= width:
        return [indent + text]
    return textwrap.wrap(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=indent + more,
        break_long_words=True,
        break_on_hyphens=False,
        drop_whitespace=True,
    )


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it: NaN and infinity become text.

    >>> plain({"a": np.array([1.0, np.nan])}), plain(b"hi")
    ({'a': [1.0, 'nan']}, "b'hi'")
    """
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if hasattr(value, "_asdict"):
        return {name: plain(x) for name, x in value._asdict().items()}
    if isinstance(value, dict):
        return {str(name): plain(x) for name, x in value.items()}
    if isinstance(value, list | tuple):
        return [plain(x) for x in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | int | float | bool | None) else repr(value)
