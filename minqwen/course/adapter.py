"""How a student's file is asked, as text for another process: the two functions of the bank alone.

The bank's file of a concept holds `run` and `pull`, which ask a copy of our file, beside the inputs
and the mistakes, which are lines of the answer. Only the two go to the process of the student's
code, with what they use.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence

from ..check.edited import source_of
from ..check.spec import Spec
from .source_text import names_of


def adapter_text(spec: Spec) -> str:
    """Cut `run` and `pull` of a concept out of its file, with all that they use and nothing else.

    >>> from ..check.specs import spec
    >>> "Mistake" in adapter_text(spec("rmsnorm"))
    False
    """
    text = source_of(spec.run.__module__)
    body = ast.parse(text).body
    names: dict[str, ast.stmt] = {}
    for node in body:
        for name in defined_names(node):
            names[name] = node
    asked = {f.__name__ for f in (spec.run, spec.pull) if f is not None}
    kept: list[ast.stmt] = []
    waiting = sorted(asked)
    while waiting:
        found = names.get(waiting.pop())
        if found is not None and found not in kept:
            kept.append(found)
            waiting += sorted(used_names(found))
    for node in kept:
        if isinstance(node, ast.ImportFrom) and node.level:  # it runs outside of its package
            package = spec.run.__module__.split(".")[: -node.level]
            node.module, node.level = ".".join([*package, node.module or ""]).rstrip("."), 0
    parts = [ast.unparse(node) for node in body if node in kept]
    return "\n".join(["from __future__ import annotations", *parts, ""])


def defined_names(node: ast.stmt) -> list[str]:
    """Return the names that a statement at the top of a file gives a meaning to, imports too.

    >>> defined_names(ast.parse("import a.b, c as d").body[0])
    ['a', 'd']
    """
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return [(alias.asname or alias.name).partition(".")[0] for alias in node.names]
    return sorted(names_of(node))


def used_names(node: ast.AST) -> set[str]:
    """Return the names that are read when this runs; annotations are never looked at."""
    found: set[str] = set()
    for child in ast.iter_child_nodes(node):
        if isinstance(node, ast.FunctionDef) and child is node.returns:
            continue
        if isinstance(node, (ast.arg, ast.AnnAssign)) and child is node.annotation:
            continue
        found |= used_names(child)
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
        found.add(node.id)
    return found


def tuple_lengths(source: str, functions: Sequence[str]) -> dict[str, tuple[int, str]]:
    """Return, of those functions that return a tuple, how long it is and how it is written.

    >>> tuple_lengths("def f(x) -> tuple[Array, Cache]: ...", ["f"])
    {'f': (2, 'tuple[Array, Cache]')}
    """
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and node.name in functions:
            match node.returns:
                case ast.Subscript(value=ast.Name(id="tuple"), slice=ast.Tuple(elts=elts)):
                    if not any(isinstance(e, ast.Constant) and e.value is ... for e in elts):
                        found[node.name] = (len(elts), ast.unparse(node.returns))
    return found
