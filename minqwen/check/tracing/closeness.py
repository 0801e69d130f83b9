"""How far apart two tensors are, over the scale of ours, and how far they may be.

A tensor that several of our steps make of theirs may be off by what all of them round. Padding is
never compared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ...backend import Array
from ..limits import UNITS, limit
from .redo import Redo
from .tensor_layout import Match
from .trace_file import Trace

SIMPLE = ("embedding", "rmsnorm", "residual", "reshape")  # steps that round a few times only


class Closeness:
    """The measure of one comparison."""

    def __init__(
        self, ours: Trace, dtype: str, sizes: dict[str, int], redo: Redo, rtol: float | None
    ) -> None:
        self.ours, self.dtype, self.redo, self.rtol = ours, dtype, redo, rtol
        mask = ours.tensors.get("attention_mask")
        self.mask = None if mask is None or mask.ndim != 2 else mask.astype(bool)
        positions = ours.tensors.get("positions", np.arange(self.width()))
        self.farthest = float(np.max(positions, initial=0))
        # the longest sum, leaving out V, over which nothing is summed on the way to the logits
        self.terms = max(64, *(n for letter, n in sizes.items() if letter != "V"), 0)

    def width(self) -> int:
        """Return the number of tokens in a row."""
        return self.ours["input_ids"].shape[-1] if "input_ids" in self.ours else 0

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
                units += 4 * self.farthest
            if step.kind in ("probs", "attention"):  # exp turns a score's error into a share
                q, k = (self.redo.value(one) for one in step.inputs[:2])
                if q is not None and k is not None:
                    long = [float(np.sqrt((x * x).sum(axis=-1).max(initial=0.0))) for x in (q, k)]
                    more = 4 * math.prod(long) * q.shape[-1] ** -0.5
                    units += more if math.isfinite(more) else 0.0
        return units

    def off(self, name: str, theirs: Array, ours: Array | None) -> Array:
        """Return how far apart two tensors are, each entry over the scale of ours; padding is 0.

        Whole numbers are equal (0) or not (infinite), also where theirs come as floats.
        """
        if ours is None or ours.shape != theirs.shape:
            return np.full(theirs.shape, np.inf)
        if ours.dtype.kind in "iub":
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
        B = self.mask.shape[0]
        if letters[0] == "N":
            new = self.mask[:, -(len(like) // B) :]  # without what is in a KV cache
            return new.reshape(-1, *[1] * (like.ndim - 1))
        if letters[0] == "B" and "T" in letters:
            at = letters.index("T")
            shape = [1] * like.ndim
            shape[0], shape[at] = B, like.shape[at]
            return self.mask[:, -like.shape[at] :].reshape(shape)
        return None

    def units(self, off: Array) -> float:
        """Return the largest difference in units of rounding."""
        return float(off.max(initial=0.0)) / UNITS[self.dtype]


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
