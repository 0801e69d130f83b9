"""An explanation as text in 100 columns, or as plain data for JSON."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...backend import Array
from ..report import sentence
from ..spec import Arguments
from ..specs import spec as spec_of
from .explain import Explanation, Gradient
from .lines import PACKAGE, Step, described
from .mistakes_text import Effect, Listed, Shown
from .numbers import ROWS, WIDTH, beside, plain, table, wrapped, written
from .subject import Answers

SHORT = 6  # rows of an intermediate that are printed
MANY = 8  # arguments, of which two rows each are printed
PARTS = 4  # arrays of a tuple or dict that are printed
LONG = 300  # characters of anything else
EXACT = 6  # digits of a gradient


def heading(text: str) -> str:
    """Return a heading as wide as the page.

    >>> len(heading("The forward pass"))
    100
    """
    return f"-- {text} ".ljust(WIDTH, "-")


def text_of(e: Explanation) -> str:
    """Return the page about a concept."""
    return "\n".join(line.rstrip() for line in _lines(e)) + "\n"


def _lines(e: Explanation) -> Iterator[str]:
    it = e.subject
    yield f"{it.name}   {it.module.replace('.', '/')}.py"
    if e.equation:
        yield from wrapped(e.equation, indent="    ")
    if e.report:
        yield from wrapped(f"In the report: {e.report}", indent="    ")
    yield ""
    yield heading("What the file says")
    for line in e.text.docstring.rstrip().splitlines():
        yield from wrapped(line, more=" " * (len(line) - len(line.lstrip())))
    yield ""
    yield heading("The factors, on an example")
    if it.spec is not None and it.spec.notes:
        yield from wrapped(it.spec.notes, more="")
    known: Answers = {}
    for name, value in it.arguments.items():
        yield from factor(e, name, value)
        if isinstance(value, np.ndarray):
            known[name] = value
    yield ""
    yield heading("Forward, line by line")
    yield from steps(e, e.forward, known)
    for name, y in e.outputs.items():
        head = f"-> {signature(name, y, it.axes)}"
        if wide(y) and name in known and _equal(known[name], y):
            yield f"{head}: as before"
        elif not y.ndim:
            yield f"-> {name} = {written(y)}"
        else:
            yield head
            yield from block(y, it.axes.get(name, "..."))
    yield ""
    yield from gradient_lines(e, known)
    yield from museum_lines(e)


def signature(name: str, value: Any, axes: dict[str, str], says: str = "") -> str:
    """Return a name with its letters and sizes.

    >>> signature("x", np.zeros((3, 4)), {"x": "... D"})
    'x (..., D) = (3, 4)'
    """
    if not isinstance(value, np.ndarray):
        return name
    letters = axes.get(name)
    if letters is None:
        found = re.match(r"\(([^()]*)\)", says)
        letters = " ".join(found[1].replace(",", " ").split()) if found else None
    sizes = f"({', '.join(map(str, value.shape))}{',' * (value.ndim == 1)})"
    named = (letters or "").split()
    if not named or (len(named) != value.ndim and "..." not in named):
        return f"{name} {sizes}"
    return f"{name} ({', '.join(named)}{',' * (len(named) == 1)}) = {sizes}"


def factor(e: Explanation, name: str, value: Any) -> Iterator[str]:
    """Yield an argument: letters, sizes, what the file says of it, and its numbers."""
    says = e.says.get(name, "")
    head = signature(name, value, e.subject.axes, says)
    says = re.sub(r"^\([^()]*\)( or \([^()]*\))*[,:]? ?", "", says)
    line = head if wide(value) else f"{head} = {short(value)}"
    yield from wrapped(f"{line}{': ' + says if says else ''}")
    for part, array in arrays_in(name, value):
        if part != name:
            yield f"    {signature(part, array, {})}"
        few = len(e.subject.arguments) > MANY
        yield from block(array, e.subject.axes.get(part, "..."), 2 if few else ROWS)


def wide(value: Any) -> bool:
    """Say whether this is an array, and no single number."""
    return isinstance(value, np.ndarray) and value.ndim > 0


def arrays_in(name: str, value: Any) -> Iterator[tuple[str, Array]]:
    """Yield an array, or those of a tuple, list or dict, under their names.

    >>> [name for name, _ in arrays_in("grads", (np.zeros(2), np.zeros(3)))]
    ['grads[0]', 'grads[1]']
    """
    if wide(value):
        yield name, value
    elif isinstance(value, dict):
        for key, part in list(value.items())[:PARTS]:
            yield from arrays_in(f"{name}[{key!r}]", part)
    elif isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        for i, part in enumerate(value[:PARTS]):
            yield from arrays_in(f"{name}[{i}]", part)


def block(value: Array, axes: str = "...", rows: int = ROWS) -> Iterator[str]:
    """Yield the numbers of an array, indented."""
    for line in table(value, axes=axes, rows=rows):
        yield f"        {line}"


def short(value: Any) -> str:
    """Return something that is no array in one line.

    >>> short(0.5), short((1, 2)), short("ab")
    ('0.5', '(1, 2)', "'ab'")
    """
    if isinstance(value, bool | np.bool_) or value is None:
        return str(value)
    if isinstance(value, int | float | np.number):
        return written(value)
    if isinstance(value, np.dtype):
        return value.name
    if isinstance(value, np.ndarray) and not value.ndim:
        return written(value)
    if hasattr(value, "_fields"):
        return f"{type(value).__name__}({', '.join(value._fields)})"
    if isinstance(value, dict) and (len(value) > ROWS or holds_arrays(value.values())):
        last = next(reversed(value.items()))
        text = f"{len(value)} entries"
        return text if holds_arrays(value.values()) else f"{text}, the last {last[0]!r}: {last[1]}"
    if isinstance(value, list | tuple):
        if holds_arrays(value):
            return f"{len(value)} arrays"
        left, right = "()" if isinstance(value, tuple) else "[]"
        comma = "," if left == "(" and len(value) == 1 else ""
        text = left + ", ".join(map(short, value)) + comma + right
    else:
        text = repr(value)
    return text if len(text) <= LONG else text[: LONG - 3] + "..."


def holds_arrays(values: Iterable[Any]) -> bool:
    """Say whether there is an array among the values."""
    return any(wide(value) for value in values)


def steps(e: Explanation, lines: Sequence[Step], known: Answers) -> Iterator[str]:
    """Yield the lines of a pass, each with the numbers that it made."""
    function = ""
    for step in lines:
        if step.function != function:
            function = step.function
            yield f"{function}:"
        for line in step.code:
            yield from wrapped(line, indent="    ", more="        ")
        if step.times > 1:
            yield f"        (run {step.round} of {step.times})"
        single = {n: v for n, v in step.values.items() if not wide(v)}
        if single:
            text = ", ".join(f"{name} = {short(value)}" for name, value in single.items())
            yield from wrapped(text, indent="        ")
        written_there = re.search(r"# (\([^()]*\))", step.code[-1])
        fields = described(step.file).fields
        for whole, value in step.values.items():
            for name, array in arrays_in(whole, value):
                comment = fields.get(name, written_there[1] if written_there else "")
                yield from made(e, name, array, comment, seen_in(step, name, known))
                known[name] = array


def seen_in(step: Step, name: str, known: Answers) -> Answers:
    """Return what a line may have its numbers from: its names, or all, for a cache."""
    words = set(re.findall(r"\w+", " ".join(step.code))) | {name}
    return known if "cache" in words else {n: x for n, x in known.items() if n in words}


def made(e: Explanation, name: str, value: Array, comment: str, known: Answers) -> Iterator[str]:
    """Yield an array that a line made; no numbers where they were printed before."""
    head = signature(name, value, {}, comment)
    words = re.sub(r"^\([^()]*\)[,:]? ?", "", comment)
    twin = next((n for n, x in known.items() if _equal(x, value)), None)
    if twin is not None:
        same = "as before" if twin == name else f"the numbers of {twin}"
        yield from wrapped(f"{head}: {same}", indent="        ")
        return
    if words:
        head += f": {words}"
    yield from wrapped(head, indent="        ")
    found = re.match(r"\(([^()]*)\)", comment)
    axes = found[1].replace(",", " ") if found else e.subject.axes.get(name, "...")
    yield from (f"    {line}" for line in block(value, axes, SHORT))


def _equal(a: Array, b: Array) -> bool:
    return a.size == b.size and a.dtype.kind == b.dtype.kind and a.tobytes() == b.tobytes()


def gradient_lines(e: Explanation, known: Answers) -> Iterator[str]:
    """Yield the backward pass and the gradients beside the central differences.

    known: the arrays of the forward pass, by name; the backward pass adds its own.
    """
    it = e.subject
    if not e.gradients:
        yield "No gradient: nothing here is trained."
        yield ""
        return
    yield heading("Backward, line by line")
    yield "The gradient that arrives, one number per result, is"
    for name, dy in e.upstream.items():
        if name not in it.exact:
            if dy.ndim:
                yield f"d{signature(name, dy, it.axes)}"
                yield from block(dy, it.axes.get(name, "..."))
            else:
                yield f"d{name} = {written(dy)}"
            known[f"d{name}"] = dy
    yield from steps(e, e.backward, known)
    yield ""
    yield heading("Every gradient, and what central differences say")
    arrives = " + ".join(f"sum({n} * d{n})" for n in e.upstream if n not in it.exact)
    yield from wrapped(
        f"Left by hand, right (f(x + h) - f(x - h)) / 2h with f = {arrives}, for one entry of x "
        "after the other.",
        more="",
    )
    for gradient in e.gradients:
        yield from one_gradient(gradient, it.axes)
    worst = max(e.gradients, key=lambda g: g.error.error)
    yield from wrapped(
        f"Largest error of all: {worst.error.error:.1e} of the largest entry, in d{worst.name}."
    )
    yield ""


def one_gradient(gradient: Gradient, axes: dict[str, str]) -> Iterator[str]:
    """Yield one gradient, entry by entry beside its central difference."""
    name, error = gradient.name, gradient.error
    letters = axes.get(name, "...")
    where = "" if not error.place else f", at {list(error.place)}"
    head = signature(name, gradient.ours, axes)
    yield from wrapped(f"d{head}: largest error {error.error:.1e} of the largest entry{where}")
    ours, numerical = np.atleast_1d(gradient.ours), np.atleast_1d(gradient.numerical)
    scale = float(np.abs(numerical).max(initial=0.0)) or 1.0
    numerical = np.where(np.abs(numerical) < 1e-9 * scale, 0.0, numerical)  # 0 but for rounding
    yield from two_tables(ours, numerical, "by hand", "by central differences", letters, EXACT)


def two_tables(
    left: Array,
    right: Array,
    left_name: str,
    right_name: str,
    axes: str = "...",
    digits: int = 5,
    rows: int = ROWS,
    start: int = 0,
) -> Iterator[str]:
    """Yield two arrays of one shape: side by side where they fit, else one after the other."""
    if beside(left, right, digits):
        for line in table(left, right, axes=axes, digits=digits, rows=rows, start=start):
            yield f"        {line}"
        return
    for name, array in ((left_name, left), (right_name, right)):
        yield f"    {name}"
        for line in table(array, axes=axes, digits=digits, rows=min(rows, SHORT), start=start):
            yield f"        {line}"


def museum_lines(e: Explanation) -> Iterator[str]:
    """Yield the known mistakes, each with what it does to the example."""
    if not e.museum:
        return
    name = e.subject.name
    yield heading(f"Museum of mistakes: {len(e.museum)} that are known")
    yield from wrapped(
        f"Each is one line of our file changed. `minqwen explain {name}.MISTAKE` shows the line "
        "and the numbers; `minqwen check` names them.",
        more="",
    )
    for side in ("forward", "backward"):
        listed = [one for one in e.museum if one.side == side]
        if listed:
            yield f"{side}:"
        for one in listed:
            kind = "" if one.mistake.kind == "error" else f" [{one.mistake.kind}]"
            yield from wrapped(f"{one.mistake.name}{kind}: {one.mistake.says}", indent="  ")
            yield from wrapped(effect_text(one), indent="      ")


def effect_text(one: Listed) -> str:
    """Say what a mistake does to the example."""
    if one.effects:
        return "; ".join(f"{name}: {says(e)}" for name, e in one.effects.items())
    if one.probe:
        return f"does not show on these numbers; the checker's input {one.probe!r} shows it"
    return "does not show on these numbers, nor on the checker's inputs with this seed"


def says(effect: Effect) -> str:
    """Return an effect in words.

    >>> says(Effect(3, 12, 0.5, 2.0, ""))
    '3 of 12 numbers change, by up to 0.5 where the largest is 2'
    """
    count = f"{effect.changed} of {effect.total} numbers change"
    if effect.kind == "whole":
        return count
    if effect.kind in ("another shape", "NaN or infinity"):
        return f"{count}: {effect.kind}"
    if effect.kind:
        return f"stops with a {effect.kind}"
    largest, scale = written(effect.largest, 3), written(effect.scale, 3)
    return f"{count}, by up to {largest} where the largest is {scale}"


def mistake_text(shown: Sequence[Shown], concept: str) -> str:
    """Return the page about one known mistake, or about two of one name."""
    pages = ("\n".join(line.rstrip() for line in _mistake(one, concept)) for one in shown)
    return "\n\n".join(pages) + "\n"


def _mistake(one: Shown, concept: str) -> Iterator[str]:
    kind = {"error": "a mistake", "convention": "another convention", "numeric": "right on paper"}
    yield f"{concept}.{one.mistake.name}   {one.side}, {kind[one.mistake.kind]}"
    yield from wrapped(sentence(one.mistake.says, spec_of(concept)), indent="    ")
    yield ""
    yield heading(f"{one.file}, line {one.line}")
    for sign, lines in (("-", one.minus), ("+", one.plus)):
        for line in lines:
            yield from wrapped(f"{sign} {line}", indent="    ", more="      ")
    yield ""
    yield heading(f"The numbers of both: {one.example}")
    yield from wrapped(f"({one.about})")
    yield from inputs(one.arguments)
    for name, right in one.right.items():
        yield from wrapped(f"{name}: {says(one.effects[name])}")
        if name in one.wrong:
            yield from both(right, one.wrong[name])
    if not one.right:
        yield "No number changes on any input with this seed; try another."
    yield ""
    yield from wrapped(f"Hint: {one.mistake.hint}")


def inputs(arguments: Arguments) -> Iterator[str]:
    """Yield the inputs of an example; of large ones the sizes only."""
    for name, value in arguments.items():
        if not isinstance(value, np.ndarray):
            yield from wrapped(f"{name} = {short(value)}", indent="    ")
        elif value.size <= 24:
            yield f"    {signature(name, value, {})}"
            yield from block(value)
        else:
            size = written(float(np.sqrt(np.mean(np.square(value, dtype=float)))), 2)
            yield f"    {signature(name, value, {})}, of size {size}"


def both(right: Array, wrong: Array) -> Iterator[str]:
    """Yield right and wrong numbers side by side, from the first row that differs."""
    right, wrong = np.atleast_1d(right), np.atleast_1d(wrong)
    if right.shape != wrong.shape:
        yield f"    shape {right.shape}, with the mistake {wrong.shape}"
        return
    a, b = (x.reshape(-1, x.shape[-1]) for x in (right, wrong))
    with np.errstate(all="ignore"):
        differ = ~np.isclose(a, b, rtol=1e-9, atol=0, equal_nan=True).all(axis=-1)
    start = int(np.argmax(differ)) if differ.any() else 0
    digits = 9 if _alike(right, wrong) else 5
    if beside(right, wrong, digits):
        yield "    right, and with the mistake:"
    yield from two_tables(
        right, wrong, "right:", "with the mistake:", digits=digits, rows=SHORT, start=start
    )


def _alike(right: Array, wrong: Array) -> bool:
    """Say whether five digits would show no difference."""
    with np.errstate(all="ignore"):
        off = np.abs(np.asarray(right, float) - np.asarray(wrong, float))
    scale = np.abs(right).max(initial=0.0)
    return bool(np.nanmax(off, initial=0.0) < 1e-3 * scale)


def data_of(e: Explanation) -> dict[str, Any]:
    """Return an explanation as plain data."""
    it = e.subject
    return {
        "concept": it.name,
        "file": it.module.replace(".", "/") + ".py",
        "report": e.report,
        "equation": e.equation,
        "text": e.text.docstring,
        "arguments": [
            {
                "name": name,
                "axes": it.axes.get(name, ""),
                "shape": list(getattr(value, "shape", ())),
                "says": e.says.get(name, ""),
                "value": plain(value),
            }
            for name, value in it.arguments.items()
        ],
        "forward": [_step(step) for step in e.forward],
        "outputs": {name: plain(y) for name, y in e.outputs.items()},
        "upstream": {name: plain(dy) for name, dy in e.upstream.items() if name not in it.exact},
        "backward": [_step(step) for step in e.backward],
        "gradients": [
            {
                "name": g.name,
                "by_hand": plain(g.ours),
                "central_difference": plain(g.numerical),
                "largest_error": plain(g.error.error),
                "place": list(g.error.place),
            }
            for g in e.gradients
        ],
        "mistakes": [
            {
                "name": f"{it.name}.{one.mistake.name}",
                "side": one.side,
                "kind": one.mistake.kind,
                "says": one.mistake.says,
                "effects": plain(one.effects),
                "shown_by": one.probe,
            }
            for one in e.museum
        ],
    }


def _step(step: Step) -> dict[str, Any]:
    values = {name: plain(value) for name, value in step.values.items() if _simple(value)}
    return {
        "file": Path(step.file).relative_to(PACKAGE.parent).as_posix(),
        "function": step.function,
        "line": step.line,
        "code": "\n".join(step.code),
        "values": values,
        "run": step.round,
        "of": step.times,
    }


def _simple(value: Any) -> bool:
    """Say whether a value goes into JSON: no cache, configuration or other object."""
    plain_one = (np.ndarray, np.generic, str, int, float, bytes, list, tuple, dict)
    return isinstance(value, plain_one) and not hasattr(value, "_fields")


def mistake_data(shown: Sequence[Shown], concept: str) -> list[dict[str, Any]]:
    """Return the page about a mistake as plain data."""
    return [
        {
            "name": f"{concept}.{one.mistake.name}",
            "side": one.side,
            "kind": one.mistake.kind,
            "says": one.mistake.says,
            "hint": one.mistake.hint,
            "file": one.file,
            "line": one.line,
            "ours": list(one.minus),
            "changed": list(one.plus),
            "example": one.example,
            "arguments": plain(one.arguments),
            "right": plain(one.right),
            "wrong": plain(one.wrong),
            "effects": plain(one.effects),
        }
        for one in shown
    ]
