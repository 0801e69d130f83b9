"""Drop documents that are copies of others, exact or nearly, from text or JSONL.

    minqwen dedup crawl/ books.jsonl.gz --out deduplicated
    minqwen dedup crawl/ --out deduplicated --cluster local

Of documents that are alike the first stays, in the order of the files and lines. In the folder:

    documents/NAME   what is kept, byte for byte, under its old name
    dropped.jsonl    file and line of each that is dropped, why, and of which one it is a copy
    aside.jsonl      file and line of what is no document, and what is wrong with it
    aside/NAME       these lines, to be mended
    report.json      counts, clusters, settings

Memory does not grow with the size of the files, but by about 50 bytes for each document. Measured
besides: 80 to 420 MB, 530 MB where 16 MiB of input hold 300,000 documents of a few words, and
680 MB where documents as long as --max-mib allows were compared. The same command goes on where it
was stopped.
"""

from __future__ import annotations

import argparse

from ..data.lsh import lsh_choose
from ..data.streaming.dedup_files import dedup_files
from ..data.streaming.dedup_sketch import DedupSettings
from .files import require_seed
from .passes import add_file_arguments, add_pass_arguments, form_of, opened, print_report

MOST_PERM = 2048  # the choice of bands takes as many numbers squared, and some seconds
MOST_NGRAM = 1024  # a shorter document takes as much memory as one of this length


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `minqwen dedup`."""
    add_file_arguments(parser)
    add_pass_arguments(parser)
    near = parser.add_argument_group("near copies")
    near.add_argument("--exact-only", action="store_true", help="drop exact copies only")
    near.add_argument(
        "--threshold", type=float, default=0.7, help="least Jaccard similarity of copies (0.7)"
    )
    near.add_argument("--num-perm", type=int, default=240, help="entries of a signature (240)")
    near.add_argument("--ngram-size", type=int, default=5, help="characters of a shingle (5)")
    near.add_argument("--seed", type=int, default=0, help="of the hash functions (0)")
    exact = parser.add_argument_group("exact copies: what is made alike before texts are compared")
    exact.add_argument("--fold-case", action="store_true", help="upper and lower case")
    exact.add_argument(
        "--keep-white-space", action="store_true", help="leave white space; for code"
    )
    exact.add_argument("--keep-forms", action="store_true", help="no NFC: e + accent is not é")


def run(args: argparse.Namespace) -> int:
    """Deduplicate, and print the report."""
    require_seed(args.seed)
    if args.ngram_size < 1:
        raise ValueError(f"--ngram-size must be positive, got {args.ngram_size}")
    if args.ngram_size > MOST_NGRAM:
        raise ValueError(f"--ngram-size must be {MOST_NGRAM} at most, got {args.ngram_size}")
    if args.num_perm > MOST_PERM:
        raise ValueError(f"--num-perm must be {MOST_PERM} at most, got {args.num_perm}")
    bands = lsh_choose(args.threshold, args.num_perm)
    settings = DedupSettings(
        form=form_of(args),
        near=not args.exact_only,
        threshold=args.threshold,
        num_perm=args.num_perm,
        ngram_size=args.ngram_size,
        seed=args.seed,
        nfc=not args.keep_forms,
        white_space=not args.keep_white_space,
        case=args.fold_case,
        bands=bands.bands,
        rows=bands.rows,
    )
    with opened(args, args.files) as (workers, watch):
        report = dedup_files(args.files, args.out, settings, workers, watch)
    print_report(args, report)
    return 0
