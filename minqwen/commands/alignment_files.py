"""What sft, reward, dpo and ppo ask for: a model to start from, settings, files of chats."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ..cli import program
from ..data.jsonl import on_line
from ..data.records import read_chats
from ..model.checkpoint import load_checkpoint
from ..model.config import QwenConfig
from ..params import Params
from ..tokenizer.bpe import Tokenizer
from ..tokenizer.chat_templates import TEMPLATES
from ..tokenizer.chatml import Chat, encode_chat
from ..tokenizer.special_tokens import ENDOFTEXT, IM_END, IM_START
from ..training.resume import last_checkpoint, read_training
from .files import add_device_argument, checkpoint_of

HOLD_OUT = 4  # first word of the seed
SHARE = 0.05  # held out, where nothing was given
Item = TypeVar("Item")
Settings = TypeVar("Settings")


class Option(NamedTuple):
    field: str  # of the settings
    help: str
    name: str | None = None  # None: the field, with dashes
    choices: Sequence[str] | None = None

    @property
    def flag(self) -> str:
        """As it is written on the command line."""
        return self.name or "--" + self.field.replace("_", "-")


LOOP = (
    Option("steps", "updates"),
    Option("seed", "of all that is random"),
    Option("dtype", "of the parameters", choices=("float32", "float64")),
    Option("eval_every", "updates between looks at held-out data; 0 = only at the end"),
    Option("checkpoint_every", "updates between checkpoints"),
)
OPTIMIZER = (
    Option("batch_size", "rows in an update"),
    Option("accumulate", "pieces of a batch, so that it fits into memory"),
    Option("context_length", "tokens", name="--context"),
    Option("peak_lr", "peak learning rate", name="--lr"),
    Option("warmup_steps", "updates with a rising rate", name="--warmup"),
    Option("weight_decay", "of the matrices"),
    Option("max_norm", "of the gradient; inf = no clipping", name="--clip"),
)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare where a run starts, where it writes, and how chats are told."""
    parser.add_argument(
        "--start-from", type=Path, required=True, metavar="FOLDER", help="checkpoint or run"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument(
        "--tokenizer", type=Path, metavar="PATH", help="if not in the folder of --start-from"
    )
    parser.add_argument("--template", choices=TEMPLATES, default="qwen2", help="of chats (qwen2)")
    add_device_argument(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def add_settings_arguments(
    parser: argparse.ArgumentParser, presets: Mapping[str, Any], options: Iterable[Option]
) -> None:
    """Declare --preset, and a flag for each option; what is not given is that of the preset.

    Args:
        parser: of the command.
        presets: settings of one class; the first is the default.
        options: which fields can be given. The value is found under the name of the field.
    """
    group = parser.add_argument_group("settings")
    first = next(iter(presets))
    group.add_argument(
        "--preset", choices=presets, default=first, help=f"where the others begin ({first})"
    )
    for option in options:
        default = getattr(presets[first], option.field)
        more: dict[str, Any] = {"action": argparse.BooleanOptionalAction}  # --packed, --no-packed
        if not isinstance(default, bool):
            metavar = None if option.choices else type(default).__name__.upper()
            more = {"type": type(default), "choices": option.choices, "metavar": metavar}
        shown = ("no", "yes")[default] if isinstance(default, bool) else default
        group.add_argument(option.flag, dest=option.field, help=f"{option.help} ({shown})", **more)


def choose_settings(
    args: argparse.Namespace, presets: Mapping[str, Settings], options: Iterable[Option]
) -> Settings:
    """Return the preset with what was given.

    A warm-up that was not given, also that of PPO's value model, is that of the run to resume; else
    it shrinks or grows with --steps, so that its share of the run is that of the preset.

    Args:
        args: of the command line, with preset and out.
        presets: those of add_settings_arguments.
        options: those of add_settings_arguments.

    Raises:
        ValueError: a value is impossible, or the run to resume is damaged.
    """
    preset: Any = presets[args.preset]
    values = {option.field: getattr(args, option.field) for option in options}
    values = {field: value for field, value in values.items() if value is not None}
    known = {field.name for field in fields(preset)}
    for name in known & {"warmup_steps", "value_warmup_steps"} - values.keys():
        steps = values.get("steps", preset.steps)
        values[name] = getattr(preset, name) * steps // preset.steps
        checkpoint = last_checkpoint(args.out)
        if checkpoint is not None:
            before = read_training(checkpoint)["settings"].get(name) or 0
            values[name] = min(before, steps) if name == "warmup_steps" else before
    chosen: Settings = replace(preset, **values)
    return chosen


def add_validation_argument(parser: argparse.ArgumentParser) -> None:
    """Declare --validation; None when it was not given."""
    parser.add_argument(
        "--validation",
        type=_share_or_file,
        metavar="FILE|SHARE",
        help=f"a file like the one to train on, or a share of that, held out ({SHARE})",
    )


def _share_or_file(text: str) -> float | Path:
    try:
        return float(text)
    except ValueError:
        return Path(text)


def hold_out(
    items: Sequence[Item],
    validation: float | Path | None,
    seed: int,
    read: Callable[[Path], list[Item]],
) -> tuple[list[Item], list[Item] | None]:
    """Return what is trained on, and what is only looked at.

    Args:
        items: all there are.
        validation: a file, of which everything is held out, or a share of the items; None: SHARE.
        seed: of the choice.
        read: reads the file.

    Returns:
        The items to train on, in their order; the others, None when there are none.

    Raises:
        ValueError: the share is not in [0, 1), or leaves nothing to train on.

    >>> hold_out("abcd", 0.25, seed=0, read=list)
    (['a', 'b', 'c'], ['d'])
    >>> hold_out("abcd", 0.1, seed=0, read=list)  # less than half an item
    (['a', 'b', 'c', 'd'], None)
    """
    validation = SHARE if validation is None else validation
    if isinstance(validation, Path):
        return list(items), read(validation)
    if not 0 <= validation < 1:
        raise ValueError(f"--validation must be a file, or a share in [0, 1), got {validation}")
    n = round(validation * len(items))
    if n == len(items):
        raise ValueError(f"--validation {validation} of {len(items)} leaves nothing to train on")
    order = np.random.default_rng([HOLD_OUT, seed]).permutation(len(items)).tolist()
    chosen = set(order[:n])
    kept = [item for i, item in enumerate(items) if i not in chosen]
    return kept, [items[i] for i in sorted(chosen)] or None


class Start(NamedTuple):
    config: QwenConfig
    params: Params
    tokenizer: Tokenizer
    pad_id: int  # <|endoftext|>, or <|im_end|> where there is none


def open_start(
    path: Path, dtype: str, tokenizer: Path | None = None, *, score_head: bool | None = False
) -> Start:
    """Read a checkpoint, or that of a run, with a tokenizer that can tell chats.

    Args:
        path: its folder.
        dtype: of the parameters.
        tokenizer: of --tokenizer; None takes the one in the folder.
        score_head: False wants logits, True a score; None takes either.

    Raises:
        ValueError: the tokenizer lacks a control token or has more ids than the model has rows, or
            the model has the other head.
        FileNotFoundError: a file is missing.
    """
    folder = checkpoint_of(path)
    config, params = load_checkpoint(folder, dtype=dtype)
    if score_head is not None and score_head != bool(config.num_labels):
        has, wanted = ("a score", "logits") if config.num_labels else ("logits", "a score")
        raise ValueError(f"the model in {path} gives {has}, but {wanted} must come out here")
    place = folder if tokenizer is None else checkpoint_of(tokenizer)
    found = Tokenizer.from_pretrained(place)
    known = found.special_tokens
    if missing := [name for name in (IM_START, IM_END) if name not in known]:
        raise ValueError(
            f"the tokenizer in {place} has no {' and no '.join(missing)}, which a chat is told "
            f"with; `{program()} train-tokenizer` makes one that has, for a model that is "
            f"pretrained with it: `{program()} pretrain --tokenizer`"
        )
    if found.vocab_size > config.vocab_size:
        raise ValueError(
            f"the tokenizer in {place} has {found.vocab_size} ids, the model in {path} only "
            f"vocab_size={config.vocab_size} rows"
        )
    return Start(config, params, found, known.get(ENDOFTEXT, known[IM_END]))


class NumberedChat(NamedTuple):
    chat: Chat
    line: int  # of the file, 1 for the first


def open_beside(start: Start, what: str, path: Path, dtype: str, score_head: bool | None) -> Start:
    """Read another model, which must read the ids that the model to start from writes.

    Args:
        start: that model.
        what: the other is, for the message.
        path: its folder, a checkpoint or a run.
        dtype: of the parameters.
        score_head: as in open_start.

    Raises:
        ValueError: it has the other head, or another tokenizer.
        FileNotFoundError: a file is missing.
    """
    found = open_start(path, dtype, score_head=score_head)
    ours, theirs = start.tokenizer, found.tokenizer
    same = ours.special_tokens == theirs.special_tokens and ours.vocab_size == theirs.vocab_size
    if not same or any(ours.token_bytes(i) != theirs.token_bytes(i) for i in range(ours.n_regular)):
        raise ValueError(f"the {what} in {path} has another tokenizer than the model to start from")
    return found


def read_encoded_chats(
    path: Path,
    tokenizer: Tokenizer,
    template: str,
    train_on: str = "answers",
    context_length: int | None = None,
) -> list[NumberedChat]:
    """Read a file of chats and turn them into ids; say on stderr what was left out or cut.

    Args:
        path: JSONL, see data/records.py.
        tokenizer: has <|im_start|> and <|im_end|>.
        template: a name in TEMPLATES.
        train_on: see encode_chat.
        context_length: a longer chat is cut after this and one token more; None: none is.

    Returns:
        The chats from which something can be learnt, so that no choice among them finds nothing.

    Raises:
        ValueError: a line is wrong, or the template cannot tell it; with file and line. Or no chat
            is left.
        FileNotFoundError: there is no such file.
    """
    found: list[NumberedChat] = []
    for record in read_chats(path):
        with on_line(path, record.line):
            chat = encode_chat(
                tokenizer,
                record.messages,
                template=template,
                train_on=train_on,
                tools=record.tools,
            )
        found.append(NumberedChat(chat, record.line))
    usable, notes = fit_chats(found, context_length)
    if not usable:
        raise ValueError(f"{path}: nothing can be learnt from it: {'; '.join(notes)}")
    for note in notes:
        print(f"{path}: {note}", file=sys.stderr)
    return usable


def fit_chats(
    chats: Sequence[NumberedChat], context_length: int | None
) -> tuple[list[NumberedChat], list[str]]:
    """Cut what is too long, leave out what then has no label, and say so.

    Args:
        chats: with their lines.
        context_length: C; C inputs and their labels are C + 1 tokens. None: all that there are.

    Returns:
        The chats that are left, and a line for each reason.

    >>> chats = [
    ...     NumberedChat(Chat([1, 2, 3], [False, True, True]), line=1),
    ...     NumberedChat(Chat([4, 5], [False, False]), line=2),
    ... ]
    >>> left, notes = fit_chats(chats, context_length=1)
    >>> left[0].chat.ids, notes[0]
    ([1, 2], '1 of 2 chats left out, no token is trained on: line 2')
    >>> notes[1]
    '1 of 2 chats cut after 2 tokens: line 1'
    """
    end = None if context_length is None else context_length + 1
    left: list[NumberedChat] = []
    without, late, cut = list[int](), list[int](), list[int]()
    for (ids, mask), line in chats:
        if any(mask[1:end]):  # the first token is no label
            left.append(NumberedChat(Chat(ids[:end], mask[:end]), line))
            cut += [line] * (len(left[-1].chat.ids) < len(ids))
        else:
            (late if any(mask[1:]) else without).append(line)
    notes = [
        f"{len(lines)} of {len(chats)} chats {why}: line {', '.join(map(str, lines[:5]))}"
        + (f" and {len(lines) - 5} more" if len(lines) > 5 else "")
        for lines, why in (
            (without, "left out, no token is trained on"),
            (late, f"left out, what is trained on comes after the first {end} tokens"),
            (cut, f"cut after {end} tokens"),
        )
        if lines
    ]
    return left, notes


def chat_hint(tokenizer: Tokenizer, template: str, out: Path) -> str:
    """Return the words with which bash asks the trained model something, in ChatML.

    The text stands beside the folder: with an option between them argparse would refuse it.
    """
    question = [{"role": "user", "content": "your text"}]
    chat = encode_chat(tokenizer, question, template=template, generation_prompt=True)
    text = tokenizer.decode(chat.ids)
    for character, written in (("\\", "\\\\"), ("'", "\\'"), ("\n", "\\n")):
        text = text.replace(character, written)
    return f"{program()} generate {shlex.quote(str(out))} $'{text}' --special"
