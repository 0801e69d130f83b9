"""What a tool is, and how one is called with the text that a model wrote.

    Action: calculator                  name          -> the tool
    Action Input: {"expression": "2*3"} argument_text -> its arguments -> its function
    Observation: 6                      what comes back

A model makes every mistake there is, and each must come back as an observation that it can learn
from in its next thought. So `call_tool` does not raise for what a model wrote:

    a name that no tool has             the names there are, and the nearest one
    an Action Input that is not JSON    what is wrong, and in which line and column
    arguments that do not fit           which one, what came, what is needed (json_schema.py)
    the tool raises                     type and message, without the traceback

A mistake of the programmer is raised: two tools of one name, a schema that is none, a tool that
returns neither text nor an Observation. So are Ctrl+C and SystemExit, which are no `Exception`.

A name must be written as it is, blanks around it aside. The report counts a choice as right when it
is equal without regard to case, so two names may not differ in case alone.

Paper:    Qwen Technical Report, 3.4 Tool Use, Code Interpreter, and Agent.
Origin:   Yao et al. 2022 (ReAct), arXiv:2210.03629; the fields of a tool are those of ChatGPT's
          plug-ins: name_for_model, name_for_human, description_for_model.
Differs:  arguments are one JSON Schema, draft 2020-12, where Qwen's examples list them by hand.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

from .json_arguments import read_arguments
from .json_schema import require_schema, schema_errors

NOT_IN_A_NAME = ",[]"  # the prompt lists names as [one, two]
LONGEST_MESSAGE = 500  # characters of an exception that the model gets to read


class Observation(NamedTuple):
    text: str  # what the model reads after `Observation:`
    error: bool = False  # bad JSON, unknown tool, wrong arguments, or the tool raised
    files: tuple[str, ...] = ()  # paths that the tool wrote, such as plots


class Tool(NamedTuple):
    name: str  # name_for_model: what the model writes after `Action:`
    title: str  # name_for_human
    description: str  # description_for_model
    parameters: dict[str, Any]  # JSON Schema (draft 2020-12) of the object of arguments
    call: Callable[..., str | Observation]  # called with the validated arguments by keyword
    code_argument: str | None = None  # where an Action Input goes that is bare code and no JSON


def make_tools(tools: Iterable[Tool]) -> dict[str, Tool]:
    """Check tools and put each under its name, in the order given.

    Args:
        tools: at least one.

    Returns:
        The tools by name, for `call_tool` and for the prompt.

    Raises:
        TypeError: something is no Tool, or a field has the wrong type.
        ValueError: there is no tool; a name is empty, not printable, has blanks around it or one of
            ",[]", or comes twice; a schema is none; a function does not take the arguments of its
            schema; or code_argument is no text of it.
        ImportError: jsonschema is missing.

    >>> hello = Tool("hello", "Hello", "Greets.", {"type": "object"}, lambda: "Hello!")
    >>> list(make_tools([hello]))
    ['hello']
    >>> make_tools([hello, hello._replace(name="Hello")])
    Traceback (most recent call last):
    ...
    ValueError: two tools have the name 'Hello', in this or another case
    """
    made: dict[str, Tool] = {}
    taken: set[str] = set()
    for tool in tools:
        if not isinstance(tool, Tool):
            raise TypeError(f"tools must hold Tools, got {type(tool).__name__}")
        _require_tool(tool)
        if tool.name.casefold() in taken:
            raise ValueError(f"two tools have the name {tool.name!r}, in this or another case")
        taken.add(tool.name.casefold())
        made[tool.name] = tool
    if not made:
        raise ValueError("tools must hold at least one Tool")
    return made


def call_tool(tools: Mapping[str, Tool], name: str, argument_text: str | None) -> Observation:
    """Call the tool that a model named, with the arguments it wrote.

    Args:
        tools: of `make_tools`.
        name: what stood after `Action:`.
        argument_text: what stood after `Action Input:`; None or blanks are no arguments.

    Returns:
        What the tool gave, or an error for the model to read.

    Raises:
        TypeError: the tool returned neither text nor an Observation: a mistake in the tool.

    >>> square = {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]}
    >>> tools = make_tools([Tool("square", "Square", "x * x", square, lambda x: str(x * x))])
    >>> call_tool(tools, "square", '{"x": 3}').text
    '9'
    >>> call_tool(tools, "square", '{"x": "3"}').text
    'wrong arguments for square: x must be a number, got "3"'
    >>> call_tool(tools, "sqare", "{}").text
    "there is no tool 'sqare', did you mean square? The tools are: square"
    """
    tool = tools.get(name.strip())
    if tool is None:
        return _error(_unknown(tools, name.strip()))
    try:
        arguments = read_arguments(argument_text or "", tool.code_argument)
    except ValueError as error:
        return _error(f"the Action Input of {tool.name} {error}")
    if errors := schema_errors(tool.parameters, arguments):
        return _error(f"wrong arguments for {tool.name}: {'; '.join(errors)}")
    if misfit := _misfit(tool.call, arguments):
        return _error(f"wrong arguments for {tool.name}: {misfit}")
    try:
        result: object = tool.call(**arguments)
    except Exception as error:
        return _error(_told(error))
    if isinstance(result, str):
        result = Observation(result)
    if not isinstance(result, Observation) or not isinstance(result.text, str):
        kind = type(getattr(result, "text", result)).__name__
        raise TypeError(f"the tool {tool.name} must return a str or an Observation, got {kind}")
    return result._replace(text=_encodable(result.text))


def _require_tool(tool: Tool) -> None:
    texts = {"name": tool.name, "title": tool.title, "description": tool.description}
    for field, text in texts.items():
        if not isinstance(text, str):
            kind = type(text).__name__
            raise TypeError(f"{field} of a Tool must be a text, got {kind} ({tool.name!r:.80})")
    name = tool.name
    if not name or not name.isprintable() or name != name.strip() or set(name) & set(NOT_IN_A_NAME):
        raise ValueError(
            f"the name of a Tool must be printable, in one line, without blanks around it and "
            f"without any of {NOT_IN_A_NAME}, got {name!r:.80}"
        )
    if not callable(tool.call):
        raise TypeError(f"call of the tool {name} must be callable, got {type(tool.call).__name__}")
    require_schema(f"parameters of the tool {name}", tool.parameters)
    properties = tool.parameters.get("properties")
    required = tool.parameters.get("required", ())
    if properties is not None:  # else they may stand behind a $ref
        for names in (properties, required):
            if misfit := _misfit(tool.call, dict.fromkeys(names)):
                raise ValueError(f"call of the tool {name} does not fit its parameters: {misfit}")
    if tool.code_argument is not None:
        argument = (properties or {}).get(tool.code_argument)
        is_text = isinstance(argument, dict) and argument.get("type") == "string"
        if not is_text or set(required) - {tool.code_argument}:
            raise ValueError(
                f"code_argument of the tool {name}, {tool.code_argument!r}, must be an argument of "
                "type string, and no other may be required"
            )


def _misfit(call: Callable[..., Any], arguments: Mapping[str, Any]) -> str:
    """Say why a function cannot be called with these keywords; "" where it can, or nobody knows."""
    try:
        signature = inspect.signature(call)
    except (ValueError, TypeError):  # some functions written in C do not tell
        return ""
    try:
        signature.bind(**arguments)
    except TypeError as error:
        return str(error)
    return ""


def _unknown(tools: Mapping[str, Tool], name: str) -> str:
    folded = {known.casefold(): known for known in tools}
    asked = name.casefold()[:100]
    near = get_close_matches(asked, folded, n=1) or [known for known in folded if known in asked]
    hint = f", did you mean {folded[near[0]]}?" if near else "."
    return f"there is no tool {name!r:.80}{hint} The tools are: {', '.join(tools)}"


def _told(error: Exception) -> str:
    """Return type and message of an error of a tool, whose message may fail as well."""
    try:
        return f"{type(error).__name__}: {error}"[:LONGEST_MESSAGE]
    except Exception:
        return type(error).__name__


def _error(text: str) -> Observation:
    return Observation(_encodable(text), error=True)


def _encodable(text: str) -> str:
    """Half a surrogate pair becomes a question mark: no tokenizer can encode it."""
    return text.encode("utf-8", "replace").decode("utf-8")
