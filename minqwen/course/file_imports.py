"""The imports of a file that leaves the package: absolute, or from the file beside it.

Three groups, as formatters want them: Python's own, installed packages, files of the assignment.
What a file needs no more after bodies were taken out becomes a comment: students see what there is.
"""

from __future__ import annotations

import ast
from collections.abc import Collection
from functools import cache
from typing import NamedTuple

from ..check.edited import source_of
from ..check.specs import names as concepts
from ..check.specs import spec
from .ladder import LADDER, called

WIDTH = 100
FIRST_LINE = "# Imports that may be of use:"


class Imported(NamedTuple):
    """One name that a file imports."""

    module: str  # absolute: "minqwen.backend", "numpy"; "" in `import numpy as np`
    name: str  # in that module; of `import numpy as np` the module itself
    known_as: str
    module_itself: bool


def used_names(node: ast.AST) -> set[str]:
    """Return all names that stand in a piece of code."""
    return {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}


def imported(tree: ast.Module, module: str) -> list[Imported]:
    """Return every name that a file imports, absolute, but for those of __future__."""
    found = []
    package = module.split(".")[:-1]
    for node in tree.body:
        if isinstance(node, ast.Import):
            for alias in node.names:
                found.append(Imported("", alias.name, alias.asname or alias.name, True))
        elif isinstance(node, ast.ImportFrom) and node.module != "__future__":
            base = package[: len(package) + 1 - node.level] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                found.append(Imported(source, alias.name, alias.asname or alias.name, False))
    return found


def with_imports(
    text: str, module: str, siblings: Collection[str], original: str, helpful: set[str] | None
) -> str:
    """Return a file with its imports written anew.

    Args:
        text: of the file, perhaps with parts taken out.
        module: it is this one.
        siblings: modules that are imported by their last part.
        original: the text with nothing taken out.
        helpful: names for a comment, if they are imported no more; None: all imports stay. In a
            file about arrays NumPy is imported in any case, for its examples.
    """
    needed = used_names(ast.parse(text))
    every = imported(ast.parse(original), module)
    keep = every if helpful is None else [one for one in every if one.known_as in needed]
    numpy = Imported("", "numpy", "np", True)
    arrays = numpy in every or any(one.module == "minqwen.backend" for one in every)
    if arrays and helpful is not None and numpy not in keep:
        keep.append(numpy)
    block = ["from __future__ import annotations", *import_lines(keep, siblings)]
    if numpy in keep and "np" not in needed:
        block[block.index("import numpy as np")] += "  # noqa: F401"
    spare = [one for one in every if one not in keep and one.known_as in (helpful or ())]
    if spare:
        block += ["", FIRST_LINE, *(f"# {line}" for line in import_lines(spare, siblings) if line)]
    lines = text.splitlines()
    nodes = [one for one in ast.parse(text).body if isinstance(one, (ast.Import, ast.ImportFrom))]
    lines[nodes[0].lineno - 1 : nodes[-1].end_lineno] = block
    return "\n".join(lines) + "\n"


def import_lines(names: Collection[Imported], siblings: Collection[str]) -> list[str]:
    """Return import statements in three groups: Python's own, installed, neighbouring files."""
    groups: tuple[list[str], list[str], list[str]] = ([], [], [])
    for one in names:
        if one.module_itself:
            alias = f" as {one.known_as}" if one.known_as != one.name else ""
            groups[1 if one.name in ("numpy", "regex") else 0].append(f"import {one.name}{alias}")
    sources: dict[str, list[str]] = {}
    for one in names:
        if not one.module_itself:
            alias = f" as {one.known_as}" if one.known_as != one.name else ""
            sources.setdefault(one.module, []).append(one.name + alias)
    for source in sorted(sources):
        group = 1 if source.split(".")[0] in ("minqwen", "numpy", "regex") else 0
        near = [n for n in sources[source] if source in siblings and handed_out(source, n)]
        if far := [name for name in sources[source] if name not in near]:
            groups[group].extend(from_lines(source, far))
        if near:
            groups[2].extend(from_lines(source.rpartition(".")[2], near))
    result: list[str] = []
    for lines in groups:
        result += ["", *lines] if lines else []
    return result


def handed_out(module: str, name: str) -> bool:
    """Say whether a file of an assignment has a name: all but helpers that no exercise asks for.

    >>> handed_out("minqwen.layers.linear", "linear_forward")
    True
    >>> handed_out("minqwen.layers.attention", "group_heads")
    False
    """
    tree = ast.parse(source_of(module))
    helpers = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    return name.partition(" ")[0] not in helpers - asked_for(module)


@cache
def asked_for(module: str) -> set[str]:
    """Return the functions of a file that some exercise asks for."""
    ladder = {part.spec: set(part.functions) for one in LADDER for part in one.parts}
    here = [name for name in concepts() if spec(name).module == module]
    return set().union(*(ladder.get(name) or called(name) for name in here))


def from_lines(source: str, names: list[str]) -> list[str]:
    """Return `from source import names`, on several lines where one is too long."""
    line = f"from {source} import {', '.join(names)}"
    if len(line) <= WIDTH - 2:  # it may become a comment
        return [line]
    return [f"from {source} import (", *(f"    {name}," for name in names), ")"]
