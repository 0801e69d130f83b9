"""Samples: text and back, what is forgiven in a model's text, and what is not."""

import random

import pytest

from minqwen.agent.react_parse import parse_react
from minqwen.agent.samples.sample import (
    Call,
    Sample,
    parse_sample,
    sample_parts,
    sample_text,
)

TEXT = """Question: What is 21 times 2, and the double of that?
Thought: I need the product.
Action: calculator
Action Input: {"expression": "21 * 2"}
Observation: 42
Thought: Now the double.
Action: calculator
Action Input: {"expression": "42 * 2"}
Observation: 84
Thought: I now know it.
Final Answer: 42, and 84."""
SAMPLE = Sample(
    "What is 21 times 2, and the double of that?",
    ("calculator", "search"),
    (
        Call("I need the product.", "calculator", '{"expression": "21 * 2"}', "42"),
        Call("Now the double.", "calculator", '{"expression": "42 * 2"}', "84"),
    ),
    "I now know it.",
    "42, and 84.",
)


def test_text_and_back():
    assert parse_sample(TEXT, ["calculator", "search"]) == SAMPLE
    assert sample_text(SAMPLE) == TEXT


def test_what_the_model_wrote_and_what_it_was_given():
    parts = sample_parts(SAMPLE)
    assert [written for _, written in parts] == [True, False, True, False, True]
    assert "".join(text for text, _ in parts) == TEXT.partition("\n")[2]
    assert [text for text, written in parts if not written] == [" 42\nThought:", " 84\nThought:"]
    # The label that makes the loop stop and call the tool is the model's own
    assert all(text.endswith("\nObservation:") for text, written in parts[:-1] if written)


def test_the_loop_reads_in_each_written_part_what_the_sample_says():
    asked = [parse_react(f"Thought:{p.text}") for p in sample_parts(SAMPLE)[2::2]]
    assert (asked[0].action, asked[0].action_input) == SAMPLE.calls[1][1:3]
    assert asked[1].final_answer == SAMPLE.answer


def some_text(rng, lines):
    words = ["the", "好", "{", "}", '"a": 1', "42", "```", "Action", "Observation", "x:", "Thought"]
    return "\n".join(
        " ".join(["so", *rng.choices(words, k=rng.randrange(4))]) for _ in range(lines)
    )


def test_any_sample_comes_back():
    rng = random.Random(0)
    inputs = ['{"a": [1, {"b": "x\\ny"}]}', "```py\nprint(1)\nAction: x\n```", "{}", "print(1)"]
    for _ in range(200):
        calls = [
            Call(
                some_text(rng, rng.randint(1, 2)),
                rng.choice(["calculator", "图像", "a b"]),
                rng.choice(inputs),
                rng.choice(["", some_text(rng, 3)]),
            )
            for _ in range(rng.randrange(4))
        ]
        texts = (some_text(rng, rng.randint(1, 3)) for _ in range(3))
        sample = Sample(next(texts), ("a", "b"), tuple(calls), next(texts), next(texts))
        assert parse_sample(sample_text(sample), ("a", "b")) == sample


@pytest.mark.parametrize(
    "change",
    [
        ("Question: ", ""),
        ("Question: ", "  question : "),
        ("\n", "\r\n"),
        ("\n", "\n\n"),
        ("Action: ", "Action :  "),
        ("Action: ", "**Action:** "),
        ("Thought: ", "thought："),
        ("Observation: ", "observation:"),
        ("Final Answer: ", "Final  answer:\n"),
        (" 42\n", "\n42\n"),
    ],
    ids=lambda change: repr(change),
)
def test_forgiven(change):
    assert parse_sample(TEXT.replace(*change), SAMPLE.tools) == SAMPLE


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (TEXT, "", "no thought"),
        ("Question: What is 21 times 2, and the double of that?", "Question:", "no question"),
        ("Thought: I need the product.\n", "", "label .* inside of the question"),
        ("Thought: I need the product.", "Thought:", "a thought is empty"),
        ("I now know it.", "", "a thought is empty"),
        ("Action: calculator\nAction Input", "Action Input", "left over: 'actioninput"),
        ('Action Input: {"expression": "21 * 2"}\n', "", "without an action and its input"),
        ('Action Input: {"expression": "21 * 2"}', "Action Input:", "without an action"),
        ("\nObservation: 84\nThought: I now know it.", "", "left over: 'finalanswer"),
        (TEXT[TEXT.index("\nObservation: 84") :], "", "no observation comes after"),
        ("\nFinal Answer: 42, and 84.", "", "no final answer"),
        ("Final Answer: 42, and 84.", "Final Answer:", "no final answer"),
        ("\nThought: I now know it.\nFinal Answer: 42, and 84.", "", "no thought comes after"),
        ("Action: calculator", "Action: calculator\nAction: search", "left over"),
        ('2"}\nObservation: 42', '2"}\nI wait.\nObservation: 42', "left over: 'iwait"),
        ("Thought: Now", "Thought 2: Now", "label .* inside of an observation"),
        ("Action: calculator", "Action: [calculator]", "left over"),
        ("Thought: I need", "Thought: x\nFinal Answer: 3\nThought: I need", "left over"),
        ("42, and 84.", "42.\nQuestion: And 3?\nThought: x", "left over"),
    ],
)
def test_not_forgiven(old, new, message):
    with pytest.raises(ValueError, match=message):
        parse_sample(TEXT.replace(old, new, 1), SAMPLE.tools)


@pytest.mark.parametrize("line_end", ["\r\n", "\r"])
def test_line_ends_inside_of_texts(line_end):
    text = TEXT.replace("2, and", "2,\nand").replace(": 42\n", ": 42\nor so\n")
    sample = parse_sample(text.replace("\n", line_end), SAMPLE.tools)
    assert sample.question == "What is 21 times 2,\nand the double of that?"
    assert sample.calls[0].observation == "42\nor so"


def test_a_sample_that_its_own_text_would_not_give_back():
    text = TEXT.replace("Action: calculator", "Action: calculator\xa0**", 1)  # of which ** goes
    with pytest.raises(ValueError, match="would be read in another way"):
        parse_sample(text, SAMPLE.tools)


def test_random_text_is_a_sample_or_a_value_error():
    rng = random.Random(1)
    pieces = [*TEXT.split(" "), "\n", "\n", "Thought:", "\nObservation:", "```", "{", "\ud800"]
    for _ in range(300):
        text = " ".join(rng.choices(pieces, k=rng.randrange(60)))
        try:
            sample = parse_sample(text, ["calculator"])
        except ValueError:
            continue
        assert parse_sample(sample_text(sample), ["calculator"]) == sample
