"""A folder for one process of a student's code, watched while it is in use and gone after it.

The system limits the size of one file, not how many there are. So a thread looks four times a
second at what the scratch folder holds, and ends the process when that is too much. At the end all
is removed, however deep its folders are nested.
"""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..agent.kernel.disk_use import folder_use

MOST_BYTES, MOST_ENTRIES = 256 << 20, 5000
LOOK_SECONDS = 0.25


@contextmanager
def grading_folder() -> Iterator[Path]:
    """Give an empty folder with `files`, `given` and `scratch` in it, and remove it at the end.

    >>> with grading_folder() as folder:
    ...     print(sorted(path.name for path in folder.iterdir()))
    ['files', 'given', 'scratch']
    >>> folder.exists()
    False
    """
    folder = Path(tempfile.mkdtemp(prefix="minqwen-grade-")).resolve()
    try:
        for name in ("files", "given", "scratch"):
            (folder / name).mkdir()
        yield folder
    finally:
        empty(str(folder))
        with suppress(OSError):
            folder.rmdir()


def empty(top: str) -> None:
    """Remove all that is in a folder in which nobody works any more; what cannot be, stays.

    Inner folders are moved to the top, so no path grows long, and each is looked at once, so it
    ends whatever is in them.
    """
    waiting, moved = [top], 0
    while waiting:
        folder = waiting.pop()
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in list(entries):
                with suppress(OSError):
                    if not entry.is_dir(follow_symlinks=False):
                        os.unlink(entry.path)
                        continue
                    os.chmod(entry.path, 0o700)  # else it can be neither read nor moved
                    place = entry.path
                    if folder != top:
                        moved += 1
                        place = os.path.join(top, f"moved-{moved}")
                        os.rename(entry.path, place)
                    waiting.append(place)
        if folder != top:
            with suppress(OSError):
                os.rmdir(folder)


def too_full(folder: Path) -> bool:
    """Say whether a folder holds more than it may, or cannot be counted."""
    try:
        size, entries = folder_use([str(folder)], MOST_ENTRIES)
    except OSError:
        return True
    return size > MOST_BYTES or entries > MOST_ENTRIES


@contextmanager
def watched(folder: Path, process: Callable[[], int | None]) -> Iterator[list[str]]:
    """Watch a folder while the block runs.

    Args:
        folder: where the process may write.
        process: gives the number of the process that is to be ended; None while there is none.

    Yields:
        A list that gets a sentence when a process was ended.
    """
    ended, over = threading.Event(), list[str]()

    def look() -> None:
        while not ended.wait(LOOK_SECONDS):
            number = process()
            if number is not None and too_full(folder):
                with suppress(OSError):
                    os.kill(number, signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
                empty(str(folder))  # or the next process would be ended for it too
                most = MOST_BYTES >> 20
                over[:] = [f"it wrote more than {most} MiB, or {MOST_ENTRIES} files: stopped"]

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield over
    finally:
        ended.set()
        thread.join()
