"""Pretraining: predict the next token of packed text, again and again.

One step:

    rows  = the next batch                           input t is asked for token t + 1
    loss  = mean over the counted tokens of -log p(next token)
    grads = d loss / d params                        summed over micro-batches
    grads = clip(grads, max_norm)
    params, m, v = adamw(params, grads, m, v, lr(step))

Micro-batches. A batch too large for memory is cut into pieces whose gradients are added. The mean
of the pieces' means is not the mean of the batch when pieces count different numbers of tokens,
so every piece is weighted:

    loss = sum_i (n_i / sum_j n_j) * loss_i          n_i = counted tokens of piece i

Resuming. Everything random is a pure function of the seed and the step (which rows, which numbers
dropout drops), so parameters, AdamW's state and the step are all there is to save, and a run that
is killed and resumed gives the bits of one that is not (on one machine, with one number of BLAS
threads: sums in another order are rounded differently).

Paper:    Qwen Technical Report, 2.4 Training: AdamW with betas 0.9 and 0.95 and eps 1e-8, cosine
          to 10 % of the peak rate (3e-4 for the 7B model), context 2048, batches of 4M tokens.
Differs:  float32 throughout instead of bfloat16. Batch, steps and warm-up have toy defaults.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..backend import Array, array_module, to_device
from ..data.packing import batch_rows
from ..layers.cross_entropy import IGNORED, cross_entropy_backward, cross_entropy_forward
from ..model.config import QwenConfig
from ..model.init import init_params
from ..model.language_model import language_model_backward, language_model_forward
from ..params import Params
from .adamw import AdamWState, adamw_init, adamw_step
from .grad_clip import clip_grad_norm
from .interrupt import Interrupts
from .lr_schedule import cosine_lr
from .progress import Progress, wants_bar
from .run_folder import (
    Metrics,
    Row,
    SavesItself,
    load_run,
    plot_loss,
    recover,
    require_extra,
    require_same_run,
    save_run,
)

INIT, DROPOUT = 0, 1  # first words of the seeds: no two uses share a stream (2: data.packing)


@dataclass(frozen=True)
class PretrainSettings:
    """Everything that a run depends on beside the model and the data.

    >>> PretrainSettings(steps=10, warmup_steps=20)
    Traceback (most recent call last):
    ...
    ValueError: warmup_steps must be at most steps=10, got 20
    """

    steps: int = 1000  # updates
    batch_size: int = 8  # rows in an update, B
    accumulate: int = 1  # micro-batches into which a batch is cut
    context_length: int = 2048  # tokens in a row of inputs, T
    peak_lr: float = 3e-4
    min_lr_ratio: float = 0.1  # last learning rate over the peak
    warmup_steps: int = 100
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    max_norm: float = 1.0  # of the gradient, see grad_clip
    seed: int = 0  # of fresh parameters, of the order of the rows and of dropout
    dtype: str = "float32"
    checkpoint_every: int = 100  # steps
    eval_every: int = 100  # steps between looks at the validation rows; 0 = only at the end
    validation_share: float = 0.0  # of the rows, held out when no validation rows are given

    def __post_init__(self) -> None:
        """Refuse impossible values, naming the field."""
        for name, least in (
            ("steps", 1),
            ("batch_size", 1),
            ("accumulate", 1),
            ("context_length", 1),
            ("warmup_steps", 0),
            ("seed", 0),
            ("checkpoint_every", 1),
            ("eval_every", 0),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} must be a whole number, at least {least}, got {value!r}")
        for name, inside, range_ in (
            ("peak_lr", 0 < self.peak_lr < math.inf, "positive"),
            ("min_lr_ratio", 0 <= self.min_lr_ratio <= 1, "in [0, 1]"),
            ("beta1", 0 <= self.beta1 < 1, "in [0, 1)"),
            ("beta2", 0 <= self.beta2 < 1, "in [0, 1)"),
            ("eps", 0 <= self.eps < math.inf, "0 or more"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, "0 or more"),
            ("max_norm", self.max_norm > 0, "positive"),
            ("dtype", self.dtype in ("float32", "float64"), "float32 or float64"),
            ("validation_share", 0 <= self.validation_share < 1, "in [0, 1)"),
            ("warmup_steps", self.warmup_steps <= self.steps, f"at most steps={self.steps}"),
            (
                "accumulate",
                self.accumulate <= self.batch_size,
                f"at most batch_size={self.batch_size}",
            ),
        ):
            if not inside:
                raise ValueError(f"{name} must be {range_}, got {getattr(self, name)!r}")


class Batch(NamedTuple):
    input_ids: Array  # (B, T) int, on the host
    labels: Array  # (B, T) int, the token after each input; IGNORED (-100) does not count
    loss_mask: Array | None = None  # (B, T) bool, True = counts; None = all


def count_tokens(batch: Batch) -> int:
    """Count the tokens that the loss averages over.

    >>> count_tokens(Batch(np.array([[1, 2]]), np.array([[2, -100]])))
    1
    """
    counts = batch.labels != IGNORED
    return int((counts if batch.loss_mask is None else counts & batch.loss_mask).sum())


def loss_and_grads(
    params: Params, config: QwenConfig, micro_batches: Sequence[Batch], seed: Sequence[int] = ()
) -> tuple[float, Params, int]:
    """Return what one batch with the tokens of all micro-batches would give.

    Args:
        params: of the model.
        config: of the model; its dropout acts.
        micro_batches: pieces of a batch, with any numbers of rows and of counted tokens.
        seed: of the dropout; each piece draws its own numbers.

    Returns:
        loss: mean over all counted tokens, in nats.
        grads: its gradient, with the keys of params.
        tokens: how many counted.

    Raises:
        ValueError: no token counts.
    """
    counts = [count_tokens(batch) for batch in micro_batches]
    tokens = sum(counts)
    if tokens == 0:
        raise ValueError("the batch has no token that counts in the loss")

    loss: Any = 0.0
    grads: Params = {}
    for i, (batch, n) in enumerate(zip(micro_batches, counts, strict=True)):
        if n == 0:
            continue
        rng = np.random.default_rng([*seed, i])
        piece_loss, piece_grads = _piece(params, config, batch, n / tokens, rng)
        loss = loss + piece_loss
        for key, grad in piece_grads.items():
            if key in grads:
                grads[key] += grad
            else:
                grads[key] = grad
    return float(loss), grads, tokens


def _piece(
    params: Params, config: QwenConfig, batch: Batch, share: float, rng: np.random.Generator
) -> tuple[Array, Params]:
    """Return a micro-batch's share of the loss, still on the device, and the gradient of that.

    A function of its own, so that all activations are freed before the next piece begins.
    """
    logits, cache = language_model_forward(params, config, batch.input_ids, training=True, rng=rng)
    loss, loss_cache = cross_entropy_forward(logits, *_on_device(batch, logits))
    dlogits = cross_entropy_backward(share, loss_cache)  # the loss counts by `share`
    return loss * share, language_model_backward(dlogits, cache)


def evaluate(params: Params, config: QwenConfig, rows: Array, batch_size: int) -> float:
    """Return the mean loss over the rows (n, T + 1), without dropout."""
    loss = 0.0
    for start in range(0, len(rows), batch_size):
        batch = as_batch(rows[start : start + batch_size])
        logits = language_model_forward(params, config, batch.input_ids)[0]
        piece_loss, _ = cross_entropy_forward(logits, *_on_device(batch, logits))
        loss += float(piece_loss) * (len(batch.labels) / len(rows))
    return loss


def as_batch(rows: Array) -> Batch:
    """Split rows (B, T + 1) into inputs and the tokens that follow them.

    >>> as_batch(np.array([[1, 2, 3]]))[:2]
    (array([[1, 2]]), array([[2, 3]]))
    """
    return Batch(rows[:, :-1], rows[:, 1:])


def _on_device(batch: Batch, like: Array) -> tuple[Array, Array | None]:
    xp = array_module(like)
    mask = batch.loss_mask
    return xp.asarray(batch.labels), None if mask is None else xp.asarray(mask)


def train_step(
    params: Params, state: AdamWState, config: QwenConfig, rows: Array, settings: PretrainSettings
) -> tuple[Params, Row]:
    """Compute the gradient of update number state["step"]; change nothing yet.

    Returns:
        grads: clipped.
        row: what there is to say about the step, for metrics.jsonl.

    Raises:
        FloatingPointError: the loss or a gradient is NaN or infinite.
    """
    s, step = settings, state["step"]
    chosen = batch_rows(len(rows), s.batch_size, step, s.seed)
    pieces = [as_batch(rows[piece]) for piece in np.array_split(chosen, s.accumulate)]
    loss, grads, tokens = loss_and_grads(params, config, pieces, seed=(DROPOUT, s.seed, step))
    if not math.isfinite(loss):
        raise FloatingPointError(f"the loss of step {step + 1} is {loss}")
    try:
        grads, norm = clip_grad_norm(grads, s.max_norm, in_place=True)
    except FloatingPointError as error:
        raise FloatingPointError(f"step {step + 1}, loss {loss:.4g}: {error}") from None
    lr = cosine_lr(
        step,
        peak_lr=s.peak_lr,
        min_lr=s.min_lr_ratio * s.peak_lr,
        warmup_steps=s.warmup_steps,
        total_steps=s.steps,
    )
    return grads, {"step": step + 1, "loss": loss, "lr": lr, "grad_norm": norm, "tokens": tokens}


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

    Returns:
        The trained parameters.

    Raises:
        ImportError: plot or the bar need a missing package; nothing has been done yet.
        ValueError: rows do not fit settings or config, or the folder holds a run with other
            settings, another config or other rows; the message names what differs.
        FloatingPointError: loss or gradient became NaN or infinite. The last checkpoint stands.
        OSError: the folder cannot be written. The last checkpoint stands.
        KeyboardInterrupt, SystemExit: Ctrl-C or SIGTERM, after a checkpoint of the last
            complete step has been written.
    """
    folder, s = Path(run_folder), settings
    require_extra(*["matplotlib"] * plot, *["tqdm"] * wants_bar(progress))
    if validation_rows is None and s.validation_share > 0:
        held_out = max(1, round(s.validation_share * len(rows)))
        rows, validation_rows = rows[:-held_out], rows[-held_out:]
    _check_rows("rows", rows, config, s)
    if validation_rows is not None:
        _check_rows("validation_rows", validation_rows, config, s)

    recover(folder)
    training: Row = {"config": config.to_dict(), "settings": asdict(s), "rows": _digest(rows)}
    training = json.loads(json.dumps(training))  # tuples become lists, as they will be in the file
    resumed = load_run(folder, s.dtype)
    if resumed is not None:
        params, state, before = resumed
        require_same_run(folder, before, training, state["step"])
    else:
        if params is None:
            params = init_params(config, np.random.default_rng([INIT, s.seed]), dtype=s.dtype)
        params = {key: w.astype(s.dtype) for key, w in params.items()}  # a copy
        state = adamw_init(params)
    params = to_device(params, device)
    state["m"], state["v"] = to_device(state["m"], device), to_device(state["v"], device)
    saved = -1 if resumed is None else state["step"]

    def save() -> None:
        nonlocal saved
        metrics.sync()
        save_run(folder, config, params, state, training, tokenizer)
        saved = state["step"]

    with (
        Metrics(folder, state["step"]) as metrics,
        Progress(s.steps, state["step"], progress) as shown,
        Interrupts() as interrupts,
    ):
        try:
            if saved < 0:
                with interrupts.held():
                    save()
            while True:
                step = state["step"]
                look = step == s.steps or (s.eval_every > 0 and step % s.eval_every == 0)
                if look and validation_rows is not None:
                    loss = evaluate(params, config, validation_rows, _piece_size(s))
                    with interrupts.held():
                        metrics.append({"step": step, "validation_loss": loss})
                    shown.note(f"step {step}: validation loss {loss:.4f}")
                if step >= s.steps:
                    break

                start = time.perf_counter()
                grads, row = train_step(params, state, config, rows, s)
                with interrupts.held():  # from here to the end of the block, all or nothing
                    adamw_step(
                        params,
                        grads,
                        state,
                        lr=row["lr"],
                        beta1=s.beta1,
                        beta2=s.beta2,
                        eps=s.eps,
                        weight_decay=s.weight_decay,
                    )
                    del grads  # before the next ones need the memory
                    seconds = time.perf_counter() - start
                    row |= {"tokens_per_second": row["tokens"] / seconds, "seconds": seconds}
                    metrics.append(row)
                    if state["step"] % s.checkpoint_every == 0 or state["step"] == s.steps:
                        save()
                        if plot:
                            plot_loss(folder)
                shown.step(row)
        except (KeyboardInterrupt, SystemExit):
            with interrupts.held():
                if state["step"] > saved:
                    save()
            raise
        except FloatingPointError as error:
            at = f"the last checkpoint, of step {saved}, is in {folder / 'checkpoint'}"
            raise FloatingPointError(f"{error}; {at}") from None
    if plot:
        plot_loss(folder)
    return params


def _piece_size(settings: PretrainSettings) -> int:
    return -(-settings.batch_size // settings.accumulate)


def _check_rows(name: str, rows: Array, config: QwenConfig, settings: PretrainSettings) -> None:
    T = settings.context_length
    if rows.ndim != 2 or rows.shape[1] != T + 1 or not len(rows):
        raise ValueError(
            f"{name} must have shape (n, context_length + 1 = {T + 1}) and n > 0, got {rows.shape}"
        )
    if rows.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integer ids, got dtype {rows.dtype}")
    low, high = int(rows.min()), int(rows.max())
    if low < 0 or high >= config.vocab_size:
        raise ValueError(
            f"{name} holds ids from {low} to {high}, config.vocab_size is {config.vocab_size}"
        )


def _digest(rows: Array) -> str:
    """Return a fingerprint of the data, to notice when a run is resumed on other rows."""
    digest = hashlib.blake2b(str(rows.shape).encode(), digest_size=16)
    for start in range(0, len(rows), 1024):
        digest.update(rows[start : start + 1024].astype("<i4").tobytes())
    return digest.hexdigest()
