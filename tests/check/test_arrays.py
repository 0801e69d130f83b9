"""Arrays cross to and from NumPy; the other libraries are in tests/parity."""

import numpy as np
import pytest
from helpers.ids import short

from minqwen.check.outside.arrays import (
    FLOATS,
    dtype_name,
    from_framework,
    is_array,
    is_float,
    kind_of,
    require,
    round_to,
    to_framework,
)
from minqwen.check.outside.user_function import contents

SPECIAL = np.array(
    [0.0, -0.0, 1.0, -1 / 3, 1e-3, 65504.0, 65519.9, 7e4, 1e-7, 6e-8, 2.9e-8, 1e-40, 1e39, np.inf]
    + [-np.inf, np.nan, 1 + 2**-8, 1 + 2**-7 + 2**-8, 1 + 2**-11, 1 + 3 * 2**-11, 3.3895e38]
)


@pytest.mark.parametrize("dtype", FLOATS)
def test_rounding_is_to_nearest_and_stays(dtype):
    rng = np.random.default_rng(0)
    x = np.concatenate([SPECIAL, rng.standard_normal(2000) * 10.0 ** rng.integers(-9, 9, 2000)])
    y = round_to(x, dtype)
    assert y.dtype == np.float64
    np.testing.assert_array_equal(round_to(y, dtype), y)
    np.testing.assert_array_equal(np.isnan(y), np.isnan(x))
    np.testing.assert_array_equal(np.signbit(y), np.signbit(x))
    bits, smallest = {"float64": (53, -1074), "float32": (24, -149)}.get(
        dtype, (11, -24) if dtype == "float16" else (8, -133)
    )
    ok = np.isfinite(y) & (x != 0)
    exponent = np.floor(np.log2(np.abs(x[ok])))
    spacing = 2.0 ** np.maximum(exponent - bits + 1, smallest)
    # float32 lies between float64 and bfloat16: rounding twice may miss a tie by a hair
    assert (np.abs(y[ok] - x[ok]) <= spacing * (0.5 + 2**-15)).all()


def test_rounding_to_bfloat16_agrees_with_ml_dtypes():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    rng = np.random.default_rng(1)
    x = np.concatenate([SPECIAL, rng.standard_normal(5000) * 10.0 ** rng.integers(-45, 39, 5000)])
    with np.errstate(over="ignore"):
        want = x.astype(np.float32).astype(ml_dtypes.bfloat16).astype(np.float64)
    np.testing.assert_array_equal(round_to(x, "bfloat16"), want)


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 5)])
@pytest.mark.parametrize("dtype", FLOATS)
def test_rounding_keeps_the_shape(shape, dtype):
    assert round_to(np.ones(shape), dtype).shape == shape


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", None])
def test_to_numpy_is_a_fresh_contiguous_copy(dtype):
    x = np.arange(6.0).reshape(2, 3).T[::-1]
    y = to_framework(x, "numpy", dtype)
    assert y.dtype == (dtype or "float64")
    assert y.flags.c_contiguous
    assert y.flags.owndata
    assert not np.shares_memory(x, y)
    np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("x", [np.arange(3), np.array([True, False]), np.arange(3, dtype=np.uint8)])
def test_integers_and_booleans_keep_their_dtype(x):
    y = to_framework(x, "numpy", "float16")
    assert y.dtype == x.dtype
    assert not np.shares_memory(x, y)


def test_bfloat16_in_numpy_needs_ml_dtypes():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    y = to_framework(np.array([0.1]), "numpy", "bfloat16")
    assert y.dtype == ml_dtypes.bfloat16
    assert kind_of(y) == "numpy"
    assert dtype_name(y) == "bfloat16"
    assert is_float(y)
    back = from_framework(y)
    assert back.dtype == np.float32
    assert back == 0.10009765625
    assert to_framework(y, "numpy").dtype == ml_dtypes.bfloat16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones(1), "keras"), "no framework 'keras'; there are numpy, torch, jax, cupy"),
        ((np.ones(1), "numpy", "float8"), "no floating dtype 'float8'; there are float64"),
    ],
)
def test_unknown_names_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        to_framework(*arguments)


def test_a_missing_library_comes_with_its_pip_line():
    with pytest.raises(ImportError, match="no_such_library is missing: pip install no_such"):
        require("no_such_library")


@pytest.mark.parametrize(
    ("x", "want"),
    [
        (1.5, np.array(1.5)),
        (True, np.array(True)),
        (np.float32(2), np.array(2, np.float32)),
        ([1, 2], np.array([1, 2])),
        ([[1.0], [2.0]], np.array([[1.0], [2.0]])),
        ([np.ones(2), np.zeros(2)], np.array([[1.0, 1], [0, 0]])),
        (np.arange(3, dtype=">i4"), np.arange(3, dtype="i4")),
        (np.ma.masked_array([1.0, 2.0], [True, False]), np.array([1.0, 2.0])),
        (np.ones((2, 3)).T, np.ones((3, 2))),
        (range(3), np.arange(3)),
        (memoryview(b"ab"), np.array([97, 98], np.uint8)),
    ],
    ids=short,
)
def test_what_holds_plain_numbers_becomes_an_array(x, want):
    y = from_framework(x)
    assert type(y) is np.ndarray
    assert y.dtype == want.dtype
    assert y.dtype.isnative
    assert y.shape == want.shape
    assert y.flags.c_contiguous
    np.testing.assert_array_equal(y, want)


def test_a_long_double_becomes_float64():
    assert from_framework(np.ones(2, np.longdouble)).dtype == np.float64


def test_the_copy_is_not_shared():
    x = np.ones(3)
    y = from_framework(x)
    x[:] = 0
    assert y.sum() == 3


class ByDlpack:
    def __init__(self, x):
        self.x = x

    def __dlpack__(self, **options):
        return self.x.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.x.__dlpack_device__()


class ByArray:
    def __array__(self, dtype=None, copy=None):
        return np.arange(3.0)


class Broken:
    dtype, shape, ndim = "float32", (1,), 1

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("on another planet")


def test_unknown_libraries_are_read_by_dlpack_or_array():
    np.testing.assert_array_equal(from_framework(ByDlpack(np.arange(3.0))), [0, 1, 2])
    np.testing.assert_array_equal(from_framework(ByArray()), [0, 1, 2])
    with pytest.raises(TypeError, match="a Broken cannot become a NumPy array: on another planet"):
        from_framework(Broken())


async def waited_for():
    return 1.0


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (None, "None is no array of numbers: is a `return` missing"),
        ("abc", r"a string \(str\)"),
        (b"abc", r"a string \(bytes\)"),
        ({"y": 1}, "a dict"),
        ((i for i in [1]), "a generator is no array of numbers: use `return`, not `yield`"),
        (waited_for(), "a coroutine is no array of numbers: leave `async` out"),
        (map(abs, [1]), r"an iterator \(map\) is no array of numbers: make a list"),
        (len, "a builtin_function_or_method is no array of numbers: was it not called"),
        (float, r"the class float is no array of numbers: is \(\) missing"),
        ([[1], [1, 2]], "a list with rows of different lengths"),
        ([None, 1], r"an object array \(its entries: NoneType\)"),
        (object(), r"an object array \(its entries: object\)"),
        (np.array([1j]), "complex numbers came, real ones are needed"),
        (np.array(["a"]), "an array of <U1"),
        (np.array(["2020-01-01"], "datetime64[D]"), "an array of datetime64"),
        (np.zeros(2, [("a", "f8")]), "an array of"),
    ],
    ids=short,
)
def test_everything_else_is_refused_in_a_plain_sentence(x, message):
    with pytest.raises(TypeError, match=message):
        from_framework(x)


def test_kinds_and_dtypes_are_named():
    assert [kind_of(x) for x in (np.ones(1), np.float32(1), 1, None, "a", ByArray())] == [
        *("numpy", "numpy", "python", "python", "python"),
        ByArray.__module__.partition(".")[0],
    ]
    names = [dtype_name(x) for x in (np.ones(1, "f2"), 1, True, 2.0, [1.0], np.uint8(1))]
    assert names == ["float16", "int64", "bool", "float64", "float64", "uint8"]
    assert is_array(np.ones(1))
    assert not any(map(is_array, (1.0, [1.0], None, "a", np.float32)))
    assert [is_float(x) for x in (np.ones(1), 1.0, 1, True)] == [True, True, False, False]


def test_contents_see_every_change_and_only_changes():
    nan = np.array([np.nan, 0.0])
    assert contents(nan) == contents(nan.copy())
    assert contents(np.array([0.0])) != contents(np.array([-0.0]))
    assert contents(np.ones(2)) != contents(np.ones((1, 2)))
    assert contents(np.ones(1, "f4")) != contents(np.ones(1, "f8"))
    assert contents({"a": [np.ones(1)]}) == contents({"a": [np.ones(1)]})
    assert contents({"a": [np.ones(1)]}) != contents({"a": [np.zeros(1)]})
