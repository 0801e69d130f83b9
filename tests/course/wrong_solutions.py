"""Wrong solutions of every exercise, and how they are graded without a process of their own.

Each is the file of the answer key with one thing changed: a mistake of the bank, where its line
stands in a file that students write, or one of the tricks in tricks.py. `graded_here` gives the
points that `minqwen grade` gives, much faster; a slow test compares the two.
"""

import warnings
from dataclasses import replace
from functools import cache
from types import ModuleType
from typing import NamedTuple

import numpy as np
from course.tricks import tricks_of
from helpers.kept_answers import KEPT, kept_work

from minqwen.check.edited import Edit, edited_text, source_of
from minqwen.check.outside.worker import InProcess
from minqwen.check.specs import spec as spec_of
from minqwen.course.adapter import tuple_lengths
from minqwen.course.ask import Attempt
from minqwen.course.assignment import Assignment
from minqwen.course.cut import handout_source, solution_source
from minqwen.course.exercise import file_of_module
from minqwen.course.grade import Grader
from minqwen.course.graded_questions import ask_seeds
from minqwen.course.ladder import exercise
from minqwen.course.module_function import ModuleFunction, StudentModule
from minqwen.course.submission import Submission

GUARDS = ("in process",)


class Wrong(NamedTuple):
    """One wrong solution."""

    exercise: str
    part: str  # the concept
    side: str  # "forward" or "backward", of a mistake of the bank; "" for a trick
    name: str
    files: dict  # name -> text
    fault: bool = True  # False: the checker calls it no fault


def task_of(name):
    """Return an assignment of this exercise alone, as the staff has it: 100 points."""
    return Assignment("hw", "Homework", (name,), hidden_seed=7)


@cache
def right_files(name):
    """Return the files of the answer key."""
    modules = exercise(name).modules
    return {file_of_module(module): solution_source(module, modules) for module in modules}


def of_bank(name):
    """Yield the mistakes of the bank that stand in files of this exercise."""
    one, files = exercise(name), right_files(name)
    for part in one.parts:
        spec = spec_of(part.spec)
        for side in ("forward", "backward"):
            for mistake in getattr(spec, side):
                module = mistake.module or spec.module
                if module in one.modules:
                    file = file_of_module(module)
                    text = edited_text(files[file], [Edit("", mistake.find, mistake.put)])
                    fault = "ties" not in mistake.name.split("_")
                    changed = {**files, file: text}
                    yield Wrong(name, part.spec, side, mistake.name, changed, fault)


def of_tricks(name):
    """Yield the tricks that fit the parts of this exercise."""
    files = right_files(name)
    for part in exercise(name).parts:
        file = file_of_module(spec_of(part.spec).module)
        for trick, text in tricks_of(part):
            yield Wrong(name, part.spec, "", trick, {**files, file: files[file] + text})


def wrong_solutions(name):
    """Return all wrong solutions of an exercise."""
    return [*of_bank(name), *of_tricks(name)]


def graded_here(files, task, names=True):
    """Grade files in this process: the same points as minqwen.course.grade.grade.

    names: ask which mistake of the bank it is, too; that takes long when it is none.
    """
    submission = Submission("me", dict(files))
    asked = []
    with warnings.catch_warnings(), np.errstate(all="ignore"), kept_work():
        warnings.simplefilter("ignore")
        for one in task.found:
            for part in one.parts:
                asked.append((one, part, attempt(submission, task, one, part, names)))
        graded = Grader(submission, task, "note")
        for one, part, found in asked:
            graded.add(one, part, [found])
        return graded.grade()


def attempt(submission, task, one, part, names=True):
    """Ask one part, as ask.py does."""
    spec = spec_of(part.spec)
    file = file_of_module(spec.module)
    homes = {name: submission.home_of(name, file) for name in part.functions}
    modules = {home: run(submission.files[home], home) for home in dict.fromkeys(homes.values())}
    given = handout_source(spec.module, one.functions_in(spec.module), ())
    student = StudentModule(
        list(modules.values()),
        {name: modules[home] for name, home in homes.items()},
        tuple_lengths(source_of(spec.module), part.functions),
        lambda: run(given, "given"),
        file,
    )
    function = InProcess(lambda: None)
    function.function = ModuleFunction(
        student,
        spec.run,
        spec.pull,
        names=spec.arguments,
        outputs=spec.outputs,
        titles=(part.functions[0], part.functions[-1]),
        files=[],
    )
    told = spec if names else replace(spec, forward=(), backward=())
    found = ask_seeds(told, function, task.public_seed, task.hidden_seed, "/none")
    return Attempt(*found, (), GUARDS)


def run(text, name):
    """Run a text as a module."""
    module = ModuleType(name.removesuffix(".py"))
    exec(compile(text, name, "exec"), module.__dict__)
    return module


class Caught(NamedTuple):
    """What became of one wrong solution."""

    wrong: Wrong
    points: float  # of 100
    lost: tuple  # aspects of its part that lost points
    named: bool  # the mistake that was made is among the names that are given


@cache
def same_function(part, side, name):
    """Return the names in the bank that compute what this mistake computes."""
    bank = {m.name: m for m in getattr(spec_of(part), side)}
    first = bank[name].same_as or name
    return {f"{part}.{m.name}" for m in bank.values() if first in (m.name, m.same_as)}


def caught(wrong, found):
    """Say what a Grade says about a wrong solution."""
    lost = tuple(row.aspect for row in found.rows if row.points < row.max_points)
    said = {name for row in found.rows for name in row.mistakes}
    named = bool(wrong.side) and bool(said & same_function(wrong.part, wrong.side, wrong.name))
    return Caught(wrong, found.points, lost, named)


@cache
def try_all(name):
    """Grade all wrong solutions of an exercise in this process, once."""
    KEPT.clear()
    task = task_of(name)
    return [
        caught(wrong, graded_here(wrong.files, task, names=bool(wrong.side)))
        for wrong in wrong_solutions(name)
    ]
