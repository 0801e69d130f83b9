"""The strict fake refuses, returns and counts what it says; the package keeps to its names."""

import ast
import copy
import pathlib
from typing import NamedTuple

import numpy as np
import pytest
from helpers.fake_device import (
    NAMES,
    DeviceArray,
    count_syncs,
    fake_cupy,
    from_fake,
    install,
    to_fake,
)

import minqwen
from minqwen.backend import array_module, to_device, to_numpy
from minqwen.layers.rmsnorm import rmsnorm_backward, rmsnorm_forward

HOST = np.arange(1.0, 4.0)  # a host array of the shape of x
REFUSED_MIX = [
    "x + HOST",
    "HOST + x",
    "x @ HOST",
    "HOST @ x",
    "x == HOST",
    "x + np.array(1.0)",
    "divmod(HOST, x)",
    "xp.exp(HOST)",
    "xp.exp(x, out=HOST)",
    "xp.matmul(x, x, out=np.array(0.0))",
    "xp.where(x > 1, x, HOST)",
    "xp.sum(HOST)",
    "x.dot(HOST)",
    "x.sum(out=np.array(0.0))",
    "xp.stack([x, HOST])",
    "xp.einsum('i,i', x, HOST)",
    "x[np.array([0])]",
    "x[np.array([True, False, True])]",
    "x.take(np.array([0]))",
    "x.__setitem__(slice(None), HOST)",
    "x.__iadd__(HOST)",
    "HOST.__iadd__(x)",
    "xp.add.at(HOST, xp.asarray([0]), 1.0)",
    "xp.add.at(x, np.array([0]), 1.0)",
    "xp.linalg.norm(HOST)",
]
REFUSED_TYPES = [
    ("np.exp(x)", r"np\.exp was called on a device array: use xp\.exp"),
    ("np.multiply(x, 2)", "use xp.multiply"),
    ("np.add.reduce(x)", r"use xp\.add\.reduce"),
    ("np.sum(x)", r"np\.sum was called on a device array: use xp\.sum"),
    ("np.concatenate([x, HOST])", "np.concatenate was called"),
    ("np.where(x > 1, x, 0)", "np.where was called"),
    ("np.asarray(x)", "asked for a copy"),
    ("np.array([x, x])", "asked for a copy"),
    ("np.testing.assert_array_equal(x, HOST)", "asked for a copy"),
    ("HOST[x]", "asked for a copy"),
    ("range(x.sum())", "interpreted as an integer"),
    ("xp.exp([1.0])", "scalars, got list"),
    ("x + [1.0, 1.0, 1.0]", "scalars, got list"),
    ("x == None", "scalars, got NoneType"),
    ("x.__setitem__(slice(None), [1, 2, 3])", "scalars, got list"),
    ("xp.sum([1.0, 2.0])", "a list for the array a"),
    ("xp.asarray([x, x])", "list of arrays"),
    ("xp.zeros(x.sum())", "shape is a device array"),
    ("xp.zeros((2, x.sum()))", "shape is a device array"),
    ("x.reshape(x.sum(), -1)", "shape is a device array"),
    ("xp.arange(x.sum())", "start is a device array"),
    ("x[[x]]", "ints only"),
    ("xp.ones((2, 2))[x[:2] > 1, x[:2] > 1]", "more than one boolean array"),
    ("xp.r_[x, 1.0]", "use xp.concatenate"),
    ("xp.exp(x, where=x > 1)", "no keyword where"),
    ("xp.sum(x, where=x > 1)", "unexpected keyword argument 'where'"),
    ("x.mean(where=x > 1)", "unexpected keyword argument 'where'"),
    ("xp.max(x, initial=0.0)", "unexpected keyword argument 'initial'"),
    ("xp.argsort(x, stable=True)", "unexpected keyword argument 'stable'"),
    ("xp.clip(x, min=0.0)", "argument"),
    ("xp.einsum('i,i', x, x, out=x)", "unexpected keyword argument 'out'"),
    ("x.astype(xp.float32, casting='unsafe')", "unexpected keyword argument 'casting'"),
    ("xp.take_along_axis(x, xp.argsort(x))", "missing a required argument: 'axis'"),
    ("x.item(0)", "too many positional"),
    ("xp.add.at(x.astype(bool), xp.asarray([0]), True)", "add.at knows only"),
    ("xp.add.at(x.astype(xp.int16), xp.asarray([0]), 1)", "add.at knows only"),
    ("xp.random.default_rng(HOST)", "host array"),
]
words = str.split
MISSING = words(
    "vecdot matvec vecmat errstate seterr unstack einsum_path block insert geomspace frompyfunc "
    "nditer memmap linalg.multi_dot linalg.vector_norm random.normal"
)
SYNCS = [  # expression, its count
    ("bool(x.any())", {"bool": 1}),
    ("int(x[0])", {"int": 1}),
    ("float(x.sum())", {"float": 1}),
    ("complex(x[0])", {"complex": 1}),
    ("np.float64(x[0])", {"float": 1}),
    ("x.sum().item()", {"item": 1}),
    ("x.tolist()", {"tolist": 1}),
    ("x.tobytes()", {"tobytes": 1}),
    ("list(x)", {"iteration": 1}),
    ("5.0 in x", {"iteration": 1, "bool": 3}),
    ("x.get()", {"get": 1}),
    ("xp.asnumpy(x)", {"asnumpy": 1}),
    ("to_numpy(x)", {"asnumpy": 1}),
    ("repr(x)", {"repr": 1}),
    ("str(x)", {"repr": 1}),
    ("f'{x.sum():.1f}'", {"format": 1}),
    ("x[: x.sum().astype(int)]", {"int": 1}),
    ("x.nonzero()", {"nonzero": 1}),
    ("xp.nonzero(x)", {"nonzero": 1}),
    ("xp.flatnonzero(x)", {"flatnonzero": 1}),
    ("xp.argwhere(x)", {"argwhere": 1}),
    ("xp.where(x > 1)", {"where": 1}),
    ("xp.unique(x)", {"unique": 1}),
    ("xp.bincount(x.astype(int))", {"bincount": 1}),
    ("xp.repeat(x, x.astype(int))", {"repeat": 1}),
    ("x[x > 1]", {"mask": 1}),
    ("x.__setitem__(x > 1, 0.0)", {"mask": 1}),
    # none of these waits
    ("len(x), x.shape, x.size, x.ndim, x.dtype", {}),
    ("x.sum(), x[0], x.max(), x @ x, x[xp.argmax(x)]", {}),
    ("xp.where(x > 1, x, 0.0), xp.repeat(x, 2), xp.argsort(x), xp.cumsum(x)", {}),
    ("xp.asarray(HOST), xp.add.at(x, xp.asarray([0, 0]), 1.0)", {}),
]


@pytest.fixture
def xp(monkeypatch):
    return install(monkeypatch)


@pytest.fixture
def x():
    return to_fake(np.array([1.0, 2, 3]))


def run(expression, xp, x):
    names = {"np": np, "HOST": HOST, "to_numpy": to_numpy, "xp": xp, "x": x}
    return eval(expression, names)


@pytest.mark.parametrize("expression", REFUSED_MIX)
def test_a_host_array_is_refused(expression, xp, x):
    with pytest.raises(TypeError, match="a host array met a device array"):
        run(expression, xp, x)


@pytest.mark.parametrize(("expression", "message"), REFUSED_TYPES)
def test_what_cupy_cannot_take_is_refused(expression, message, xp, x):
    with pytest.raises(TypeError, match=message):
        run(expression, xp, x)


@pytest.mark.parametrize("name", MISSING)
def test_missing_names_are_named(name, xp):
    *path, last = name.split(".")
    module = xp
    for part in path:
        module = getattr(module, part)
    with pytest.raises(AttributeError, match=rf"CuPy 14\.2 has no {last}"):
        getattr(module, last)


def test_missing_methods_are_named(xp, x):
    for name in ("resize", "setflags", "ctypes", "__index__", "__array_interface__"):
        with pytest.raises(AttributeError, match=rf"CuPy 14\.2 arrays have no {name}"):
            getattr(x, name)
    for name in ("flat", "data"):
        with pytest.raises(AttributeError, match="not portable"):
            getattr(x, name)
    for name in ("normal", "choice", "permutation", "shuffle", "multinomial"):
        with pytest.raises(AttributeError, match=rf"CuPy 14\.2 has no {name}"):
            getattr(xp.random.default_rng(0), name)


def test_missing_ufunc_methods_are_named(xp):
    for ufunc, method in ("exp", "at"), ("maximum", "reduce"), ("multiply", "reduceat"):
        with pytest.raises(NotImplementedError, match=rf"no {ufunc}\.{method}"):
            getattr(getattr(xp, ufunc), method)
    with pytest.raises(AttributeError, match="ufuncs have no resolve_dtypes"):
        xp.add.resolve_dtypes  # noqa: B018


@pytest.mark.parametrize(("expression", "expected"), SYNCS)
def test_syncs_are_counted_by_name(expression, expected, xp, x):
    with count_syncs() as syncs:
        run(expression, xp, x)
    assert dict(syncs) == expected


def test_counts_nest_and_end_with_their_block(x):
    with count_syncs() as outer:
        float(x[0])
        with count_syncs() as inner:
            float(x[0])
    float(x[0])
    assert (outer["float"], inner["float"]) == (2, 1)


def test_results_are_device_arrays_never_scalars(xp, x):
    zero_d = ["x.sum()", "x[0]", "x.max()", "x @ x", "xp.dot(x, x)", "xp.exp(x[0])", "-x[0]"]
    zero_d += ["xp.allclose(x, x)", "xp.count_nonzero(x)", "xp.linalg.norm(x)", "xp.sqrt(2.0)"]
    for expression in zero_d:
        result = run(expression, xp, x)
        assert isinstance(result, DeviceArray), expression
        assert result.shape == (), expression
    assert not isinstance(x, np.ndarray)
    assert isinstance(x, xp.ndarray)
    assert all(isinstance(part, DeviceArray) for part in (*xp.split(x, 3), *divmod(x, 2)))


def test_results_equal_numpy(xp, x):
    rows = np.arange(6.0).reshape(2, 3)
    for expression in [
        "(2 - x) / x ** 2 % 3 // 1",
        "np.float64(2) * x",
        "x > 1.5",
        "~(x > 1) & (x < 3) | (x == 2)",
        "abs(-x)",
        "(x.astype(int) << 2) >> 1 ^ 1",
        "r @ r.T",
        "r.T[::-1, None]",
        "r[xp.asarray([1, 0]), xp.asarray([2, 2])]",
        "r[[1, 0]]",
        "r.mean(axis=-1, keepdims=True)",
        "xp.einsum('ij,j->i', r, x)",
        "xp.concatenate((r, r), axis=1)",
        "xp.maximum(r, 2.0, dtype=np.float32)",
        "xp.add.reduceat(x, xp.asarray([0, 2]))",
        "xp.add.reduce(r, axis=1)",
        "xp.take_along_axis(r, xp.argsort(-r, axis=1), 1)",
        "xp.tril(xp.ones((3, 3), dtype=bool), k=-1)",
        "xp.linspace(0, 1, 5)",
        "xp.mgrid[0:2, 0:3]",
    ]:
        fake = eval(expression, {"np": np, "xp": xp, "x": x, "r": to_fake(rows)})
        real = eval(expression, {"np": np, "xp": np, "x": from_fake(x), "r": rows})
        assert isinstance(fake, DeviceArray), expression
        assert fake.dtype == real.dtype, expression
        np.testing.assert_array_equal(from_fake(fake), real, err_msg=expression)


def test_writing_goes_to_the_same_memory_as_in_numpy(xp, x):
    same = x
    x += 1.0
    x[1:] *= 2.0
    assert x is same
    assert xp.exp(x, out=x) is x
    x[...] = 7.0
    x[xp.asarray([0, 2])] = xp.asarray([1.0, 2.0])
    view, total = x.reshape(-1, 1), x.sum()
    view[1, 0] = 0.0
    total += 1.0
    assert from_fake(x).tolist() == [1.0, 0.0, 2.0]
    assert from_fake(total) == 11.0
    for clone in copy.copy(x), copy.deepcopy(x), x.copy(), xp.array(x):
        clone[0] = 5.0
    assert xp.asarray(x)._host is x._host
    host = np.zeros(2)
    xp.asarray(host)[0] = 1.0
    assert from_fake(x)[0] == 1.0
    assert host[0] == 0.0


def test_different_values_for_repeated_indices_are_refused(xp, x):
    twice, square = xp.asarray([0, 2, 0]), to_fake(np.zeros((2, 2)))
    with pytest.raises(IndexError, match="repeated indices"):
        x[twice] = x
    with pytest.raises(IndexError, match="repeated indices"):
        x[twice] += x
    with pytest.raises(IndexError, match="repeated indices"):
        x[xp.asarray([0, -3])] = x[:2]  # two names of one place
    with pytest.raises(IndexError, match="repeated indices"):
        square[xp.asarray([0, 0]), xp.asarray([1, 1])] = x[:2]
    with pytest.raises(IndexError, match="repeated indices"):
        xp.put_along_axis(square, xp.zeros((2, 2), dtype=int), xp.ones((2, 2)), 1)
    square[xp.asarray([0, 0]), xp.asarray([0, 1])] = x[:2]  # a row twice, no place twice
    x[twice] = 0.0  # one value: the order does not matter
    xp.add.at(x, twice, 1.0)
    assert from_fake(x).tolist() == [2.0, 2.0, 1.0]


def test_index_arrays_out_of_range_are_refused(xp, x):
    wrong = xp.asarray([0, 3])
    for action in (
        lambda: x[wrong],
        lambda: x[[3]],
        lambda: x.take(wrong),
        lambda: xp.take(x, wrong),
        lambda: xp.take_along_axis(x, wrong, 0),
        lambda: xp.add.at(x, wrong, 1.0),
        lambda: x.__setitem__(wrong, 0.0),
    ):
        with pytest.raises(IndexError, match="CuPy would wrap this index silently"):
            action()
    with pytest.raises(IndexError, match=r"^index 3 is out of bounds"):
        x[3]  # CuPy raises here too
    with pytest.raises(IndexError, match=r"^too many indices"):
        x[wrong, wrong]


def test_random_numbers_have_cupys_keywords(xp):
    rng = xp.random.default_rng(0)
    assert rng.standard_normal((2, 3), dtype=np.float32).dtype == np.float32
    assert rng.integers(0, 5, size=(4,)).shape == (4,)
    with pytest.raises(TypeError, match="unexpected keyword argument 'axis'"):
        rng.random(axis=0)


def test_half_precision_passes_through(xp):
    half = to_fake(np.ones(2, np.float16))
    assert (half * 2.0 + np.float16(1)).dtype == np.float16
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = xp.asarray(np.ones(2, ml_dtypes.bfloat16))
    assert (x[0] * x).astype(np.float32).sum().dtype == np.float32


def test_the_backend_takes_the_fake_for_cupy(xp):
    params = to_device({"w": np.ones(2)}, "cuda")
    assert isinstance(params["w"], DeviceArray)
    assert array_module(np.ones(1), params["w"]) is xp
    assert array_module(np.ones(1)) is np
    assert type(to_device(params, "cpu")["w"]) is np.ndarray


def test_the_fake_leaves_when_the_test_ends():
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        assert array_module(to_fake(np.ones(1))).__name__ == "cupy"
    assert array_module(to_fake(np.ones(1))) is np


class Pair(NamedTuple):
    first: object
    second: object


def test_trees_travel_both_ways():
    tree = {"a": Pair(np.ones(2), (1, [np.zeros(1), None]))}
    fake = to_fake(tree)
    assert isinstance(fake["a"], Pair)
    assert isinstance(fake["a"].second[1][0], DeviceArray)
    with count_syncs() as syncs:
        back = from_fake(fake)
    assert not syncs
    assert type(back["a"].first) is np.ndarray
    assert back["a"].second == (1, [np.zeros(1), None])
    back["a"].first[0] = 5.0
    assert from_fake(fake["a"].first)[0] == tree["a"].first[0] == 1.0


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_rmsnorm_on_the_device_equals_numpy_and_never_waits(xp, dtype):
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, 2, 3, 5)).astype(dtype)
    w = rng.standard_normal(5).astype(dtype)
    y, cache = rmsnorm_forward(x, w)
    with count_syncs() as syncs:
        fake_y, fake_cache = rmsnorm_forward(*to_fake((x, w)))
        fake_grads = rmsnorm_backward(to_fake(dy), fake_cache)
    assert not syncs
    expected = (y, *cache, *rmsnorm_backward(dy, cache))
    for ours, numpys in zip((fake_y, *fake_cache, *fake_grads), expected, strict=True):
        assert isinstance(ours, DeviceArray)
        assert ours.dtype == numpys.dtype
        np.testing.assert_array_equal(from_fake(ours), numpys)


def names_not_in_cupy(source):
    """Return (line, name) for every `xp.name`, also `array_module(...).name`, that CuPy lacks."""
    xp, found = fake_cupy(), set()
    for node in ast.walk(ast.parse(source)):
        path, root = [], node
        while isinstance(root, ast.Attribute):
            path, root = [root.attr, *path], root.value
        called = root.func if isinstance(root, ast.Call) else None
        if getattr(root, "id", "") != "xp" and getattr(called, "id", "") != "array_module":
            continue
        thing = xp
        for i, name in enumerate(path):
            if i and thing is getattr(np, path[i - 1], None):
                break  # xp.float32.__name__: a thing of NumPy's own
            try:
                thing = getattr(thing, name)
            except (AttributeError, NotImplementedError):
                found.add((root.lineno, ".".join(path[: i + 1])))
                break
    return sorted(found)


def test_the_search_for_names_finds_what_cupy_lacks():
    good = "xp.exp(x); xp.add.at(x, i, 1); xp.linalg.norm(x); array_module(x).ones(2); xp.float32"
    assert names_not_in_cupy(good) == []
    bad = "xp.vecdot(x, y)\nxp.exp.at(x, i)\nxp.random.normal()\narray_module(x).block([x])\nxp.r"
    assert names_not_in_cupy(bad) == [
        (1, "vecdot"),
        (2, "exp.at"),
        (3, "random.normal"),
        (4, "block"),
        (5, "r"),
    ]


def test_every_name_the_package_uses_is_in_cupy_and_in_numpy():
    package = pathlib.Path(minqwen.__file__).parent
    files = sorted(package.rglob("*.py"))
    assert files
    wrong = [
        f"{path.relative_to(package)}:{line}: xp.{name}"
        for path in files
        if path.name != "backend.py"  # the only file that may know CuPy
        for line, name in names_not_in_cupy(path.read_text(encoding="utf-8"))
    ]
    assert not wrong, wrong


def test_the_list_of_names_is_of_the_cupy_we_support():
    assert NAMES["version"].startswith("14.")
    names = [*NAMES["same"], *NAMES["ufuncs"], *NAMES["functions"]]
    missing = [name for name in names if not hasattr(np, name)]
    assert len(missing) < 20, missing  # an older NumPy lacks some, such as cumulative_sum
    assert not missing or np.lib.NumpyVersion(np.__version__) < "2.4.0", missing
    assert {"exp", "add", "tanh"} <= set(NAMES["ufuncs"])
