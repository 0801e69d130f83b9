"""What several commands ask for: text, and the folder of a model."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..data.corpora import bilingual_stories, python_reference, standard_library_code
from ..data.streaming.document_files import Form
from ..data.streaming.document_files import read_documents as documents_of
from ..data.streaming.input_files import Part, find_files, of_lines, zipped

BUILTIN = ("reference", "code", "stories")


def add_text_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare FILES and --builtin."""
    parser.add_argument(
        "files",
        nargs="*",
        type=Path,
        metavar="FILE|FOLDER",
        help="text, UTF-8; each file is a document, of NAME.jsonl the field text of each line; .gz "
        "is unzipped; of a folder every file that is text is read, but for hidden ones and those "
        "below --out",
    )
    parser.add_argument(
        "--builtin",
        action="append",
        choices=BUILTIN,
        default=[],
        help="text that needs no file: Python's language reference, its library's sources, or "
        "generated stories in English and Chinese; may be given several times",
    )


def read_documents(args: argparse.Namespace) -> list[str]:
    """Return the text of all files and folders named, and of --builtin.

    Raises:
        ValueError: nothing was given, a folder holds no text, or a file is not UTF-8.
        FileNotFoundError: a file does not exist.
    """
    found: list[str] = []
    for path in args.files:
        if not path.exists():
            raise FileNotFoundError(f"no file or folder {path}")
        if path.is_dir():
            inside = list(_texts_in(path, args.out))
            if not inside:
                raise ValueError(f"the folder {path} holds no text files")
            found += inside
        else:
            found += texts_of(path)
    for name in args.builtin:
        if name == "reference":
            found += python_reference()
        elif name == "code":
            found += standard_library_code(2_000_000)
        else:
            found += bilingual_stories(4000, seed=0)
    if not found:
        raise ValueError("no text: name files or folders, or --builtin reference")
    return found


def _texts_in(folder: Path, out: Path) -> Iterator[str]:
    """Yield the text of every file below a folder, in the order of their names."""
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        own = out.resolve() in (path.resolve(), *path.resolve().parents)
        if path.is_file() and not hidden and not own:
            try:
                texts = texts_of(path)
            except ValueError:
                if of_lines(path.name):
                    raise
                continue  # a picture, an archive
            yield from texts


def texts_of(path: Path, field: str = "text") -> list[str]:
    """Return the documents of a file, see document_files.py; here a problem is an error.

    Args:
        path: of the file.
        field: of JSONL, that is the document.

    Raises:
        ValueError: what is not a document; the message names the file, and the line.
    """
    if not of_lines(path.name) and not zipped(path.name):
        return [read_text(path)]
    (file,) = find_files([path], but=path / "nothing")
    texts = []
    for document in documents_of(Part(file, 0, file.size, 1), Form(field, most=2**40)):
        if document.problem:
            line = f", line {document.line}" if document.line else ""
            raise ValueError(f"{path}{line}: {document.problem}")
        texts.append(document.text)
    return texts


def read_text(path: Path) -> str:
    """Read a UTF-8 file as it is: line ends stay, a byte-order mark goes.

    Raises:
        ValueError: it is not text; the message names the file.
    """
    data = path.read_bytes()
    if b"\0" in data:
        raise ValueError(f"{path} is not text, it holds NUL bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from None


def read_stdin() -> str:
    """Read all of standard input as UTF-8."""
    if sys.stdin is None:
        raise ValueError("no text was given, and standard input is closed")
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"standard input is not UTF-8 text: {error}") from None


def checkpoint_of(folder: Path) -> Path:
    """Return the checkpoint folder: the folder itself, or `checkpoint` in the folder of a run."""
    inside = folder / "checkpoint"
    return inside if inside.is_dir() else folder


def require_folder(path: Path) -> None:
    """Raise before any work when something that is no folder stands where we want to write."""
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"{path} is a file, not a folder")


@contextmanager
def told_how_to_go_on(out: Path, tell: bool = True) -> Iterator[None]:
    """On Ctrl-C inside, say that the run in `out` can go on; it ends with the exception as always.

    Args:
        out: folder of the run, in which training has saved a checkpoint.
        tell: False where another process tells it.
    """
    try:
        yield
    except KeyboardInterrupt:
        if tell and (out / "checkpoint").is_dir():
            print(f"saved in {out}; the same command goes on from there", file=sys.stderr)
        raise


def add_device_argument(parser: Any) -> None:
    """Declare --device, on a parser or a group of one; the command then asks require_device."""
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="cuda = a GPU, with CuPy (cpu)"
    )


def require_seed(seed: int) -> None:
    """Raise ValueError unless the seed can be used."""
    if seed < 0:
        raise ValueError(f"--seed must be 0 or more, got {seed}")
