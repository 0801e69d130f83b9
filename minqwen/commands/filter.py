"""Drop documents that are not good text, from text or JSONL, and say why.

    minqwen filter crawl/ --out filtered
    minqwen filter crawl/ --out filtered --languages en,zh --classifier quality.npz 0.5
    minqwen filter code.jsonl --out filtered --rules none --model runs/mine --bits-per-byte 0.5 2.5

A document is kept if all rules pass. Without --rules these are the published ones of Gopher:
length, signs, stop words, and repetition, which fit English and Chinese prose and not code. In the
folder:

    documents/NAME   what is kept, byte for byte, under its old name
    dropped.jsonl    file and line of each that is dropped, and all its reasons
    aside.jsonl      file and line of what is no document, and what is wrong with it
    aside/NAME       these lines, to be mended
    report.json      counts, how often each rule failed, settings

The same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..data.streaming.filter_files import filter_files
from .filter_rules import RULES, RuleBook, fingerprints, make_rules, whole_path
from .passes import add_pass_arguments, form_of, opened, print_report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `minqwen filter`."""
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
        "--language-least", type=float, default=0.5, help="their probability together (0.5)"
    )
    rules.add_argument("--blocklist", type=Path, metavar="FILE", help="a phrase on each line")
    rules.add_argument("--blocked-most", type=int, default=0, help="blocked phrases allowed (0)")
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
    book = rule_book(args)
    make_rules(book)  # whatever is wrong with them is told before any work
    with opened(args) as (workers, watch):
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
    if (args.model is None) != (args.bits_per_byte is None):
        raise ValueError("--model and --bits-per-byte need each other")
    if args.blocked_most < 0:
        raise ValueError(f"--blocked-most must be 0 or more, got {args.blocked_most}")
    chosen = tuple(filter(None, args.rules.removeprefix("none").split(",")))
    if unknown := set(chosen) - set(RULES):
        raise ValueError(f"--rules knows {', '.join(RULES)} and none, not {', '.join(unknown)}")
    classifiers = []
    for path, least in args.classifier:
        try:
            classifiers.append((whole_path(path), float(least)))
        except ValueError:
            raise ValueError(f"--classifier {path} needs a number after it, got {least}") from None
    low, high = args.bits_per_byte or (0.0, float("inf"))
    return RuleBook(
        rules=chosen,
        languages=tuple(filter(None, args.languages.split(","))),
        language_least=args.language_least,
        blocklist=whole_path(args.blocklist) if args.blocklist else None,
        blocked_most=args.blocked_most,
        classifiers=tuple(classifiers),
        model=whole_path(args.model) if args.model else None,
        bits_least=low,
        bits_most=high,
    )
