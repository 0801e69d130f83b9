"""The folder of a training run; model/atomic_folder.py keeps the checkpoint whole at every moment.

    run/checkpoint/           what load_checkpoint opens: config.json, weights, tokenizer.json
        state.npz             AdamW's step, m and v
        loss_scale.json       loss scale of a run in float16; see resume.py
        training.json         config, settings, fingerprints of the data; see resume.py
        steps.json            steps of a run where not all are updates (online DPO)
    run/metrics.jsonl         see metrics.py
    run/loss.png              see loss_plot.py
    run/metrics.png           see alignment/metrics_plot.py

Two processes must not train in one folder, see `locked`; and a folder that holds a log or a plot
but no checkpoint is not ours, see `require_own`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..backend import to_numpy
from ..model.atomic_folder import new_folder, whole
from ..model.checkpoint import SavesItself, prepare_tensors, write_checkpoint
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
        raise OSError(f"another process works in this folder: {folder}") from None
    except OSError:
        pass  # a disk without locks
    try:
        yield
    finally:
        os.close(number)


def require_own(folder: Path) -> None:
    """Raise FileExistsError when the folder holds files of somebody else that we would overwrite.

    A run writes its checkpoint before anything else.
    """
    if whole(folder / "checkpoint").exists():
        return
    for name in ("metrics.jsonl", "loss.png", "metrics.png", "calibration.png"):
        path = folder / name
        if path.exists() and path.stat().st_size > 0:
            raise FileExistsError(f"{path} is not of a run, {folder} has no checkpoint")


def save_run(
    folder: Path,
    config: QwenConfig,
    params: Params,
    state: AdamWState,
    training: dict[str, Any],
    tokenizer: SavesItself | None = None,
    more: Callable[[Path], None] | None = None,
) -> None:
    """Put a new checkpoint in the place of the old one, all of it or nothing.

    Args:
        folder: of the run.
        config: of the model.
        params: its parameters.
        state: of AdamW.
        training: anything JSON can hold, for training.json.
        tokenizer: written beside the weights, so that the folder can generate text.
        more: writes what else belongs to the checkpoint, such as a second model, into the folder
            that is given to it.

    Raises:
        OSError: it could not be written; the old checkpoint stands.
    """
    stands = ", the last one stands" if whole(folder / "checkpoint").exists() else ""
    with explain_os_errors(f"write a checkpoint into {folder}{stands}"):
        stored = prepare_tensors(config, params)
        with new_folder(folder / "checkpoint") as new:
            write_checkpoint(new, config, stored)
            if tokenizer is not None:
                tokenizer.save_pretrained(new)
            write_state(new, state)
            text = json.dumps(training, ensure_ascii=False, indent=1, allow_nan=False)
            (new / "training.json").write_text(text + "\n", encoding="utf-8")
            if more is not None:
                more(new)


def write_state(folder: Path, state: AdamWState) -> None:
    """Write AdamW's step, m and v into folder/state.npz."""
    arrays: dict[str, Any] = {"step": np.asarray(state["step"])}
    arrays |= {f"m.{key}": to_numpy(m) for key, m in state["m"].items()}
    arrays |= {f"v.{key}": to_numpy(v) for key, v in state["v"].items()}
    np.savez(folder / "state.npz", **arrays)
