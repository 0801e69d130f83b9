"""Mix sources of text into one for pretraining, each with its share.

    minqwen mix web=filtered/documents books=books.jsonl.gz --boost books=3 --out mixed
    minqwen mix web=crawl/ tasks=tasks.jsonl --fixed tasks=0.05 --megabytes 500 --out mixed
    minqwen pretrain mixed/documents --out runs/mixed

A source without a share of its own gets what is left by its size, to the power 1 / temperature,
times its boost. Every document of a source comes once before any comes twice. In the folder:

    documents/mixed-NNNNN.jsonl   text, source, file and line of each document drawn, in drawn order
    aside.jsonl                   file and line of what is no document, and what is wrong with it
    report.json                   shares wanted and met, how often each source was gone through

The folder needs room for the input once more while it works. The same command goes on where it was
stopped, and the same seed gives the same text, with any number of workers.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from ..data.streaming.mix_files import mix_files
from ..data.streaming.mix_plan import MixSettings
from .files import require_seed
from .passes import add_pass_arguments, form_of, opened, printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `minqwen mix`."""
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE=FILE|FOLDER",
        help="a name of your own, and what is read, as `minqwen dedup` reads it; a name may come "
        "several times",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the mixture")
    shares = parser.add_argument_group("shares, of the bytes of text")
    shares.add_argument(
        "--temperature", type=float, default=1.0, help="above 1 small sources get more (1)"
    )
    for option, what in (
        ("boost", "so many times what its size gives it"),
        ("fixed", "so large a share of the whole, such as tasks=0.05"),
        ("weight", "so much instead of its size; all that are not fixed need one"),
    ):
        shares.add_argument(
            f"--{option}", action="append", default=[], metavar="SOURCE=NUMBER", help=what
        )
    shares.add_argument(
        "--megabytes", type=float, help="of text to write, about (as much as the sources have)"
    )
    shares.add_argument("--seed", type=int, default=0, help="of the order (0)")
    add_pass_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Mix, and print what was wanted and what was met."""
    require_seed(args.seed)
    sources: dict[str, list[Path]] = {}
    for word in args.sources:
        name, path = _cut(word, "SOURCE=FILE|FOLDER")
        if "/" in name:
            raise ValueError(f"the name of a source has no slash, got {name!r}")
        sources.setdefault(name, []).append(Path(path))
    if args.megabytes is not None and not 0 < args.megabytes < math.inf:
        raise ValueError(f"--megabytes must be positive, got {args.megabytes:g}")
    if math.isinf(args.temperature):
        raise ValueError("--temperature must be finite; equal --weight make equal shares")
    settings = MixSettings(
        form=form_of(args),
        temperature=args.temperature,
        boosts=_numbers("--boost", args.boost),
        fixed=_numbers("--fixed", args.fixed),
        weights=_numbers("--weight", args.weight),
        bytes=None if args.megabytes is None else args.megabytes * 1e6,
        seed=args.seed,
    )
    with opened(args, [path for paths in sources.values() for path in paths]) as (workers, watch):
        report = mix_files(sources, args.out, settings, workers, watch)
    print(printable(report) if args.json else table(report, args.out))
    return 0


def table(report: dict[str, Any], out: Path) -> str:
    """Return the report as lines to read.

    >>> row = {"documents": 9, "bytes": 2e6, "share": 1, "drawn": 18, "bytes_drawn": 4e6}
    >>> row |= {"share_met": 1, "epochs": 2}
    >>> print(table({"documents": 18, "bytes": 4e6, "aside": 0, "of": {"web": row}}, Path("out")))
    source               documents        MB     drawn        MB    wanted       met    epochs
    web                          9       2.0        18       4.0   100.00%   100.00%      2.00
    together                     9       2.0        18       4.0
    the mixture: out/documents
    """
    rows = report["of"]
    lines = [
        f"{'source':20s}{'documents':>10s}{'MB':>10s}{'drawn':>10s}{'MB':>10s}{'wanted':>10s}"
        f"{'met':>10s}{'epochs':>10s}"
    ]

    def line(name: str, documents: int, size: float, drawn: int, got: float) -> str:
        return f"{name:20s}{documents:>10,}{size / 1e6:>10,.1f}{drawn:>10,}{got / 1e6:>10,.1f}"

    for name, r in rows.items():
        start = line(name, r["documents"], r["bytes"], r["drawn"], r["bytes_drawn"])
        lines.append(f"{start}{r['share']:>10.2%}{r['share_met']:>10.2%}{r['epochs']:>10.2f}")
    documents, size = (sum(r[key] for r in rows.values()) for key in ("documents", "bytes"))
    lines.append(line("together", documents, size, report["documents"], report["bytes"]))
    if report["aside"]:
        lines.append(f"put aside: {report['aside']:,}, why: {out / 'aside.jsonl'}")
    return "\n".join([*lines, f"the mixture: {out / 'documents'}"])


def _cut(word: str, form: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not (name and equals and value):
        raise ValueError(f"{form} is needed, got {word!r}")
    return name, value


def _numbers(option: str, words: list[str]) -> dict[str, float]:
    """Read SOURCE=NUMBER, each source once."""
    found: dict[str, float] = {}
    for word in words:
        name, value = _cut(word, f"{option} SOURCE=NUMBER")
        if name in found:
            raise ValueError(f"{option} names {name!r} twice")
        try:
            found[name] = float(value)
        except ValueError:
            raise ValueError(f"{option} {word}: {value!r} is no number") from None
    return found
