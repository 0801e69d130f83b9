"""What the checker finds in a student's replies, row by row; every process has ended by now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import ModuleType

import numpy as np

from ..check.compare import Comparison
from ..check.compare_gradients import GradientComparison
from ..check.diagnose import Diagnosis, fits, right_module
from ..check.edited import Edit, edited_module
from ..check.facets import Facet
from ..check.report import Report, sentence
from ..check.spec import Mistake, Spec
from .ask import Attempt
from .aspects import (
    NO_VALUES,
    STABILITY,
    VISIBLE,
    all_zero,
    aspects_of,
    ordinary_runs,
    share_of,
)
from .assignment import Assignment
from .closed_imports import reached_from
from .graded_questions import GradedQuestions
from .variants import variant_edits


@dataclass
class Finding:
    """What was found out about one attempt at one part."""

    attempt: Attempt
    shares: dict[str, Fraction]  # of each row, what was earned; rows that wait are left out
    visible: Report
    hidden: Report | None  # of the other numbers, for staff
    mistakes: dict[str, tuple[str, ...]]  # of each row, names in the bank
    diagnoses: list[tuple[str, Diagnosis]]
    notes: list[str]


def base_of(spec: Spec, assignment: Assignment) -> ModuleType:
    """Return what is right in this assignment: our file, with this year's variants."""
    near = {spec.module, *reached_from([spec.module])}
    edits: list[Edit] = []
    for concept, mistake in assignment.variants.items():
        edits += [edit for edit in variant_edits(concept, mistake) if edit.module in near]
    found = edited_module(spec.module, edits) if edits else right_module(spec)
    if found is None:
        raise ValueError(f"the variants of {spec.name} change the same line")
    return found


class GradedComparison(Comparison):
    """The checker's comparison, in the order and the strictness of grading."""

    def found(self) -> list[Facet]:
        """Answer everything that was asked; return the facets."""
        questions = self.questions
        assert isinstance(questions, GradedQuestions)
        tried = self.answer_values()
        if not tried:
            return self.facets
        self.answer_dtype_and_determinism([one for one in tried if not one.raised])
        plain = [one for one in tried if not one.probe.ties]
        right = all(one.right for one in plain)
        if self.spec.pull is not None:
            asked = GradientComparison(questions, self.base, self.dtype, False, self.facets)
            self.diagnoses += [("backward", one) for one in asked.answer(right)]
        if questions.exact:
            if all(one.right for one in plain if not one.probe.hard):
                questions.only = {one.probe.name for one in plain if one.right}
                self.answer_precision()
            else:
                self.facets += [Facet(n, None, NO_VALUES) for n in ("float32", "half precision")]
        return self.facets

    def is_public(self) -> bool:
        """Say whether every answer is that of our own file, where a variant is asked for."""
        tried = self.tried_in(self.dtype, [v for v in self.questions.values() if not v[1].problem])
        public = right_module(self.spec)
        if public is self.base or not tried or all(one.right for one in tried):
            return False
        return all(
            fits(self.spec, one.got, self.forward_answer(public, one), one.arguments, self.dtype)
            for one in tried
        )


def judge(attempt: Attempt, assignment: Assignment) -> Finding:
    """Say what an attempt is worth, and why."""
    spec = attempt.public.spec
    base = base_of(spec, assignment)
    public = GradedComparison(attempt.public, base=base)
    facets = public.found()
    notes = [*attempt.notes, *public.notes]
    diagnoses = without_variant(public.diagnoses, assignment.variants.get(spec.name))
    shares = {name: share_of(name, spec, facets) for name in VISIBLE}
    hidden: Report | None = None
    if attempt.hidden is not None:
        other = GradedComparison(attempt.hidden, base=base)
        others = other.found()
        rows = [name for name in aspects_of(spec) if name not in VISIBLE]
        shares |= {name: share_of(name, spec, others) for name in rows}
        if "gradient" in rows and has_idle_gradient(attempt.hidden, base, others):
            shares["gradient"] = Fraction(0)
        if shares["values"] == 1 and not shares["more values"]:
            notes.append(
                "right on the public numbers and wrong on all others: are answers written into "
                "the file?"
            )
        hidden = Report(spec, spec.name, others, [], other.notes)
    if spec.name in assignment.variants and public.is_public():
        notes.append(
            f"{spec.name} is the public version of minqwen, without this year's change "
            f"({assignment.variants[spec.name]})"
        )
    shown = visible_facets(facets)
    told = [one for one in diagnoses if one[0] == "forward"] if shares["values"] < 1 else []
    report = Report(spec, spec.name, shown, told, public.notes)
    return Finding(
        attempt, shares, report, hidden, mistakes_of(spec, shares, diagnoses), diagnoses, notes
    )


def without_variant(
    diagnoses: Sequence[tuple[str, Diagnosis]], variant: str | None
) -> list[tuple[str, Diagnosis]]:
    """Leave out of pairs of mistakes the one that is right this year."""
    found = []
    for side, one in diagnoses:
        rest = tuple(m for m in one.mistakes if m.name != variant)
        if rest:
            found.append((side, one._replace(mistakes=rest)))
    return found


def has_idle_gradient(
    questions: GradedQuestions, base: ModuleType, facets: Sequence[Facet]
) -> bool:
    """Say whether a gradient that fits a wrong forward is zero everywhere, and ours is not.

    It is that of a constant, or of a function that leaves an argument out: no achievement.
    """
    if any(facet.name.startswith("gradient of ") for facet in facets):
        return False
    probes = questions.smooth()
    replies = [questions.backward(probe) for probe in probes]
    if all(all_zero([g for g in reply.gradients.values()]) for reply in replies):
        return True
    moves, idle = set[str](), set[str]()
    for probe, reply in zip(probes, replies, strict=True):
        assert questions.spec.pull is not None
        try:
            ours = questions.spec.pull(base, questions.make(probe), questions.upstream(probe))
        except Exception:  # outputs of another shape than ours
            continue
        for name, found in reply.gradients.items():
            if found is not None and np.any(found):
                moves.add(name)
            elif ours.get(name) is not None and np.any(ours[name]):
                idle.add(name)
    return bool(idle - moves)


def visible_facets(facets: Sequence[Facet]) -> list[Facet]:
    """Return what students are told at once; that hard inputs fail is told later."""
    by_name = {facet.name: facet for facet in facets}
    shown = []
    for facet in facets:
        if facet.name == "runs" and not facet.ok and ordinary_runs(by_name):
            facet = Facet("runs", True, "it runs on ordinary inputs")
        if facet.name in ("runs", "shape", "values", *STABILITY):
            shown.append(facet)
    return shown


def mistakes_of(
    spec: Spec, shares: dict[str, Fraction], diagnoses: Sequence[tuple[str, Diagnosis]]
) -> dict[str, tuple[str, ...]]:
    """Return the names of the mistakes that explain what each row lacks."""
    sides = {"values": "forward", "more values": "forward", "hard inputs": "forward"}
    sides["gradient"] = "backward"
    return {
        row: tuple(
            f"{spec.name}.{m.name}"
            for side, one in diagnoses
            if side == sides.get(row)
            for m in one.mistakes
        )
        for row, share in shares.items()
        if share < 1
    }


def hints(spec: Spec, diagnoses: Sequence[tuple[str, Diagnosis]], side: str) -> list[str]:
    """Return what is wrong and where to look, without numbers and without lines."""
    found: list[Mistake] = [m for s, one in diagnoses if s == side for m in one.mistakes]
    lines = []
    for mistake in found:
        lines += [sentence(mistake.says, spec), f"Hint: {mistake.hint}"]
    return lines


def size_of_error(facets: Sequence[Facet]) -> float | None:
    """Return the largest error over scale that the facets hold; None if they hold none."""
    errors = [d.error for facet in facets for d in facet.differences.values()]
    finite = [error for error in errors if np.isfinite(error)]
    return max(finite, default=None) if errors else None
