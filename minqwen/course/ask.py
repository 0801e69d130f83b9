"""Ask a student's files, in a process of their own behind guards; nothing is judged here.

For each part of an exercise one process: it reads the student's files, answers the questions of the
public seed, then those of the hidden one, and is ended. If the file imports another file of the
assignment, all is asked once more with our solution in that file's place: nobody loses points twice
for one mistake. Which of the two counts is for grade.py to say, when every process is gone.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

from ..check.edited import source_of
from ..check.outside.worker import Worker
from ..check.spec import Spec
from ..check.specs import spec as spec_of
from .adapter import adapter_text, tuple_lengths
from .assignment import Assignment
from .closed_imports import allowed_modules, reached_from
from .cut import handout_source, solution_source
from .exercise import Exercise, Part, file_of_module
from .graded_questions import MOST_TIME, GradedQuestions, ask_seeds
from .guards import PUT_UP, environment
from .module_function import LOAD, TAKE
from .scratch_watch import grading_folder, watched
from .source_text import parsed
from .submission import Submission


@dataclass
class Attempt:
    """What one part of an exercise was asked, and replied."""

    public: GradedQuestions
    hidden: GradedQuestions | None
    stand_ins: tuple[str, ...]  # files that were ours
    guards: tuple[str, ...]
    notes: tuple[str, ...] = ()  # for the staff


@dataclass(frozen=True)
class Settings:
    """How a submission is asked."""

    seconds: float = 10.0
    memory_mb: int = 2048
    hidden: bool = True  # ask the questions of the hidden seed, where there is one
    sandbox: str = "auto"
    secret: tuple[str, ...] = ()  # files and folders that a student's code must not read


def imported_files(text: str) -> set[str]:
    """Return the names of the modules that a text imports from beside it.

    >>> sorted(imported_files("from rope import f\\nimport numpy, swiglu"))
    ['numpy', 'rope', 'swiglu']
    """
    found = set()
    for node in ast.walk(parsed(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    return found


def ask_part(
    submission: Submission,
    assignment: Assignment,
    exercise: Exercise,
    part: Part,
    settings: Settings,
) -> list[Attempt]:
    """Ask one part: with the student's own other files, and with ours if it uses any.

    Returns:
        The attempts; none if the submission has none of the functions.
    """
    module = spec_of(part.spec).module
    home_file = file_of_module(module)
    homes = {name: submission.home_of(name, home_file) for name in part.functions}
    if not any(homes.values()):
        return []
    used = list(dict.fromkeys(home for home in homes.values() if home is not None))
    attempts = [ask_once(submission, assignment, exercise, part, homes, settings, {})]
    others = [m for m in assignment.modules if file_of_module(m) not in used and m != module]
    answers = set(exercise.modules)
    others = [m for m in others if m not in answers and not reached_from([m]) & answers]
    imports = {
        name for file in used if file not in submission.broken
        for name in imported_files(submission.files[file])
    }  # fmt: skip
    if any(file_of_module(m)[:-3] in imports for m in others):
        ours = {file_of_module(m): solution_source(m, others, assignment.variants) for m in others}
        attempts.append(ask_once(submission, assignment, exercise, part, homes, settings, ours))
    return attempts


def ask_once(
    submission: Submission,
    assignment: Assignment,
    exercise: Exercise,
    part: Part,
    homes: dict[str, str | None],
    settings: Settings,
    stand_ins: dict[str, str],
) -> Attempt:
    """Ask one part in one process."""
    spec = spec_of(part.spec)
    with grading_folder() as folder:
        paths = write_files(folder, submission, assignment, exercise, spec, homes, stand_ins)
        allowed, hollow = imports_of(assignment, exercise)
        guard = {
            "allowed": allowed,
            "hollow": hollow,
            "folder": str(folder),
            "scratch": str(folder / "scratch"),
            "hidden": list(settings.secret),
            "sandbox": settings.sandbox,
        }
        by_hand = [f for f in part.functions if "backward" in f]
        load = {
            "files": paths,
            "homes": homes,
            "tuples": tuple_lengths(source_of(spec.module), part.functions),
            "given": str(folder / "given" / f"given_{file_of_module(spec.module)}"),
            "file": file_of_module(spec.module),
            "allowed": allowed,
            "hollow": hollow,
            "run": spec.run.__name__,
            "pull": spec.pull.__name__ if spec.pull else None,
            "names": spec.arguments,
            "outputs": spec.outputs,
            "titles": (part.functions[0], (by_hand or part.functions)[0]),
        }
        worker = Worker(
            file_of_module(spec.module),
            backward="the same file" if spec.pull else None,
            seconds=settings.seconds,
            memory_mb=settings.memory_mb,
            outputs=spec.outputs,
            prepare=[(TAKE, {"text": adapter_text(spec)}), (PUT_UP, guard)],
            load=(LOAD, load),
            files=list(paths.values()),
            environment=environment(str(folder / "scratch")),
        )
        with worker, watched(folder / "scratch", lambda: worker.number) as over:
            limit = MOST_TIME * settings.seconds
            seeds = assignment.public_seed, assignment.hidden_seed if settings.hidden else None
            place, quiet = str(folder), bool(stand_ins)
            public, hidden = ask_seeds(spec, worker, *seeds, place, seconds=limit, quiet=quiet)
        guards = tuple(worker.prepared)
    for questions in (public, hidden):
        if questions is not None:
            questions.function = None
    return Attempt(public, hidden, tuple(sorted(stand_ins)), guards, tuple(over))


def imports_of(assignment: Assignment, exercise: Exercise) -> tuple[list[str], list[str]]:
    """Return what may be imported of minqwen in an exercise, and what is there but hollow."""
    allowed = allowed_modules(exercise.modules)
    others = reached_from(assignment.modules) | set(assignment.modules) | set(exercise.modules)
    return list(allowed), sorted(others - set(allowed))


def write_files(
    folder: Path,
    submission: Submission,
    assignment: Assignment,
    exercise: Exercise,
    spec: Spec,
    homes: dict[str, str | None],
    stand_ins: dict[str, str],
) -> dict[str, str]:
    """Write what the process reads; return the files of the exercise, by name."""
    texts = {**shims(submission, assignment), **submission.files, **stand_ins}
    for name, text in texts.items():
        (folder / "files" / name).write_text(text, encoding="utf-8", newline="\n")
    functions = exercise.functions_in(spec.module)
    text = handout_source(spec.module, functions, (), assignment.variants)
    file = folder / "given" / f"given_{file_of_module(spec.module)}"
    file.write_text(text, encoding="utf-8", newline="\n")
    used = dict.fromkeys(home for home in homes.values() if home is not None)
    return {name: str(folder / "files" / name) for name in used}


def shims(submission: Submission, assignment: Assignment) -> dict[str, str]:
    """Return files that lead to where the functions are, for those that were not handed in."""
    found: dict[str, str] = {}
    for exercise in assignment.found:
        for module in exercise.modules:
            file = file_of_module(module)
            homes = {name: submission.home_of(name) for name in exercise.functions_in(module)}
            lines = [
                f"from {home[:-3]} import {name}"
                for name, home in homes.items()
                if home is not None
            ]
            if file not in submission.files and lines:
                found[file] = found.get(file, "") + "\n".join([*lines, ""])
    return found
