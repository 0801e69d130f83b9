"""results.json: what was measured, written after every single measurement.

A number is worth keeping only while everything it came from is as it was, so the file holds a
fingerprint: of the settings, the trained parameters, the measured text and the code. When one of
them has changed, the old numbers are dropped and not mixed with new ones.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..backend import Array
from ..model.atomic_folder import write_whole
from ..params import Params
from ..training.run_folder import explain_os_errors

KIND = "minqwen lab long-context"
MEASURING = (  # the code behind a number: packages and files
    "backend.py",
    "layers",
    "long_context",
    "model",
    "lab/measure.py",
    "lab/techniques.py",
)
CELL = ("nll", "perplexity", "by_text", "by_position", "seconds")


class Results:
    """The numbers in a folder.

    Attributes:
        facts: settings, fingerprint and notes about the training: anything JSON can hold.
        cells: technique -> length, as text -> one cell of measure(). In the study of experts it is
            run -> "start" or "end" -> one cell of measure_run().
    """

    def __init__(self, folder: Path, kind: str = KIND, cell: Sequence[str] = CELL) -> None:
        """Open a folder; an empty one gets a file without numbers, which marks it as ours.

        Args:
            folder: of the laboratory.
            kind: the command that makes it; the file of another one is refused.
            cell: what must be in a cell.

        Raises:
            FileExistsError: it holds something else.
            ValueError: its results.json is damaged.
            OSError: it cannot be written.
        """
        self.path, self.kind, self.cell = folder / "results.json", kind, cell
        self.facts: dict[str, Any] = {}
        self.cells: dict[str, dict[str, Any]] = {}
        if self.path.is_file():
            self._read()
        elif any(folder.iterdir()):
            raise FileExistsError(f"{folder} holds other files; choose another --out")
        else:
            self.save()

    def _read(self) -> None:
        try:
            values = json.loads(self.path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{self.path} is corrupt or cut off: {error}") from None
        if not isinstance(values, dict) or values.get("kind") != self.kind:
            raise FileExistsError(f"{self.path} is not of `{self.kind}`; choose another --out")
        facts, cells = values.get("facts"), values.get("cells")
        if not isinstance(facts, dict) or not isinstance(cells, dict):
            raise ValueError(f"{self.path} is corrupt or cut off: it has no facts and cells")
        for technique, row in cells.items():
            for length, cell in row.items() if isinstance(row, dict) else [("?", None)]:
                if not isinstance(cell, dict) or not set(self.cell) <= cell.keys():
                    where = f"{technique} at {length}"
                    raise ValueError(f"{self.path} is corrupt or cut off: {where} is no cell")
        self.facts, self.cells = facts, cells

    def start(self, facts: dict[str, Any]) -> bool:
        """Take the facts of this laboratory; drop numbers that came from others.

        Returns:
            Whether there were such numbers.
        """
        facts = json.loads(json.dumps(facts))  # tuples become lists, as in the file
        same = self.facts.get("fingerprint") == facts["fingerprint"]
        dropped = not same and bool(self.cells)
        if not same:
            self.cells = {}
        self.facts = facts
        self.save()
        return dropped

    def get(self, technique: str, length: int | str) -> dict[str, Any] | None:
        """Return a cell, or None if it has not been measured."""
        return self.cells.get(technique, {}).get(str(length))

    def put(self, technique: str, length: int | str, cell: dict[str, Any]) -> None:
        """Keep a cell and write the file."""
        self.cells.setdefault(technique, {})[str(length)] = cell
        self.save()

    def save(self) -> None:
        """Write the file; a half-written one never stands under its name."""
        values = {"kind": self.kind, "facts": self.facts, "cells": self.cells}
        text = json.dumps(values, ensure_ascii=False, indent=1, allow_nan=False)
        with explain_os_errors(f"write {self.path}"):
            write_whole(self.path, (text + "\n").encode("utf-8"))


def fingerprint(
    settings: dict[str, Any], params: Params, texts: Array, code: Sequence[str] = MEASURING
) -> dict[str, Any]:
    """Return all that a measured number depends on.

    Args:
        settings: of the laboratory.
        params: trained, on the host.
        texts: the measured tokens.
        code: packages and files of minqwen.
    """
    package = Path(__file__).resolve().parents[1]
    files: list[Path] = []
    for name in code:
        place = package / name
        files += [place] if place.is_file() else sorted(place.glob("*.py"))
    return {
        "settings": settings,
        "params": _digest(part for key in sorted(params) for part in (key, params[key])),
        "texts": _digest([texts]),
        "code": _digest(text for p in files for text in (p.name, p.read_text(encoding="utf-8"))),
    }


def _digest(parts: Iterable[str | Array]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode() if isinstance(part, str) else str(part.dtype).encode() + part.tobytes()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()
