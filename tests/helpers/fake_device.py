"""A CPU stand-in for CuPy 14.2, stricter than CuPy, to find portability errors without a GPU.

    def test_softmax_runs_on_the_device(monkeypatch):
        install(monkeypatch)  # `import cupy` and `array_module` now find the fake
        x = np.random.default_rng(0).standard_normal((2, 3))
        with count_syncs() as syncs:
            y = softmax(to_fake(x))
        assert not syncs
        np.testing.assert_array_equal(from_fake(y), softmax(x))

What it imitates. cupy_names.json holds the names and signatures that CuPy and NumPy share, read
from CuPy by make_cupy_names.py; anything else raises. Results are device arrays also where NumPy
returns scalars. Copies to the host and the other points where Python waits for the GPU work and
are counted by name. An array is a DeviceArray around a NumPy array, views share memory.

Where it is stricter than CuPy, because what CuPy does there is hidden, slow or undefined:

- a host array may enter by `asarray` and `array` only, not as an index or inside a list;
- NumPy functions refuse device arrays instead of being dispatched to CuPy;
- an integer index out of range raises, CuPy wraps it; so do different values assigned to repeated
  indices, of which any may win on a GPU;
- `where=` of ufuncs, `x.flat`, `x.data`, more than one boolean index, and `xp.random` beyond
  `default_rng` are refused.

What it does not imitate: kernels, rounding and the order of sums, memory, strides, streams, errors
that surface later, random streams, the gaps of float16 and bfloat16 in CuPy (they pass through).
"""

import collections
import contextlib
import functools
import inspect
import json
import operator
import pathlib
import re
import sys
import types

import numpy as np

NAMES = json.loads(pathlib.Path(__file__).with_name("cupy_names.json").read_text("utf-8"))
VERSION = "CuPy " + ".".join(NAMES["version"].split(".")[:2])

words = str.split
CREATORS = ("array", "asarray", "asanyarray")  # the only entrances for host arrays
SEQUENCES = words(  # functions that take a list or tuple of device arrays
    "column_stack concat concatenate dstack hstack ix_ ravel_multi_index row_stack select stack "
    "vstack"
)
ARRAYS = words("a ar arr array ary condition m x")  # parameters that are never lists
SIZES = words(  # parameters that live on the host
    "M N axes axis axis1 axis2 dimensions k minlength n newshape num shape shift size start stop "
    "step"
)
PYTHON_IN_NUMPY = words("allclose array_equal array_equiv count_nonzero")  # arrays in CuPy
TO_PYTHON = words("dump dumps item tobytes tofile tolist")
HOST_MET_DEVICE = "a host array met a device array"

_counters = []


@contextlib.contextmanager
def count_syncs():
    """Give a Counter {name: how often Python waited for the device} for the block."""
    _counters.append(collections.Counter())
    try:
        yield _counters[-1]
    finally:
        _counters.pop()


def sync(name):
    """Count one wait in every open `count_syncs`."""
    for counter in _counters:
        counter[name] += 1


def waiting(name, convert):
    """Return a method that counts a wait and converts the array on the host."""

    def method(self, *args):
        sync(name)
        return convert(self._host, *args)

    return method


class DeviceArray:
    """An array that lives, as far as the code under test can tell, on a GPU."""

    __hash__ = None

    def __init__(self, host):
        self._host = host

    def __getattr__(self, name):
        if name in ("flat", "data"):
            raise AttributeError(f"x.{name} is not portable: use x.reshape(-1) or views")
        if name not in NAMES["ndarray"]:
            raise AttributeError(f"{VERSION} arrays have no {name}")
        text = NAMES["ndarray"][name]
        if text is None:
            return to_device(getattr(self._host, name))
        return function(f"ndarray.{name}", text, getattr(self._host, name))

    def __array__(self, *args, **kwargs):
        raise TypeError("NumPy asked for a copy of a device array: use to_numpy(x)")

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        if any(isinstance(x, np.ndarray) for x in (*inputs, *kwargs.get("out", ()))):
            raise TypeError(f"{HOST_MET_DEVICE} in np.{ufunc.__name__}")
        # np.float32(2) * x arrives here as well; CuPy takes NumPy scalars for scalars
        if method == "__call__" and isinstance(inputs[0], np.generic) and not kwargs:
            return to_device(ufunc(*map(operand, inputs)))
        name = ufunc.__name__ + ("" if method == "__call__" else f".{method}")
        raise TypeError(f"np.{name} was called on a device array: use xp.{name}")

    def __array_function__(self, func, types, args, kwargs):
        raise TypeError(
            f"np.{func.__name__} was called on a device array: use xp.{func.__name__}"
            f"{', and ' + HOST_MET_DEVICE if np.ndarray in types else ''}"
        )

    def __len__(self):
        return len(self._host)

    def __iter__(self):
        sync("iteration")
        return (self[i] for i in range(len(self._host)))

    __bool__ = waiting("bool", bool)
    __int__ = waiting("int", int)
    __float__ = waiting("float", float)
    __complex__ = waiting("complex", complex)
    __repr__ = waiting("repr", lambda host: f"Device{host!r}")
    __format__ = waiting("format", format)
    get = waiting("get", np.copy)

    def __copy__(self, memo=None):
        return DeviceArray(self._host.copy())

    __deepcopy__ = __copy__

    def __getitem__(self, key):
        key = host_index(key)
        with out_of_range_explained(key):
            return to_device(self._host[key])

    def __setitem__(self, key, value):
        key, value = host_index(key), operand(value)
        with out_of_range_explained(key):
            if np.size(value) > 1 and has_integer_array(key):
                refuse_repeats(self._host, lambda places: places[key])
            self._host[key] = value


def _define_operators():
    """Give DeviceArray the operators of cupy.ndarray: `x @= y` is not one, it makes a new array."""

    def method(op, swap=False, in_place=False):
        def run(self, *others):
            args = [self._host, *map(operand, others)]
            result = op(*reversed(args)) if swap else op(*args)
            return self if in_place else to_device(result)

        return run

    for name in words("neg pos abs invert lt le eq ne gt ge"):
        setattr(DeviceArray, f"__{name}__", method(getattr(operator, name)))
    plain = words("add sub mul truediv floordiv mod pow and or xor lshift rshift")
    for name in [*plain, "matmul", "divmod"]:
        op = getattr(operator, f"__{name}__", divmod)
        setattr(DeviceArray, f"__{name}__", method(op))
        setattr(DeviceArray, f"__r{name}__", method(op, swap=True))
        if name in plain:
            op = getattr(operator, f"__i{name}__")
            setattr(DeviceArray, f"__i{name}__", method(op, in_place=True))


_define_operators()


def to_device(value):
    """Wrap NumPy arrays and scalars, also inside tuples and lists; the memory is shared."""
    if isinstance(value, np.ndarray | np.generic):
        return DeviceArray(np.asarray(value))
    if isinstance(value, list | tuple):
        items = [to_device(item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


def operand(value):
    """Return what NumPy shall compute with for one operand of an operator or ufunc."""
    if isinstance(value, DeviceArray):
        return value._host
    if isinstance(value, np.ndarray):
        raise TypeError(HOST_MET_DEVICE)
    if isinstance(value, bool | int | float | complex | np.generic):
        return value
    raise TypeError(f"CuPy computes with device arrays and scalars, got {type(value).__name__}")


def argument(value, name):
    """Return what NumPy shall get for one argument of the function `name`, or refuse it."""
    if isinstance(value, DeviceArray):
        return value._host
    if isinstance(value, np.ndarray):
        if name not in CREATORS:
            raise TypeError(f"{HOST_MET_DEVICE} in xp.{name}")
        return value.copy()
    if isinstance(value, list | tuple) and name in SEQUENCES:
        return type(value)(operand(item) for item in value)
    refused = DeviceArray if name in CREATORS else (DeviceArray, np.ndarray)
    if isinstance(value, list | tuple) and any(isinstance(item, refused) for item in value):
        raise TypeError(f"xp.{name} got a list of arrays")
    return value


@functools.cache
def parse(text):
    """Return the inspect.Signature of "a, axis=None" and the like."""
    return inspect.signature(eval(f"lambda {text}: 0"))


def function(name, text, numpy_function):
    """Return a function with the signature `text` of CuPy that runs NumPy's on the host."""
    signature = parse(text)

    def run(*args, **kwargs):
        try:
            bound = signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise TypeError(f"{VERSION}, {name}({text}): {error}") from None
        for parameter, value in bound.items():
            items = value if isinstance(value, list | tuple) else (value,)
            if parameter in SIZES and any(isinstance(item, DeviceArray) for item in items):
                raise TypeError(f"{name}: {parameter} is a device array; int({parameter}) syncs")
            if parameter in ARRAYS and isinstance(value, list | tuple) and name not in CREATORS:
                raise TypeError(f"xp.{name} got a list for the array {parameter}")
        waits = name in NAMES["syncs"] and (name != "where" or len(bound) == 1)
        if waits or isinstance(bound.get("repeats"), DeviceArray):
            sync(name.removeprefix("ndarray."))
        if name == "put_along_axis":
            arr, indices, _, axis = [argument(x, name) for x in bound.values()]
            with out_of_range_explained():
                refuse_repeats(arr, lambda places: np.take_along_axis(places, indices, axis))
        args = [argument(value, name) for value in args]
        with out_of_range_explained():
            out = numpy_function(*args, **{k: argument(v, name) for k, v in kwargs.items()})
        if isinstance(kwargs.get("out"), DeviceArray):
            return kwargs["out"]
        if name.removeprefix("ndarray.") in TO_PYTHON:
            return out
        return to_device(np.asarray(out) if name in PYTHON_IN_NUMPY else out)

    run.__name__ = name
    return run


class Ufunc:
    """`xp.exp`, `xp.add` and the like: CuPy has few of the methods, for few of the dtypes."""

    def __init__(self, name):
        self.__name__ = name
        self._ufunc = getattr(np, name)  # np.fix, np.i0 and np.sinc are functions

    def __call__(self, *args, **kwargs):
        unknown = kwargs.keys() - {"out", "dtype", "casting"}
        if unknown:
            raise TypeError(f"{VERSION}, {self.__name__}: no keyword {', '.join(sorted(unknown))}")
        args = [operand(x) for x in args]
        out = kwargs.pop("out", None)
        if out is None:
            return to_device(self._ufunc(*args, **kwargs))
        hosts = tuple(operand(x) for x in as_tuple(out))
        self._ufunc(*args, out=hosts if len(hosts) > 1 else hosts[0], **kwargs)
        return out

    def __getattr__(self, method):
        known = NAMES["ufunc_methods"].get(method)
        if known is None:
            raise AttributeError(f"{VERSION} ufuncs have no {method}")
        if known != "all" and self.__name__ not in known:
            raise NotImplementedError(f"{VERSION} has no {self.__name__}.{method}")
        if method == "at":
            return self._at
        texts = {
            "reduce": "array, axis=0, dtype=None, out=None, keepdims=False",
            "accumulate": "array, axis=0, dtype=None, out=None",
            "reduceat": "array, indices, axis=0, dtype=None, out=None",
            "outer": "A, B",
        }
        return function(f"{self.__name__}.{method}", texts[method], getattr(self._ufunc, method))

    def _at(self, a, indices, b):
        dtypes = NAMES["at_dtypes"][self.__name__]
        if operand(a).dtype.name not in dtypes:
            raise TypeError(f"{VERSION}, {self.__name__}.at knows only {dtypes}")
        with out_of_range_explained():
            self._ufunc.at(operand(a), host_index(indices), operand(b))


def as_tuple(key):
    """Return an index, or `out`, as a tuple."""
    return key if isinstance(key, tuple) else (key,)


def has_integer_array(key):
    """Say whether an index on the host has an array or a list of integers in it."""
    return any(
        isinstance(part, list) or (isinstance(part, np.ndarray) and part.dtype.kind in "iu")
        for part in as_tuple(key)
    )


def host_index(key):
    """Return an index with NumPy arrays in place of device arrays. A boolean array is a sync."""

    def convert(part):
        if isinstance(part, slice):
            bounds = (part.start, part.stop, part.step)
            return slice(*(int(b) if isinstance(b, DeviceArray) else b for b in bounds))
        if isinstance(part, np.ndarray):
            raise TypeError(f"{HOST_MET_DEVICE} as its index")
        if isinstance(part, list) and not all(type(i) is int for i in part):
            raise TypeError("a list as an index may hold ints only")
        return part._host if isinstance(part, DeviceArray) else part

    parts = tuple(convert(part) for part in as_tuple(key))
    masks = sum(isinstance(part, np.ndarray) and part.dtype.kind == "b" for part in parts)
    if masks > 1:
        raise TypeError("CuPy does not support more than one boolean array in an index")
    if masks:
        sync("mask")
    return parts if isinstance(key, tuple) else parts[0]


def refuse_repeats(array, pick):
    """Raise if `pick`, an indexing, meets a place of the array twice."""
    places = pick(np.arange(array.size).reshape(array.shape))
    if np.unique(places).size != places.size:
        raise IndexError("assignment to repeated indices: which value wins is undefined on a GPU")


@contextlib.contextmanager
def out_of_range_explained(key=None):
    """Say in the error for an index array out of range that CuPy would not raise it.

    CuPy does raise for a plain int out of range: that error stays as it is.
    """
    try:
        yield
    except IndexError as error:
        plain = key is not None and not has_integer_array(key)
        if plain or not re.search("out.of.bounds", str(error)):
            raise
        raise IndexError(f"CuPy would wrap this index silently: {error}") from None


class Grid:
    """`xp.r_`, `xp.c_`, `xp.mgrid` and `xp.ogrid` for numbers; not for arrays."""

    def __init__(self, name):
        self._name = name

    def __getitem__(self, key):
        if any(isinstance(k, DeviceArray | np.ndarray | list) for k in as_tuple(key)):
            raise TypeError(f"xp.{self._name} takes arrays through the host: use xp.concatenate")
        return to_device(getattr(np, self._name)[key])


class Namespace(types.ModuleType):
    """A module with functions of `source`, given as {name: signature}, and nothing else."""

    def __init__(self, name, functions=(), source=None):
        super().__init__(name)
        prefix = "" if name == "cupy" else name + "."
        for key in functions:
            if not hasattr(source, key):  # the list was made with a newer NumPy
                continue
            setattr(self, key, function(prefix + key, functions[key], getattr(source, key)))

    def __getattr__(self, name):
        raise AttributeError(f"{VERSION} has no {name} in common with NumPy ({self.__name__})")


def default_rng(seed=None):
    """Return a generator with the methods and keywords of CuPy's; the numbers are NumPy's."""
    seed = 0 if seed is None else seed
    return Namespace("Generator", NAMES["generator"], np.random.default_rng(operand(seed)))


def asnumpy(a):
    """Copy a device array to the host: one sync. Anything else becomes a NumPy array."""
    if isinstance(a, DeviceArray):
        sync("asnumpy")
        return a._host.copy()
    return np.asarray(a)


def fake_cupy():
    """Return a module to stand for `cupy`; see `install`."""
    xp = Namespace("cupy", NAMES["functions"], np)
    for name in NAMES["same"]:  # dtypes, constants, finfo: CuPy exports NumPy's own objects
        if hasattr(np, name):
            setattr(xp, name, getattr(np, name))
    for name in NAMES["ufuncs"]:
        if hasattr(np, name):
            setattr(xp, name, Ufunc(name))
    for name in ("r_", "c_", "mgrid", "ogrid"):
        setattr(xp, name, Grid(name))
    xp.linalg = Namespace("linalg", NAMES["linalg"], np.linalg)
    xp.linalg.LinAlgError = np.linalg.LinAlgError
    xp.random = Namespace("random")
    xp.random.default_rng = default_rng
    xp.cuda = Namespace("cuda")
    xp.cuda.is_available = xp.is_available = lambda: True
    xp.cuda.Stream = Namespace("Stream")
    xp.cuda.Stream.null = Namespace("Stream.null")
    xp.cuda.Stream.null.synchronize = lambda: sync("synchronize")
    xp.cuda.runtime = Namespace("runtime")
    xp.cuda.runtime.getDeviceProperties = lambda number: {"name": b"strict fake"}
    xp.cuda.runtime.runtimeGetVersion = xp.cuda.runtime.driverGetVersion = lambda: 0
    xp.__version__ = NAMES["version"]
    xp.ndarray = DeviceArray
    xp.asnumpy = asnumpy
    xp.get_array_module = lambda *arrays: (
        xp if any(isinstance(a, DeviceArray) for a in arrays) else np
    )
    return xp


def install(monkeypatch):
    """Put the fake where `import cupy` finds it, until the test ends, and return it."""
    xp = fake_cupy()
    monkeypatch.setitem(sys.modules, "cupy", xp)
    return xp


def _map(tree, leaf):
    if isinstance(tree, dict):
        return type(tree)((key, _map(value, leaf)) for key, value in tree.items())
    if isinstance(tree, list | tuple):
        items = [_map(item, leaf) for item in tree]
        return type(tree)(*items) if hasattr(tree, "_fields") else type(tree)(items)
    return leaf(tree)


def to_fake(tree):
    """Copy every NumPy array in nested tuples, lists and dicts to the device."""
    return _map(tree, lambda x: to_device(x.copy()) if isinstance(x, np.ndarray) else x)


def from_fake(tree):
    """Copy every device array in nested tuples, lists and dicts to the host. Not counted."""
    return _map(tree, lambda x: x._host.copy() if isinstance(x, DeviceArray) else x)
