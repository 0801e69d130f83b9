"""The text of notebooks: cells, their ids, and the line of a check.

Written as JSON without a package for it, so that the same cells give the same bytes anywhere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from .assignment import Assignment

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def cell(kind: str, source: str, metadata: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a cell of a notebook; `notebook_text` gives it its id."""
    made: dict[str, Any] = {"cell_type": kind, "metadata": metadata or {}}
    if kind == "code":
        made |= {"execution_count": None, "outputs": []}
    return {**made, "source": source.splitlines(keepends=True)}


def notebook_text(cells: Sequence[dict[str, Any]]) -> str:
    """Return a notebook as text; the same cells give the same bytes."""
    done = []
    for number, one in enumerate(cells):
        digest = hashlib.sha256(f"{number} {''.join(one['source'])}".encode()).hexdigest()
        done.append({"id": digest[:8], **one})
    data = {"cells": done, "metadata": METADATA, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(data, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def check_line(
    assignment: Assignment,
    part: str,
    aspect: str,
    where: str,
    *,
    seed: int | None = None,
    points: Fraction | None = None,
) -> str:
    """Return the line of a cell that checks one aspect.

    Args:
        assignment: for what differs from the usual.
        part, aspect: see cells.check_cell.
        where: the text of its namespace.
        seed: the hidden one, where it is needed.
        points: for tools that know partial credit.

    >>> check_line(Assignment("a", "A", ("gae",), hint=2), "gae", "values", "globals()")
    'check_cell("gae", "values", globals(), hint=2)'
    """
    given = [f'"{part}"', f'"{aspect}"', where]
    given += [f"seed={seed}"] if seed is not None else []
    given += [f"points={float(points):g}"] if points is not None else []
    given += [f"hint={assignment.hint}"] if assignment.hint != 1 else []
    given += [f"public_seed={assignment.public_seed}"] if assignment.public_seed else []
    given += [f"variants={assignment.variants!r}"] if assignment.variants else []
    return f"check_cell({', '.join(given)})"
