"""Two arrays that should be equal: where they part, and by how much. How: patterns.py.

The first place that differs is not the first in memory but the first in time: axes T and S come
first, so that one sees where an error starts ("time 0 is right, time 1 is wrong").
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..backend import Array
from .axes import NAMES as NAMES  # can be imported from here too
from .axes import TIME, in_words, letters
from .limits import UNITS, units_off
from .patterns import patterns


class Difference(NamedTuple):
    """What is to be said about an output that is not ours."""

    place: tuple[int, ...]  # the first that differs, in time
    where: str  # the same in words: "batch 0, time 1, feature 3"
    got: float
    want: float
    error: float  # largest, over the scale of ours
    ulps: int | None  # numbers between got and want, at that place; None near zero or not finite
    wrong: int  # entries off by more than the limit
    total: int
    patterns: tuple[str, ...]  # plain sentences, the most telling first
    whole: bool = False  # ids or counts: they are right or wrong, and `error` says nothing


def two_numbers(got: float, want: float) -> tuple[str, str]:
    """Write two numbers with as many digits as it takes to see that they differ.

    >>> two_numbers(0.25, 0.5), two_numbers(1.00000001, 1.0)
    (('0.25', '0.5'), ('1.00000001', '1'))
    """
    for digits in (6, 9, 12, 17):
        texts = f"{got:.{digits}g}", f"{want:.{digits}g}"
        if texts[0] != texts[1]:
            break
    return texts


def ulps_between(got: float, want: float) -> int | None:
    """Return how many float64 numbers lie between two, None where that means nothing.

    >>> ulps_between(1.0, 1.0 + 2**-52), ulps_between(1.0, float("nan"))
    (1, None)
    """
    if not (math.isfinite(got) and math.isfinite(want)) or got * want <= 0:
        return None
    bits = [int(np.array(abs(x)).view(np.int64)) for x in (got, want)]
    return abs(bits[0] - bits[1])


def find_difference(
    got: Array, want: Array, axes: str, allowed: float, dtype: str = "float64"
) -> Difference | None:
    """Compare an output with ours, of the same shape.

    Args:
        got: a stranger's output.
        want: ours, in float64.
        axes: letters of its axes.
        allowed: units off that are fine, see limits.limit.
        dtype: in which got was computed.

    Returns:
        None when every entry is within the limit.
    """
    whole = all(np.asarray(x).dtype.kind in "iub" for x in (got, want))
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    wrong = units_off(got, want, dtype) > allowed
    if not wrong.any():
        return None
    names = letters(axes, want.ndim)
    order = sorted(range(want.ndim), key=lambda i: (names[i] not in TIME, i))
    first = np.argwhere(wrong.transpose(order))[0]
    place = tuple(int(first[order.index(i)]) for i in range(want.ndim))
    finite = np.isfinite(want)
    scale = float(np.abs(want[finite]).max(initial=0.0)) or 1.0
    with np.errstate(invalid="ignore"):
        off = np.abs(got - want)
    error = float(off.max()) / scale if np.isfinite(off).all() else math.inf
    a, b = float(got[place]), float(want[place])
    close = max(1e-9, allowed * UNITS[dtype]) * scale
    sizes = {str(n): n for n in sorted(set(want.shape))}
    return Difference(
        place,
        in_words(place, axes),
        a,
        b,
        error,
        ulps_between(a, b) if abs(b) > 0.01 * scale and not whole else None,
        int(wrong.sum()),
        wrong.size,
        tuple(patterns(got, want, wrong, names, close, sizes, whole)),
        whole,
    )


def shape_difference(got: tuple[int, ...], want: tuple[int, ...], axes: str) -> str:
    """Say how a shape differs from the right one.

    >>> shape_difference((2, 5, 4), (2, 4, 5), "B H T")
    'the shape is (2, 5, 4), it must be (B=2, H=4, T=5): axes 1 and 2 are exchanged'
    """
    names = letters(axes, len(want))
    sizes = ", ".join(f"{n}={s}" if n else str(s) for n, s in zip(names, want, strict=True))
    text = f"the shape is {got}, it must be ({sizes}{',' if len(want) == 1 else ''})"
    if sorted(got) == sorted(want) and len(got) == len(want):
        moved = [i for i in range(len(want)) if got[i] != want[i]]
        if len(moved) == 2:
            return f"{text}: axes {moved[0]} and {moved[1]} are exchanged"
        return f"{text}: the axes are in another order"
    if math.prod(got) == math.prod(want):
        return f"{text}: as many numbers, in another shape"
    if len(got) < len(want):
        return f"{text}: {len(want) - len(got)} axis too few"
    if len(got) > len(want):
        return f"{text}: {len(got) - len(want)} axis too many"
    return text
