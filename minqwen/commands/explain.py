"""Explain a concept with numbers: formula, every line, gradients, known mistakes.

minqwen explain                                       the names
minqwen explain rmsnorm                               a concept, on three tokens
minqwen explain rmsnorm.eps_outside                   a known mistake, and what it changes
"""

from __future__ import annotations

import argparse
import json

from ..check.concepts import CONCEPTS
from ..check.explanation.explain import explain
from ..check.explanation.mistakes_text import explain_mistake
from ..check.explanation.subject import all_names
from ..check.explanation.text import data_of, mistake_data, mistake_text, text_of
from ..check.specs import names, spec
from .files import require_seed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `minqwen explain`."""
    parser.add_argument("name", nargs="?", metavar="CONCEPT[.MISTAKE]", help="without: the names")
    parser.add_argument("--seed", type=int, default=0, help="of the numbers (0)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the explanation."""
    require_seed(args.seed)
    if args.name is None:
        return list_names(args.json)
    if "." in args.name:
        shown = explain_mistake(args.name, args.seed)
        concept = args.name.partition(".")[0]
        data = mistake_data(shown, concept)
        print(json.dumps(data, indent=2) if args.json else mistake_text(shown, concept), end="")
    else:
        page = explain(args.name, args.seed)
        print(json.dumps(data_of(page), indent=2) if args.json else text_of(page), end="")
    if args.json:
        print()
    return 0


def list_names(as_json: bool) -> int:
    """Print every name with its formula and the number of its known mistakes."""
    equations = {row.name: row.equation for row in CONCEPTS}
    counts = {n: len(spec(n).forward) + len(spec(n).backward) for n in names()}
    facts = [
        {"name": n, "equation": equations.get(n, ""), "mistakes": counts.get(n, 0)}
        for n in all_names()
    ]
    if as_json:
        print(json.dumps(facts, indent=2))
        return 0
    for fact in facts:
        known = f"{fact['mistakes']} mistakes" if fact["mistakes"] else ""
        print(f"{fact['name']:<22} {known:<12}  {fact['equation']}".rstrip())
    return 0
