"""Replace a folder as a whole: after a crash at any moment the old one or the new one is there.

    1. the new folder is written beside its place, under another name, and forced to the disk
    2. NAME       is renamed to .NAME.old
    3. the new one is renamed to NAME
    4. .NAME.old  is deleted

Files cannot be swapped in one step, so between 2 and 3 nothing stands under NAME. `recover` finds
that state, and undoes 2; whoever opens the folder calls it first.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def old_name(place: Path) -> Path:
    """Return where the old folder stands while the new one moves in.

    >>> old_name(Path("runs/model")).as_posix()
    'runs/.model.old'
    """
    return place.with_name(f".{place.name}.old")


def recover(place: Path) -> None:
    """Put the old folder back if a crash came between the two renames; else change nothing."""
    if not place.exists() and old_name(place).is_dir():
        os.replace(old_name(place), place)


@contextmanager
def new_folder(place: Path) -> Iterator[Path]:
    """Give an empty folder to write into; at the end of the block it takes the place.

    An error in the block, or in taking the place, leaves what was there before.

    >>> place = Path(tempfile.mkdtemp()) / "model"
    >>> with new_folder(place) as folder:
    ...     _ = (folder / "file").write_text("new", encoding="utf-8")
    >>> (place / "file").read_text(encoding="utf-8")
    'new'
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    recover(place)
    new = Path(tempfile.mkdtemp(prefix=f".{place.name}.new.", dir=place.parent))
    new.chmod(0o755)  # mkdtemp makes it private
    try:
        yield new
        for path in (*new.rglob("*"), new):
            _force_to_disk(path)
        old = old_name(place)
        if place.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.replace(place, old)
        try:
            os.replace(new, place)
        except BaseException:
            recover(place)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _force_to_disk(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return  # Windows has no such call for folders
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
