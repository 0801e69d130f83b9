"""Reading ReAct text: what models write instead of the format, and the way back."""

import json
import random
import time

import pytest

from minqwen.agent.react_parse import Step, has_label, parse_react, read_react, render_react

CALL = Step("Add them.", "calculator", '{"expression": "21 * 2"}')
CLEAN = 'Thought: Add them.\nAction: calculator\nAction Input: {"expression": "21 * 2"}'

SAME = {  # texts that say the same as CLEAN
    "as told": CLEAN,
    "the stop string is there": CLEAN + "\nObservation:",
    "its first token is there": CLEAN + "\nObserv",
    "its first token and a space": CLEAN + "\nObserv ",
    "its first token on the line of the object": CLEAN + "Observ",
    "the same after a space": CLEAN + " Observa",
    "half of it, then all of it": CLEAN + "\nObserv \nObservation: 42",
    "an invented observation": CLEAN + "\nObservation: 41\nThought: Good.\nFinal Answer: 41",
    "two calls": CLEAN + "\nObservation: 1\nAction: other\nAction Input: {}",
    "two calls without observation": CLEAN + "\nAction: other\nAction Input: {}",
    "an action and an answer": CLEAN + "\nFinal Answer: 42",
    "an answer before": "Thought: Add them.\nFinal Answer: 41\n" + CLEAN[19:],
    "text after the object": CLEAN + "\n\nI hope that this helps.",
    "Windows line ends": CLEAN.replace("\n", "\r\n"),
    "old Mac line ends": CLEAN.replace("\n", "\r"),
    "no word Thought": CLEAN[9:],
    "upper case": CLEAN.replace("Action", "ACTION").replace("Input", "INPUT"),
    "lower case": CLEAN.replace("Action", "action").replace("Input", "input"),
    "Chinese colons": CLEAN.replace(": ", "：", 3),
    "no space": CLEAN.replace(": ", ":", 3),
    "much space": "\n\n" + CLEAN.replace(": ", "  :   ", 3).replace("\n", " \n\n  ") + "  \n",
    "tabs": CLEAN.replace("\n", "\n\t").replace(": ", "\t:\t", 3),
    "the spaces of Chinese text": CLEAN.replace("\n", "\n\u3000").replace(": ", "：\u3000", 3),
    "space inside the label": CLEAN.replace("Action Input", "Action  Input"),
    "an underscore in the label": CLEAN.replace("Action Input", "Action_Input"),
    "bold, colon outside": CLEAN.replace("Action:", "**Action**:").replace(
        "Action Input:", "**Action Input**:"
    ),
    "bold, colon inside": CLEAN.replace("Action:", "**Action:**").replace(
        "Action Input:", "**Action Input:**"
    ),
    "numbers": CLEAN.replace("Thought:", "Thought 1:").replace("Action:", "Action 1:"),
    "name in brackets": CLEAN.replace("calculator", "[calculator]"),
    "name in backticks": CLEAN.replace("calculator", "`calculator`"),
    "name in backticks with a full stop": CLEAN.replace("calculator", "`calculator`."),
    "name with a full stop": CLEAN.replace("calculator", "calculator."),
    "name on the next line": CLEAN.replace("Action: ", "Action:\n"),
    "input on the next line": CLEAN.replace("Input: ", "Input:\n"),
    "both on one line": CLEAN.replace("\nAction Input", " Action Input"),
    "both on one line, comma": CLEAN.replace("\nAction Input", ", Action Input"),
    "words after the name": CLEAN.replace("calculator", "calculator\nIt can do this."),
    "the question once more": "Question: What is 21 * 2?\n" + CLEAN,
    "all in a block of code": f"```\n{CLEAN}\n```",
    "an action without a name first": "Action:\n" + CLEAN[9:],
}


@pytest.mark.parametrize("text", SAME.values(), ids=SAME)
def test_the_same_step(text):
    step = parse_react(text)
    if text.startswith("Action:"):
        assert step[1:] == CALL[1:]  # "Action:" alone made the thought another section
    else:
        assert step == CALL


def test_the_case_of_the_list():
    """Row 60: multi-line JSON, trailing Observ, an action and an answer, odd spaces."""
    text = (
        "Thought:  two things\n Action :  image_gen \nAction Input:\n{\n"
        '  "query": "五彩斑斓的黑",\n  "n": 1\n}\nFinal Answer: done\nObserv'
    )
    step = parse_react(text)
    assert step[:2] == ("two things", "image_gen")
    assert json.loads(step.action_input) == {"query": "五彩斑斓的黑", "n": 1}
    assert step.final_answer is None


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("", Step()),
        (" \n", Step()),
        ("It is 42.", Step(final_answer="It is 42.")),
        ("It is\n42.\nObserv", Step(final_answer="It is\n42.")),
        ("Thought: Hm.", Step("Hm.")),
        ("Thought:", Step()),
        ("Observation: 42\nFinal Answer: 42", Step()),
        ("Question: What?", Step()),
        ("Thought: I know.\nFinal Answer: 42", Step("I know.", final_answer="42")),
        ("I know.\nFinal Answer: 42", Step("I know.", final_answer="42")),
        ("Final Answer: 42", Step(final_answer="42")),
        ("Final Answer:", Step(final_answer="")),
        ("Thought: a\nThought: b\nFinal Answer: c", Step("a\nb", final_answer="c")),
        # an action without input: the answer wins, if there is one
        ("Action: None\nFinal Answer: 42", Step(final_answer="42")),
        ("Thought: a\nAction: now", Step("a", "now")),
        ("Action: now\nAction Input:", Step(None, "now", "")),
        ("Action Input: {}", Step()),
        ("Action: a\nAction: b\nAction Input: 1", Step(None, "b", "1")),
        # the model goes on and plays the user
        ("Final Answer: 4\n\nQuestion: 5?\nAction: a\nAction Input: 1", Step(final_answer="4")),
        ("Action: a\nAction Input: 1 + 1\nQuestion: 5?", Step(None, "a", "1 + 1")),
        # labels that are none
        (
            "Thought: the Action: x is\nAction: a\nAction Input: 1",
            Step("the Action: x is", "a", "1"),
        ),
        ("Transaction: 5 Euro", Step(final_answer="Transaction: 5 Euro")),
        ("Thoughts: many", Step(final_answer="Thoughts: many")),
        ("Final Answer: In short:\nObs", Step(final_answer="In short:")),
        ("Final Answer: an\nOb", Step(final_answer="an\nOb")),
    ],
)
def test_what_is_there_and_what_is_not(text, want):
    assert parse_react(text) == want


JSON_WITH_LABELS = '{"code": "x\nAction: no\nObservation: no\nFinal Answer: no", "n": {"m": [1]}}'
CODE = "```py\nprint('''\nAction: no\nObservation: 7\n''')\n```"


@pytest.mark.parametrize(
    ("written", "want"),
    [
        (JSON_WITH_LABELS, JSON_WITH_LABELS),  # raw line ends in a string are forgiven
        (JSON_WITH_LABELS + "\nThat is all.", JSON_WITH_LABELS),
        ("\n" + CODE, CODE),
        (CODE, CODE),
        (CODE + "\nThis prints.\nThought: ok", CODE),
        ('```json\n{"a": 1}\n```', '```json\n{"a": 1}\n```'),
        ("```print(1)```", "```print(1)```"),
        ("```print(1)``` prints.", "```print(1)```"),
        ('{"a": 1}["a"]', '{"a": 1}["a"]'),  # code, not an object
        ('{"a": 1} is what I need', '{"a": 1} is what I need'),
        ('{"a": 1', '{"a": 1'),
        ('{"a": 1\nThought: b', '{"a": 1'),  # cut off: ends at the label
        ("{'a': 1}", "{'a': 1}"),
        ("```py\nprint(1)\nObservation: 1", "```py\nprint(1)"),  # never closed
        ("x = 1\ny = 2\nprint(x)\nThought: b", "x = 1\ny = 2\nprint(x)"),
        ("x = 1\nAction: no", "x = 1"),  # rule 4: bare code is cut there
        ('{"a": ' * 30000, ('{"a": ' * 30000).strip()),
    ],
)
@pytest.mark.parametrize("space", [" ", "\n"])
def test_where_an_input_ends(written, want, space):
    step = parse_react("Action: python\nAction Input:" + space + written)
    assert step == Step(None, "python", want)


def test_an_answer_may_quote_labels_in_a_block():
    answer = "Write this:\n```\nAction: calculator\nAction Input: {}\n```\nThen wait."
    assert parse_react("Final Answer: " + answer) == Step(final_answer=answer)
    assert parse_react("Final Answer: " + answer[12:]).final_answer == answer[12:]
    inner = "```\n```py\nAction: calculator\nAction Input: {}\n```"  # ```py does not end a block
    assert parse_react("Final Answer: " + inner) == Step(final_answer=inner)
    # without a block, or with one that is never closed, it is an action
    assert parse_react("Final Answer: " + answer.replace("```", "")).action == "calculator"
    assert parse_react("Final Answer: " + answer.replace("\n```\n", "\n")).action == "calculator"


def test_what_was_used():
    """The text that stays in the prompt: up to the input or the answer, nothing invented."""
    for text in SAME.values():
        used = read_react(text)[1]
        assert "Observ" not in used
        assert used == used.rstrip()
        assert parse_react(used) == parse_react(text)
        assert text.replace("\r\n", "\n").replace("\r", "\n").startswith(used)
    assert read_react(CLEAN + "\nFinal Answer: 41")[1] == CLEAN
    assert read_react("Final Answer: 4 \n\nQuestion: 5?")[1] == "Final Answer: 4"
    assert read_react(" 42. ")[1] == " 42."
    assert read_react("Observation: 42")[1] == ""


def test_after_a_thought_a_plain_text_is_a_thought():
    assert read_react(" It is 42.", after_thought=True) == (Step("It is 42."), " It is 42.")
    step, used = read_react(" I know.\nFinal Answer: 42", after_thought=True)
    assert (step, used) == (Step("I know.", final_answer="42"), " I know.\nFinal Answer: 42")


def test_has_label():
    assert has_label("Thought: a\r\nFinal Answer: b")
    assert not has_label("A thought.\nThought: a")


def random_text(rng, parts, n):
    return "".join(rng.choices(parts, k=rng.randrange(n)))


WORDS = ["a", "根", " ", "\n", "Obs", "{", "}", '"', "`", "Action", "Final Answer", "x:y", "é", "1"]


def random_step(rng):
    def line():
        return random_text(rng, [w for w in WORDS if w != "\n"], 8).strip() or "x"

    def thought():  # lines that are no labels
        lines = ["t" + line() for _ in range(rng.randrange(1, 4))]
        return "\n".join(lines)

    def code():
        lines = [rng.choice(["Action: no", "Observation: 1", "x = 1", "  y", ""]) for _ in range(4)]
        return "```py\n" + "\n".join(lines) + "\n```"

    def json_object():
        text = random_text(rng, [*WORDS, "\nAction: no\n", "\nObservation:"], 12)
        return json.dumps({"a": text, "b": [{}, text]}, indent=rng.choice([None, 2]))

    kind = rng.randrange(4)
    said = rng.choice([None, thought()])
    if kind == 0:
        return Step(
            said, final_answer=thought() + rng.choice(["", "\n" + code(), "\n" + code() + "\nok"])
        )
    if kind == 1:
        return Step(said, "search_2", json_object())
    if kind == 2:
        return Step(said, "python", code())
    return Step(said, "dic-tionary", thought())


def test_reading_what_was_rendered():
    rng = random.Random(0)
    for _ in range(600):
        step = random_step(rng)
        text = render_react(step)
        assert parse_react(text) == step, text
        assert read_react(text)[1] == text
        assert parse_react(text + "\nObservation: 3\nThought: no") == step
        assert parse_react(text + "\n" + "Observation:"[: rng.randrange(3, 13)]) == step


def test_no_text_raises():
    rng = random.Random(1)
    labels = ["Thought:", "Action:", "Action Input:", "Observation:", "Final Answer:", "Question:"]
    parts = [
        *WORDS,
        *labels,
        "```",
        "\n```\n",
        "\r\n",
        "：",
        "**",
        '{"a": 1}',
        "\0",
        "\ud800",
        "\n",
    ]
    for _ in range(2000):
        text = random_text(rng, parts, 20)
        step, used = read_react(text, rng.random() < 0.5)
        assert step.action is None or step.final_answer is None
        assert step.action_input is None or step.action
        assert text.replace("\r\n", "\n").replace("\r", "\n").startswith(used)


@pytest.mark.parametrize(
    "part",
    [
        "Action" + " " * 200,
        "Action Input: {",
        "Final Answer:\n```\n",
        "Action: a\n",
        "```x\n",
        " ",
        "\n",
    ],
)
def test_a_long_text_takes_no_long_time(part):
    text = "Action: a Action Input" + part * (20_000 // len(part))
    start = time.perf_counter()
    parse_react(text)
    parse_react("Final Answer: " + text)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ("**Final Answer: 42**", Step(final_answer="42")),
        ("__Final Answer: 42__\nBye.", Step(final_answer="42\nBye.")),
        ("**Final Answer: the **big** one**", Step(final_answer="the **big** one")),
        ("Final Answer: **42**", Step(final_answer="**42**")),
        ("**Final Answer:** **42**", Step(final_answer="**42**")),
        ("Final Answer: __init__", Step(final_answer="__init__")),
        ('**Action: f**\n**Action Input: {"a": 1}**', Step(None, "f", '{"a": 1}')),
        ("**Thought: hm**\nAction: **f**\nAction Input: 1", Step("hm", "f", "1")),
        ("### Thought: hm\n## Action: f\n#### Action Input: 1", Step("hm", "f", "1")),
        ("# Final Answer: 42", Step(final_answer="42")),
        ("Final Answer: see\n# Heading", Step(final_answer="see\n# Heading")),
    ],
)
def test_bold_lines_and_headings(text, step):
    assert parse_react(text) == step


def test_an_observation_on_the_line_of_the_object_is_dropped():
    text = 'Action: f\nAction Input: {"a": 1} Observation: 5\nThought: so\nFinal Answer: 5'
    step, used = read_react(text)
    assert step == Step(None, "f", '{"a": 1}')
    assert used == 'Action: f\nAction Input: {"a": 1}'


@pytest.mark.parametrize(
    "line",
    [
        "Action Input: ```",
        "Final Answer: ```a",
        "Final Answer:\n```\nAction:\n```",
        "Action:",
        'Action: a\nAction Input: {"a":',
        " ",
    ],
)
def test_a_long_text_takes_no_longer_than_its_length(line):
    begin = time.perf_counter()
    parse_react(f"{line}\n" * (200_000 // len(line)))
    assert time.perf_counter() - begin < 5  # a square of the length takes minutes
