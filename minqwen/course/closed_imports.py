"""What of minqwen a student's code may import in an exercise, and what becomes of the rest.

    allowed    what the exercise's own file imports, as long as nothing there leads to the answer
    hollow     the answer, and what the other exercises of the assignment may import: every name can
               be imported and none be used, so that a file that holds several exercises can be
               read while one of them is graded; some of those files compute the answer otherwise
    others     cannot be imported at all; what was imported before is forgotten

That is Python's side; that the files cannot be read either is guards.py's matter.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGE = __name__.partition(".")[0]


@lru_cache
def imported_by(module: str) -> tuple[str, ...]:
    """Return the modules of minqwen that a module's file imports, wherever in the file.

    >>> imported_by("minqwen.layers.swiglu")
    ('minqwen.backend', 'minqwen.layers.linear', 'minqwen.shapes')
    """
    found: list[str] = []
    package = module.split(".")[:-1]
    for node in ast.walk(ast.parse(Path(file_of(module)).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            found += [name, *(f"{name}.{alias.name}" for alias in node.names)]
    ours = {name for name in found if name.startswith(f"{PACKAGE}.")}
    return tuple(sorted(name for name in ours if is_module(name)))


@lru_cache
def is_module(name: str) -> bool:
    """Say whether there is a file of minqwen of this name: a package has nothing in it."""
    place = Path(__file__).parents[1].joinpath(*name.split(".")[1:])
    return place.with_suffix(".py").is_file()


def file_of(module: str) -> str:
    """Return the file of a module of minqwen."""
    return str(Path(__file__).parents[1].joinpath(*module.split(".")[1:]).with_suffix(".py"))


def reached_from(modules: Iterable[str]) -> set[str]:
    """Return the modules of minqwen that these import, and those that they import, and so on."""
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        for name in imported_by(waiting.pop()):
            if name not in found:
                found.add(name)
                waiting.append(name)
    return found


def allowed_modules(answers: Sequence[str]) -> tuple[str, ...]:
    """Return what of minqwen a student may import in an exercise.

    Args:
        answers: the modules that hold the answer.

    >>> allowed_modules(["minqwen.layers.swiglu"])
    ('minqwen.backend', 'minqwen.layers.linear', 'minqwen.shapes')
    """
    given = reached_from(answers) - set(answers)
    return tuple(sorted(name for name in given if not reached_from([name]) & set(answers)))


class Hollow:
    """What stands for a function of a file that holds the answer: it can be named, not used."""

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __call__(self, *given: Any, **named: Any) -> Any:
        """Refuse."""
        raise ImportError(f"{self.__name__} may not be used in this exercise: write it yourself")


def hollow_module(name: str) -> ModuleType:
    """Return a module in which every name can be imported and none be used.

    So a file that holds several exercises can be read while one of them is graded.

    >>> hollow_module("minqwen.layers.rope").f(1)
    Traceback (most recent call last):
    ...
    ImportError: minqwen.layers.rope.f may not be used in this exercise: write it yourself
    """
    module = ModuleType(name)

    def look_up(attribute: str) -> Hollow:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        return Hollow(f"{name}.{attribute}")

    module.__dict__["__getattr__"] = look_up
    return module


def close_imports(allowed: Sequence[str], hollow: Sequence[str]) -> None:
    """Let nothing of minqwen be imported any more but these modules, for good.

    Args:
        allowed: they are as they are.
        hollow: see hollow_module.
    """
    forget_modules([*allowed, *hollow])
    for name in hollow:
        parent, _, last = name.rpartition(".")
        sys.modules[name] = hollow_module(name)
        setattr(sys.modules[parent], last, sys.modules[name])
    sys.addaudithook(import_hook(allowed))


def forget_modules(allowed: Sequence[str]) -> None:
    """Take minqwen's modules out of what has been imported, but those that are allowed."""
    packages = {name.rpartition(".")[0] for name in allowed}
    packages |= {package.rpartition(".")[0] for package in packages} | {PACKAGE}
    for name in [n for n in sys.modules if n.partition(".")[0] == PACKAGE]:
        if name not in packages and name not in allowed:
            module = sys.modules.pop(name)
            parent, _, last = name.rpartition(".")
            if vars(sys.modules.get(parent, module)).get(last) is module:
                delattr(sys.modules[parent], last)


def import_hook(allowed: Sequence[str]) -> Any:
    """Return an audit hook that lets no other module of minqwen be imported."""
    names = {*allowed, PACKAGE, *(name.rpartition(".")[0] for name in allowed)}

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "import":
            name = str(arguments[0])
            if name.partition(".")[0] == PACKAGE and name not in names:
                raise ImportError(f"{name} may not be imported in this exercise", name=name)

    return hook
