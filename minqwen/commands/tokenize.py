"""Show how a text is cut into tokens, with their ids.

minqwen tokenize "Hello 世界" --tokenizer path/to/qwen.tiktoken
minqwen tokenize --tokenizer FOLDER --json < file.txt
minqwen tokenize --chat chat.json --tokenizer FOLDER
minqwen tokenize --chat chats.jsonl --line 3 --template qwen2.5 --tokenizer FOLDER

A chat is shown with what is trained on: id and label of each token side by side. The label is the
id where the token is trained on, else -100; the model is asked for it one place earlier, so the
first token of all is never asked for.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from ..data.jsonl import on_line
from ..data.records import read_chats_or_chat
from ..layers.cross_entropy import IGNORED
from ..tokenizer.bpe import Tokenizer
from ..tokenizer.chat_templates import TEMPLATES
from ..tokenizer.chatml import TRAIN_ON, Chat, encode_chat
from .files import checkpoint_of, read_stdin, read_text

COLOURS = (43, 42, 46, 45, 44)  # backgrounds of a terminal
TRAINED = 42


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `minqwen tokenize`."""
    parser.add_argument("text", nargs="?", help="the text; without it, standard input is read")
    parser.add_argument("--file", type=Path, help="read the text from this file (UTF-8)")
    parser.add_argument(
        "--tokenizer",
        type=Path,
        required=True,
        metavar="PATH",
        help="tokenizer.json, qwen.tiktoken, vocab.json, or a folder that holds one",
    )
    parser.add_argument(
        "--special", action="store_true", help="read <|im_start|> and the like as control tokens"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    chats = parser.add_argument_group("chats")
    chats.add_argument(
        "--chat",
        type=Path,
        metavar="FILE|-",
        help="show a chat instead of a text: a JSON file with a list of messages, or JSONL with "
        '{"messages": [...]} on each line; - is standard input',
    )
    chats.add_argument("--line", type=int, metavar="N", help="only line N of JSONL, 1 the first")
    chats.add_argument("--template", choices=TEMPLATES, help="default: qwen2")
    chats.add_argument("--train-on", choices=TRAIN_ON, help="default: answers")
    chats.add_argument(
        "--generation-prompt", action="store_true", help="end with the beginning of an answer"
    )


def run(args: argparse.Namespace) -> int:
    """Print the tokens."""
    if sum(given is not None for given in (args.text, args.file, args.chat)) > 1:
        raise ValueError("give one of a text, --file and --chat")
    if args.chat is None and (
        args.line is not None or args.template or args.train_on or args.generation_prompt
    ):
        raise ValueError("--line, --template, --train-on and --generation-prompt need --chat")
    if args.chat is not None and args.special:
        raise ValueError("--special is for texts; the control tokens of a chat come from its turns")
    tokenizer = Tokenizer.from_pretrained(checkpoint_of(args.tokenizer))
    if args.chat is not None:
        return run_chats(args, tokenizer)
    if args.file is not None:
        text = read_text(args.file)
    else:
        text = args.text if args.text is not None else read_stdin()
    allowed, disallowed = ("all", ()) if args.special else ((), ())
    ids = tokenizer.encode(text, allowed_special=allowed, disallowed_special=disallowed)
    tokens = [tokenizer.decode([i], errors="backslashreplace") for i in ids]
    bytes_ = len(text.encode("utf-8", "replace"))
    if args.json:
        print(json.dumps({"ids": ids, "tokens": tokens, "bytes": bytes_}, ensure_ascii=False))
        return 0
    tokens = [shown(token) for token in tokens]
    if _coloured():
        for i, token in enumerate(tokens):
            line_end = "\n" if token.endswith("\\n") else ""
            print(f"\x1b[30;{COLOURS[i % len(COLOURS)]}m{token}\x1b[0m", end=line_end)
        print("\n" + " ".join(map(str, ids)))
    else:
        for i, token in zip(ids, tokens, strict=True):
            print(f"{i:>7}  {token}")
    rate = f", {bytes_ / len(ids):.2f} bytes a token" if ids else ""
    print(f"{len(ids)} tokens, {len(text)} characters, {bytes_} bytes{rate}")
    return 0


def run_chats(args: argparse.Namespace, tokenizer: Tokenizer) -> int:
    """Print chats as tables of tokens, ids, labels and masks."""
    if str(args.chat) == "-" and sys.stdin is None:
        raise ValueError("no chat was given, and standard input is closed")
    from_stdin = str(args.chat) == "-"
    records = read_chats_or_chat(sys.stdin.buffer if from_stdin else args.chat)
    if args.line is not None:
        records = [record for record in records if record.line == args.line]
        if not records:
            raise ValueError(f"{args.chat} has no chat on line {args.line}")
    chats = []
    for record in records:  # all of them first: nothing is printed of a file with a mistake
        with on_line("<stdin>" if from_stdin else args.chat, record.line):
            chat = encode_chat(
                tokenizer,
                record.messages,
                template=args.template or "qwen2",
                train_on=args.train_on or "answers",
                generation_prompt=args.generation_prompt,
                tools=record.tools,
            )
        chats.append(chat)
    for record, chat in zip(records, chats, strict=True):
        tokens = [tokenizer.decode([i], errors="backslashreplace") for i in chat.ids]
        if args.json:
            print(json.dumps(_facts(record.line, chat, tokens), ensure_ascii=False))
            continue
        if len(records) > 1:
            print(f"line {record.line}")
        print_chat(chat, tokens, coloured=_coloured())
    return 0


def _facts(line: int, chat: Chat, tokens: list[str]) -> dict[str, Any]:
    return {
        "line": line,
        "ids": chat.ids,
        "tokens": tokens,
        "labels": labels_of(chat),
        "loss_mask": chat.loss_mask,
        "trained": sum(chat.loss_mask),
    }


def labels_of(chat: Chat) -> list[int]:
    """Return the id of each token that is trained on, else -100; not shifted.

    >>> labels_of(Chat([7, 8, 9], [False, True, True]))
    [-100, 8, 9]
    """
    pairs = zip(chat.ids, chat.loss_mask, strict=True)
    return [i if trained else IGNORED for i, trained in pairs]


def print_chat(chat: Chat, tokens: list[str], *, coloured: bool) -> None:
    r"""Print a row for each token; those that are trained on have a coloured ground.

    >>> print_chat(Chat([7, 8], [False, True]), ["a", "\n"], coloured=False)
         id   label  mask  token
          7    -100     0  a
          8       8     1  \n
    2 tokens, 1 trained on
    """
    print(f"{'id':>7} {'label':>7}  mask  token")
    rows = zip(chat.ids, labels_of(chat), chat.loss_mask, map(shown, tokens), strict=True)
    for i, label, trained, token in rows:
        if coloured and trained:
            token = f"\x1b[30;{TRAINED}m{token}\x1b[0m"
        print(f"{i:>7} {label:>7}  {trained:>4}  {token}")
    print(f"{len(chat.ids)} tokens, {sum(chat.loss_mask)} trained on")


def _coloured() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


def shown(token: str) -> str:
    r"""Write a token so that line ends and other control characters can be seen.

    >>> shown(" a\n\x1b")
    ' a\\n\\x1b'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in token)
