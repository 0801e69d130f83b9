"""Pretraining: predict the next token of packed text, again and again.

One step:

    rows  = the next batch                           input t is asked for token t + 1
    loss  = mean over the counted tokens of -log p(next token)
            + the losses on the routers, in a mixture of experts: model/router_loss.py
    grads = d loss / d params                        summed over micro-batches, see accumulate
    grads = clip(grads, max_norm)
    params, m, v = adamw(params, grads, m, v, lr(step))

Resuming. Everything random is a pure function of the seed and the step (which rows, which numbers
dropout drops), so parameters, AdamW's state and the step are all there is to save, and a run that
is killed and resumed gives the bits of one that is not (on one machine, with one number of BLAS
threads: sums in another order are rounded differently).

Paper:    Qwen Technical Report, 2.4 Training; its numbers are in settings.py.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..backend import Array, to_device
from ..data.packing import batch_rows, require_rows
from ..extras import require_extra
from ..model.backbone import require_separable
from ..model.checkpoint import SavesItself
from ..model.config import QwenConfig
from ..model.init import init_params
from ..params import Params
from .accumulate import as_batch, evaluate, loss_and_grads
from .adamw import AdamWState, adamw_init
from .communicator import ALONE, Communicator
from .data_parallel import (
    data_parallel_loss_and_grads,
    own_pieces,
    pieces_of_batch,
    require_shared,
)
from .loss_plot import plot_loss
from .metrics import Row
from .progress import wants_bar
from .resume import Training, describe_run, load_run, require_same_run
from .run_folder import save_run
from .run_loop import Learner, run_loop, run_opened
from .settings import PretrainSettings as PretrainSettings  # can be imported from here too
from .together import Together
from .update import apply_adamw, clipped, scheduled_lr

INIT, DROPOUT = 0, 1  # first words of the seeds: no two uses share a stream (2: data.packing)


def train_step(
    params: Params,
    state: AdamWState,
    config: QwenConfig,
    rows: Array,
    settings: PretrainSettings,
    communicator: Communicator = ALONE,
    threads: int = 1,
) -> tuple[Params, Row]:
    """Compute the gradient of update number state["step"]; change nothing yet.

    Args:
        params: of the model.
        state: of AdamW.
        config: of the model.
        rows: all of them, also those that other processes take.
        settings: of the run.
        communicator: to the processes that share the batch; all must call.
        threads: pieces of the batch at work at the same time, in each process.

    Returns:
        grads: clipped.
        row: what there is to say about the step, for metrics.jsonl.

    Raises:
        FloatingPointError: the loss or a gradient is NaN or infinite.
    """
    s, step = settings, state["step"]
    rank, size = communicator.rank, communicator.size
    chosen = batch_rows(len(rows), s.batch_size, step, s.seed)
    cut = np.array_split(chosen, pieces_of_batch(config, s.batch_size, s.accumulate, size))
    own = own_pieces(len(cut), rank, size)
    pieces = [as_batch(rows[cut[i]], s.separator_id) for i in own]
    seed = (DROPOUT, s.seed, step)
    options: dict[str, Any] = {
        "z_loss_coef": s.z_loss_coef,
        "pool_router_layers": s.router_loss_pooled,
    }
    if size == 1:
        found = loss_and_grads(params, config, pieces, seed=seed, threads=threads, **options)
    else:
        found = data_parallel_loss_and_grads(
            params, config, pieces, communicator, seed, first=own[0], threads=threads, **options
        )
    loss, grads, tokens, aux_loss, max_load = found
    grads, norm = clipped(grads, loss, step, s.max_norm)
    lr = scheduled_lr(step, s)
    row: Row = {"step": step + 1, "loss": loss, "lr": lr, "grad_norm": norm, "tokens": tokens}
    if aux_loss is not None:
        row |= {"aux_loss": aux_loss, "max_load": max_load}
    return grads, row


def start_or_resume(
    folder: Path,
    config: QwenConfig,
    params: Params | None,
    training: Training,
    settings: PretrainSettings,
) -> tuple[Params, AdamWState, int]:
    """Return parameters, AdamW's state, and the step of the checkpoint in the folder, -1 without.

    Raises:
        ValueError: the checkpoint is damaged, or is not one of this run.
    """
    resumed = load_run(folder, settings.dtype)
    if resumed is not None:
        params, state, before = resumed
        require_same_run(folder, before, training, state["step"])
        return params, state, state["step"]
    if params is None:
        rng = np.random.default_rng([INIT, settings.seed])
        params = init_params(config, rng, dtype=settings.dtype)
    params = {key: w.astype(settings.dtype) for key, w in params.items()}  # a copy
    return params, adamw_init(params), -1


def pretrain(
    config: QwenConfig,
    rows: Array,
    run_folder: str | Path,
    settings: PretrainSettings,
    *,
    validation_rows: Array | None = None,
    params: Params | None = None,
    tokenizer: SavesItself | None = None,
    progress: bool = True,
    plot: bool = True,
    device: str = "cpu",
    communicator: Communicator = ALONE,
    threads: int = 1,
) -> Params:
    """Train a model on packed rows; continue where the run in this folder stopped, if there is one.

    A checkpoint is written before the first step (a full disk shows up at once), every
    `checkpoint_every` steps, at the end, and on Ctrl-C or SIGTERM; see run_folder.

    Args:
        config: of the model.
        rows: (n, context_length + 1) int, of `pack_documents`; a memory map will do.
        run_folder: made if missing.
        settings: see PretrainSettings.
        validation_rows: like rows; never trained on.
        params: to start from, copied; None draws fresh ones. A resumed run ignores it.
        tokenizer: saved with every checkpoint.
        progress: show a bar, or lines now and then where stderr is not a terminal.
        plot: draw loss.png.
        device: "cpu" or "cuda".
        communicator: to the processes that share every batch, `find_communicator()`; all call
            pretrain with the same arguments, and the first one writes. See together.py.
        threads: pieces of a batch at work at the same time; changes no bit of the result.

    Returns:
        The trained parameters, in every process.

    Raises:
        ImportError: plot or the bar need a missing package; nothing has been done yet.
        ValueError: rows do not fit settings or config, or the folder holds a run with other
            settings, another config or other rows, or one of its files is damaged; the message
            names it. Or a batch cannot be shared among so many processes or threads.
        FloatingPointError: a loss or gradient became NaN or infinite. The last checkpoint stands.
        OSError: the folder cannot be written, or another process trains in it. The last checkpoint
            stands.
        KeyboardInterrupt, SystemExit: Ctrl-C or SIGTERM, after a checkpoint of the last
            complete step has been written.
    """
    folder, s = Path(run_folder), settings
    with Together(communicator) as job, ExitStack() as opened:
        if communicator.rank == 0:
            require_extra(*["matplotlib"] * plot, *["tqdm"] * wants_bar(progress))
        if validation_rows is None and s.validation_share > 0:
            held_out = max(1, round(s.validation_share * len(rows)))
            rows, validation_rows = rows[:-held_out], rows[-held_out:]

        def start() -> tuple[Training, tuple[Params, AdamWState, int]]:
            require_trainable(config, s, rows, validation_rows)
            require_shared(config, s, communicator.size, threads)
            training = describe_run(config, s, rows, validation_rows, stage="pretrain")
            opened.enter_context(run_opened(folder))
            return training, start_or_resume(folder, config, params, training, s)

        training, (trained, state, saved) = job.first(start)
        if communicator.size > 1:
            own = describe_run(config, s, rows, validation_rows, stage="pretrain")
            job.require_same("config, settings and rows", own)
        on_device: Params = to_device(trained, device)
        state["m"], state["v"] = to_device(state["m"], device), to_device(state["v"], device)
        learner = Pretraining(
            folder,
            config,
            on_device,
            state,
            s,
            rows,
            validation_rows,
            training,
            tokenizer,
            communicator,
            threads,
        )

        def lead(learner: Learner) -> None:
            run_loop(
                folder, s, learner, saved=saved, progress=progress, plot=plot_loss if plot else None
            )

        job.train(learner, s, on_device, lead)
    return on_device


def require_trainable(
    config: QwenConfig, settings: PretrainSettings, rows: Array, validation_rows: Array | None
) -> None:
    """Raise ValueError, saying what is wrong, unless the rows fit the model and the settings."""
    s = settings
    require_rows("rows", rows, s.context_length, config.vocab_size)
    if s.separator_id is not None:
        require_separable(config)
        if s.separator_id >= config.vocab_size:
            raise ValueError(
                f"separator_id must be below config.vocab_size={config.vocab_size}, got "
                f"{s.separator_id}"
            )
    if validation_rows is not None:
        require_rows("validation_rows", validation_rows, s.context_length, config.vocab_size)


@dataclass
class Pretraining:
    """What run_loop trains here: a model on packed rows."""

    folder: Path
    config: QwenConfig
    params: Params
    state: AdamWState
    settings: PretrainSettings
    rows: Array
    validation_rows: Array | None
    training: Training
    tokenizer: SavesItself | None
    communicator: Communicator = ALONE
    threads: int = 1

    @property
    def step(self) -> int:
        """Updates done so far."""
        return self.state["step"]

    def compute(self) -> tuple[Params, Row]:
        """Return the gradient of the next update, and its row of metrics."""
        return train_step(
            self.params,
            self.state,
            self.config,
            self.rows,
            self.settings,
            self.communicator,
            self.threads,
        )

    def update(self, grads: Params, row: Row) -> None:
        """Change the parameters."""
        apply_adamw(self.params, grads, self.state, self.settings, row["lr"])

    def validate(self) -> Row | None:
        """Return the loss on the held-out rows."""
        if self.validation_rows is None:
            return None
        s = self.settings
        batch_size = -(-s.batch_size // s.accumulate)
        loss, load = evaluate(
            self.params, self.config, self.validation_rows, batch_size, s.separator_id
        )
        found: Row = {"validation_loss": loss}
        if load is not None:
            found["expert_load"] = [[round(x, 5) for x in layer] for layer in load]
        return found

    def save(self) -> None:
        """Write the checkpoint."""
        save_run(self.folder, self.config, self.params, self.state, self.training, self.tokenizer)
