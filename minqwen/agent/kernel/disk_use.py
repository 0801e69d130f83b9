"""What the code has on the disk: the files in its folders, and those that it removed and still has.

A file that is removed while it is open, or mapped into memory, has no name and still fills the
disk. So both are asked for: the folders what they hold, and the processes what they have open.

Folders are gone through by open handles, not by paths: a path ends at 4096 characters, and folders
do not.

Paper: none; Qwen report 3.4 runs code and says nothing of how.
Origin: openat(2), proc(5).
Differs: none.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable

from .process_table import Process, has_ended

REMOVED = " (deleted)"  # what the system writes behind the path of a file without a name
FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)


def folder_use(folders: Iterable[str], most_entries: int) -> tuple[int, int]:
    """Count what folders hold, links not followed; stops soon after `most_entries`.

    Returns:
        Bytes on the disk, and number of entries, the folders themselves among them.

    Raises:
        OSError: folders are nested deeper than handles last, or one of ours cannot be read.
    """
    size = entries = 0
    for top in folders:
        try:
            handles = [os.open(top, FOLDER)]
        except FileNotFoundError:
            continue
        listings = [os.scandir(handles[0])]
        entries += 1
        try:
            while listings and entries <= most_entries:
                entry = next(listings[-1], None)
                if entry is None:
                    listings.pop().close()
                    os.close(handles.pop())
                    continue
                entries += 1
                owner = os.geteuid()
                try:
                    about = entry.stat(follow_symlinks=False)
                    owner = about.st_uid
                    size += about.st_blocks * 512
                    if stat.S_ISDIR(about.st_mode):
                        handles.append(os.open(entry.name, FOLDER, dir_fd=handles[-1]))
                        listings.append(os.scandir(handles[-1]))
                except (FileNotFoundError, NotADirectoryError):  # changed meanwhile
                    continue
                except PermissionError:
                    if owner == os.geteuid():  # a folder to hide things in
                        raise
        finally:
            for listing in listings:
                listing.close()
            for handle in handles:
                os.close(handle)
    return size, entries


def removed_use(processes: Iterable[Process], folders: tuple[str, ...], largest: int) -> int:
    """Count bytes of files that have no name any more, and that processes still have; Linux.

    Args:
        processes: of process_table.py.
        folders: where the files were.
        largest: bytes of the largest file that may be: what is mapped into memory and not open is
            taken to be as large, since the system does not tell.

    Raises:
        PermissionError: a process hides what it has open.
    """
    sizes: dict[int, int] = {}  # by the number of the file on its disk
    mapped: set[int] = set()
    for process in processes:
        try:
            for name in os.listdir(f"{process.place}/fd"):
                try:
                    about = os.stat(f"{process.place}/fd/{name}")
                except FileNotFoundError:
                    continue
                if stat.S_ISREG(about.st_mode) and about.st_nlink == 0:
                    sizes[about.st_ino] = about.st_blocks * 512
            with open(f"{process.place}/maps", encoding="utf-8", errors="replace") as file:
                for line in file:
                    if line.endswith(f"{REMOVED}\n") and any(f" {top}/" in line for top in folders):
                        mapped.add(int(line.split()[4]))
        except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            continue
        except PermissionError:
            if not has_ended(process):
                raise
    return sum(sizes.values()) + largest * len(mapped - set(sizes))


def remove_folder(top: str) -> None:
    """Remove a folder that nobody works in any more, however deep it is; what cannot be, stays.

    A folder inside of a folder is moved to the top before, so no path grows long.
    """
    moved = 0
    before = -1
    while moved != before:
        before = moved
        for folder in _emptied(top):
            for inner in _emptied(folder):
                with contextlib.suppress(OSError):
                    os.chmod(inner, 0o700)  # only who may write into a folder may move it
                    os.rename(inner, f"{top}/moved-{moved + 1}-{os.getpid()}")
                    moved += 1  # not where it fails, or this would never end
            with contextlib.suppress(OSError):
                os.rmdir(folder)
    with contextlib.suppress(OSError):
        os.rmdir(top)


def _emptied(folder: str) -> list[str]:
    """Remove the files in a folder; return the folders."""
    folders = []
    with contextlib.suppress(OSError):
        os.chmod(folder, 0o700)
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                else:
                    with contextlib.suppress(OSError):
                        os.unlink(entry.path)
    return folders
