"""Is a function ours, with other names? And which tricks stand in a file? Notes for the staff.

Our solutions are public, so copying them cannot be prevented, only noticed: two functions are the
same when their syntax trees are, with local names numbered in the order in which they come, and
docstrings, annotations and comments left out. Short functions agree by honest chance; so only those
with more than 40 parts are looked at. A course that wants more gives a variant (variants.py).
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator

from ..check.edited import source_of
from ..check.specs import spec as spec_of
from .assignment import Assignment
from .cut import varied_source
from .exercise import Part, file_of_module
from .source_text import parsed
from .submission import Submission

FEWEST_NODES = 40
OTHERS = (
    "torch",
    "jax",
    "tensorflow",
    "cupy",
    "keras",
    "transformers",
    "flax",
    "mlx",
    "tokenizers",
)
CALLS = ("__import__", "exec", "eval", "compile")
MODULES = (
    *("importlib", "inspect", "ctypes", "gc", "subprocess", "socket", "multiprocessing", "pickle"),
    *("marshal", "zipimport", "pkgutil", "runpy", "threading", "signal", "atexit"),
)
PATCHED = ("np", "numpy", "sys", "os", "builtins")
ATTRIBUTES = ("_exit", "_getframe", "settrace", "setprofile", "getsource", "get_objects", "fork")


def copied_functions(submission: Submission, assignment: Assignment, part: Part) -> list[str]:
    """Return which functions of a part are ours up to names.

    Args:
        submission: the student's.
        assignment: whose variants count as ours too.
        part: the functions to look at.
    """
    module = spec_of(part.spec).module
    ours = [source_of(module), varied_source(module, assignment.variants)]
    found = []
    for name in part.functions:
        file = submission.home_of(name, file_of_module(module))
        if file is None or file in submission.broken:
            continue
        theirs = function_of(parsed(submission.files[file]), name)
        if theirs is None or size_of(theirs) <= FEWEST_NODES:
            continue
        shape = shape_of(theirs)
        for text in ours:
            function = function_of(parsed(text), name)
            if function is not None and shape_of(function) == shape:
                found.append(name)
                break
    return found


def function_of(tree: ast.Module, name: str) -> ast.FunctionDef | None:
    """Return the last function of this name at the top of a file."""
    found = None
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            found = node
    return found


def size_of(function: ast.FunctionDef) -> int:
    """Return how many parts the body of a function has."""
    return sum(1 for statement in code_of(function) for _ in ast.walk(statement))


def code_of(function: ast.FunctionDef) -> list[ast.stmt]:
    """Return the body without the docstring."""
    return function.body[1:] if ast.get_docstring(function) is not None else function.body


def shape_of(function: ast.FunctionDef) -> str:
    """Return the function with local names numbered: equal for functions that differ in names.

    >>> texts = ("def f(x): return x + 1", "def g(y): return y+1  # the same")
    >>> one, two = (ast.parse(text).body[0] for text in texts)
    >>> shape_of(one) == shape_of(two)
    True
    """
    arguments = function.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    taken = [one.arg for one in (*every, arguments.vararg, arguments.kwarg) if one is not None]
    names = {name: number for number, name in enumerate(taken)}
    for statement in code_of(function):
        for node in ordered(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.setdefault(node.id, len(names))
            elif isinstance(node, ast.arg):
                names.setdefault(node.arg, len(names))
            elif isinstance(node, ast.Attribute) and getattr(node.value, "id", "") in taken:
                names.setdefault(f".{node.attr}", len(names))  # of a cache, with names of its own
    return " ".join(part for statement in code_of(function) for part in written(statement, names))


def ordered(node: ast.AST) -> Iterator[ast.AST]:
    """Yield a node and all below it, in the order of the text."""
    yield node
    for child in ast.iter_child_nodes(node):
        yield from ordered(child)


def written(node: ast.AST, names: dict[str, int]) -> Iterator[str]:
    """Yield a tree as words, with numbers for local names."""
    yield f"({type(node).__name__}"
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "type_comment", "ctx", "kind"):
            continue
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, ast.AST):
                yield from written(one, names)
            elif isinstance(one, str) and field in ("id", "arg") and one in names:
                yield f"{field}={names[one]}"
            elif isinstance(one, str) and field == "attr" and f".{one}" in names:
                yield f"{field}={names[f'.{one}']}"
            elif one is not None:
                yield f"{field}={one!r}"
    yield ")"


def tricks(submission: Submission, given: Collection[str] = ()) -> list[str]:
    """Return notes on what stands in the files and is seldom needed, with file and line.

    Args:
        submission: the student's.
        given: modules of minqwen that the handout itself imports.

    >>> tricks(Submission("s", {"a.py": "import torch"}))
    ['a.py, line 1: imports torch']
    """
    notes = []
    for file, text in submission.files.items():
        if file in submission.broken:
            continue
        try:
            found = sorted(
                of_tree(parsed(text), given), key=lambda one: ("minqwen" not in one[1], one)
            )
        except RecursionError:
            found = [(0, "is nested too deeply to be looked at")]
        notes += [f"{file}, line {line}: {says}" for line, says in dict.fromkeys(found)][:20]
    return notes


def of_tree(tree: ast.Module, given: Collection[str]) -> Iterator[tuple[int, str]]:
    """Yield line and words for everything that is worth a look."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
            )
            for name in names:
                top = name.partition(".")[0]
                if top in (*OTHERS, *MODULES) or (top == "minqwen" and name not in given):
                    yield node.lineno, f"imports {name}"
        elif isinstance(node, ast.Call):
            function = node.func
            if isinstance(function, ast.Name) and function.id in CALLS:
                yield node.lineno, f"calls {function.id}"
            elif isinstance(function, ast.Name) and function.id == "open":
                yield node.lineno, "opens a file"
        elif isinstance(node, ast.Attribute) and node.attr in ATTRIBUTES:
            yield node.lineno, f"uses {node.attr}"
        elif isinstance(node, (ast.Assign, ast.AugAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                match target:
                    case ast.Attribute(value=ast.Name(id=module), attr=name) if module in PATCHED:
                        yield node.lineno, f"puts something in the place of {module}.{name}"
