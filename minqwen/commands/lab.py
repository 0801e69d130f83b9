"""Train small and measure: long-context techniques, or a mixture of experts.

    minqwen lab long-context --out lab
    minqwen lab long-context --out lab-quick --quick
    minqwen lab moe --out lab-moe

long-context trains a small model on short texts and reads long ones with every technique. moe
trains a dense model, experts from scratch, and experts cut from the dense model, on the same text.
Both write index.html, table.md, plots and results.json. The same command goes on where it was
stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from .files import require_seed

EXPERIMENTS = ("long-context", "moe")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `minqwen lab`."""
    parser.add_argument("experiment", choices=EXPERIMENTS, help="what to try: long-context or moe")
    parser.add_argument("--out", type=Path, help="folder (lab, or lab-moe)")
    parser.add_argument("--quick", action="store_true", help="a toy, in half a minute")
    parser.add_argument("--steps", type=int, help="of training")
    parser.add_argument("--seed", type=int, default=0, help="(0)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")


def run(args: argparse.Namespace) -> int:
    """Run the laboratory, with one BLAS thread unless the caller says otherwise; see the tour."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    require_seed(args.seed)
    args.out = args.out or Path("lab" if args.experiment == "long-context" else "lab-moe")

    def say(line: str) -> None:
        print(line, file=sys.stderr if args.json else sys.stdout, flush=True)

    numbers = (_long_context if args.experiment == "long-context" else _moe)(args, say)
    if args.json:
        print(json.dumps(numbers, indent=1))
    return 0


def _long_context(args: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    from ..lab.long_context import long_context_lab
    from ..lab.settings import QUICK, LabSettings

    settings = _changed(QUICK if args.quick else LabSettings(), args)
    results = long_context_lab(args.out, settings, say=say, device=args.device)
    perplexity = {
        name: {length: cell["perplexity"] for length, cell in row.items()}
        for name, row in results.cells.items()
    }
    return {"facts": results.facts, "perplexity": perplexity}


def _moe(args: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    from ..lab.moe_settings import QUICK, MoeSettings
    from ..lab.moe_study import moe_study

    settings = _changed(QUICK if args.quick else MoeSettings(), args)
    results = moe_study(args.out, settings, say=say, device=args.device)
    loss = {run: cells["end"]["nll"] for run, cells in results.cells.items()}
    return {"facts": results.facts, "loss": loss}


def _changed(settings: Any, args: argparse.Namespace) -> Any:
    settings = replace(settings, seed=args.seed)
    return settings if args.steps is None else replace(settings, steps=args.steps)
