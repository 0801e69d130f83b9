"""The folder of a training run, in which the checkpoint is whole at every moment.

    run/checkpoint/           what load_checkpoint opens: config.json, weights, tokenizer.json
        state.npz             AdamW's step, m and v
        training.json         config, settings, fingerprints of the data; see resume.py
    run/metrics.jsonl         see metrics.py
    run/loss.png              see loss_plot.py

A process may be killed between any two operations, so a checkpoint is never changed in place:

    1. write everything into checkpoint.tmp-<pid> and wait until it is on the disk
    2. rename checkpoint to checkpoint.old
    3. rename checkpoint.tmp-<pid> to checkpoint
    4. delete checkpoint.old

Killed in 1, the old checkpoint stands and a leftover is deleted later. Killed between 2 and 3,
`recover` undoes 2. Killed in 4, the rest is deleted later. Two processes must not train in one
folder; see `locked`.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from ..backend import to_numpy
from ..model.checkpoint import SavesItself, save_checkpoint
from ..model.config import QwenConfig
from ..params import Params
from .adamw import AdamWState


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


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make the folder and keep other training processes out of it until the end of the block.

    The kernel keeps the lock, on the folder itself, and opens it however this process ends. Windows
    and some network disks have no such locks; there nobody is kept out.

    Raises:
        OSError: another process has the lock, or the folder cannot be made.
    """
    with explain_os_errors(f"use {folder} as the folder of a run"):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:
        yield
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(number)
        raise OSError(f"another process is training in this folder: {folder}") from None
    except OSError:
        pass  # a disk without locks
    try:
        yield
    finally:
        os.close(number)


def recover(folder: Path) -> None:
    """Bring the folder into order after a kill; harmless at any other time.

    Raises:
        OSError: the folder cannot be written.
    """
    with explain_os_errors(f"use {folder} as the folder of a run"):
        checkpoint, old = folder / "checkpoint", folder / "checkpoint.old"
        if old.exists() and not checkpoint.exists():
            os.rename(old, checkpoint)
            sync(folder)
        for leftover in (old, *folder.glob("*checkpoint.tmp-*"), folder / "metrics.jsonl.tmp"):
            _delete(leftover)


def save_run(
    folder: Path,
    config: QwenConfig,
    params: Params,
    state: AdamWState,
    training: dict[str, Any],
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
                sync(path)
            _delete(old)
            if checkpoint.exists():
                os.rename(checkpoint, old)
            os.rename(new, checkpoint)
            sync(folder)
        except BaseException:
            with suppress(OSError):  # the first error is the one to report
                recover(folder)
            raise
        _delete(old)


def sync(path: Path) -> None:
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
