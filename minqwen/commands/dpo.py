"""Train a chat model on pairs of answers, without a reward model (DPO).

    minqwen dpo pairs.jsonl --start-from runs/chat --out runs/dpo

A line of the file says which of two answers is better:

    {"prompt": "2 + 2?", "chosen": "Four.", "rejected": "Five."}

The reference, which does not learn, is the model to start from, or --reference. The same command
goes on where it was stopped.

Writes into the folder: checkpoint/ (open it with `minqwen generate`), metrics.jsonl, metrics.png.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from ..alignment.dpo import dpo
from ..alignment.settings import DpoSettings
from ..backend import require_device
from ..extras import require_extra
from ..params import Params
from ..training.progress import wants_bar
from .alignment_files import (
    Option,
    Start,
    add_run_arguments,
    add_settings_arguments,
    add_validation_argument,
    chat_hint,
    choose_settings,
    hold_out,
    open_beside,
    open_start,
)
from .files import require_folder, told_how_to_go_on
from .preference_files import (
    OPTIONS as PAIR_OPTIONS,
)
from .preference_files import (
    NumberedPair,
    add_epochs_argument,
    read_pairs,
    require_steps_or_epochs,
    settings_for,
)

PRESETS = {"small": DpoSettings()}  # Qwen2 publishes no number
OPTIONS = (
    *PAIR_OPTIONS,
    Option("min_lr_ratio", "last learning rate over the peak"),
    Option("beta", "price of leaving the reference"),
    Option("reduction", "of an answer's log-probabilities", choices=("sum", "mean")),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `minqwen dpo`."""
    parser.add_argument("pairs", type=Path, metavar="PAIRS.jsonl", help="the pairs of answers")
    add_run_arguments(parser)
    parser.add_argument(
        "--reference", type=Path, metavar="FOLDER", help="checkpoint or run (that to start from)"
    )
    add_validation_argument(parser)
    add_settings_arguments(parser, PRESETS, OPTIONS)
    add_epochs_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Read pairs and models, then train."""
    require_device(args.device)
    require_extra("matplotlib", *["tqdm"] * wants_bar(not args.quiet))
    require_folder(args.out)
    require_steps_or_epochs(args)
    settings = choose_settings(args, PRESETS, OPTIONS)
    start = open_start(args.start_from, settings.dtype, args.tokenizer)
    reference = None
    if args.reference is not None:
        reference = open_reference(args.reference, start, settings.dtype)

    def read(path: Path) -> list[NumberedPair]:
        return read_pairs(path, start.tokenizer, args.template, settings.context_length)

    pairs, held_out = hold_out(read(args.pairs), args.validation, settings.seed, read)
    settings = settings_for(args, PRESETS, OPTIONS, settings.batch_size, len(pairs))
    if not args.quiet:
        print(
            f"{len(pairs)} pairs; {len(held_out or [])} pairs held out; {settings.steps} steps; "
            f"{sum(w.size for w in start.params.values()):,} parameters",
            file=sys.stderr,
        )
    with told_how_to_go_on(args.out):
        dpo(
            start.config,
            start.params,
            [pair for pair, _ in pairs],
            args.out,
            settings,
            reference=reference,
            validation_pairs=None if held_out is None else [pair for pair, _ in held_out],
            pad_id=start.pad_id,
            tokenizer=start.tokenizer,
            progress=not args.quiet,
            device=args.device,
        )
    print(f"trained {settings.steps} steps; ask it with (bash)")
    print(chat_hint(start.tokenizer, args.template, args.out))
    return 0


def open_reference(path: Path, start: Start, dtype: str) -> Params:
    """Read the parameters of the reference.

    Raises:
        ValueError: it is not a model of the same config, or has another tokenizer.
        FileNotFoundError: a file is missing.
    """
    found = open_beside(start, "reference", path, dtype, score_head=None)
    ours, theirs = (replace(c, dropout=0.0, extra={}) for c in (start.config, found.config))
    if ours != theirs:
        raise ValueError(f"the reference in {path} has another config than the model")
    return found.params
