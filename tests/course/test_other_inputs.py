"""No hidden input can be looked up in a table of the visible ones, and all show what they must."""

import numpy as np
import pytest
from course.grading import assignment, by_aspect, edited, graded, solution

from minqwen.check.diagnose import right_module
from minqwen.check.edited import Edit, edited_module
from minqwen.check.specs import spec
from minqwen.course.ladder import LADDER
from minqwen.course.other_inputs import OTHERS, has_ties, other_spec

PARTS = [part.spec for exercise in LADDER for part in exercise.parts]


def inputs(found, seed):
    return [p.make(np.random.default_rng([seed, n])) for n, p in enumerate(found.probes)]


def answers(found, module, seed):
    given = inputs(found, seed)
    try:
        return [found.run(module, one) for one in given]
    except Exception as error:  # a wrong file may raise
        return type(error)


@pytest.mark.parametrize("name", PARTS)
def test_every_ordinary_input_is_another_one_for_the_hidden_seed(name):
    plain, other = spec(name), other_spec(spec(name))
    for probe, visible, hidden in zip(
        other.probes, inputs(plain, 0), inputs(other, 7), strict=True
    ):
        if not probe.hard:
            assert repr(visible) != repr(hidden), probe.name


@pytest.mark.parametrize("name", OTHERS)
def test_what_a_probe_is_for_stays(name):
    plain, other = spec(name), other_spec(spec(name))
    flags = [(p.name, p.hard, p.ties, p.gradient) for p in plain.probes]
    assert flags == [(p.name, p.hard, p.ties, p.gradient) for p in other.probes]
    for seed in range(3):
        hidden, texts = inputs(other, seed), inputs(plain, 0)
        assert repr(hidden) == repr(inputs(other, seed))
        for probe, one, visible in zip(other.probes, hidden, texts, strict=True):
            if name == "bpe_merges" and not probe.ties:
                assert not has_ties(one["text"], one["merges"])
            if "text" in one and not probe.ties:
                assert len(one["text"].encode()) == len(visible["text"].encode())
                assert len(one["text"]) == len(visible["text"])


@pytest.mark.parametrize("name", OTHERS)
def test_every_known_mistake_shows_on_the_other_inputs_too(name):
    plain, other = spec(name), other_spec(spec(name))
    module = right_module(plain)
    graded = [n for n, p in enumerate(plain.probes) if not p.ties]

    def shows(found, wrong, seed):
        right, got = answers(found, module, seed), answers(found, wrong, seed)
        if isinstance(got, type):
            return True
        return any(not same(right[n], got[n]) for n in graded)

    for mistake in plain.forward:
        wrong = edited_module(
            plain.module, [Edit(mistake.module or plain.module, mistake.find, mistake.put)]
        )
        if shows(plain, wrong, 0):
            assert all(shows(other, wrong, seed) for seed in (1, 2)), mistake.name


def same(right, got):
    return all(
        x.shape == y.shape and np.allclose(x, y, rtol=1e-12, atol=0.0)
        for x, y in zip(right, got, strict=True)
    )


def test_a_table_of_the_visible_answers_earns_no_hidden_points():
    task = assignment("bpe_encode")
    files = solution(task)
    table = {}
    plain = spec("bpe_encode")
    for one in inputs(plain, 0):
        table[one["text"].encode()] = True
    name = next(iter(files))
    files = edited(
        files,
        name,
        (
            "def bpe_encode_steps(",
            f"TABLE = {sorted(table)!r}\n\n\n"
            "def bpe_encode_steps(pretoken, ranks):\n"
            "    steps = list(right_steps(pretoken, ranks))\n"
            "    yield from steps if pretoken in TABLE else steps[:1]\n\n\n"
            "def right_steps(",
        ),
    )
    points = by_aspect(graded(files, task), "bpe_encode")
    assert points["values"] > 0
    assert points["more values"] == 0
