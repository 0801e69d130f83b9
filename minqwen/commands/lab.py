"""Train small and measure: which long-context technique keeps perplexity low.

    minqwen lab long-context --out lab
    minqwen lab long-context --out lab-quick --quick

Trains a small model on short texts, reads long ones with every technique, and writes index.html,
table.md, plots and results.json. The same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

from .files import require_seed

EXPERIMENTS = ("long-context",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `minqwen lab`."""
    parser.add_argument("experiment", choices=EXPERIMENTS, help="what to try: long-context")
    parser.add_argument("--out", type=Path, default=Path("lab"), help="folder (lab)")
    parser.add_argument("--quick", action="store_true", help="a toy, in half a minute")
    parser.add_argument("--steps", type=int, help="of training")
    parser.add_argument("--seed", type=int, default=0, help="(0)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")


def run(args: argparse.Namespace) -> int:
    """Run the laboratory, with one BLAS thread unless the caller says otherwise; see the tour."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from ..lab.long_context import long_context_lab
    from ..lab.settings import QUICK, LabSettings

    require_seed(args.seed)
    settings = replace(QUICK if args.quick else LabSettings(), seed=args.seed)
    if args.steps is not None:
        settings = replace(settings, steps=args.steps)

    def say(line: str) -> None:
        print(line, file=sys.stderr if args.json else sys.stdout, flush=True)

    results = long_context_lab(args.out, settings, say=say, device=args.device)
    if args.json:
        perplexity = {
            name: {length: cell["perplexity"] for length, cell in row.items()}
            for name, row in results.cells.items()
        }
        print(json.dumps({"facts": results.facts, "perplexity": perplexity}, indent=1))
    return 0
