"""Chat templates: which turns a list of messages becomes, and which words stand in them.

    <|im_start|>system
    You are a helpful assistant.<|im_end|>
    <|im_start|>user
    Hi<|im_end|>
    <|im_start|>assistant
    Hello!<|im_end|>

What differs between the generations:

    template    system text of a chat that brings none                   tokens cut     tools
    qwen        You are a helpful assistant.                             in pieces      no
    qwen1.5     You are a helpful assistant                              in one         no
    qwen2       You are a helpful assistant.                             in one         no
    qwen2.5     You are Qwen, created by Alibaba Cloud. You are a ...    in one         yes

In pieces: role, line end and content become tokens each by itself. In one: together, so that a
content which begins with a line end grows into one token with the line end before it.

Qwen2.5 has tools. Their list stands at the end of the system text, calls at the end of an answer,
results in a turn of the user, all results that follow each other in one turn:

    <tool_call>                             <tool_response>
    {"name": "now", "arguments": {}}        12:30
    </tool_call>                            </tool_response>

A vocabulary may have these marks as control tokens (that of Qwen2.5 has the first pair). Only the
marks that the template itself writes become those; in a content they stay text.

Paper:    Qwen Technical Report, 3.1.1 Data (ChatML). The words are those of the released code.
Origin:   make_context in qwen_generation_utils.py (qwen), chat_template in tokenizer_config.json.
Differs:  the first template of Qwen1.5 left the last turn open when no answer was asked for; here
          every turn is closed. Quotes in the name of a tool are escaped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..messages import Message, name_and_arguments, require_messages


class Template(NamedTuple):
    system: str | None  # of a chat that brings no system text; None = such a chat has no such turn
    in_one: bool = True  # role, line end and content become tokens together
    tools: bool = False  # whether there is a form for tools


HELPFUL = "You are a helpful assistant."
TEMPLATES = {
    "qwen": Template(HELPFUL, in_one=False),
    "qwen1.5": Template("You are a helpful assistant"),
    "qwen2": Template(HELPFUL),
    "qwen2.5": Template(f"You are Qwen, created by Alibaba Cloud. {HELPFUL}", tools=True),
}
MARKS = frozenset({"<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"})

BEFORE_TOOLS = (
    "\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
AFTER_TOOLS = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments "
    "within <tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)
RESULT = re.compile(r"<tool_response>\n(.*)\n</tool_response>", re.DOTALL)
BETWEEN_RESULTS = "\n</tool_response>\n<tool_response>\n"


class Part(NamedTuple):
    text: str
    ours: bool = False  # True = words of the template: MARKS in it may be control tokens
    given: bool = False  # True = a part of an answer that the model did not write


class Turn(NamedTuple):
    role: str  # as it is written
    parts: list[Part]  # the content


def choose_template(template: str | Template) -> Template:
    """Return the template of this name; one that is none of the published passes through.

    Raises:
        ValueError: there is no such name.

    >>> choose_template("qwen1.5").system
    'You are a helpful assistant'
    """
    if isinstance(template, Template):
        return template
    if template not in TEMPLATES:
        raise ValueError(f"template must be one of {', '.join(TEMPLATES)}, got {template!r}")
    return TEMPLATES[template]


def lay_out(
    messages: Sequence[Message],
    template: Template,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> list[Turn]:
    """Write a chat as turns.

    Args:
        messages: see `messages.py`. They stay in their order, whoever begins; a system message
            that is not the first is written where it stands.
        template: decides on the system text and on tools.
        tools: descriptions of the tools, as JSON objects.

    Returns:
        The turns; all but the words of tools are the contents, untouched.

    Raises:
        TypeError, ValueError: see `require_messages`; or the template has no form for tools.

    >>> for turn in lay_out([{"role": "user", "content": "Hi"}], TEMPLATES["qwen2"]):
    ...     print(turn.role, turn.parts[0].text)
    system You are a helpful assistant.
    user Hi
    """
    require_messages("messages", messages)
    for i, message in enumerate(messages):
        if (message["role"] == "tool" or message.get("tool_calls")) and not template.tools:
            raise ValueError(f"messages[{i}] is about tools, the template has no form for them")
    if tools and not template.tools:
        raise ValueError("tools were given, the template has no form for them")

    turns: list[Turn] = []
    if messages[0]["role"] != "system" and (template.system is not None or tools):
        turns.append(Turn("system", [Part(template.system or "")]))
    for i, message in enumerate(messages):
        role = message["role"]
        if role != "tool":
            turns.append(Turn(role, _content(message)))
        elif i and messages[i - 1]["role"] == "tool":
            turns[-1].parts.extend([Part("\n", ours=True), *_result(message)])
        else:
            turns.append(Turn("user", _result(message)))
    if tools:
        lines = "".join("\n" + _json(tool) for tool in tools)
        described = [Part(BEFORE_TOOLS, True), Part(lines), Part(AFTER_TOOLS, True)]
        turns[0].parts.extend(described)
    return turns


def _content(message: Message) -> list[Part]:
    """Return the content of a message, then its calls, each on lines of its own."""
    content = message.get("content") or ""
    parts, at = [], 0
    for start, end in message.get("given") or ():
        parts += [Part(content[at:start]), Part(content[start:end], given=True)]
        at = end
    parts.append(Part(content[at:]))
    for call in message.get("tool_calls") or ():
        name, arguments = name_and_arguments(call)
        line_end = "\n" if any(part.text for part in parts) else ""
        body = f'{{"name": {_json(name)}, "arguments": {_json(arguments)}}}'
        before, after = Part(f"{line_end}<tool_call>\n", True), Part("\n</tool_call>", True)
        parts += [before, Part(body), after]
    return parts


def _result(message: Message) -> list[Part]:
    before, after = Part("<tool_response>\n", True), Part("\n</tool_response>", True)
    return [before, Part(message["content"]), after]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def read_tools(message: dict[str, Any]) -> list[dict[str, Any]]:
    """Find tools in the text of a turn: the calls of an answer, or results in a turn of the user.

    Args:
        message: role and content, as decoded.

    Returns:
        The message with `tool_calls` instead of their text; or a message of the role tool for each
        result; or the message as it is. A call that is not such JSON stays text.

    >>> read_tools({"role": "user", "content": "<tool_response>\\n12:30\\n</tool_response>"})
    [{'role': 'tool', 'content': '12:30'}]
    """
    content = message["content"]
    if message["role"] == "user" and (found := RESULT.fullmatch(content)):
        results = found.group(1).split(BETWEEN_RESULTS)
        return [{"role": "tool", "content": result} for result in results]
    if message["role"] != "assistant":
        return [message]
    calls: list[dict[str, Any]] = []
    while content.endswith("\n</tool_call>"):
        before, mark, body = content.removesuffix("\n</tool_call>").rpartition("<tool_call>\n")
        call = _read_call(body) if mark and (not before or before.endswith("\n")) else None
        if call is None:
            break
        calls.insert(0, call)
        content = before.removesuffix("\n")
    return [{**message, "content": content, "tool_calls": calls} if calls else message]


def _read_call(body: str) -> dict[str, Any] | None:
    try:
        call = json.loads(body)
        name, arguments = name_and_arguments(call)
    except (ValueError, TypeError):
        return None
    return {"name": name, "arguments": dict(arguments)}
