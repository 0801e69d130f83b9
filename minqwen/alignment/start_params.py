"""Where a stage starts: from a copy of a trained model, or from where the run in its folder is.

A run that goes on must have started from the same model, so its fingerprint stands in training.json
(`describe_run(..., start_model=params_fingerprint(params))`). DPO and PPO keep the start as their
frozen reference, which is one more reason.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from ..backend import to_numpy
from ..params import Params
from ..training.adamw import AdamWState, adamw_init
from ..training.resume import Training, load_run, require_same_run

STEPS = "steps.json"  # in a checkpoint, where the run has more steps than AdamW has done updates


def params_fingerprint(params: Params, dtype: str | None = None) -> str:
    """Return a short text that is another one when a bit, a name, a shape or the dtype differs.

    Args:
        params: of a model.
        dtype: in which they are looked at, that of the training; None: as they are.

    >>> one, two = {"w": np.zeros(2)}, {"w": np.zeros((1, 2))}
    >>> params_fingerprint(one) == params_fingerprint({"w": np.zeros(2)})
    True
    >>> params_fingerprint(one) == params_fingerprint(two)
    False
    """
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(params):
        value = to_numpy(params[name])
        value = np.ascontiguousarray(value if dtype is None else value.astype(dtype, copy=False))
        digest.update(f"{name} {value.dtype.str} {params[name].shape}\n".encode())
        digest.update(value.data)
    return digest.hexdigest()


def write_steps(checkpoint: Path, step: int) -> None:
    """Note the steps of a run in which not every step is an update of AdamW."""
    (checkpoint / STEPS).write_text(json.dumps({"step": step}) + "\n", encoding="utf-8")


def _steps_done(path: Path, updates: int) -> int:
    """Return the steps that write_steps noted; without such a file each was an update."""
    if not path.is_file():
        return updates
    try:
        step = json.loads(path.read_text(encoding="utf-8"))["step"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is corrupt or cut off: {error}") from None
    if type(step) is not int or step < updates:
        raise ValueError(
            f"{path} is corrupt or cut off: step must be a whole number, at least the {updates} "
            f"updates of state.npz, got {step!r}"
        )
    return step


def start_or_resume(
    folder: Path, params: Params, training: Training, dtype: str
) -> tuple[Params, AdamWState, int]:
    """Return parameters, AdamW's state, and the step of the checkpoint in the folder, -1 without.

    Args:
        folder: of the run, inside run_opened.
        params: to start from; copied.
        training: what training.json will hold, see describe_run.
        dtype: of the parameters that are trained.

    Raises:
        ValueError: the checkpoint is damaged, or is not one of this run.
    """
    resumed = load_run(folder, dtype)
    if resumed is not None:
        params, state, before = resumed
        step = _steps_done(folder / "checkpoint" / STEPS, state["step"])
        require_same_run(folder, before, training, step)
        return params, state, step
    params = {key: w.astype(dtype) for key, w in params.items()}  # a copy
    return params, adamw_init(params), -1
