"""What a training run notes about its steps: run/metrics.jsonl, one JSON object a line.

    {"step": 1, "loss": 7.6, "lr": 1e-05, "grad_norm": 2.3, "tokens": 2048, ...}
    {"step": 1, "validation_loss": 7.5}

A mixture of experts adds aux_loss and max_load to the first kind, and to the second expert_load, a
list for each sparse layer of the share of the choices that fell on each expert. A run in float16
adds loss_scale and skipped (steps without an update so far); a skipped step has no grad_norm.

Lines are only ever added at the end, so a kill can damage no more than the last one.
"""

from __future__ import annotations

import json
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..model.atomic_folder import force_to_disk
from .run_folder import explain_os_errors

Row = dict[str, Any]


class Metrics:
    """The open file, to which a line is added for each step and each look at validation data.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with Metrics(folder, step=0) as metrics:
    ...     metrics.append({"step": 1, "loss": 2.5})
    >>> Metrics.read(folder)
    [{'step': 1, 'loss': 2.5}]
    """

    def __init__(self, folder: Path, step: int) -> None:
        """Open the file, without the lines that a run resumed at `step` will write again.

        Those of later steps go, and a line cut off by a kill. The validation loss at `step` is
        measured again too: the checkpoint may be older than it.
        """
        self.folder = folder
        path = folder / "metrics.jsonl"
        with explain_os_errors(f"write {path}"):
            kept = [
                row
                for row in self.read(folder)
                if row["step"] < step or (row["step"] == step and {"loss", "lr"} & row.keys())
            ]
            aside = folder / "metrics.jsonl.tmp"
            aside.write_text("".join(map(self._line, kept)), encoding="utf-8", newline="\n")
            force_to_disk(aside)
            os.replace(aside, path)
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115

    @staticmethod
    def read(folder: Path) -> list[Row]:
        """Return the rows up to the first line that is damaged, as the last one is by a kill.

        A row is an object of finite numbers, or lists of them, with a whole number `step`.
        """
        path = folder / "metrics.jsonl"
        if not path.exists():
            return []
        rows: list[Row] = []
        with suppress(ValueError):
            for line in path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]:
                row = json.loads(line)
                if not isinstance(row, dict) or type(row.get("step")) is not int:
                    break
                if not all(map(_finite, row.values())):
                    break
                rows.append(row)
        return rows

    @staticmethod
    def _line(row: Row) -> str:
        return json.dumps(row, allow_nan=False) + "\n"

    def append(self, row: Row) -> None:
        """Write one line, so that other programs see it at once."""
        with explain_os_errors(f"write {self.folder / 'metrics.jsonl'}"):
            data = self._line(row).encode("utf-8")
            while data:  # a nearly full disk takes a part first, and refuses the rest
                data = data[self._file.write(data) :]

    def sync(self) -> None:
        """Wait until all lines are on the disk. A checkpoint must not be ahead of them."""
        with explain_os_errors(f"write {self.folder / 'metrics.jsonl'}"):
            os.fsync(self._file.fileno())

    def __enter__(self) -> Metrics:
        """Return itself, open."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the file."""
        self._file.close()


def _finite(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_finite, value))
    return type(value) in (int, float) and math.isfinite(value)
