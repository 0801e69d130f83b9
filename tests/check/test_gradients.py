"""The gradient checker accepts no NaN and no infinity, wherever it stands and whoever asks."""

import dataclasses
import json

import numpy as np
import pytest

from minqwen import tour as tour_module
from minqwen.check.concepts import concept
from minqwen.check.gradients import check_gradients, compare_gradient
from minqwen.cli import main
from minqwen.commands import check

BAD = [np.inf, -np.inf, np.nan]
LINEAR = concept("linear")


def with_bad_entry(value, argument):
    """Return the concept linear with one entry of a gradient replaced, in its last case only."""

    def backward(dy, cache):
        grads = list(LINEAR.backward(dy, cache))
        if not cache.has_bias:
            grads[argument] = grads[argument].copy()
            grads[argument][-1, -1] = value
        return tuple(grads)

    return dataclasses.replace(LINEAR, backward=backward)


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("argument", [0, 1], ids=LINEAR.arguments[:2])
def test_check_gradients(value, argument):
    inputs = LINEAR.cases["no bias"](np.random.default_rng(0))
    check_gradients(LINEAR.forward, LINEAR.backward, *inputs)
    wrong = with_bad_entry(value, argument)
    with pytest.raises(AssertionError, match=f"gradient {argument}: relative error"):
        check_gradients(wrong.forward, wrong.backward, *inputs)


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("place", [(0, 0), (1, 2)])
def test_the_error_is_infinite_and_the_place_is_named(value, place):
    ours, expected = np.ones((2, 3)), np.ones((2, 3))
    ours[place] = value
    error = compare_gradient("dx", ours, expected)
    assert error.error == np.inf
    assert error.place == place


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("argument", [0, 1], ids=LINEAR.arguments[:2])
def test_the_command_check(value, argument, monkeypatch, capsys):
    wrong = with_bad_entry(value, argument)
    monkeypatch.setattr(check, "concept", lambda name: wrong)
    monkeypatch.setattr(check, "CONCEPTS", (concept("rmsnorm"), wrong, concept("embedding")))
    assert main(["check", "linear"]) == 1
    assert "WRONG" in capsys.readouterr().out
    assert main(["check"]) == 1
    assert "NOT all below" in capsys.readouterr().out
    assert main(["check", "--json"]) == 1
    facts = json.loads(capsys.readouterr().out)
    assert facts["ok"] is False
    assert [row["ok"] for row in facts["concepts"]] == [True, False, True]


@pytest.fixture
def short_tour(monkeypatch, tmp_path):
    """Return the tour without its work: only the proofs are made."""
    monkeypatch.setattr(tour_module, "require_extra", lambda *modules: None)
    monkeypatch.setattr(tour_module.tour_page, "write_page", lambda path, **facts: path)
    monkeypatch.setattr(tour_module, "python_reference", lambda: ["a small text " * 50] * 40)
    monkeypatch.setattr(tour_module, "bilingual_stories", lambda n, seed: [])
    monkeypatch.setattr(tour_module, "VOCAB_SIZE", 262)
    monkeypatch.setattr(tour_module, "pretrain", lambda *a, params, **more: params)
    monkeypatch.setattr(tour_module, "sample_all", lambda *a: [""] * len(tour_module.PROMPTS))
    monkeypatch.setattr(tour_module.Metrics, "read", lambda folder: [])
    monkeypatch.setattr(tour_module, "look_at_attention", lambda *a: {})
    return lambda: tour_module.tour(tmp_path / "tour", steps=1)


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("argument", [0, 1], ids=LINEAR.arguments[:2])
def test_the_verdict_of_the_tour(value, argument, short_tour, monkeypatch, capsys):
    rows = (concept("rmsnorm"), with_bad_entry(value, argument), concept("embedding"))
    monkeypatch.setattr(tour_module, "CONCEPTS", rows)
    assert short_tour() == 1
    assert "WRONG gradients: linear\n" in capsys.readouterr().out


def test_the_verdict_of_the_tour_is_good_without_one(short_tour, monkeypatch, capsys):
    monkeypatch.setattr(tour_module, "CONCEPTS", (concept("rmsnorm"), LINEAR))
    assert short_tour() == 0
    assert "WRONG" not in capsys.readouterr().out


@pytest.mark.parametrize("value", BAD)
def test_a_forward_that_gives_no_number(value, monkeypatch):
    """In the last case only, with the right gradients: no good number before it may hide it."""

    def forward(*inputs):
        y, cache = LINEAR.forward(*inputs)
        if not cache.has_bias:
            y[0, 0, 0] = value
        return y, cache

    wrong = dataclasses.replace(LINEAR, forward=forward)
    monkeypatch.setattr(check, "concept", lambda name: wrong)
    with np.errstate(all="ignore"):
        assert main(["check", "linear"]) == 1
