import random
import sys

import pytest

from minqwen.agent.tool import Observation, Tool, call_tool, make_tools
from minqwen.agent.tools.calculator import calculator_tool
from minqwen.agent.tools.dictionary import dictionary_tool
from minqwen.agent.tools.everyday_tools import everyday_tools

NUMBER = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
CODE = {"type": "object", "properties": {"code": {"type": "string"}}, "required": ["code"]}


def tool(call=lambda n: str(n), name="show", parameters=NUMBER, **fields):
    return Tool(name, "Show", "Shows a number.", parameters, call, **fields)


def call(text, **fields):
    return call_tool(make_tools([tool(**fields)]), "show", text)


def test_the_arguments_arrive_by_name():
    parameters = {"type": "object", "properties": {"b": {}, "a": {}}, "required": ["a", "b"]}
    seen = call(
        '{"b": [1, {"c": null}], "a": "猫"}', parameters=parameters, call=lambda a, b: f"{a}{b}"
    )
    assert seen == Observation("猫[1, {'c': None}]")


def test_an_observation_passes_as_it_is():
    given = Observation("drawn", files=("plot.png",))
    assert call('{"n": 1}', call=lambda n: given) == given


@pytest.mark.parametrize("name", ["show", " show", "show\n"])
def test_blanks_around_a_name_do_not_count(name):
    assert call_tool(make_tools([tool()]), name, '{"n": 1}').text == "1"


@pytest.mark.parametrize(
    "name", ["Show", "sho", "show()", "show.", 'show({"n": 1, "of": "2"})', ""]
)
def test_another_name_is_not_guessed_but_told(name):
    other = tool(name="calculator")
    seen = call_tool(make_tools([tool(), other]), name, '{"n": 1}')
    assert seen.error
    assert seen.text.endswith("The tools are: show, calculator")
    assert ("did you mean show?" in seen.text) == bool(name)


def test_no_argument_is_no_error_where_none_is_needed():
    hello = tool(parameters={"type": "object"}, call=lambda: "hello")
    tools = make_tools([hello])
    assert [call_tool(tools, "show", text).text for text in ("", " \n", None, "{}")] == [
        "hello"
    ] * 4
    assert call("").text == "wrong arguments for show: n is missing"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"n": "1"}', 'wrong arguments for show: n must be an integer, got "1"'),
        ('{"n": true}', "wrong arguments for show: n must be an integer, got true"),
        ('{"n": null}', "wrong arguments for show: n must be an integer, got null"),
        ('{"m": 1}', "wrong arguments for show: n is missing"),
        ('{"n": 1', "the Action Input of show is not JSON: expecting ',' delimiter at its end"),
        ("[1]", "the Action Input of show must be a JSON object, {...}, got '[1]'"),
        (
            '{"n": 1, "m": 2}',
            "wrong arguments for show: got an unexpected keyword argument 'm'",
        ),
    ],
)
def test_a_mistake_in_the_arguments_is_an_observation(text, message):
    assert call(text) == Observation(message, error=True)


def test_an_error_whose_message_fails_as_well():
    class Broken(Exception):
        def __str__(self):
            raise RuntimeError

    def fail(n):
        raise Broken

    assert call('{"n": 1}', call=fail) == Observation("Broken", error=True)


def test_what_a_tool_raises_is_an_observation_without_a_traceback():
    def broken(n):
        raise KeyError("n" * 9999)

    seen = call('{"n": 1}', call=broken)
    assert seen.error
    assert seen.text.startswith("KeyError: 'nnn")
    assert len(seen.text) == 500


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_ctrl_c_is_not_swallowed(error):
    def stopped(n):
        raise error

    with pytest.raises(error):
        call('{"n": 1}', call=stopped)


@pytest.mark.parametrize(
    ("result", "kind"), [(7, "int"), (None, "NoneType"), (Observation(7), "int")]
)
def test_a_tool_that_returns_no_text_is_the_programmers_mistake(result, kind):
    message = f"the tool show must return a str or an Observation, got {kind}"
    with pytest.raises(TypeError, match=message):
        call('{"n": 1}', call=lambda n: result)


def test_half_a_surrogate_pair_comes_out_as_a_question_mark():
    def broken(n):
        raise ValueError("\udc80")

    assert call('{"n": 1}', call=lambda n: "a\ud800b").text == "a?b"
    assert call('{"n": 1}', call=broken).text == "ValueError: ?"


def test_code_may_come_bare():
    fields = {"parameters": CODE, "call": lambda code: code, "code_argument": "code"}
    assert call("x = {'a': 1}", **fields).text == "x = {'a': 1}"
    assert call("", **fields).text == "wrong arguments for show: code is missing"


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        ({"name": ""}, ValueError, "must be printable"),
        ({"name": " show"}, ValueError, "without blanks around it"),
        ({"name": "a\nb"}, ValueError, "in one line"),
        ({"name": "a,b"}, ValueError, r"without any of ,\[\]"),
        ({"name": 3}, TypeError, "name of a Tool must be a text, got int"),
        ({"call": "print"}, TypeError, "call of the tool show must be callable, got str"),
        ({"parameters": {}}, ValueError, '"type": "object", got null'),
        ({"call": lambda m: ""}, ValueError, "does not fit its parameters: missing a required"),
        ({"call": lambda n, m: ""}, ValueError, "required argument: 'm'"),
        ({"call": lambda: ""}, ValueError, "unexpected keyword argument 'n'"),
        ({"code_argument": "code"}, ValueError, "'code', must be an argument of type string"),
        ({"code_argument": "n"}, ValueError, "'n', must be an argument of type string"),
    ],
)
def test_a_bad_tool_is_refused(bad, error, message):
    with pytest.raises(error, match=message):
        make_tools([tool(**bad)])


def test_an_optional_argument_of_the_schema_may_not_be_demanded_by_the_function():
    optional = {"type": "object", "properties": {"n": {}}}
    with pytest.raises(ValueError, match="missing a required argument: 'n'"):
        make_tools([tool(parameters=optional)])
    make_tools([tool(parameters=optional, call=lambda n=1: "")])


def test_no_two_tools_share_a_name():
    with pytest.raises(ValueError, match="two tools have the name 'SHOW'"):
        make_tools([tool(), tool(name="SHOW")])
    with pytest.raises(ValueError, match="at least one"):
        make_tools([])
    with pytest.raises(TypeError, match="tools must hold Tools, got str"):
        make_tools({"show": tool()})


def test_a_missing_jsonschema_is_told_with_the_pip_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    with pytest.raises(ImportError, match=r"jsonschema is missing: pip install 'minqwen\[agent\]'"):
        make_tools([tool()])


def test_whatever_a_model_writes_is_an_observation():
    """Random pieces of JSON, code and noise, to tools of every kind."""
    echo = tool(lambda code: code, name="python", parameters=CODE, code_argument="code")
    tools = make_tools([tool(), echo, calculator_tool(), dictionary_tool(), *everyday_tools()])
    pieces = ['{"', "{", "}", '"', ":", ",", "[", "]", "n", "code", "expression", "term", "text"]
    pieces += [
        "1",
        "-",
        "1e999",
        "NaN",
        "null",
        "\\u",
        "\\ud800",
        "\n",
        "```",
        "```py\n",
        "猫",
        "\0",
    ]
    pieces += ["\ud800", "(", "**9", "sqrt(", "'", '{"n": 1}', '{"term": "', '"}', " ", "٣", "９"]
    rng = random.Random(0)
    kinds = set()
    for _ in range(1500):
        text = "".join(rng.choices(pieces, k=rng.randint(0, 12)))
        name = rng.choice([*tools, text])
        seen = call_tool(tools, name, text)
        seen.text.encode("utf-8")
        kinds.add((name if name in tools else "unknown", seen.error))
    assert len(kinds) >= len(tools) + 2  # every tool, and right ones too


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"n": ' * 100_000,
        '{"n": ' + "[" * 500 + "]" * 500 + "}",
        '{"n": ' + "9" * 5000 + "}",
        '{"n": ' + "9" * 999 + "." + "9" * 999 + "e-99999}",
        '{"' + "n" * 100_000 + '": 1}',
        "{" * 100_000,
        "`" * 100_000,
        "```\n" * 20_000,
        " " * 100_000 + "x",
        "`" + "\n" * 50_000 + "x",
    ],
    ids=lambda text: f"{text[:6]}... {len(text)}",
)
def test_nothing_large_breaks_or_stalls_it(text):
    tools = make_tools([tool(), tool(lambda code: "", "python", CODE, code_argument="code")])
    for name in tools:
        assert len(call_tool(tools, name, text).text) < 600
