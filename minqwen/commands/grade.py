"""Grade what students handed in: partial credit, and in words what is wrong.

minqwen grade rmsnorm.py                         with the assignment.json that lies beside it
minqwen grade anna.zip --assignment hw1/staff    hidden inputs too: the staff's copy has their seed
minqwen grade hw1.ipynb --assignment hw1/staff --format gradescope > results.json
minqwen grade --each submissions --assignment hw1/staff --out grades -j 4     a whole class

A submission is a .py, .ipynb or .zip file or a folder. Its code runs in processes of their own,
behind guards, with limits; the last line of a report says how well this system guards.

Exit codes: 0 graded, whatever the points; 1 below --fail-under; 2 wrong use; 3 a submission could
not be read.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from pathlib import Path

from ..course.assignment import FILE, Assignment, read_assignment
from ..course.batch import Batch, Options, submissions_in
from ..course.grade import COPIED, Grade, grade
from ..course.gradescope_results import failed_results, gradescope_results
from ..course.guards import SANDBOXES
from ..course.junit_results import junit_xml
from ..course.results import percent, percent_of, to_dict, to_text
from ..course.submission import Submission, read_submission

FORMATS = ("text", "json", "gradescope", "junit")
UNREADABLE = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `minqwen grade`."""
    parser.add_argument("submission", nargs="+", type=Path, metavar="SUBMISSION")
    parser.add_argument(
        "--assignment", type=Path, metavar="FOLDER", help="the staff's, or one's own"
    )
    parser.add_argument("--format", choices=FORMATS, default="text", help="of the report (text)")
    parser.add_argument(
        "--student", action="store_true", help="only what students are told at once"
    )
    parser.add_argument("--fail-under", type=float, metavar="PERCENT", help="exit 1 below that")
    parser.add_argument("--clock", action="store_true", help="with json: how long it took, too")
    many = parser.add_argument_group("many submissions")
    many.add_argument("--out", type=Path, metavar="DIR", help="write results here, go on later")
    many.add_argument("--each", action="store_true", help="a folder holds a submission per entry")
    many.add_argument("-j", "--jobs", type=int, default=1, metavar="N", help="so many at once (1)")
    limits = parser.add_argument_group("limits")
    limits.add_argument("--seconds", type=float, default=10.0, help="for one call (10)")
    limits.add_argument("--memory", type=int, default=2048, metavar="MB", help="(2048)")
    limits.add_argument("--sandbox", choices=SANDBOXES, default="auto", help="guards (auto)")
    limits.add_argument(
        "--copied", choices=COPIED, default="note", help="a function that is minqwen's own (note)"
    )


def run(args: argparse.Namespace) -> int:
    """Grade, and print or write what was found."""
    if not 0 < args.seconds < math.inf:
        raise ValueError(f"--seconds must be above 0 and finite, got {args.seconds}")
    if args.memory < 64:
        raise ValueError(f"--memory must be at least 64, got {args.memory}")
    if args.fail_under is not None and not 0 <= args.fail_under <= 100:
        raise ValueError(f"--fail-under must be from 0 to 100, got {args.fail_under}")
    if args.jobs < 1:
        raise ValueError(f"--jobs must be at least 1, got {args.jobs}")
    paths = args.submission
    if args.each:
        if wrong := [path for path in paths if not path.is_dir()]:
            raise ValueError(f"--each needs folders, {wrong[0]} is none")
        paths = [entry for path in paths for entry in submissions_in(path)]
    if missing := [path for path in args.submission if not os.path.lexists(path)]:
        raise FileNotFoundError(f"no submission {missing[0]}")  # a dead link becomes a row
    if args.out is not None:
        return grade_many(args, paths)
    if args.jobs > 1 or len(paths) > 1 or args.each:
        raise ValueError("more than one submission needs --out DIR for the results")
    return grade_one(args, paths[0])


def place_of_assignment(args: argparse.Namespace, submission: Path) -> Path:
    """Return the assignment that was named, or that which lies with the submission."""
    if args.assignment is not None:
        found: Path = args.assignment
        return found
    folder = submission if submission.is_dir() else submission.resolve().parent
    if not (folder / FILE).is_file():
        raise FileNotFoundError(f"no {FILE} beside {submission}: say --assignment FOLDER")
    return folder


def grade_one(args: argparse.Namespace, path: Path) -> int:
    """Grade one submission and print the report."""
    assignment = read_assignment(place_of_assignment(args, path))
    try:
        submission = read_submission(path)
    except (OSError, ValueError) as error:
        says = " ".join(str(error).split())
        if args.format == "gradescope":  # which needs a file whatever happens
            print(json.dumps(failed_results(says, assignment.points), indent=2, ensure_ascii=False))
        print(f"minqwen: {says}", file=sys.stderr)
        return UNREADABLE
    found = graded(args, submission, assignment, path)
    print(report(args, found))
    return below(args, percent(found))


def graded(
    args: argparse.Namespace, submission: Submission, assignment: Assignment, path: Path
) -> Grade:
    """Grade one submission that was read."""
    secret = [path, *([args.assignment] if args.assignment is not None else [])]
    return grade(
        submission,
        assignment,
        seconds=args.seconds,
        memory_mb=args.memory,
        hidden=not args.student,
        sandbox=args.sandbox,
        copied=args.copied,
        secret=tuple(str(p.resolve()) for p in secret),
    )


def report(args: argparse.Namespace, found: Grade) -> str:
    """Return the report in the format that was asked for."""
    if args.format == "json":
        data = to_dict(found, student=args.student, clock=args.clock)
        return json.dumps(data, indent=2, ensure_ascii=False)
    if args.format == "gradescope":
        return json.dumps(gradescope_results(found), indent=2, ensure_ascii=False)
    if args.format == "junit":
        return junit_xml(found, student=args.student).rstrip()
    return to_text(found, student=args.student)


def below(args: argparse.Namespace, *shares: float) -> int:
    """Return 1 when a share, in percent, is below what was asked for."""
    return int(args.fail_under is not None and any(one < args.fail_under for one in shares))


def grade_many(args: argparse.Namespace, paths: list[Path]) -> int:
    """Grade into a folder, with a line for each submission."""
    if args.assignment is None:
        raise ValueError("--out needs --assignment FOLDER")
    if args.format not in ("text", "json"):
        raise ValueError(f"--format {args.format} is for one submission, without --out")
    options = Options(args.seconds, args.memory, args.sandbox, args.copied, not args.student)
    batch = Batch(
        paths,
        args.assignment,
        args.out,
        options,
        jobs=args.jobs,
        say=lambda line: print(line, flush=True),
        secret=[str(args.assignment.resolve())],
    )
    outcomes = batch.run()
    failed = [one for one in outcomes if one.data is None]
    print(f"{len(outcomes) - len(failed)} graded, {len(failed)} not: {args.out}/summary.md")
    if failed:
        return UNREADABLE
    shares = []
    for one in outcomes:
        assert one.data is not None
        shares.append(percent_of(one.data["points"], one.data["max_points"]))
    return below(args, *shares)
