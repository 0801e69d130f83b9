"""What the pages of the laboratory are made of: pictures as files, tables in Markdown."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..model.atomic_folder import write_whole
from ..training.run_folder import explain_os_errors


def write_file(path: Path, data: bytes) -> None:
    """Write one file whole, and say which if that is impossible."""
    with explain_os_errors(f"write {path}"):
        write_whole(path, data)


def png(drawing: Any) -> bytes:
    """Return a matplotlib figure as a PNG file."""
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def markdown_table(rows: Sequence[Sequence[str]], align: str) -> list[str]:
    """Return the lines of a table, and an empty one after it.

    Args:
        rows: the first one is the head.
        align: of all columns but the first, as " ---: |" for numbers.

    >>> markdown_table([["loss", "nats"], ["dense", "2.05"]], " ---: |")
    ['| loss | nats |', '| --- | ---: |', '| dense | 2.05 |', '']
    """
    head, *body = ("| " + " | ".join(row) + " |" for row in rows)
    return [head, "| --- |" + align * (len(rows[0]) - 1), *body, ""]
