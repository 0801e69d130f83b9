"""`minqwen explain`: what it says of every concept and every mistake is what the files compute."""

import ast
import importlib
import inspect
import pathlib
import sys

import numpy as np
import pytest

from minqwen.check.concepts import BOUND, CONCEPTS, concept
from minqwen.check.explanation.examples import ROW_EXAMPLES, SPEC_EXAMPLES
from minqwen.check.explanation.explain import explain
from minqwen.check.explanation.lines import described, watch
from minqwen.check.explanation.mistakes_text import (
    Effect,
    answers,
    best_example,
    effect,
    explain_mistake,
    mistakes_named,
)
from minqwen.check.explanation.numbers import aligned, table, written
from minqwen.check.explanation.subject import all_names, subject
from minqwen.check.explanation.text import data_of, mistake_text, text_of
from minqwen.check.specs import names as spec_names
from minqwen.check.specs import spec
from minqwen.layers import rmsnorm, swiglu

NAMES = [
    pytest.param(name, marks=pytest.mark.slow) if name == "language_model" else name
    for name in all_names()
]
LOOPS = ("rmsnorm", "cross_entropy", "moe_experts", "flash_attention", "bpe_merges", "dropout")


@pytest.fixture(scope="module")
def page():
    """Return the explanation of a concept, made once."""
    made = {}
    return lambda name: made.setdefault(name, explain(name))


@pytest.mark.parametrize("name", NAMES)
def test_every_name_has_a_page(name, page):
    e = page(name)
    text = text_of(e)
    assert all(len(line) <= 100 for line in text.splitlines())
    assert text.endswith("\n")
    assert not any(line != line.rstrip() for line in text.splitlines())
    assert e.forward, "no line of the file was seen"
    for argument in e.subject.arguments:
        assert argument in text
    first = e.text.docstring.splitlines()[0]
    assert first in text
    if "Paper:" in e.text.docstring:
        assert "Paper:" in text
    assert e.report


@pytest.mark.parametrize("name", NAMES)
def test_gradients_agree_with_central_differences(name, page):
    e = page(name)
    for gradient in e.gradients:
        assert gradient.error.error < BOUND, gradient.name
        assert gradient.ours.shape == e.subject.arguments[gradient.name].shape
        assert np.isfinite(gradient.numerical).all()
    row = next((row for row in CONCEPTS if row.name == name), None)
    if row is not None:
        assert e.gradients, "a concept of the table has gradients"
        assert e.backward


def test_every_row_and_every_spec_is_there():
    assert {row.name for row in CONCEPTS} | set(spec_names()) == set(all_names())
    assert len(all_names()) == len(set(all_names()))


@pytest.mark.parametrize("name", sorted(SPEC_EXAMPLES))
def test_an_example_has_the_arguments_of_the_spec(name):
    it = subject(name)
    assert tuple(it.arguments) == spec(name).arguments


@pytest.mark.parametrize("name", sorted({*SPEC_EXAMPLES, *ROW_EXAMPLES}))
def test_numbers_of_an_example_are_short(name):
    for value in subject(name).arguments.values():
        if isinstance(value, np.ndarray) and value.dtype.kind == "f" and name != "feed_forward":
            assert np.array_equal(value, value.round(2))


@pytest.mark.parametrize("name", ["linear", "rmsnorm", "rope", "attention", "swiglu", "moe"])
def test_the_example_has_three_tokens(name):
    first = next(iter(subject(name).arguments.values()))
    assert first.shape[-2] == 3


def test_the_seed_changes_the_numbers_and_nothing_else():
    a, b, again = explain("rmsnorm", 0), explain("rmsnorm", 1), explain("rmsnorm", 0)
    assert text_of(a) == text_of(again)
    assert not np.array_equal(a.subject.arguments["x"], b.subject.arguments["x"])
    assert [step.code for step in a.forward] == [step.code for step in b.forward]


@pytest.mark.parametrize("name", LOOPS)
def test_pages_do_not_change_from_run_to_run(name, page):
    assert text_of(explain(name)) == text_of(page(name))


# --- lines ---


def test_lines_are_those_of_the_file_with_the_values_they_make(page):
    e = page("rmsnorm")
    lines = pathlib.Path(rmsnorm.__file__).read_text(encoding="utf-8").splitlines()
    x, w, eps = e.subject.arguments.values()
    values = {}
    for step in e.forward:
        assert step.code[0] == lines[step.line - 1].strip()
        values.update(step.values)
    inv = 1 / np.sqrt((x**2).mean(-1, keepdims=True) + eps)
    assert np.allclose(values["inv_rms"], inv, rtol=1e-12)
    assert np.allclose(values["y"], x * inv * w, rtol=1e-12)
    assert np.allclose(e.outputs["y"], x * inv * w, rtol=1e-12)


def test_all_assignments_of_a_straight_function_are_shown(page):
    """Every name that rmsnorm_forward and rmsnorm_backward set, but the module, is in the page."""
    e = page("rmsnorm")
    shown = {name for step in (*e.forward, *e.backward) for name in step.values}
    set_there = {
        node.id
        for node in ast.walk(ast.parse(inspect.getsource(rmsnorm)))
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    annotations = {"x", "w", "inv_rms"}  # fields of the cache
    assert set_there - {"xp"} - annotations <= shown


def test_an_array_changed_in_place_is_shown_before_and_after(page):
    e = page("cross_entropy")
    parts = [step.values["part"] for step in e.forward if "part" in step.values]
    assert len(parts) == 3  # widened, shifted, exponentials written over it
    assert np.allclose(np.exp(parts[1]), parts[2], rtol=1e-12)


def test_numbers_left_to_chance_are_not_printed(page):
    e = page("cross_entropy")
    empty = next(step for step in e.forward if "xp.empty" in step.code[0])
    assert "not filled yet" in repr(empty.values["lse"])


def test_a_loop_shows_its_first_rounds_and_how_many_there_are(page):
    e = page("bpe_merges")
    rounds = [s for s in e.forward if s.code[0].startswith("pair = ")]
    assert [(s.round, s.times) for s in rounds] == [(1, 3), (2, 3)]
    assert rounds[0].values["pair"] == (b"a", b"a")


def test_a_function_that_only_returns_shows_its_result():
    def double(x):
        return swiglu.sigmoid(x)

    result, steps = watch(lambda: double(np.zeros(2)))
    assert result.tolist() == [0.5, 0.5]
    assert [step.function for step in steps] == ["sigmoid"]


def test_watching_puts_the_tracer_back_also_after_an_error():
    def tracer(frame, event, arg):
        return None

    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        with pytest.raises(ValueError, match="w must have shape"):
            watch(lambda: rmsnorm.rmsnorm_forward(np.ones((2, 3)), np.ones(2)))
        assert sys.gettrace() is tracer
    finally:
        sys.settrace(before)


@pytest.mark.parametrize("name", NAMES)
def test_watching_changes_no_result(name, page):
    e = page(name)
    it = subject(name)
    for got, want in zip(e.outputs.values(), it.run(it.arguments), strict=True):
        assert np.array_equal(got, want)
    if it.pull:
        found = it.pull(it.arguments, tuple(e.upstream.values()))
        for gradient in e.gradients:
            assert np.array_equal(gradient.ours, found[gradient.name])


def test_caches_and_arguments_are_described_by_the_file():
    found = described(rmsnorm.__file__)
    assert found.fields["w"] == "(D,)"
    assert found.arguments["rmsnorm_forward"]["eps"].startswith("added to the mean square")


# --- mistakes ---


@pytest.mark.parametrize("name", spec_names())
def test_the_museum_has_every_mistake_and_right_counts(name, page):
    e, s = page(name), spec(name)
    assert len(e.museum) == len(s.forward) + len(s.backward)
    text = " ".join(text_of(e).split())
    for one in e.museum:
        assert " ".join(one.mistake.says.split()) in text
        assert one.effects or one.probe, f"{one.side} {one.mistake.name} shows nowhere"
    for one in e.museum[:3]:
        right = answers(s, None, one.side, e.subject.arguments, tuple(e.upstream.values()))
        for output, found in one.effects.items():
            if found.kind in ("", "whole"):
                wrong = answers(
                    s, one.mistake, one.side, e.subject.arguments, tuple(e.upstream.values())
                )
                off = np.abs(np.asarray(right[output], float) - np.asarray(wrong[output], float))
                assert found.changed == (off > 1e-9 * np.abs(right[output]).max()).sum()
                assert found.largest == off.max()


@pytest.mark.parametrize("name", spec_names())
def test_every_mistake_has_a_page_that_shows_it(name):
    for side in ("forward", "backward"):
        for mistake in getattr(spec(name), side):
            shown = explain_mistake(f"{name}.{mistake.name}")
            one = next(s for s in shown if s.side == side)
            assert one.effects, mistake.name
            assert one.minus != one.plus
            text = mistake_text(shown, name)
            assert all(len(line) <= 100 for line in text.splitlines())
            assert f"Hint: {mistake.hint[:20]}" in text
            module = mistake.module or spec(name).module
            source = inspect.getsource(importlib.import_module(module)).splitlines()
            assert source[one.line - 1].strip() == (one.minus or ("",))[0].strip() or not one.minus


def test_the_page_of_a_mistake_shows_both_lines_and_both_numbers():
    (one,) = explain_mistake("rmsnorm.eps_outside")
    assert one.example == "three tokens, x times 0.001"
    assert one.minus[0].startswith("inv_rms = 1.0 / xp.sqrt(")
    assert one.plus[0].startswith("inv_rms = 1.0 / (xp.sqrt(")
    x, w, eps = one.arguments.values()
    ms = (x**2).mean(-1, keepdims=True)
    assert np.allclose(one.right["y"], w * x / np.sqrt(ms + eps), rtol=1e-12)
    assert np.allclose(one.wrong["y"], w * x / (np.sqrt(ms) + eps), rtol=1e-12)
    text = mistake_text([one], "rmsnorm")
    assert written(one.right["y"][0, 0]) in text
    assert written(one.wrong["y"][0, 0]) in text


def test_a_name_of_both_sides_gives_both():
    sides = [one.side for one in explain_mistake("rmsnorm.sum_for_mean")]
    assert sides == ["forward", "backward"]


def test_the_best_example_is_the_three_tokens_where_they_show_it():
    s, found = mistakes_named("rmsnorm.no_gain")
    assert best_example(s, *found[0], 0)[0] == "three tokens"


def test_unknown_names_list_what_there_is():
    with pytest.raises(ValueError, match=r"no concept 'rmsprop' to explain; there are linear, "):
        explain("rmsprop")
    with pytest.raises(ValueError, match="no mistake 'eps' of rmsnorm; there are eps_outside, "):
        explain_mistake("rmsnorm.eps")
    with pytest.raises(ValueError, match="no mistakes are known of 'dropout'; there are those of "):
        explain_mistake("dropout.x")


def test_effects():
    nan = np.array([1.0, np.nan])
    assert effect(np.ones(2), np.ones(2)).changed == 0
    assert effect(np.ones(2), nan) == Effect(1, 2, np.inf, 1.0, "NaN or infinity")
    assert effect(nan, nan).changed == 0
    assert effect(np.ones(2), np.ones(3)).kind == "another shape"
    assert effect(np.array([1, 2]), np.array([1, 3])).kind == "whole"
    assert effect(np.array([1.0, 2.0]), np.array([1.0, 2.0 + 1e-12])).changed == 0


# --- numbers ---


def test_numbers_in_columns():
    assert [written(x) for x in (0, -0.0, 100.0, 12345.678, 1e-5, np.nan)] == [
        "0",
        "0",
        "100",
        "12346",
        "1e-05",
        "nan",
    ]
    assert aligned(np.array([1.5, -20.0])).tolist() == ["  1.5", "-20  "]
    assert list(table(np.array([[True, False]]))) == ["1  0"]
    rows = list(table(np.arange(12.0).reshape(3, 2, 2), axes="H T Dh"))
    assert rows[0] == "H=0:"
    assert rows[3] == "H=1:"
    assert list(table(np.arange(60.0).reshape(30, 2), rows=4))[-1] == "... 26 more rows"
    assert list(table(np.zeros((0, 3)))) == ["(nothing)"]


def test_data_holds_what_the_page_shows(page):
    data = data_of(page("rmsnorm"))
    assert data["equation"] == concept("rmsnorm").equation
    assert data["gradients"][0]["name"] == "x"
    ours, numerical = (np.array(data["gradients"][0][k]) for k in ("by_hand", "central_difference"))
    assert np.abs(ours - numerical).max() < 1e-8
    assert {m["name"] for m in data["mistakes"]} >= {"rmsnorm.eps_outside", "rmsnorm.rms_constant"}
