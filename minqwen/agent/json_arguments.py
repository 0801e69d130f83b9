r"""Read an Action Input: the JSON object that a model wrote, or the code.

Models rarely write the object and nothing else, so what can be understood in one way only is taken:

    {"n": 1}                        the object
    ```json\n{"n": 1}\n```          in a fence, of any language
    {"n": 1}\nI shall wait.         with text after it
    {"n": "two\nlines"}             with a real line break inside a text

and what could be meant in two ways is an error that says where it is:

    {"n": 1}, "m": 2}               a brace too early: m would be lost
    {"n": 1} {"n": 2}               two objects
    {"n": 1, "n": 2}                a key twice
    {"n": NaN}  {"n": 1e999}        no number of JSON, or of a float
    "\ud800"                        half a surrogate pair: not to be encoded

A tool that takes code may get it bare, or in a fence, as Qwen was taught for its code interpreter:
quotes and line breaks in JSON cost a small model dear. Such an input is read as JSON when it is an
object and nothing else, or begins like one that holds the code; anything else is code.

Paper:    Qwen Technical Report, 3.4 Tool Use, Code Interpreter, and Agent.
Origin:   JSON, RFC 8259; fences are those of Markdown.
Differs:  real line breaks inside a text are taken; a key twice, which RFC 8259 leaves open, is not.
"""

from __future__ import annotations

import json
import math
import re
from textwrap import dedent
from typing import Any, NoReturn

LONGEST_INTEGER = 1000  # digits; Python itself refuses to print more than 4300
HINTS = (  # how what stands there is to be mended
    (("'",), "JSON has double quotes"),
    (("//", "/*", "#"), "JSON has no comments"),
    (("}", "]"), "no comma may stand before it"),
    (("True", "False", "None"), "JSON writes true, false, null"),
)
START = re.compile(r"\s*(?:`+[\w+#.-]*\s*)?")  # in front of the object, a fence perhaps
GOES_ON = re.compile(r"\s*[,:}\]]")  # behind it: the object was closed too early
ANOTHER = re.compile(r'\{\s*["}]')
BLOCK = re.compile(r"\s*`{3,}[ \t]*[\w+#.-]*[ \t]*\r?\n")
BLOCK_END = re.compile(r"^[ \t]*`{3,}[ \t]*\r?$|`{3,}\s*\Z", re.MULTILINE)
FENCE = re.compile(r"^[ \t]*`{3,}", re.MULTILINE)
IN_LINE = re.compile(r"\s*(`+)([^`]+)\1\s*")


def read_arguments(text: str, code_argument: str | None = None) -> dict[str, Any]:
    """Return the arguments that a model wrote.

    Args:
        text: what stood after `Action Input:`. Blanks only are no arguments.
        code_argument: of a tool that takes code: the argument that the bare code becomes.

    Returns:
        Arguments by name, not checked against a schema.

    Raises:
        ValueError: it cannot be read, or not in one way only. The message goes on after "the Action
            Input" and says line and column where there is one.

    >>> read_arguments('{"n": 1}')
    {'n': 1}
    >>> read_arguments("print('hi')", code_argument="code")
    {'code': "print('hi')"}
    >>> read_arguments('{"n": 1 "m": 2}')
    Traceback (most recent call last):
    ...
    ValueError: is not JSON: expecting ',' delimiter at line 1, column 9, near '"m": 2}'
    """
    if not text.strip():
        return {}
    match = START.match(text)
    start = match.end() if match else 0
    if code_argument is None or _means_json(text, start, code_argument):
        return _read_object(text, start)[0]
    code = _read_code(text)
    return {code_argument: code} if code else {}


def _read_object(text: str, start: int) -> tuple[dict[str, Any], int]:
    """Return the object that begins at `start`, and where it ends."""
    if text[start : start + 1] != "{":
        raise ValueError(f"must be a JSON object, {{...}}, got {text[start:].strip()[:40]!r}")
    try:
        arguments, end = DECODER.raw_decode(text, start)
        json.dumps(arguments, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        message = error.msg[:1].lower() + error.msg[1:].removesuffix(" at")
        raise ValueError(f"is not JSON: {message} at {_place(text, error.pos)}") from None
    except UnicodeEncodeError:
        raise ValueError("holds half a surrogate pair, such as \\ud800 alone") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    if GOES_ON.match(text, end):
        raise ValueError(f"has a brace too many, or too early: it ends before {_place(text, end)}")
    if another := ANOTHER.search(text, end):
        raise ValueError(f"has a second object at {_place(text, another.start())}; write one only")
    return arguments, end


def _means_json(text: str, start: int, code_argument: str) -> bool:
    if re.compile(rf'\{{\s*"{re.escape(code_argument)}"\s*:').match(text, start):
        return True
    try:
        _, end = _read_object(text, start)
    except ValueError:
        return False
    return not text[end:].strip("` \t\r\n")


def _read_code(text: str) -> str:
    """Return code without its fence and common indent; "" where there is none."""
    if block := BLOCK.match(text):
        end = BLOCK_END.search(text, block.end())
        if end and FENCE.search(text, end.end()):
            raise ValueError("has two blocks of code; write one only")
        text = text[block.end() : end.start() if end else None]
    elif in_line := IN_LINE.fullmatch(text):
        text = in_line[2]
    elif FENCE.search(text):
        raise ValueError("must be code alone or a block in ``` alone: it has text before a block")
    return dedent(text).strip()


def _place(text: str, position: int) -> str:
    """Say line, column and the characters there, as an editor counts: from 1."""
    line, column = text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position)
    near = text[position : position + 30].strip()
    hint = next((f" ({told})" for starts, told in HINTS if near.startswith(starts)), "")
    return f"line {line}, column {column}, near {near!r}{hint}" if near else "its end"


def _integer(digits: str) -> int:
    if len(digits) > LONGEST_INTEGER:
        raise ValueError(f"holds a number of {len(digits)} digits, more than {LONGEST_INTEGER}")
    return int(digits)


def _finite(digits: str) -> float:
    if not math.isfinite(value := float(digits)):
        raise ValueError(f"holds {digits[:40]}, which is too large for a float")
    return value


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"holds {name}, which is no number of JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in found if keys.count(key) > 1)
        raise ValueError(f"has the key {twice!r:.80} twice")
    return found


DECODER = json.JSONDecoder(
    strict=False,
    object_pairs_hook=_unique,
    parse_int=_integer,
    parse_float=_finite,
    parse_constant=_no_number,
)
