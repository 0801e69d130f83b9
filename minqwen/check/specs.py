"""All concepts that the checker knows: one file each in mistakes/."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from . import mistakes
from .spec import Spec


@cache
def names() -> tuple[str, ...]:
    """Return the names of all concepts that can be checked."""
    return tuple(sorted(m.name for m in pkgutil.iter_modules(mistakes.__path__)))


@cache
def spec(name: str) -> Spec:
    """Return the spec of this name; ValueError, with the list, if there is none.

    >>> spec("rmsnorm").arguments
    ('x', 'w', 'eps')
    """
    if name not in names():
        raise ValueError(f"no concept {name!r} to check; there are {', '.join(names())}")
    found: Spec = importlib.import_module(f"{mistakes.__name__}.{name}").SPEC
    return found
