"""Replace a folder as a whole: after a crash at any moment the old one or the new one is there.

    1. everything is written into .NAME.new.xxx, beside its place, and forced to the disk
    2. NAME           is renamed to .NAME.old
    3. .NAME.new.xxx  is renamed to NAME
    4. .NAME.old      is deleted

Folders cannot be swapped in one step, so between 2 and 3 nothing stands under NAME: whoever reads
takes `whole(place)`. Killed in 1 or 4, the leftover is deleted by the next writer; killed between
2 and 3, the next writer undoes 2. One process may write to a place at a time.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def whole(place: Path) -> Path:
    """Return the folder to read: the place, or the old one where the new one has not arrived.

    >>> whole(Path("nowhere/model")).as_posix()
    'nowhere/model'
    """
    return place if place.exists() or not _old(place).is_dir() else _old(place)


def recover(place: Path) -> None:
    """Bring a place into order after a crash; for writers, since it moves and deletes.

    Raises:
        OSError: the folder around it cannot be written.
    """
    if not place.exists() and _old(place).is_dir():
        os.replace(_old(place), place)
        force_to_disk(place.parent)
    for leftover in (_old(place), *place.parent.glob(f".{place.name}.new.*")):
        if leftover.exists():
            shutil.rmtree(leftover)


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
    try:
        new.chmod(0o755)  # mkdtemp makes it private
        yield new
        for path in (*new.rglob("*"), new):
            force_to_disk(path)
        if place.exists():
            os.replace(place, _old(place))
        os.replace(new, place)
        force_to_disk(place.parent)
    except BaseException:
        with suppress(OSError):  # the first error is the one to report
            recover(place)
        raise
    recover(place)


def write_whole(path: Path, data: bytes) -> None:
    """Write one file, so that a half-written one never stands under its name."""
    aside = path.with_name(path.name + ".part")
    aside.write_bytes(data)
    os.replace(aside, path)


def force_to_disk(path: Path) -> None:
    """Wait until a file, or the list of names in a folder, is on the disk."""
    if path.is_dir():
        if os.name == "nt":
            return  # Windows cannot open folders, and orders renames by itself
        number = os.open(path, os.O_RDONLY)
    else:
        number = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _old(place: Path) -> Path:
    return place.with_name(f".{place.name}.old")
