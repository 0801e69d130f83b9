"""Going on with a run: what its checkpoint holds, and whether it is the same run.

A run goes on as if it had never stopped only if everything else is as it was, so training.json
holds the kind of run, the config, the settings and a fingerprint of the data. What differs, or is
damaged, is named. A run from before the kind was noted goes on without that comparison.

A run in float16 has a loss scale beside its parameters and AdamW's state, in loss_scale.json.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Protocol

from ..backend import Array
from ..model.atomic_folder import whole
from ..model.checkpoint import load_checkpoint, read_npz
from ..model.config import QwenConfig
from ..params import Params, name_list
from .adamw import AdamWState
from .loss_scaling import LossScale
from .settings import PretrainSettings

Training = dict[str, Any]  # training.json: stage, config, settings, rows, validation_rows
MAY_CHANGE = (
    "steps",
    "checkpoint_every",
    "eval_every",
)  # settings of a resumed run; steps may only grow

OLD_STAGES = {"reward model": "reward", "online dpo": "online_dpo"}  # what was written before

DATA = {"rows": "trained", "validation_rows": "validated"}

DEFAULTS = {
    f.name: f.default
    for f in (*fields(QwenConfig), *fields(PretrainSettings))
    if f.default is not MISSING
}


class HasDict(Protocol):
    """What describe_run wants of settings."""

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""


def describe_run(
    config: QwenConfig,
    settings: HasDict,
    rows: Array,
    validation_rows: Array | None,
    **others: Any,
) -> Training:
    """Return what training.json will hold: all that must be the same when the run goes on.

    Args:
        config: of the model.
        settings: of the run.
        rows: to train on; any array of whole numbers that says what they are.
        validation_rows: to look at now and then, or None.
        others: what else must be the same, by its name: anything that JSON can hold. `stage` says
            what kind of run it is: pretrain, sft, reward, dpo, online_dpo or ppo.
    """
    training = {
        "config": config.to_dict(),
        "settings": settings.to_dict(),
        "rows": _fingerprint(rows),
        "validation_rows": None if validation_rows is None else _fingerprint(validation_rows),
        **others,
    }
    same: Training = json.loads(json.dumps(training))  # tuples become lists, as in the file
    return same


def _fingerprint(rows: Array) -> str:
    """Return a short text that is another one for other rows."""
    digest = hashlib.blake2b(str(rows.shape).encode(), digest_size=16)
    for start in range(0, len(rows), 1024):
        digest.update(rows[start : start + 1024].astype("<i4").tobytes())
    return digest.hexdigest()


def last_checkpoint(folder: Path) -> Path | None:
    """Return where the run in this folder has its last whole checkpoint, None without a run.

    It changes nothing: after a kill at the wrong moment that is the old one, see atomic_folder.
    """
    checkpoint = whole(folder / "checkpoint")
    return checkpoint if checkpoint.is_dir() else None


def load_run(folder: Path, dtype: str) -> tuple[Params, AdamWState, Training] | None:
    """Return parameters, AdamW state and training.json of the checkpoint, or None without one.

    Args:
        folder: of the run, after `recover`.
        dtype: of the parameters.

    Raises:
        ValueError: there is a checkpoint, but not one of a training run, or a file is damaged.
    """
    checkpoint = folder / "checkpoint"
    if not checkpoint.exists():
        return None
    training = read_training(checkpoint)
    if not (checkpoint / "state.npz").is_file():
        raise ValueError(f"{checkpoint} cannot be resumed, it has no state.npz")
    _, params = load_checkpoint(checkpoint, dtype=dtype)
    return params, read_state(checkpoint / "state.npz", params), training


def read_training(checkpoint: Path) -> Training:
    """Return training.json of a checkpoint.

    Raises:
        ValueError: it is missing or damaged.
    """
    path = checkpoint / "training.json"
    if not path.is_file():
        raise ValueError(f"{checkpoint} cannot be resumed, it has no training.json")
    try:
        training = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _damaged(path, error) from None
    if not isinstance(training, dict):
        raise _damaged(path, "it holds no JSON object")
    config, settings = (training.get(name) for name in ("config", "settings"))
    numbers = settings if isinstance(settings, dict) else {}
    right = {
        "config": isinstance(config, dict),
        "settings": isinstance(settings, dict),
        "settings.steps": type(numbers.get("steps")) is int,
        "settings.warmup_steps": type(numbers.get("warmup_steps", 0)) is int,
        "rows": isinstance(training.get("rows"), str),
        "validation_rows": isinstance(training.get("validation_rows", 0), (str, type(None))),
        "stage": isinstance(training.get("stage", ""), str),
    }
    if wrong := [name for name, is_right in right.items() if not is_right]:
        raise _damaged(path, f"missing or wrong {name_list(wrong)}")
    return training


def read_state(path: Path, params: Params) -> AdamWState:
    """Return AdamW's state from a state.npz.

    Args:
        path: of the file.
        params: whose state it is.

    Raises:
        ValueError: it is damaged, or is that of other parameters.
    """
    shapes: dict[str, tuple[int, ...]] = {"step": ()}
    shapes |= {f"{moment}.{key}": w.shape for moment in "mv" for key, w in params.items()}
    arrays = {name: array for name, array in read_npz(path).items() if name in shapes}
    if missing := shapes.keys() - arrays.keys():
        raise _damaged(path, f"missing {name_list(missing)}")
    if wrong := [
        f"{name} {array.dtype} {array.shape} instead of {shapes[name]}"
        for name, array in arrays.items()
        if array.shape != shapes[name] or array.dtype.kind != ("i" if name == "step" else "f")
    ]:
        raise _damaged(path, f"mis-shaped {name_list(wrong)}")
    return {
        "step": int(arrays["step"]),
        "m": {key: arrays[f"m.{key}"] for key in params},
        "v": {key: arrays[f"v.{key}"] for key in params},
    }


def write_loss_scale(folder: Path, loss_scale: LossScale) -> None:
    """Write folder/loss_scale.json."""
    text = json.dumps(loss_scale._asdict(), allow_nan=False) + "\n"
    (folder / "loss_scale.json").write_text(text, encoding="utf-8")


def read_loss_scale(checkpoint: Path) -> LossScale:
    """Return what write_loss_scale wrote into a checkpoint.

    Raises:
        ValueError: it is missing or damaged.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> write_loss_scale(folder, LossScale(1024.0, good_steps=7, skipped=2))
    >>> read_loss_scale(folder)
    LossScale(scale=1024.0, good_steps=7, skipped=2)
    """
    path = checkpoint / "loss_scale.json"
    if not path.is_file():
        raise ValueError(f"{checkpoint} cannot be resumed in float16, it has no loss_scale.json")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _damaged(path, error) from None
    if not isinstance(found, dict):
        raise _damaged(path, "it holds no JSON object")
    scale = found.get("scale")
    right = {"scale": isinstance(scale, float) and 0 < scale < math.inf}
    for name in ("good_steps", "skipped"):
        right[name] = type(found.get(name)) is int and found[name] >= 0
    if wrong := [name for name, is_right in right.items() if not is_right]:
        raise _damaged(path, f"missing or wrong {name_list(wrong)}")
    return LossScale(found["scale"], found["good_steps"], found["skipped"])


def _damaged(path: Path, why: object) -> ValueError:
    return ValueError(f"{path} is corrupt or cut off: {why}")


def require_same_run(folder: Path, before: Training, now: Training, step: int) -> None:
    """Raise ValueError, naming the first difference, unless the run can go on as the same run.

    Args:
        folder: of the run, for the message.
        before: training.json of the checkpoint.
        now: what would be written into it now.
        step: steps done.
    """
    old_stage, new_stage = before.get("stage"), now.get("stage")
    old_stage = OLD_STAGES.get(old_stage, old_stage) if old_stage is not None else None
    if None not in (old_stage, new_stage) and old_stage != new_stage:  # first: the rest follows
        raise ValueError(
            f"the run in {folder} is one of {old_stage}, not of {new_stage}: use another folder"
        )
    if now["settings"]["steps"] < before["settings"]["steps"]:
        raise ValueError(
            f"the run in {folder} has settings.steps = {before['settings']['steps']} and has done "
            f"{step}: steps may grow, not shrink to {now['settings']['steps']}"
        )
    for what in ("config", "settings"):
        for name in sorted(before[what].keys() | now[what].keys()):
            # what is as always does not stand in a config file, nor what an older version had not
            old, new = (run[what].get(name, DEFAULTS.get(name)) for run in (before, now))
            if old != new and not (what == "settings" and name in MAY_CHANGE):
                raise ValueError(
                    f"the run in {folder} has {what}.{name} = {old!r}, not {new!r}: "
                    "use the same value, or another folder"
                )
    for name, done in DATA.items():
        if before[name] != now[name]:
            raise ValueError(
                f"the run in {folder} was {done} on other {name}: "
                "use the same ones, or another folder"
            )
    for name in sorted(now.keys() - {"config", "settings", "stage", *DATA}):
        if before.get(name) != now.get(name):
            raise ValueError(
                f"the run in {folder} has another {name}: use the same one, or another folder"
            )
