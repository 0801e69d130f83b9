"""How far a right answer may be from ours, in units of rounding.

A unit is half the distance from 1 to the next number of a dtype: the largest relative error of
rounding once. An error is counted in units of a scale, never of the number itself: a right
attention in bfloat16 has entries near zero with a relative error of 120.

    float64     scale of a row: its largest entry, at least the rms of all    128 units
    float32     scale of the array: its largest entry                          32 units
    float16, bfloat16   the same                                                4 units

The first two grow with the root of the number of terms n in a sum, beyond 64, and all with the
depth of what is computed: 4 for a block of operations. The limits are at least twice (float64 and
float32: four times) what right implementations of every concept were measured to need, and far
below what any known mistake does in float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import Array

UNITS = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
ALLOWED = {"float64": 128.0, "float32": 32.0, "float16": 4.0, "bfloat16": 4.0}


def limit(dtype: str, terms: int = 64, depth: int = 1) -> float:
    """Return how many units of this dtype a right answer may be off.

    Args:
        dtype: in which it was computed.
        terms: of the longest sum.
        depth: 1 for an operation, 4 for a block of them.

    >>> limit("float32"), limit("float32", terms=256), limit("float16", terms=256, depth=4)
    (32.0, 64.0, 8.0)
    """
    if dtype in ("float16", "bfloat16"):  # sums are taken in float32
        return ALLOWED[dtype] * min(depth, 2)
    return float(ALLOWED[dtype] * max(1.0, (terms / 64) ** 0.5) * depth)


def terms_of(arguments: dict[str, Any]) -> int:
    """Return the longest axis of the arguments: no sum of one operation is longer.

    >>> terms_of({"x": np.zeros((3, 100)), "eps": 1e-6})
    100
    """
    sizes = [size for x in arguments.values() if isinstance(x, np.ndarray) for size in x.shape]
    return max(sizes, default=1)


def units_off(got: Array, want: Array, dtype: str) -> Array:
    """Return |got - want| in units of this dtype; infinite where only one of them is finite.

    Args:
        got: (any shape) a stranger's numbers.
        want: the same shape, ours, in float64.
        dtype: in which got was computed.

    >>> units_off(np.array([1.0, 2.0 + 2**-51]), np.array([1.0, 2.0]), "float64")
    array([0., 2.])
    """
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    finite = np.isfinite(want)
    sizes = np.abs(np.where(finite, want, 0.0))
    if dtype == "float64" and want.ndim:
        rms = np.sqrt(np.mean(sizes * sizes)) if want.size else 0.0
        scale = np.maximum(sizes.max(axis=-1, keepdims=True, initial=0.0), rms)
    else:
        scale = np.asarray(sizes.max(initial=0.0))
    scale = np.where(scale > 0, scale, 1.0)
    with np.errstate(invalid="ignore"):
        off = np.abs(got - want) / (UNITS[dtype] * scale)
    same = (got == want) | (np.isnan(got) & np.isnan(want))
    return np.where(same, 0.0, np.where(np.isfinite(off), off, np.inf))
