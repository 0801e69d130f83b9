"""The folder in which the code works, as seen from our side.

Paper: Qwen report, 3.4: the code interpreter and its plots.
Origin: none.
Differs: none.
"""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

PACKAGE = os.path.realpath(Path(__file__).parents[2])


def files_in(folder: str) -> dict[str, tuple[int, int]]:
    """Plain files directly in a folder: time of the last change, and size.

    A name that is not printable is passed over: what is left of it on a screen is the name of
    something else, a link to outside perhaps.
    """
    found: dict[str, tuple[int, int]] = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                about = entry.stat(follow_symlinks=False)
                named = entry.name.isprintable() and not entry.name.startswith(".")
                if named and stat.S_ISREG(about.st_mode):
                    found[entry.name] = (about.st_mtime_ns, about.st_size)
    except OSError:
        pass
    return found


def _places_of_ours() -> dict[str, str]:
    """What would run the code's changes the next time, outside of all guards."""
    home = os.path.expanduser("~")  # "~" where a user has none, as in some containers
    ours = {"this program": PACKAGE, "Python": sys.prefix, "Python's command": sys.executable}
    return ours | ({"your home": home} if os.path.isabs(home) else {})


def make_working_folder(folder: str | os.PathLike[str]) -> str:
    """Make a folder if it is missing, and return its real path.

    Raises:
        ValueError: it holds your home, Python, or this program, or lies in the last.
        OSError: it cannot be made.
    """
    path = Path(folder).expanduser()
    path.mkdir(parents=True, exist_ok=True)
    real = os.path.realpath(path)
    if Path(real).is_relative_to(PACKAGE):
        raise ValueError(f"folder must not lie in this program, got {real}")
    for what, place in _places_of_ours().items():
        if Path(os.path.realpath(place)).is_relative_to(real):
            raise ValueError(f"folder must not be or hold {what}, got {real}")
    return real
