"""Arrays cross between libraries: NumPy to torch, JAX or CuPy, and back.

No library is imported before it is asked for. Nothing is shared: what is handed over is a fresh,
contiguous copy, so that a function that writes into its arguments does no harm elsewhere.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np

from ... import backend
from ...backend import Array

FRAMEWORKS = ("numpy", "torch", "jax", "cupy")
FLOATS = ("float64", "float32", "float16", "bfloat16")
_PIP = {"ml_dtypes": "pip install 'minqwen[hf]'"}
_LIBRARIES = {"jaxlib": "jax", "mlx": "mlx", "tensorflow": "tensorflow"}
_LIBRARIES |= {name: name for name in FRAMEWORKS}


def kind_of(x: Any) -> str:
    """Return the library that x comes from; "python" for numbers, lists, None and the like.

    >>> kind_of(np.zeros(2)), kind_of(1.5), kind_of([1, 2])
    ('numpy', 'python', 'python')
    """
    for kind in type(x).__mro__:  # a subclass of a tensor is a tensor
        module = str(getattr(kind, "__module__", "")).partition(".")[0]
        if module in _LIBRARIES:
            return _LIBRARIES[module]
    module = str(type(x).__module__).partition(".")[0]
    return "python" if module == "builtins" else module


def is_array(x: Any) -> bool:
    """Say whether x is an array of some library (a NumPy number counts), not a list or a number.

    >>> is_array(np.float32(1)), is_array([1.0])
    (True, False)
    """
    if isinstance(x, type):
        return False
    return isinstance(x, (np.ndarray, np.generic)) or (
        hasattr(x, "dtype") and hasattr(x, "shape") and hasattr(x, "ndim")
    )


def dtype_name(x: Any) -> str:
    """Return the dtype of an array, as NumPy spells it.

    >>> dtype_name(np.zeros(2, np.float32)), dtype_name(1.5), dtype_name([1, 2])
    ('float32', 'float64', 'int64')
    """
    dtype = getattr(x, "dtype", None)
    if dtype is None:
        dtype = np.asarray(x).dtype
    return str(getattr(dtype, "name", dtype)).rpartition(".")[2]


def is_float(x: Any) -> bool:
    """Say whether an array of any library holds floating-point numbers.

    >>> is_float(np.zeros(1)), is_float(np.zeros(1, int))
    (True, False)
    """
    return "float" in dtype_name(x)


def round_to(x: Array, dtype: str) -> Array:
    """Return a float array in float64, each entry rounded to the nearest number of a dtype.

    Every library gets its inputs from here, so all of them get the same ones.

    Args:
        x: float64.
        dtype: one of FLOATS.

    >>> [float(round_to(np.array(0.1), dtype)) for dtype in ("float16", "bfloat16")]
    [0.0999755859375, 0.10009765625]
    """
    _require_dtype(dtype)
    x = np.asarray(x)
    if dtype == "float64":
        return x.astype(np.float64)
    with np.errstate(over="ignore"):  # what is too large becomes infinite, as it does everywhere
        if dtype != "bfloat16":
            return x.astype(dtype).astype(np.float64)
        single = x.astype(np.float32)
    bits = np.array(single, order="C").view(np.uint32)
    # bfloat16 is the upper half of float32; half of the lower half is added, ties to even
    even = (bits >> np.uint32(16)) & np.uint32(1)
    upper = (bits + np.uint32(0x7FFF) + even) & np.uint32(0xFFFF0000)
    rounded: Array = upper.view(np.float32)
    return np.where(np.isnan(single), single, rounded).astype(np.float64)


def to_framework(x: Array, framework: str, dtype: str | None = None, grad: bool = False) -> Any:
    """Copy a NumPy array into an array of a library.

    Args:
        x: NumPy array. Integers and booleans keep their dtype.
        framework: one of FRAMEWORKS.
        dtype: one of FLOATS, for float arrays; None keeps that of x.
        grad: with torch, whether it asks for a gradient.

    Returns:
        A fresh, contiguous array of that library, on the host (CuPy: on the device).

    Raises:
        ValueError: unknown framework or dtype, or the library cannot hold this dtype.
        ImportError: the library is missing.

    >>> to_framework(np.array([0.1]), "numpy", "float32")
    array([0.1], dtype=float32)
    """
    if framework not in FRAMEWORKS:
        raise ValueError(f"no framework {framework!r}; there are {', '.join(FRAMEWORKS)}")
    if dtype is not None:
        _require_dtype(dtype)
    floating = x.dtype.kind == "f" or x.dtype.name == "bfloat16"
    if floating:
        dtype = dtype or x.dtype.name
        x = round_to(x, dtype) if dtype in FLOATS else x
    if framework == "torch":
        torch = require(framework)
        tensor = torch.from_numpy(np.array(x, order="C"))
        if floating:
            tensor = tensor.to(getattr(torch, str(dtype))).requires_grad_(grad)
        return tensor
    if framework == "jax":
        array = require(framework).numpy.array(x, dtype=dtype if floating else None)
        if floating and array.dtype.name != dtype:
            raise ValueError(
                f"JAX made {array.dtype.name} of {dtype}: call "
                'jax.config.update("jax_enable_x64", True) first'
            )
        return array
    if floating and dtype == "bfloat16":
        if framework == "cupy":
            raise ValueError("CuPy arrays cannot be handed over in bfloat16: choose float16")
        return np.array(x, dtype=require("ml_dtypes").bfloat16, order="C")
    copy = np.array(x, dtype=dtype if floating else None, order="C")
    return require("cupy").asarray(copy) if framework == "cupy" else copy


def from_framework(x: Any) -> Array:
    """Copy an array of any library, a number, or lists of numbers, into a NumPy array.

    bfloat16 and the 8-bit floats become float32, which holds them exactly; a tensor is detached,
    and copied from its device.

    Raises:
        TypeError: it holds no plain numbers; the sentence says what it is.

    >>> from_framework([[1.0, 2.0], [3.0, 4.0]]).shape
    (2, 2)
    >>> from_framework("0.5")
    Traceback (most recent call last):
    ...
    TypeError: a string (str) is no array of numbers
    """
    if isinstance(x, type):
        raise TypeError(f"the class {x.__name__} is no array of numbers: is () missing?")
    kind = kind_of(x)
    if kind == "torch" and hasattr(x, "detach"):
        return _from_torch(x)
    if kind == "cupy" and hasattr(x, "get"):
        x = x.get()
    elif not isinstance(x, np.ndarray):
        x = _from_others(x)
    return _plain(x)


def _from_torch(x: Any) -> Array:
    """Copy a torch tensor of any layout."""
    x = x.detach()
    if x.device.type == "meta":
        raise TypeError("a torch tensor on the device meta has no numbers")
    if str(x.layout) != "torch.strided":
        x = x.to_dense()
    if getattr(x, "is_quantized", False):
        x = x.dequantize()
    x = x.cpu().resolve_conj().resolve_neg()
    if dtype_name(x).startswith(("bfloat16", "float8")):  # NumPy has none, float32 holds them
        x = x.float()
    return _plain(x.numpy())


def _from_others(x: Any) -> Array:
    """Let an array of another library, a number or a list become a NumPy array."""
    if x is None:
        raise TypeError("None is no array of numbers: is a `return` missing?")
    if isinstance(x, (str, bytes)):
        raise TypeError(f"a string ({type(x).__name__}) is no array of numbers")
    if isinstance(x, dict):
        raise TypeError("a dict is no array of numbers")
    if inspect.iscoroutine(x):
        x.close()  # else Python complains that nobody waited for it
        raise TypeError("a coroutine is no array of numbers: leave `async` out of the def")
    if inspect.isgenerator(x):
        raise TypeError("a generator is no array of numbers: use `return`, not `yield`")
    if hasattr(x, "__next__"):
        raise TypeError(f"an iterator ({type(x).__name__}) is no array of numbers: make a list")
    if callable(x) and not is_array(x):
        raise TypeError(f"a {type(x).__name__} is no array of numbers: was it not called?")
    try:
        if hasattr(x, "__dlpack__") and not hasattr(x, "__array__"):
            array: Array = np.from_dlpack(x)
            return array
        if isinstance(x, (list, tuple)):  # their entries may be tensors that ask for a gradient
            x = [from_framework(entry) if is_array(entry) else entry for entry in x]
        return np.asarray(x)
    except MemoryError:
        raise
    except ValueError as error:
        if isinstance(x, (list, tuple)):
            raise TypeError(
                f"a {type(x).__name__} with rows of different lengths is no array"
            ) from None
        raise TypeError(f"a {type(x).__name__} cannot become a NumPy array: {error}") from None
    except Exception as error:
        raise TypeError(f"a {type(x).__name__} cannot become a NumPy array: {error}") from None


def _plain(x: Array) -> Array:
    """Copy to an ordinary, contiguous array in the byte order of the machine; refuse objects."""
    x = np.array(x, order="C", subok=False)
    name = x.dtype.name
    if name == "bfloat16" or name.startswith("float8"):
        return x.astype(np.float32)
    if x.dtype.kind == "f" and x.dtype.itemsize > 8:
        return x.astype(np.float64)  # long double
    if x.dtype.kind in "fiub":
        return x.astype(x.dtype.newbyteorder("="), copy=False)
    if x.dtype.kind == "O":
        entry = type(x.flat[0]).__name__ if x.size else "nothing"
        raise TypeError(
            f"an object array (its entries: {entry}) is no array of numbers: are its rows of "
            "different lengths?"
        )
    if x.dtype.kind == "c":
        raise TypeError("complex numbers came, real ones are needed")
    raise TypeError(f"an array of {x.dtype} is no array of numbers")


def require(library: str) -> Any:
    """Import an optional library.

    Raises:
        ImportError: it is missing; with the pip line.
    """
    if library == "cupy":
        try:
            return backend.require_cupy()
        except RuntimeError as error:  # it is missing, or it finds no GPU
            raise ImportError(str(error), name="cupy") from None
    try:
        module = __import__(library)
        if library == "jax":
            __import__("jax.numpy")
    except ModuleNotFoundError as error:
        if error.name != library:
            raise
        line = _PIP.get(library, f"pip install {library}")
        raise ImportError(f"{library} is missing: {line}", name=library) from None
    return module


def _require_dtype(dtype: str) -> None:
    if dtype not in FLOATS:
        raise ValueError(f"no floating dtype {dtype!r}; there are {', '.join(FLOATS)}")
