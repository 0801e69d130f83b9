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

from fractions import Fraction
from typing import Any

from ..check.specs import spec as spec_of
from .aspects import VISIBLE, aspects_of
from .assignment import Assignment
from .exercise import Exercise, Part
from .grade import Grader, Row
from .in_kernel import ask_here, silenced
from .judge import judge
from .ladder import LADDER, exercise
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
