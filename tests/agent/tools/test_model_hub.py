from typing import Annotated, Any, Literal, Optional, Union

import numpy as np
import pytest

from minqwen.agent.tool import Observation, Tool, call_tool, make_tools
from minqwen.agent.tools.function_schema import as_asked, schema_of
from minqwen.agent.tools.model_hub import local_tool, tool_list
from minqwen.tokenizer.bpe import bpe_train


def call(function, text, **fields):
    tool = local_tool(function, description="Does it.", **fields)
    return call_tool(make_tools([tool]), tool.name, text)


@pytest.mark.parametrize(
    ("annotation", "schema"),
    [
        (str, {"type": "string"}),
        (int, {"type": "integer"}),
        (float, {"type": "number"}),
        (bool, {"type": "boolean"}),
        (list, {"type": "array"}),
        (list[int], {"type": "array", "items": {"type": "integer"}}),
        (
            list[list[str]],
            {"type": "array", "items": {"type": "array", "items": {"type": "string"}}},
        ),
        (dict, {"type": "object"}),
        (dict[str, float], {"type": "object", "additionalProperties": {"type": "number"}}),
        (Literal["en", "zh", 3], {"enum": ["en", "zh", 3]}),
        (int | None, {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
        (Optional[str], {"anyOf": [{"type": "string"}, {"type": "null"}]}),  # noqa: UP045
        (Union[int, str], {"anyOf": [{"type": "integer"}, {"type": "string"}]}),  # noqa: UP007
        (Any, {}),
        (Annotated[int, "how many", 7], {"type": "integer", "description": "how many"}),
        (Annotated[str, 7], {"type": "string"}),
    ],
)
def test_a_schema_is_made_of_an_annotation(annotation, schema):
    def function(x): ...

    function.__annotations__ = {"x": annotation, "return": bytes}
    assert schema_of(function) == {
        "type": "object",
        "properties": {"x": schema},
        "required": ["x"],
        "additionalProperties": False,
    }
    make_tools([local_tool(function, description="Does it.")])


def test_defaults_are_written_and_not_required():
    def function(a: int, b: str = "猫", *, c: list[int] = (1, 2), d: None = None): ...

    schema = schema_of(function)
    assert schema["required"] == ["a"]
    defaults = {key: value.get("default", "none") for key, value in schema["properties"].items()}
    assert defaults == {"a": "none", "b": "猫", "c": [1, 2], "d": None}


def no_annotation(x): ...
def bytes_argument(x: bytes): ...
def int_keys(x: dict[int, str]): ...
def several(*x: int): ...
def any_keyword(**x: int): ...
def by_position(x: int, /): ...
def odd_default(x: Any = object): ...
def unknown_name(x: "Nothing"): ...  # noqa: F821


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (no_annotation, "x of no_annotation has no annotation"),
        (bytes_argument, "x of bytes_argument has the annotation <class 'bytes'>"),
        (int_keys, "which is not JSON"),
        (several, "x of several cannot be given by keyword"),
        (any_keyword, "x of any_keyword cannot be given by keyword"),
        (by_position, "x of by_position cannot be given by keyword"),
        (odd_default, "the default of x of odd_default is not JSON"),
        (unknown_name, "name 'Nothing' is not defined"),
        (max, "does not tell what it takes"),
    ],
)
def test_what_has_no_schema_is_told(function, message):
    with pytest.raises(TypeError, match=message):
        schema_of(function)


def test_a_whole_number_is_an_integer_wherever_one_is_wanted():
    def function(
        n: int, maybe: int | None, many: list[int], by: dict[str, int], x: float | int
    ): ...

    given = {"n": 3.0, "maybe": 4.0, "many": [5.0], "by": {"k": 6.0}, "x": 7.0}
    asked = as_asked(schema_of(function), given)
    assert repr(asked) == "{'n': 3, 'maybe': 4, 'many': [5], 'by': {'k': 6}, 'x': 7.0}"
    assert as_asked(schema_of(function), given | {"maybe": None})["maybe"] is None
    assert call(lambda n: list(range(n)), '{"n": 2.0}', parameters=HALF_OPEN).text == "[0, 1]"


HALF_OPEN = {
    "type": "object",
    "properties": {"n": {"anyOf": [{"type": "null"}, {"type": "integer"}]}},
    "required": ["n"],
}


def test_a_function_that_must_be_awaited_is_refused():
    async def fetch(url: str) -> str:
        return url

    with pytest.raises(TypeError, match="fetch is async; wrap it"):
        local_tool(fetch, description="Fetches.")


def test_name_title_and_description_come_from_the_function():
    def read_page(url: str) -> str:
        """Read a page,
        as text.

        Args: and so on.
        """
        return url

    tool = local_tool(read_page)
    assert tool[:3] == ("read_page", "Read page", "Read a page, as text.")
    other = local_tool(
        read_page, name="r", title="R", description="D", parameters={"type": "object"}
    )
    assert other[:4] == ("r", "R", "D", {"type": "object"})


def test_a_function_without_words_is_refused():
    with pytest.raises(ValueError, match="no_annotation needs a description or a docstring"):
        local_tool(no_annotation, parameters={"type": "object"})


def test_a_schema_that_does_not_fit_the_function_is_refused_with_the_tools():
    other = {"type": "object", "properties": {"word": {}}, "required": ["word"]}
    tool = local_tool(shout, description="Shouts.", parameters=other)
    with pytest.raises(
        ValueError, match="does not fit its parameters: missing a required argument"
    ):
        make_tools([tool])


def shout(text: str, times: int = 1) -> str:
    return text.upper() * times


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ('{"text": "a"}', "A"),
        ('{"text": "a", "times": 3}', "AAA"),
        ('{"text": "a", "times": 2.0}', "AA"),  # an integer to JSON Schema, and so to the function
        ('{"times": 2}', "wrong arguments for shout: text is missing"),
        (
            '{"text": "a", "times": 1.5}',
            "wrong arguments for shout: times must be an integer, got 1.5",
        ),
        (
            '{"text": "a", "times": "2"}',
            'wrong arguments for shout: times must be an integer, got "2"',
        ),
        (
            '{"text": "a", "n": 2}',
            'wrong arguments for shout: the object must not hold "n", it may hold: text, times',
        ),
    ],
)
def test_arguments_are_checked_before_the_function_is_called(text, seen):
    assert call(shout, text).text == seen


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ("a", "a"),
        (3, "3"),
        (None, "null"),
        (True, "true"),
        ({"猫": [1, (2.5,)]}, '{"猫": [1, [2.5]]}'),
        (np.arange(4).reshape(2, 2), "[[0, 1], [2, 3]]"),
        (np.float32(0.5), "0.5"),
        ([np.int64(3)], "[3]"),
        (b"a", "TypeError: the result of function is a bytes, which is not JSON"),
    ],
)
def test_results_become_text(result, text):
    def function():
        return result

    assert call(function, "").text == text


def test_an_observation_passes():
    seen = Observation("drawn", files=("plot.png",))
    assert call(lambda: seen, "", name="draw") == seen


def test_an_object_that_can_be_called_and_a_method():
    class Model:
        def __call__(self, text: str) -> int:
            return len(text)

        def reverse(self, text: str) -> str:
            return text[::-1]

    assert call(Model(), '{"text": "abc"}', name="model").text == "3"
    assert call(Model().reverse, '{"text": "abc"}').text == "cba"


def test_our_own_tokenizer_as_a_tool():
    tokenizer = bpe_train("low lower lowest " * 20, 260)

    def tokenize(text: str) -> list[int]:
        """Divide a text into tokens and return their ids."""
        return tokenizer.encode(text)

    tools = make_tools([local_tool(tokenize)])
    seen = call_tool(tools, "tokenize", '{"text": "low lower"}')
    assert tokenizer.decode(map(int, seen.text.strip("[]").split(","))) == "low lower"


def described(name, description):
    return Tool(name, name.title(), description, {"type": "object"}, lambda: "")


TOOLS = [
    described("weather", "Says what the weather will be in a city."),
    described("flight_search", "Finds a flight from a city to another city."),
    described("hotel", "Finds a hotel in a city."),
    described("stock", "查询股票价格"),
    described("recipe", "Says how to cook a dish."),
    described("music", "Plays a song."),
]


@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("WEATHER tomorrow?", "weather"),
        ("I want a flight", "flight_search"),
        ("a hotel in the city", "hotel"),  # city is in three, hotel in one
        ("茅台的股票", "stock"),
        ("Cook me something", "recipe"),
        ("how do I search", "flight_search"),  # a name is divided at _, how and do do not count
    ],
)
def test_candidates_are_chosen_by_shared_words(query, first):
    assert tool_list(TOOLS, 1, query)[0].name == first


def test_at_most_five_are_offered_and_the_order_stays_where_nothing_is_shared():
    assert tool_list(TOOLS) == TOOLS[:5]
    assert tool_list(TOOLS, 2, "zzz") == TOOLS[:2]
    assert tool_list(make_tools(TOOLS), 9, "song")[0] == TOOLS[5]
    assert len(tool_list(TOOLS, 9, "song")) == 6
    with pytest.raises(ValueError, match="most must be at least 1, got 0"):
        tool_list(TOOLS, 0)


def test_a_rare_word_counts_more_than_two_common_ones():
    tools = [*(described(f"t{i}", "finds a city") for i in range(4)), described("odd", "quokka")]
    assert tool_list(tools, 1, "finds a quokka city")[0].name == "odd"
