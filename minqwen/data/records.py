"""Files of chats, of preferences and of prompts: JSONL, one JSON object on a line, checked.

    chats         {"messages": [...]}                                   what a model shall imitate
    preferences   {"prompt": ..., "chosen": ..., "rejected": ...}       which of two is better
    prompts       {"prompt": ...}                                       what to answer

Messages are those of `messages.py`. A prompt may be a text, which is one message of the user.
Chosen and rejected may be texts, which are one answer each, or messages that go on where the prompt
ends. `tools` may stand on any line: descriptions of tools, a list of objects. Every other field is
yours, and kept: "answer", "source", ...

A line that is wrong is an error with file, line and field: what is no JSON, see jsonl.py; a content
that is no text, or an unknown role; a prompt that ends with an answer, chosen or rejected that does
not end with one or begins with another role than assistant; chosen and rejected that are the same.

Paper:    Qwen Technical Report, 3.1.1, 3.2.1 and 3.2.2: chats, comparisons, queries. Their files
          are not published.
Origin:   the field names are those of TRL and of OpenAI's fine-tuning files.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from ..messages import Message, require_messages
from .jsonl import Source, name_and_data, parse_json, read_lines


class ChatRecord(NamedTuple):
    messages: list[Message]
    tools: list[dict[str, Any]] | None  # descriptions of tools
    fields: dict[str, Any]  # everything else on the line
    line: int  # number in the file, 1 for the first


class PreferenceRecord(NamedTuple):
    prompt: list[Message]
    chosen: list[Message]  # goes on after the prompt
    rejected: list[Message]  # so does this
    tools: list[dict[str, Any]] | None
    fields: dict[str, Any]
    line: int


class PromptRecord(NamedTuple):
    prompt: list[Message]
    tools: list[dict[str, Any]] | None
    fields: dict[str, Any]
    line: int


def read_chats(source: Source, *, bad_lines: list[str] | None = None) -> list[ChatRecord]:
    r"""Read chats.

    Args:
        source: the path of a file, or a binary stream.
        bad_lines: None stops at the first bad line. A list gets the message of each bad line, and
            the good ones are returned.

    Returns:
        A record for each line that is not blank.

    Raises:
        ValueError: a line is bad, or there is none; the message says where and why.
        FileNotFoundError: there is no such file.

    >>> import io
    >>> lines = b'{"messages": [{"role": "user", "content": "Hi"}], "source": "me"}\n'
    >>> read_chats(io.BytesIO(lines))[0].fields
    {'source': 'me'}
    """
    return read_lines(*name_and_data(source), _chat, bad_lines)


def read_chats_or_chat(source: Source) -> list[ChatRecord]:
    r"""Read chats as `read_chats` does, or one chat that is written over many lines.

    Args:
        source: JSONL, or one JSON document: a list of messages, or an object like on a line.

    Returns:
        The records; that of a document has the line on which it begins.

    Raises:
        ValueError, FileNotFoundError: as in `read_chats`. What is neither is taken for JSONL if the
            first line is a value by itself or another one a chat, else for a document.

    >>> import io
    >>> read_chats_or_chat(io.BytesIO(b'[{"role": "user",\n"content": "Hi"}]'))[0].messages
    [{'role': 'user', 'content': 'Hi'}]
    """
    name, data = name_and_data(source)
    lines = [line for line in data.split(b"\n") if line.strip()]
    values = [_value_or_none(line) for line in lines]
    is_chat = [isinstance(value, dict) and "messages" in value for value in values]
    if not lines or (len(lines) > 1 and (values[0] is not None or any(is_chat))):
        return read_lines(name, data, _chat)
    line = data.count(b"\n", 0, data.index(lines[0])) + 1
    try:
        record = parse_json(data)
        return [_chat({"messages": record} if isinstance(record, list) else record, line)]
    except (ValueError, TypeError) as error:
        place = f", line {line}" if len(lines) == 1 else ""
        raise ValueError(f"{name}{place}: {error}") from None


def read_preferences(
    source: Source, *, bad_lines: list[str] | None = None
) -> list[PreferenceRecord]:
    r"""Read pairs of answers of which one is better; see `read_chats` for arguments and errors.

    >>> import io
    >>> line = b'{"prompt": "2 + 2?", "chosen": "Four.", "rejected": "Five."}'
    >>> read_preferences(io.BytesIO(line))[0].chosen
    [{'role': 'assistant', 'content': 'Four.'}]
    """
    return read_lines(*name_and_data(source), _preference, bad_lines)


def read_prompts(source: Source, *, bad_lines: list[str] | None = None) -> list[PromptRecord]:
    r"""Read what is to be answered; see `read_chats` for arguments and errors.

    >>> import io
    >>> read_prompts(io.BytesIO(b'{"prompt": "2 + 2?", "answer": 4}'))[0][::2]
    ([{'role': 'user', 'content': '2 + 2?'}], {'answer': 4})
    """
    return read_lines(*name_and_data(source), _prompt_record, bad_lines)


def _value_or_none(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _chat(record: Any, line: int) -> ChatRecord:
    _require_object(record)
    messages = _take(record, "messages", "a list of messages")
    require_messages("messages", messages)
    return ChatRecord(messages, _tools(record), record, line)


def _preference(record: Any, line: int) -> PreferenceRecord:
    _require_object(record)
    prompt = _prompt(record)
    chosen, rejected = (_answer(record, field) for field in ("chosen", "rejected"))
    if chosen == rejected:
        raise ValueError("chosen and rejected are the same, neither is better")
    return PreferenceRecord(prompt, chosen, rejected, _tools(record), record, line)


def _prompt_record(record: Any, line: int) -> PromptRecord:
    _require_object(record)
    return PromptRecord(_prompt(record), _tools(record), record, line)


def _require_object(record: Any) -> None:
    if not isinstance(record, dict):
        raise ValueError(f"expected an object, {{...}}, got {type(record).__name__}")


def _take(record: dict[str, Any], field: str, expected: str) -> Any:
    if field not in record:
        raise ValueError(f"the field {field!r} is missing, expected {expected}")
    return record.pop(field)


def _prompt(record: dict[str, Any]) -> list[Message]:
    prompt = _take(record, "prompt", "a text or a list of messages")
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    require_messages("prompt", prompt)
    if (role := prompt[-1]["role"]) in ("assistant", "system"):
        raise ValueError(f"prompt ends with a message of the {role}, nothing is asked there")
    messages: list[Message] = prompt
    return messages


def _answer(record: dict[str, Any], field: str) -> list[Message]:
    answer = _take(record, field, "a text or a list of messages")
    if isinstance(answer, str):
        return [{"role": "assistant", "content": answer}]
    require_messages(field, answer)
    for i, verb in ((0, "begins"), (-1, "ends")):
        if (role := answer[i]["role"]) != "assistant":
            raise ValueError(
                f"{field} {verb} with a message of the {role}, expected the assistant; "
                f"what was said before belongs into prompt"
            )
    messages: list[Message] = answer
    return messages


def _tools(record: dict[str, Any]) -> list[dict[str, Any]] | None:
    tools = record.pop("tools", None)
    if tools is None:
        return None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise ValueError("tools must be a list of objects")
    return tools
