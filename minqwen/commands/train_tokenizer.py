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
from .files import add_text_arguments, read_documents, require_folder


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
    require_folder(args.out)
    documents = read_documents(args)
    start = time.perf_counter()
    tokenizer = train(documents, args.vocab_size)
    seconds = time.perf_counter() - start
    tokenizer.save_pretrained(args.out)
    sample = documents[:50]
    bytes_ = sum(len(text.encode("utf-8")) for text in sample)
    tokens = sum(len(tokenizer.encode(text, disallowed_special=())) for text in sample)
    facts = {
        "vocab_size": tokenizer.vocab_size,
        "documents": len(documents),
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


def train(documents: list[str], vocab_size: int) -> Tokenizer:
    """Train with progress on stderr; a text that runs out of pairs is a note, not a warning."""
    show = sys.stderr.isatty()

    def progress(done: int, total: int) -> None:
        if show and (done % 200 == 0 or done == total):
            print(f"\rmerges {done}/{total}", end="\n" if done == total else "", file=sys.stderr)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tokenizer = bpe_train(documents, vocab_size, progress=progress)
    for warning in caught:
        print(f"note: {warning.message}", file=sys.stderr)
    return tokenizer
