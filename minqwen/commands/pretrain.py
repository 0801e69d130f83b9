"""Train a model on text files; the same command goes on where it was stopped.

    minqwen pretrain my-texts/ --out runs/first --steps 1000
    minqwen pretrain --builtin reference --size small --out runs/reference
    mpirun -n 4 minqwen pretrain my-texts/ --out runs/first      four processes share each batch

Writes into the folder: checkpoint/ (open it with `minqwen generate`), metrics.jsonl, loss.png.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..backend import Array, require_device
from ..cli import program
from ..data.packing import pack_documents
from ..extras import require_extra
from ..model.accounting import cost
from ..model.checkpoint import load_checkpoint
from ..model.config import QwenConfig
from ..model.moe_fields import sparse_layers
from ..model.presets import OWN_SIZES, own_size
from ..params import Params
from ..tokenizer.bpe import Tokenizer
from ..training.communicator import find_communicator
from ..training.data_parallel import require_shared
from ..training.mixed_precision import PRECISIONS, precision_dtype
from ..training.pretrain import pretrain
from ..training.progress import wants_bar
from ..training.resume import last_checkpoint, read_training
from ..training.settings import PretrainSettings
from ..training.together import Together
from .files import (
    add_device_argument,
    add_text_arguments,
    checkpoint_of,
    read_documents,
    require_folder,
    told_how_to_go_on,
)
from .train_tokenizer import train

SEPARATOR = "<|endoftext|>"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `minqwen pretrain`."""
    add_text_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    model = parser.add_argument_group("model")
    model.add_argument("--size", choices=OWN_SIZES, default="small", help="of a new model (small)")
    model.add_argument("--config", type=Path, help="config.json of a new model, instead of --size")
    model.add_argument("--start-from", type=Path, help="checkpoint or run to go on from")
    model.add_argument("--tokenizer", type=Path, metavar="PATH", help="default: train one")
    model.add_argument("--vocab-size", type=int, default=2048, help="of that tokenizer (2048)")
    steps = parser.add_argument_group("training")
    steps.add_argument("--steps", type=int, default=1000, help="updates (1000)")
    steps.add_argument("--batch-size", type=int, default=8, help="rows in an update (8)")
    steps.add_argument("--accumulate", type=int, default=1, help="pieces of a batch (1)")
    steps.add_argument("--context", type=int, default=256, help="tokens in a row (256)")
    steps.add_argument("--lr", type=float, default=1e-3, help="peak learning rate (1e-3)")
    steps.add_argument("--warmup", type=int, help="updates (a twentieth of the first --steps)")
    steps.add_argument("--weight-decay", type=float, default=0.1, help="(0.1)")
    steps.add_argument("--clip", type=float, default=1.0, help="gradient norm; inf = none (1.0)")
    steps.add_argument("--balance-loss", type=float, help="coefficient (that of the config)")
    steps.add_argument("--z-loss", type=float, default=0.0, help="on routers, coefficient (0)")
    steps.add_argument("--pool-router-loss", action="store_true", help="balance all layers as one")
    steps.add_argument(
        "--separate-documents", action="store_true", help="no attention from one into another"
    )
    steps.add_argument("--validation", type=float, default=0.05, help="share of rows (0.05)")
    steps.add_argument("--eval-every", type=int, default=100, help="updates (100)")
    steps.add_argument("--checkpoint-every", type=int, default=100, help="updates (100)")
    steps.add_argument("--seed", type=int, default=0, help="(0)")
    steps.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    steps.add_argument(
        "--precision", choices=PRECISIONS, default="float32", help="to compute in (float32)"
    )
    steps.add_argument(
        "--threads", type=int, default=1, help="pieces of a batch at work at the same time (1)"
    )
    add_device_argument(steps)
    steps.add_argument("--quiet", action="store_true", help="no progress bar")


class Prepared(NamedTuple):
    config: QwenConfig
    rows: Array  # (n, context + 1) int32
    settings: PretrainSettings


def run(args: argparse.Namespace) -> int:
    """Prepare text, tokenizer and model, then train; under mpirun, together with the others.

    The first process alone reads and writes files.
    """
    require_device(args.device)
    communicator = find_communicator()
    params: Params | None = None
    tokenizer: Tokenizer | None = None

    def make() -> Prepared:
        nonlocal params, tokenizer  # the others do without
        prepared, params, tokenizer = prepare(args, communicator.size)
        return prepared

    with Together(communicator) as job:
        config, rows, settings = job.first(make)
    with told_how_to_go_on(args.out, communicator.rank == 0):
        pretrain(
            config,
            rows,
            args.out,
            settings,
            params=params,
            tokenizer=tokenizer,
            progress=not args.quiet,
            device=args.device,
            communicator=communicator,
            threads=args.threads,
        )
    if communicator.rank == 0:
        hint = f"{program()} generate {args.out} 'your text' --temperature 0.8"
        print(f"trained {args.steps} steps; {hint}")
    return 0


def prepare(
    args: argparse.Namespace, processes: int = 1
) -> tuple[Prepared, Params | None, Tokenizer]:
    """Read the text, find or train the tokenizer, and choose the model.

    Returns:
        prepared: what every process needs.
        params: to start from, None = drawn anew.
        tokenizer: saved with the model.
    """
    require_extra("matplotlib", *["tqdm"] * wants_bar(not args.quiet))
    precision_dtype(args.precision)  # bfloat16 needs a package too
    require_folder(args.out)
    settings = PretrainSettings(
        steps=args.steps,
        batch_size=args.batch_size,
        accumulate=args.accumulate,
        context_length=args.context,
        peak_lr=args.lr,
        warmup_steps=find_warmup(args),
        weight_decay=args.weight_decay,
        max_norm=args.clip,
        z_loss_coef=args.z_loss,
        router_loss_pooled=args.pool_router_loss,
        seed=args.seed,
        dtype=args.dtype,
        precision=args.precision,
        checkpoint_every=args.checkpoint_every,
        eval_every=args.eval_every,
        validation_share=args.validation,
    )
    documents = read_documents(args)
    tokenizer = find_tokenizer(args, documents)
    if SEPARATOR not in tokenizer.special_tokens:
        raise ValueError(f"the tokenizer has no token {SEPARATOR}, which ends every document")
    if args.separate_documents:
        settings = replace(settings, separator_id=tokenizer.special_tokens[SEPARATOR])
    params = None
    if args.start_from is not None:
        config, params = load_checkpoint(checkpoint_of(args.start_from), dtype=args.dtype)
    elif args.config is not None:
        config = QwenConfig.from_pretrained(args.config)
    else:
        config = own_size(args.size, tokenizer.vocab_size)
    if args.balance_loss is not None:
        if not any(sparse_layers(config)):
            raise ValueError("--balance-loss is for a model with experts; this one has none")
        config = replace(config, router_aux_loss_coef=args.balance_loss)
    require_shared(config, settings, processes, args.threads)
    if tokenizer.vocab_size > config.vocab_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} ids, the model only vocab_size="
            f"{config.vocab_size} rows"
        )
    rows = pack_documents(
        (tokenizer.encode(document, disallowed_special=()) for document in documents),
        args.context,
        tokenizer.special_tokens[SEPARATOR],
        np.random.default_rng(args.seed),
    )
    if not args.quiet:
        found = cost(config, 1, 1)
        parameters, activated = found.parameters, found.activated_parameters
        of_which = "" if activated == parameters else f", {activated:,} of them activated"
        print(
            f"{len(documents)} documents, {rows.shape[0] * args.context:,} tokens, "
            f"{tokenizer.vocab_size} ids; {parameters:,} parameters{of_which}",
            file=sys.stderr,
        )
    return Prepared(config, rows, settings), params, tokenizer


def find_warmup(args: argparse.Namespace) -> int:
    """Return --warmup, or that of the run to resume, which may get more steps; or the default."""
    if args.warmup is not None:
        return int(args.warmup)
    checkpoint = last_checkpoint(args.out)
    if checkpoint is None:
        return int(args.steps // 20)
    settings = read_training(checkpoint)["settings"]
    return min(int(settings.get("warmup_steps", args.steps // 20)), int(args.steps))


def find_tokenizer(args: argparse.Namespace, documents: list[str]) -> Tokenizer:
    """Load the tokenizer asked for, or that of the run to resume, or train one."""
    for path in (args.tokenizer, last_checkpoint(args.out), args.start_from):
        if path is not None:
            return Tokenizer.from_pretrained(checkpoint_of(path))
    return train(documents, args.vocab_size)
