"""The ladder: sixteen exercises in teaching order, each with words in two languages."""

import ast
import re

import numpy as np
import pytest

from minqwen.alignment.pairwise_loss import pairwise_loss_forward
from minqwen.check.edited import source_of
from minqwen.check.specs import names, spec
from minqwen.course.cut import removed_lines
from minqwen.course.ladder import LADDER, PRESETS, called, exercise, report_line
from minqwen.layers.moe_router import softmax
from minqwen.layers.rope import rope_forward, rope_inv_freq, rope_tables
from minqwen.layers.swiglu import sigmoid
from minqwen.long_context.logn import logn_scale
from minqwen.long_context.ntk import dynamic_ntk_alpha

each = pytest.mark.parametrize("one", LADDER, ids=lambda one: one.name)


def test_the_order_and_the_points():
    assert " ".join(one.name for one in LADDER) == (
        "linear rmsnorm swiglu rope attention cross_entropy block adamw bpe_train bpe_encode "
        "long_context moe_router reward_loss gae ppo_loss dpo"
    )
    assert sum(one.points for one in LADDER) == 100


@each
def test_needs_come_before(one):
    order = [other.name for other in LADDER]
    assert all(order.index(need) < order.index(one.name) for need in one.needs)


@each
def test_words_in_two_languages(one):
    assert len(one.hints) == len(one.hints_zh) == 3
    for text in (one.title_zh, one.task_zh, *one.hints_zh):
        assert re.search("[\u4e00-\u9fff]", text), text
    for text in (one.title, one.task, *one.hints):
        assert not re.search("[\u4e00-\u9fff]", text), text
        assert text == text.strip()
    assert all(text.endswith((".", "?")) for text in (one.task, *one.hints))
    assert all(text.endswith(("。", "？")) for text in (one.task_zh, *one.hints_zh))
    assert 1 <= one.points <= 12
    assert 15 <= one.minutes <= 180
    assert one.report.startswith(("Qwen ", "Qwen2"))


def known(one):
    return [part for part in one.parts if part.spec in names()]


@each
def test_the_functions_are_there_in_file_order(one):
    for part in known(one):
        tree = ast.parse(source_of(spec(part.spec).module))
        order = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
        assert sorted(part.functions, key=order.index) == list(part.functions)


@each
def test_what_the_checker_calls_is_to_be_written(one):
    for part in known(one):
        assert set(called(part.spec)) <= set(part.functions)


@each
def test_no_hint_holds_a_line_of_the_answer(one):
    squeezed = ["".join(hint.split()) for hint in (*one.hints, *one.hints_zh, one.task)]
    for part in known(one):
        for line in removed_lines(spec(part.spec).module, part.functions):
            code = "".join(line.split())
            assert len(code) < 16 or not any(code in hint for hint in squeezed), line


def test_the_numbers_in_the_hints_are_right():
    hints = {one.name: " ".join(one.hints) for one in LADDER}
    cos, sin = rope_tables(np.array([3]), rope_inv_freq(8, dtype="float64"))
    turned = rope_forward(np.arange(1.0, 9).reshape(1, 1, 1, 8), cos, sin)[0].ravel()
    assert ", ".join(f"{x:.6f}" for x in turned) in hints["rope"]
    assert f"{-10 * sigmoid(np.array(-10.0)):.5f}" in hints["swiglu"]
    assert f"{sigmoid(np.array(1.0)) * -10:.2f}" in hints["swiglu"]
    s = sigmoid(np.array(2.0))
    assert f"{s * (1 + 2 * (1 - s)):.4f}" in hints["swiglu"]
    assert "0.447" in hints["adamw"]
    assert (1 - 0.9) / (1 - 0.95) ** 0.5 == pytest.approx(0.447, abs=5e-4)
    alphas = [f"{dynamic_ntk_alpha(n, 16):g}" for n in (16, 17, 32, 33, 64, 65)]
    assert f"16, 17, 32, 33, 64, 65 are {', '.join(alphas)}" in hints["long_context"]
    seventeenth, late = logn_scale(np.array([16, 31]), 16, "float64")
    assert f"17th token has {seventeenth:.6f}" in hints["long_context"]
    assert f"the 32nd {late:g}." in hints["long_context"]
    p = np.sort(softmax(np.array([2.0, 1, 0, -1]))[0])[::-1][:2]
    assert f"{p[0]:.6f} and {p[1]:.6f}" in hints["moe_router"]
    assert f"{p[0] / p.sum():.6f} and {p[1] / p.sum():.6f}" in hints["moe_router"]
    losses = [pairwise_loss_forward(np.array([x]), np.zeros(1))[0] for x in (1.0, -1.0)]
    assert f"{losses[0]:.6f} and {losses[1]:.6f}" in hints["reward_loss"]


def test_presets_name_exercises():
    for listed in PRESETS.values():
        assert all(exercise(name).name == name for name in listed)
        order = [one.name for one in LADDER]
        assert len(set(listed)) == len(listed)
        assert all(name in order for name in listed)
    assert len(PRESETS["ladder"]) == 16


@pytest.mark.parametrize("name", names())
def test_every_concept_of_the_checker_is_an_exercise(name):
    one = exercise(name)
    assert one.files
    assert all(part.functions for part in one.parts)
    assert "\n" not in one.title + one.report


def test_an_unknown_name_brings_the_list():
    with pytest.raises(ValueError, match=r"no exercise 'softmax'; the ladder has linear, .*moe"):
        exercise("softmax")


def test_a_file_without_a_paper_has_no_report():
    assert report_line("Only a title.") == ""
