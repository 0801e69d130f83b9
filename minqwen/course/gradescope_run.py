"""What runs in Gradescope's container for every submission; run_autograder calls it.

    this process, root          reads the submission as text, and the assignment with its hidden
                                seed; writes results.json, first one that says "stopped"
    a process of another user   is told both over a pipe, grades (grade.py), prints the results; the
                                student's code runs in processes of that user, behind guards
    this process                takes the results only if they have our rows and possible points

So whatever a submission does, there is a results.json, and neither it nor the hidden seed is a file
that the student's code could open. Where this is not run as root, or there is no such user, the
second process is one of the same user; the report says as whom it was graded.

MINQWEN_AUTOGRADER is the folder to work in (/autograder), MINQWEN_USER the user (minqwen).
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..model.atomic_folder import write_whole
from .assignment import Assignment, read_assignment
from .grade import grade
from .gradescope_results import failed_results, gradescope_results
from .gradescope_zip import LIMITS_FILE, Limits
from .rubric import rows_of
from .submission import Submission, read_submission

STOPPED = (
    "Grading was stopped before it had finished. Hand in once more; if it happens again, tell your "
    "teacher."
)
NOT_DUMPABLE = 4  # PR_SET_DUMPABLE: 0 hides the memory from processes of the same user


def main() -> int:
    """Grade what lies in the folder; always 0, since Gradescope reads the file only."""
    base = Path(os.environ.get("MINQWEN_AUTOGRADER", "/autograder"))
    (base / "results").mkdir(parents=True, exist_ok=True)
    place = base / "results" / "results.json"
    assignment = read_assignment(base / "source")
    write_results(place, failed_results(STOPPED, assignment.points))
    try:
        results = results_of(base, assignment)
    except Exception as error:  # the file must be written whatever happens
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        says = f"The autograder failed ({type(error).__name__}). Tell your teacher."
        results = failed_results(says, assignment.points)
    write_results(place, results)
    return 0


def write_results(place: Path, results: dict[str, Any]) -> None:
    """Write results.json as a whole."""
    write_whole(place, (json.dumps(results, indent=2, ensure_ascii=False) + "\n").encode("utf-8"))


def results_of(base: Path, assignment: Assignment) -> dict[str, Any]:
    """Grade the submission in a process of its own; return what is to be written."""
    try:
        submission = read_submission(base / "submission")
    except (OSError, ValueError) as error:
        return failed_results(" ".join(str(error).split()), assignment.points)
    limits = read_limits(base / "source" / LIMITS_FILE)
    request = {
        "submission": asdict(submission),
        "assignment": asdict(assignment),
        "limits": asdict(limits),
        "secret": [str(base / "source" / "assignment.json"), str(base / "results")],
    }
    data = json.dumps(request).encode()
    who, as_user = another_user()
    try:
        try:
            printed = grade_as(data, limits, as_user)
        except PermissionError as error:  # the other user cannot reach this Python
            if not as_user:
                raise
            print(f"not graded as {who}: {error}", file=sys.stderr)
            who, as_user = this_user(), {}
            printed = grade_as(data, limits, as_user)
    except subprocess.TimeoutExpired:
        says = f"Grading took longer than {limits.total_seconds:g} s: does a function hang?"
        return failed_results(says, assignment.points)
    results = checked(printed, assignment)
    results["output"] += f" Graded as the user {who}."
    return results


def grade_as(data: bytes, limits: Limits, as_user: dict[str, Any]) -> bytes:
    """Grade in a process of its own; return what it printed."""
    return subprocess.run(
        [sys.executable, "-m", __spec__.name if __spec__ else __name__, "grade"],
        input=data,
        stdout=subprocess.PIPE,
        timeout=limits.total_seconds,
        cwd="/",
        env={**os.environ, "HOME": "/nonexistent"},
        check=False,
        **as_user,
    ).stdout


def read_limits(path: Path) -> Limits:
    """Read limits.json; what it does not say is as usual."""
    if not path.is_file():
        return Limits()
    return Limits(**json.loads(path.read_text(encoding="utf-8")))


def another_user() -> tuple[str, dict[str, Any]]:
    """Return as whom to grade, and how subprocess is told so."""
    import pwd

    name = os.environ.get("MINQWEN_USER", "minqwen")
    if os.geteuid() == 0:
        with suppress(KeyError):
            user = pwd.getpwnam(name)
            return name, {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    return this_user(), {}


def this_user() -> str:
    """Return who runs this, in words."""
    import pwd

    try:
        own = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        own = str(os.geteuid())
    return f"{own}, who runs the autograder too"


def checked(printed: bytes, assignment: Assignment) -> dict[str, Any]:
    """Return results that another process printed, if they can be those of this assignment.

    Raises:
        ValueError: they cannot.
    """
    results: dict[str, Any] = json.loads(printed)
    tests = [test for test in results["tests"] if "score" in test]
    rows = [(f"{row.part}: {row.aspect}", float(row.points)) for row in rows_of(assignment)]
    if [(test["name"], test["max_score"]) for test in tests] != rows or "score" in results:
        raise ValueError("the rows are not those of the assignment")
    for test in tests:
        score = test["score"]
        if not (isinstance(score, (int, float)) and math.isfinite(score)):
            raise ValueError(f"{test['name']} has the score {score!r:.40}")
        if not 0 <= score <= test["max_score"]:
            raise ValueError(f"{test['name']} has {score} of {test['max_score']} points")
    return results


def grade_here() -> int:
    """Grade what stdin says and print the results: this runs as the other user."""
    hide_memory()
    request = json.loads(sys.stdin.buffer.read())
    found, limits = request["submission"], Limits(**request["limits"])
    submission = Submission(found["name"], found["files"], tuple(found["notes"]))
    result = grade(
        submission,
        Assignment(**request["assignment"]),
        seconds=limits.seconds,
        memory_mb=limits.memory_mb,
        copied=limits.copied,
        secret=tuple(request["secret"]),
    )
    print(json.dumps(gradescope_results(result, after=limits.after), ensure_ascii=False))
    return 0


def hide_memory() -> None:
    """Let no other process of this user look at the memory of this one, where Linux can do it."""
    if sys.platform == "linux":
        from ..agent.kernel.namespaces import prctl

        with suppress(OSError):
            prctl(NOT_DUMPABLE, 0)


if __name__ == "__main__":
    sys.exit(grade_here() if sys.argv[1:] == ["grade"] else main())
