"""What `minqwen diff` prints: first what is right, then where the two part, why, and the rest."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence, Sized
from functools import partial

from .diff_facts import Diff, Fit, Later, NotFinite, Parted, some
from .redo import LAYER

INDENT = " " * 8


def text(diff: Diff, width: int = 100) -> str:
    """Return the report, its long lines wrapped."""
    wrap = partial(
        textwrap.wrap,
        width=width,
        subsequent_indent=INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(part for line in lines(diff) for part in wrap(line))


def lines(diff: Diff) -> Iterator[str]:
    """Yield the lines of the report."""
    yield f"{count(diff.order)} in common, in the order of the computation, as {diff.dtype}"
    if diff.match.unknown:
        yield f"{INDENT}no name of ours: {some(diff.match.unknown)} (--map says which is which)"
    if diff.layouts:
        first, layout = next(iter(diff.layouts.items()))
        yield f"{INDENT}{count(diff.layouts)} laid out otherwise, and read so: {first} as {layout}"
    if diff.right:
        all_of_it = diff.ok and diff.not_finite is None
        upto = "" if all_of_it else f", up to {diff.right[-1]}"
        if diff.largest:
            size = f"at most {number(diff.largest)} units of rounding apart"
        else:
            size = "equal to the last bit"
        yield f"right   {count(diff.right)}{upto}: {size}"
    if diff.not_finite is not None:
        yield from not_finite_lines(diff.not_finite)
    if diff.parted is None:
        if diff.inherited:
            n = len(diff.inherited)
            yield f"{INDENT}{n} more carry rounding on: each is right for their own inputs"
        but = f"; from {diff.not_finite.name} on this means nothing" if diff.not_finite else ""
        yield f"no difference{but}"
    else:
        yield from parted_lines(diff.parted)
        yield from rest_lines(diff)
    for note in diff.notes:
        yield f"note    {note}"


def not_finite_lines(found: NotFinite) -> Iterator[str]:
    """Yield what is to be said about the first tensor in which both have NaN or infinity."""
    theirs = "" if found.theirs_name == found.name else f"   (theirs: {found.theirs_name})"
    kinds = [f"{n:,} {what}" for n, what in ((found.nan, "NaN"), (found.infinite, "infinite")) if n]
    yield f"NaN     {found.name}{theirs}"
    yield (
        f"{INDENT}both have {' and '.join(kinds)} of {found.total:,} numbers, at the same places; "
        f"the first at {found.where}"
    )
    if found.rows:
        n = len(found.rows)
        which = f"all {n} rows" if n == found.rows_total > 1 else some(found.rows)
        yield f"{INDENT}rows: {which}" + (
            "" if n == found.rows_total else f" (of {found.rows_total})"
        )
    have = "has" if found.behind_too == 1 else "have"
    yield (
        f"{INDENT}from here on agreement means nothing: such numbers hide every difference; "
        f"of {count_word(found.behind)} behind it {found.behind_too} {have} them too"
    )
    if found.known:
        yield f"{INDENT}seen: {found.known}"
    yield f"{INDENT}likely: {'; '.join(found.likely)}"


def parted_lines(parted: Parted) -> Iterator[str]:
    """Yield what is to be said about the tensor that parts."""
    theirs = "" if parted.theirs_name == parted.name else f"   (theirs: {parted.theirs_name})"
    yield f"PARTS   {parted.name}{theirs}"
    if parted.problem:
        yield INDENT + parted.problem
        return
    yield (
        f"{INDENT}first at {parted.where or 'the number itself'}: "
        f"ours {parted.ours:.6g}, theirs {parted.theirs:.6g}"
    )
    share = 100 * parted.wrong // parted.total
    off = f"{share} %" if share else f"{parted.wrong:,} of {parted.total:,}"
    if parted.error < float("inf"):
        size = f"{number(parted.error)} of the scale, {number(parted.units)} units of rounding"
        yield f"{INDENT}largest error {size}; {off} of the entries"
    else:
        yield f"{INDENT}{off} of the entries"
    for told in parted.patterns[:3]:
        yield INDENT + told
    if parted.fits:
        yield from fit_lines(parted)
    elif parted.redone:
        yield f"{INDENT}its inputs agree ({ends(parted.inputs)}), so this step itself is different;"
        yield f"{INDENT}no mistake that we know gives these numbers, so no guess is made"


def fit_lines(parted: Parted) -> Iterator[str]:
    """Yield the diagnosis."""
    best = parted.fits[0]
    heading = "other convention" if best.kind == "convention" else "looks exactly like"
    yield f"{heading}: {best.name}"
    yield INDENT + sentence(best)
    this = "this change" if len(best.names) == 1 else "both changes"
    step = f"step with {this} gives"
    if best.steps:
        step = f"steps with {this} in {', '.join(best.steps)} give"
    yield (
        f"{INDENT}From their {ends(parted.inputs)}, our {step} their numbers, "
        f"to {number(best.units)} units."
    )
    if best.hint:
        yield f"{INDENT}Hint: {best.hint}"
    for other in parted.fits[1:3]:
        yield f"{INDENT}or {other.name}: {sentence(other)}"
    if len(parted.fits) > 3:
        yield f"{INDENT}or {len(parted.fits) - 3} more that give the same numbers here"


def rest_lines(diff: Diff) -> Iterator[str]:
    """Yield what becomes of the tensors behind."""
    groups: dict[str, list[Later]] = {}
    for one in diff.later:
        groups.setdefault(one.fits[0].name if one.fits else "", []).append(one)
    first = diff.parted.fits[0].name if diff.parted and diff.parted.fits else None
    head = "after"
    for name, group in groups.items():
        places = where([one.name for one in group])
        if name and name == first:
            says = f"the same at {places}"
        elif name:
            says = f"also {name} at {places}: {group[0].fits[0].says}"
        else:
            says = f"different by themselves too, for no reason that we know: {places}"
        yield f"{head:<8}{says}"
        head = ""
    if diff.inherited:
        n = len(diff.inherited)
        more = "1 more differs" if n == 1 else f"{n} more differ"
        says = f"{more} only because of this: from their own inputs our steps give the same"
        yield f"{head:<8}{says}"
        head = ""
    if diff.unclear:
        n = len(diff.unclear)
        which = some(diff.unclear, 2)
        yield f"{head:<8}{n} more differ; whether by themselves is not known ({which})"


def where(names: Sequence[str]) -> str:
    """Put the layers of the same tensor together.

    >>> where(["model.layers.0.k_rope", "model.layers.1.q_rope", "model.layers.2.q_rope"])
    'k_rope of layer 0, q_rope of layers 1 and 2'
    """
    kinds: dict[str, list[int]] = {}
    plain = []
    for name in names:
        found = LAYER.search(name)
        if found is None:
            plain.append(name)
        else:
            kinds.setdefault(name[found.end() :] or "the block", []).append(int(found.group(1)))
    if len(kinds) > 6:
        layers = sorted({layer for found in kinds.values() for layer in found})
        count = sum(len(found) for found in kinds.values())
        parts = [f"{count} tensors of {in_layers(layers)}"]
    else:
        parts = [f"{kind} of {in_layers(layers)}" for kind, layers in kinds.items()]
    return some(parts + plain, 6)


def in_layers(layers: Sequence[int]) -> str:
    """Name layers.

    >>> in_layers([0]), in_layers([0, 2]), in_layers([1, 2, 3, 4])
    ('layer 0', 'layers 0 and 2', 'layers 1 to 4')
    """
    if len(layers) == 1:
        return f"layer {layers[0]}"
    if len(layers) > 3 and list(layers) == list(range(layers[0], layers[-1] + 1)):
        return f"layers {layers[0]} to {layers[-1]}"
    return f"layers {', '.join(map(str, layers[:-1]))} and {layers[-1]}"


def sentence(fit: Fit) -> str:
    """Return what a fit says, with a capital letter, unless it begins with a name of the code."""
    first = fit.says.partition(" ")[0]
    if first == "eps" or "." in first or "_" in first:
        return fit.says
    return fit.says[:1].upper() + fit.says[1:]


def ends(names: Sequence[str]) -> str:
    """Return names without their layer.

    >>> ends(("model.layers.0.self_attn.q_proj", "input_ids"))
    'q_proj, input_ids'
    """
    return ", ".join(dict.fromkeys(short(name) for name in names)) or "inputs"


def short(name: str) -> str:
    """Return a name without the parts before its last; a block is called by its number."""
    last = name.rpartition(".")[2]
    return f"layer {last}" if last.isdigit() else last


def count(things: Sized) -> str:
    """Count tensors.

    >>> count(["logits"]), count([])
    ('1 tensor', '0 tensors')
    """
    return count_word(len(things))


def count_word(n: int) -> str:
    """Count tensors, by their number."""
    return f"{n} tensor{'' if n == 1 else 's'}"


def number(x: float) -> str:
    """Return a size in two digits.

    >>> number(0.81), number(16777216.0), number(130.0), number(1.234)
    ('0.81', '1.7e+07', '130', '1.2')
    """
    return f"{x:.0f}" if 100 <= x < 10000 else f"{x:.2g}"
