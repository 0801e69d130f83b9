"""A student's notebook as a file of Python: only what defines something is taken over.

Imports, functions, classes and simple constants are, in the order of the cells; what plots, trains
or prints is not, so forgotten experiments and cells that are there twice do no harm. Nor are
imports that nothing needs any more: the grader has no google.colab. What a function needs for
plots, say, may be missing too, as long as it is not called. A cell that is no Python is left out,
and named.
"""

from __future__ import annotations

import ast
import json
import re
import sys
import textwrap

from .file_imports import used_names
from .source_text import names_of, parsed, shown

# packages for looking at things, which functions do not compute with
LOOKS = (
    *("matplotlib", "seaborn", "plotly", "bokeh", "altair", "pandas", "tqdm", "IPython"),
    *("ipywidgets", "google", "wandb", "tensorboard"),
)
PYTHON_BELOW = re.compile(r"%%(time|capture|prun)\b|%%(writefile|file)\s.*\.py\s*$")
MAGIC = re.compile(r"[\w.]+\?{1,2}\s*$|[\w, ]+=\s*[!%]")
PACKAGE = __name__.partition(".")[0]


def of_notebook(text: str, place: str) -> tuple[str | None, list[str]]:
    """Return the definitions of a notebook as the text of a file, and notes on what was dropped."""
    try:
        cells = json.loads(text)["cells"]
        sources = [
            cell["source"] if isinstance(cell["source"], str) else "".join(cell["source"])
            for cell in cells
            if cell["cell_type"] == "code"
        ]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        return None, [f"{shown(place)} is no notebook ({type(error).__name__}): left out"]
    parts, notes, defined = [], [], set[str]()
    for number, source in enumerate(sources, 1):
        source = without_magics(source)
        try:
            body = parsed(source).body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            line = getattr(error, "lineno", None)
            where = f"line {line}: {getattr(error, 'msg', error)}" if line else str(error)
            notes.append(f"{shown(place)}, code cell {number}, {where}: the cell is left out")
            continue
        lines = source.splitlines()
        for node in body:
            if is_definition(node):
                start = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
                parts.append(("\n".join(lines[start - 1 : node.end_lineno]), node))
                defined |= names_of(node)
    # a neighbour's file is not needed for what stands in the notebook itself
    parts = [(t, n) for t, n in parts if not tool_import(n)]
    parts = [(t, n) for t, n in parts if not own_import(n, defined)]
    used = {name for _, node in parts if not is_import(node) for name in used_names(node)}
    kept = [may_be_missing(t, n) for t, n in parts if is_needed(n, used)]
    # Python wants this first, wherever the cell stood
    future = [t for t in kept if t.startswith("from __future__")]
    return "\n\n\n".join([*future, *(t for t in kept if t not in future)]) + "\n", notes


def is_import(node: ast.stmt) -> bool:
    """Say whether a statement imports something."""
    return isinstance(node, (ast.Import, ast.ImportFrom))


def packages_of(node: ast.stmt) -> set[str]:
    """Return the packages that a statement imports from; "" is the folder of the file."""
    if isinstance(node, ast.ImportFrom):
        return {"" if node.level else (node.module or "").partition(".")[0]}
    return {a.name.partition(".")[0] for a in node.names} if isinstance(node, ast.Import) else set()


def is_needed(node: ast.stmt, used: set[str]) -> bool:
    """Say whether a statement must be kept: an import of a package must only if it is used.

    >>> plots, plain = ast.parse("import matplotlib.pyplot as plt; import os").body
    >>> is_needed(plots, {"np"}), is_needed(plots, {"plt"}), is_needed(plain, set())
    (False, True, True)
    """
    if not isinstance(node, (ast.Import, ast.ImportFrom)):
        return True
    if packages_of(node) <= {*sys.stdlib_module_names, "numpy", PACKAGE}:
        return True
    bound = {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
    return bool(bound & {*used, "*"})


def may_be_missing(text: str, node: ast.stmt) -> str:
    """Return a statement as it is, but an import for plots and the like so that it may fail."""
    if not packages_of(node) & set(LOOKS):
        return text
    if isinstance(node, ast.Import) and len(node.names) > 1:  # numpy may stand beside it
        each = [ast.Import([alias]) for alias in node.names]
        return "\n".join(may_be_missing(ast.unparse(one), one) for one in each)
    return f"try:\n{textwrap.indent(text, '    ')}\nexcept ImportError:\n    pass"


def tool_import(node: ast.stmt) -> bool:
    """Say whether a statement imports what the checks of a notebook need, not its functions.

    >>> [tool_import(node) for node in ast.parse("import otter; import numpy").body]
    [True, False]
    """
    names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
    names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
    return any(name.startswith(("otter", "nbgrader", f"{PACKAGE}.course")) for name in names)


def own_import(node: ast.stmt, defined: set[str]) -> bool:
    """Say whether this imports only what is defined in the notebook too."""
    if not isinstance(node, ast.ImportFrom):
        return False
    local = node.level == 0 and node.module is not None and "." not in node.module
    return local and node.module != "__future__" and all(a.name in defined for a in node.names)


def without_magics(source: str) -> str:
    """Turn IPython's own lines into comments; a cell in another language becomes nothing.

    A cell that is only timed, or written to a file of Python, is Python below its first line.

    >>> without_magics("%matplotlib inline\\n!pip install x\\nx = 1")
    '# %matplotlib inline\\n# !pip install x\\nx = 1'
    """
    if source.lstrip().startswith("%%"):
        first, _, source = source.lstrip().partition("\n")
        if not PYTHON_BELOW.match(first):
            return ""
    lines = []
    for line in source.splitlines():
        plain = line.lstrip()
        if plain.startswith(("%", "!", "?")) or MAGIC.match(plain):
            indent = line[: len(line) - len(plain)]
            line = f"{indent}pass  # {plain}" if indent else f"# {plain}"
        lines.append(line)
    return "\n".join(lines)


def is_definition(node: ast.stmt) -> bool:
    """Say whether a statement of a notebook is taken over.

    >>> [is_definition(node) for node in ast.parse("EPS = 1e-6\\nx = f(1)\\nprint(x)").body]
    [True, False, False]
    """
    if isinstance(node, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)):
        return True
    if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
        return is_simple(node.value) and bool(names_of(node))
    return False


SIMPLE = (
    *(ast.Constant, ast.Tuple, ast.List, ast.Dict, ast.Set, ast.Name, ast.Attribute),
    *(ast.UnaryOp, ast.BinOp, ast.Subscript, ast.operator, ast.unaryop, ast.expr_context),
)


def is_simple(value: ast.expr) -> bool:
    """Say whether a value is numbers, texts and names, without a call."""
    return all(isinstance(part, SIMPLE) for part in ast.walk(value))
