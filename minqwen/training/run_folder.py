"""The folder of a training run: a checkpoint that is always whole, metrics, a plot.

    run/checkpoint/           what load_checkpoint opens: config.json, weights, tokenizer.json
        state.npz             AdamW's step, m and v
        training.json         settings, and which data, so that resuming can compare
    run/metrics.jsonl         one JSON object a line
    run/loss.png

A process may be killed between any two operations, so a checkpoint is never changed in place:

    1. write everything into checkpoint.tmp-<pid> and wait until it is on the disk
    2. rename checkpoint to checkpoint.old
    3. rename checkpoint.tmp-<pid> to checkpoint
    4. delete checkpoint.old

Killed in 1, the old checkpoint stands and a leftover is deleted later. Killed between 2 and 3,
`recover` undoes 2. Killed in 4, the rest is deleted later. Two runs must not share a folder.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..backend import to_numpy
from ..model.checkpoint import load_checkpoint, save_checkpoint
from ..model.config import QwenConfig
from ..params import Params
from .adamw import AdamWState

Row = dict[str, Any]
MAY_CHANGE = ("steps", "checkpoint_every")  # settings of a resumed run; steps may only grow


class SavesItself(Protocol):
    """A tokenizer, as far as this file wants to know."""

    def save_pretrained(self, folder: str | Path) -> Any:
        """Write the tokenizer's files into a folder."""


@contextmanager
def explain_os_errors(doing: str) -> Iterator[None]:
    """Say what could not be done when the disk is full or a folder cannot be written.

    >>> with explain_os_errors("write the checkpoint"):
    ...     raise OSError(28, "No space left on device")
    Traceback (most recent call last):
    ...
    OSError: [Errno 28] cannot write the checkpoint: No space left on device
    """
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        message = f"cannot {doing}: {error.strerror or error}{where}"
        raise (OSError(error.errno, message) if error.errno else OSError(message)) from error


def recover(folder: Path) -> None:
    """Bring the folder into order after a kill; harmless at any other time.

    Raises:
        OSError: the folder cannot be made or written.
    """
    with explain_os_errors(f"use {folder} as the folder of a run"):
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint, old = folder / "checkpoint", folder / "checkpoint.old"
        if old.exists() and not checkpoint.exists():
            os.rename(old, checkpoint)
            _sync(folder)
        for leftover in (old, *folder.glob("*checkpoint.tmp-*"), folder / "metrics.jsonl.tmp"):
            _delete(leftover)


def save_run(
    folder: Path,
    config: QwenConfig,
    params: Params,
    state: AdamWState,
    training: Row,
    tokenizer: SavesItself | None = None,
) -> None:
    """Put a new checkpoint in the place of the old one, all of it or nothing.

    Args:
        folder: of the run.
        config: of the model.
        params: its parameters.
        state: of AdamW.
        training: anything JSON can hold, for training.json.
        tokenizer: written beside the weights, so that the folder can generate text.

    Raises:
        OSError: it could not be written; the old checkpoint stands.
    """
    checkpoint, old = folder / "checkpoint", folder / "checkpoint.old"
    new = folder / f"checkpoint.tmp-{os.getpid()}"
    with explain_os_errors(f"write a checkpoint into {folder}, the last one stands"):
        try:
            save_checkpoint(new, config, params, tokenizer=tokenizer)
            arrays: dict[str, Any] = {"step": np.asarray(state["step"])}
            arrays |= {f"m.{key}": to_numpy(m) for key, m in state["m"].items()}
            arrays |= {f"v.{key}": to_numpy(v) for key, v in state["v"].items()}
            np.savez(new / "state.npz", **arrays)
            text = json.dumps(training, ensure_ascii=False, indent=1, allow_nan=False)
            (new / "training.json").write_text(text + "\n", encoding="utf-8")
            for path in (*new.rglob("*"), new):
                _sync(path)
            _delete(old)
            if checkpoint.exists():
                os.rename(checkpoint, old)
            os.rename(new, checkpoint)
            _sync(folder)
        except BaseException:
            with suppress(OSError):  # the first error is the one to report
                recover(folder)
            raise
        _delete(old)


def load_run(folder: Path, dtype: str) -> tuple[Params, AdamWState, Row] | None:
    """Return parameters, AdamW state and training.json of the checkpoint, or None without one.

    Args:
        folder: of the run, after `recover`.
        dtype: of the parameters.

    Raises:
        ValueError: there is a checkpoint, but not one of a training run.
    """
    checkpoint = folder / "checkpoint"
    if not checkpoint.exists():
        return None
    for name in ("training.json", "state.npz"):
        if not (checkpoint / name).is_file():
            raise ValueError(f"{checkpoint} cannot be resumed, it has no {name}")
    _, params = load_checkpoint(checkpoint, dtype=dtype)
    training = json.loads((checkpoint / "training.json").read_text(encoding="utf-8"))
    with np.load(checkpoint / "state.npz", allow_pickle=False) as arrays:
        state: AdamWState = {
            "step": int(arrays["step"]),
            "m": {key: arrays[f"m.{key}"] for key in params},
            "v": {key: arrays[f"v.{key}"] for key in params},
        }
    return params, state, training


def require_same_run(folder: Path, before: Row, now: Row, step: int) -> None:
    """Raise ValueError, naming the first difference, unless the run can go on as the same run.

    Args:
        folder: of the run, for the message.
        before: training.json of the checkpoint.
        now: what would be written into it now.
        step: steps done.
    """
    for what in ("config", "settings"):
        for name in sorted(before[what].keys() | now[what].keys()):
            old, new = before[what].get(name), now[what].get(name)
            if old != new and not (what == "settings" and name in MAY_CHANGE):
                raise ValueError(
                    f"the run in {folder} has {what}.{name} = {old!r}, not {new!r}: "
                    "use the same value, or another folder"
                )
    if before["rows"] != now["rows"]:
        raise ValueError(f"the run in {folder} was trained on other rows: use another folder")
    if now["settings"]["steps"] < before["settings"]["steps"]:
        raise ValueError(
            f"the run in {folder} has settings.steps = {before['settings']['steps']} and has done "
            f"{step}: steps may grow, not shrink to {now['settings']['steps']}"
        )


class Metrics:
    """metrics.jsonl, a line for each step and for each look at the validation data.

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
                if row["step"] < step or (row["step"] == step and "loss" in row)
            ]
            aside = folder / "metrics.jsonl.tmp"
            aside.write_text("".join(map(self._line, kept)), encoding="utf-8", newline="\n")
            _sync(aside)
            os.replace(aside, path)
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115

    @staticmethod
    def read(folder: Path) -> list[Row]:
        """Return the rows up to the first line that is damaged, as the last one is by a kill."""
        path = folder / "metrics.jsonl"
        if not path.exists():
            return []
        rows: list[Row] = []
        with suppress(ValueError):
            for line in path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]:
                rows.append(json.loads(line))
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


def plot_loss(folder: Path) -> None:
    """Draw the losses in metrics.jsonl into loss.png.

    Raises:
        ImportError: matplotlib is missing; see `require_extra`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # not pyplot: it would choose a window system

    rows = Metrics.read(folder)
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for key, label, style in (
        ("loss", "training", {"linewidth": 0.8}),
        ("validation_loss", "validation", {"marker": "o", "markersize": 3}),
    ):
        if points := [(row["step"], row[key]) for row in rows if key in row]:
            axes.plot(*zip(*points, strict=True), label=label, **style)
            axes.legend()
    axes.set(xlabel="step", ylabel="loss (nats per token)")
    axes.grid(alpha=0.3)
    with explain_os_errors(f"write {folder / 'loss.png'}"):
        figure.savefig(folder / "loss.tmp.png", dpi=120)
        os.replace(folder / "loss.tmp.png", folder / "loss.png")


def require_extra(*modules: str) -> None:
    """Raise ImportError with the pip line when a package of the extra `run` is missing.

    >>> require_extra("json", "no_such_package")
    Traceback (most recent call last):
    ...
    ImportError: no_such_package is missing: pip install 'minqwen[run]'
    """
    for module in modules:
        try:
            __import__(module)
        except ImportError:
            raise ImportError(f"{module} is missing: pip install 'minqwen[run]'") from None


def _sync(path: Path) -> None:
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


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
