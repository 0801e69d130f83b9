"""Grade many submissions: one after another or several at once, and never stop for one of them.

    OUT/NAME.json     what one submission is worth, row by row
    OUT/grades.csv    one line per submission
    OUT/summary.md    for the staff: means, which mistakes how often, what could not be read

Every submission has a grader process of its own, and that has one for each part of an exercise: if
a grader itself breaks, that is one row more. Files are written aside and renamed, so after Ctrl-C
all that stand there are whole; the next run goes on with what is missing. A submission is graded
again when its bytes, the assignment, the options or minqwen itself have changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from ..model.atomic_folder import write_whole
from .assignment import Assignment, assignment_text, read_assignment
from .class_tables import Outcome, summary, table
from .grade import grade
from .results import number, to_dict
from .source_text import shown
from .submission import READ

BOOT = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from minqwen.course.batch import grade_from_stdin; grade_from_stdin()"
)
TABLE, SUMMARY = "grades.csv", "summary.md"
SECONDS_TO_START, CALLS = 60.0, 30  # a grader that takes longer than CALLS limits a part is stopped


@dataclass(frozen=True)
class Options:
    """How every submission is graded; see grade.py."""

    seconds: float = 10.0
    memory_mb: int = 2048
    sandbox: str = "auto"
    copied: str = "note"
    hidden: bool = True


def submissions_in(folder: Path) -> list[Path]:
    """Return the files and folders of a folder, each of which is a submission.

    Raises:
        ValueError: there are none.
    """
    found = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    if not found:
        raise ValueError(f"{folder} holds no submissions")
    return found


def names_of(paths: Sequence[Path]) -> dict[str, Path]:
    """Give each submission a name: that of its file without the ending, where that is enough.

    >>> list(names_of([Path("a/ann.py"), Path("a/bob.py"), Path("a/bob.zip")]))
    ['ann', 'bob.py', 'bob.zip']
    """
    stems = Counter(path.stem.lower() for path in paths)
    names: dict[str, Path] = {}
    for path in paths:
        name = path.stem if stems[path.stem.lower()] == 1 else path.name
        if name in names:
            name = f"{path.resolve().parent.name}_{path.name}"
        if name in names:
            raise ValueError(f"two submissions are called {name}")
        names[name] = path
    return names


def digest_of(path: Path, assignment: Assignment, options: Options) -> str:
    """Return what a grade depends on, as one short text."""
    found = hashlib.sha256()
    for text in (assignment_text(assignment), json.dumps(asdict(options)), __version__):
        found.update(text.encode("utf-8") + b"\0")
    files = [path]
    if path.is_dir():  # what is not read does not count, and may be as large as a disk
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in READ)
    for file in files:
        place = file.relative_to(path).as_posix() if path.is_dir() else file.name
        with contextlib.suppress(OSError):
            if file.is_file():  # no pipe, which would be waited for
                with file.open("rb") as stream:
                    content = hashlib.file_digest(stream, "sha256").hexdigest()
                found.update(os.fsencode(place) + b"\0" + content.encode("ascii"))
    return found.hexdigest()[:32]


class Batch:
    """Grades submissions into a folder.

    Args:
        submissions: see names_of.
        assignment: assignment.json, or its folder.
        out: where the results go.
        options: for all of them.
        jobs: how many at once.
        say: called with a line when one is finished.
        secret: files and folders that a student's code must not read, beside these.
    """

    def __init__(
        self,
        submissions: Sequence[Path],
        assignment: Path,
        out: Path,
        options: Options,
        *,
        jobs: int = 1,
        say: Callable[[str], None] = print,
        secret: Sequence[str] = (),
    ) -> None:
        if jobs < 1:
            raise ValueError(f"jobs must be at least 1, got {jobs}")
        self.submissions = names_of(submissions)
        self.place, self.assignment = assignment, read_assignment(assignment)
        self.staff = (assignment.parent if assignment.is_file() else assignment).resolve()
        self.out, self.options, self.jobs, self.say = out, options, jobs, say
        folders = {str(Path(path).resolve().parent) for path in submissions}
        self.secret = [*secret, *sorted(folders), str(out.resolve())]
        self.running: set[subprocess.Popen[bytes]] = set()
        self.stopped = threading.Event()

    def run(self) -> list[Outcome]:
        """Grade them all; return what became of each, in order.

        Raises:
            KeyboardInterrupt: after what is finished has been written.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        outcomes: dict[str, Outcome] = {}
        pool = ThreadPoolExecutor(self.jobs)
        waiting = {pool.submit(self.one, name): name for name in self.submissions}
        try:
            for future in as_completed(waiting):
                outcome = future.result()
                outcomes[outcome.name] = outcome
                self.say(self.progress(outcome, len(outcomes)))
        finally:
            self.stopped.set()
            for process in list(self.running):
                process.terminate()
            pool.shutdown(cancel_futures=True)
            ordered = [outcomes[name] for name in self.submissions if name in outcomes]
            self.write_tables(ordered)
        return ordered

    def progress(self, outcome: Outcome, finished: int) -> str:
        """Return the line about a submission that is finished."""
        width = len(str(len(self.submissions)))
        line = f"[{finished:>{width}}/{len(self.submissions)}] {shown(outcome.name):<24} "
        if outcome.data is None:
            return line + f"not graded: {outcome.says}"
        points, most = (number(outcome.data[key]) for key in ("points", "max_points"))
        line += f"{points:>7} of {most}"
        return line + (f"   {outcome.seconds:.1f} s" if outcome.fresh else "   as before")

    def one(self, name: str) -> Outcome:
        """Grade one submission, whatever happens."""
        path, start = self.submissions[name], time.perf_counter()
        try:
            if path.is_symlink() and path.resolve().is_relative_to(self.staff):
                return Outcome(name, str(path), None, "it is a link into the assignment's folder")
            file, digest = self.file_of(name), digest_of(path, self.assignment, self.options)
            kept = read_result(file)
            if kept is not None and kept.get("digest") == digest:
                return Outcome(name, str(path), kept, fresh=False)
            says = self.in_process(name, path, digest)
            data = None if says else read_result(file)
            if data is None and not says:
                says = "the grader wrote no result"
        except Exception as error:  # a disk that is full, a folder that went away
            says, data = f"{type(error).__name__}: {error}", None
        if data is None:
            with contextlib.suppress(OSError):
                self.file_of(name).unlink()
        return Outcome(name, str(path), data, says, seconds=time.perf_counter() - start)

    def file_of(self, name: str) -> Path:
        """Return where the result of a submission stands."""
        return self.out / f"{name}.json"

    def in_process(self, name: str, path: Path, digest: str) -> str:
        """Grade in a process of its own; return what went wrong, nothing if nothing did."""
        job = {
            "submission": str(path),
            "name": name,
            "assignment": str(self.place),
            "out": str(self.file_of(name)),
            "digest": digest,
            "options": asdict(self.options),
            "secret": self.secret,
        }
        root = str(Path(__file__).parents[2])
        if self.stopped.is_set():
            return "stopped"
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", BOOT, root],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C comes here, not there
        )
        self.running.add(process)
        parts = sum(len(one.parts) for one in self.assignment.found)
        limit = SECONDS_TO_START + CALLS * self.options.seconds * parts
        try:
            _, errors = process.communicate(json.dumps(job).encode("utf-8"), timeout=limit)
        except subprocess.TimeoutExpired:
            return f"the grader did not end within {limit:g} s: stopped"
        finally:
            self.running.discard(process)
            stop(process)
        if process.returncode == 0:
            return ""
        lines = errors.decode("utf-8", "replace").strip().splitlines()
        return lines[-1][:300] if lines else f"the grader ended with code {process.returncode}"

    def write_tables(self, outcomes: Sequence[Outcome]) -> None:
        """Write grades.csv and summary.md."""
        for place, write in ((TABLE, table), (SUMMARY, summary)):  # a name may be no UTF-8
            text = write(outcomes, self.assignment).encode("utf-8", "backslashreplace")
            write_whole(self.out / place, text)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a grader that still runs, gently first: it ends the student's process."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for stream in (process.stdin, process.stderr):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


def grade_from_stdin() -> None:
    """Be the grader of one submission: the job comes as JSON, the result goes to a file."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    job = json.loads(sys.stdin.buffer.read())
    options = Options(**job["options"])
    try:
        found = grade(
            Path(job["submission"]),
            Path(job["assignment"]),
            seconds=options.seconds,
            memory_mb=options.memory_mb,
            hidden=options.hidden,
            sandbox=options.sandbox,
            copied=options.copied,
            secret=tuple(job["secret"]),
        )
    except (OSError, ValueError) as error:
        sys.exit(" ".join(str(error).split()))
    data = {**to_dict(found), "name": job["name"], "digest": job["digest"]}
    text = json.dumps(data, indent=1, ensure_ascii=False) + "\n"
    write_whole(Path(job["out"]), text.encode("utf-8", "replace"))


def read_result(file: Path) -> dict[str, Any] | None:
    """Return a result that stands there; None if there is none that can be read."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) and "rows" in data else None
