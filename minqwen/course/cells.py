"""The checks of notebooks: one aspect of the functions that stand in a notebook, in its kernel.

    from minqwen.course.cells import check_cell
    check_cell("rmsnorm", "values", globals())

The questions, the comparison and the points are those of `minqwen grade`. The walls are not: here
everything happens in the student's own process, which holds the right numbers while it compares,
and whose code could change NumPy or this file. Use it to learn, and for grades that do not tempt;
`minqwen grade` asks the same questions from outside (guards.py).

What a function prints, its warnings and its exceptions are caught: nothing goes to stderr, where
nbgrader would take it for a failure. A call that hangs is stopped where the system has alarms.
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
from fractions import Fraction
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import numpy as np

from ..backend import Array
from ..check.edited import source_of
from ..check.outside.messages import Problem, Reply
from ..check.specs import spec as spec_of
from .adapter import tuple_lengths
from .ask import Attempt, functions_in
from .aspects import VISIBLE, aspects_of
from .assignment import Assignment
from .cut import handout_source
from .exercise import Exercise, Part
from .grade import Grader, Row
from .graded_questions import GradedQuestions
from .judge import judge
from .ladder import LADDER, exercise
from .module_function import ModuleFunction, StudentModule
from .submission import Submission

SECONDS = 10.0  # for one call


def check_cell(
    part: str,
    aspect: str,
    namespace: dict[str, Any],
    *,
    seed: int | None = None,
    points: float | None = None,
    hint: int = 1,
    public_seed: int = 0,
    variants: dict[str, str] | None = None,
    seconds: float = SECONDS,
) -> float | None:
    """Check one aspect of the functions of one part; say what is wrong with them.

    Args:
        part: a concept, as in the rows of `minqwen grade`: "rmsnorm".
        aspect: "shape", "values" or "stability"; with a hidden seed also "more values",
            "hard inputs" or "gradient".
        namespace: where the functions are: globals().
        seed: the hidden one.
        points: of this check, for tools that know partial credit.
        hint: how much is told: 0 the symptom, 1 the mistake, 2 its line.
        public_seed: of the inputs that students may try.
        variants: this year's changes, {concept: mistake}.
        seconds: for one call of a function.

    Returns:
        None if all is right. The points that were earned, if `points` is given and some of them,
        not all, were: nbgrader takes a number for partial credit.

    Raises:
        AssertionError: something is wrong; its text says what.
        ValueError: no such part or aspect, or the aspect needs a hidden seed.

    >>> import minqwen.layers.rmsnorm as ours
    >>> check_cell("rmsnorm", "values", vars(ours))
    rmsnorm: values: right on 2 inputs: ordinary, other sizes
    """
    __tracebackhide__ = True  # IPython then leaves these lines out of the traceback
    task, one, this = find_part(part, seed, hint, public_seed, variants or {})
    if aspect not in aspects_of(spec_of(part)):
        known = ", ".join(aspects_of(spec_of(part)))
        raise ValueError(f"no aspect {aspect!r} of {part}; there are {known}")
    if aspect not in VISIBLE and seed is None:
        raise ValueError(f"{aspect!r} needs a hidden seed; students can check {', '.join(VISIBLE)}")
    most = Fraction(round(100 * (1 if points is None else points)), 100)
    with silenced():
        row, text = checked(task, one, this, aspect, namespace, most, seconds)
    if row.points == row.max_points:
        print(f"{row.name}: {row.says}")
        return None
    if points is not None and row.points:
        print(text)
        return row.points
    raise AssertionError(text) from None


def find_part(
    part: str, seed: int | None, hint: int, public_seed: int, variants: dict[str, str]
) -> tuple[Assignment, Exercise, Part]:
    """Return an assignment of the exercise that has this part, and of what variants change."""
    homes = {one.spec: rung for rung in LADDER for one in rung.parts}
    names = dict.fromkeys(homes[name].name if name in homes else name for name in (part, *variants))
    task = Assignment(
        "notebook", "Notebook", tuple(names), 100 * len(names), public_seed=public_seed,
        hidden_seed=seed, hint=hint, variants=variants,
    )  # fmt: skip
    one = exercise(next(iter(names)))
    return task, one, next(p for p in one.parts if p.spec == part)


def checked(
    task: Assignment,
    one: Exercise,
    part: Part,
    aspect: str,
    namespace: dict[str, Any],
    most: Fraction,
    seconds: float,
) -> tuple[Row, str]:
    """Return the row of this aspect, and what is said of it when it is not right."""
    grader = Grader(Submission("notebook", {}), task, "note")
    if not any(callable(namespace.get(name)) for name in part.functions):
        grader.add_missing(one, part, {aspect: most})
        says = f"no cell defines {', '.join(part.functions)}"
        row = grader.rows[0]._replace(says=says)
        return row, f"{row.name}: {says}"
    finding = judge(ask_here(task, one, part, namespace, aspect, seconds), task)
    row = grader.row(one, finding, aspect, most, zero=False)
    lines = [f"{row.name}: {row.says}"]
    if not row.visible:
        lines += [f"    {line}" for line in row.details]
    elif "is not written yet" not in row.says:
        lines += ["", finding.visible.text(task.hint)]
    return row, "\n".join(lines)


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
    public = GradedQuestions(spec, function, task.public_seed, True, "minqwen-notebook")
    public.ask_all(spec.pull is not None)
    hidden = None
    if task.hidden_seed is not None and aspect not in VISIBLE:
        plain = replace(spec, forward=(), backward=())
        hidden = GradedQuestions(
            plain, function, task.hidden_seed, False, "minqwen-notebook", public.stops
        )
        hidden.ask_all(spec.pull is not None)
    return Attempt(public, hidden, (), ())


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
            text = handout_source(module, functions_in(one, module), (), task.variants)
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
