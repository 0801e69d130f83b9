"""Two traces side by side: the first tensor that parts, why, and what becomes of the rest.

1. Names are matched, and their tensors brought into our layout (tensor_layout.py).
2. In the order of the computation each pair is compared, in units of rounding over the scale.
3. A tensor that differs is computed once more by our own step, from *their* inputs
   (trace_steps.py). If that gives their numbers, the step is right and the difference came in
   from before. If not, the step itself is different: here the two part.
4. Such a step is done again with every known mistake (step_variants.py). One that gives their
   numbers exactly is named; if none does, nothing is named but the pattern.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...backend import Array
from ...model.config import QwenConfig
from ...params import Params
from ..difference import NAMES, TIME
from ..limits import UNITS, limit
from .redo import Change, Redo, place_of
from .step_variants import variants
from .tensor_layout import Match, axis_sizes, elementary, match_names, to_our_layout
from .tensor_patterns import patterns, rounded
from .trace_file import Trace
from .trace_steps import Step, all_steps

WORDS = {**NAMES, "one": "column"}
SIMPLE = ("embedding", "rmsnorm", "residual", "reshape")  # steps that round a few times only
SECONDS = 60.0  # for mistakes to be tried at one tensor
GROWTH = 16.0  # a step may make rounding errors so many times larger, where it cannot be redone


class Fit(NamedTuple):
    """A known mistake that gives their numbers."""

    name: str
    says: str
    kind: str  # of spec.KINDS
    hint: str
    units: float  # between its numbers and theirs
    steps: tuple[str, ...]  # where it is made, if not in the step of the tensor itself


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
    error: float = 0.0  # largest, over the scale of ours
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


class Diff(NamedTuple):
    """Everything that was found out about two traces."""

    match: Match
    order: list[str]  # of the pairs
    dtype: str
    right: list[str]  # before the first that parts
    largest: float  # difference among them, in units
    largest_name: str
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


class Comparison:
    """The walk through two traces."""

    def __init__(
        self,
        ours: Trace,
        theirs: Trace,
        params: Params | None,
        given: dict[str, str] | None,
        rtol: float | None,
    ) -> None:
        self.ours, self.theirs, self.rtol = ours, theirs, rtol
        self.match = match_names(ours, theirs, given)
        self.sizes = axis_sizes(ours.config)
        self.notes = [f"ours: {note}" for note in ours.notes]
        self.notes += [f"theirs: {note}" for note in theirs.notes]
        self.layouts: dict[str, str] = {}
        self.mask = ours.tensors.get("attention_mask")
        self.pairs: dict[str, Array] = {}  # their tensors in our layout
        for name, other in self.match.names.items():
            turned = to_our_layout(theirs[other], ours[name], ours.axes[name], self.sizes)
            if turned is not None:
                self.pairs[name] = turned[0]
                if turned[1]:
                    self.layouts[name] = turned[1]
        self.dtype = narrowest([ours, theirs], self.match)
        self.weightless = params is None
        self.terms = max(64, *(n for letter, n in self.sizes.items() if letter != "V"), 0)
        self.redo = Redo(self.make_steps(params), self.their_values())

    def make_steps(self, params: Params | None) -> dict[str, list[Step]]:
        """Return our steps, as many as the config and the weights allow."""
        if self.ours.config is None or "input_ids" not in self.ours:
            return {}
        config = QwenConfig.from_dict(self.ours.config)
        ids, positions = self.ours["input_ids"], self.ours["positions"]
        past = (
            "attention_mask" in self.ours and self.ours["attention_mask"].shape[1] != ids.shape[1]
        )
        if past or any(name.startswith("call1.") for name in self.ours):
            self.notes.append("a KV cache was in use, so steps are not done again")
            return {}
        return all_steps(config, params or {}, ids, positions, self.mask)

    def their_values(self) -> dict[str, Array]:
        """Return their tensors in float64, whole numbers as they are; ids are ours if they lack."""
        have = {
            n: x if x.dtype.kind in "iub" else x.astype(np.float64) for n, x in self.pairs.items()
        }
        if "input_ids" in self.ours:
            have.setdefault("input_ids", self.ours["input_ids"])
        return have

    def allowed(self, name: str) -> float:
        """Return how many units off is no difference: a sum over the steps that are done again."""
        if self.rtol is not None:
            return self.rtol / UNITS[self.dtype]
        half = 2 if UNITS[self.dtype] > 1e-4 else 1
        chain = self.redo.chain(name)
        units = 0.0 if chain else limit(self.dtype, self.terms, 4) * half
        for step in chain:
            simple = step.kind in SIMPLE
            units += limit(self.dtype, 64 if simple else self.terms, 1 if simple else 4) * half
            if step.kind == "rope":  # an angle of p radians is rounded to p units
                units += 4 * float(np.max(self.ours["positions"], initial=0))
            if step.kind in ("probs", "attention"):  # exp turns a score's error into a share
                q, k = (self.redo.value(one) for one in step.inputs[:2])
                if q is not None and k is not None:
                    long = [float(np.sqrt((x * x).sum(axis=-1).max(initial=0.0))) for x in (q, k)]
                    units += 4 * math.prod(long) * q.shape[-1] ** -0.5
        return units

    def off(self, name: str, theirs: Array, ours: Array | None) -> Array:
        """Return how far apart two tensors are, each entry over the scale of ours; padding is 0."""
        if ours is None or ours.shape != theirs.shape:
            return np.full(theirs.shape, np.inf)
        if theirs.dtype.kind in "iub" and ours.dtype.kind in "iub":
            off = np.where(theirs == ours, 0.0, np.inf)
        else:
            theirs, ours = theirs.astype(np.float64), ours.astype(np.float64)
            finite = np.isfinite(ours)
            scale = float(np.abs(np.where(finite, ours, 0.0)).max(initial=0.0)) or 1.0
            with np.errstate(invalid="ignore"):
                off = np.abs(theirs - ours) / scale
            same = (theirs == ours) | (np.isnan(theirs) & np.isnan(ours))
            off = np.where(same, 0.0, np.where(np.isfinite(off), off, np.inf))
        real = self.real_entries(name, off)
        return off if real is None else np.where(real, off, 0.0)

    def real_entries(self, name: str, like: Array) -> Array | None:
        """Return which entries belong to real tokens, None if all do."""
        letters = self.ours.axes.get(name, "").split()
        fits = letters and len(letters) == like.ndim
        if self.mask is None or not fits or name == "attention_mask":
            return None
        if letters[0] == "N":
            return self.mask.reshape(-1, *[1] * (like.ndim - 1))
        if letters[0] == "B" and "T" in letters:
            shape = [1] * like.ndim
            shape[0], shape[letters.index("T")] = self.mask.shape
            return self.mask.reshape(shape)
        return None

    def units(self, off: Array) -> float:
        """Return the largest difference in units of rounding."""
        return float(off.max(initial=0.0)) / UNITS[self.dtype]

    def walk(self) -> Diff:
        """Compare all pairs in the order of the computation."""
        order = [name for name in self.ours if name in self.match.names]
        right: list[str] = []
        largest, largest_name, carried = 0.0, "", 0.0
        parted: Parted | None = None
        later: list[Later] = []
        inherited: list[str] = []
        unclear: list[str] = []
        found: dict[str, tuple[Change, ...]] = {}
        for name in order:
            if name not in self.pairs:
                if parted is None:
                    parted = self.other_shape(name)
                else:
                    unclear.append(name)
                continue
            theirs = self.pairs[name]
            off = self.off(name, theirs, self.ours[name])
            units, allowed = self.units(off), self.allowed(name)
            if units > allowed:
                ours = self.redo.predict(name)
                if ours is not None and self.units(self.off(name, theirs, ours)) <= allowed:
                    inherited.append(name)
                    carried = carried if parted else max(carried, units)
                    continue
                known = ours is not None
                if known or parted is None:
                    grown = not known and self.rtol is None and units <= GROWTH * carried
                    if parted is not None:
                        later.append(Later(name, self.fits(name, allowed, found)[0]))
                        continue
                    if not grown:
                        parted = self.describe(name, off, allowed, known, found)
                        continue
                else:
                    unclear.append(name)
                    continue
            if parted is None:
                right.append(name)
                carried = max(carried, units)
                if units >= largest:
                    largest, largest_name = units, name
        if parted is not None and self.weightless:
            self.notes.append("steps with weights could not be done again: give --weights FOLDER")
        return Diff(
            self.match,
            order,
            self.dtype,
            right,
            largest,
            largest_name,
            parted,
            later,
            inherited,
            unclear,
            self.layouts,
            self.notes,
        )

    def other_shape(self, name: str) -> Parted:
        """Report a tensor whose shape cannot be made ours."""
        other = self.match.names[name]
        ours, theirs = self.ours[name].shape, self.theirs[other].shape
        says = f"theirs has the shape {theirs}, ours {self.shape(name)}: no order of the axes fits"
        return Parted(name, other, ours, theirs, says)

    def shape(self, name: str) -> str:
        """Return our shape with its letters."""
        letters, shape = self.ours.axes[name].split(), self.ours[name].shape
        if len(letters) != len(shape):
            return str(shape)
        return "(" + ", ".join(f"{a}={n}" for a, n in zip(letters, shape, strict=True)) + ")"

    def describe(
        self,
        name: str,
        off: Array,
        allowed: float,
        known: bool,
        found: dict[str, tuple[Change, ...]],
    ) -> Parted:
        """Report the first tensor that parts."""
        other, ours, theirs = self.match.names[name], self.ours[name], self.pairs[name]
        close = allowed * UNITS[self.dtype]
        letters, lengths = elementary(ours.shape, self.ours.axes[name], self.sizes)
        wrong = (off > close).reshape(lengths)
        order = sorted(range(len(lengths)), key=lambda i: (letters[i] not in TIME, i))
        first = np.argwhere(wrong.transpose(order))[0]
        spot = tuple(int(first[order.index(i)]) for i in range(len(lengths)))
        words = ", ".join(
            f"{WORDS.get(a, a) or f'axis {i}:'} {n}"
            for i, (a, n) in enumerate(zip(letters, spot, strict=True))
        )
        fits, inputs = self.fits(name, allowed, found) if known else ((), ())
        # what the step should have given: from their inputs, if it could be done again
        want = self.redo.predict(name) if known else None
        told = self.told(name, ours if want is None else want, theirs, letters, lengths, close)
        if not fits:
            if not told:
                told = self.elsewhere(name, theirs, close)
            told += rounded(ours, theirs)
        return Parted(
            name,
            other,
            ours.shape,
            self.theirs[other].shape,
            "",
            words,
            float(ours.reshape(lengths)[spot]),
            float(theirs.reshape(lengths)[spot]),
            float(off.max()),
            self.units(off),
            int(wrong.sum()),
            int(wrong.size),
            tuple(told),
            inputs or self.redo.inputs(name),
            known,
            fits,
        )

    def told(
        self,
        name: str,
        ours: Array,
        theirs: Array,
        letters: list[str],
        lengths: Sequence[int],
        close: float,
    ) -> list[str]:
        """Return the pattern of a difference; entries of padding are taken as equal."""
        ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
        real = self.real_entries(name, ours)
        if real is not None:
            theirs = np.where(real, theirs, ours)
        scale = float(np.abs(ours[np.isfinite(ours)]).max(initial=0.0)) or 1.0
        sizes = (
            {**self.sizes, "T": self.ours["input_ids"].shape[-1]}
            if "input_ids" in self.ours
            else self.sizes
        )
        return patterns(
            ours.reshape(lengths), theirs.reshape(lengths), letters, close * scale, sizes
        )

    def elsewhere(self, name: str, theirs: Array, close: float) -> list[str]:
        """Say so when theirs is another tensor of ours."""
        for other in self.ours:
            ours = self.ours[other]
            if other != name and ours.shape == theirs.shape and ours.dtype.kind == "f":
                scale = float(np.abs(ours).max(initial=0.0)) or 1.0
                if np.abs(ours.astype(np.float64) - theirs).max() <= close * scale:
                    return [f"it is our {other}"]
        return []

    def fits(
        self, name: str, allowed: float, found: dict[str, tuple[Change, ...]]
    ) -> tuple[tuple[Fit, ...], tuple[str, ...]]:
        """Return the known mistakes that give their numbers, and the inputs that were used.

        A mistake that was found at the same place of another layer is tried first, and alone if it
        fits; `found` remembers.
        """
        place = place_of(name)
        before = self.try_all(name, allowed, iter(found.get(place, ())))
        good = before or self.try_all(name, allowed, self.changes(name))
        if good:
            found.setdefault(place, tuple(change for change, _ in good))
        fits = [
            Fit(v.name, v.says, v.kind, v.hint, units, self.changed_steps(name, change))
            for change, units in good
            for v in (change.variant,)
        ]
        return tuple(distinct(fits)), self.redo.inputs(name)

    def changes(self, name: str) -> Iterator[Change]:
        """Yield the mistakes that can be made in the steps from their tensors to this one.

        Where that is more than one step, a mistake is tried wherever it can be made, and at each
        place alone.
        """
        chain = self.redo.chain(name)
        done = set()
        for step in chain:
            inputs = tuple(self.redo.value(one) for one in step.inputs)
            if any(x is None for x in inputs):
                continue
            aim = self.pairs[name] if step.name == name else None
            for variant in variants(step, inputs, aim):  # type: ignore[arg-type]
                for place in (None, place_of(step.name)) if len(chain) > 1 else (None,):
                    if (variant.name, place) not in done:
                        done.add((variant.name, place))
                        yield Change(variant, place)

    def try_all(
        self, name: str, allowed: float, changes: Iterator[Change]
    ) -> list[tuple[Change, float]]:
        """Return the changes that give their numbers, and how nearly."""
        good = []
        until = time.monotonic() + SECONDS
        for change in changes:
            units = self.change_units(name, change)
            if units <= allowed:
                good.append((change, units))
            if time.monotonic() > until:
                note = f"not every known mistake was tried at {name}: it takes too long"
                self.notes.append(note)
                break
        return good

    def changed_steps(self, name: str, change: Change) -> tuple[str, ...]:
        """Return the places at which a change acts, in the order of the computation."""
        steps = [s for s in reversed(self.redo.chain(name)) if change.at(s)]
        places = [s.name.rpartition(".")[2] for s in steps if s.name != name]
        return tuple(dict.fromkeys(places))

    def change_units(self, name: str, change: Change) -> float:
        """Return how far a mistake's numbers are from theirs."""
        try:
            ours = self.redo.predict(name, change)
        except Exception:  # a changed line may break on these inputs: then it is not this mistake
            return math.inf
        return self.units(self.off(name, self.pairs[name], ours))


def distinct(fits: Sequence[Fit]) -> list[Fit]:
    """Leave out what is the same mistake of another spec, best first."""
    seen: dict[str, Fit] = {}
    for fit in sorted(fits, key=lambda fit: fit.units):
        seen.setdefault(fit.name.rpartition(".")[2], fit)
    return list(seen.values())


def narrowest(traces: Sequence[Trace], match: Match) -> str:
    """Return the least precise dtype of what is compared."""
    names = {
        x.dtype.name
        for trace, used in zip(traces, (match.names, match.names.values()), strict=True)
        for x in (trace[name] for name in used)
    }
    names |= {str(trace.more["dtype"]) for trace in traces if "dtype" in trace.more}
    known = [name for name in names if name in UNITS]
    return max(known, key=lambda name: UNITS[name], default="float32")


def compare_traces(
    ours: Trace,
    theirs: Trace,
    *,
    params: Params | None = None,
    names: dict[str, str] | None = None,
    rtol: float | None = None,
) -> Diff:
    """Find the first tensor at which two traces part.

    Args:
        ours: of trace or trace_model; it gives the order and the config.
        theirs: of another program.
        params: of the model, to do steps with weights again.
        names: our name -> their name, where they do not follow from the names.
        rtol: a difference over the scale of a tensor that is none; None: a few units of rounding.

    Raises:
        ValueError: `names` names a tensor that is not there, or nothing can be compared.
    """
    comparison = Comparison(ours, theirs, params, names, rtol)
    if not comparison.match.names:
        raise ValueError(
            "the two have no name in common: give --map with a JSON object {our name: their name}; "
            f"ours are {some(list(ours))}; theirs are {some(list(theirs))}"
        )
    return comparison.walk()


def some(names: Sequence[str], most: int = 4) -> str:
    """Join the first names of a list."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def as_dict(diff: Diff) -> dict[str, Any]:
    """Return everything as plain data for JSON."""
    facts = diff._asdict()
    facts["match"] = diff.match._asdict()
    facts["parted"] = None if diff.parted is None else plain(diff.parted)
    facts["later"] = [plain(one) for one in diff.later]
    return {"ok": diff.ok, **facts}


def plain(value: Any) -> Any:
    """Return nested NamedTuples as dicts; a number that JSON lacks becomes null."""
    if hasattr(value, "_asdict"):
        return {name: plain(part) for name, part in value._asdict().items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
