"""Each rule drops what it is there for, and nothing else."""

import pytest

from minqwen.agent.rouge import RougePool
from minqwen.agent.samples.sample import Call, Sample, sample_text
from minqwen.agent.samples.sample_rules import (
    WITHOUT_SIGHT,
    Dropped,
    Rules,
    agrees_with_tools,
    why_dropped,
)
from minqwen.agent.tool import Observation, Tool, make_tools


def schema(**kinds):
    properties = {name: {"type": kind} for name, kind in kinds.items()}
    return {"type": "object", "properties": properties, "required": list(kinds)}


def fails():
    raise OSError("no net")


TOOLS = make_tools(
    [
        Tool("add", "Add", "a + b", schema(a="number", b="number"), lambda a, b: f" {a + b}\n"),
        Tool("code", "Code", "Runs code.", schema(code="string"), lambda code: "ran", "code"),
        Tool("net", "Net", "Looks.", schema(), fails),
        Tool("warn", "Warn", "Warns.", schema(), lambda: Observation("5", error=True)),
    ]
)
GOOD = Sample(
    "What is two plus three?",
    ("code", "add"),
    (Call("I add.", "add", '{"a": 2, "b": 3}', "5"),),
    "I know it.",
    "It is 5.",
)


def with_call(**change):
    return GOOD._replace(calls=(GOOD.calls[0]._replace(**change),))


def reason(sample, rules=Rules(), **more):  # noqa: B008
    found = why_dropped(sample, TOOLS, rules, **more)
    return found and found.reason


def test_a_good_sample_passes():
    pool = RougePool(["Something else entirely", "What is this"])
    assert reason(GOOD, pool=pool, check=agrees_with_tools(TOOLS)) is None


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        (GOOD._replace(calls=()), "calls"),
        (GOOD._replace(calls=GOOD.calls * 6), "calls"),
        (GOOD._replace(calls=GOOD.calls * 5), None),
        (with_call(action="net", action_input="{}"), "unknown tool"),  # is there, not offered
        (with_call(action="Add"), "unknown tool"),
        (GOOD._replace(calls=(*GOOD.calls, Call("x", "mul", "{}", "y"))), "unknown tool"),
        (with_call(action_input='{"a": 2}'), "arguments"),
        (with_call(action_input='{"a": 2, "b": "3"}'), "arguments"),
        (with_call(action_input="2 + 3"), "arguments"),
        (with_call(action_input='{"a": 2, "b": 3} as you like'), "arguments"),
        (with_call(action="code", action_input="```py\nprint(2 + 3)\n```"), None),
        (with_call(action="code", action_input="print(2 + 3)"), None),
        (GOOD._replace(question="Two plus three?"), "length"),
        (GOOD._replace(question="so " * 151), "length"),
        (GOOD._replace(question="so " * 150), None),
        (GOOD._replace(answer="!"), "length"),
        (GOOD._replace(answer="so " * 301), "length"),
        (GOOD._replace(question="二加三等于多少？"), "language"),
        (with_call(thought="我需要加法。"), "language"),
        (GOOD._replace(thought="我现在知道了。"), "language"),
        (GOOD._replace(answer="五"), None),
    ],
)
def test_rules(sample, expected):
    assert reason(sample) == expected


def test_the_reason_is_told_in_words():
    found = why_dropped(with_call(action_input='{"a": 2, "b": "3"}'), TOOLS, Rules())
    assert found == Dropped("arguments", 'b must be a number, got "3"', found.text)
    assert found.text == sample_text(with_call(action_input='{"a": 2, "b": "3"}'))
    assert why_dropped(with_call(action="mul"), TOOLS, Rules()).why == (
        "it calls 'mul', offered were: code, add"
    )
    assert "the input of add" in why_dropped(with_call(action_input="{"), TOOLS, Rules()).why


def test_chinese():
    chinese = GOOD._replace(
        question="二加三等于多少？",
        calls=(GOOD.calls[0]._replace(thought="我需要加法。"),),
        thought="我现在知道了。",
        answer="5",
    )
    assert reason(chinese, Rules(language="zh")) is None
    assert reason(GOOD, Rules(language="zh")) == "language"
    assert reason(chinese._replace(question="多少？"), Rules(language="zh")) == "length"


def test_a_blocked_word_anywhere():
    rules = Rules(blocked=("bad word",))
    assert reason(GOOD._replace(answer="A Bad  word."), rules) == "blocked"
    assert reason(with_call(observation="bad word"), rules) == "blocked"
    assert reason(GOOD._replace(answer="A bad wordy."), rules) is None
    drawn = GOOD._replace(question="Which picture shows two and three?")
    assert reason(drawn, Rules(blocked=WITHOUT_SIGHT)) == "blocked"
    assert reason(drawn) is None


def test_overlap_of_0_7_is_too_much_and_less_is_not():
    ten = GOOD._replace(question="a b c d e f g h i j")
    assert reason(ten, pool=RougePool(["x y", "a b c d e f g x y z"])) == "overlap"
    assert reason(ten, pool=RougePool(["a b c d e f x y z w"])) is None
    assert reason(ten, Rules(overlap=0.6), pool=RougePool(["a b c d e f x y z w"])) == "overlap"
    found = why_dropped(ten, TOOLS, Rules(), RougePool(["x", "a b c d e f g h i"]))
    assert found.why == "F 0.95 with question 1, wanted below 0.7"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"observation": "6"}, "add gives ' 5\\n', the observation was '6'"),
        ({"observation": "5.0"}, "add gives"),
        ({"action": "net", "action_input": "{}"}, "net failed: OSError: no net"),
        ({"action": "warn", "action_input": "{}"}, "warn failed: 5"),
        ({"action": "mul"}, "mul failed: there is no tool"),
    ],
)
def test_a_check_runs_the_tools(change, why):
    assert agrees_with_tools(TOOLS)(with_call(**change)).startswith(why)


def test_every_call_is_checked():
    two = GOOD._replace(calls=(GOOD.calls[0], GOOD.calls[0]._replace(observation="6")))
    assert reason(two, check=agrees_with_tools(TOOLS)) == "check"
    assert reason(two) is None


def test_a_check_is_asked_only_when_all_rules_pass():
    asked = []
    assert reason(with_call(action="mul"), check=asked.append) == "unknown tool"
    assert reason(GOOD, pool=RougePool([GOOD.question]), check=asked.append) == "overlap"
    assert asked == []
    assert reason(GOOD, check=lambda sample: asked.append(sample) or "no") == "check"
    assert asked == [GOOD]
