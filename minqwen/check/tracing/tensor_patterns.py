"""How two tensors of one shape differ, in plain sentences: which entries, and in what way.

Ours is the right one. What is looked for, the most telling first: NaN, zeros, wrong only at some
indices of an axis, a sign, a constant factor (and which one), an offset, a factor for each index, a
shift in time, another order along an axis (and which one), the precision of another dtype.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from ...backend import Array
from ..difference import NAMES
from ..limits import UNITS

Sizes = dict[str, int]  # of axes by letter


def patterns(
    ours: Array, theirs: Array, axes: Sequence[str], close: float, sizes: Sizes
) -> list[str]:
    """Return plain sentences about how theirs differs from ours.

    Args:
        ours: (any shape) float64.
        theirs: the same shape, float64.
        axes: a letter for each axis.
        close: a difference that is none.
        sizes: of the model, to recognise factors: {"Dh": 64, "H": 12, ...}.

    >>> patterns(np.array([1.0, 2.0]), np.array([-1.0, -2.0]), ["D"], 1e-9, {})
    ['every number has the other sign']
    """
    bad = ~np.isfinite(theirs) & np.isfinite(ours)
    if bad.any():
        return [
            f"theirs has NaN or infinity in {bad.sum():,} of {bad.size:,} entries",
            *where(bad, axes),
        ]
    if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return []
    if not theirs.any():
        return ["theirs is zero everywhere"]
    wrong = np.abs(theirs - ours) > close
    found = list(where(wrong, axes))
    if np.abs(theirs - ours).max() > 20 * close:  # else everything is near everything
        for look in (scaled, moved, by_index):
            told = list(look(ours, theirs, axes, close, sizes))
            if told:
                return told + found
    return found


def where(wrong: Array, axes: Sequence[str]) -> Iterator[str]:
    """Say so when exactly some indices of one axis are wrong."""
    if wrong.all() or wrong.ndim == 0:
        return
    for i, letter in enumerate(axes):
        rows = np.moveaxis(wrong, i, 0).reshape(wrong.shape[i], -1)
        n, bad = len(rows), np.flatnonzero(rows.any(axis=1))
        if len(bad) in (0, n) or n == 1:
            continue
        name = NAMES.get(letter, letter or f"axis {i}")
        if len(bad) == 1:
            yield f"only {name} {bad[0]} of {n} is off"
        elif (np.diff(bad) == 1).all() and bad[-1] == n - 1:
            yield f"off from {name} {bad[0]} on; before it all is right"
        elif (np.diff(bad) == 1).all() and bad[0] == 0:
            yield f"off up to {name} {bad[-1]}; after it all is right"
        elif len(bad) <= 8 and 2 * len(bad) <= n:
            yield f"off only at {name} {', '.join(map(str, bad))}"


def scaled(
    ours: Array, theirs: Array, axes: Sequence[str], close: float, sizes: Sizes
) -> Iterator[str]:
    """Say so when all numbers have one factor, or one number added."""
    if ours.size < 2:
        return
    if np.abs(theirs + ours).max() <= close:
        yield "every number has the other sign"
        return
    norm = float((ours * ours).sum())
    factor = float((ours * theirs).sum()) / norm if norm else 0.0
    if factor and np.abs(theirs - factor * ours).max() <= close * max(1.0, abs(factor)):
        yield f"all numbers are {factor:.6g} times ours{known_factor(factor, close, ours, sizes)}"
        return
    offset = theirs - ours
    if np.ptp(offset) <= close and abs(offset.flat[0]) > 10 * close:
        yield f"all numbers are ours plus {offset.flat[0]:.6g}"


def known_factor(factor: float, close: float, ours: Array, sizes: Sizes) -> str:
    """Recognise a factor: a size of the model, its root, ln 2, a half.

    >>> known_factor(0.125, 1e-9, np.ones(2), {"Dh": 64})
    ', that is 1 / sqrt(Dh)'
    """
    known = {"2": 2.0, "1 / 2": 0.5, "ln 2": math.log(2), "1 / ln 2": 1 / math.log(2)}
    for name, n in sizes.items():
        if n > 1:
            known |= {f"1 / sqrt({name})": n**-0.5, f"sqrt({name})": n**0.5}
            known |= {f"1 / {name}": 1 / n, name: float(n)}
    scale = float(np.abs(ours).max()) or 1.0
    near = max(1e-12, 4 * close / scale)
    names = [name for name, value in known.items() if abs(factor / value - 1) < near]
    return f", that is {' or '.join(names[:2])}" if names else ""


def moved(
    ours: Array, theirs: Array, axes: Sequence[str], close: float, sizes: Sizes
) -> Iterator[str]:
    """Say so when our numbers stand in other places."""
    for i, letter in enumerate(axes):
        name = NAMES.get(letter, letter or f"axis {i}")
        a, b = (np.moveaxis(x, i, 0).reshape(x.shape[i], -1) for x in (ours, theirs))
        n = len(a)
        if n < 2 or a.shape[1] < 2:
            continue
        order = order_of(a, b, close)
        if order is not None and order != order_of(a, a, close):
            told = known_order(order, letter)
            yield f"our numbers in another order along {name}: {told}"
            return
        for by in (1, 2, -1, -2):
            if n > abs(by) + 1:
                x, y = (a[:-by], b[by:]) if by > 0 else (a[-by:], b[:by])
                if np.abs(x - y).max() <= close and np.abs(x).max() > close:
                    places = "one place" if abs(by) == 1 else f"{abs(by)} places"
                    yield f"our numbers, {places} {'later' if by > 0 else 'earlier'} along {name}"
                    return
    if ours.ndim >= 2 and ours.shape[-1] == ours.shape[-2]:
        turned = ours.swapaxes(-1, -2)
        if np.abs(turned - theirs).max() <= close:
            yield f"our numbers transposed: axes {axes[-2]} and {axes[-1]} are exchanged"


def order_of(a: Array, b: Array, close: float) -> list[int] | None:
    """Return for each row of b the first row of a that it is; None where one is none of them.

    >>> order_of(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[3.0, 4.0], [1.0, 2.0]]), 1e-9)
    [1, 0]
    """
    sums = a.mean(axis=1)
    order: list[int] = []
    for row in b:
        likely = np.flatnonzero(np.abs(sums - row.mean()) <= close)
        same = [int(j) for j in likely if np.abs(a[j] - row).max() <= close]
        if not same:
            return None
        order.append(same[0])
    return order


def known_order(order: list[int], letter: str) -> str:
    """Recognise an order along an axis.

    >>> known_order([0, 2, 1, 3], "Dh"), known_order([3, 2, 1, 0], "T")
    ('the two halves are interleaved', 'backwards')
    """
    n = len(order)
    half = n // 2
    if order == list(range(n))[::-1]:
        return "backwards"
    if n % 2 == 0:
        if order == [i // 2 + half * (i % 2) for i in range(n)]:
            return "the two halves are interleaved"
        if order == [2 * i % n + 2 * i // n for i in range(n)]:
            return "the even ones first, then the odd ones"
        if order == [(i + half) % n for i in range(n)]:
            return "the two halves are exchanged"
    if len(set(order)) < n:
        for G in range(2, n + 1):
            if n % G == 0 and order == [i % (n // G) * G for i in range(n)]:
                return "kv heads are tiled 0 1 0 1, not repeated 0 0 1 1"
    for G in range(2, n):
        if n % G == 0 and order == [i % (n // G) * G + i // (n // G) for i in range(n)]:
            return f"as if ({G}, {n // G}) of them were transposed"
    text = ", ".join(map(str, order[:8])) + (", ..." if n > 8 else "")
    return f"theirs are ours number {text}"


def by_index(
    ours: Array, theirs: Array, axes: Sequence[str], close: float, sizes: Sizes
) -> Iterator[str]:
    """Say so when each index of an axis has a factor of its own, or a number added."""
    for i, letter in enumerate(axes):
        a, b = (np.moveaxis(x, i, 0).reshape(x.shape[i], -1) for x in (ours, theirs))
        if len(a) < 2 or a.shape[1] < 2:
            continue
        name = NAMES.get(letter, letter or f"index of axis {i}")
        norm = (a * a).sum(axis=1)
        if not (norm > 0).all():
            continue
        c = (a * b).sum(axis=1) / norm
        for what, rest, each in (
            ("has a factor of its own", b - c[:, None] * a, c),
            (
                "has a number of its own added",
                b - a - (b - a).mean(axis=1)[:, None],
                (b - a).mean(axis=1),
            ),
        ):
            plain = np.ptp(each) < 1e-3 * max(1.0, np.abs(each).max())  # then it says nothing
            if not plain and np.abs(rest).max() <= close * max(1.0, np.abs(c).max()):
                first = ", ".join(f"{x:.4g}" for x in each[:4])
                yield f"each {name} {what}: {first}{', ...' if len(each) > 4 else ''}"
                return


def rounded(ours: Array, theirs: Array) -> Iterator[str]:
    """Say so when theirs was computed in, or rounded to, a narrower dtype than it comes in.

    >>> list(rounded(np.array([0.1, 0.2]), np.array([0.1, 0.2], np.float16).astype(np.float32)))
    ['every number of theirs is a float16 number: they were rounded to it']
    >>> list(rounded(np.array([0.1, 0.2]), np.array([0.1, 0.2 + 1e-9])))
    ['the difference is of the size of rounding to float32']
    """
    if theirs.dtype.name not in ("float32", "float64") or theirs.size < 2:
        return
    wide = theirs.astype(np.float64)
    for dtype in ("bfloat16", "float16", "float32"):
        if UNITS[dtype] > UNITS[theirs.dtype.name] and np.array_equal(narrowed(wide, dtype), wide):
            yield f"every number of theirs is a {dtype} number: they were rounded to it"
            return
    scale = float(np.abs(ours).max()) or 1.0
    error = float(np.abs(wide - ours).max()) / scale / UNITS["float32"]
    if theirs.dtype == np.float64 and 0.05 < error < 4:
        yield "the difference is of the size of rounding to float32"


def narrowed(x: Array, dtype: str) -> Array:
    """Round float64 numbers to a narrower dtype, and back.

    >>> narrowed(np.array([1 + 2**-7, 1 + 2**-9]), "bfloat16").tolist()
    [1.0078125, 1.0]
    """
    if dtype != "bfloat16":
        with np.errstate(over="ignore"):
            return x.astype(dtype).astype(np.float64)
    bits = x.astype(np.float32).view(np.uint32)
    return (bits & np.uint32(0xFFFF0000)).view(np.float32).astype(np.float64)
