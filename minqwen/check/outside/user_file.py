"""A stranger's file: find it, run it, and say in one sentence what went wrong in it."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import linecache
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from .messages import Problem, clean

_HERE = str(Path(__file__).parents[1]) + os.sep
# the words of the libraries when memory is short; their errors are not MemoryErrors
_SHORT_OF_MEMORY = ("not enough memory", "can't allocate memory", "out of memory", "RESOURCE_EXH")


class Trouble(Exception):
    """Carries a Problem to where a Reply is made of it."""

    def __init__(self, kind: str, says: str, where: str = "") -> None:
        super().__init__(says)
        self.problem = Problem(kind, clean(says), clean(where))


def split_target(target: str) -> tuple[str, str]:
    """Split "FILE.py:FUNCTION" into the file, or module, and the function.

    >>> split_target("C:\\\\hw\\\\rms.py:Norm.forward"), split_target("hw.py")
    (('C:\\\\hw\\\\rms.py', 'Norm.forward'), ('hw.py', ''))
    """
    place, _, name = target.rpartition(":")
    if place and all(part.isidentifier() for part in name.split(".")):
        return place, name
    return target, ""


def is_file(place: str) -> bool:
    """Say whether the first part of a target names a file, not a module.

    >>> is_file("rms.py"), is_file("minqwen.layers.rmsnorm")
    (True, False)
    """
    return place.endswith((".py", ".ipynb")) or "/" in place or os.sep in place


def load_function(target: str) -> Callable[..., Any]:
    """Run a stranger's file and return its function.

    The folder of the file comes first on sys.path, as with `python FILE.py`; for a module it is
    the current folder.

    Args:
        target: "FILE.py:FUNCTION" or "package.module:FUNCTION"; FUNCTION may have dots.

    Raises:
        Trouble: there is no such file or function, or the file cannot be run.

    >>> load_function("math:sqrt")(4.0)
    2.0
    >>> load_function("no_such.py:f")
    Traceback (most recent call last):
    ...
    minqwen.check.outside.user_file.Trouble: there is no file no_such.py
    """
    place, name = split_target(target)
    if is_file(place):
        path = Path(place)
        if path.suffix == ".ipynb":
            says = f"{path.name} is a notebook: save the function to a .py file"
            raise Trouble("missing file", says)
        if path.is_dir():
            raise Trouble("missing file", f"{place} is a folder, not a file")
        if not path.is_file():
            raise Trouble("missing file", f"there is no file {place}" + _near_file(path))
        module = run_file(path, place)
    else:
        sys.path.insert(0, os.getcwd())
        module = _guarded_import(lambda: importlib.import_module(place), "", place)
    found: Any = module
    for part in name.split("."):
        if not name or not hasattr(found, part):
            known = [k for k, v in vars(module).items() if callable(v) and not k.startswith("_")]
            mine = [k for k in known if getattr(module, k).__module__ == module.__name__]
            says = f"{place} has no function {name}" if name else f"no function of {place} is named"
            raise Trouble("missing function", f"{says}; it has {', '.join(mine) or 'none'}")
        found = getattr(found, part)
    if isinstance(found, type):
        says = f"{name} is a class: name a function that takes the arrays, or write one around it"
        raise Trouble("missing function", says)
    if not callable(found):
        says = f"{name} is a {type(found).__name__}, not a function"
        raise Trouble("missing function", says)
    function: Callable[..., Any] = found
    return function


def run_file(path: Path, place: str) -> ModuleType:
    """Run a stranger's file as a module; its folder comes first on sys.path.

    Args:
        path: of the file.
        place: what it is called in messages.

    Raises:
        Trouble: it cannot be run.
    """
    return _guarded_import(lambda: _run_file(path), str(path.resolve()), place)


def _near_file(path: Path) -> str:
    """Name a file of the folder that is spelled nearly so."""
    try:
        names = [p.name for p in path.parent.iterdir() if p.suffix == ".py" and p.is_file()]
    except OSError:
        return f", and no folder {path.parent}"
    near = difflib.get_close_matches(path.name, names, 1)
    return f"; is it {near[0]}?" if near else ""


def _run_file(path: Path) -> ModuleType:
    """Run a file as a module, under its own name where that is free."""
    path = path.resolve()
    for known in list(sys.modules.values()):  # forward and backward may stand in one file
        if getattr(known, "__minqwen_path__", None) == str(path):
            return known
    sys.path.insert(0, str(path.parent))
    name = path.stem if path.stem not in sys.modules else f"{path.stem}_under_test"
    loader = SourceFileLoader(name, str(path))
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    module.__dict__["__minqwen_path__"] = str(path)
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def _guarded_import(run: Callable[[], ModuleType], file: str, place: str) -> ModuleType:
    try:
        return run()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) and not file else None
        if missing and f"{place}.".startswith(f"{missing}."):
            raise Trouble("missing file", f"there is no module {place}") from None
        problem = problem_of(error, [file], place, loading=True)
        raise Trouble(*problem) from None


def problem_of(
    error: BaseException, files: Sequence[str], name: str, loading: bool = False
) -> Problem:
    """Say in one sentence what an exception of a stranger's code means.

    Args:
        error: what was raised.
        files: of the stranger, absolute.
        name: of the function, or of the file while it is loaded.
        loading: whether the file was being imported.

    >>> problem_of(ZeroDivisionError("division by zero"), [], "rmsnorm")
    Problem(kind='raised', says='rmsnorm raised ZeroDivisionError: division by zero', where='')
    """
    if isinstance(error, Trouble):
        return error.problem
    where = where_raised(error, files)
    when = "when imported" if loading else "when called"
    try:
        text = str(error)
    except Exception:  # their class, their __str__
        text = ""
    kind = type(error).__name__
    if isinstance(error, SystemExit):
        says = (
            f"{name} ends the program {when}: it calls exit({'' if error.code is None else text})"
        )
        return Problem("exited", clean(says), where)
    if isinstance(error, ModuleNotFoundError) and error.name:
        top = error.name.partition(".")[0]
        says = f"{name} needs the package {top}, which is not installed: pip install {top}"
        return Problem("missing package", clean(says), where)
    if isinstance(error, MemoryError) or any(words in text for words in _SHORT_OF_MEMORY):
        first = text.partition("\n")[0]
        says = f"{name} asks for more memory than it may have {when}" + (first and f": {first}")
        return Problem("out of memory", clean(says), where)
    if isinstance(error, SyntaxError) and loading:
        says = f"{name} is no valid Python: {error.msg}"
        if error.filename:
            where = f"{short_path(error.filename)}, line {error.lineno}"
        return Problem("import raised", clean(says), clean(where))
    begin = f"{name} cannot be imported: {kind}" if loading else f"{name} raised {kind}"
    says = begin + (text and f": {text}")
    if isinstance(error, EOFError) and "reading a line" in text:
        says = f"{name} waits for somebody to type (input); it gets everything as arguments"
    return Problem("import raised" if loading else "raised", clean(says), where)


def where_raised(error: BaseException, files: Sequence[str]) -> str:
    """Return the stranger's file and line where an exception passed last."""
    places = list(_places(error.__traceback__))
    ours = [p for p in places if os.path.realpath(p[0]) in files]
    folders = tuple(os.path.dirname(file) + os.sep for file in files if file)
    near = [p for p in places if folders and os.path.realpath(p[0]).startswith(folders)]
    others = [p for p in places if not p[0].startswith((_HERE, "<frozen"))]
    for found in (ours, near, others[:1]):
        if found:
            file, line = found[-1]
            source = linecache.getline(file, line).strip()
            return clean(f"{short_path(file)}, line {line}" + (source and f": {source}"))
    return ""


def _places(traceback: TracebackType | None) -> Iterator[tuple[str, int]]:
    while traceback is not None:
        yield traceback.tb_frame.f_code.co_filename, traceback.tb_lineno
        traceback = traceback.tb_next


def short_path(file: str) -> str:
    """Return a path as seen from the current folder, where it lies below it."""
    here = os.getcwd() + os.sep
    return file[len(here) :] if file.startswith(here) else file


def place_of(function: Any) -> str:
    """Return the file and line where a function begins."""
    try:
        code = inspect.unwrap(function).__code__
    except (AttributeError, ValueError):
        return ""
    return f"{short_path(code.co_filename)}, line {code.co_firstlineno}"
