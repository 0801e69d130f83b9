"""Drop documents that are not good text, from text or JSONL, and say why.

    minqwen filter crawl/ --out filtered
    minqwen filter crawl/ --out filtered --languages en,zh --classifier quality.npz 0.5
    minqwen filter tasks.jsonl --out filtered --rules none --test-set gsm8k.jsonl
    minqwen filter code.jsonl --out filtered --rules none --model runs/mine --bits-per-byte 0.5 2.5

A document is kept if all rules pass. Without --rules these are the published ones of Gopher:
length, signs, stop words, and repetition, which fit English and Chinese prose and not code. In the
folder:

    documents/NAME   what is kept, byte for byte, under its old name
    dropped.jsonl    file and line of each that is dropped, and all its reasons
    aside.jsonl      file and line of what is no document, and what is wrong with it
    aside/NAME       these lines, to be mended
    report.json      counts, how often each rule failed, settings

Memory is that for one document: 1.1 GB measured for one as long as --max-mib allows, without a
model. The same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

from ..data.streaming.filter_files import filter_files
from .filter_rules import (
    RULES,
    RuleBook,
    fingerprints,
    held_out_by,
    make_rules,
    sealed,
    whole_path,
)
from .passes import add_file_arguments, add_pass_arguments, form_of, opened, print_report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `minqwen filter`."""
    add_file_arguments(parser)
    add_pass_arguments(parser)
    rules = parser.add_argument_group("rules")
    rules.add_argument(
        "--rules",
        default="gopher-quality,gopher-repetition",
        help=f"published sets of rules: {', '.join(RULES)}, with commas between them; or none "
        "(gopher-quality,gopher-repetition)",
    )
    rules.add_argument("--languages", default="", help="codes to keep, such as en,zh")
    rules.add_argument(
        "--language-least", type=float, help="least probability of these together (0.5)"
    )
    rules.add_argument("--blocklist", type=Path, metavar="FILE", help="a phrase on each line")
    rules.add_argument("--blocked-most", type=int, help="blocked phrases allowed (0)")
    rules.add_argument(
        "--test-set",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="text or JSONL whose passages shall not be trained on; may be given several times",
    )
    rules.add_argument("--test-field", help="of JSONL of --test-set, that is the text (text)")
    rules.add_argument(
        "--overlap", type=int, help="words in a row, as in --test-set, that drop a document (13)"
    )
    rules.add_argument(
        "--classifier",
        nargs=2,
        action="append",
        default=[],
        metavar=("FILE.npz", "LEAST"),
        help="of `minqwen train-classifier`, and the least probability of being good; may be "
        "given several times",
    )
    rules.add_argument("--model", type=Path, help="run or checkpoint whose surprise is measured")
    rules.add_argument(
        "--bits-per-byte",
        nargs=2,
        type=float,
        metavar=("LEAST", "MOST"),
        help="the surprise of --model at a byte of the document must be from LEAST to MOST",
    )


def run(args: argparse.Namespace) -> int:
    """Filter, and print the report."""
    form = form_of(args)
    book = sealed(rule_book(args))
    make_rules(book)  # whatever is wrong with them is told before any work
    if book.test_sets and (short := held_out_by(book).short):
        few = f"fewer than {book.overlap} words"
        print(f"note: texts of --test-set with {few}, not looked for: {short}", file=sys.stderr)
    with opened(args, args.files) as (workers, watch):
        report = filter_files(
            args.files, args.out, fingerprints(book), book.decide, form, workers, watch
        )
    print_report(args, report)
    return 0


def rule_book(args: argparse.Namespace) -> RuleBook:
    """Collect what was asked for.

    Raises:
        ValueError: options do not go together, or are out of range.
    """
    for name, needed in (
        ("model", "bits_per_byte"),
        ("bits_per_byte", "model"),
        ("language_least", "languages"),
        ("blocked_most", "blocklist"),
        ("test_field", "test_set"),
        ("overlap", "test_set"),
    ):
        if getattr(args, name) is not None and not getattr(args, needed):
            raise ValueError(f"{_option(name)} needs {_option(needed)}")
    if (args.blocked_most or 0) < 0:
        raise ValueError(f"--blocked-most must be 0 or more, got {args.blocked_most}")
    overlap = 13 if args.overlap is None else args.overlap
    if overlap < 1:
        raise ValueError(f"--overlap must be positive, got {overlap}")
    low, high = args.bits_per_byte or (0.0, math.inf)
    if not 0 <= low <= high or math.isinf(low):
        raise ValueError(f"--bits-per-byte needs 0 <= LEAST <= MOST, got {low:g} and {high:g}")
    chosen = [] if args.rules.strip() == "none" else _names(args.rules)
    if unknown := [name for name in chosen if name not in RULES]:
        raise ValueError(
            f"--rules takes {', '.join(RULES)}, or none alone, not {', '.join(unknown)}"
        )
    return RuleBook(
        rules=tuple(chosen),
        languages=tuple(_names(args.languages)),
        language_least=0.5 if args.language_least is None else args.language_least,
        blocklist=whole_path(args.blocklist) if args.blocklist else None,
        blocked_most=args.blocked_most or 0,
        test_sets=tuple(map(whole_path, args.test_set)),
        test_field="text" if args.test_field is None else args.test_field,
        overlap=overlap,
        classifiers=tuple((whole_path(path), _least(path, p)) for path, p in args.classifier),
        model=whole_path(args.model) if args.model else None,
        bits_least=low,
        bits_most=None if math.isinf(high) else high,
    )


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _names(words: str) -> list[str]:
    """Return what stands between commas, each once, in the order given."""
    return list(dict.fromkeys(filter(None, (word.strip() for word in words.split(",")))))


def _least(path: str, number: str) -> float:
    try:
        least = float(number)
    except ValueError:
        least = math.nan
    if not 0 <= least <= 1:
        raise ValueError(f"--classifier {path} needs a number from 0 to 1 after it, got {number}")
    return least
