"""NaN and infinity that two traces share: where they begin, and what usually makes them.

Two tensors with NaN at the same places are equal, and say nothing: what computed them may differ in
any way, and so may everything that is made of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...backend import Array
from ..axes import index_name
from .diff_facts import NotFinite
from .redo import Redo, place_of

HALF = "numbers above 65504, the largest of float16"
CAUSES = {  # ending of a name -> what usually makes NaN or infinity there
    "probs": (
        "a row without a visible key, whose softmax is 0 / 0",
        f"scores that overflow in half precision ({HALF})",
        "a mask that is multiplied with -inf, or two masks of the lowest number added",
    ),
    "norm": (
        "squares that overflow in half precision (256 times 256 in float16)",
        "eps 0 and a row of zeros",
    ),
    "hidden": ("exp that overflows in the activation", f"a product that overflows: {HALF}"),
    "experts": ("weights that are divided by their sum, which is 0", f"an overflow: {HALF}"),
    "loss": (
        "the log of 0, a probability that was rounded away",
        "no label that counts, 0 / 0",
        "logits that overflow in exp",
    ),
    "grad": (
        "a loss scale that is too large for half precision",
        "0 times infinity on the way back, behind a mask or a root of 0",
    ),
    "": (f"an overflow in half precision ({HALF})", "a weight that is not finite itself"),
}  # fmt: skip
ALSO = {
    **{"attention": "probs", "logits": "", "input_layernorm": "norm", "q_norm": "norm"},
    **{"post_attention_layernorm": "norm", "k_norm": "norm", "expert_weights": "experts"},
}


def both_not_finite(ours: Array, theirs: Array, real: Array | None) -> Array:
    """Return where both have a number that is not finite; padding does not count.

    >>> both_not_finite(np.array([np.nan, 1.0]), np.array([np.nan, np.nan]), None).tolist()
    [True, False]
    """
    if ours.shape != theirs.shape or "b" in (ours.dtype.kind, theirs.dtype.kind):
        return np.zeros(ours.shape, bool)
    holes = ~np.isfinite(ours.astype(np.float64)) & ~np.isfinite(theirs.astype(np.float64))
    return holes if real is None else holes & real


def describe(
    name: str,
    theirs_name: str,
    theirs: Array,
    holes: Array,
    letters: Sequence[str],
    redo: Redo,
    behind: tuple[int, int],
) -> NotFinite:
    """Say how many there are, in which rows, and why.

    Args:
        name: of ours.
        theirs_name: what they call it.
        theirs: their tensor in our layout, axes cut as in `letters`.
        holes: where both are not finite; the same shape.
        letters: of the axes.
        redo: our steps, to look at what goes into this one.
        behind: tensors compared after it, and how many of them have such numbers too.
    """
    rows = row_axes(letters, holes.ndim)
    others = tuple(i for i in range(holes.ndim) if i not in rows)
    of_rows: Array = np.asarray(holes.any(axis=others))
    called = [letters[i] for i in rows]
    places = tuple(
        ", ".join(f"{index_name(a, i)} {n}" for i, a, n in zip(rows, called, place, strict=True))
        for place in np.argwhere(of_rows).tolist()
    )
    first = np.argwhere(np.moveaxis(holes, rows, range(len(rows))))[0].tolist()
    order = [*rows, *others]
    spot = sorted(zip(order, first, strict=True))
    where = ", ".join(f"{index_name(letters[i], i)} {n}" for i, n in spot)
    nan = int((holes & np.isnan(theirs.astype(np.float64))).sum())
    total = int(holes.sum())
    return NotFinite(
        name,
        theirs_name,
        nan,
        total - nan,
        holes.size,
        where or "the number itself",
        places if rows else (),
        of_rows.size,
        seen(name, holes, redo),
        causes(name),
        *behind,
    )


def row_axes(letters: Sequence[str], ndim: int) -> list[int]:
    """Return the axes that number the tokens, or the first one.

    >>> row_axes(["B", "H", "T", "Dh"], 4), row_axes(["N", "E"], 2), row_axes(["", ""], 2)
    ([0, 2], [0], [0])
    """
    tokens = [i for i, letter in enumerate(letters) if letter in ("B", "T", "N")]
    return tokens or list(range(min(ndim, 1)))


def seen(name: str, holes: Array, redo: Redo) -> str:
    """Return the reason as a sentence, where it can be seen; else ""."""
    step = redo.step(name)
    if step is None:
        return ""
    for one in redo.inputs(name):
        if not np.isfinite(redo.have[one].astype(np.float64)).all():
            return f"{one}, from which it is made, has them already in theirs"
    model = step.facts.get("model")
    if step.weight and model is not None:
        for weight in (step.weight, step.weight.removesuffix("weight") + "bias"):
            values = model.params.get(weight)
            if values is not None and not np.isfinite(values.astype(np.float64)).all():
                return f"{weight} has them itself"
    ours = redo.predict(name)
    if ours is not None and np.isfinite(ours.reshape(holes.shape)[holes]).all():
        return "from the same inputs, in float64, our step gives finite numbers: it is this step"
    return ""


def causes(name: str) -> tuple[str, ...]:
    """Return what usually makes such numbers in a tensor of this name.

    >>> causes("model.layers.3.self_attn.probs")[0]
    'a row without a visible key, whose softmax is 0 / 0'
    """
    if name.startswith("grad."):
        return CAUSES["grad"]
    last = place_of(name).rpartition(".")[2]
    key = ALSO.get(last, last)
    return CAUSES.get(key, CAUSES[""])
