"""Many functions behind one interface: a model reads what each can do, and calls one.

In the report Qwen is the agent of Hugging Face's library: it picks models from a hub and calls them
as functions. Here the hub is any Python function with annotations, which may well run a model:

    def summarize(text: str, words: int = 50) -> str:           local_tool(summarize)
        "Make a text short."

becomes a tool `summarize`, described by the first paragraph of its docstring, with a schema of its
arguments (function_schema.py).

The prompt gets a few candidates only, as the report's benchmark does. `tool_list` chooses by the
words that a query shares with name, title and description of a tool. A word that many tools have
counts less, and those of COMMON not at all:

    score of a tool = sum over the shared words of 1 / (tools that have the word)

A Chinese character counts as a word. Tools of one score stay in the order given, so that without a
shared word the first ones are offered.

Paper:    Qwen Technical Report, 3.4 Tool Use, Code Interpreter, and Agent: at most five
          candidates; the agent of Hugging Face.
Origin:   the agents of transformers 4.29; Spärck Jones 1972 for the weight of rare words.
Differs:  functions on this machine, and no hub on the network. Words are compared as they are
          written: "translate" does not find "translation", which an embedding would.
"""

from __future__ import annotations

import inspect
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..tool import Observation, Tool
from .function_schema import as_asked, schema_of, signature_of

MOST_CANDIDATES = 5  # of the report's benchmark
WORD = re.compile("[\u3400-\u4dbf\u4e00-\u9fff]|[^\\W_\u3400-\u4dbf\u4e00-\u9fff]+")
COMMON_WORDS = (
    "a about all an and any are as at be by can could do does for from give how i if in into is it "
    "its me much my no not of on or please should so that the then there this to up was what when "
    "where which who will with would you your"
)
COMMON = frozenset([*COMMON_WORDS.split(), *"的了是在我你有和请吗把给一个这那不么"])


def local_tool(
    function: Callable[..., Any],
    *,
    name: str | None = None,
    title: str | None = None,
    description: str | None = None,
    parameters: dict[str, Any] | None = None,
) -> Tool:
    """Make a tool of a function.

    Args:
        function: takes its arguments by keyword. What it returns, if no text and no Observation, is
            written as JSON.
        name: None takes the function's.
        title: for people; None makes it of the name.
        description: for the model; None takes the first paragraph of the docstring.
        parameters: JSON Schema; None makes it of the annotations, see `schema_of`.

    Raises:
        TypeError: of `schema_of`; or the function is async, and would have to be awaited.
        ValueError: there is no description.

    >>> def add(a: int, b: int = 1) -> int:
    ...     "Add two numbers."
    ...     return a + b
    >>> tool = local_tool(add)
    >>> tool.title, tool.description, tool.call(a=2)
    ('Add', 'Add two numbers.', '3')
    """
    name = getattr(function, "__name__", "") if name is None else name
    if description is None:
        description = " ".join((inspect.getdoc(function) or "").split("\n\n")[0].split())
    if not description:
        raise ValueError(f"{name} needs a description or a docstring: the model chooses by it")
    if inspect.iscoroutinefunction(function):
        raise TypeError(f"{name} is async; wrap it in a def that runs it, as asyncio.run does")
    schema = schema_of(function) if parameters is None else parameters

    def call(**arguments: Any) -> str | Observation:
        result = function(**as_asked(schema, arguments))
        if isinstance(result, str | Observation):
            return result
        try:
            return json.dumps(result, ensure_ascii=False, default=_plain)
        except (TypeError, ValueError):
            kind = type(result).__name__
            raise TypeError(f"the result of {name} is a {kind}, which is not JSON") from None

    call.__signature__ = signature_of(function)  # type: ignore[attr-defined]
    spelled = name.replace("_", " ")
    title = spelled[:1].upper() + spelled[1:] if title is None else title
    return Tool(name, title, description, schema, call)


def tool_list(
    tools: Iterable[Tool] | Mapping[str, Tool], most: int = MOST_CANDIDATES, query: str = ""
) -> list[Tool]:
    """Choose the tools to offer for a query, the fittest first.

    Args:
        tools: to choose from.
        most: how many at most, at least 1.
        query: what the user asks.

    Raises:
        ValueError: most is below 1.

    >>> def word(text: str) -> str:
    ...     "Say what a word means."
    >>> def month(text: str) -> str:
    ...     "Say how many days a month has."
    >>> tools = [local_tool(word), local_tool(month)]
    >>> [tool.name for tool in tool_list(tools, 1, "How many days has May?")]
    ['month']
    """
    if most < 1:
        raise ValueError(f"most must be at least 1, got {most}")
    listed = list(tools.values() if isinstance(tools, Mapping) else tools)
    words = [_words(f"{tool.name} {tool.title} {tool.description}") for tool in listed]
    have = Counter(word for of_one in words for word in of_one)
    asked = _words(query)
    scores = [sum(1 / have[word] for word in sorted(asked & of_one)) for of_one in words]
    order = sorted(range(len(listed)), key=lambda i: -scores[i])
    return [listed[i] for i in order[:most]]


def _words(text: str) -> set[str]:
    return set(WORD.findall(text.casefold())) - COMMON


def _plain(value: Any) -> Any:
    """Return lists and numbers for an array, of any array module."""
    if not hasattr(value, "tolist"):
        raise TypeError(f"{type(value).__name__} is not JSON")
    return value.tolist()
