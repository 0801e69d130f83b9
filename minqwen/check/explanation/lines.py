"""A function of ours line by line: what each line made, with its numbers.

The file is not copied and not changed: Python runs it as always and tells us before each line
(sys.settrace). What a line is, and which names it sets, is read from the syntax tree of the file.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import numpy as np

PACKAGE = Path(__file__).parents[2]
CONCEPTS = ("layers", "long_context", "model", "training", "alignment", "tokenizer", "data")
ROUNDS = 2  # how many rounds of a loop are kept


class Step(NamedTuple):
    """One line that was run, and what it made."""

    file: str
    function: str
    line: int
    code: tuple[str, ...]  # the line as it stands in the file, without its indentation
    values: dict[str, Any]  # by name
    round: int = 1  # which run of this line it is
    times: int = 1  # how often this line was run in all


class Statement(NamedTuple):
    """A statement of a file."""

    first: int
    last: int
    stored: frozenset[str]  # the names it sets
    body: range  # the lines of a loop, else empty
    unfilled: frozenset[str]  # the names of arrays that it makes without numbers


@lru_cache
def statements(file: str) -> tuple[tuple[str, ...], dict[int, Statement]]:
    """Return the lines of a file, and for each line number the innermost statement it is in."""
    text = Path(file).read_text(encoding="utf-8")
    found: dict[int, Statement] = {}
    for node in ast.walk(ast.parse(text)):  # from the outside inwards: inner ones win
        if isinstance(node, ast.stmt):
            last = node.end_lineno or node.lineno
            body = getattr(node, "body", None)
            targets: list[ast.AST] = [node]
            inside = range(0)
            if body:  # a loop or a condition: its first line only
                last = max(node.lineno, body[0].lineno - 1)
                targets = [t for t in (getattr(node, "target", None),) if t is not None]
            if isinstance(node, ast.For | ast.While):
                inside = range(node.body[0].lineno, (node.body[-1].end_lineno or 0) + 1)
            stored = frozenset(_stored(targets))
            statement = Statement(node.lineno, last, stored, inside, frozenset(_unfilled(node)))
            found.update(dict.fromkeys(range(node.lineno, last + 1), statement))
    return tuple(text.splitlines()), found


def _stored(nodes: list[ast.AST]) -> list[str]:
    """Return the names that are set, not those of a comprehension inside."""
    names = []
    for node in nodes:
        if isinstance(node, ast.comprehension | ast.Lambda):
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.append(node.id)
        names += _stored(list(ast.iter_child_nodes(node)))
    return names


def _unfilled(node: ast.stmt) -> list[str]:
    """Return the names that `xp.empty` and its like are assigned to."""
    if not isinstance(node, ast.Assign):
        return []
    target, value = node.targets[0], node.value
    pairs = [(target, value)]
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        pairs = list(zip(target.elts, value.elts, strict=False))
    return [t.id for t, v in pairs if isinstance(t, ast.Name) and "xp.empty" in ast.unparse(v)]


def watch(call: Callable[[], Any]) -> tuple[Any, list[Step]]:
    """Run call() and note every line of the functions of ours that it enters from the checker.

    Functions that those call in turn are one line, as in the file.

    Returns:
        What call() gave, and the lines in order.

    >>> from ...layers.rmsnorm import rmsnorm_forward
    >>> _, steps = watch(lambda: rmsnorm_forward(np.array([3.0, 4.0]), np.ones(2), 0.0))
    >>> steps[-1].code, steps[-1].values
    (('y = (x_wide * inv_rms) * widen(w)  # (..., D)',), {'y': array([0.84852814, 1.13137085])})
    """
    seen: list[Step] = []
    concepts = tuple(str(PACKAGE / name) for name in CONCEPTS)

    def enter(frame: FrameType, event: str, arg: Any) -> Any:
        code, caller = frame.f_code, frame.f_back
        wanted = (
            event == "call"
            and code.co_filename.startswith(concepts)
            and caller is not None
            and not caller.f_code.co_filename.startswith(concepts)
            and plain(code)
        )
        return Watcher(frame, seen).on if wanted else None

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        result = call()
    finally:
        sys.settrace(before)
    return result, _counted(seen)


def plain(code: CodeType) -> bool:
    """Say whether this is a function with a name: no lambda, comprehension or class body."""
    named = code.co_name.isidentifier() and not code.co_name.startswith("__")
    return named and bool(code.co_flags & inspect.CO_OPTIMIZED)


class Unfilled:
    """What stands for an array that was made without numbers: what is in it is left to chance."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def __repr__(self) -> str:
        """Return it in words."""
        return f"{self.shape}, not filled yet (nan)"


class Watcher:
    """What is known while one call of a function runs."""

    def __init__(self, frame: FrameType, seen: list[Step]) -> None:
        self.seen = seen
        self.file, self.function = frame.f_code.co_filename, frame.f_code.co_name
        self.lines, self.at = statements(self.file)
        self.before = {name: kept(value) for name, value in frame.f_locals.items()}
        self.now: Statement | None = None

    def on(self, frame: FrameType, event: str, arg: Any) -> Any:
        """Take one event of the frame: a line is about to run, or the function returns."""
        if event == "line":
            following = self.at.get(frame.f_lineno)
            if following != self.now:
                if self.now and self.now.body and frame.f_lineno not in self.now.body:
                    self.now = None  # the loop has ended: its line made nothing
                self.finish(frame.f_locals)
                self.now = following
        elif event == "return":
            self.finish(frame.f_locals)
            self.returned(arg, list(frame.f_locals.values()))
        return self.on

    def finish(self, names: dict[str, Any]) -> None:
        """Note what the statement that has just run has made."""
        if self.now is None:
            return
        made = {}
        for name, value in names.items():
            if name in self.now.stored or not same(self.before.get(name), value):
                made[name] = self.before[name] = kept(value)
                if name in self.now.unfilled and value.dtype.kind == "f":
                    value[...] = np.nan  # so that what is filled later can be told from the rest
                    self.before[name] = value.copy()
                    made[name] = Unfilled(value.shape)
        made = {name: x for name, x in made.items() if shown(x) and name != "_"}
        if made:
            self.note(self.now, made)

    def returned(self, result: Any, known: list[Any]) -> None:
        """Note a return that computes something: a number that no name stands for."""
        if self.now is None or not self.lines[self.now.first - 1].lstrip().startswith("return"):
            return
        several = isinstance(result, tuple) and not hasattr(result, "_fields")
        parts = {f"result[{i}]": x for i, x in enumerate(result)} if several else {"result": result}
        number = np.ndarray | np.generic | int | float
        new = {
            name: kept(x)
            for name, x in parts.items()
            if isinstance(x, number) and not any(same(old, x) for old in known)
        }
        if new:
            self.note(self.now, new)

    def note(self, statement: Statement, made: dict[str, Any]) -> None:
        """Add a line with what it made."""
        code = self.lines[statement.first - 1 : statement.last]
        indent = len(code[0]) - len(code[0].lstrip())
        text = tuple(line[indent:] for line in code)
        self.seen.append(Step(self.file, self.function, statement.first, text, made))


def kept(value: Any) -> Any:
    """Return the value as it is now: a copy of what a later line may change in place."""
    return value.copy() if isinstance(value, np.ndarray | list | dict | set) else value


def same(old: Any, new: Any) -> bool:
    """Say whether a name still stands for what it stood for."""
    if isinstance(new, np.ndarray):
        return (
            isinstance(old, np.ndarray)
            and old.shape == new.shape
            and old.dtype == new.dtype
            and old.tobytes() == new.tobytes()
        )
    if isinstance(new, list | dict | set | int | float | str):
        return type(old) is type(new) and bool(np.all(repr(old) == repr(new)))
    return old is new


def shown(value: Any) -> bool:
    """Say whether a value is worth printing: no module, function or type."""
    return value is not None and not (
        inspect.ismodule(value)
        or inspect.isroutine(value)
        or inspect.isclass(value)
        or inspect.isgenerator(value)
    )


def _counted(seen: list[Step]) -> list[Step]:
    """Keep the first rounds of every line, with the number of all."""
    times = Counter((step.file, step.line) for step in seen)
    so_far: Counter[tuple[str, int]] = Counter()
    result = []
    for step in seen:
        place = (step.file, step.line)
        so_far[place] += 1
        if so_far[place] <= ROUNDS:
            result.append(step._replace(round=so_far[place], times=times[place]))
    return result


class Described(NamedTuple):
    """What the text of a file says about its names."""

    docstring: str
    arguments: dict[str, dict[str, str]]  # by function: {"x": "(..., D) float, ..."}
    fields: dict[str, str]  # of its caches, from the comments


@lru_cache
def described(file: str) -> Described:
    """Read the docstrings of a file and the comments at the fields of its classes.

    >>> described(str(PACKAGE / "layers" / "rmsnorm.py")).fields["inv_rms"]
    '(..., 1) one number per vector, from which x_hat is cheap to redo'
    """
    text = Path(file).read_text(encoding="utf-8")
    tree, lines = ast.parse(text), text.splitlines()
    arguments: dict[str, dict[str, str]] = {}
    fields: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            arguments[node.name] = documented(ast.get_docstring(node) or "")
        elif isinstance(node, ast.ClassDef):
            for field in node.body:
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                    _, sign, comment = lines[field.lineno - 1].partition("  # ")
                    if sign:
                        fields.setdefault(field.target.id, comment.strip())
    return Described(ast.get_docstring(tree) or "", arguments, fields)


def documented(docstring: str) -> dict[str, str]:
    """Return what stands under `Args:`, by the name of the argument.

    >>> documented("Do it.\\n\\nArgs:\\n    a, b: (N,) float,\\n        both.\\n\\nReturns: c")
    {'a': '(N,) float, both.', 'b': '(N,) float, both.'}
    """
    _, found, part = docstring.partition("Args:\n")
    result: dict[str, str] = {}
    names: list[str] = []
    for line in part.splitlines() if found else ():
        if line.strip() and not line.startswith("    "):
            break
        if line.startswith("        "):
            for name in names:
                result[name] += " " + line.strip()
        elif ": " in line:
            left, _, says = line.strip().partition(": ")
            names = [name.strip() for name in left.split(",")]
            result.update(dict.fromkeys(names, says))
    return result
