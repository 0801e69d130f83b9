"""Which known mistake gives exactly these numbers.

A mistake of the bank fits when our own file, with the one line of that mistake changed, gives the
stranger's numbers on every input that was tried, also on those where they are right. Hundreds
of random float64 numbers do not agree to twelve digits by chance; whole numbers can, so where an
output is whole at least three inputs with different answers must agree.

    one mistake fits        it is named, with all others that compute the same
    none, but a pair does   both are named: two lines changed at once
    none                    a mistake that explains some of the wrong inputs and contradicts none;
                            else nothing is named
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from types import ModuleType
from typing import NamedTuple

import numpy as np

from ..backend import Array
from .edited import Edit, edited_module
from .limits import limit, terms_of, units_off
from .spec import Arguments, Mistake, Probe, Spec

Answers = dict[str, Array]  # outputs or gradients by name


class Tried(NamedTuple):
    """One input, and what the stranger's function gave for it."""

    probe: Probe
    arguments: Arguments
    got: Answers
    want: Answers
    right: bool


class Diagnosis(NamedTuple):
    """A mistake, or a pair, that gives the stranger's numbers."""

    mistakes: tuple[Mistake, ...]
    also: tuple[Mistake, ...]  # others that give the same numbers on all these inputs
    agree: int  # inputs on which it gives the stranger's numbers
    tried: int
    numbers: int  # how many were compared
    explains: tuple[str, ...]  # the wrong inputs that it explains
    leaves: tuple[str, ...]  # the wrong inputs that it does not

    @property
    def whole(self) -> bool:
        """Whether it explains everything."""
        return not self.leaves


def right_module(spec: Spec) -> ModuleType:
    """Return our own file, unchanged."""
    return importlib.import_module(spec.module)


def fits(
    spec: Spec, got: Answers, other: Answers, arguments: Arguments, dtype: str, slack: float = 4.0
) -> bool:
    """Say whether two answers are the same, up to rounding in this dtype.

    Args:
        spec: of the concept.
        got: a stranger's answers.
        other: ours, or those of a changed copy.
        arguments: for which both are.
        dtype: in which the stranger computes.
        slack: times the limit of a right answer; a mistake may enlarge rounding.
    """
    allowed = slack * limit(dtype, terms_of(arguments), spec.depth)
    for name, a in got.items():
        b = other.get(name)
        if b is None or np.shape(a) != np.shape(b):
            return False
        if name in spec.exact:
            if not np.array_equal(a, b):
                return False
        elif (units_off(a, b, dtype) > allowed).any():
            return False
    return True


def diagnose(
    spec: Spec,
    tried: Sequence[Tried],
    bank: Sequence[Mistake],
    answer: Callable[[ModuleType, Tried], Answers],
    dtype: str = "float64",
    pairs: bool = True,
) -> list[Diagnosis]:
    """Name the mistakes that give the stranger's numbers.

    Args:
        spec: of the concept.
        tried: all inputs that could be tried, right and wrong.
        bank: the mistakes to think of.
        answer: what a copy of our file says to an input.
        dtype: in which the stranger computes.
        pairs: try two mistakes at once, where one is not enough.

    Returns:
        The fitting mistakes, best first; empty when none fits.
    """
    wrong = [t for t in tried if not t.right]
    if not wrong:
        return []
    order = wrong + [t for t in tried if t.right]
    partial = []
    for choices in ([(m,) for m in bank], list(combinations(bank, 2)) if pairs else []):
        found = []
        for mistakes, module in modules(spec, choices):
            agree = agreement(spec, order, module, answer, dtype, stop=len(mistakes) == 2)
            if len(agree) == len(order):
                found.append(mistakes)
            elif len(mistakes) == 1 and not contradicts(order, agree):
                partial.append((mistakes, agree))
        if found and enough(spec, order):
            also = tuple(m for mistakes in found[1:] for m in mistakes)
            return [report(found[0], also, order, order)]
    partial = [item for item in partial if explains_much(wrong, item[1])]
    partial.sort(key=lambda item: -len(item[1]))
    return [report(mistakes, (), agree, order) for mistakes, agree in partial[:1]]


def modules(
    spec: Spec, choices: Sequence[tuple[Mistake, ...]]
) -> Iterator[tuple[tuple[Mistake, ...], ModuleType]]:
    """Yield every choice of mistakes with our file so changed; those on one line are left out."""
    for mistakes in choices:
        edits = [Edit(m.module or spec.module, m.find, m.put) for m in mistakes]
        module = edited_module(spec.module, edits)
        if module is not None:
            yield mistakes, module


def agreement(
    spec: Spec,
    order: Sequence[Tried],
    module: ModuleType,
    answer: Callable[[ModuleType, Tried], Answers],
    dtype: str,
    stop: bool = False,
) -> list[Tried]:
    """Return the inputs on which a changed file gives the stranger's numbers.

    stop: end at the first on which it does not.
    """
    agree = []
    for one in order:
        try:
            with np.errstate(all="ignore"):
                other = answer(module, one)
        except Exception:  # a changed line may break on hard inputs: then it is not this mistake
            other = {}
        if fits(spec, one.got, other, one.arguments, dtype):
            agree.append(one)
        elif stop:
            break
    return agree


def contradicts(order: Sequence[Tried], agree: Sequence[Tried]) -> bool:
    """Say whether an input is right that this mistake would make wrong."""
    ids = {id(one) for one in agree}
    explains = any(not one.right for one in agree)
    return not explains or any(one.right and id(one) not in ids for one in order)


def explains_much(wrong: Sequence[Tried], agree: Sequence[Tried]) -> bool:
    """Say whether a mistake explains half of the wrong inputs, and an ordinary one among them.

    Answers that are all alike do not count: a function that gives zeros agrees by chance.
    """
    ids = {id(one) for one in agree}
    explained = [
        one
        for one in wrong
        if id(one) in ids and any(np.ptp(np.asarray(a, float)) > 0 for a in one.got.values())
    ]
    return 2 * len(explained) >= len(wrong) and any(not one.probe.hard for one in explained)


def enough(spec: Spec, order: Sequence[Tried]) -> bool:
    """Say whether so many numbers agree that it cannot be by chance."""
    if not set(spec.exact) & set(order[0].got):
        return True
    answers = {tuple(np.asarray(a).tobytes() for a in one.got.values()) for one in order}
    return len(answers) >= 3


def report(
    mistakes: Sequence[Mistake],
    also: Sequence[Mistake],
    agree: Sequence[Tried],
    order: Sequence[Tried],
) -> Diagnosis:
    """Put together what is to be said about a fit."""
    ids = {id(one) for one in agree}
    wrong = [one for one in order if not one.right]
    return Diagnosis(
        tuple(mistakes),
        tuple(also),
        len(agree),
        len(order),
        sum(int(np.size(a)) for one in agree for a in one.got.values()),
        tuple(one.probe.name for one in wrong if id(one) in ids),
        tuple(one.probe.name for one in wrong if id(one) not in ids),
    )
