"""A student's file is asked as our own would be: by the adapter of the concept.

The bank's file of a concept knows how a copy of our file is asked: `run(m, a)` gives the outputs
and `pull(m, a, dy)` the gradients, whatever functions of m that takes. Here m is the student's.

    grader                                    process of the student's code
    text of run and pull, from adapter.py --> runs that text, then the student's files
    inputs                               ---> run(m, a), pull(m, a, dy)
                                         <--- plain numbers

m is not quite the student's module: it finds each function by its name in whichever file has it,
says in one sentence what is missing, and falls back on our file, without the answers, for what was
given.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ..backend import Array
from ..check.outside.messages import Problem, Reply
from ..check.outside.user_file import Trouble, run_file
from ..check.outside.user_function import Begun, UserFunction
from .closed_imports import close_imports

LOAD, TAKE = f"{__name__}:load", f"{__name__}:take_adapter"
_ADAPTER: dict[str, Any] = {"__name__": "adapter"}  # in the process of the student's code


class StudentModule:
    """The m of an adapter: every name is looked up in the student's files.

    Args:
        modules: the student's files, that of the exercise first.
        homes: function that was to be written -> the module that has it.
        tuples: see tuple_lengths.
        given: reads our file without the answers, for what the student need not write.
        file: how the exercise's file is called, for messages.
    """

    def __init__(
        self,
        modules: Sequence[ModuleType],
        homes: dict[str, ModuleType | None],
        tuples: dict[str, tuple[int, str]],
        given: Callable[[], ModuleType | None],
        file: str,
    ) -> None:
        self.modules_, self.homes_, self.tuples_ = modules, homes, tuples
        self.given_, self.file_ = given, file
        self.between: Callable[[], object] | None = None  # called once, before a backward

    def __getattr__(self, name: str) -> Any:
        """Return what the student calls so."""
        if name in self.homes_:
            found = getattr(self.homes_[name], name, None)
            if found is None:
                raise Trouble("missing function", f"{self.file_} has no function {name}")
            if not callable(found) or isinstance(found, type):
                kind = "class" if isinstance(found, type) else type(found).__name__
                says = f"{name} is a {kind}, not a function: write it as `def {name}(...)`"
                raise Trouble("missing function", says)
            return self.watched(name, found)
        for module in self.modules_:
            if hasattr(module, name):
                return getattr(module, name)
        given = self.given_()
        if given is None or not hasattr(given, name):
            raise Trouble("missing function", f"{self.file_} has no function {name}")
        return getattr(given, name)

    def watched(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that says so when it does not return as many values as it must."""

        def call(*given: Any, **named: Any) -> Any:
            if "backward" in name and self.between is not None:
                between, self.between = self.between, None
                between()
            result = function(*given, **named)
            if name in self.tuples_:
                count, written = self.tuples_[name]
                if not isinstance(result, (tuple, list)) or len(result) != count:
                    got = "nothing" if result is None else f"a {type(result).__name__}"
                    got += f" of {len(result)}" if isinstance(result, (tuple, list)) else ""
                    raise Trouble("wrong type", f"{name} returned {got}; it must return {written}")
            return result

        return call


class ModuleFunction(UserFunction):
    """Whole files of a student, asked through an adapter as one function of the concept.

    Args:
        student: the m of the adapter.
        run, pull: of the adapter.
        names: of the arguments, in order.
        outputs: names of the outputs.
        titles: what forward and backward are called in messages.
        files: the student's files.
    """

    def __init__(
        self,
        student: StudentModule,
        run: Callable[..., Any],
        pull: Callable[..., Any] | None,
        *,
        names: Sequence[str],
        outputs: Sequence[str],
        titles: tuple[str, str],
        files: Sequence[str],
    ) -> None:
        def forward(*values: Any) -> Any:
            found = tuple(run(student, dict(zip(names, values, strict=True))))
            return found if len(found) > 1 else found[0]

        def backward(*values: Any) -> Any:
            *values_, dy = values
            dys = dy if isinstance(dy, tuple) else (dy,)
            assert pull is not None
            return pull(student, dict(zip(names, values_, strict=True)), dys)

        forward.__qualname__, backward.__qualname__ = titles
        super().__init__(forward, backward if pull else None, outputs=outputs, files=files)
        self.files = [os.path.realpath(file) for file in files]
        self.student, self.asked = student, list[dict[str, Any]]()

    def twice(
        self,
        arguments: Sequence[dict[str, Any]],
        dys: Sequence[tuple[Array, ...]],
        dtype: str = "float64",
    ) -> tuple[Reply, ...]:
        """Call forward and backward for each; with two, the other forward comes between them."""
        self.asked = list(arguments)
        return super().twice(arguments, dys, dtype)

    def _finish(
        self,
        begun: Begun,
        arguments: dict[str, Any],
        dys: tuple[Array, ...],
        dtype: str,
        changed: list[str],
    ) -> dict[str, Array | None]:
        others = [one for one in self.asked if one is not arguments]
        if others:
            other = [self._hand(name, x, dtype, False, []) for name, x in others[0].items()]
            self.student.between = lambda: self.call_forward(*other)
        try:
            return super()._finish(begun, arguments, dys, dtype, changed)
        finally:
            self.student.between = None

    def _call_backward(self, begun: Begun, values: dict[str, Any], dys: tuple[Any, ...]) -> Any:
        assert self.call_backward is not None
        return self.call_backward(*values.values(), dys if len(dys) > 1 else dys[0])

    def _problem(self, run: Callable[[], object], function: Any) -> Problem | None:
        problem = super()._problem(run, function)
        if problem is not None and os.path.basename(__file__) in problem.where:
            return problem._replace(where="")  # our own line says nothing
        return problem


def take_adapter(given: dict[str, Any]) -> list[str]:
    """Run the adapter, which may import what the student's code may not."""
    exec(compile(given["text"], __file__, "exec"), _ADAPTER)
    return []


def load(given: dict[str, Any]) -> ModuleFunction:
    """Run the adapter and the student's files; this is called in their process.

    Args:
        given: what ask.py wrote.

    Raises:
        Trouble: a file of theirs cannot be run.
    """
    close_imports(given["allowed"], given["hollow"])
    modules = {}
    for place, path in given["files"].items():
        modules[place] = run_file(Path(path), place)
    ours: list[ModuleType] = []

    def fall_back() -> ModuleType | None:
        if given["given"] and not ours:
            ours.append(run_file(Path(given["given"]), "the given file"))
        return ours[0] if ours else None

    student = StudentModule(
        list(modules.values()),
        {name: modules.get(place) for name, place in given["homes"].items()},
        {name: (count, written) for name, (count, written) in given["tuples"].items()},
        fall_back,
        given["file"],
    )
    return ModuleFunction(
        student,
        _ADAPTER[given["run"]],
        _ADAPTER[given["pull"]] if given["pull"] else None,
        names=given["names"],
        outputs=given["outputs"],
        titles=tuple(given["titles"]),
        files=[*given["files"].values()],
    )
