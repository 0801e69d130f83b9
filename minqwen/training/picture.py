"""A picture of a run reaches its place whole: drawn aside first, a failure keeps the old one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from .run_folder import explain_os_errors


def save_picture(figure: Any, path: Path) -> None:
    """Write a figure of matplotlib as a PNG file.

    Args:
        figure: matplotlib.figure.Figure.
        path: ends in .png.

    Raises:
        OSError: it could not be written; an old picture stands, and nothing lies beside it.
    """
    aside = path.with_suffix(".tmp.png")
    try:
        with explain_os_errors(f"write {path}"):
            figure.savefig(aside, dpi=120)
            os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
