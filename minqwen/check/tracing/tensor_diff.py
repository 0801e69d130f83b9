"""Two traces side by side: the first tensor that parts, why, and what becomes of the rest.

1. Names are matched, and their tensors brought into our layout (tensor_layout.py).
2. In the order of the computation each pair is compared, in units of rounding over the scale
   (closeness.py). Where both have NaN or infinity they agree, and it is said (not_finite.py).
3. A tensor that differs is computed once more by our own step, from *their* inputs
   (trace_steps.py, redo.py). If that gives their numbers, the step is right and the difference
   came in from before. If not, the step itself is different: here the two part.
4. Such a step is done again with every known mistake, and with two at once (naming.py). What gives
   their numbers exactly is named; if nothing does, nothing is named but the pattern.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...backend import Array
from ...model.backbone import default_positions
from ...model.config import QwenConfig, check_params
from ...params import Params
from ..axes import TIME, index_name
from ..limits import UNITS
from ..patterns import patterns, rounded
from .closeness import Closeness, narrowest
from .diff_facts import Diff, Later, NotFinite, Parted, some
from .naming import Naming
from .not_finite import both_not_finite, describe
from .redo import Redo
from .step import Step
from .tensor_layout import axis_sizes, elementary, match_names, to_our_layout
from .trace_file import Trace
from .trace_steps import all_steps

GROWTH = 16.0  # a step may make rounding errors so many times larger, where it cannot be redone


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
        self.pairs: dict[str, Array] = {}  # their tensors in our layout
        for name, other in self.match.names.items():
            turned = to_our_layout(theirs[other], ours[name], ours.axes[name], self.sizes)
            if turned is not None:
                self.pairs[name] = turned[0]
                if turned[1]:
                    self.layouts[name] = turned[1]
        self.weightless = params is None
        self.our_redo: Redo | None = None  # our steps on our own tensors
        self.redo = Redo(self.make_steps(params), self.their_values())
        dtype = narrowest([ours, theirs], self.match)
        self.close = Closeness(ours, dtype, self.sizes, self.redo, rtol)
        self.naming = Naming(self.redo, self.close, self.pairs)

    def make_steps(self, params: Params | None) -> dict[str, list[Step]]:
        """Return our steps, as many as the config and the weights allow.

        Raises:
            ValueError: our trace does not fit together, or the weights are those of another model.
        """
        if self.ours.config is None or "input_ids" not in self.ours:
            return {}
        try:
            config = QwenConfig.from_dict(self.ours.config)
        except (TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"the config of our trace cannot be read: {error}") from None
        ids, mask = self.ours["input_ids"], self.ours.tensors.get("attention_mask")
        past = mask is not None and mask.ndim == 2 and mask.shape[1:] != ids.shape[1:]
        if past or any(name.startswith("call1.") for name in self.ours):
            self.notes.append("a KV cache was in use, so steps are not done again")
            return {}
        require_inputs(self.ours, config)
        if params is not None:
            check_params(params, config, where="the weights")
        positions = self.ours.tensors.get("positions")
        if positions is None:  # a trace made by others
            positions = default_positions(mask, 0, ids.shape[1])
        segments = self.ours.tensors.get("segments")
        return all_steps(config, params or {}, ids, positions, mask, segments)

    def their_values(self) -> dict[str, Array]:
        """Return their tensors in float64, whole numbers as they are; ids are ours if they lack."""
        have = {
            n: x if x.dtype.kind in "iub" else x.astype(np.float64) for n, x in self.pairs.items()
        }
        if "input_ids" in self.ours:
            have.setdefault("input_ids", self.ours["input_ids"])
        return have

    def walk(self) -> Diff:
        """Compare all pairs in the order of the computation."""
        order = [name for name in self.ours if name in self.match.names]
        right: list[str] = []
        largest, largest_name, carried = 0.0, "", 0.0
        not_finite: NotFinite | None = None
        parted: Parted | None = None
        later: list[Later] = []
        inherited: list[str] = []
        unclear: list[str] = []
        for name in order:
            if name not in self.pairs:
                if parted is None:
                    parted = self.other_shape(name)
                else:
                    unclear.append(name)
                continue
            if not_finite is None:
                not_finite = self.not_finite(name, order)
            theirs = self.pairs[name]
            off = self.close.off(name, theirs, self.ours[name])
            units, allowed = self.close.units(off), self.close.allowed(name)
            if units > allowed:
                ours = self.redo.predict(name)
                again = self.close.units(self.close.off(name, theirs, ours))
                if ours is not None and again <= allowed:
                    if parted is None and not self.follows(name, allowed):
                        parted = self.does_not_follow(name)
                        continue
                    inherited.append(name)
                    carried = carried if parted else max(carried, units)
                    continue
                known = ours is not None
                if parted is not None and known:
                    later.append(Later(name, self.naming.fits(name, allowed)))
                    continue
                if parted is not None:
                    unclear.append(name)
                    continue
                if known or self.rtol is not None or units > GROWTH * carried:
                    parted = self.describe(name, off, allowed, known)
                    continue
            if parted is None:
                carried = max(carried, units)
                if not_finite is None:
                    right.append(name)
                    if units >= largest:
                        largest, largest_name = units, name
        if parted is not None and self.weightless:
            self.notes.append("steps with weights could not be done again: give --weights FOLDER")
        return Diff(
            self.match,
            order,
            self.close.dtype,
            right,
            largest,
            largest_name,
            not_finite,
            parted,
            later,
            inherited,
            unclear,
            self.layouts,
            self.notes + self.naming.notes,
        )

    def follows(self, name: str, allowed: float) -> bool:
        """Say whether our tensor is what our step gives from our own inputs."""
        if self.our_redo is None:
            wide = {
                n: x if x.dtype.kind in "iub" else x.astype(np.float64)
                for n, x in self.ours.tensors.items()
            }
            self.our_redo = Redo(self.redo.steps, wide)
        want = self.our_redo.predict(name)
        return (
            want is None or self.close.units(self.close.off(name, self.ours[name], want)) <= allowed
        )

    def does_not_follow(self, name: str) -> Parted:
        """Report a tensor of ours that is not made of ours, where theirs is."""
        other = self.match.names[name]
        says = (
            "theirs is what our step gives from its inputs, ours is not: the file of ours was "
            "changed, or made with other weights or by another version"
        )
        return Parted(name, other, self.ours[name].shape, self.theirs[other].shape, says)

    def not_finite(self, name: str, order: Sequence[str]) -> NotFinite | None:
        """Report a tensor where both have NaN or infinity at the same places, else None."""
        holes = self.holes(name)
        if not holes.any():
            return None
        behind = [n for n in order[order.index(name) + 1 :] if n in self.pairs]
        too = sum(bool(self.holes(n).any()) for n in behind)
        letters, lengths = self.cut(name)
        theirs, holes = (x.reshape(lengths) for x in (self.pairs[name], holes))
        other = self.match.names[name]
        return describe(name, other, theirs, holes, letters, self.redo, (len(behind), too))

    def holes(self, name: str) -> Array:
        """Return where both have a number that is not finite."""
        theirs = self.pairs[name]
        real = self.close.real_entries(name, theirs)
        return both_not_finite(self.ours[name], theirs, real)

    def cut(self, name: str) -> tuple[list[str], list[int]]:
        """Return letters and lengths of our tensor's axes, joined ones cut."""
        return elementary(self.ours[name].shape, self.ours.axes[name], self.sizes)

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

    def describe(self, name: str, off: Array, allowed: float, known: bool) -> Parted:
        """Report the first tensor that parts."""
        other, ours, theirs = self.match.names[name], self.ours[name], self.pairs[name]
        close = allowed * UNITS[self.close.dtype]
        letters, lengths = self.cut(name)
        wrong = (off > close).reshape(lengths)
        order = sorted(range(len(lengths)), key=lambda i: (letters[i] not in TIME, i))
        first = np.argwhere(wrong.transpose(order))[0]
        spot = tuple(int(first[order.index(i)]) for i in range(len(lengths)))
        words = ", ".join(
            f"{index_name(a, i)} {n}" for i, (a, n) in enumerate(zip(letters, spot, strict=True))
        )
        fits = self.naming.fits(name, allowed, two=True) if known else ()
        # what the step should have given: from their inputs, if it could be done again
        want = self.redo.predict(name) if known else None
        told = self.told(name, ours if want is None else want, theirs, close)
        if not fits:
            if not told:
                told = self.elsewhere(name, theirs, close)
            told += rounded(theirs, ours)
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
            self.close.units(off),
            int(wrong.sum()),
            int(wrong.size),
            tuple(told),
            self.redo.inputs(name),
            known,
            fits,
        )

    def told(self, name: str, ours: Array, theirs: Array, close: float) -> list[str]:
        """Return the pattern of a difference; entries of padding are taken as equal."""
        letters, lengths = self.cut(name)
        wrong = self.close.off(name, theirs, ours) > close
        theirs, whole = theirs.astype(np.float64), ours.dtype.kind in "iub"
        ours = ours.astype(np.float64)
        real = self.close.real_entries(name, ours)
        if real is not None:
            theirs = np.where(real, theirs, ours)
        scale = float(np.abs(ours[np.isfinite(ours)]).max(initial=0.0)) or 1.0
        sizes = dict(self.sizes)
        if "input_ids" in self.ours:
            sizes["T"] = self.ours["input_ids"].shape[-1]
        got, want, wrong = (x.reshape(lengths) for x in (theirs, ours, wrong))
        return patterns(got, want, wrong, letters, close * scale, sizes, whole)

    def elsewhere(self, name: str, theirs: Array, close: float) -> list[str]:
        """Say so when theirs is another tensor of ours."""
        for other in self.ours:
            ours = self.ours[other]
            if other != name and ours.shape == theirs.shape and ours.dtype.kind == "f":
                scale = float(np.abs(ours).max(initial=0.0)) or 1.0
                if np.abs(ours.astype(np.float64) - theirs).max() <= close * scale:
                    return [f"it is our {other}"]
        return []


def require_inputs(ours: Trace, config: QwenConfig) -> None:
    """Raise ValueError unless ids, positions and masks of our trace fit together."""
    ids = ours["input_ids"]
    if ids.ndim != 2 or ids.dtype.kind not in "iu":
        raise ValueError(f"our input_ids must be integers (B, T), got {ids.dtype} {ids.shape}")
    if ids.size and not 0 <= ids.min() <= ids.max() < config.vocab_size:
        raise ValueError(
            f"our input_ids must be in [0, V={config.vocab_size}), "
            f"got values from {ids.min()} to {ids.max()}"
        )
    for name, kinds, shapes in (
        ("positions", "iu", (ids.shape, ids.shape[1:])),
        ("attention_mask", "b", (ids.shape,)),
        ("segments", "iu", (ids.shape,)),
    ):
        x = ours.tensors.get(name)
        if x is not None and (x.dtype.kind not in kinds or x.shape not in shapes):
            need = "true or false" if kinds == "b" else "integers"
            where = " or ".join(map(str, shapes))
            raise ValueError(f"our {name} must be {need} {where}, got {x.dtype} {x.shape}")


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
        ValueError: `names` names a tensor that is not there, nothing can be compared, our trace
            does not fit together, or the weights do not fit it.
    """
    comparison = Comparison(ours, theirs, params, names, rtol)
    if not comparison.match.names:
        raise ValueError(
            "the two have no name in common: give --map with a JSON object {our name: their name}; "
            f"ours are {some(list(ours))}; theirs are {some(list(theirs))}"
        )
    return comparison.walk()
