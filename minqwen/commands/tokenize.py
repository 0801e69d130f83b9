"""Show how a text is cut into tokens, with their ids.

minqwen tokenize "Hello 世界" --tokenizer path/to/qwen.tiktoken
minqwen tokenize --tokenizer FOLDER --json < file.txt
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from ..tokenizer.bpe import Tokenizer
from .files import checkpoint_of, read_stdin, read_text

COLOURS = (43, 42, 46, 45, 44)  # backgrounds of a terminal


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


def run(args: argparse.Namespace) -> int:
    """Print the tokens."""
    if args.text is not None and args.file is not None:
        raise ValueError("give a text or --file, not both")
    tokenizer = Tokenizer.from_pretrained(checkpoint_of(args.tokenizer))
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
    if sys.stdout.isatty() and "NO_COLOR" not in os.environ:
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


def shown(token: str) -> str:
    r"""Write a token so that line ends and other control characters can be seen.

    >>> shown(" a\n\x1b")
    ' a\\n\\x1b'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in token)
