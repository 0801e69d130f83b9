"""Pretraining: predict the next token of packed text, again and again.

One step:

    rows  = the next batch                           input t is asked for token t + 1
    loss  = mean over the counted tokens of -log p(next token)
            + the losses on the routers, in a mixture of experts: model/router_loss.py
    grads = d loss / d params                        summed over micro-batches, see accumulate
    grads = clip(grads, max_norm)
    params, m, v = adamw(params, grads, m, v, lr(step))

In mixed precision, the first three lines compute with a copy of params rounded to 16 bits, and all
others in float32. With float16, a step whose gradient overflows makes no update: loss_scaling.py.

Resuming. Everything random is a pure function of the seed and the step (which rows, which numbers
dropout drops), so parameters, AdamW's state, the step and the loss scale are all there is to save,
and a run that is killed and resumed gives the bits of one that is not (on one machine, with one
number of BLAS threads: sums in another order are rounded differently).

Paper:    Qwen Technical Report, 2.4 Training; its numbers are in settings.py.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

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
from .loss_scaling import LossScale, all_finite, next_loss_scale
from .metrics import Row
from .mixed_precision import half_params, precision_dtype, silent_overflow
from .progress import wants_bar
from .resume import (
    Training,
    describe_run,
    load_run,
    read_loss_scale,
    require_same_run,
    write_loss_scale,
)
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
    loss_scale: LossScale | None = None,
) -> tuple[Params, Row]:
    """Compute the gradient of the next step; change nothing yet.

    Args:
        params: of the model; masters, where settings.precision has 16 bits.
        state: of AdamW.
        config: of the model.
        rows: all of them, also those that other processes take.
        settings: of the run.
        communicator: to the processes that share the batch; all must call.
        threads: pieces of the batch at work at the same time, in each process.
        loss_scale: of this step; None = 1, and no step may overflow.

    Returns:
        grads: clipped; empty when they overflowed at this scale, and there is no update.
        row: what there is to say about the step, for metrics.jsonl. Without an update it has no
            grad_norm, and no loss if that overflowed too.

    Raises:
        FloatingPointError: the loss or a gradient is NaN or infinite, without a loss_scale.
    """
    s, step = settings, steps_done(state, loss_scale)
    rank, size = communicator.rank, communicator.size
    chosen = batch_rows(len(rows), s.batch_size, step, s.seed)
    cut = np.array_split(chosen, pieces_of_batch(config, s.batch_size, s.accumulate, size))
    own = own_pieces(len(cut), rank, size)
    pieces = [as_batch(rows[cut[i]], s.separator_id) for i in own]
    seed = (DROPOUT, s.seed, step)
    options: dict[str, Any] = {
        "z_loss_coef": s.z_loss_coef,
        "pool_router_layers": s.router_loss_pooled,
        "threads": threads,
    }
    if loss_scale is not None:
        options["loss_scale"] = loss_scale.scale
    rounded = as_computed(params, s)
    with silent_overflow(s.precision):
        if size == 1:
            found = loss_and_grads(rounded, config, pieces, seed=seed, **options)
        else:
            found = data_parallel_loss_and_grads(
                rounded, config, pieces, communicator, seed, first=own[0], **options
            )
    loss, grads, tokens, aux_loss, max_load = found
    row: Row = {"step": step + 1, "loss": loss, "lr": scheduled_lr(step, s)}
    more: Row = {"tokens": tokens}
    if aux_loss is not None:
        more |= {"aux_loss": aux_loss, "max_load": max_load}
    if loss_scale is not None:
        overflowed = np.array([float(not (math.isfinite(loss) and all_finite(grads)))])
        skip = bool(communicator.allreduce(overflowed, "max")[0])  # all processes, or none
        more |= {"loss_scale": loss_scale.scale, "skipped": loss_scale.skipped + skip}
        if skip:
            return {}, {name: x for name, x in (row | more).items() if math.isfinite(x)}
    grads, norm = clipped(grads, loss, step, s.max_norm)
    return grads, row | {"grad_norm": norm} | more


def steps_done(state: AdamWState, loss_scale: LossScale | None) -> int:
    """Return how many steps there were: AdamW counts its updates, some steps made none."""
    return state["step"] + (0 if loss_scale is None else loss_scale.skipped)


def as_computed(params: Params, settings: PretrainSettings) -> Params:
    """Return the parameters as forward and backward see them, in the precision of the settings."""
    precision = settings.precision
    return params if precision == "float32" else half_params(params, precision)


class Started(NamedTuple):
    params: Params
    state: AdamWState
    loss_scale: LossScale | None  # None = without one: only float16 has it
    saved: int  # step of the checkpoint in the folder, -1 without one


def start_or_resume(
    folder: Path,
    config: QwenConfig,
    params: Params | None,
    training: Training,
    settings: PretrainSettings,
) -> Started:
    """Return what the folder's checkpoint holds, or what a new run begins with.

    Raises:
        ValueError: the checkpoint is damaged, or is not one of this run.
    """
    scaled = settings.precision == "float16"
    resumed = load_run(folder, settings.dtype)
    if resumed is not None:
        params, state, before = resumed
        require_same_run(folder, before, training, state["step"])
        loss_scale = read_loss_scale(folder / "checkpoint") if scaled else None
        return Started(params, state, loss_scale, steps_done(state, loss_scale))
    if params is None:
        rng = np.random.default_rng([INIT, settings.seed])
        params = init_params(config, rng, dtype=settings.dtype)
    params = {key: w.astype(settings.dtype) for key, w in params.items()}  # a copy
    return Started(params, adamw_init(params), LossScale() if scaled else None, -1)


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
        The trained parameters, in every process; masters, where settings.precision has 16 bits.

    Raises:
        ImportError: plot, the bar or bfloat16 need a missing package; nothing has been done yet.
        ValueError: rows do not fit settings or config, or the folder holds a run with other
            settings, another config or other rows, or one of its files is damaged; the message
            names it. Or a batch cannot be shared among so many processes or threads.
        FloatingPointError: a loss or gradient became NaN or infinite, in float16 even with the
            least loss scale. The last checkpoint stands.
        OSError: the folder cannot be written, or another process trains in it. The last checkpoint
            stands.
        KeyboardInterrupt, SystemExit: Ctrl-C or SIGTERM, after a checkpoint of the last
            complete step has been written.
    """
    folder, s = Path(run_folder), settings
    with Together(communicator) as job, ExitStack() as opened:
        if communicator.rank == 0:
            require_extra(*["matplotlib"] * plot, *["tqdm"] * wants_bar(progress))
            precision_dtype(s.precision)
        if validation_rows is None and s.validation_share > 0:
            held_out = max(1, round(s.validation_share * len(rows)))
            rows, validation_rows = rows[:-held_out], rows[-held_out:]

        def start() -> tuple[Training, Started]:
            require_trainable(config, s, rows, validation_rows)
            require_shared(config, s, communicator.size, threads)
            training = describe_run(config, s, rows, validation_rows, stage="pretrain")
            opened.enter_context(run_opened(folder))
            return training, start_or_resume(folder, config, params, training, s)

        training, (trained, state, loss_scale, saved) = job.first(start)
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
            loss_scale,
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
    loss_scale: LossScale | None = None

    @property
    def step(self) -> int:
        """Steps done so far."""
        return steps_done(self.state, self.loss_scale)

    def compute(self) -> tuple[tuple[Params, LossScale | None], Row]:
        """Return the gradient of the next step, the loss scale after it, and its row of metrics.

        Raises:
            FloatingPointError: see train_step, and next_loss_scale.
        """
        s, now = self.settings, self.loss_scale
        grads, row = train_step(
            self.params,
            self.state,
            self.config,
            self.rows,
            s,
            self.communicator,
            self.threads,
            now,
        )
        if now is None:
            return (grads, None), row
        try:
            after = next_loss_scale(now, bool(grads), interval=s.loss_scale_interval)
        except FloatingPointError as error:
            raise FloatingPointError(f"step {row['step']}: {error}") from None
        return (grads, after), row

    def update(self, found: tuple[Params, LossScale | None], row: Row) -> None:
        """Change the parameters, unless the gradient overflowed, and the loss scale."""
        grads, self.loss_scale = found
        if grads:
            apply_adamw(self.params, grads, self.state, self.settings, row["lr"])

    def validate(self) -> Row | None:
        """Return the loss on the held-out rows."""
        if self.validation_rows is None:
            return None
        s = self.settings
        batch_size = -(-s.batch_size // s.accumulate)
        params = as_computed(self.params, s)
        with silent_overflow(s.precision):
            loss, load = evaluate(
                params, self.config, self.validation_rows, batch_size, s.separator_id
            )
        found: Row = {"validation_loss": loss}
        if load is not None:
            found["expert_load"] = [[round(x, 5) for x in layer] for layer in load]
        return found

    def save(self) -> None:
        """Write the checkpoint."""

        def add_loss_scale(folder: Path) -> None:
            if self.loss_scale is not None:
                write_loss_scale(folder, self.loss_scale)

        save_run(
            self.folder,
            self.config,
            self.params,
            self.state,
            self.training,
            self.tokenizer,
            add_loss_scale,
        )
