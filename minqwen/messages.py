"""What a chat is: a list of messages, each of which says who speaks and what.

    [{"role": "system", "content": "Answer in one word."},
     {"role": "user", "content": "2 + 2?"},
     {"role": "assistant", "content": "Four."}]

    system      how the model shall behave
    user        what a person asks
    assistant   what the model answers; its `tool_calls` ask for tools, content may be missing then;
                `given` names the characters of the content that were given to it, not written by
                it, such as what a tool said in between: [[start, end], ...], end not included
    tool        what a tool gave back; `name` and `tool_call_id` may stand beside it

The reader of files and the tokenizer ask for the same, so it stands here once.

Paper:    Qwen Technical Report, 3.1.1 Data (ChatML: system, user, assistant).
Origin:   the messages of OpenAI's chat API, which every chat template of Qwen takes.
Differs:  a field nobody knows is an error, and arguments of a call are an object, not a text with
          JSON in it, which the published template would quote a second time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

Message: TypeAlias = Mapping[str, Any]

ROLES = ("system", "user", "assistant", "tool")
FIELDS = {  # of each role, beside role and content
    "system": frozenset[str](),
    "user": frozenset[str](),
    "assistant": frozenset({"tool_calls", "given"}),
    "tool": frozenset({"name", "tool_call_id"}),
}


def require_messages(name: str, messages: Any) -> None:
    """Raise an error that says which message is wrong, and how.

    Args:
        name: of the argument or field, for the message.
        messages: a list of messages, at least one, as above. Any order of roles will do, and an
            empty content.

    Raises:
        TypeError: messages is no list, a message no mapping, or a content no text.
        ValueError: there is no message, or a role or a field that is not known.

    >>> require_messages("messages", [{"role": "bot", "content": "Hi"}])
    Traceback (most recent call last):
    ...
    ValueError: messages[0] has the role 'bot', it must be one of system, user, assistant, tool
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes):
        raise TypeError(f"{name} must be a list of messages, got {type(messages).__name__}")
    if not messages:
        raise ValueError(f"{name} must hold at least one message")
    for i, message in enumerate(messages):
        _require_message(f"{name}[{i}]", message)


def _require_message(name: str, message: Any) -> None:
    if not isinstance(message, Mapping):
        kind = type(message).__name__
        raise TypeError(f"{name} must be an object with role and content, got {kind}")
    role = message.get("role")
    if role not in ROLES:
        raise ValueError(f"{name} has the role {role!r:.80}, it must be one of {', '.join(ROLES)}")
    if unknown := sorted(map(str, message.keys() - {"role", "content"} - FIELDS[role])):
        raise ValueError(f"{name}, role {role}, has the unknown field {unknown[0]!r:.80}")
    calls = message.get("tool_calls")
    if calls is not None and (not isinstance(calls, Sequence) or isinstance(calls, str | bytes)):
        raise TypeError(f"{name}.tool_calls must be a list, got {type(calls).__name__}")
    for i, call in enumerate(calls or ()):
        name_and_arguments(call, f"{name}.tool_calls[{i}]")
    content = message.get("content")
    if not isinstance(content, str) and not (content is None and calls):
        raise TypeError(f"{name}.content must be a text, got {type(content).__name__}")
    if (given := message.get("given")) is not None:
        _require_given(f"{name}.given", given, len(content or ""))


def _require_given(name: str, given: Any, characters: int) -> None:
    if not isinstance(given, Sequence) or isinstance(given, str | bytes):
        raise TypeError(f"{name} must be a list of [start, end], got {type(given).__name__}")
    at = 0
    for span in given:
        if not isinstance(span, Sequence) or [type(i) for i in span] != [int, int]:
            raise TypeError(f"{name} must hold [start, end], got {span!r:.80}")
        start, end = span
        if not at <= start < end <= characters:
            raise ValueError(
                f"{name} must go up from 0 to at most {characters}, the length of content, without "
                f"overlap, got {[start, end]} after {at}"
            )
        at = end


def name_and_arguments(call: Any, name: str = "call") -> tuple[str, Mapping[str, Any]]:
    """Return the name of the tool that is called and the arguments it gets.

    Args:
        call: {"name": ..., "arguments": {...}}, or the same below "function", as in OpenAI's API.
        name: of the call, for the message.

    Raises:
        TypeError: it is neither, or the arguments are no object.

    >>> name_and_arguments({"type": "function", "function": {"name": "now", "arguments": {}}})
    ('now', {})
    """
    inner = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
        raise TypeError(f"{name} must be an object with a name and arguments, got {call!r:.80}")
    arguments = inner.get("arguments")
    if not isinstance(arguments, Mapping):
        kind = type(arguments).__name__
        hint = "; read the JSON in it first" if isinstance(arguments, str) else ""
        raise TypeError(f"{name}.arguments must be an object, got {kind}{hint}")
    return inner["name"], arguments
