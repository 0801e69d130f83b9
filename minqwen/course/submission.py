"""What a student handed in, as plain text: .py, .ipynb, a folder or a .zip of them.

Nothing is run here. The files end up side by side, whatever folders they came in. A function is
looked for by its name in all of them, so it does not matter how a file is called, and of two
definitions the last one counts, as it does in Python.

    .py       the text as it is
    .ipynb    of its code cells only imports, functions, classes and simple constants: forgotten
              plots, long trainings and duplicated cells do no harm
    others    are left out, as are tests (test_*.py)

What cannot be read becomes a note, and a row of the report; never an error that stops a batch.
"""

from __future__ import annotations

import codecs
import os
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from .notebook_code import of_notebook
from .source_text import shown, stub_names, top_names, why_broken

MAX_NOTEBOOK, MAX_ALL, MAX_FILES = 32 << 20, 64 << 20, 500  # bytes: pictures make notebooks large
MAX_TEXT = 1 << 20  # characters of code in one file
SKIPPED_FOLDERS = ("__MACOSX", "__pycache__", ".git", ".ipynb_checkpoints", ".venv", "venv")
READ = (".py", ".ipynb")  # of a folder or an archive
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Submission:
    """What was handed in."""

    name: str  # of the file or folder, without its ending
    files: dict[str, str]  # "rmsnorm.py" -> its text
    notes: tuple[str, ...] = ()  # what was left out, and why

    @cached_property
    def broken(self) -> dict[str, str]:
        """Which files are no Python, and why."""
        found = {name: why_broken(text) for name, text in self.files.items()}
        return {name: says for name, says in found.items() if says}

    def home_of(self, function: str, first: str = "") -> str | None:
        """Return the file that defines a function; None if none does.

        Whoever works in a notebook may hand in the files with the stubs too: those come last.

        Args:
            function: its name.
            first: the file that is asked first.
        """
        order = sorted(self.files, key=lambda name: (name != first, name))
        order.sort(key=lambda n: n not in self.broken and function in stub_names(self.files[n]))
        for name in order:
            if name not in self.broken and function in top_names(self.files[name]):
                return name
        for name in order:  # of a file with a syntax error only the text can be asked
            pattern = rf"^(def|class)\s+{re.escape(function)}\b"
            if name in self.broken and re.search(pattern, self.files[name], re.M):
                return name
        return None


class Found(NamedTuple):
    """A file that was handed in."""

    path: str  # within the submission
    read: Callable[[], bytes]
    size: int


def read_submission(path: Path | str) -> Submission:
    """Read what was handed in.

    Args:
        path: a .py, .ipynb or .zip file, or a folder.

    Raises:
        OSError: it cannot be read.
        ValueError: it is none of these, or holds more than anybody would hand in.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no submission {path}")
    if not path.is_dir() and not path.is_file():  # a pipe would be waited for
        raise ValueError(f"{path} is no ordinary file")
    notes: list[str] = []
    if path.is_dir():
        found = list(of_folder(path, notes))
    elif path.suffix.lower() == ".zip":
        found = list(of_zip(path, notes))
    elif path.suffix.lower() in READ:
        found = [Found(path.name, path.read_bytes, path.stat().st_size)]
    else:
        raise ValueError(f"a submission is a .py, .ipynb or .zip file or a folder, not {path}")
    files: dict[str, str] = {}
    for one in sorted(found, key=lambda f: (-f.path.count("/"), f.path.endswith(".py"), f.path)):
        if one.size > MAX_NOTEBOOK:
            notes.append(f"{shown(one.path)} is larger than {MAX_NOTEBOOK >> 20} MiB: left out")
            continue
        name, text, lines = text_of(one)
        notes += lines
        if text is None:
            continue
        if len(text) > MAX_TEXT:
            notes.append(f"{name} has more than {MAX_TEXT >> 20} MiB of code: left out")
            continue
        if name in files:
            notes.append(f"{name} was handed in twice: {shown(one.path)} counts")
        files[name] = text
    stem = path.resolve().stem if not path.is_dir() else path.resolve().name
    submission = Submission(shown(stem), dict(sorted(files.items())))
    for name, says in submission.broken.items():
        notes.append(f"{name} is no valid Python: {says}")
    return replace(submission, notes=tuple(notes))


def of_folder(folder: Path, notes: list[str]) -> Iterator[Found]:
    """Yield the Python files and notebooks of a folder and its folders; links are not followed."""
    total = count = 0
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(f for f in folders if f not in SKIPPED_FOLDERS and f[:1] != ".")
        for name in sorted(names):
            file = Path(root, name)
            place = file.relative_to(folder).as_posix()
            if name.startswith((".", "test_")) or file.suffix.lower() not in READ:
                continue
            if file.is_symlink() or not file.is_file():
                notes.append(f"{shown(place)} is a link or no ordinary file: left out")
                continue
            count, total = count + 1, total + file.stat().st_size
            require_size(count, total)
            yield Found(place, file.read_bytes, file.stat().st_size)


def of_zip(path: Path, notes: list[str]) -> Iterator[Found]:
    """Yield the Python files and notebooks of an archive, believing none of its numbers."""
    try:
        archive = zipfile.ZipFile(path)
        entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError) as error:
        raise ValueError(f"{path} is no zip archive: {error}") from None
    total = count = 0
    with archive:
        for entry in entries:
            place = PurePosixPath(entry.filename.replace("\\", "/"))
            if entry.is_dir() or place.suffix.lower() not in READ:
                continue
            if place.name.startswith("test_"):
                continue
            if any(p in SKIPPED_FOLDERS or (p[:1] == "." and p != "..") for p in place.parts):
                continue
            if place.is_absolute() or ".." in place.parts or ":" in place.parts[0]:
                notes.append(f"{shown(entry.filename)} leads out of the archive: left out")
                continue
            if (entry.external_attr >> 16) & 0o170000 == 0o120000:
                notes.append(f"{shown(entry.filename)} is a link: left out")
                continue
            if entry.flag_bits & 1:
                notes.append(f"{shown(entry.filename)} is encrypted: left out")
                continue
            try:
                with archive.open(entry) as file:
                    data = file.read(MAX_NOTEBOOK + 1)  # whatever size the archive says
            except (
                zipfile.BadZipFile,
                NotImplementedError,
                EOFError,
                OSError,
                ValueError,
            ) as error:
                notes.append(f"{shown(entry.filename)} cannot be unpacked: {error}"[:200])
                continue
            except Exception as error:  # zlib.error, and others of the packers
                notes.append(f"{shown(entry.filename)} is damaged ({type(error).__name__})")
                continue
            count, total = count + 1, total + len(data)
            require_size(count, total)
            yield Found(place.as_posix(), lambda data=data: data, len(data))  # type: ignore[misc]


def require_size(count: int, total: int) -> None:
    """Raise ValueError when a submission is too large."""
    if count > MAX_FILES:
        raise ValueError(f"the submission has more than {MAX_FILES} files")
    if total > MAX_ALL:
        raise ValueError(f"the submission is larger than {MAX_ALL >> 20} MiB")


def text_of(found: Found) -> tuple[str, str | None, list[str]]:
    """Return a file's name and its text as Python, None if it has none, and notes."""
    place = PurePosixPath(found.path)
    stem = place.stem if NAME.fullmatch(place.stem) else re.sub(r"\W", "_", place.stem, flags=re.A)
    stem = stem if not stem[:1].isdigit() else f"_{stem}"
    name = f"{stem or '_'}.py"
    notes = []
    if name != place.with_suffix(".py").name:
        notes = [f"{shown(found.path)} is graded as {name}"]
    data = found.read()
    if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):  # as PowerShell's > writes it
        data = data.decode("utf-16", "replace").encode("utf-8", "replace")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        notes.append(f"{shown(found.path)}, line {line}: not UTF-8; what is unreadable became ?")
        text = data.decode("utf-8", "replace").replace("\ufffd", "?")
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "?")
    if place.suffix.lower() == ".py":
        return name, text, notes
    code, lines = of_notebook(text, found.path)
    return name, code, notes + lines
