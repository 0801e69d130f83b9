"""Our own files with a line changed: what a known mistake computes.

An edit is text to find, which must stand exactly once in a file, and text to put there. The changed
text is run as a module of its own; our files and modules stay as they are.
"""

from __future__ import annotations

import ast
import importlib
import itertools
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from types import CodeType, ModuleType
from typing import NamedTuple


class Edit(NamedTuple):
    module: str  # which file
    find: str
    put: str


@lru_cache
def source_of(module: str) -> str:
    """Return the text of a module's file."""
    file = importlib.import_module(module).__file__
    assert file is not None
    return Path(file).read_text(encoding="utf-8")


def edited_text(text: str, edits: Sequence[Edit]) -> str | None:
    """Return the text with all edits made, or None when two of them touch the same place.

    Raises:
        ValueError: a text to find does not stand exactly once.

    >>> edited_text("a = b", [Edit("", "b", "c"), Edit("", "a", "d")])
    'd = c'
    """
    places = []
    for _, find, put in edits:
        if text.count(find) != 1:
            raise ValueError(f"{find!r} stands {text.count(find)} times, not once")
        start = text.index(find)
        places.append((start, start + len(find), put))
    places.sort()
    if any(one[1] > two[0] for one, two in itertools.pairwise(places)):
        return None
    for start, stop, put in reversed(places):
        text = text[:start] + put + text[stop:]
    return text


def edited_module(module: str, edits: Sequence[Edit]) -> ModuleType | None:
    """Return a copy of a module with these edits; None when two of them touch the same place.

    An edit in another file acts too: what the module imported from there by name is taken from an
    edited copy of that file.

    >>> wrong = edited_module("minqwen.layers.swiglu", [Edit("minqwen.layers.swiglu", "0.5 * (1 + ",
    ...     "0.5 * (2 + ")])
    >>> import numpy as np
    >>> float(wrong.sigmoid(np.zeros(())))
    1.0
    """
    here = [edit for edit in edits if edit.module == module]
    text = edited_text(source_of(module), here)
    if text is None:
        return None
    original = importlib.import_module(module)
    copy = ModuleType(f"{module}_edited")
    copy.__package__, copy.__file__ = original.__package__, original.__file__
    sys.modules[copy.__name__] = copy  # dataclasses look their module up
    try:
        code, records = code_of(module)
        copy.__dict__.update({name: getattr(original, name) for name in records})
        exec(code, copy.__dict__)
        for part in edited_parts(module, here, text):
            exec(compile(part, f"<{module}, edited>", "exec"), copy.__dict__)
    finally:
        del sys.modules[copy.__name__]
    for other in {edit.module for edit in edits} - {module}:
        changed = edited_module(other, [edit for edit in edits if edit.module == other])
        if changed is None:
            return None
        for name, value in list(vars(copy).items()):
            if getattr(value, "__module__", None) == other and hasattr(changed, name):
                setattr(copy, name, getattr(changed, name))
    return copy


@lru_cache
def code_of(module: str) -> tuple[CodeType, tuple[str, ...]]:
    """Return the compiled text of a module's file without its records, and their names.

    A record is a class of fields alone, such as a cache, and all copies share it: to make one anew
    takes longer than the rest of a file, and a pair of mistakes is to be tried in a millisecond.
    """
    tree = ast.parse(source_of(module))
    records = [
        part
        for part in tree.body
        if isinstance(part, ast.ClassDef)
        and all(isinstance(line, (ast.AnnAssign, ast.Expr)) for line in part.body)
    ]
    tree.body = [part for part in tree.body if part not in records]
    return compile(tree, f"<{module}>", "exec"), tuple(part.name for part in records)


@lru_cache
def functions_of(module: str) -> list[tuple[int, int]]:
    """Return where every function of a module's file begins and ends, in characters."""
    text = source_of(module)
    starts = list(itertools.accumulate((len(line) for line in text.splitlines(True)), initial=0))
    return [
        (starts[part.lineno - 1], starts[part.end_lineno or part.lineno])
        for part in ast.parse(text).body
        if isinstance(part, ast.FunctionDef) and not part.decorator_list
    ]


def edited_parts(module: str, edits: Sequence[Edit], text: str) -> list[str]:
    """Return what of an edited text has to run again: the functions touched, if nothing else is."""
    source, parts = source_of(module), []
    for start, stop in functions_of(module):
        inside = [edit for edit in edits if start <= source.index(edit.find) < stop]
        if any(source.index(edit.find) + len(edit.find) > stop for edit in inside):
            return [text]  # it goes on behind the function
        if inside:
            before = edited_text(source[start:stop], inside)
            assert before is not None  # the whole text could be edited
            parts.append((len(inside), before))
    if sum(count for count, _ in parts) < len(edits):
        return [text]  # something outside of all functions
    return [f"from __future__ import annotations\n{part}" for _, part in parts]
