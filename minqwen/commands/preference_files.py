"""What reward and dpo ask for: a file of preferences, and how long to train on it."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

from ..alignment.preference_pairs import Pair, encode_pairs
from ..alignment.settings import steps_of_epochs
from ..data.records import read_preferences
from ..tokenizer.bpe import Tokenizer
from .alignment_files import LOOP, OPTIMIZER, Option, choose_settings

Settings = TypeVar("Settings")

OPTIONS = (
    *LOOP,
    *(o._replace(help="pairs in an update") if o.field == "batch_size" else o for o in OPTIMIZER),
)


class NumberedPair(NamedTuple):
    pair: Pair
    line: int  # of the file, 1 for the first


def read_pairs(
    path: Path, tokenizer: Tokenizer, template: str, context_length: int | None
) -> list[NumberedPair]:
    """Read a file of preferences and turn them into ids; say on stderr what was left out.

    Args:
        path: JSONL, see data/records.py.
        tokenizer: has <|im_start|> and <|im_end|>.
        template: a name in TEMPLATES.
        context_length: the most tokens of a prompt with its answer.

    Raises:
        ValueError: a line is wrong, the template cannot tell it, or no pair is left; with the file.
        FileNotFoundError: there is no such file.
    """
    records = read_preferences(path)
    try:
        pairs, left_out = encode_pairs(
            tokenizer, records, template=template, context_length=context_length
        )
    except ValueError as error:
        raise ValueError(f"{path}, {error}") from None
    if left_out:
        reasons = Counter("the same tokens" in reason for _, reason in left_out)
        kinds = {True: "both answers are the same tokens", False: "too long"}
        said = ", ".join(f"{reasons[kind]} {kinds[kind]}" for kind in kinds if reasons[kind])
        first = f"line {records[left_out[0].record].line}: {left_out[0].reason}"
        print(
            f"{path}: {len(left_out)} of {len(records)} pairs left out ({said}); {first}",
            file=sys.stderr,
        )
    gone = {i for i, _ in left_out}
    lines = [record.line for i, record in enumerate(records) if i not in gone]
    return [NumberedPair(pair, line) for pair, line in zip(pairs, lines, strict=True)]


def add_epochs_argument(parser: argparse.ArgumentParser, note: str = "") -> None:
    """Declare --epochs."""
    text = f"passes over the pairs, in the place of --steps{note}"
    parser.add_argument("--epochs", type=int, help=text)


def settings_for(
    args: argparse.Namespace,
    presets: Mapping[str, Settings],
    options: tuple[Option, ...],
    batch_size: int,
    n_pairs: int,
) -> Settings:
    """Return the settings, with the steps that --epochs asks for.

    Args:
        args: with epochs, and what choose_settings reads.
        presets: of the command.
        options: of the command.
        batch_size: pairs in an update.
        n_pairs: pairs to train on.

    Raises:
        ValueError: --epochs is not 1 or more.
    """
    if args.epochs is not None:
        args = argparse.Namespace(**vars(args))
        args.steps = steps_of_epochs(args.epochs, n_pairs, batch_size)
    return choose_settings(args, presets, options)


def require_steps_or_epochs(args: argparse.Namespace) -> None:
    """Raise ValueError when both --steps and --epochs were given, or no epoch."""
    if args.epochs is not None and args.steps is not None:
        raise ValueError("give --steps or --epochs, not both")
    if args.epochs is not None and args.epochs < 1:
        raise ValueError(f"--epochs must be 1 or more, got {args.epochs}")
