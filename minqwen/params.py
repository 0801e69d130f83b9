"""Parameters are one flat dict from checkpoint names to arrays; gradients have the same keys."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from .backend import Array, array_module

Params: TypeAlias = dict[str, Array]


def scope(params: Params, prefix: str) -> Params:
    """Return the entries under `prefix.`, with it removed. The arrays are shared, not copied.

    >>> scope({"layers.1.w": "w1", "layers.10.w": "w10"}, "layers.1")
    {'w': 'w1'}
    """
    start = prefix + "."
    return {key[len(start) :]: value for key, value in params.items() if key.startswith(start)}


def scopes(params: Params, prefix: str, count: int) -> list[Params]:
    """Return the scopes `prefix.0` to `prefix.{count - 1}`, in one walk over the keys.

    >>> scopes({"layers.1.w": "w1", "layers.0.a.b": "b0", "w": "w"}, "layers", 2)
    [{'a.b': 'b0'}, {'w': 'w1'}]
    """
    start = prefix + "."
    parts: list[Params] = [{} for _ in range(count)]
    for key, value in params.items():
        if key.startswith(start):
            number, _, name = key[len(start) :].partition(".")
            parts[int(number)][name] = value
    return parts


def unscope(grads: Params, prefix: str) -> Params:
    """Put `prefix.` back in front of every key.

    >>> unscope({"w": "w1"}, "layers.1")
    {'layers.1.w': 'w1'}
    """
    return {f"{prefix}.{key}": value for key, value in grads.items()}


def add_into(total: Params, more: Params) -> None:
    """Add gradients to a running total, in place; keys that it has not yet are taken over.

    >>> import numpy as np
    >>> total = {"w": np.ones(2)}
    >>> add_into(total, {"w": np.ones(2), "b": np.zeros(1)})
    >>> total
    {'w': array([2., 2.]), 'b': array([0.])}
    """
    for key, value in more.items():
        if key in total:
            total[key] += value
        else:
            total[key] = value


def count(params: Params) -> int:
    """Count the numbers in all arrays.

    >>> import numpy as np
    >>> count({"w": np.ones((2, 3)), "b": np.ones(2)})
    8
    """
    return sum(value.size for value in params.values())


def zeros_like(params: Params) -> Params:
    """Return zeros of the same shapes, dtypes and device, under the same keys."""
    return {key: array_module(value).zeros_like(value) for key, value in params.items()}


def name_list(names: Iterable[str], most: int = 10) -> str:
    """Join names for an error message, at most ten of them.

    >>> name_list("abc", most=2)
    'a, b and 1 more'
    """
    names = sorted(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
