"""One-line declarations of shapes and kinds that are executed, so that they cannot go stale."""

from __future__ import annotations

from typing import Any

import numpy as np

from .backend import Array, is_float

FLOAT32, FLOAT64 = {np.dtype("float32")}, {np.dtype("float64")}


def require_array(name: str, array: Any) -> None:
    """Raise TypeError unless `array` is an array; a list is the usual mistake.

    >>> require_array("ids", [1, 2])
    Traceback (most recent call last):
    ...
    TypeError: ids must be an array, got list
    """
    if not hasattr(array, "shape"):
        raise TypeError(f"{name} must be an array, got {type(array).__name__}")


def require_shape(name: str, array: Array, **dims: int) -> None:
    """Raise ValueError unless `array` has exactly the named dimensions, in order.

    >>> import numpy as np
    >>> require_shape("w", np.ones(3), D=3)
    >>> require_shape("w", np.ones(2), D=3)
    Traceback (most recent call last):
    ...
    ValueError: w must have shape (D=3), got (2,)
    """
    if getattr(array, "shape", None) != tuple(dims.values()):
        require_array(name, array)
        want = ", ".join(f"{axis}={size}" for axis, size in dims.items())
        raise ValueError(f"{name} must have shape ({want}), got {array.shape}")


def require_axes(name: str, array: Array, axes: str) -> None:
    """Raise ValueError unless `array` has as many axes as `axes` names.

    >>> import numpy as np
    >>> require_axes("q", np.ones((2, 3)), "B H T Dh")
    Traceback (most recent call last):
    ...
    ValueError: q must have axes (B, H, T, Dh), got shape (2, 3)
    """
    if getattr(array, "ndim", None) != len(axes.split()):
        require_array(name, array)
        raise ValueError(
            f"{name} must have axes ({', '.join(axes.split())}), got shape {array.shape}"
        )


def require_same_shape(**arrays: Array) -> None:
    """Raise ValueError unless all named arrays have one common shape.

    >>> import numpy as np
    >>> require_same_shape(dy=np.ones(2), y=np.ones(3))
    Traceback (most recent call last):
    ...
    ValueError: dy (2,), y (3,) must have the same shape
    """
    if len({array.shape for array in arrays.values()}) > 1:
        got = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise ValueError(f"{got} must have the same shape")


def require_float(**arrays: Array | None) -> None:
    """Raise TypeError unless all named arrays are floats of one dtype; None is passed over.

    One dtype, because NumPy mixes silently: a single float64 weight turns a float32 model into
    a float64 one, at half the speed.

    >>> import numpy as np
    >>> require_float(x=np.array([1, 2]))
    Traceback (most recent call last):
    ...
    TypeError: x must be a floating-point array, got dtype int64
    >>> require_float(x=np.ones(2, np.float32), w=np.ones(2))
    Traceback (most recent call last):
    ...
    TypeError: w must have the dtype of x, float32, got float64
    """
    kinds = {getattr(array, "dtype", None) for array in arrays.values() if array is not None}
    if kinds in (FLOAT32, FLOAT64):  # nearly always, so the short way out
        return
    first = ""
    for name, array in arrays.items():
        if array is None:
            continue
        require_array(name, array)
        if not is_float(array):
            raise TypeError(f"{name} must be a floating-point array, got dtype {array.dtype}")
        if first and array.dtype != arrays[first].dtype:  # type: ignore[union-attr]
            want = arrays[first].dtype  # type: ignore[union-attr]
            raise TypeError(f"{name} must have the dtype of {first}, {want}, got {array.dtype}")
        first = first or name


def require_bool(name: str, array: Array, meaning: str) -> None:
    """Raise TypeError unless `array` is boolean; an additive 0 / -inf mask is the usual mistake.

    >>> import numpy as np
    >>> require_bool("mask", np.ones(2), "True = visible")
    Traceback (most recent call last):
    ...
    TypeError: mask must be boolean (True = visible), got dtype float64
    """
    require_array(name, array)
    if array.dtype != bool:
        raise TypeError(f"{name} must be boolean ({meaning}), got dtype {array.dtype}")


def require_ids(name: str, ids: Array, size: int, letter: str) -> None:
    """Raise unless `ids` are integers in [0, size). CuPy would wrap a wrong index in silence.

    For ids on a GPU this waits for the device; ids on the host cost nothing.

    >>> import numpy as np
    >>> require_ids("ids", np.array([0, 7]), 5, "V")
    Traceback (most recent call last):
    ...
    ValueError: ids must be in [0, V=5), got values from 0 to 7
    """
    require_array(name, ids)
    if ids.dtype.kind not in "iu":
        raise TypeError(f"{name} must be an integer array, got dtype {ids.dtype}")
    if ids.size and not (0 <= int(ids.min()) and int(ids.max()) < size):
        low, high = int(ids.min()), int(ids.max())
        raise ValueError(f"{name} must be in [0, {letter}={size}), got values from {low} to {high}")
