"""What `minqwen dedup`, `filter` and `mix` have in common: how files are read, and by whom."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ..data.streaming.document_files import Form
from ..data.streaming.workers import OneProcess, Watch, Workers, dask_workers
from ..extras import require_extra
from ..training.progress import wants_bar
from ..training.run_folder import locked
from .files import require_folder

MIB = 2**20


def add_file_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare FILES and --out."""
    parser.add_argument(
        "files",
        nargs="+",
        type=Path,
        metavar="FILE|FOLDER",
        help="NAME.jsonl holds a document on each line, any other file is one; .gz is unzipped; "
        "of a folder every file is read, but for hidden ones",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for what is kept")


def add_pass_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare how files are read and the work is shared."""
    reading = parser.add_argument_group("reading")
    reading.add_argument("--field", default="text", help="of JSONL, that is the document (text)")
    reading.add_argument(
        "--bad-utf8",
        choices=("aside", "replace"),
        default="aside",
        help="put what is not UTF-8 aside, or write U+FFFD for the bytes that are wrong (aside)",
    )
    reading.add_argument(
        "--max-mib", type=float, default=16, help="a longer document is put aside (16)"
    )
    work = parser.add_argument_group("work")
    work.add_argument(
        "--cluster",
        metavar="local|ADDRESS",
        help="share the work among Dask workers: processes of this machine, or those of a "
        "scheduler, such as tcp://10.0.0.1:8786, that see the same files (this process)",
    )
    work.add_argument("--workers", type=int, help="processes of --cluster local (one a core)")
    work.add_argument("--quiet", action="store_true", help="no progress on stderr")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def form_of(args: argparse.Namespace) -> Form:
    """Return how documents are read.

    Raises:
        ValueError: an option is out of range.
    """
    if not 1 <= args.max_mib * MIB < 2**63:
        raise ValueError(f"--max-mib must be a byte or more, got {args.max_mib:g}")
    if args.workers is not None and (args.workers < 1 or args.cluster != "local"):
        raise ValueError("--workers needs --cluster local and a positive number")
    return Form(args.field, args.bad_utf8 == "replace", int(args.max_mib * MIB))


@contextmanager
def opened(args: argparse.Namespace, paths: Iterable[Path]) -> Iterator[tuple[Workers, Watch]]:
    """Make the folder ours until the end of the block, and find who works.

    Args:
        args: of the command.
        paths: to be read.

    Raises:
        FileNotFoundError: a file or folder to read does not exist.
        ImportError: Dask, or tqdm for the bar, is missing.
        OSError: another process works in the folder, or the cluster does not answer.
    """
    require_folder(args.out)
    for path in paths:
        if not path.exists():  # told before a folder is made
            raise FileNotFoundError(f"no file or folder {path}")
    show = not args.quiet
    require_extra(*["tqdm"] * wants_bar(show))
    with ExitStack() as stack:
        stack.enter_context(locked(args.out))
        workers: Workers = OneProcess()
        if args.cluster:
            workers = stack.enter_context(dask_workers(args.cluster, args.workers))
        yield workers, bars if wants_bar(show) else lines if show else silence


def silence(phase: str, results: Iterable[Any], total: int) -> Iterable[Any]:
    """Show nothing."""
    return results


def lines(phase: str, results: Iterable[Any], total: int) -> Iterator[Any]:
    """Print a line every ten seconds, and at the end of a phase of several jobs."""
    shown = time.monotonic()
    for done, result in enumerate(results, start=1):
        yield result
        if time.monotonic() > shown + 10 or (done == total and total > 1):
            shown = time.monotonic()
            print(f"{phase}: {done}/{total}", file=sys.stderr, flush=True)


def bars(phase: str, results: Iterable[Any], total: int) -> Iterable[Any]:
    """Draw a bar for each phase."""
    from tqdm import tqdm

    bar: Iterable[Any] = tqdm(
        results, desc=phase, total=total, unit="job", dynamic_ncols=True, leave=total > 1
    )
    return bar


def printable(report: dict[str, Any]) -> str:
    r"""Return the report as JSON on one line; names of files may be any bytes.

    >>> print(printable({"file": "\udc80"}))
    {"file": "\udc80"}
    """
    return json.dumps(report, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()


def print_report(args: argparse.Namespace, report: dict[str, Any]) -> None:
    """Print what was kept, dropped and why, put aside, and where it all is."""
    if args.json:
        print(printable(report))
        return
    documents, kept, aside = report["documents"], report["kept"], report["aside"]

    def row(name: str, number: int, more: str = "") -> None:
        print(f"{name:42s}{number:>14,}  {more}".rstrip())

    row("documents", documents, f"{report['bytes'] / 1e6:,.1f} MB")
    row("kept", kept, f"{report['bytes_kept'] / 1e6:,.1f} MB")
    row("dropped", documents - kept, f"why: {args.out / 'dropped.jsonl'}")
    for why, count in report["why"].items():
        row(f"  {why}", count)
    row("put aside", aside, f"why: {args.out / 'aside.jsonl'}" if aside else "")
    if clusters := report.get("clusters"):
        sizes = [int(size) for size in clusters["of_size"]]
        row("clusters", clusters["number"], f"the largest of {max(sizes):,}" if sizes else "")
    print(f"what is kept: {args.out / 'documents'}")
