"""Every file of the bank of mistakes: each edit applies, shows, and is told apart from the others.

What holds here for all concepts is what the checker relies on when it names a mistake. The copies
of our files run on float64 probes, as in `minqwen check`.
"""

import importlib
import pkgutil
import re
from functools import cache
from itertools import combinations

import numpy as np
import pytest

import minqwen.check.mistakes
from minqwen.check.edited import Edit, edited_module, source_of
from minqwen.check.spec import KINDS

NAMES = sorted(m.name for m in pkgutil.iter_modules(minqwen.check.mistakes.__path__))
SPECS = {
    name: importlib.import_module(f"{minqwen.check.mistakes.__name__}.{name}").SPEC
    for name in NAMES
}
SIDES = [(name, side) for name in NAMES for side in ("forward", "backward")]
SIDES = [(name, side) for name, side in SIDES if getattr(SPECS[name], side)]
SEEN = (
    1e-9  # of the scale of an output: far above rounding, which is 1e-14, and far below a mistake
)
SAME = 1e-11  # so close are two that count as one


def bank(name, side):
    return getattr(SPECS[name], side)


def probes(name, side):
    return [p for p in SPECS[name].probes if side == "forward" or p.gradient]


def copy_of(value):
    if isinstance(value, np.ndarray):
        return value.copy()
    return tuple(map(copy_of, value)) if isinstance(value, tuple) else value


def answer(spec, module, probe, side, seed=0):
    """Return the outputs, or the gradients for one random gradient of each output, by name."""
    arguments = probe.make(np.random.default_rng(seed))
    with np.errstate(all="ignore"):
        if side == "forward":
            outputs = spec.run(module, arguments)
            return dict(zip(spec.outputs, map(np.asarray, outputs), strict=True))
        return spec.pull(module, arguments, upstream(spec, arguments))


def upstream(spec, arguments):
    rng = np.random.default_rng(1)
    outputs = spec.run(importlib.import_module(spec.module), copy_of_all(arguments))
    return tuple(
        np.zeros(np.shape(y))
        if name in spec.exact
        else np.asarray(rng.standard_normal(np.shape(y)))
        for name, y in zip(spec.outputs, outputs, strict=True)
    )


def copy_of_all(arguments):
    return {name: copy_of(value) for name, value in arguments.items()}


@cache
def right_answers(name, side):
    spec = SPECS[name]
    module = importlib.import_module(spec.module)
    return [answer(spec, module, probe, side) for probe in probes(name, side)]


@cache
def wrong_answers(name, side):
    """Return the answers of every mistake to every probe, by its name; None where it raises."""
    spec = SPECS[name]
    answers = {}
    for mistake in bank(name, side):
        edit = Edit(mistake.module or spec.module, mistake.find, mistake.put)
        module = edited_module(spec.module, [edit])
        answers[mistake.name] = [
            answer_or_none(spec, module, probe, side) for probe in probes(name, side)
        ]
    return answers


def answer_or_none(spec, module, probe, side):
    """Return the answer; None where a mistake in the shapes meets our checks of shapes."""
    try:
        return answer(spec, module, probe, side)
    except ValueError:
        return None


def distance(one, other):
    """Return the largest difference of two answers, over the scale of the other; inf for shapes."""
    worst = 0.0
    for name, b in other.items():
        a, b = np.asarray(one[name]), np.asarray(b)
        if a.shape != b.shape:
            return np.inf
        if a.dtype.kind not in "fc" or b.dtype.kind not in "fc":
            worst = max(worst, np.inf if (a != b).any() else 0.0)
            continue
        if not np.array_equal(np.where(np.isfinite(a), 0, a), np.where(np.isfinite(b), 0, b), True):
            return np.inf
        finite = np.isfinite(b)
        scale = np.abs(b[finite]).max(initial=0.0) or 1.0
        worst = max(worst, np.abs(a[finite] - b[finite]).max(initial=0.0) / scale)
    return worst


def farthest(ones, others):
    """Return the largest distance: infinite where one raises, nothing where both do."""
    pairs = [pair for pair in zip(ones, others, strict=True) if pair != (None, None)]
    return max(np.inf if None in pair else distance(*pair) for pair in pairs)


@pytest.mark.parametrize("name", NAMES)
def test_probes_have_all_arguments_and_are_the_same_for_the_same_seed(name):
    spec = SPECS[name]
    assert spec.name == name
    assert not spec.probes[0].hard
    assert len({probe.name for probe in spec.probes}) == len(spec.probes)
    for probe in spec.probes:
        first, again = (probe.make(np.random.default_rng(3)) for _ in range(2))
        assert tuple(first) == tuple(again)
        assert sorted(first) == sorted(spec.arguments), probe.name
        for key in first:
            for a, b in zip(arrays(first[key]), arrays(again[key]), strict=True):
                np.testing.assert_array_equal(a, b)
                assert a.dtype.kind in "iubUO" or a.dtype == np.float64, (probe.name, key)
        assert len(probe.shows) > 5
        assert set(spec.defaults) <= set(spec.arguments)


def arrays(value):
    return list(map(np.asarray, value)) if isinstance(value, tuple) else [np.asarray(value)]


@pytest.mark.parametrize("name", NAMES)
def test_right_answers_are_finite_and_arguments_stay(name):
    spec = SPECS[name]
    module = importlib.import_module(spec.module)
    for probe, outputs in zip(spec.probes, right_answers(name, "forward"), strict=True):
        for key, y in outputs.items():
            assert y.dtype.kind != "f" or np.isfinite(y).all(), (probe.name, key)
            assert key in spec.axes or key in spec.exact, key
        arguments = probe.make(np.random.default_rng(0))
        kept = copy_of_all(arguments)
        spec.run(module, arguments)
        for key, old in kept.items():
            for a, b in zip(arrays(arguments[key]), arrays(old), strict=True):
                np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", [name for name in NAMES if SPECS[name].pull])
def test_gradients_of_the_spec_agree_with_differences(name):
    """One random direction for each argument of each smooth probe: names may not be mixed up."""
    spec = SPECS[name]
    module = importlib.import_module(spec.module)
    assert set(right_answers(name, "backward")[0]) <= set(spec.gradients)
    for probe, gradients in zip(
        probes(name, "backward"), right_answers(name, "backward"), strict=True
    ):
        arguments = probe.make(np.random.default_rng(0))
        dy = upstream(spec, arguments)

        def loss(arguments, dy=dy):
            outputs = spec.run(module, arguments)
            return sum(float((y * d).sum()) for y, d in zip(outputs, dy, strict=True))

        for key, gradient in gradients.items():
            x = arguments[key]
            assert gradient.shape == x.shape, (probe.name, key)
            way = np.random.default_rng(2).standard_normal(x.shape)
            step = np.finfo(float).eps ** (1 / 3) * (np.sqrt(np.mean(x * x)) or 1.0)
            up, down = (loss({**arguments, key: x + sign * step * way}) for sign in (1, -1))
            error = abs((up - down) / (2 * step) - float((gradient * way).sum()))
            size = np.linalg.norm(gradient) * np.linalg.norm(way) + abs(up) * 1e-9 / step
            assert error <= 1e-6 * size + 1e-9, (probe.name, key)


@pytest.mark.parametrize(("name", "side"), SIDES)
def test_each_edit_applies_once_and_runs_on_every_probe(name, side):
    for mistake in bank(name, side):
        text = source_of(mistake.module or SPECS[name].module)
        assert text.count(mistake.find) == 1, mistake.name
        assert mistake.put != mistake.find
    found = wrong_answers(name, side)
    assert found.keys() == {mistake.name for mistake in bank(name, side)}
    raising = {mistake for mistake, wrong in found.items() if None in wrong}
    assert all("transposed" in mistake or mistake == "llama_order" for mistake in raising)


@pytest.mark.parametrize(("name", "side"), SIDES)
def test_a_mistake_that_raises_gives_wrong_numbers_too(name, side):
    """Else it could never be named: that a function raises is no evidence for one mistake."""
    right = right_answers(name, side)
    for mistake, wrong in wrong_answers(name, side).items():
        numbers = [(w, r) for w, r in zip(wrong, right, strict=True) if w is not None]
        assert max(distance(w, r) for w, r in numbers) > SEEN, mistake


@pytest.mark.parametrize(("name", "side"), SIDES)
def test_each_mistake_is_seen_on_a_probe(name, side):
    right = right_answers(name, side)
    blind = [m for m, wrong in wrong_answers(name, side).items() if farthest(wrong, right) < SEEN]
    assert not blind


@pytest.mark.parametrize(
    "name", [name for name in NAMES if any(p.ties for p in SPECS[name].probes)]
)
def test_ties_are_a_question_of_their_own(name):
    """Without ties no mistake about them shows, and all others do."""
    spec = SPECS[name]
    assert spec.ties
    plain = [not probe.ties for probe in spec.probes]
    right = [y for y, kept in zip(right_answers(name, "forward"), plain, strict=True) if kept]
    for mistake, wrong in wrong_answers(name, "forward").items():
        gap = farthest([y for y, kept in zip(wrong, plain, strict=True) if kept], right)
        about = "ties" in mistake.split("_")
        assert (gap < SAME) == about, mistake
        assert not about or spec_kind(spec, mistake) == "convention"


def spec_kind(spec, name):
    return next(m.kind for m in spec.forward if m.name == name)


@pytest.mark.parametrize(("name", "side"), SIDES)
def test_each_mistake_is_told_apart_from_the_others(name, side):
    wrong, mistakes = wrong_answers(name, side), {m.name: m for m in bank(name, side)}
    alike = []
    for one, other in combinations(mistakes, 2):
        declared = one == mistakes[other].same_as or other == mistakes[one].same_as
        together = mistakes[one].same_as and mistakes[one].same_as == mistakes[other].same_as
        gap = farthest(wrong[one], wrong[other])
        if declared or together:
            assert gap < SAME, (one, other)
        elif gap < SEEN:
            alike.append((one, other, gap))
    assert not alike
    assert {m.same_as for m in mistakes.values() if m.same_as} <= mistakes.keys()


@pytest.mark.parametrize(("name", "side"), SIDES)
def test_a_mistake_in_whole_numbers_has_three_different_answers(name, side):
    """Whole numbers agree by chance: three inputs with different answers are asked for."""
    spec = SPECS[name]
    if side == "backward" or set(spec.outputs) - set(spec.exact):
        return
    for mistake, wrong in wrong_answers(name, side).items():
        answers = {tuple(a[key].tobytes() for key in spec.outputs) for a in wrong}
        assert len(answers) >= 3, mistake


@pytest.mark.parametrize(("name", "side"), SIDES)
def test_names_sentences_and_hints(name, side):
    mistakes = bank(name, side)
    assert len({m.name for m in mistakes}) == len(mistakes)
    assert len({m.says for m in mistakes if not m.same_as}) == len(
        [m for m in mistakes if not m.same_as]
    )
    for m in mistakes:
        assert m.kind in KINDS
        assert re.fullmatch(r"[\w.-]+", m.name), m.name
        for text in (m.says, m.hint):
            assert 12 <= len(text) <= 220, (m.name, len(text))
            assert text == " ".join(text.split()), m.name
            assert text[-1] in ".?!", m.name
            assert "you wrote" not in text.lower()
        assert m.says != m.hint
        assert m.put.strip() not in m.hint or len(m.put.strip()) < 8, f"{m.name} gives it away"


def test_the_bank_is_large():
    total = sum(len(bank(name, side)) for name, side in SIDES)
    assert total >= 600, total
    assert sum(len(SPECS[name].forward) >= 8 for name in NAMES) >= 10
