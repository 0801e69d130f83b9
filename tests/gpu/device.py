"""The device that these tests run on: a GPU through CuPy, or, to prove the tests, the strict fake.

MINQWEN_FAKE_GPU=1      the fake device, on which results must be those of NumPy, bit by bit
otherwise               CuPy and a GPU; None where there is none, and why
"""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from helpers.fake_device import from_fake, install, to_fake

FAKE = os.environ.get("MINQWEN_FAKE_GPU") == "1"
# largest error over the scale of the array; sums on a GPU have another order, no two runs the same
TOLERANCE = {"float64": 1e-10, "float32": 2e-4}


class Device(NamedTuple):
    to: Callable[[Any], Any]  # copies arrays in nested tuples, lists and dicts to the device
    back: Callable[[Any], Any]  # and to the host
    exact: bool  # results are those of NumPy, bit by bit


def why_not():
    """Say why these tests cannot run, or None if they can."""
    if FAKE:
        return None
    try:
        import cupy
    except ImportError:
        return "no CuPy: pip install 'minqwen[gpu]'; MINQWEN_FAKE_GPU=1 takes the fake device"
    if not cupy.is_available():
        return "CuPy finds no GPU; MINQWEN_FAKE_GPU=1 takes the fake device"
    if os.environ.get("CUPY_TF32") == "1":
        return "CUPY_TF32=1 rounds the inputs of products to 10 bits: unset it for these tests"
    return None


def open_device(monkeypatch):
    """Return the device; the fake lasts until monkeypatch is undone."""
    if FAKE:
        install(monkeypatch)
        return Device(to_fake, from_fake, True)
    import cupy

    def to(tree):
        return walk(tree, lambda x: cupy.asarray(x) if isinstance(x, np.ndarray) else x)

    def back(tree):
        return walk(tree, lambda x: cupy.asnumpy(x) if isinstance(x, cupy.ndarray) else x)

    return Device(to, back, False)


def walk(tree, leaf):
    """Apply a function to all that is no tuple, list or dict."""
    if isinstance(tree, dict):
        return {key: walk(value, leaf) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        items = [walk(item, leaf) for item in tree]
        return type(tree)(*items) if hasattr(tree, "_fields") else type(tree)(items)
    return leaf(tree)


def assert_close(found, want, device, dtype, name=""):
    """Compare all in nested tuples, lists and dicts: exact on the fake, else to rounding.

    The error of an array is taken over its scale, and that of a number over its size, or 1.
    """
    if isinstance(want, dict):
        assert found.keys() == want.keys(), name
        for key in want:
            assert_close(found[key], want[key], device, dtype, f"{name}.{key}")
    elif isinstance(want, list | tuple):
        for i, (one, two) in enumerate(zip(found, want, strict=True)):
            assert_close(one, two, device, dtype, f"{name}.{i}")
    elif device.exact or want is None or np.asarray(want).dtype.kind not in "f":
        np.testing.assert_array_equal(found, want, err_msg=name)
    else:
        found, want = np.asarray(found), np.asarray(want)
        if want.ndim:  # numbers are Python's, whatever they come from
            assert found.dtype == want.dtype, name
        assert found.shape == want.shape, name
        error = np.abs(found.astype("f8") - want.astype("f8")).max(initial=0)
        scale = np.abs(want).max(initial=0) if want.ndim else max(1.0, abs(float(want)))
        assert error <= TOLERANCE[dtype] * scale, f"{name}: error {error:.1e}, scale {scale:.1e}"
