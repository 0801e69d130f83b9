"""Prove our own gradients, or check your function and be told what is wrong with it.

minqwen check                                         every concept of ours
minqwen check rmsnorm                                 one of them
minqwen check rmsnorm --impl hw.py:rmsnorm            yours: it runs in a process of its own
minqwen check attention --impl hw.py:attn --framework torch --map q=query,k=key,v=value
minqwen check --list                                  what can be checked, and how it is called
"""

from __future__ import annotations

import argparse
import json
import math
import time
from typing import Any

from ..check.compare import compare
from ..check.concepts import BOUND, CONCEPTS, concept, gradient_table
from ..check.specs import names, spec
from .files import require_seed

FRAMEWORKS = ("numpy", "torch", "jax", "cupy")
LETTERS = """
Axes: B batch, T queries, S keys, D width, H query heads, Hkv key/value heads, Dh width of a head,
F feed-forward width, V vocabulary, N tokens, E experts, K experts chosen, Fe and Fs widths of a
routed and of the shared expert, M merges; (...) is any shape, () a single number."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `minqwen check`."""
    parser.add_argument("concept", nargs="?", help="one of " + ", ".join(c.name for c in CONCEPTS))
    parser.add_argument("--seed", type=int, default=0, help="of the inputs (0)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    yours = parser.add_argument_group("your function")
    yours.add_argument("--impl", metavar="FILE.py:FUNCTION", help="check this one, not ours")
    yours.add_argument("--backward", metavar="FILE.py:FUNCTION", help="its gradient, by hand")
    yours.add_argument("--framework", choices=FRAMEWORKS, default="numpy", help="(numpy)")
    yours.add_argument("--map", metavar="OURS=YOURS,...", help="call it by keyword, by these names")
    yours.add_argument("--accept", action="append", default=[], help="a convention that is fine")
    yours.add_argument(
        "--hint", type=int, choices=(0, 1, 2), default=1, help="how much to tell (1)"
    )
    yours.add_argument("--seconds", type=float, default=20.0, help="limit on one call (20)")
    yours.add_argument("--memory", type=int, default=4096, metavar="MB", help="limit (4096)")
    yours.add_argument("--markdown", action="store_true", help="print Markdown")
    yours.add_argument("--list", action="store_true", help="list what can be checked")


def run(args: argparse.Namespace) -> int:
    """Print what was found; exit code 1 when something is wrong."""
    require_seed(args.seed)
    if args.list:
        return list_specs(args.json)
    if args.impl is not None:
        return check_yours(args)
    if args.backward is not None or args.map is not None:
        raise ValueError("--backward and --map need --impl FILE.py:FUNCTION")
    return prove_ours(args)


def list_specs(as_json: bool) -> int:
    """Print how a function of each concept is called."""
    specs = [spec(name) for name in names()]
    if as_json:
        facts = [{"name": s.name, "arguments": s.arguments, "axes": s.axes} for s in specs]
        print(json.dumps(facts, indent=2))
        return 0
    for s in specs:
        print(f"{s.name}({', '.join(s.arguments)}) -> {', '.join(s.outputs)}")
        axes = ", ".join(f"{name} ({letters})" for name, letters in s.axes.items())
        print(f"    {axes}")
        if s.notes:
            print(f"    {s.notes}")
    print(LETTERS)
    return 0


def check_yours(args: argparse.Namespace) -> int:
    """Check a stranger's function; exit code 1 when it is wrong."""
    if args.concept is None:
        raise ValueError(f"say which concept --impl is of: {', '.join(names())}")
    report = compare(
        args.concept,
        args.impl,
        args.backward,
        framework=args.framework,
        arguments=None if args.map is None else mapping(args.map),
        accept=args.accept,
        seed=args.seed,
        seconds=args.seconds,
        memory_mb=args.memory,
    )
    if args.json:
        print(json.dumps(report.to_dict(args.hint), indent=2))
    else:
        print(report.markdown(args.hint) if args.markdown else report.text(args.hint))
    return 0 if report.ok else 1


def mapping(text: str) -> dict[str, str]:
    """Read OURS=YOURS,OURS=YOURS; ValueError when a name stands twice.

    >>> mapping("q=query,k=key")
    {'q': 'query', 'k': 'key'}
    """
    pairs = [_pair(part) for part in text.split(",")]
    for side, whose in enumerate(("our", "your")):
        names = [pair[side] for pair in pairs]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"--map has {whose} name {twice[0]} twice, got {text!r}")
    return dict(pairs)


def _pair(text: str) -> tuple[str, str]:
    ours, equals, yours = text.partition("=")
    if not (ours and equals and yours):
        raise ValueError(f"--map must be OURS=YOURS,OURS=YOURS, got {text!r}")
    return ours.strip(), yours.strip()


def prove_ours(args: argparse.Namespace) -> int:
    """Print a row per concept, or per gradient of one concept; exit code 1 above the bound."""
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
