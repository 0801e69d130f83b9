"""Where arrays live: NumPy on the host, CuPy on a GPU. The only file that knows CuPy exists.

Every function of the package takes its array module from its arguments:

    xp = array_module(x)

so the same lines run on NumPy and on CuPy arrays. CuPy is never imported unless it is asked for.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]  # a CuPy array has the same methods, so one alias serves both
DType: TypeAlias = np.dtype[Any]


def array_module(*arrays: Any) -> ModuleType:
    """Return `cupy` if any argument is a CuPy array, else `numpy`.

    If nobody has imported CuPy, no argument can be a CuPy array, so it is not imported here.

    >>> array_module(np.zeros(2)).__name__
    'numpy'
    """
    cupy: ModuleType | None = sys.modules.get("cupy")
    if cupy is None:
        return np
    module: ModuleType = cupy.get_array_module(*arrays)
    return module


def is_float(x: Array) -> bool:
    """Say whether x holds floating-point numbers; bfloat16 (of `ml_dtypes`) counts.

    >>> is_float(np.zeros(1, np.float16)), is_float(np.zeros(1, int))
    (True, False)
    """
    return x.dtype.kind == "f" or x.dtype.name == "bfloat16"


def at_least_float32(x: Array) -> DType:
    """Return the precision for sums and exponentials: float32, or float64 when x is float64.

    >>> at_least_float32(np.zeros(1, np.float16)), at_least_float32(np.zeros(1))
    (dtype('float32'), dtype('float64'))
    """
    return np.promote_types(x.dtype, np.float32)


def widen(x: Array) -> Array:
    """Return x in `at_least_float32`; float32 and float64 arrays come back as they are, uncopied.

    >>> widen(np.ones(1, np.float16)).dtype
    dtype('float32')
    """
    if x.dtype.char in "fd":  # float32 or float64: nearly always, so the short way out
        return x
    return x.astype(at_least_float32(x), copy=False)


def column_sums(x: Array) -> Array:
    """Sum x over all axes but the last, in `at_least_float32`.

    A product with a row of ones, because BLAS adds in blocks: `x.sum(axis=0)` adds row after row,
    and in float32 that loses digits (70,000 times 0.1 gives 7004.48 instead of 7000).

    Args:
        x: (..., D) float.

    Returns:
        (D,) in at_least_float32(x).

    >>> column_sums(np.array([[1.0, 2.0], [3.0, 4.0]]))
    array([4., 6.])
    """
    rows = widen(x.reshape(-1, x.shape[-1]))
    sums: Array = array_module(x).ones(rows.shape[0], dtype=rows.dtype) @ rows
    return sums


def to_numpy(x: Any) -> Array:
    """Copy a CuPy array to the host; anything else becomes a NumPy array."""
    xp = array_module(x)
    return np.asarray(x) if xp is np else xp.asnumpy(x)


def to_device(x: Any, device: str) -> Any:
    """Move an array, or every array of a flat dict, to "cpu" or "cuda".

    Raises:
        ValueError: the device is neither.
        RuntimeError: "cuda" without CuPy or without a GPU. Nothing falls back in silence.

    >>> to_device({"w": np.ones(1)}, "cpu")
    {'w': array([1.])}
    """
    if device not in ("cpu", "cuda"):
        raise ValueError(f'device must be "cpu" or "cuda", got {device!r}')
    move = to_numpy if device == "cpu" else require_cupy().asarray
    return {key: move(value) for key, value in x.items()} if isinstance(x, dict) else move(x)


def require_cupy() -> ModuleType:
    """Import CuPy and make sure that it can use a GPU."""
    try:
        import cupy
    except ImportError:
        raise RuntimeError("device cuda needs CuPy: pip install 'minqwen[gpu]'") from None
    if not cupy.is_available():
        raise RuntimeError("device cuda: CuPy is installed, but it finds no usable GPU")
    module: ModuleType = cupy
    return module
