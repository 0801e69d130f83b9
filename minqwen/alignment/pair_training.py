"""Training on pairs of answers: what the reward model and DPO have in common.

One step:

    pairs = the next batch                           n of them, cut into pieces i of n_i pairs
    loss  = sum_i n_i / n * loss_i                   loss_i = mean over the pairs of piece i
    grads = sum_i d(n_i / n * loss_i) / d params

Both losses are means over pairs, so pieces add up to the batch with these shares: see
training/accumulate.py, where the tokens are what is counted. What a stage knows of its loss is one
function, which computes a piece.

The two answers of a pair go through the model as two rows of one padded batch, all chosen ones
first. The loss joins them, so both have to be kept until it is known: two forward passes would need
the same memory, and would be two of half the size.

A mixture of experts has its losses on the routers too (model/router_loss.py), of each piece by its
share, as in pretraining. Dropout is off: the reports name it for supervised fine-tuning only, and
two answers would be compared through two different models.

Paper:    Qwen Technical Report, 3.2.1 Reward Model.
Differs:  batches are always full: the last one of an epoch is filled up with pairs of the next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..backend import Array, array_module, to_device
from ..data.packing import batch_rows
from ..extras import require_extra
from ..model.checkpoint import SavesItself
from ..model.config import QwenConfig
from ..model.language_model import router_caches
from ..model.router_loss import router_loss_backward, router_loss_forward
from ..params import Params, add_into
from ..training.adamw import AdamWState
from ..training.metrics import Row
from ..training.progress import wants_bar
from ..training.resume import Training
from ..training.run_folder import save_run
from ..training.run_loop import run_loop, run_opened
from ..training.update import apply_adamw, clipped, scheduled_lr
from .metrics_plot import Panel, plot_metrics
from .settings import DpoSettings, RewardSettings
from .start_params import start_or_resume

PANELS: tuple[Panel, ...] = (
    ("loss", "nats per pair", ("loss", "validation_loss")),
    ("pairs ranked right", "share", ("accuracy", "validation_accuracy")),
    ("reward of the answers", "", ("chosen_reward", "rejected_reward")),
    ("chosen reward less rejected", "", ("margin", "validation_margin")),
    ("log-probability of the answers", "nats", ("chosen_logprob", "rejected_logprob")),
    ("divergence from the reference", "nats", ("kl",)),
    ("balance of the experts", "", ("aux_loss",)),
    ("norm of the gradient, before clipping", "", ("grad_norm",)),
)


class PairStage(Protocol):
    """What a stage knows: its loss on some pairs, and on held-out ones."""

    def piece(self, params: Params, numbers: Array, share: float) -> tuple[Row, Params]:
        """Compute the loss of the pairs with these numbers, and its gradient, times share.

        Returns:
            The row of metrics, means times share and counts as they are; and the gradient.
        """

    def validate(self, params: Params) -> Row | None:
        """Return validation_loss and what else held-out pairs say, or None without any."""


def ranking(chosen_rewards: Array, rejected_rewards: Array) -> Row:
    """Say how well pairs are ranked.

    Args:
        chosen_rewards: (B,) float.
        rejected_rewards: (B,) float.

    Returns:
        accuracy, the share of the pairs where chosen is ahead (a tie is half right); margin, the
        mean of by how much; and the mean rewards.

    >>> ranking(np.array([3.0, 1.0]), np.array([1.0, 1.0]))["accuracy"]
    0.75
    """
    margin = chosen_rewards - rejected_rewards
    return {
        "accuracy": float((margin > 0).mean()) + float((margin == 0).mean()) / 2,
        "margin": float(margin.mean()),
        "chosen_reward": float(chosen_rewards.mean()),
        "rejected_reward": float(rejected_rewards.mean()),
    }


def router_part(
    cache: Any, config: QwenConfig, real: Array | None, share: float
) -> tuple[Row, list[Array] | None]:
    """Return the balance loss of a mixture of experts, and what its routers' logits get of it.

    Args:
        cache: of a forward pass of the backbone or the language model.
        config: with router_aux_loss_coef.
        real: (B, T) bool, False = padding, which does not count; or None.
        share: of this piece.

    Returns:
        aux_loss times share, and the gradients; nothing and None for a dense model.
    """
    routers = router_caches(cache)
    if not routers:
        return {}, None
    on_device = None if real is None else array_module(routers[0].router_logits).asarray(real)
    _, balance, router_cache = router_loss_forward(routers, config.router_aux_loss_coef, on_device)
    return {"aux_loss": float(balance) * share}, router_loss_backward(share, router_cache)


def pair_gradient(
    params: Params, stage: PairStage, numbers: Array, pieces: int = 1
) -> tuple[Row, Params]:
    """Return the metrics and the gradient of a batch, which is worked on in pieces.

    Args:
        params: of the model.
        stage: computes a piece.
        numbers: (n,) int, which pairs.
        pieces: into how many the batch is cut, nearly equal ones.
    """
    row: Row = {}
    grads: Params = {}
    for part in np.array_split(numbers, pieces):
        if not len(part):
            continue
        found, part_grads = stage.piece(params, part, len(part) / len(numbers))
        row = {key: row.get(key, 0) + value for key, value in found.items()}
        add_into(grads, part_grads)
    return row, grads


@dataclass
class PairTraining:
    """What run_loop trains here: a model on pairs."""

    folder: Path
    config: QwenConfig
    params: Params
    state: AdamWState
    settings: RewardSettings | DpoSettings
    stage: PairStage
    n_pairs: int
    training: Training
    tokenizer: SavesItself | None

    @property
    def step(self) -> int:
        """Updates done so far."""
        return self.state["step"]

    def compute(self) -> tuple[Params, Row]:
        """Return the gradient of the next update, and its row of metrics."""
        s, step = self.settings, self.step
        numbers = batch_rows(self.n_pairs, s.batch_size, step, s.seed)
        row, grads = pair_gradient(self.params, self.stage, numbers, s.accumulate)
        grads, norm = clipped(grads, row["loss"], step, s.max_norm)
        return grads, {"step": step + 1, **row, "lr": scheduled_lr(step, s), "grad_norm": norm}

    def update(self, grads: Params, row: Row) -> None:
        """Change the parameters."""
        apply_adamw(self.params, grads, self.state, self.settings, row["lr"])

    def validate(self) -> Row | None:
        """Return what the held-out pairs say."""
        return self.stage.validate(self.params)

    def save(self) -> None:
        """Write the checkpoint."""
        save_run(self.folder, self.config, self.params, self.state, self.training, self.tokenizer)


def train_on_pairs(
    config: QwenConfig,
    params: Params,
    n_pairs: int,
    run_folder: str | Path,
    settings: RewardSettings | DpoSettings,
    begin: Callable[[], PairStage],
    training: Training,
    *,
    tokenizer: SavesItself | None,
    progress: bool,
    plot: bool,
    device: str,
    panels: Sequence[Panel] = PANELS,
) -> Params:
    """Train, or go on with the run in this folder.

    Args:
        config: of the model.
        params: to start from, copied.
        n_pairs: how many pairs there are.
        run_folder: made if missing.
        settings: of the run.
        begin: makes the stage, once it is sure that the folder is free and the run the same.
        training: of describe_run, what must be the same when the run goes on.
        tokenizer: saved with every checkpoint.
        progress: show a bar, or lines now and then where stderr is not a terminal.
        plot: draw metrics.png.
        device: "cpu" or "cuda".
        panels: of the picture.

    Returns:
        The trained parameters.

    Raises:
        ImportError, ValueError, FloatingPointError, OSError, KeyboardInterrupt, SystemExit: as in
            training/pretrain.py.
    """
    folder, s = Path(run_folder), settings
    require_extra(*["matplotlib"] * plot, *["tqdm"] * wants_bar(progress))
    with run_opened(folder):
        params, state, saved = start_or_resume(folder, params, training, s.dtype)
        params = to_device(params, device)
        state["m"], state["v"] = to_device(state["m"], device), to_device(state["v"], device)
        learner = PairTraining(
            folder, config, params, state, s, begin(), n_pairs, training, tokenizer
        )
        draw = partial(plot_metrics, panels=panels) if plot else None
        run_loop(folder, s, learner, saved=saved, progress=progress, plot=draw)
    return params
