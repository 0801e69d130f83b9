"""Text from the user's files and folders, or text that comes with Python: shared by commands."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..data.corpora import bilingual_stories, python_reference, standard_library_code

BUILTIN = ("reference", "code", "stories")


def add_text_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare FILES and --builtin."""
    parser.add_argument(
        "files",
        nargs="*",
        type=Path,
        metavar="FILE|FOLDER",
        help="text, UTF-8; each file is a document; of a folder every file that is text is read",
    )
    parser.add_argument(
        "--builtin",
        action="append",
        choices=BUILTIN,
        default=[],
        help="text that needs no file: Python's language reference, its library's sources, or "
        "generated stories in English and Chinese; may be given several times",
    )


def text_files(args: argparse.Namespace) -> list[str | Path]:
    """Return documents: paths of text files, and texts.

    Raises:
        ValueError: nothing was given, a folder holds no text, or a file is not UTF-8.
        FileNotFoundError: a file does not exist.
    """
    found: list[str | Path] = []
    for path in args.files:
        if not path.exists():
            raise FileNotFoundError(f"no file or folder {path}")
        if path.is_dir():
            inside = [p for p in sorted(path.rglob("*")) if p.is_file() and _is_text(p)]
            if not inside:
                raise ValueError(f"the folder {path} holds no text files")
            found += inside
        else:
            if not _is_text(path):
                raise ValueError(f"{path} is not UTF-8 text")
            found.append(path)
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


def read(document: str | Path) -> str:
    """Return the text of a document."""
    return document if isinstance(document, str) else document.read_text(encoding="utf-8")


def _is_text(path: Path) -> bool:
    try:
        return "\0" not in path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return False
