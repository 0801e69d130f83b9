"""What the checker says: the same report as text, Markdown or plain data."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from .diagnose import Diagnosis
from .difference import Difference, two_numbers
from .facets import Facet
from .spec import Mistake, Spec

MARKS = {True: "ok", False: "WRONG", None: "-"}


class Report:
    """Everything that was found out about one function; print it, or ask `ok` and `to_dict()`."""

    def __init__(
        self,
        spec: Spec,
        target: str,
        facets: Sequence[Facet],
        diagnoses: Sequence[tuple[str, Diagnosis]],
        notes: Sequence[str] = (),
        accept: Sequence[str] = (),
    ) -> None:
        self.spec, self.target, self.facets = spec, target, list(facets)
        self.diagnoses, self.notes, self.accept = list(diagnoses), list(notes), tuple(accept)

    @property
    def accepted(self) -> bool:
        """Whether all that is wrong is a convention that the caller accepts."""
        whole = [d for _, d in self.diagnoses if d.whole]
        names = [f"{self.spec.name}.{m.name}" for d in whole for m in d.mistakes]
        bad = {f.name for f in self.facets if f.ok is False}
        return (
            bool(names)
            and all(name in self.accept for name in names)
            and bad <= {"values", "hard inputs"}
        )

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong, or only what was accepted."""
        return self.accepted or all(facet.ok is not False for facet in self.facets)

    def raise_if_wrong(self) -> None:
        """Raise AssertionError with the report as its text, for use in a test suite."""
        if not self.ok:
            raise AssertionError(self.text())

    def text(self, hint: int = 1) -> str:
        """Return the report for a terminal.

        Args:
            hint: 0 says which question failed, 1 names the mistake, 2 shows our line and theirs.
        """
        return "\n".join(part for line in self.lines(hint) for part in wrapped(line))

    def __str__(self) -> str:
        """Return the text."""
        return self.text()

    def lines(self, hint: int) -> Iterator[str]:
        """Yield the lines of the text."""
        verdict = "right" if self.ok else "WRONG"
        if self.accepted:
            verdict = "right, with a convention that was accepted"
        yield f"{self.spec.name}   {self.target}   {verdict}"
        for facet in self.facets:
            yield f"  {MARKS[facet.ok]:<6} {facet.name:<18} {facet.says}"
            if facet.ok is not True:
                yield from (f"  {'':<6} {'':<18} {line}" for line in facet.details[:3])
        if hint > 0:
            yield from self.first_difference()
            for side, diagnosis in self.diagnoses:
                yield from self.diagnosis_lines(side, diagnosis, hint)
            wrong = any(f.ok is False for f in self.facets if f.differences)
            if wrong and not self.diagnoses:
                yield "  no mistake of our list gives these numbers; so no guess is made"
        for note in self.notes:
            yield f"  note: {note}"

    def first_difference(self) -> Iterator[str]:
        """Yield the lines about the first place that is wrong."""
        side = next((f for f in self.facets if f.differences), None)
        if side is None:
            return
        gradient = side.name.startswith("gradient")
        found = {
            name: d
            for f in self.facets
            if f.name.startswith("gradient") == gradient
            for name, d in f.differences.items()
        }
        most = max(d.error for d in found.values())
        name, d = next((n, d) for n, d in found.items() if d.error >= most / 30)
        got, want = two_numbers(d.got, d.want)
        yield f"  first difference, {name} at {d.where}: got {got}, want {want}"
        yield f"  size: {size_of(d)}"
        for pattern in d.patterns[:3]:
            yield f"  pattern: {pattern}"

    def diagnosis_lines(self, side: str, diagnosis: Diagnosis, hint: int) -> Iterator[str]:
        """Yield the lines about a mistake that fits."""
        names = " and ".join(f"{self.spec.name}.{m.name}" for m in diagnosis.mistakes)
        convention = all(m.kind == "convention" for m in diagnosis.mistakes)
        if diagnosis.whole:
            yield f"  {side} looks exactly like: {names}"
            yield (
                f"     the numbers are the same on {diagnosis.agree} of {diagnosis.tried} inputs "
                f"({diagnosis.numbers:,} numbers)"
            )
        else:
            yield f"  {side}, on {', '.join(diagnosis.explains)}, looks like: {names}"
            yield f"     it does not explain {', '.join(diagnosis.leaves)}"
        for mistake in diagnosis.mistakes:
            yield f"     {mistake.says[0].upper()}{mistake.says[1:]}"
            yield f"     Hint: {mistake.hint}"
            if hint > 1:
                yield from diff_lines(mistake)
        if convention:
            yield "     This is another convention, not bad maths."
        if diagnosis.also:
            more = ", ".join(f"{self.spec.name}.{m.name}" for m in diagnosis.also)
            yield f"     The same numbers come from: {more}"

    def to_dict(self, hint: int = 2) -> dict[str, Any]:
        """Return plain data that JSON can hold.

        Args:
            hint: with 0, as in `text`, no numbers of ours and no names.
        """
        return {
            "concept": self.spec.name,
            "function": self.target,
            "ok": self.ok,
            "facets": [
                {
                    "name": f.name,
                    "ok": f.ok,
                    "says": f.says,
                    "details": f.details,
                    "differences": {
                        name: {
                            **d._asdict(),
                            "error": number(d.error),
                            "got": number(d.got),
                            "want": number(d.want),
                        }
                        for name, d in f.differences.items()
                        if hint > 0
                    },
                }
                for f in self.facets
            ],
            "diagnoses": [
                {
                    "side": side,
                    "names": [f"{self.spec.name}.{m.name}" for m in d.mistakes],
                    "says": [m.says for m in d.mistakes],
                    "hints": [m.hint for m in d.mistakes],
                    "kinds": [m.kind for m in d.mistakes],
                    "explains_everything": d.whole,
                    "agree": d.agree,
                    "tried": d.tried,
                    "numbers": d.numbers,
                    "also": [f"{self.spec.name}.{m.name}" for m in d.also],
                }
                for side, d in self.diagnoses
                if hint > 0
            ],
            "notes": self.notes,
        }

    def markdown(self, hint: int = 1) -> str:
        """Return the report as Markdown."""
        rows = ["| | question | answer |", "| --- | --- | --- |"]
        rows += [f"| {MARKS[f.ok]} | {f.name} | {cell(f.says)} |" for f in self.facets]
        rest = [
            line.strip() for line in self.lines(hint) if not line.startswith(tuple(_facet_starts()))
        ]
        return "\n".join([f"**{rest[0]}**", "", *rows, "", *(f"- {line}" for line in rest[1:])])


def cell(text: str) -> str:
    """Return text that breaks no table and is no HTML: parts of it come from a stranger.

    >>> cell("a|b <i>")
    'a&#124;b &lt;i>'
    """
    return text.replace("|", "&#124;").replace("<", "&lt;").replace("`", "'")


def _facet_starts() -> Iterator[str]:
    for mark in MARKS.values():
        yield f"  {mark:<6} "
    yield f"  {'':<6} {'':<18} "


def wrapped(line: str) -> list[str]:
    """Break a line at 100 columns; what follows stands below the answer, or below the text.

    >>> [len(part) for part in wrapped("  ok     values             " + 30 * "right ")]
    [99, 99, 63]
    """
    answer = line.startswith(tuple(_facet_starts()))
    indent = " " * (28 if answer else len(line) - len(line.lstrip()) + 2)
    return textwrap.wrap(line, 100, subsequent_indent=indent, break_long_words=False) or [line]


def size_of(d: Difference) -> str:
    """Say how large a difference is."""
    error = "infinite" if math.isinf(d.error) else f"{d.error:.3g} of the scale"
    near = d.ulps is not None and d.ulps < 10**6
    ulps = f", at this place {d.ulps:,} numbers of float64 away" if near else ""
    return f"largest error {error}{ulps}; {d.wrong} of {d.total} entries are wrong"


def number(x: float) -> float | str:
    """Return a float that JSON can hold: not finite ones as text.

    >>> number(float("nan")), number(1.0)
    ('nan', 1.0)
    """
    return x if math.isfinite(x) else str(x)


def diff_lines(mistake: Mistake) -> Iterator[str]:
    """Show our text and the changed one, as a diff."""
    yield from (f"     - {line.strip()}" for line in mistake.find.strip().splitlines())
    yield from (f"     + {line.strip()}" for line in mistake.put.strip().splitlines())
