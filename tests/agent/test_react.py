"""The loop: who wrote what, what a mistake leads to, and why it ends."""

import copy
import pickle

import pytest

from minqwen.agent.react import make_prompt, run_react
from minqwen.agent.react_prompt import react_prompt
from minqwen.agent.tool import Observation, Tool, make_tools

pytest.importorskip("jsonschema")

NUMBERS = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
    "required": ["a", "b"],
}
TOOLS = make_tools(
    [
        Tool("add", "Adder", "Adds two numbers.", NUMBERS, lambda a, b: f" {a + b}\n"),
        Tool(
            "plot", "Plotter", "Draws.", {"type": "object"}, lambda: Observation("ok", files=("p",))
        ),
        Tool("page", "Reader", "Reads.", {"type": "object"}, lambda: " x" * 3000),
        Tool("bad", "Bad", "Fails.", {"type": "object"}, lambda: [][0]),
    ]
)
CALL = 'Thought: Add.\nAction: add\nAction Input: {"a": 20, "b": 22}'
ANSWER = " I know.\nFinal Answer: 42"


class Script:
    """A model that writes what it was told to, and remembers what it was asked."""

    def __init__(self, *answers):
        self.answers, self.prompts = list(answers), []

    def __call__(self, prompt):
        self.prompts.append(prompt)
        return self.answers[len(self.prompts) - 1]


def run(*answers, **options):
    script = Script(*answers)
    return run_react("20 + 22?", TOOLS, script, **options), script


def answer_of(transcript):
    return "".join(text for text, _ in transcript.parts[1:])


QUESTION = react_prompt("20 + 22?", TOOLS) + "\n"
CONVERSATION = CALL + "\nObservation: 42\nThought:" + ANSWER


def test_a_run():
    transcript, script = run(CALL + "\n", ANSWER, count_tokens=len)
    assert script.prompts == [QUESTION, QUESTION + CALL + "\nObservation: 42\nThought:"]
    assert [p[p.answer_begins :] for p in script.prompts] == ["", CONVERSATION[: -len(ANSWER)]]
    assert transcript.final_answer == "42"
    assert transcript.ended == "answer"
    assert transcript.text() == QUESTION + CONVERSATION
    assert transcript.parts == (
        (QUESTION, False),
        (CALL + "\nObservation:", True),
        (" 42\nThought:", False),
        (ANSWER, True),
    )
    first, second = transcript.steps
    assert first[:6] == ("Add.", "add", '{"a": 20, "b": 22}', "42", False, ())
    assert second[:6] == ("I know.", None, None, None, False, ())
    assert (first.prompt_tokens, first.answer_tokens) == (len(QUESTION), len(CALL) + 1)
    assert second.prompt_tokens == len(script.prompts[1])
    assert transcript.tokens() == (len("".join(script.prompts)), len(CALL) + 1 + len(ANSWER))


def test_nobody_need_count():
    transcript, _ = run(CALL, ANSWER)
    assert transcript.steps[0][6:] == (None, None)
    assert transcript.tokens() == (0, 0)


@pytest.mark.parametrize(
    "rest",
    [
        "\nObserv",
        "\nObservation:",
        "\nObservation: 41\nThought: Good.\nFinal Answer: 41",
        "\nFinal Answer: 41",
        "\nSo it is 41.",
        "\nAction: bad\nAction Input: {}",
    ],
)
def test_what_the_model_invents_is_dropped(rest):
    transcript, script = run(CALL + rest, ANSWER + "\n\nQuestion: 1 + 1?\nThought: Easy.")
    assert answer_of(transcript) == CONVERSATION
    assert "41" not in script.prompts[1]
    assert transcript.final_answer == "42"


def test_space_between_our_words_and_the_models():
    transcript, _ = run("\n\n" + CALL, "I know.\nFinal Answer: 42 \n")
    assert answer_of(transcript) == CONVERSATION


@pytest.mark.parametrize(
    ("call", "observation"),
    [
        ("Action: sub\nAction Input: {}", "there is no tool 'sub'"),
        ("Action: add\nAction Input: {20, 22}", "JSON"),
        ('Action: add\nAction Input: {"a": 20}', "wrong arguments for add"),
        ("Action: add", "wrong arguments for add"),
        ("Action: bad\nAction Input: {}", "IndexError"),
    ],
)
def test_a_mistake_is_an_observation(call, observation):
    transcript, script = run(call, "Thought: Again.\n" + CALL[14:], ANSWER)
    first, second, _ = transcript.steps
    assert first.error
    assert observation in first.observation
    assert f"\nObservation: {first.observation}\nThought:" in script.prompts[1]
    assert (second.error, transcript.final_answer) == (False, "42")


def test_files_are_handed_on():
    transcript, _ = run("Action: plot\nAction Input: {}", ANSWER)
    assert transcript.steps[0].files == ("p",)


@pytest.mark.parametrize(
    ("answers", "options", "ended", "final_answer"),
    [
        (["42"], {}, "answer", "42"),
        (["Final Answer: 42"], {}, "answer", "42"),
        (["Thought: Hm."], {}, "no action", None),
        ([CALL, " Hm."], {}, "no action", None),
        ([""], {}, "nothing", None),
        ([CALL, "\n"], {}, "nothing", None),
        (["Observation: 42"], {}, "nothing", None),
        ([CALL] * 9, {}, "repetition", None),
        ([CALL] * 9, {"max_steps": 2}, "step limit", None),
        ([CALL.replace("20", str(i)) for i in range(9)], {}, "step limit", None),
        ([CALL, ANSWER], {"max_steps": 2}, "answer", "42"),
    ],
)
def test_why_it_ends(answers, options, ended, final_answer):
    transcript, script = run(*answers, **options)
    assert (transcript.ended, transcript.final_answer) == (ended, final_answer)
    assert len(transcript.steps) == len(script.prompts)
    assert len(script.prompts) == {"repetition": 3, "step limit": options.get("max_steps", 8)}.get(
        ended, len(answers)
    )


def test_the_same_call_with_another_result_is_no_repetition():
    numbers = iter(range(99))
    dice = Tool("dice", "Dice", "Rolls.", {"type": "object"}, lambda: str(next(numbers)))
    script = Script(*["Action: dice\nAction Input: {}"] * 5, " Five.\nFinal Answer: 5")
    assert run_react("Roll.", {"dice": dice}, script).ended == "answer"


def test_a_long_observation_loses_its_middle():
    transcript, script = run("Action: page\nAction Input: {}", ANSWER, observation_limit=200)
    observation = transcript.steps[0].observation
    assert observation == "x " * 50 + "\n... [5799 characters left out] ...\n" + " x" * 50
    assert observation in script.prompts[1]


def test_language_and_history_are_those_of_the_prompt():
    options = {"language": "zh", "history": [("你好", "你好！")], "separator": ", "}
    _, script = run("42", **options)
    assert script.prompts == [react_prompt("20 + 22?", TOOLS, **options) + "\n"]


def test_a_prompt_can_be_sent_to_another_process():
    prompt = make_prompt("2 + 2?", "Thought: Easy.")
    for other in (pickle.loads(pickle.dumps(prompt)), copy.deepcopy(prompt)):
        assert (other, other.answer_begins) == (prompt, 7)


def test_mistakes_of_the_programmer_are_raised():
    with pytest.raises(TypeError, match="generate must return a str, got NoneType"):
        run(None)
    with pytest.raises(ValueError, match="max_steps must be 1 or more, got 0"):
        run(CALL, max_steps=0)
    with pytest.raises(ValueError, match="observation_limit must be 1 or more, got -1"):
        run(CALL, observation_limit=-1)
    broken = {"b": Tool("b", "B", "", {"type": "object"}, lambda: 3)}
    with pytest.raises(TypeError, match="the tool b must return"):
        run_react("?", broken, Script("Action: b\nAction Input: {}"))


def test_ctrl_c_in_a_tool_stops_the_run():
    def interrupted():
        raise KeyboardInterrupt

    tool = {"b": Tool("b", "B", "", {"type": "object"}, interrupted)}
    with pytest.raises(KeyboardInterrupt):
        run_react("?", tool, Script("Action: b\nAction Input: {}"))
