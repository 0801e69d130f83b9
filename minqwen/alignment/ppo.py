"""PPO as a run: steps of ppo_step.py, with metrics, checkpoints, and going on after a stop.

    run/checkpoint/            the policy, as `minqwen generate` opens it
        state.npz              its AdamW state
        value/                 the value model, with a state.npz of its own
        ppo.json               rollouts done, the running mean of the scores
        training.json          config, settings, fingerprints; see training/resume.py
    run/metrics.jsonl, run/metrics.png

The reference is the policy that the run started from. It is no part of the checkpoint: whoever goes
on gives the same start again, and its fingerprint is compared.

Everything random is a pure function of seed and step, so a run that is killed and resumed gives the
bits of one that is not.

Paper:    Qwen Technical Report, 3.2.2 Reinforcement Learning; its numbers are in settings.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..backend import Array, to_device
from ..data.jsonl import parse_json
from ..data.packing import require_rows
from ..extras import require_extra
from ..model.checkpoint import SavesItself, load_checkpoint, prepare_tensors, write_checkpoint
from ..model.config import QwenConfig, check_params
from ..params import Params
from ..training.adamw import AdamWState
from ..training.metrics import Row
from ..training.progress import wants_bar
from ..training.resume import Training, describe_run, load_run, read_state, require_same_run
from ..training.run_folder import save_run, write_state
from ..training.run_loop import run_loop, run_opened
from .learned import Learned, begin
from .metrics_plot import plot_metrics
from .ppo_metrics import PANELS, metrics_of
from .ppo_step import PpoState, Queries, Score, ppo_step
from .reward_scaling import new_reward_stats
from .rollout import require_queries
from .settings import PpoSettings
from .start_params import params_fingerprint

Evaluate = Callable[[Params], Row]


def ppo(
    config: QwenConfig,
    params: Params,
    queries: Queries,
    score: Score,
    run_folder: str | Path,
    settings: PpoSettings,
    *,
    value_config: QwenConfig,
    value_params: Params,
    ptx_rows: Array | None = None,
    eos_token_ids: Sequence[int],
    end_token_ids: Sequence[int] | None = None,
    pad_id: int,
    tokenizer: SavesItself | None = None,
    evaluate: Evaluate | None = None,
    also_same: dict[str, Any] | None = None,
    progress: bool = True,
    plot: bool = True,
    device: str = "cpu",
) -> Params:
    """Make a policy answer so that it scores higher; go on where the run in this folder stopped.

    Args:
        config: of the policy, and so of the reference.
        params: of the policy at the start, which is the reference; left as they are.
        queries: what is to be answered, as lists of ids up to where the answer begins.
        score: gets B queries and B answers as lists of ids, the end token included; returns (B,)
            numbers. See score.py.
        run_folder: made if missing.
        settings: see PpoSettings.
        value_config: of the value model, num_labels = 1.
        value_params: of it at the start; copied.
        ptx_rows: (n, C + 1) int, of `pack_documents`; needed when settings.ptx_coef is above 0.
        eos_token_ids: tokens that end an answer.
        end_token_ids: those of them that the score knows as an end: an answer that stops with
            another one has no end, see missing_end of the settings. None: all.
        pad_id: fills up rows; no token sees it.
        tokenizer: saved with every checkpoint.
        evaluate: looks at the policy now and then (settings.eval_every) and returns numbers by
            name; one of them is validation_loss, as the loss on text that no one trains on: what
            alignment costs.
        also_same: what else a resumed run must have as it was, such as the fingerprint of the
            reward model, by name; anything JSON can hold.
        progress: show a bar, or lines now and then where stderr is not a terminal.
        plot: draw metrics.png.
        device: "cpu" or "cuda".

    Returns:
        The parameters of the policy.

    Raises:
        ImportError: plot or the bar need a missing package; nothing has been done yet.
        ValueError: an argument does not fit another, or the folder holds another run or a damaged
            file; the message names it.
        FloatingPointError: a score, loss or gradient became NaN or infinite. The last checkpoint
            stands.
        OSError: the folder cannot be written, or another process trains in it. The last checkpoint
            stands.
        KeyboardInterrupt, SystemExit: Ctrl-C or SIGTERM, after a checkpoint of the last complete
            step has been written.
    """
    folder, s = Path(run_folder), settings
    require_extra(*["matplotlib"] * plot, *["tqdm"] * wants_bar(progress))
    _require_fit(config, params, queries, value_config, value_params, eos_token_ids, pad_id)
    ends = None if end_token_ids is None else tuple(map(int, end_token_ids))
    if ends is not None and not set() < set(ends) <= set(map(int, eos_token_ids)):
        raise ValueError(f"end_token_ids must be some of eos_token_ids, got {ends}")
    if s.ptx_coef and ptx_rows is None:
        raise ValueError(f"ptx_coef={s.ptx_coef} needs ptx_rows, the text of pretraining")
    if ptx_rows is not None:
        require_rows("ptx_rows", ptx_rows, ptx_rows.shape[-1] - 1, config.vocab_size)
    training = describe_run(
        config,
        s,
        _one_array(queries),
        None,
        stage="ppo",
        start_model=params_fingerprint(params),
        value_model=params_fingerprint(value_params),
        value_config=value_config.to_dict(),
        ptx_rows=None if ptx_rows is None else params_fingerprint({"rows": ptx_rows}),
        eos_token_ids=list(map(int, eos_token_ids)),
        end_token_ids=ends,
        pad_id=int(pad_id),
        **(also_same or {}),
    )

    with run_opened(folder):
        start = PpoState(
            0,
            begin(config, params, s.dtype),
            begin(value_config, value_params, s.dtype),
            new_reward_stats(),
        )
        resumed = _load(folder, start, s.dtype, training)
        learner = Ppo(
            folder=folder,
            now=_on(device, resumed or start),
            reference=to_device(start.policy.params, device),
            queries=queries,
            score=score,
            settings=s,
            ptx_rows=ptx_rows,
            eos_token_ids=tuple(map(int, eos_token_ids)),
            end_token_ids=ends,
            pad_id=int(pad_id),
            training=training,
            tokenizer=tokenizer,
            evaluate=evaluate,
        )
        run_loop(
            folder,
            s,
            learner,
            saved=resumed.step if resumed else -1,
            progress=progress,
            plot=partial(plot_metrics, panels=PANELS) if plot else None,
        )
    return learner.now.policy.params


@dataclass
class Ppo:
    """What run_loop trains here: a policy and its value model."""

    folder: Path
    now: PpoState
    reference: Params
    queries: Queries
    score: Score
    settings: PpoSettings
    ptx_rows: Array | None
    eos_token_ids: tuple[int, ...]
    end_token_ids: tuple[int, ...] | None
    pad_id: int
    training: Training
    tokenizer: SavesItself | None
    evaluate: Evaluate | None

    @property
    def step(self) -> int:
        """Rollouts done so far."""
        return self.now.step

    def compute(self) -> tuple[PpoState, Row]:
        """Return the next state, and its row of metrics."""
        after, glass = ppo_step(
            self.now,
            self.reference,
            self.queries,
            self.score,
            self.settings,
            ptx_rows=self.ptx_rows,
            eos_token_ids=self.eos_token_ids,
            end_token_ids=self.end_token_ids,
            pad_id=self.pad_id,
        )
        return after, metrics_of(glass, after.step, self.settings)

    def update(self, after: PpoState, row: Row) -> None:
        """Put the next state in the place of this one."""
        self.now = after

    def validate(self) -> Row | None:
        """Return what evaluate says of the policy."""
        if self.evaluate is None:
            return None
        found = self.evaluate(self.now.policy.params)
        if "validation_loss" not in found:
            raise ValueError(f"evaluate must return validation_loss too, got {sorted(found)}")
        return found

    def save(self) -> None:
        """Write the checkpoint: policy, value model and statistics, all or nothing."""
        step, policy, value, stats = self.now

        def more(checkpoint: Path) -> None:
            place = checkpoint / "value"
            place.mkdir()
            write_checkpoint(place, value.config, prepare_tensors(value.config, value.params))
            write_state(place, value.state)
            text = json.dumps({"step": step, "scores": stats}, allow_nan=False)
            (checkpoint / "ppo.json").write_text(text + "\n", encoding="utf-8")

        save_run(
            self.folder,
            policy.config,
            policy.params,
            policy.state,
            self.training,
            self.tokenizer,
            more,
        )


def _load(folder: Path, start: PpoState, dtype: str, training: Training) -> PpoState | None:
    """Return the state of the checkpoint in the folder, None without one.

    Args:
        folder: of the run, inside run_opened.
        start: gives the configs, which are compared with those of the checkpoint.
        dtype: of the parameters.
        training: what training.json will hold.

    Raises:
        ValueError: the checkpoint is damaged, or is not one of this run.
    """
    found = load_run(folder, dtype)
    if found is None:
        return None
    params, state, before = found
    checkpoint = folder / "checkpoint"
    if before.get("stage", "ppo") != "ppo":  # a run of another stage is named as such
        require_same_run(folder, before, training, state["step"])
    path = checkpoint / "ppo.json"
    if not path.is_file():
        raise ValueError(f"{checkpoint} is not of a run of PPO, it has no ppo.json")
    try:
        noted = parse_json(path.read_bytes())
        step, scores = noted["step"], noted["scores"]
        if type(step) is not int or step < 0:
            raise ValueError(f"step must be a whole number from 0, got {step!r:.80}")
        stats = {name: float(scores[name]) for name in new_reward_stats()}
        if not all(map(math.isfinite, stats.values())) or min(stats["count"], stats["m2"]) < 0:
            raise ValueError(f"impossible scores {stats}")
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"{path} is corrupt or cut off: {error}") from None
    require_same_run(folder, before, training, step)
    _, value_params = load_checkpoint(checkpoint / "value", dtype=dtype)
    value_state = read_state(checkpoint / "value" / "state.npz", value_params)
    policy = Learned(start.policy.config, params, state)
    value = Learned(start.value.config, value_params, value_state)
    return PpoState(step, policy, value, stats)


def _on(device: str, state: PpoState) -> PpoState:
    """Return the state with both models on the device."""

    def move(model: Learned) -> Learned:
        m, v = (to_device(moments, device) for moments in (model.state["m"], model.state["v"]))
        state: AdamWState = {"step": model.state["step"], "m": m, "v": v}
        return Learned(model.config, to_device(model.params, device), state)

    return state._replace(policy=move(state.policy), value=move(state.value))


def _one_array(queries: Queries) -> Array:
    """Return queries as one array that is another one for other queries.

    >>> _one_array([[5, 6], [7]])
    array([ 5,  6, -1,  7, -1])
    """
    return np.concatenate([np.append(np.asarray(query, np.int64), -1) for query in queries])


def _require_fit(
    config: QwenConfig,
    params: Params,
    queries: Queries,
    value_config: QwenConfig,
    value_params: Params,
    eos_token_ids: Sequence[int],
    pad_id: int,
) -> None:
    """Raise ValueError unless the models can read the queries and do what is asked of them."""
    if config.num_labels:
        raise ValueError(f"the policy needs logits, its config has num_labels={config.num_labels}")
    if not value_config.num_labels:
        raise ValueError("the value model needs a score head, its config has num_labels=0")
    check_params(params, config)
    check_params(value_params, value_config)
    require_queries(queries, config.vocab_size)
    if value_config.vocab_size < config.vocab_size:
        raise ValueError(
            f"the value model has vocab_size={value_config.vocab_size}, the policy writes ids up "
            f"to {config.vocab_size - 1}"
        )
    if not len(eos_token_ids):
        raise ValueError("eos_token_ids must name at least one token: what ends an answer")
    for name, token in (*(("eos_token_ids", i) for i in eos_token_ids), ("pad_id", pad_id)):
        if not 0 <= token < config.vocab_size:
            raise ValueError(f"{name} must be in [0, V={config.vocab_size}), got {token}")
