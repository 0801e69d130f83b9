"""Fine-tune a model on chats; the same command goes on where it was stopped.

    minqwen sft chats.jsonl --start-from runs/first --out runs/chat
    minqwen sft chats.jsonl --start-from Qwen2-0.5B/ --out runs/chat --preset report --accumulate 32

A line of the file is a chat, in which the answers of the assistant are learnt:

    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}

Writes into the folder: checkpoint/ (open it with `minqwen generate`), metrics.jsonl, metrics.png.
`minqwen tokenize --chat` shows which tokens of a chat count.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..alignment.settings import REPORT_SFT, SftSettings
from ..alignment.sft import sft
from ..backend import require_device
from ..extras import require_extra
from ..tokenizer.chatml import TRAIN_ON
from ..training.progress import wants_bar
from .alignment_files import (
    LOOP,
    OPTIMIZER,
    NumberedChat,
    Option,
    add_run_arguments,
    add_settings_arguments,
    add_validation_argument,
    chat_hint,
    choose_settings,
    hold_out,
    open_start,
    read_encoded_chats,
)
from .files import require_folder, told_how_to_go_on

PRESETS = {"small": SftSettings(), "report": REPORT_SFT}
OPTIONS = (
    *LOOP,
    *OPTIMIZER,
    Option("dropout", "in training"),
    Option("packed", "put several chats into a row"),
    Option("train_on", "which tokens count", choices=TRAIN_ON),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `minqwen sft`."""
    parser.add_argument("chats", type=Path, metavar="CHATS.jsonl", help="the chats to learn from")
    add_run_arguments(parser)
    add_validation_argument(parser)
    add_settings_arguments(parser, PRESETS, OPTIONS)


def run(args: argparse.Namespace) -> int:
    """Read chats and model, then train."""
    require_device(args.device)
    require_extra("matplotlib", *["tqdm"] * wants_bar(not args.quiet))
    require_folder(args.out)
    settings = choose_settings(args, PRESETS, OPTIONS)
    start = open_start(args.start_from, settings.dtype, args.tokenizer)

    def read(path: Path) -> list[NumberedChat]:
        told = (start.tokenizer, args.template, settings.train_on)
        return read_encoded_chats(path, *told, settings.context_length)

    chats, held_out = hold_out(read(args.chats), args.validation, settings.seed, read)
    if not args.quiet:
        tokens = sum(sum(chat.loss_mask) for chat, _ in chats)
        print(
            f"{len(chats)} chats, {tokens:,} tokens to train on; {len(held_out or [])} chats held "
            f"out; {sum(w.size for w in start.params.values()):,} parameters",
            file=sys.stderr,
        )
    with told_how_to_go_on(args.out):
        sft(
            start.config,
            start.params,
            [chat for chat, _ in chats],
            args.out,
            settings,
            validation_chats=None if held_out is None else [chat for chat, _ in held_out],
            pad_id=start.pad_id,
            tokenizer=start.tokenizer,
            progress=not args.quiet,
            device=args.device,
        )
    print(f"trained {settings.steps} steps; ask it with (bash)")
    print(chat_hint(start.tokenizer, args.template, args.out))
    return 0
