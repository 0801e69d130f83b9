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
        accepted: Sequence[str] = (),
    ) -> None:
        self.spec, self.target, self.facets = spec, target, list(facets)
        self.diagnoses, self.notes = list(diagnoses), list(notes)
        self.accepted = tuple(accepted)  # conventions with which it was compared

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return all(facet.ok is not False for facet in self.facets)

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
            verdict += f", with a convention that was accepted: {' and '.join(self.accepted)}"
        yield f"{self.spec.name}   {self.target}   {verdict}"
        for facet in self.facets:
            yield f"  {MARKS[facet.ok]:<6} {facet.name:<18} {facet.says}"
            if facet.ok is not True:
                yield from (f"  {'':<6} {'':<18} {line}" for line in facet.details[:3])
        if hint > 0:
            yield from self.first_difference()
            told = [one for one in self.diagnoses if one[0] != "forward" or not self.accepted]
            for side, diagnosis in told:
                yield from self.diagnosis_lines(side, diagnosis, hint)
            wrong = any(f.ok is False for f in self.facets if f.differences)
            if wrong and all(side == "ties" for side, _ in told):
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
        yield f"  size: {size_of(d, whole=name.split(': ')[-1] in self.spec.exact)}"
        for pattern in d.patterns[:3]:
            yield f"  pattern: {pattern}"

    def diagnosis_lines(self, side: str, diagnosis: Diagnosis, hint: int) -> Iterator[str]:
        """Yield the lines about a mistake that fits."""
        names = " and ".join(self.full(diagnosis.mistakes))
        convention = all(m.kind == "convention" for m in diagnosis.mistakes)
        if diagnosis.whole:
            yield f"  {side} looks exactly like: {names}"
            same = diagnosis.agree - diagnosis.raises
            line = f"     the numbers are the same on {same} of {diagnosis.tried} inputs "
            line += f"({diagnosis.numbers:,} numbers)"
            yield line + f", and it raises on the other {diagnosis.raises}" * bool(diagnosis.raises)
        else:
            yield f"  {side}, on {', '.join(diagnosis.explains)}, looks like: {names}"
            yield f"     it does not explain {', '.join(diagnosis.leaves)}"
        for mistake in diagnosis.mistakes:
            yield f"     {sentence(mistake.says, self.spec)}"
            yield f"     Hint: {mistake.hint}"
            if hint > 1:
                yield from diff_lines(mistake)
        if convention:
            yield "     This is another convention, not bad maths."
        if diagnosis.also:
            more = "; ".join(" together with ".join(self.full(one)) for one in diagnosis.also)
            yield f"     The same numbers come from: {more}"

    def full(self, mistakes: Sequence[Mistake]) -> list[str]:
        """Return the names of mistakes with that of the concept in front."""
        return [f"{self.spec.name}.{m.name}" for m in mistakes]

    def to_dict(self, hint: int = 2) -> dict[str, Any]:
        """Return plain data that JSON can hold.

        Args:
            hint: with 0, as in `text`, no numbers of ours and no names.
        """
        return {
            "concept": self.spec.name,
            "function": self.target,
            "ok": self.ok,
            "accepted": list(self.accepted),
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
                    "names": self.full(d.mistakes),
                    "says": [m.says for m in d.mistakes],
                    "hints": [m.hint for m in d.mistakes],
                    "kinds": [m.kind for m in d.mistakes],
                    "explains_everything": d.whole,
                    "agree": d.agree,
                    "tried": d.tried,
                    "raises": d.raises,
                    "numbers": d.numbers,
                    "also": [self.full(one) for one in d.also],
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


def sentence(text: str, spec: Spec) -> str:
    """Begin a sentence with a capital letter, unless it begins with a name or a formula.

    >>> from .specs import spec
    >>> sentence("dw is a mean.", spec("linear")), sentence("the sum.", spec("linear"))
    ('dw is a mean.', 'The sum.')
    """
    first = text.split()[0].strip(",:;.")
    names = {*spec.arguments, *spec.outputs}
    names |= {f"d{name}" for name in names}
    code = first in names or not first.isalpha()
    return text if code and "-" not in first else text[0].upper() + text[1:]


def size_of(d: Difference, whole: bool = False) -> str:
    """Say how large a difference is.

    Args:
        d: the difference.
        whole: the numbers are ids or the like, of which there is no scale.
    """
    if whole:
        return f"{d.wrong} of {d.total} entries are wrong"
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
