"""The text of a student's file, looked at without running it."""

from __future__ import annotations

import ast
import warnings
from functools import lru_cache


def names_of(node: ast.stmt) -> set[str]:
    """Return the names that a statement defines: of a function, a class, or what gets a value."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {node.name}
    targets: list[ast.expr] = []
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AnnAssign):
        targets = [node.target]
    return {n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)}


def parsed(text: str) -> ast.Module:
    """Return the syntax tree, without Python's warnings about it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(text)


@lru_cache(maxsize=1000)
def top_names(text: str) -> frozenset[str]:
    """Return the names that a file defines at its top level, or below an `if` or `try` there."""
    names: set[str] = set()
    waiting: list[ast.AST] = [parsed(text)]
    while waiting:
        for node in ast.iter_child_nodes(waiting.pop()):
            if isinstance(node, (ast.If, ast.Try, ast.With)):
                waiting.append(node)
            elif isinstance(node, ast.stmt):
                names.update(names_of(node))
    return frozenset(names)


@lru_cache(maxsize=1000)
def stub_names(text: str) -> frozenset[str]:
    """Return the functions of a file that are not written yet: they do nothing but raise.

    >>> sorted(stub_names("def f(): raise NotImplementedError('write this')\\ndef g(): return 1"))
    ['f']
    """
    found = set[str]()
    for node in parsed(text).body:
        if isinstance(node, ast.FunctionDef):
            last = ast.unparse(node.body[-1])
            written = len(node.body) > 1 + (ast.get_docstring(node) is not None)
            stub = last.startswith("raise NotImplementedError") and not written
            (found.add if stub else found.discard)(node.name)
    return frozenset(found)


def why_broken(text: str) -> str:
    """Say why a text is no valid Python; nothing if it is.

    >>> why_broken("def f(:")
    'line 1: invalid syntax'
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(text, "<submission>", "exec", dont_inherit=True)
    except SyntaxError as error:
        return f"line {error.lineno}: {error.msg}"
    except (ValueError, RecursionError, MemoryError, OverflowError) as error:
        return str(error) or type(error).__name__
    return ""


def shown(text: str) -> str:
    """Return a name from outside on one line, cut.

    >>> shown("a\\nb")
    'a?b'
    """
    return "".join(c if c.isprintable() else "?" for c in text)[:100]
