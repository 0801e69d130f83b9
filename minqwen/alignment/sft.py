"""Supervised fine-tuning: a model that goes on with any text learns to answer in a chat.

It is pretraining's loss on fewer tokens. With c_t = 1 where token t + 1 is one that the model must
write itself (an answer and its <|im_end|>: tokenizer/chatml.py), else 0:

    loss = 1/n * sum_t c_t * -log p(token t + 1 | tokens of this chat up to t)      n = sum_t c_t

and as every chat of the batch is in the one sum,

    d loss / d logits_t = c_t / n * (softmax(logits_t) - onehot(token t + 1))

n counts the whole batch. The mean of the chats' own means is another loss: a token of a short
answer would weigh more in it than one of a long answer.

A row is one chat, padded, or several that do not see each other (chat_batch.py). So for the same
chats both ways give the gradient of the chats one by one, and packing only saves the work on empty
places. With an equal `batch_size`, which counts rows, a packed batch holds more chats. Two things
do depend on what is worked on together: the numbers that dropout draws, and the balance loss of a
mixture of experts, which is one of a piece of the batch (training/accumulate.py).

The report's dropout acts in training only and is no property of the model: the checkpoint's config
keeps the dropout it had.

Resuming works as in training/pretrain.py: which rows, and which numbers dropout drops, are pure
functions of the seed and the step.

Paper:    Qwen Technical Report, 3.1.2 Training: the task of next-token prediction, with loss masks
          for system and user inputs; the numbers are REPORT_SFT in settings.py.
Differs:  the rate after the warm-up is not published: here it stays constant.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from ..backend import to_device
from ..data.packing import batch_rows
from ..extras import require_extra
from ..layers.cross_entropy import cross_entropy_forward
from ..model.backbone import require_separable
from ..model.checkpoint import SavesItself
from ..model.config import QwenConfig, check_params
from ..model.language_model import language_model_forward
from ..params import Params
from ..tokenizer.chatml import Chat
from ..training.accumulate import Batch, count_tokens, loss_and_grads
from ..training.adamw import AdamWState
from ..training.metrics import Row
from ..training.progress import wants_bar
from ..training.resume import Training, describe_run
from ..training.run_folder import save_run
from ..training.run_loop import run_loop, run_opened
from ..training.update import apply_adamw, clipped, scheduled_lr
from .metrics_plot import Panel, plot_metrics
from .settings import SftSettings
from .sft_rows import facts_of, rows_and_notes, take_rows
from .start_params import params_fingerprint, start_or_resume

DROPOUT = 3  # first word of the seed: no two uses in this run share a stream (2: data.packing)

PANELS: tuple[Panel, ...] = (
    ("loss of the tokens that are trained on", "nats per token", ("loss", "validation_loss")),
    ("learning rate", "", ("lr",)),
    ("norm of the gradient, before clipping", "", ("grad_norm",)),
    ("balance loss, of even use: the experts a token chooses", "", ("aux_loss",)),
    ("load of the busiest expert, of even use: 1", "", ("max_load",)),
)


def evaluate_chats(params: Params, config: QwenConfig, batch: Batch, batch_size: int) -> float:
    """Return the mean loss over all counted tokens, without dropout and without gradients.

    Args:
        params: of the model.
        config: of the model.
        batch: rows, each with a token that counts.
        batch_size: rows at a time; the result does not depend on it.
    """
    tokens, loss = count_tokens(batch), 0.0
    order = np.arange(len(batch.labels))
    for start in range(0, len(order), batch_size):
        piece = take_rows(batch, order[start : start + batch_size])
        logits, _ = language_model_forward(
            params, config, piece.input_ids, attention_mask=piece.real, segments=piece.segments
        )
        piece_loss, _ = cross_entropy_forward(logits, piece.labels, piece.loss_mask)
        loss += float(piece_loss) * (count_tokens(piece) / tokens)
    return loss


def train_step(
    params: Params, state: AdamWState, config: QwenConfig, batch: Batch, settings: SftSettings
) -> tuple[Params, Row]:
    """Compute the gradient of update number state["step"]; change nothing yet.

    Args:
        params: of the model.
        state: of AdamW.
        config: of the model, whose own dropout does not act: that of the settings does.
        batch: all rows there are.
        settings: of the run.

    Returns:
        grads: clipped.
        row: what there is to say about the step, for metrics.jsonl.

    Raises:
        FloatingPointError: the loss or a gradient is NaN or infinite.
    """
    s, step = settings, state["step"]
    chosen = batch_rows(len(batch.labels), s.batch_size, step, s.seed)
    pieces = [take_rows(batch, piece) for piece in np.array_split(chosen, s.accumulate)]
    loss, grads, tokens, aux_loss, max_load = loss_and_grads(
        params, replace(config, dropout=s.dropout), pieces, seed=(DROPOUT, s.seed, step)
    )
    grads, norm = clipped(grads, loss, step, s.max_norm)
    lr = scheduled_lr(step, s)
    row: Row = {"step": step + 1, "loss": loss, "lr": lr, "grad_norm": norm, "tokens": tokens}
    if aux_loss is not None:
        row |= {"aux_loss": aux_loss, "max_load": max_load}
    return grads, row


def sft(
    config: QwenConfig,
    params: Params,
    chats: Sequence[Chat],
    run_folder: str | Path,
    settings: SftSettings,
    *,
    validation_chats: Sequence[Chat] | None = None,
    pad_id: int,
    names: Sequence[str] | None = None,
    tokenizer: SavesItself | None = None,
    progress: bool = True,
    plot: bool = True,
    device: str = "cpu",
) -> Params:
    """Fine-tune a model on chats; continue where the run in this folder stopped, if there is one.

    Chats that are cut or left out are named on stderr, with the reason.

    Args:
        config: of the model, a language model.
        params: to start from, copied. A run that goes on needs them too: they must be the same.
        chats: of `encode_chat`, whose train_on should be that of the settings.
        run_folder: made if missing.
        settings: see SftSettings.
        validation_chats: never trained on.
        pad_id: stands in empty places, <|endoftext|> for Qwen; no token sees it.
        names: of the chats, for the notes on stderr, such as "line 7"; None: their places.
        tokenizer: saved with every checkpoint.
        progress: show a bar, or lines now and then where stderr is not a terminal.
        plot: draw metrics.png.
        device: "cpu" or "cuda".

    Returns:
        The trained parameters.

    Raises:
        ImportError: plot or the bar need a missing package; nothing has been done yet.
        TypeError, ValueError: the chats do not fit the model, or nothing in them is trained on
            (nothing has been written yet); or the folder holds a run with other settings, another
            model or other chats, or one of its files is damaged; the message names it.
        NotImplementedError: settings.packed, and the model has dual chunk attention, for which
            chats of a row cannot be kept apart; nothing has been written yet.
        FloatingPointError: a loss or gradient became NaN or infinite. The last checkpoint stands.
        OSError: the folder cannot be written, or another process trains in it. The last checkpoint
            stands.
        KeyboardInterrupt, SystemExit: Ctrl-C or SIGTERM, after a checkpoint of the last
            complete step has been written.
    """
    folder, s = Path(run_folder), settings
    require_extra(*["matplotlib"] * plot, *["tqdm"] * wants_bar(progress))
    if config.num_labels:
        raise ValueError(f"the config has num_labels={config.num_labels}: it is no language model")
    check_params(params, config)
    if s.packed:
        require_separable(config)
    rows, notes = rows_and_notes("chats", chats, s, pad_id, config.vocab_size, names)
    held_out: Batch | None = None
    if validation_chats is not None:
        what = "validation_chats"
        held_out, more = rows_and_notes(what, validation_chats, s, pad_id, config.vocab_size)
        notes += more
    training = describe_run(
        config,
        s,
        facts_of(rows),
        None if held_out is None else facts_of(held_out),
        stage="sft",
        start_model=params_fingerprint(params, s.dtype),
    )

    with run_opened(folder):
        params, state, saved = start_or_resume(folder, params, training, s.dtype)
        for note in notes:
            print(note, file=sys.stderr)
        params = to_device(params, device)
        state["m"], state["v"] = to_device(state["m"], device), to_device(state["v"], device)
        learner = FineTuning(folder, config, params, state, s, rows, held_out, training, tokenizer)
        draw = partial(plot_metrics, panels=PANELS) if plot else None
        run_loop(folder, s, learner, saved=saved, progress=progress, plot=draw)
    return params


@dataclass
class FineTuning:
    """What run_loop trains here: a model on rows of chats."""

    folder: Path
    config: QwenConfig
    params: Params
    state: AdamWState
    settings: SftSettings
    rows: Batch
    validation_rows: Batch | None
    training: Training
    tokenizer: SavesItself | None

    @property
    def step(self) -> int:
        """Updates done so far."""
        return self.state["step"]

    def compute(self) -> tuple[Params, Row]:
        """Return the gradient of the next update, and its row of metrics."""
        return train_step(self.params, self.state, self.config, self.rows, self.settings)

    def update(self, grads: Params, row: Row) -> None:
        """Change the parameters."""
        apply_adamw(self.params, grads, self.state, self.settings, row["lr"])

    def validate(self) -> Row | None:
        """Return the loss on the held-out chats."""
        if self.validation_rows is None:
            return None
        s = self.settings
        batch_size = -(-s.batch_size // s.accumulate)
        found = evaluate_chats(self.params, self.config, self.validation_rows, batch_size)
        return {"validation_loss": found}

    def save(self) -> None:
        """Write the checkpoint."""
        save_run(self.folder, self.config, self.params, self.state, self.training, self.tokenizer)
