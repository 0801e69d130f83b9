"""Functions asked in this process, as a Worker asks them in another: for the checks of notebooks.

What they print, warn of and raise is caught, and a call that hangs is stopped where the system has
alarms. There are no other walls: whoever wants to cheat can (see cells.py).
"""

from __future__ import annotations

import io
import re
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import numpy as np

from ..backend import Array
from ..check.edited import source_of
from ..check.outside.messages import Problem, Reply
from ..check.specs import spec as spec_of
from .adapter import tuple_lengths
from .ask import Attempt
from .aspects import VISIBLE
from .assignment import Assignment
from .cut import handout_source
from .exercise import Exercise, Part
from .graded_questions import ask_seeds
from .module_function import ModuleFunction, StudentModule


def ask_here(
    task: Assignment,
    one: Exercise,
    part: Part,
    namespace: dict[str, Any],
    aspect: str,
    seconds: float,
) -> Attempt:
    """Ask the functions of a namespace, in this process, what `minqwen grade` would ask them."""
    spec = spec_of(part.spec)
    function = Here(student_of(task, one, part, namespace), part, seconds)
    hidden_seed = None if aspect in VISIBLE else task.hidden_seed
    found = ask_seeds(spec, function, task.public_seed, hidden_seed, "minqwen-notebook")
    return Attempt(*found, (), ())


def student_of(
    task: Assignment, one: Exercise, part: Part, namespace: dict[str, Any]
) -> StudentModule:
    """Return the notebook as the module that the adapter of the concept is given."""
    module = spec_of(part.spec).module
    notebook = ModuleType("notebook")
    notebook.__dict__.update(namespace)
    ours: list[ModuleType] = []

    def fall_back() -> ModuleType:
        if not ours:
            text = handout_source(module, one.functions_in(module), (), task.variants)
            ours.append(ModuleType("given"))
            exec(compile(text, "given", "exec"), ours[0].__dict__)
        return ours[0]

    return StudentModule(
        [notebook],
        {name: notebook if callable(namespace.get(name)) else None for name in part.functions},
        tuple_lengths(source_of(module), part.functions),
        fall_back,
        "the notebook",
    )


class Hung(BaseException):
    """A call took too long; no `except Exception` of a student catches it."""


class Here:
    """Functions that are asked in this process: a Worker without a process.

    Args:
        student: the module that the adapter is given.
        part: its functions.
        seconds: limit on one call.
    """

    def __init__(self, student: StudentModule, part: Part, seconds: float) -> None:
        spec = spec_of(part.spec)
        by_hand = [name for name in part.functions if "backward" in name]
        self.seconds, self.name = seconds, part.functions[0]
        self.function = ModuleFunction(
            student,
            spec.run,
            spec.pull,
            names=spec.arguments,
            outputs=spec.outputs,
            titles=(part.functions[0], (by_hand or part.functions)[0]),
            files=cell_files(student, part),
        )
        self.files = {Path(file).name for file in self.function.files[:-2]}

    def forward(self, arguments: dict[str, Any], dtype: str = "float64") -> Reply:
        """Call forward; see Worker.forward."""
        return self.call(lambda: (self.function.forward(arguments, dtype),), 1)[0]

    def backward(
        self, arguments: dict[str, Any], dys: tuple[Array, ...], dtype: str = "float64"
    ) -> Reply:
        """Call forward and backward; see Worker.backward."""
        return self.call(lambda: (self.function.backward(arguments, dys, dtype),), 1)[0]

    def twice(
        self,
        arguments: Sequence[dict[str, Any]],
        dys: Sequence[tuple[Array, ...]],
        dtype: str = "float64",
    ) -> tuple[Reply, ...]:
        """Call all forwards before all backwards; see Worker.twice."""
        return self.call(lambda: self.function.twice(arguments, dys, dtype), len(arguments))

    def call(self, run: Callable[[], tuple[Reply, ...]], count: int) -> tuple[Reply, ...]:
        """Run something of the student's, with what it prints caught and a limit on the clock."""
        printed, start = io.StringIO(), time.perf_counter()
        try:
            with redirect_stdout(printed), redirect_stderr(printed), alarm(self.seconds) as rang:
                replies = run()
        except Hung:
            replies = (Reply(),) * count
        if rang:
            says = f"{self.name} did not end within {self.seconds:g} s: stopped"
            return (Reply(problem=Problem("hung", says)),) * count
        text, took = printed.getvalue()[:4000], time.perf_counter() - start
        return tuple(
            replace(one, printed=text, seconds=took, problem=self.shown(one.problem))
            for one in replies
        )

    def shown(self, problem: Problem | None) -> Problem | None:
        """Name a line by the function that it stands in, not by the kernel's temporary file."""
        if problem is None:
            return None
        where = re.sub(r"^.*?([^/\\]*), line (\d+)", self.place, problem.where)
        return problem._replace(where=where)

    def place(self, found: re.Match[str]) -> str:
        """Return where a line is."""
        return f"line {found[2]} of its cell" if found[1] in self.files else found[0]


def cell_files(student: StudentModule, part: Part) -> list[str]:
    """Return the files that a kernel made of the cells of these functions."""
    there = vars(student.modules_[0])
    found = [getattr(there.get(name), "__code__", None) for name in part.functions]
    return [code.co_filename for code in found if code is not None]


@contextmanager
def alarm(seconds: float) -> Iterator[list[bool]]:
    """Raise Hung in the block after some seconds, where there are alarms."""
    rang: list[bool] = []
    alone = threading.current_thread() is not threading.main_thread()
    if alone or not hasattr(signal, "setitimer"):
        yield rang
        return

    def ring(number: int, frame: FrameType | None) -> None:
        rang.append(True)
        raise Hung

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)  # again, for whoever caught it
    try:
        yield rang
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def silenced() -> Iterator[None]:
    """Let no warning through, whatever the notebook has set."""
    with warnings.catch_warnings(), np.errstate(all="ignore"), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
