"""See the whole path in about two minutes: prove, tokenize, train, sample, report.

minqwen tour
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `minqwen tour`."""
    parser.add_argument("--out", type=Path, default=Path("tour"), help="folder of the page (tour)")
    parser.add_argument("--steps", type=int, default=300, help="training steps (300)")
    parser.add_argument("--seed", type=int, default=0, help="(0)")


def run(args: argparse.Namespace) -> int:
    """Take the tour.

    With one BLAS thread, unless the caller says otherwise: matrices this small gain a quarter from
    a second one on an idle machine, and two become ten times slower when another program wants the
    core. NumPy reads it when it is first imported, so that comes after.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from ..tour import tour

    return tour(args.out, steps=args.steps, seed=args.seed)
