"""What `minqwen assign` makes sure of before anybody sees the folder.

stubs        every function to be written raises, and no import is left over
secrets      no line of a removed body and no hidden seed stands in what students get
same bytes   made again from the same assignment, every file is the same
points       the solution earns all of them, the stubs none
"""

from __future__ import annotations

import ast
import io
import json
import tempfile
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .assignment import Assignment
from .cut import raising, removed_lines
from .exercise import file_of_module
from .file_imports import imported, used_names

FEW_TOKENS = 8  # so short a line of code may stand anywhere: `xp = array_module(x)`


def self_check(
    out: Path,
    assignment: Assignment,
    writers: list[Callable[[Assignment, Path], Any]],
    say: Callable[[str], None] = lambda line: None,
) -> list[str]:
    """Return what is wrong with a folder that was just written; an empty list if nothing is.

    Args:
        out: holds student/ and staff/.
        assignment: with its hidden seed.
        writers: everything that wrote into the folder, to be done again.
        say: told what is being done.
    """
    say("checking: stubs, secrets, same bytes")
    problems = [
        *stub_problems(out / "student", assignment),
        *secret_problems(out / "student", assignment),
        *repeat_problems(out, assignment, writers),
    ]
    if problems:
        return problems  # what is wrong there would only be found again
    say("grading: the solution, then the stubs")
    return list(point_problems(out, assignment))


def stub_problems(student: Path, assignment: Assignment) -> Iterator[str]:
    """Yield what is wrong with the stubs as code."""
    for module in assignment.modules:
        file = student / file_of_module(module)
        tree = ast.parse(file.read_text(encoding="utf-8"))
        functions = {n.name: n for n in tree.body if isinstance(n, ast.FunctionDef)}
        for name in assignment.functions_in(module):
            body = functions[name].body if name in functions else []
            if not body or ast.unparse(body[-1]) != ast.unparse(ast.parse(raising(name).strip())):
                yield f"{file.name}: {name} does not raise"
            if len(body) != 1 + (
                name in functions and ast.get_docstring(functions[name]) is not None
            ):
                yield f"{file.name}: {name} has a body"
        used = used_names(tree)
        for one in imported(tree, "student"):
            if one.known_as not in used and one.name != "numpy":
                yield f"{file.name}: {one.known_as} is imported and not used"


def secret_problems(student: Path, assignment: Assignment) -> Iterator[str]:
    """Yield what students could read and must not."""
    secret = {
        line
        for module in assignment.modules
        for line in removed_lines(module, assignment.functions_in(module), assignment.variants)
        if tokens(line) >= FEW_TOKENS
    }
    for path in sorted(path for path in student.rglob("*") if path.is_file()):
        text = "\n".join(strings_of(path))
        for line in text.splitlines():
            if line.partition("  # ")[0].strip() in secret:
                yield f"{path.name} holds a line of the solution: {line.strip()!r:.60}"
        if assignment.hidden_seed is not None and str(assignment.hidden_seed) in text:
            yield f"{path.name} holds the hidden seed"


def strings_of(path: Path) -> Iterator[str]:
    """Yield the text of a file; of JSON, such as a notebook, every text in it."""
    text = path.read_text(encoding="utf-8", errors="replace")
    yield text
    if path.suffix in (".json", ".ipynb"):
        yield from _strings(json.loads(text))


def _strings(data: Any) -> Iterator[str]:
    if isinstance(data, str):
        yield data
    elif isinstance(data, dict):
        for item in data.items():
            yield from _strings(list(item))
    elif isinstance(data, list):
        if all(isinstance(item, str) for item in data):
            yield "".join(data)  # the source of a cell, line by line
        for item in data:
            yield from _strings(item)


def tokens(line: str) -> int:
    """Count the tokens of a line of code.

    >>> tokens("y = (x * r) + 1")
    9
    """
    count = 0
    try:
        for token in tokenize.generate_tokens(io.StringIO(line).readline):
            count += bool(token.string.strip()) and token.type != tokenize.COMMENT
    except (tokenize.TokenError, IndentationError):
        pass  # the line is a part of a longer one: what came was counted
    return count


def repeat_problems(
    out: Path, assignment: Assignment, writers: list[Callable[[Assignment, Path], Any]]
) -> Iterator[str]:
    """Yield what is not the same when everything is made once more."""
    with tempfile.TemporaryDirectory(prefix="minqwen-assign-") as name:
        again = Path(name)
        for write in writers:
            write(assignment, again)
        first, second = files_of(out), files_of(again)
        for path in sorted(first.keys() | second.keys()):
            if first.get(path) != second.get(path):
                yield f"{path} is not the same when it is made again"


def files_of(folder: Path) -> dict[str, bytes]:
    """Return all files below a folder: path -> bytes."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def point_problems(out: Path, assignment: Assignment) -> Iterator[str]:
    """Yield the rows in which the solution lacks points, or the stubs have some."""
    from .grade import grade

    solution = grade(out / "staff" / "solution", assignment)
    for row in solution.rows:
        if row.points != row.max_points:
            yield f"the solution earns {row.points} of {row.max_points}: {row.name}: {row.says}"
    if round(solution.max_points, 6) != assignment.points:
        yield f"the rows sum to {solution.max_points} points, not {assignment.points}"
    for row in grade(out / "student", assignment).rows:
        if row.points:
            yield f"the stubs earn {row.points} points: {row.name}"
