"""What a step would give with a known mistake, or with two of them at once.

A mistake is a line of one of our files (the bank, mistakes/) or something that is handed to the
step in place of the right thing (model_mistakes.py). Both are tried on a step whose inputs agree
and whose output does not. Two go together when neither takes the place of the other: two lines, a
line and another argument, two arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache, lru_cache
from itertools import combinations
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from ...backend import Array
from ..edited import Edit, edited_module
from ..spec import Mistake
from ..specs import names, spec
from .model_mistakes import RUN, Changes, Hand, by_hand, resolved
from .step import Step


class Variant(NamedTuple):
    """A step computed in another way."""

    of: str  # the kind of step, or the spec of the bank
    names: tuple[str, ...]  # one, or two that are made together
    says: str  # what is wrong, plain sentences
    kind: str  # of spec.KINDS
    hint: str
    run: Callable[..., Array]  # (step, *inputs)
    lines: tuple[Mistake, ...] = ()  # of the bank
    changes: Changes = {}  # noqa: RUF012  arguments in place of the right ones

    def applies(self, step: Step) -> bool:
        """Say whether a step can be computed so."""
        return self.of == step.kind or any(self.of == name for name, _ in step.bank)


def variants(step: Step, inputs: tuple[Array, ...], theirs: Array | None) -> Iterator[Variant]:
    """Yield all ways to get a step wrong that we know; those of the bank first."""
    for name, _ in step.bank:
        yield from of_bank(name)
    for hand in by_hand(step, inputs, theirs):
        yield of_hand(step.kind, hand)


def pairs(step: Step, inputs: tuple[Array, ...]) -> Iterator[Variant]:
    """Yield two mistakes at a time, where they go together.

    Those that are only a matter of rounding are left out, and those of which the bank says that
    they are the same as others.
    """
    singles = [
        v
        for v in variants(step, inputs, None)
        if v.kind != "numeric" and not any(m.same_as for m in v.lines)
    ]
    for a, b in combinations(singles, 2):
        both = together(step, a, b)
        if both is not None:
            yield both


def together(step: Step, a: Variant, b: Variant) -> Variant | None:
    """Return both mistakes as one variant; None when one takes the place of the other."""
    if a.changes.keys() & b.changes.keys():
        return None
    changes, lines = {**a.changes, **b.changes}, (*a.lines, *b.lines)
    of = a.of if a.lines else b.of
    if lines:
        if a.lines and b.lines and a.of != b.of:
            return None
        if not changes.keys() <= set(spec(of).arguments):
            return None
        run = run_of_bank(of, lines, changes)
    else:
        run = run_of_hand(step.kind, changes)
    kind = "convention" if a.kind == b.kind == "convention" else "error"
    says = f"{a.says} {b.says[:1].upper()}{b.says[1:]}"
    hint = " ".join(hint for hint in (a.hint, b.hint) if hint)
    return Variant(of, (*a.names, *b.names), says, kind, hint, run, lines, changes)


@cache
def of_bank(name: str) -> tuple[Variant, ...]:
    """Return the mistakes of one concept's forward pass as variants."""
    if name not in names():
        return ()
    return tuple(
        Variant(
            name,
            (f"{name}.{mistake.name}",),
            mistake.says,
            mistake.kind,
            mistake.hint,
            run_of_bank(name, (mistake,), {}),
            (mistake,),
        )
        for mistake in spec(name).forward
    )


def of_hand(kind: str, hand: Hand) -> Variant:
    """Return a mistake that is no line of ours as a variant."""
    run = run_of_hand(kind, hand.changes)
    return Variant(kind, (hand.name,), hand.says, hand.kind, "", run, (), hand.changes)


def run_of_bank(name: str, lines: Sequence[Mistake], changes: Changes) -> Callable[..., Array]:
    """Return a function that computes a step with lines of our file changed, and arguments."""

    def run(step: Step, *inputs: Array) -> Array:
        module = edited(name, tuple(lines))
        if module is None:
            raise ValueError(f"{', '.join(m.name for m in lines)} of {name} cannot be made")
        other = resolved(step, changes)

        def call(**arguments: Any) -> tuple[Array, ...]:
            return spec(name).run(module, {**spec(name).defaults, **arguments, **other})

        return dict(step.bank)[name](call, *inputs)

    return run


def run_of_hand(kind: str, changes: Changes) -> Callable[..., Array]:
    """Return a function that computes a step with other arguments."""

    def run(step: Step, *inputs: Array) -> Array:
        with np.errstate(all="ignore"):
            return RUN[kind](step, *inputs, **resolved(step, changes))

    return run


@lru_cache(maxsize=1024)
def edited(name: str, lines: tuple[Mistake, ...]) -> ModuleType | None:
    """Return our file with these lines changed; None where two are the same line."""
    edits = [Edit(m.module or spec(name).module, m.find, m.put) for m in lines]
    return edited_module(spec(name).module, edits)
