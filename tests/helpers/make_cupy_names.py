"""Write cupy_names.json: what CuPy and NumPy share, read from an installed CuPy. No GPU is needed.

    python -m venv /tmp/cupy && /tmp/cupy/bin/pip install cupy-cuda12x && \
        /tmp/cupy/bin/python tests/helpers/make_cupy_names.py

Read from CuPy itself: names, signatures (of compiled functions from the first line of the
docstring), and which functions "may synchronize" (a sentence of their docstrings). Written here by
hand, because neither shows it: the constants below, taken from the source and from the error
messages in the compiled modules of the 14.2.0 wheel.
"""

import inspect
import json
import pathlib
import re

import numpy as np

# `ufunc.at` of other dtypes raises TypeError, of other ufuncs NotImplementedError
INTEGERS = ["int32", "int64", "uint32", "uint64"]
AT = {
    "add": [*INTEGERS, "float16", "float32", "float64"],
    "bitwise_and": INTEGERS,
    "bitwise_or": INTEGERS,
    "bitwise_xor": INTEGERS,
    "maximum": [*INTEGERS, "float32", "float64"],
    "minimum": [*INTEGERS, "float32", "float64"],
    "subtract": ["int32", "uint32"],
}
UFUNC_METHODS = {
    "at": sorted(AT),
    "reduce": ["add", "multiply"],
    "accumulate": ["add", "multiply"],
    "reduceat": ["add"],
    "outer": "all",
}
# signatures that promise less or more than the code: **kwargs, "casting is not supported yet"
SIGNATURES = {
    "einsum": "*operands, dtype=None, optimize=False",
    "meshgrid": "*xi, sparse=False, indexing='xy', copy=True",
    "ndarray.astype": "dtype, order='K', copy=True",
}
# these synchronize too, though their docstrings do not say it
words = str.split
SYNCS = words(
    "argwhere array_repr array_str asarray_chkfinite intersect1d ndarray.choose ndarray.compress "
    "ndarray.dump ndarray.dumps ndarray.item ndarray.nonzero ndarray.tobytes ndarray.tofile "
    "ndarray.tolist save savetxt savez savez_compressed setdiff1d setxor1d tril_indices "
    "tril_indices_from trim_zeros triu_indices triu_indices_from union1d unique_all unique_counts "
    "unique_inverse unique_values"
)


def signature(function, name):
    """Return the parameters as text, for example "a, axis=None, *, dtype=None"."""
    if name in SIGNATURES:
        return SIGNATURES[name]
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except ValueError:  # compiled: "_ndarray_base.dot(self, _ndarray_base b, int axis=-1) -> ..."
        inside = re.search(r"\((.*?)\)(?: ->.*)?$", function.__doc__.split("\n")[0])[1]
        inside = re.sub(r"(^|, )(?:int|Py_ssize_t|_ndarray_base) (?=\w)", r"\1", inside)
        inside = re.sub(r"=numpy\.\w+", "=None", inside)
        parameters = list(inspect.signature(eval(f"lambda {inside}: 0")).parameters.values())
    plain = (bool, int, float, str, tuple, type(None))
    parameters = [
        p.replace(annotation=p.empty)
        if isinstance(p.default, plain) or p.default is p.empty
        else p.replace(annotation=p.empty, default=None)
        for p in parameters
        if p.name != "self"
    ]
    return str(inspect.Signature(parameters))[1:-1]


def shared(of_cupy, of_numpy):
    """Return {name: object of CuPy} for the public names that both have."""
    return {
        name: getattr(of_cupy, name)
        for name in dir(of_cupy)
        if not name.startswith("_") and hasattr(of_numpy, name)
    }


def signatures(functions, prefix=""):
    """Return {name: signature} for functions, {name: None} for attributes."""
    return {
        name: signature(f, prefix + name) if callable(f) else None
        for name, f in functions.items()
        if not isinstance(f, type) and not inspect.ismodule(f)
    }


def main():
    """Collect and write everything, one line for each list and each signature."""
    import cupy  # here: pytest imports this file for its doctests, without CuPy

    module, methods = shared(cupy, np), shared(cupy.ndarray, np.ndarray)
    same = {name for name, f in module.items() if f is getattr(np, name)}
    ufuncs = {name for name, f in module.items() if isinstance(f, cupy.ufunc)}
    functions = {n: f for n, f in module.items() if n not in same | ufuncs and callable(f)}
    documented = functions | {f"ndarray.{name}": f for name, f in methods.items()}
    syncs = {name for name, f in documented.items() if "may synchronize" in (f.__doc__ or "")}
    names = {
        "version": cupy.__version__,
        "same": sorted(same),
        "ufuncs": sorted(ufuncs),
        "ufunc_methods": UFUNC_METHODS,
        "at_dtypes": AT,
        "functions": signatures(functions),
        "linalg": signatures(shared(cupy.linalg, np.linalg)),
        "generator": signatures(shared(cupy.random.Generator, np.random.Generator)),
        "ndarray": signatures(methods, "ndarray."),
        "syncs": sorted(syncs | set(SYNCS)),
    }
    lines = []
    for key, value in names.items():
        if isinstance(value, dict):
            inner = [f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(value.items())]
            lines.append(f"{json.dumps(key)}: {{\n" + ",\n".join(inner) + "\n}")
        else:
            lines.append(f"{json.dumps(key)}: {json.dumps(value)}")
    path = pathlib.Path(__file__).with_name("cupy_names.json")
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
