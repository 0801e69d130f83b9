"""Prove our own gradients: every concept, against central differences in float64.

minqwen check
minqwen check rmsnorm --json
"""

from __future__ import annotations

import argparse
import json
import math
import time
from typing import Any

from ..check.concepts import BOUND, CONCEPTS, concept, gradient_table
from .files import require_seed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `minqwen check`."""
    parser.add_argument("concept", nargs="?", help="one of " + ", ".join(c.name for c in CONCEPTS))
    parser.add_argument("--seed", type=int, default=0, help="of the inputs (0)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print a row per concept, or per gradient of one concept; exit code 1 above the bound."""
    require_seed(args.seed)
    rows = CONCEPTS if args.concept is None else (concept(args.concept),)
    results: list[dict[str, Any]] = []
    if not args.json:
        print(f"{'concept':<20} {'gradients':>9} {'largest error':>14}  {'in':<40} {'seconds':>7}")
    for row in rows:
        start = time.perf_counter()
        errors = list(gradient_table(row, args.seed))
        seconds = time.perf_counter() - start
        case, worst = max(errors, key=lambda item: item[1].error)
        results.append(
            {
                "concept": row.name,
                "report": row.report,
                "gradients": [
                    {"case": case, "name": e.name, "error": number(e.error)} for case, e in errors
                ],
                "largest_error": number(worst.error),
                "ok": worst.error < BOUND,
            }
        )
        if not args.json:
            where = f"{worst.name} ({case})" if case else worst.name
            bad = "" if worst.error < BOUND else "  WRONG"
            print(
                f"{row.name:<20} {len(errors):>9} {worst.error:>14.1e}  {where:<40} "
                f"{seconds:>7.2f}{bad}"
            )
            if args.concept is not None:
                for case, e in errors:
                    print(f"    {case:<22} d{e.name:<30} {e.error:.1e}")
    ok = all(result["ok"] for result in results)
    if args.json:
        print(json.dumps({"bound": BOUND, "ok": ok, "concepts": results}, indent=2))
    else:
        total = sum(len(result["gradients"]) for result in results)
        verdict = "all below" if ok else "NOT all below"
        print(f"{total} gradients, {verdict} {BOUND:.0e} of their scale")
    return 0 if ok else 1


def number(error: float) -> float | None:
    """Return the error for JSON, which has no infinity: null.

    >>> number(0.5), number(float("inf"))
    (0.5, None)
    """
    return error if math.isfinite(error) else None
