"""The museum of mistakes: what each known mistake does to the numbers of an example."""

from __future__ import annotations

import difflib
import importlib
from typing import Any, NamedTuple

import numpy as np

from ...backend import Array
from ..edited import Edit, edited_module, edited_text, source_of
from ..spec import Arguments, Mistake, Spec
from ..specs import names as spec_names
from ..specs import spec as spec_of
from .subject import Answers, Subject, float_arrays, size_of, subject, upstream_of

SEEN = 1e-9  # of the scale: what counts as another number
BEST = 0.1  # of the scale: an example shows a mistake well from here on


class Effect(NamedTuple):
    """What a mistake does to some numbers."""

    changed: int  # entries
    total: int
    largest: float  # difference; inf for NaN, infinity or another shape
    scale: float  # the largest right number
    kind: str  # "", "whole", "another shape", "NaN or infinity", or the error it stops with

    @property
    def share(self) -> float:
        """The largest difference over the scale, at most 1."""
        return min(1.0, self.largest / self.scale) if self.scale else float(self.largest > 0)


class Shown(NamedTuple):
    """One mistake, on the example that shows it best."""

    mistake: Mistake
    side: str  # "forward" or "backward"
    file: str
    line: int
    minus: tuple[str, ...]  # our lines
    plus: tuple[str, ...]  # the changed lines
    example: str  # "three tokens", or the name of the probe
    about: str  # what the probe is for
    arguments: Arguments
    right: Answers
    wrong: Answers
    effects: dict[str, Effect]


class Listed(NamedTuple):
    """One mistake in the museum."""

    mistake: Mistake
    side: str
    effects: dict[str, Effect]  # on the three tokens, those of changed outputs
    probe: str  # one that shows it, where the three tokens do not


def museum(it: Subject, outputs: Answers, upstream: Answers) -> list[Listed]:
    """Return every known mistake of a concept, with what it does to the example."""
    if it.spec is None:
        return []
    result = []
    for side in ("forward", "backward"):
        if not getattr(it.spec, side):
            continue
        right = answers(it.spec, None, side, it.arguments, tuple(upstream.values()))
        for mistake in getattr(it.spec, side):
            effects = effects_of(it.spec, mistake, side, it.arguments, upstream, right)
            probe = ""
            if not effects:
                probe = next((p for p, e in on_probes(it.spec, mistake, side) if e), "")
            result.append(Listed(mistake, side, effects, probe))
    return result


def answers(
    spec: Spec, mistake: Mistake | None, side: str, arguments: Arguments, dy: tuple[Array, ...]
) -> Answers:
    """Return the outputs or the gradients of our file, or of its copy with a mistake."""
    module: Any = importlib.import_module(spec.module)
    if mistake is not None:
        edit = Edit(mistake.module or spec.module, mistake.find, mistake.put)
        module = edited_module(spec.module, [edit])
    own = {n: x.copy() if isinstance(x, np.ndarray) else x for n, x in arguments.items()}
    with np.errstate(all="ignore"):
        if side == "forward":
            raw = spec.run(module, own)
            return dict(zip(spec.outputs, map(np.asarray, raw), strict=True))
        assert spec.pull is not None
        return {f"d{name}": g for name, g in spec.pull(module, own, dy).items() if g is not None}


def effects_of(
    spec: Spec,
    mistake: Mistake,
    side: str,
    arguments: Arguments,
    upstream: Answers,
    right: Answers,
) -> dict[str, Effect]:
    """Return what a mistake changes, by output or gradient; those that it changes only."""
    try:
        wrong = answers(spec, mistake, side, arguments, tuple(upstream.values()))
    except Exception as error:  # what a changed line does may be anything
        kind = type(error).__name__
        return {n: Effect(a.size, a.size, np.inf, 1.0, kind) for n, a in right.items()}
    found = {name: effect(right[name], wrong[name]) for name in right if name in wrong}
    return {name: e for name, e in found.items() if e.changed}


def effect(right: Array, wrong: Array) -> Effect:
    """Compare two arrays.

    >>> effect(np.array([1.0, 4.0]), np.array([1.0, 2.0]))
    Effect(changed=1, total=2, largest=2.0, scale=4.0, kind='')
    """
    whole = right.dtype.kind in "iub"
    right, wrong = np.asarray(right, np.float64), np.asarray(wrong, np.float64)
    scale = float(np.abs(right[np.isfinite(right)]).max(initial=0.0))
    if right.shape != wrong.shape:
        return Effect(right.size, right.size, np.inf, scale, "another shape")
    with np.errstate(all="ignore"):
        off = np.abs(wrong - right)
    off = np.where((wrong == right) | (np.isnan(wrong) & np.isnan(right)), 0.0, off)
    off = np.where(np.isnan(off), np.inf, off)
    changed, largest = off > SEEN * (scale or 1.0), float(off.max(initial=0.0))
    kind = "whole" if whole else "NaN or infinity" if largest == np.inf else ""
    return Effect(int(changed.sum()), right.size, largest, scale, kind)


def on_probes(
    spec: Spec, mistake: Mistake, side: str, seed: int = 0
) -> list[tuple[str, dict[str, Effect]]]:
    """Return what a mistake changes on each probe of the bank, by the name of the probe."""
    result = []
    for i, probe in enumerate(spec.probes):
        if side == "backward" and not probe.gradient:
            continue
        arguments, upstream = on_probe(spec, i, seed)
        right = answers(spec, None, side, arguments, tuple(upstream.values()))
        found = effects_of(spec, mistake, side, arguments, upstream, right)
        result.append((probe.name, found))
    return result


def on_probe(spec: Spec, i: int, seed: int) -> tuple[Arguments, Answers]:
    """Return the arguments of a probe, as the checker draws them, and a gradient per output."""
    arguments = spec.probes[i].make(np.random.default_rng([seed, i]))
    outputs = answers(spec, None, "forward", arguments, ())
    rng = np.random.default_rng([seed, i, 5])
    upstream = {
        name: np.zeros(y.shape) if name in spec.exact else np.asarray(rng.standard_normal(y.shape))
        for name, y in outputs.items()
    }
    return arguments, upstream


def mistakes_named(name: str) -> tuple[Spec, list[tuple[str, Mistake]]]:
    """Return the spec, and the side and the mistake of every one called CONCEPT.MISTAKE.

    Raises:
        ValueError: the concept or the mistake is not in the bank; the message lists what is.

    >>> [side for side, _ in mistakes_named("rmsnorm.sum_for_mean")[1]]
    ['forward', 'backward']
    """
    concept, _, called = name.partition(".")
    if concept not in spec_names():
        known = ", ".join(spec_names())
        raise ValueError(f"no mistakes are known of {concept!r}; there are those of {known}")
    spec = spec_of(concept)
    every = [(side, m) for side in ("forward", "backward") for m in getattr(spec, side)]
    found = [(side, mistake) for side, mistake in every if mistake.name == called]
    if not found:
        listed = ", ".join(dict.fromkeys(mistake.name for _, mistake in every))
        raise ValueError(f"no mistake {called!r} of {concept}; there are {listed}")
    return spec, found


def explain_mistake(name: str, seed: int = 0) -> list[Shown]:
    """Show a known mistake: its line, and its numbers on the example that shows it best.

    Args:
        name: "CONCEPT.MISTAKE", as the checker prints it.
        seed: of the numbers.

    Returns:
        One, or two where forward and backward have a mistake of the same name.

    Raises:
        ValueError: there is none of this name.

    >>> explain_mistake("rmsnorm.no_gain")[0].example
    'three tokens'
    """
    spec, found = mistakes_named(name)
    return [_shown(spec, side, mistake, seed) for side, mistake in found]


def _shown(spec: Spec, side: str, mistake: Mistake, seed: int) -> Shown:
    name, about, arguments, upstream = best_example(spec, side, mistake, seed)
    right = answers(spec, None, side, arguments, tuple(upstream.values()))
    effects = effects_of(spec, mistake, side, arguments, upstream, right)
    try:
        wrong = answers(spec, mistake, side, arguments, tuple(upstream.values()))
    except Exception:
        wrong = {}
    module = mistake.module or spec.module
    line, minus, plus = two_lines(module, mistake)
    return Shown(
        mistake,
        side,
        module.replace(".", "/") + ".py",
        line,
        minus,
        plus,
        name,
        about,
        arguments,
        {n: right[n] for n in effects},
        {n: wrong[n] for n in effects if n in wrong},
        effects,
    )


def best_example(
    spec: Spec, side: str, mistake: Mistake, seed: int
) -> tuple[str, str, Arguments, Answers]:
    """Return the example that shows a mistake best: the smallest that shows it well.

    Tried in this order: the three tokens, the same ones with the first array much smaller, larger
    or zero, then the inputs of the checker.

    Returns:
        Its name, what it is for, the arguments, and a gradient for each output.
    """
    it = subject(spec.name, seed)
    tried: list[tuple[float, str, str, Arguments, Answers]] = []

    def try_one(name: str, about: str, arguments: Arguments, upstream: Answers) -> bool:
        right = answers(spec, None, side, arguments, tuple(upstream.values()))
        effects = effects_of(spec, mistake, side, arguments, upstream, right)
        share = max((e.share for e in effects.values()), default=0.0)
        tried.append((share, name, about, arguments, upstream))
        return share >= BEST

    outputs = answers(spec, None, "forward", it.arguments, ())
    upstream = upstream_of(it, outputs, seed)
    if try_one("three tokens", "the example of the concept", it.arguments, upstream):
        return tried[-1][1:]
    for first in float_arrays(it.arguments)[:1]:
        for factor in (1e-3, 300.0, 0.0):
            scaled = {**it.arguments, first: it.arguments[first] * factor}
            about = f"the example of the concept with {first} times {factor:g}"
            if try_one(f"three tokens, {first} times {factor:g}", about, scaled, upstream):
                return tried[-1][1:]
    for i, probe in enumerate(spec.probes):
        if side == "forward" or probe.gradient:
            arguments, dy = on_probe(spec, i, seed)
            try_one(probe.name, probe.shows, arguments, dy)
    good = [one for one in tried if one[0] >= BEST]
    if good:
        return min(good, key=lambda one: size_of(one[3]))[1:]
    return max(tried, key=lambda one: one[0])[1:]


def two_lines(module: str, mistake: Mistake) -> tuple[int, tuple[str, ...], tuple[str, ...]]:
    """Return the number of the first changed line, our lines, and the changed ones."""
    text = source_of(module)
    changed = edited_text(text, [Edit(module, mistake.find, mistake.put)])
    assert changed is not None
    ours, theirs = text.splitlines(), changed.splitlines()
    parts = difflib.SequenceMatcher(None, ours, theirs, autojunk=False).get_opcodes()
    parts = [part for part in parts if part[0] != "equal"]
    first, last = parts[0], parts[-1]
    minus, plus = ours[first[1] : last[2]], theirs[first[3] : last[4]]
    indent = min((len(s) - len(s.lstrip()) for s in (*minus, *plus) if s.strip()), default=0)
    return (
        first[1] + 1,
        tuple(s[indent:].rstrip() for s in minus),
        tuple(s[indent:].rstrip() for s in plus),
    )
