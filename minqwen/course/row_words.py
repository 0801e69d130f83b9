"""What is said of a row, in one sentence and a few lines more.

Visible rows say what the checker says. Rows of the hidden seed say how many inputs are right and
how large the error is, no more: neither inputs nor numbers of ours.
"""

from __future__ import annotations

import contextlib

from .aspects import STABILITY, VISIBLE
from .judge import Finding, size_of_error


def said(best: Finding, name: str) -> tuple[str, list[str]]:
    """Return what is said of a row, in a sentence and more lines.

    Rows of the hidden seed say how many inputs are right and how large the error is, no more.
    """
    facets = {facet.name: facet for facet in best.visible.facets}
    runs = facets.get("runs")
    if runs is not None and "write this function" in runs.says and not any(best.shares.values()):
        return f"{runs.says.split()[0]} is not written yet", []
    stopped = runs is not None and runs.ok is False
    if name in VISIBLE:
        mine = [facets[n] for n in (STABILITY if name == "stability" else (name,)) if n in facets]
        if not mine or (name == "shape" and stopped):
            assert runs is not None
            return runs.says, runs.details[:3]
        wrong = [facet for facet in mine if facet.ok is not True] or mine
        if name == "stability" and best.shares[name] == 0 and not best.shares["values"]:
            return "not counted: no ordinary input is right", []
        if name == "stability" and best.shares[name] == 1:
            return "dtypes, precision, arguments and repetition are as they must be", []
        lines = [line for facet in wrong for line in facet.details[:3]]
        return "; ".join(
            f"{f.name}: {f.says}" if name == "stability" else f.says for f in wrong
        ), lines
    share, report = best.shares[name], best.hidden
    if share == 1:
        return "right", []
    if report is None or (stopped and not share):
        return (runs.says if stopped and runs is not None else "nothing is right"), []
    kinds = {"more values": "values", "hard inputs": "hard inputs"}
    mine = [
        facet
        for facet in report.facets
        if facet.name == kinds.get(name, "") or (name == "gradient" and "gradient" in facet.name)
    ]
    if name == "gradient":
        bad = [facet for facet in mine if facet.ok is not True]
        says = "; ".join(
            facet.says
            if facet.name == "gradients"
            else f"{facet.name}: {count(facet.right, facet.asked)}"
            for facet in bad
        )
        says = says or "there is no gradient to compare"
    else:
        inputs = [p for p in best.attempt.public.spec.probes if p.hard == (name == "hard inputs")]
        total = len([p for p in inputs if not p.ties])
        says = count(int(share * total), total)
    lines = []
    with contextlib.suppress(OverflowError):
        size = size_of_error(mine)
        if size is not None:
            lines.append(f"largest error: {size:.1g} of the scale")
    return says, lines


def count(right: int, asked: int) -> str:
    """Say how many are right.

    >>> count(1, 3)
    'right on 1 of 3 inputs'
    """
    return f"right on {right} of {asked} inputs"
