"""A concept as it is explained: how it is run, and its example on three tokens.

Where the bank knows the concept it is called as a stranger's function is, by names; where only our
own table does, as the row of the table is.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ...backend import Array
from ..concept_row import Concept
from ..concepts import CONCEPTS
from ..spec import Arguments, Spec
from ..specs import names as spec_names
from ..specs import spec as spec_of
from .examples import ROW_EXAMPLES, SPEC_EXAMPLES, rounded, some

Answers = dict[str, Array]  # outputs or gradients by name


class Subject(NamedTuple):
    """A concept as it is shown: how it is run, and on what."""

    name: str
    module: str
    row: Concept | None
    spec: Spec | None
    arguments: Arguments  # of the three-token example
    outputs: tuple[str, ...]
    axes: dict[str, str]
    exact: tuple[str, ...]
    run: Callable[[Arguments], tuple[Any, ...]]
    pull: Callable[[Arguments, tuple[Array, ...]], Answers] | None


def all_names() -> tuple[str, ...]:
    """Return the names that can be explained: the table's, then those of the bank alone."""
    rows = [row.name for row in CONCEPTS]
    return (*rows, *(name for name in spec_names() if name not in rows))


def subject(name: str, seed: int = 0) -> Subject:
    """Find a concept and make its example.

    Raises:
        ValueError: there is none of this name.
    """
    if name not in all_names():
        raise ValueError(f"no concept {name!r} to explain; there are {', '.join(all_names())}")
    row = next((row for row in CONCEPTS if row.name == name), None)
    rng = np.random.default_rng([seed, 3])
    if name in spec_names():
        return _of_spec(spec_of(name), row, rng)
    assert row is not None
    return _of_row(row, rng)


def _of_spec(spec: Spec, row: Concept | None, rng: np.random.Generator) -> Subject:
    module = importlib.import_module(spec.module)
    if spec.name in SPEC_EXAMPLES:
        arguments = {**spec.defaults, **SPEC_EXAMPLES[spec.name](rng)}
    else:
        easy = [p for p in spec.probes if p.gradient and not p.hard] or list(spec.probes)
        arguments = rounded(min((p.make(rng) for p in easy), key=size_of))
    return Subject(
        spec.name,
        spec.module,
        row,
        spec,
        {name: arguments[name] for name in spec.arguments if name in arguments},
        spec.outputs,
        spec.axes,
        spec.exact,
        lambda a: spec.run(module, a),
        (lambda a, dy: spec.pull(module, a, dy)) if spec.pull else None,  # type: ignore[misc]
    )


def _of_row(row: Concept, rng: np.random.Generator) -> Subject:
    make = ROW_EXAMPLES.get(row.name) or (lambda rng: rounded(next(iter(row.cases.values()))(rng)))
    inputs = make(rng)
    floats = iter(row.arguments)
    declared = list(inspect.signature(row.forward).parameters.values())
    declared = [p for p in declared if p.kind is p.POSITIONAL_OR_KEYWORD]
    arguments = {}
    for i, value in enumerate(inputs):
        called = declared[i].name if i < len(declared) else f"input {i}"
        is_float = isinstance(value, np.ndarray) and value.dtype.kind == "f"
        arguments[next(floats) if is_float else called] = value

    def pull(a: Arguments, dy: tuple[Array, ...]) -> Answers:
        gradients = row.backward(dy[0], row.forward(*a.values())[1])
        gradients = gradients if isinstance(gradients, tuple) else (gradients,)
        found = [g for g in gradients if g is not None]
        return dict(zip(float_arrays(a), found, strict=True))

    def run(a: Arguments) -> tuple[Any, ...]:
        return (row.forward(*a.values())[0],)

    return Subject(row.name, row.module, row, None, arguments, ("y",), {}, (), run, pull)


def size_of(arguments: Arguments) -> int:
    """Return how many numbers all arrays hold."""
    return sum(x.size for x in arguments.values() if isinstance(x, np.ndarray))


def float_arrays(arguments: Arguments) -> tuple[str, ...]:
    """Return the names of the arguments that can have a gradient."""
    return tuple(
        name
        for name, x in arguments.items()
        if isinstance(x, np.ndarray) and x.dtype.kind == "f" and x.size
    )


def upstream_of(it: Subject, outputs: Answers, seed: int) -> Answers:
    """Return a gradient for each output, in halves; zeros where the output is a whole number."""
    rng = np.random.default_rng([seed, 4])
    return {
        name: np.zeros(y.shape) if name in it.exact else some(rng, *y.shape)
        for name, y in outputs.items()
    }
