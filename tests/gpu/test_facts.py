"""What the strict fake takes for true of CuPy, asked of the device itself.

On a GPU a failure here means that the fake must change, and that tests which ran on it prove less.
"""

import importlib.util
import json
import pathlib

import numpy as np
import pytest

from minqwen.backend import add_at, array_module, top_k


@pytest.fixture
def x(device):
    return device.to(np.array([1.0, 2.0, 3.0]))


@pytest.mark.parametrize(
    "mix",
    ["x + host", "host + x", "x @ host", "x[host.astype(int) - 1]", "xp.where(x > 1, x, host)"],
)
def test_a_host_array_is_not_taken(mix, x):
    names = {"x": x, "host": np.array([1.0, 2.0, 3.0]), "xp": array_module(x)}
    with pytest.raises((TypeError, ValueError)):
        eval(mix, names)


def test_numpy_gets_no_copy_without_being_told(x):
    with pytest.raises(TypeError):
        np.asarray(x)


def test_sums_are_arrays_of_no_axis(x, device):
    total = x.sum()
    assert array_module(total) is array_module(x)
    assert total.shape == ()
    assert float(total) == 6.0


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32", "int64"])
def test_adding_at_repeated_places(dtype, device):
    x, places, ones = device.to((np.zeros(3, dtype), np.array([0, 2, 2, 2]), np.ones(4, dtype)))
    add_at(x, places, ones)
    assert device.back(x).tolist() == [1, 0, 3]


def test_the_sort_is_stable(device):
    x = np.random.default_rng(0).integers(0, 7, (4, 5000)).astype(np.float32)
    found = device.back(top_k(device.to(x), 5000))
    np.testing.assert_array_equal(found, np.argsort(-x, axis=-1, kind="stable"))


def test_types_are_those_of_numpy_2(device):
    """A Python number makes no float64 of float32, and sums of whole numbers are wide."""
    x, i = device.to((np.ones(3, np.float32), np.ones(3, np.int32)))
    xp = array_module(x)
    for y in (
        x * 2.0,
        x / 3,
        0.5 * (1 + xp.tanh(0.5 * x)),
        x * 1e-3 + 1,
        xp.where(x > 0, x, -np.inf),
    ):
        assert y.dtype == np.float32
    assert (x * xp.ones((), np.float64)).dtype == np.float64
    assert i.sum().dtype == np.int64
    assert (x > 0).mean().dtype == np.float64


def test_uint32_moves_and_views(device):
    x = device.to(np.array([1.0, -2.0], np.float32))
    bits = (x.view("uint32") + 0x7FFF) >> 16
    assert bits.dtype == np.uint32
    assert device.back(bits).tolist() == [0x3F80, 0xC000]


def test_nothing_that_the_fake_has_is_missing():
    if importlib.util.find_spec("cupy") is None:
        pytest.skip("no CuPy, whose names could be read")
    import cupy  # the true one, if the fake stands in its place no more

    if not hasattr(cupy, "show_config"):
        return  # the fake: tests/helpers/test_fake_device.py
    path = pathlib.Path(__file__).parents[1] / "helpers" / "cupy_names.json"
    names = json.loads(path.read_text("utf-8"))
    missing = [
        n for kind in ("same", "ufuncs", "functions") for n in names[kind] if not hasattr(cupy, n)
    ]
    missing += [f"ndarray.{n}" for n in names["ndarray"] if not hasattr(cupy.ndarray, n)]
    assert not missing, f"CuPy {cupy.__version__} has no {missing}, {names['version']} had"
