"""The three numbers of the report's table, on answers whose scores are counted by hand."""

import json

import pytest

from minqwen.agent.tool_metrics import (
    ToolCall,
    ToolScores,
    false_positive_rate,
    first_call,
    input_score,
    tool_scores,
)

RIGHT = 'Thought: sum\nAction: calculator\nAction Input: {"expression": "2 + 3"}\nObservation: 5'


def answer(name="calculator", arguments='{"expression": "2 + 3"}'):
    return f"Thought: I add.\nAction: {name}\nAction Input: {arguments}\nObservation: 5\nThought:"


@pytest.mark.parametrize(
    ("text", "call"),
    [
        (RIGHT, ("calculator", '{"expression": "2 + 3"}')),
        ("\nAction:t\nAction Input:{}", ("t", "{}")),
        ("\nAction: T \n\n  Action Input:  {}  ", ("t", "{}")),
        ("\nAction: t", ("t", "")),  # no input
        ("\nAction: t\nAction Input: {'a': 1}", ("t", "")),  # no JSON
        ("\nAction: t\nAction Input: ```py\n1\n```", ("t", "")),
        ('\nAction: t\nAction Input: {\n "b": 1,\n "a": "好"\n}', ("t", '{"a": "好", "b": 1}')),
        ('\nAction: t\nAction Input: {"a": {"d": 1, "c": 2}}', ("t", '{"a": {"c": 2, "d": 1}}')),
        ("\nAction: t\nAction Input: {}\nThought: x\nAction: u\nAction Input: {}", ("t", "")),
        ("\nAction: t\nObservation: 5\nThought: y\nAction: u\nAction Input: {}", ("t", "")),
        ("Action: t\nAction Input: {}", None),  # no line end before it
        ("Thought: the Action: t", None),
        ("Final Answer: 5", None),
        ("", None),
    ],
)
def test_first_call(text, call):
    assert first_call(text) == (None if call is None else ToolCall(*call))


def test_only_the_first_call_counts():
    twice = answer("search") + " again\nAction: calculator\nAction Input: {}\n"
    assert tool_scores([RIGHT], [twice]).selection == 0
    assert first_call(twice).name == "search"


def test_names_are_compared_without_case():
    assert tool_scores([RIGHT], [answer(" CALCULATOR  ")]).selection == 1
    assert tool_scores([RIGHT], [answer("calculator2")]).selection == 0


def test_selection_and_input_are_apart():
    wrong_tool, wrong_input = answer("search"), answer(arguments='{"expression": "2 * 3"}')
    nothing = "Final Answer: 5"
    found = tool_scores([RIGHT] * 4, [RIGHT, wrong_tool, wrong_input, nothing])
    # The tokens: { " expression " : " 2 + 3 " }, of which one in eleven is another
    assert found == ToolScores(0.5, pytest.approx((1 + 1 + 10 / 11 + 0) / 4), 4)


def test_order_and_spacing_of_the_arguments_cost_nothing():
    assert input_score(answer("t", '{"a": 1, "b": [2]}'), answer("t", '{"b":[2],\n"a":1}')) == 1


def test_input_that_is_no_json_scores_nothing_even_against_itself():
    assert input_score(answer("t", "print(1)"), answer("t", "print(1)")) == 0


def test_precision_and_recall_both_count():
    long, short = (answer("t", json.dumps(n)) for n in ([1, 2, 3, 4], [1]))
    # [ 1 , 2 , 3 , 4 ] are 9 tokens, [ 1 ] are 3, which stand in the other
    assert input_score(long, short) == input_score(short, long) == 2 * 3 / (9 + 3)


def test_the_tokens_may_be_those_of_a_model():
    bytes_of = str.encode  # a tokenizer without merges
    assert input_score(answer("t", "12"), answer("t", "13"), bytes_of) == 0.5
    assert input_score(answer("t", "12"), answer("t", "13")) == 0.0


@pytest.mark.parametrize("hostile", ["[" * 100_000, "9" * 10_000, "\ud800", '{"a": NaN}', "\0"])
def test_no_argument_stops_the_scoring(hostile):
    assert 0 <= input_score(RIGHT, answer("t", hostile)) < 1


def test_any_call_is_a_false_positive():
    answers = ["Hello!", answer(), "Thought: no tool\nFinal Answer: 5", "hm\nAction:"]
    assert false_positive_rate(answers) == 0.5
    assert false_positive_rate(["The Action: line"]) == 0


def test_errors_name_what_is_wrong():
    with pytest.raises(ValueError, match=r"as many answers as references, .* got 1 and 2"):
        tool_scores([RIGHT, RIGHT], [RIGHT])
    with pytest.raises(ValueError, match="at least one, got 0 and 0"):
        tool_scores([], [])
    with pytest.raises(ValueError, match=r"references\[1\] calls no tool: 'Final"):
        tool_scores([RIGHT, "Final Answer: 5"], [RIGHT, RIGHT])
    with pytest.raises(ValueError, match="at least one"):
        false_positive_rate([])
