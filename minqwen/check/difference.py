"""Two arrays that should be equal: where they part, by how much, and in which pattern.

The first place that differs is not the first in memory but the first in time: axes T and S come
first, so that one sees where an error starts ("time 0 is right, time 1 is wrong").
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ..backend import Array
from .limits import units_off

TIME = ("T", "S")
NAMES = {
    **{"B": "batch", "T": "time", "S": "key", "H": "head", "Hkv": "kv head", "Dh": "feature"},
    **{"D": "feature", "F": "feature", "V": "vocabulary", "N": "token", "E": "expert"},
    **{"K": "choice", "Fe": "feature", "Fs": "feature"},
}


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


def letters(axes: str, ndim: int) -> list[str]:
    """Return a letter for each axis of an array; "..." stands for any number of them.

    >>> letters("... D", 3), letters("B T", 2)
    (['', '', 'D'], ['B', 'T'])
    """
    names = axes.split()
    if "..." in names:
        at = names.index("...")
        names[at : at + 1] = [""] * (ndim - len(names) + 1)
    return names if len(names) == ndim else [""] * ndim


def in_words(place: tuple[int, ...], axes: str) -> str:
    """Name a place by its axes.

    >>> in_words((0, 2), "B T"), in_words((1, 0, 4), "... D")
    ('batch 0, time 2', 'row (1, 0), feature 4')
    """
    names = letters(axes, len(place))
    rows = tuple(index for letter, index in zip(names, place, strict=True) if not letter)
    words = [f"row {rows[0] if len(rows) == 1 else rows}"] if rows else []
    words += [
        f"{NAMES.get(letter, letter)} {index}"
        for letter, index in zip(names, place, strict=True)
        if letter
    ]
    return ", ".join(words) or "the number itself"


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
    return Difference(
        place,
        in_words(place, axes),
        a,
        b,
        error,
        ulps_between(a, b) if abs(b) > 0.01 * scale else None,
        int(wrong.sum()),
        wrong.size,
        tuple(patterns(got, want, wrong, axes)),
    )


def patterns(got: Array, want: Array, wrong: Array, axes: str) -> Iterator[str]:
    """Yield plain sentences about how two arrays of one shape differ."""
    bad = ~np.isfinite(got) & np.isfinite(want)
    if bad.any():
        yield f"NaN or infinity in {share(bad)}, where the right numbers are finite"
        return
    if not np.isfinite(got).all() or not np.isfinite(want).all():
        return
    yield from _which_entries(wrong, axes)
    scale = float(np.abs(want).max(initial=0.0)) or 1.0
    close = 1e-9 * scale
    if wrong.size > 1 and np.abs(got + want).max() < close:
        yield "every number has the wrong sign"
        return
    factor = constant_factor(got, want)
    if factor is not None:
        yield f"all numbers are {factor:.6g} times the right ones{_known_factor(factor, want)}"
        return
    offset = got - want
    if wrong.size > 1 and np.abs(offset - offset.flat[0]).max() < close:
        yield f"all numbers are the right ones plus {float(offset.flat[0]):.6g}"
        return
    yield from _factors_by_axis(got, want, axes)
    yield from _moved(got, want, axes, close)


def share(mask: Array) -> str:
    """Say how many entries are True.

    >>> share(np.array([True, False, False]))
    '1 of 3 entries'
    """
    return f"{int(mask.sum())} of {mask.size} entries"


def constant_factor(got: Array, want: Array) -> float | None:
    """Return c with got = c * want everywhere, None if there is none."""
    big = np.abs(want) > 1e-6 * (np.abs(want).max(initial=0.0) or 1.0)
    if big.sum() < 2:
        return None
    c = float((got * want).sum() / (want * want).sum())
    scale = float(np.abs(want).max())
    return c if c != 0 and np.abs(got - c * want).max() < 1e-9 * scale * max(abs(c), 1.0) else None


def _known_factor(factor: float, want: Array) -> str:
    """Recognise a factor: sqrt or power of a size, ln 2, a half."""
    sizes = sorted({size for size in want.shape if size > 1})
    known = {"1/2": 0.5, "2": 2.0, "ln 2": math.log(2), "1 / ln 2": 1 / math.log(2)}
    for n in sizes:
        known |= {f"sqrt({n})": n**0.5, f"1 / sqrt({n})": n**-0.5, f"{n}": n, f"1 / {n}": 1 / n}
    names = [name for name, value in known.items() if abs(factor / value - 1) < 1e-9]
    return f", that is {names[0]}" if names else ""


def _which_entries(wrong: Array, axes: str) -> Iterator[str]:
    """Say so when exactly some indices of one axis are wrong."""
    if wrong.all() or wrong.ndim == 0:
        return
    for i, letter in enumerate(letters(axes, wrong.ndim)):
        others = tuple(j for j in range(wrong.ndim) if j != i)
        some: Array = np.asarray(wrong.any(axis=others))
        n = len(some)
        if some.all() or n == 1:
            continue
        name = NAMES.get(letter) or f"axis {i}, index"
        bad = np.flatnonzero(some)
        if len(bad) == 1:
            at = "the last" if bad[0] == n - 1 and n > 2 else f"{bad[0]}"
            yield f"only {name} {at} is wrong"
        elif (np.diff(bad) == 1).all() and bad[-1] == n - 1:
            yield f"wrong from {name} {bad[0]} on; before it everything is right"
        elif (np.diff(bad) == 1).all() and bad[0] == 0:
            yield f"wrong up to {name} {bad[-1]}; after it everything is right"
        else:
            yield f"wrong only at {name} {', '.join(map(str, bad[:8]))}"


def _factors_by_axis(got: Array, want: Array, axes: str) -> Iterator[str]:
    """Say so when each row along an axis has a factor of its own."""
    if want.ndim < 2:
        return
    for i, letter in enumerate(letters(axes, want.ndim)):
        a, b = (np.moveaxis(x, i, 0).reshape(x.shape[i], -1) for x in (got, want))
        if len(a) < 2 or a.shape[1] < 2:
            continue
        norm = (b * b).sum(axis=1)
        if not (norm > 0).all():
            continue
        c = (a * b).sum(axis=1) / norm
        if np.abs(a - c[:, None] * b).max() < 1e-9 * np.abs(b).max() * max(1.0, np.abs(c).max()):
            name = NAMES.get(letter) or f"index of axis {i}"
            first = ", ".join(f"{x:.4g}" for x in c[:4])
            yield f"each {name} has a factor of its own: {first}{', ...' if len(c) > 4 else ''}"
            return


def _moved(got: Array, want: Array, axes: str, close: float) -> Iterator[str]:
    """Say so when the right numbers stand in other places."""
    if np.abs(np.sort(got, axis=None) - np.sort(want, axis=None)).max() > close:
        names = letters(axes, want.ndim)
        for i in range(want.ndim):  # shifted along an axis, other numbers coming in
            n = want.shape[i]
            for by in (1, -1):
                if n < 3:
                    continue
                a, b = (np.moveaxis(x, i, 0) for x in (got, want))
                a, b = (a[1:], b[:-1]) if by == 1 else (a[:-1], b[1:])
                if np.abs(a - b).max() < close:
                    name = NAMES.get(names[i]) or f"axis {i}"
                    where = "later" if by == 1 else "earlier"
                    yield f"the right numbers, one place {where} along {name}"
                    return
        return
    for i, letter in enumerate(letters(axes, want.ndim)):
        a, b = (np.moveaxis(x, i, 0).reshape(x.shape[i], -1) for x in (got, want))
        taken = [int(np.argmin(np.abs(b - row).max(axis=1))) for row in a]
        if np.abs(a - b[taken]).max() < close and taken != list(range(len(a))):
            name = NAMES.get(letter) or f"axis {i}"
            order = ", ".join(map(str, taken[:8]))
            yield f"the right numbers in another order along {name}: {order}"
            return
    yield "the right numbers, all of them, in other places"


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
