"""What is found out about two traces: plain facts, which diff_text.py puts into words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from .tensor_layout import Match

TOGETHER = " together with "


class Fit(NamedTuple):
    """A known mistake, or two at once, that give their numbers."""

    names: tuple[str, ...]  # one, or two that are made together
    says: str
    kind: str  # of spec.KINDS
    hint: str
    units: float  # between its numbers and theirs
    steps: tuple[str, ...]  # where it is made, if not in the step of the tensor itself

    @property
    def name(self) -> str:
        """The names as they are read."""
        return TOGETHER.join(self.names)


class Parted(NamedTuple):
    """What is to be said about a tensor that parts."""

    name: str
    theirs_name: str
    shape: tuple[int, ...]
    theirs_shape: tuple[int, ...]
    problem: str  # a sentence, where the numbers cannot be compared at all
    where: str = ""  # the first place in time, in words
    ours: float = 0.0
    theirs: float = 0.0
    error: float = 0.0  # largest, over the scale of ours; infinite of whole numbers
    units: float = 0.0  # the same, in units of rounding
    wrong: int = 0
    total: int = 0
    patterns: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()  # from which the step was done again
    redone: bool = False
    fits: tuple[Fit, ...] = ()


class Later(NamedTuple):
    """A step behind the first one that is different by itself, too."""

    name: str
    fits: tuple[Fit, ...]


class NotFinite(NamedTuple):
    """The first tensor in which both have NaN or infinity at the same places."""

    name: str
    theirs_name: str
    nan: int  # how many are NaN
    infinite: int
    total: int
    where: str  # the first, in words
    rows: tuple[str, ...]  # all rows that hold one: "batch 0, time 2"
    rows_total: int
    known: str  # a sentence, where the reason could be seen; else ""
    likely: tuple[str, ...]  # reasons that are usual for such a step
    behind: int  # tensors compared after it
    behind_too: int  # of these, how many hold such numbers at the same places in both


class Diff(NamedTuple):
    """Everything that was found out about two traces."""

    match: Match
    order: list[str]  # of the pairs
    dtype: str
    right: list[str]  # before the first that parts, or that is not finite
    largest: float  # difference among them, in units
    largest_name: str
    not_finite: NotFinite | None
    parted: Parted | None
    later: list[Later]
    inherited: list[str]  # differ because something before does
    unclear: list[str]  # differ, and could not be done again
    layouts: dict[str, str]
    notes: list[str]

    @property
    def ok(self) -> bool:
        """Whether nothing parts."""
        return self.parted is None


def as_dict(diff: Diff) -> dict[str, Any]:
    """Return everything as plain data for JSON."""
    facts: dict[str, Any] = plain(diff)
    return {"ok": diff.ok, **facts}


def plain(value: Any) -> Any:
    """Return nested NamedTuples as dicts; a number that JSON lacks becomes null.

    >>> plain([Later("x", ()), float("nan")])
    [{'name': 'x', 'fits': []}, None]
    """
    if hasattr(value, "_asdict"):
        facts = {name: plain(part) for name, part in value._asdict().items()}
        return {"name": value.name, **facts} if isinstance(value, Fit) else facts
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def some(names: Sequence[str], most: int = 4) -> str:
    """Join the first names of a list.

    >>> some(["a", "b", "c"], 2)
    'a, b and 1 more'
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
