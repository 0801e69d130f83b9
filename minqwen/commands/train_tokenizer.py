"""Train a byte-pair tokenizer on text files.

minqwen train-tokenizer *.txt --vocab-size 8000 --out my-tokenizer
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from pathlib import Path

from ..tokenizer.bpe import Tokenizer, bpe_train
from .files import add_text_arguments, text_files


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `minqwen train-tokenizer`."""
    add_text_arguments(parser)
    parser.add_argument(
        "--vocab-size", type=int, default=8000, help="ids: bytes, merges, control tokens (8000)"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for tokenizer.json")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Train, save, and say how well it packs the text."""
    source = text_files(args)
    start = time.perf_counter()
    tokenizer = train(source, args.vocab_size)
    seconds = time.perf_counter() - start
    tokenizer.save_pretrained(args.out)
    texts = [s if isinstance(s, str) else s.read_text(encoding="utf-8") for s in source[:50]]
    bytes_ = sum(len(text.encode("utf-8", "replace")) for text in texts)
    tokens = sum(len(tokenizer.encode(text, disallowed_special=())) for text in texts)
    facts = {
        "vocab_size": tokenizer.vocab_size,
        "documents": len(source),
        "seconds": round(seconds, 2),
        "bytes_per_token": round(bytes_ / max(tokens, 1), 3),
        "folder": str(args.out),
    }
    if args.json:
        print(json.dumps(facts))
    else:
        print(
            f"{facts['vocab_size']} tokens from {facts['documents']} documents in "
            f"{facts['seconds']} s; {facts['bytes_per_token']} bytes a token; saved in {args.out}"
        )
    return 0


def train(source: list[str | Path], vocab_size: int) -> Tokenizer:
    """Train with progress on stderr; a text that runs out of pairs is a note, not a warning."""
    show = sys.stderr.isatty()

    def progress(done: int, total: int) -> None:
        if show and (done % 200 == 0 or done == total):
            print(f"\rmerges {done}/{total}", end="\n" if done == total else "", file=sys.stderr)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tokenizer = bpe_train(source, vocab_size, progress=progress)
    for warning in caught:
        print(f"note: {warning.message}", file=sys.stderr)
    return tokenizer
