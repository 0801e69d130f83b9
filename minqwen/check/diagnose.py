"""Which known mistake gives exactly these numbers.

A mistake of the bank fits when our own file, with the one line of that mistake changed, gives the
stranger's numbers on every input that was tried, also on those where they are right. Hundreds
of random float64 numbers do not agree to twelve digits by chance; whole numbers can, so where an
output is whole at least three inputs with different answers must agree. Where the stranger raises
the copy must raise too, and one wrong input with numbers must be explained beside that.

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
    raised: bool = False  # that is the answer; got is empty


class Diagnosis(NamedTuple):
    """A mistake, or a pair, that gives the stranger's numbers."""

    mistakes: tuple[Mistake, ...]
    also: tuple[tuple[Mistake, ...], ...]  # others, or pairs, that give the same on all inputs
    agree: int  # inputs on which it gives the stranger's numbers
    tried: int
    raises: int  # of them, those on which both raise
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


def edits_of(spec: Spec, mistakes: Sequence[Mistake]) -> list[Edit]:
    """Return what these mistakes change."""
    return [Edit(m.module or spec.module, m.find, m.put) for m in mistakes]


def fits(
    spec: Spec,
    got: Answers,
    other: Answers,
    arguments: Arguments,
    dtype: str,
    slack: float = 4.0,
    alike: bool = False,
) -> bool:
    """Say whether two answers are the same, up to rounding in this dtype.

    Args:
        spec: of the concept.
        got: a stranger's answers.
        other: ours, or those of a changed copy.
        arguments: for which both are.
        dtype: in which the stranger computes.
        slack: times the limit of a right answer; a mistake may enlarge rounding.
        alike: NaN and infinities count as the same: which of them comes of an overflow is a matter
            of the order of operations.
    """
    allowed = slack * limit(dtype, terms_of(arguments), spec.depth)
    for name, a in got.items():
        b = other.get(name)
        if b is None or np.shape(a) != np.shape(b):
            return False
        if name in spec.exact:
            if not np.array_equal(a, b):
                return False
        else:
            if alike:
                gone = ~np.isfinite(a) & ~np.isfinite(b)
                a, b = np.where(gone, np.nan, a), np.where(gone, np.nan, b)
            if (units_off(a, b, dtype) > allowed).any():
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
    wrong = sorted((t for t in tried if not t.right), key=lambda one: one.raised)
    if not wrong or wrong[0].raised:
        return []  # nothing wrong, or no wrong numbers: what only raises has no name
    order = wrong + [t for t in tried if t.right]
    partial = []
    for choices in ([(m,) for m in bank], list(combinations(bank, 2)) if pairs else []):
        found = []
        for mistakes, module in modules(spec, choices):
            alike = any(m.kind == "numeric" for m in mistakes)
            agree = agreement(spec, order, module, answer, dtype, len(mistakes) == 2, alike)
            if len(agree) == len(order):
                found.append(mistakes)
            elif len(mistakes) == 1 and not contradicts(order, agree):
                partial.append((mistakes, agree))
        if found and enough(spec, order):
            if len(found[0]) == 2:
                found.sort(key=lambda pair: doubts(pair, found))
            return [report(found[0], tuple(found[1:]), order, order)]
    partial = [item for item in partial if explains_much(wrong, item[1])]
    partial.sort(key=lambda item: -len(item[1]))
    return [report(mistakes, (), agree, order) for mistakes, agree in partial[:1]]


def modules(
    spec: Spec, choices: Sequence[tuple[Mistake, ...]]
) -> Iterator[tuple[tuple[Mistake, ...], ModuleType]]:
    """Yield every choice of mistakes with our file so changed; those on one line are left out."""
    for mistakes in choices:
        module = edited_module(spec.module, edits_of(spec, mistakes))
        if module is not None:
            yield mistakes, module


def doubts(pair: tuple[Mistake, ...], found: Sequence[tuple[Mistake, ...]]) -> tuple[int, int]:
    """Return why a fitting pair may be described falsely; the pair with the least is named.

    Where another fitting pair differs in one mistake only, and that changes the same line, the
    numbers do not tell which of the two it is. And a numeric mistake names constants.
    """
    shared = 0
    for one, kept in (pair, pair[::-1]):
        others = [m for other in found if kept in other for m in other if m not in pair]
        shared += any(m.find in one.find or one.find in m.find for m in others)
    return shared, sum(m.kind == "numeric" for m in pair)


def agreement(
    spec: Spec,
    order: Sequence[Tried],
    module: ModuleType,
    answer: Callable[[ModuleType, Tried], Answers],
    dtype: str,
    stop: bool = False,
    alike: bool = False,
) -> list[Tried]:
    """Return the inputs on which a changed file answers as the stranger does.

    stop: end at the first on which it does not. alike: see fits.
    """
    agree = []
    for one in order:
        try:
            with np.errstate(all="ignore"):
                other = answer(module, one)
        except Exception:  # a changed line may break, as theirs may
            same = one.raised
        else:
            same = not one.raised and fits(spec, one.got, other, one.arguments, dtype, alike=alike)
        if same:
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
    """Say whether a mistake explains half of the wrong inputs, with numbers of an ordinary one.

    Where all ordinary ones raise, a hard one with numbers will do. Answers that are all alike do
    not count: a function that gives zeros agrees by chance.
    """
    ids = {id(one) for one in agree}
    explained = [one for one in wrong if id(one) in ids and (one.raised or varied(one))]
    ordinary_raise = all(one.raised for one in wrong if not one.probe.hard)
    return 2 * len(explained) >= len(wrong) and any(
        not one.raised and (ordinary_raise or not one.probe.hard) for one in explained
    )


def varied(one: Tried) -> bool:
    """Say whether an answer holds different numbers; an empty one holds none."""
    return any(a.size and np.ptp(np.asarray(a, float)) > 0 for a in one.got.values())


def enough(spec: Spec, order: Sequence[Tried]) -> bool:
    """Say whether so many numbers agree that it cannot be by chance.

    Whole numbers agree by chance: three different answers are asked for where there is nothing
    else.
    """
    numbers = [one for one in order if not one.raised]
    if set(numbers[0].got) - set(spec.exact):
        return True
    answers = {tuple(np.asarray(a).tobytes() for a in one.got.values()) for one in numbers}
    return len(answers) >= 3


def report(
    mistakes: Sequence[Mistake],
    also: Sequence[tuple[Mistake, ...]],
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
        sum(one.raised for one in agree),
        sum(int(np.size(a)) for one in agree for a in one.got.values()),
        tuple(one.probe.name for one in wrong if id(one) in ids),
        tuple(one.probe.name for one in wrong if id(one) not in ids),
    )
