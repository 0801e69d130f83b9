"""Make an assignment: stubs for students, answers and rubric for the staff, checked.

minqwen assign rmsnorm rope attention --out hw1       three exercises
minqwen assign --preset ladder --out course           all sixteen
minqwen assign rmsnorm --out hw1 --lang zh            README and hints in Chinese
minqwen assign rmsnorm --variant rmsnorm=gain_plus_one --out hw1
minqwen assign --list                                 exercises, presets, variants

Writes OUT/student, which students get, and OUT/staff, which they do not. Before the folder is
there, the solution was graded (every point) and so were the stubs (none).
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..course.assignment import LANGUAGES, NAME, Assignment
from ..course.handout import hidden_seed_of, write
from ..course.ladder import LADDER, PRESETS, exercise
from ..course.self_check import self_check
from ..course.staff_readme import title_of
from ..course.variants import VARIANTS
from ..model.atomic_folder import new_folder
from .files import require_seed

FORMATS = {  # beside plain: the file that writes it
    "notebook": "notebook",
    "nbgrader": "nbgrader_format",
    "otter": "otter_format",
    "gradescope": "gradescope_zip",
    "classroom": "classroom",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `minqwen assign`."""
    parser.add_argument(
        "concepts", nargs="*", metavar="CONCEPT", help="exercises, in order; see --list"
    )
    parser.add_argument("--preset", choices=PRESETS, help="a list of exercises")
    parser.add_argument("--out", type=Path, help="folder to make; it must be empty or missing")
    parser.add_argument(
        "--format",
        action="append",
        choices=("plain", *FORMATS, "all"),
        default=[],
        help="beside plain, which is always there; may be given several times (plain)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        help="makes the hidden seed: a number that nobody guesses (drawn at random)",
    )
    parser.add_argument("--points", type=int, default=100, help="of all exercises together (100)")
    parser.add_argument("--lang", choices=LANGUAGES, default="en", help="of the README (en)")
    parser.add_argument("--title", help="(those of the exercises)")
    parser.add_argument("--name", help="of the assignment: letters, digits, _ and - (--out's)")
    parser.add_argument(
        "--variant",
        action="append",
        default=[],
        metavar="CONCEPT=MISTAKE",
        help="this year's change; see --list",
    )
    parser.add_argument(
        "--hint",
        type=int,
        choices=(0, 1, 2),
        default=1,
        help="visible feedback tells the symptom, the mistake, or its line (1)",
    )
    parser.add_argument("--list", action="store_true", help="list what there is")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Write the folder; exit code 1 when the check of it fails, and then nothing is left."""
    if args.list:
        return list_all(args.json)
    if args.out is None:
        raise ValueError("say where to: --out FOLDER")
    assignment = assignment_of(args)
    writers = writers_of(args.format)
    require_empty(args.out)

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    problems: list[str] = []
    try:
        with new_folder(args.out) as folder:
            for one in writers:
                one(assignment, folder)
            problems = self_check(folder, assignment, writers, say)
            if problems:
                raise CheckFailed
    except CheckFailed:
        for problem in problems:
            say(f"minqwen: {problem}")
        say(f"minqwen: {len(problems)} problems, so nothing was written")
        return 1
    report(args, assignment)
    return 0


class CheckFailed(Exception):
    """The folder must not be used."""


def assignment_of(args: argparse.Namespace) -> Assignment:
    """Return the assignment that the options ask for.

    Raises:
        ValueError: no exercise, an unknown one, or an option that cannot be used.
    """
    if args.seed is not None:
        require_seed(args.seed)
    if args.preset and args.concepts:
        raise ValueError("give either --preset or exercises, not both")
    names = PRESETS[args.preset] if args.preset else tuple(args.concepts)
    if not names:
        raise ValueError("name exercises, or --preset ladder; --list shows what there is")
    name = args.name or args.out.resolve().name
    if not args.name and not NAME.fullmatch(name):
        raise ValueError(f"the folder {name!r} cannot name the assignment: say --name LETTERS")
    return Assignment(
        name=name,
        title=args.title or title_of(tuple(exercise(one) for one in names), args.lang),
        exercises=names,
        points=args.points,
        lang=args.lang,
        hidden_seed=hidden_seed_of(name, args.seed),
        hint=args.hint,
        variants=variants_of(args.variant),
    )


def variants_of(words: Sequence[str]) -> dict[str, str]:
    """Read CONCEPT=MISTAKE, each concept once.

    >>> variants_of(["rmsnorm=gain_plus_one"])
    {'rmsnorm': 'gain_plus_one'}
    """
    found: dict[str, str] = {}
    for word in words:
        concept, equals, mistake = word.partition("=")
        if not (concept and equals and mistake):
            raise ValueError(f"--variant must be CONCEPT=MISTAKE, got {word!r}")
        if concept in found:
            raise ValueError(f"--variant names {concept} twice")
        found[concept] = mistake
    return found


def writers_of(formats: Sequence[str]) -> list[Callable[[Assignment, Path], Any]]:
    """Return what writes the formats asked for; plain comes first, always.

    Raises:
        NotImplementedError: this minqwen cannot write a format.
        ImportError: a package for it is missing.
    """
    asked = list(FORMATS) if "all" in formats else [name for name in FORMATS if name in formats]
    writers: list[Callable[[Assignment, Path], Any]] = [write]
    for name in asked:
        module = f"minqwen.course.{FORMATS[name]}"
        if importlib.util.find_spec(module) is None:
            raise NotImplementedError(f"--format {name} cannot be written by this minqwen")
        writers.append(importlib.import_module(module).write)
    return writers


def require_empty(out: Path) -> None:
    """Raise FileExistsError unless a folder is empty or missing."""
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out} is a file, not a folder")
    if out.is_dir() and any(out.iterdir()):
        raise FileExistsError(f"{out} is not empty: name another --out, or empty it")


def report(args: argparse.Namespace, assignment: Assignment) -> None:
    """Print what was written."""
    student, staff = args.out / "student", args.out / "staff"
    if args.json:
        facts = {
            "name": assignment.name,
            "exercises": list(assignment.exercises),
            "points": assignment.points,
            "variants": assignment.variants,
            "student": str(student),
            "staff": str(staff),
        }
        print(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    count = len(assignment.exercises)
    print(f"{assignment.title}: {count} exercise{'s' * (count > 1)}, {assignment.points} points")
    print(f"for students:  {student}")
    print(f"for the staff: {staff}   (answers and hidden seed: keep it to yourselves)")
    print("the solution earned every point, the stubs none")


def list_all(as_json: bool) -> int:
    """Print exercises, presets and variants."""
    if as_json:
        facts = {
            "exercises": [
                {
                    "name": one.name,
                    "title": one.title,
                    "points": one.points,
                    "minutes": one.minutes,
                    "needs": one.needs,
                    "functions": [name for part in one.parts for name in part.functions],
                    "report": one.report,
                }
                for one in LADDER
            ],
            "presets": PRESETS,
            "variants": [f"{one.concept}={one.mistake}" for one in VARIANTS],
        }
        print(json.dumps(facts, indent=2))
        return 0
    print(f"{'exercise':<14} {'points':>6} {'minutes':>7}  {'comes after':<27} title")
    for one in LADDER:
        needs = ", ".join(one.needs)
        print(f"{one.name:<14} {one.points:>6} {one.minutes:>7}  {needs:<27} {one.title}")
    print("\nEvery other concept of `minqwen check --list` works too, with plainer words.\n")
    for name, exercises in PRESETS.items():
        listed = "all of them" if name == "ladder" else ", ".join(exercises)
        print(f"--preset {name:<12} {listed}")
    print()
    for variant in VARIANTS:
        print(f"--variant {variant.concept}={variant.mistake}\n    {variant.says}")
    return 0
