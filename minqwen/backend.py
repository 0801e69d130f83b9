"""Where arrays live: NumPy on the host, CuPy on a GPU. The only file that knows CuPy exists.

Every function of the package takes its array module from its arguments:

    xp = array_module(x)

so the same lines run on NumPy and on CuPy arrays. CuPy is never imported unless it is asked for.

What the two do differently stands here too, one small function each: adding at repeated places,
the largest of a row, random numbers, and the way to the host and back. A copy to the host makes
Python wait for the GPU, so no layer asks for one, but for the experts of a mixture, whose shares of
the tokens must be known to Python (layers/moe_experts.py).
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]  # a CuPy array has the same methods, so one alias serves both
DType: TypeAlias = np.dtype[Any]
DEVICES = ("cpu", "cuda")


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


def add_at(x: Array, indices: Array, values: Array) -> None:
    """Add values to x, in place, at indices of its first axis; where one stands twice, both count.

    `x[indices] += values` would keep one of them. CuPy adds in no fixed order, so on a GPU the last
    digits may differ from run to run; and only in float16, 32, 64 and whole numbers of 32 or 64
    bits: widen x first.

    Args:
        x: (n, ...) changed.
        indices: (m,) int in [0, n), where x is. CuPy wraps what is outside, without a word.
        values: (m, ...) in the dtype of x.

    >>> x = np.zeros(3)
    >>> add_at(x, np.array([0, 2, 2]), np.array([1.0, 1.0, 5.0]))
    >>> x
    array([1., 0., 6.])
    """
    if isinstance(x, np.ndarray) and x.ndim == 2 and x.shape[1] >= 64:
        for i, row in zip(indices.tolist(), values, strict=True):  # as add.at, 3 to 5 times as fast
            x[i] += row
    else:
        array_module(x).add.at(x, indices, values)


def top_k(x: Array, k: int) -> Array:
    """Return where the k largest numbers of each row are, the largest first.

    Of equals the lower index comes first, on both: the sort is stable. `argpartition` would leave
    open which of equals it takes, and in CuPy it sorts all the same.

    Args:
        x: (..., n) float.
        k: from 0 to n.

    Returns:
        (..., k) int.

    >>> top_k(np.array([[1.0, 3.0, 2.0, 3.0]]), 3)
    array([[1, 3, 2]])
    """
    order: Array = array_module(x).argsort(-x, axis=-1, kind="stable")
    return order[..., :k]


def uniform(shape: tuple[int, ...], like: Array, rng: Any) -> Array:
    """Draw numbers from [0, 1), on the device of `like`.

    The host draws, also for a GPU: CuPy's generators give other numbers, and lack `choice`,
    `permutation` and `normal`. So a seed gives the same run on both.

    Args:
        shape: of the result.
        like: an array: gives the device.
        rng: np.random.Generator.

    Returns:
        (shape) float32.

    >>> uniform((2,), np.ones(1), np.random.default_rng(0)).dtype
    dtype('float32')
    """
    drawn: Array = array_module(like).asarray(rng.random(shape, dtype=np.float32))
    return drawn


def standard_normal(shape: tuple[int, ...], like: Array, rng: Any) -> Array:
    """Draw from N(0, 1), in `at_least_float32` and on the device of `like`; see `uniform`.

    >>> standard_normal((2,), np.ones(1), np.random.default_rng(0)).dtype
    dtype('float64')
    """
    double = at_least_float32(like) == np.float64
    numbers = rng.standard_normal(shape, dtype=np.float64 if double else np.float32)
    drawn: Array = array_module(like).asarray(numbers)
    return drawn


def to_numpy(x: Any) -> Array:
    """Copy a CuPy array to the host; anything else becomes a NumPy array.

    The only place where Python waits for a GPU and takes more than a number; a number is `float`.
    """
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
    require_device(device)
    move = to_numpy if device == "cpu" else require_cupy().asarray
    return {key: move(value) for key, value in x.items()} if isinstance(x, dict) else move(x)


def require_device(device: str) -> None:
    """Raise unless arrays can be moved to the device: to be asked before any work is done.

    Raises:
        ValueError: the device is neither "cpu" nor "cuda".
        RuntimeError: "cuda" without CuPy or without a GPU.

    >>> require_device("cpu")
    """
    if device not in DEVICES:
        raise ValueError(f'device must be "cpu" or "cuda", got {device!r}')
    if device == "cuda":
        require_cupy()


def require_cupy() -> ModuleType:
    """Import CuPy and make sure that it can use a GPU.

    Raises:
        RuntimeError: there is no CuPy, it is damaged, or it finds no GPU.
    """
    try:
        import cupy
    except ModuleNotFoundError:
        raise RuntimeError("device cuda needs CuPy: pip install 'minqwen[gpu]'") from None
    except ImportError as error:
        raise RuntimeError(f"device cuda: CuPy cannot be imported: {error}") from None
    if not cupy.is_available():
        raise RuntimeError("device cuda: CuPy is installed, but it finds no usable GPU")
    module: ModuleType = cupy
    return module
