"""How an array differs from the right one of the same shape, in plain sentences.

What is looked for, the most telling first: NaN, zeros, a sign, a constant factor (and which one),
an offset, another order along an axis (and which one), a shift in time, a factor for each index,
then which entries are wrong. Of whole numbers (ids, counts) only what means something is said: a
factor or a sign does not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ..backend import Array
from .axes import axis_name, index_name
from .limits import UNITS

Sizes = dict[str, int]  # by name, to recognise a factor: {"Dh": 64}


class Pair(NamedTuple):
    """Two arrays to be compared."""

    got: Array  # float64
    want: Array  # the same shape, float64: the right one
    axes: Sequence[str]  # a letter for each axis, "" where there is none
    close: float  # a difference that is none
    sizes: Sizes
    whole: bool  # ids or counts: a multiple of them means nothing


def patterns(
    got: Array,
    want: Array,
    wrong: Array,
    axes: Sequence[str],
    close: float,
    sizes: Sizes | None = None,
    whole: bool = False,
) -> list[str]:
    """Return plain sentences about how got differs from want.

    Args:
        got: (any shape) float64.
        want: the same shape, float64: the right one.
        wrong: the same shape, bool: which entries differ.
        axes: a letter for each axis.
        close: a difference that is none.
        sizes: to recognise a factor: {"Dh": 64, "H": 12, ...}.
        whole: both are ids or counts.

    >>> patterns(np.array([-1.0, -2.0]), np.array([1.0, 2.0]), np.ones(2, bool), ["D"], 1e-9)
    ['every number has the wrong sign']
    """
    bad = ~np.isfinite(got) & np.isfinite(want)
    if bad.any():
        of = f"{bad.sum():,} of {bad.size:,} entries"
        return [f"NaN or infinity in {of}, where the right numbers are finite", *where(bad, axes)]
    holes = ~np.isfinite(want)
    if holes.any():
        filled = (holes & np.isfinite(got)).sum()
        of = f"{filled:,} of {holes.sum():,} entries"
        says = f"finite numbers in {of} where the right ones are NaN or infinity"
        return [says, *where(wrong, axes)] if filled else list(where(wrong, axes))
    if got.size and not got.any():
        return ["every number is zero", *where(wrong, axes)]
    found = list(where(wrong, axes))
    if got.size and np.abs(got - want).max() > 20 * close:  # else everything is near everything
        pair = Pair(got, want, axes, close, sizes or {}, whole)
        for look in (scaled, moved, by_index):
            told = list(look(pair))
            if told:
                return told + found
    return found


def where(wrong: Array, axes: Sequence[str]) -> Iterator[str]:
    """Say so when exactly some indices of one axis are wrong.

    >>> list(where(np.array([[True, False, False], [True, False, False]]), ["B", "T"]))
    ['only time 0 of 3 is wrong']
    """
    if wrong.all() or wrong.ndim == 0:
        return
    for i, letter in enumerate(axes):
        rows = np.moveaxis(wrong, i, 0).reshape(wrong.shape[i], -1)
        n, bad = len(rows), np.flatnonzero(rows.any(axis=1))
        if len(bad) in (0, n) or n == 1:
            continue
        name = index_name(letter, i)
        if len(bad) == 1:
            at = "the last" if bad[0] == n - 1 and n > 2 else f"{bad[0]} of {n}"
            yield f"only {name} {at} is wrong"
        elif (np.diff(bad) == 1).all() and bad[-1] == n - 1:
            yield f"wrong from {name} {bad[0]} on; before it everything is right"
        elif (np.diff(bad) == 1).all() and bad[0] == 0:
            yield f"wrong up to {name} {bad[-1]}; after it everything is right"
        elif len(bad) <= 8 and 2 * len(bad) <= n:
            yield f"wrong only at {name} {', '.join(map(str, bad))}"


def scaled(p: Pair) -> Iterator[str]:
    """Say so when all numbers have one factor, or one number added."""
    if p.got.size < 2:
        return
    if not p.whole:
        if np.abs(p.got + p.want).max() <= p.close:
            yield "every number has the wrong sign"
            return
        norm = float((p.want * p.want).sum())
        factor = float((p.want * p.got).sum()) / norm if norm else 0.0
        several = np.count_nonzero(np.abs(p.want) > 1e-6 * np.abs(p.want).max()) > 1
        rest = np.abs(p.got - factor * p.want).max()
        if factor and several and rest <= p.close * max(1.0, abs(factor)):
            times = f"all numbers are {told_from(factor, 1.0)} times the right ones"
            yield times + known_factor(p, factor)
            return
    offset = p.got - p.want
    first = float(offset.flat[0])
    if np.ptp(offset) <= p.close and abs(first) > 10 * p.close:
        yield f"all numbers are the right ones {'plus' if first > 0 else 'minus'} {abs(first):.6g}"


def told_from(number: float, other: float) -> str:
    """Write a number with as many digits as it takes to see that it is not the other.

    >>> told_from(0.25, 1.0), told_from(1.00000001, 1.0)
    ('0.25', '1.00000001')
    """
    texts = [f"{number:.{digits}g}" for digits in (6, 9, 12, 17)]
    return next((text for text in texts if float(text) != other), texts[-1])


def known_factor(p: Pair, factor: float) -> str:
    """Recognise a factor: a size, its root, ln 2, a half.

    >>> ones = np.ones(2)
    >>> known_factor(Pair(ones / 8, ones, ["D"], 1e-9, {"Dh": 64}, False), 0.125)
    ', that is 1 / sqrt(Dh)'
    """
    known = {"2": 2.0, "1 / 2": 0.5, "ln 2": math.log(2), "1 / ln 2": 1 / math.log(2)}
    for name, n in p.sizes.items():
        if n > 1:
            known |= {f"1 / sqrt({name})": n**-0.5, f"sqrt({name})": n**0.5}
            known |= {f"1 / {name}": 1 / n, name: float(n)}
    scale = float(np.abs(p.want).max()) or 1.0
    near = max(1e-12, 4 * p.close / scale)
    names = [name for name, value in known.items() if abs(factor / value - 1) < near]
    return f", that is {' or '.join(names[:2])}" if names else ""


def moved(p: Pair) -> Iterator[str]:
    """Say so when the right numbers stand in other places."""
    for i, letter in enumerate(p.axes):
        a, b = rows_along(p, i)
        n = len(a)
        flat = a.shape[1] < 2  # single numbers meet by chance: all of them must be there
        if n < (3 if flat else 2):
            continue
        order = order_of(a, b, p.close)
        means_much = not flat or (p.want.ndim == 1 and sorted(order or []) == list(range(n)))
        if order is not None and means_much and order != order_of(a, a, p.close):
            told = known_order(order, letter)
            yield f"the right numbers in another order along {axis_name(letter, i)}: {told}"
            return
        for by in (1, 2, -1, -2):
            if n > abs(by) + 1 and not (flat and n < 4):
                x, y = (a[:-by], b[by:]) if by > 0 else (a[-by:], b[:by])
                stays = a[by:] if by > 0 else a[:by]
                if np.abs(x - y).max() <= p.close < np.abs(x - stays).max():
                    places = "one place" if abs(by) == 1 else f"{abs(by)} places"
                    way = "later" if by > 0 else "earlier"
                    yield f"the right numbers, {places} {way} along {axis_name(letter, i)}"
                    return
    square = p.want.ndim >= 2 and p.want.shape[-1] == p.want.shape[-2]
    if square and np.abs(p.want.swapaxes(-1, -2) - p.got).max() <= p.close:
        last = [axis_name(p.axes[i], p.want.ndim + i) for i in (-2, -1)]
        yield f"the right numbers transposed: {last[0]} and {last[1]} are exchanged"
        return
    if not p.whole and p.want.size > 2 and np.ptp(p.want) > p.close:
        both = (np.sort(x, axis=None) for x in (p.got, p.want))
        if np.abs(np.subtract(*both)).max() <= p.close:
            yield "the right numbers, all of them, in other places"


def rows_along(p: Pair, axis: int) -> tuple[Array, Array]:
    """Return (right, got) with this axis first and all others in one."""
    a, b = (np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1) for x in (p.want, p.got))
    return a, b


def order_of(a: Array, b: Array, close: float) -> list[int] | None:
    """Return for each row of b the first row of a that it is; None where one is none of them.

    >>> order_of(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[3.0, 4.0], [1.0, 2.0]]), 1e-9)
    [1, 0]
    """
    means = a.mean(axis=1)
    order: list[int] = []
    for row in b:
        likely = np.flatnonzero(np.abs(means - row.mean()) <= close)
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
    if len(set(order)) < n and letter in ("H", "Hkv", "G"):
        for G in range(2, n + 1):
            if n % G == 0 and order == [i % (n // G) * G for i in range(n)]:
                return "kv heads are tiled 0 1 0 1, not repeated 0 0 1 1"
    for G in range(2, n):
        if n % G == 0 and order == [i % (n // G) * G + i // (n // G) for i in range(n)]:
            return f"as if ({G}, {n // G}) of them were transposed"
    text = ", ".join(map(str, order[:8])) + (", ..." if n > 8 else "")
    return f"number {text} of the right ones"


def by_index(p: Pair) -> Iterator[str]:
    """Say so when each index of an axis has a factor of its own, or a number added."""
    for i, letter in enumerate(p.axes):
        a, b = rows_along(p, i)
        if p.whole or len(a) < 2 or a.shape[1] < 2:
            continue
        norm = (a * a).sum(axis=1)
        if not (norm > 0).all():
            continue
        c, added = (a * b).sum(axis=1) / norm, (b - a).mean(axis=1)
        for what, rest, each in (
            ("has a factor of its own", b - c[:, None] * a, c),
            ("has a number of its own added", b - a - added[:, None], added),
        ):
            plain = np.ptp(each) < 1e-3 * max(1.0, np.abs(each).max())  # then it says nothing
            if not plain and np.abs(rest).max() <= p.close * max(1.0, np.abs(c).max()):
                first = ", ".join(f"{x:.4g}" for x in each[:4])
                name = axis_name(letter, i) if letter else f"index of axis {i}"
                yield f"each {name} {what}: {first}{', ...' if len(each) > 4 else ''}"
                return


def rounded(got: Array, want: Array) -> Iterator[str]:
    """Say so when numbers were computed in, or rounded to, a narrower dtype than they come in.

    >>> list(rounded(np.array([0.1, 0.2], np.float16).astype(np.float32), np.array([0.1, 0.2])))
    ['every number is a float16 number: they were rounded to it']
    >>> list(rounded(np.array([0.1, 0.2 + 1e-9]), np.array([0.1, 0.2])))
    ['the difference is of the size of rounding to float32']
    """
    if got.dtype.name not in ("float32", "float64") or got.size < 2 or not np.isfinite(got).all():
        return
    wide = got.astype(np.float64)
    for dtype in ("bfloat16", "float16", "float32"):
        narrower = UNITS[dtype] > UNITS[got.dtype.name]
        if narrower and wide.any() and np.array_equal(narrowed(wide, dtype), wide):
            yield f"every number is a {dtype} number: they were rounded to it"
            return
    scale = float(np.abs(want).max()) or 1.0
    error = float(np.abs(wide - want).max()) / scale / UNITS["float32"]
    if got.dtype == np.float64 and 0.05 < error < 4:
        yield "the difference is of the size of rounding to float32"


def narrowed(x: Array, dtype: str) -> Array:
    """Cut float64 numbers to a narrower dtype, and back: those that it holds stay as they are.

    >>> narrowed(np.array([1 + 2**-7, 1 + 2**-9]), "bfloat16").tolist()
    [1.0078125, 1.0]
    """
    if dtype != "bfloat16":
        with np.errstate(over="ignore"):
            return x.astype(dtype).astype(np.float64)
    with np.errstate(over="ignore"):
        bits = x.astype(np.float32).view(np.uint32)
    return (bits & np.uint32(0xFFFF0000)).view(np.float32).astype(np.float64)
