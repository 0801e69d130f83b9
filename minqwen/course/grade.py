"""Grade one submission: every part of every exercise, every aspect a row.

    asked      all parts, each in a process of its own behind guards (ask.py)
    judged     when no process of the student's code is left (judge.py, aspects.py)
    told       rows with points, what is visible at once, and notes for the staff

Whatever a submission does, each row gets points and a reason; nothing here raises for it. The
result is the same each time: no clock, no random number, no name of a folder is in it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

from ..check.specs import spec as spec_of
from .ask import Attempt, Settings, ask_part
from .aspects import VISIBLE, aspects_of, earned, split_points
from .assignment import Assignment, points_of, read_assignment
from .closed_imports import reached_from
from .copied import copied_functions, tricks
from .exercise import Exercise, Part
from .guards import SANDBOXES, protection
from .judge import Finding, hints, judge
from .row_words import said
from .submission import Submission, read_submission

LATER = "graded later"
COPIED = ("note", "zero")
MOST_NOTES = 6  # on what was handed in, to a student of whom a function is missing


class Row(NamedTuple):
    """One aspect of one part of one exercise."""

    exercise: str
    part: str  # the concept
    aspect: str  # one of aspects.ROWS
    points: float | None  # None: graded later, see `hidden`
    max_points: float
    visible: bool  # the student is told before the deadline
    says: str  # one sentence, which gives no number of ours away
    details: tuple[str, ...] = ()
    mistakes: tuple[str, ...] = ()  # of the bank: "rmsnorm.eps_outside"

    @property
    def name(self) -> str:
        """The name in reports: "rmsnorm: values"."""
        return f"{self.part}: {self.aspect}"


@dataclass(frozen=True)
class Grade:
    """What one submission is worth."""

    name: str
    assignment: str
    rows: tuple[Row, ...]
    diagnosis: tuple[tuple[str, str], ...]  # part -> text for the student
    notes: tuple[str, ...]  # for the staff
    protection: str
    seconds: float = 0.0  # on the clock; not part of what must be the same each time

    @property
    def points(self) -> float:
        """What was earned in the rows that were graded."""
        return float(sum(_exact(row.points) for row in self.rows if row.points is not None))

    @property
    def max_points(self) -> float:
        """What could be earned in the rows that were graded."""
        return float(sum(_exact(row.max_points) for row in self.rows if row.points is not None))

    @property
    def later(self) -> float:
        """What can be earned in the rows that wait."""
        return float(sum(_exact(row.max_points) for row in self.rows if row.points is None))

    def of_exercise(self, name: str) -> tuple[float, float]:
        """Return what was earned in one exercise, and what could be."""
        mine = [row for row in self.rows if row.exercise == name and row.points is not None]
        got, most = (sum((_exact(x) for x in column), Fraction(0)) for column in (
            [row.points for row in mine], [row.max_points for row in mine]
        ))  # fmt: skip
        return float(got), float(most)


def _exact(points: float | None) -> Fraction:
    return Fraction(round((points or 0.0) * 100), 100)


def grade(
    submission: Submission | Path | str,
    assignment: Assignment | Path | str,
    *,
    seconds: float = 10.0,
    memory_mb: int = 2048,
    hidden: bool = True,
    sandbox: str = "auto",
    copied: str = "note",
    secret: tuple[str, ...] = (),
) -> Grade:
    """Grade a submission.

    Args:
        submission: a .py, .ipynb or .zip file, a folder, or one that was read.
        assignment: assignment.json, its folder, or one that was read.
        seconds: limit on one call, on the clock.
        memory_mb: limit on the memory of the student's process.
        hidden: grade also what the hidden seed is needed for, where there is one.
        sandbox: "auto": the strongest guards that work here; "system": those of Linux, or an
            error; "python": the audit hook only.
        copied: what to do when a function is ours up to names: "note" it for the staff, or
            give its part "zero" points.
        secret: more files and folders that a student's code must not read; those of the submission
            and of the assignment are among them.

    Raises:
        OSError: the submission or the assignment cannot be read, or sandbox is "system" and this
            system has no such guards.
        ValueError: it is not one; or a limit, sandbox or copied is wrong.
    """
    if sandbox not in SANDBOXES:
        raise ValueError(f"sandbox must be one of {', '.join(SANDBOXES)}, got {sandbox!r}")
    if copied not in COPIED:
        raise ValueError(f"copied must be one of {', '.join(COPIED)}, got {copied!r}")
    start = time.perf_counter()
    places = [
        str(p) for p in (submission, assignment) if not isinstance(p, Submission | Assignment)
    ]
    if not isinstance(submission, Submission):
        submission = read_submission(submission)
    if not isinstance(assignment, Assignment):
        assignment = read_assignment(Path(assignment))
    secret = (*secret, *(str(Path(p).resolve()) for p in places))
    settings = Settings(seconds, memory_mb, hidden, sandbox, secret)
    asked: list[tuple[Exercise, Part, list[Attempt]]] = []
    for exercise in assignment.found:
        for part in exercise.parts:
            found = ask_part(submission, assignment, exercise, part, settings)
            asked.append((exercise, part, found))
    graded = Grader(submission, assignment, copied)
    for exercise, part, attempts in asked:
        graded.add(exercise, part, attempts)
    return replace(graded.grade(), seconds=time.perf_counter() - start)


class Grader:
    """Collects the rows of one submission."""

    def __init__(self, submission: Submission, assignment: Assignment, copied: str) -> None:
        self.submission, self.assignment, self.copied = submission, assignment, copied
        self.points = points_of(assignment)
        self.rows: list[Row] = []
        self.diagnosis: list[tuple[str, str]] = []
        given = reached_from(assignment.modules) - set(assignment.modules)
        self.notes = [*submission.notes, *tricks(submission, given)]
        self.guards: tuple[str, ...] | None = None

    def grade(self) -> Grade:
        """Return everything."""
        said = "no file of the student was run" if self.guards is None else protection(self.guards)
        return Grade(
            self.submission.name,
            self.assignment.name,
            tuple(self.rows),
            tuple(self.diagnosis),
            tuple(dict.fromkeys(self.notes)),
            said,
        )

    def add(self, exercise: Exercise, part: Part, attempts: list[Attempt]) -> None:
        """Judge the attempts at one part; the better one counts."""
        weights = {p.spec: Fraction(p.weight) for p in exercise.parts}
        points = split_points(self.points[exercise.name], weights)[part.spec]
        most = split_points(points, aspects_of(spec_of(part.spec)))
        if not attempts:
            self.add_missing(exercise, part, most)
            return
        if self.guards is None or len(attempts[0].guards) < len(self.guards):
            self.guards = attempts[0].guards
        findings = [judge(attempt, self.assignment) for attempt in attempts]
        worth = [sum((most[r] * s for r, s in f.shares.items()), Fraction(0)) for f in findings]
        best = findings[worth.index(max(worth))]
        why = ""
        if best.attempt.stand_ins and worth[1] > worth[0]:
            why = "graded with our own solutions in place of the files that it imports"
            self.notes.append(f"{part.spec}: {why}")
        same = copied_functions(self.submission, self.assignment, part)
        if same:
            self.notes.append(f"{part.spec}: {', '.join(same)} equal minqwen's up to names")
        zero = bool(same) and self.copied == "zero"
        for name, share in most.items():
            self.rows.append(self.row(exercise, best, name, share, zero))
        text = best.visible.text(self.assignment.hint)
        lines = [text, f"  note: {why}"] if why else [text]
        self.diagnosis.append((part.spec, "\n".join(lines)))
        self.notes += [f"{part.spec}: {line}" for line in best.notes]

    def row(
        self,
        exercise: Exercise,
        best: Finding,
        name: str,
        most: Fraction,
        zero: bool,
    ) -> Row:
        """Return one row."""
        spec = best.attempt.public.spec
        visible = name in VISIBLE
        row = Row(exercise.name, spec.name, name, None, float(most), visible, LATER)
        if name not in best.shares:
            return row
        share = Fraction(0) if zero else best.shares[name]
        says, details = said(best, name)
        if zero:
            says, details = "no points: the function is minqwen's own, up to names", []
        hint = self.assignment.hint
        if share < 1 and hint > 0 and not zero and name in ("values", "hard inputs", "gradient"):
            details += hints(spec, best.diagnoses, "backward" if name == "gradient" else "forward")
        return row._replace(
            points=float(earned(most, share)),
            says=says,
            details=tuple(dict.fromkeys(line for line in details)),
            mistakes=() if zero else best.mistakes.get(name, ()),
        )

    def add_missing(self, exercise: Exercise, part: Part, most: dict[str, Fraction]) -> None:
        """Write the rows of a part that was not handed in."""
        names = ", ".join(part.functions)
        says = f"not handed in: no file has {names}"
        waits = self.assignment.hidden_seed is None
        for name, share in most.items():
            later = waits and name not in VISIBLE
            self.rows.append(
                Row(
                    exercise.name,
                    part.spec,
                    name,
                    None if later else 0.0,
                    float(share),
                    name in VISIBLE,
                    LATER if later else says,
                )
            )
        lines = [f"{part.spec}   {says}"]  # perhaps it stands in what could not be read
        lines += [f"  note: {note}" for note in self.submission.notes[:MOST_NOTES]]
        self.diagnosis.append((part.spec, "\n".join(lines)))
