"""Text that says itself where it ends: a JSON object, and code in three backticks.

    {"text": "line\\nAction: no"} and more        {"text": "line\\nAction: no"}
    ```py                                       ```py
    print("Action: no")                         print("Action: no")
    ```                                         ```
    Action: yes                                 ends here; what looks like a label inside is none

A block begins at the beginning of a line. An action input ends at the next line that begins with
backticks, whatever follows them; an answer may hold several blocks, and there ```py ends none.

Paper:    Qwen Technical Report, 3.4 Tool Use, Code Interpreter, and Agent; nothing on this there.
Origin:   RFC 8259 (JSON); CommonMark 0.31, 4.5 (fenced code blocks).
Differs:  a raw line end inside a string of JSON is forgiven: models write code so.
"""

from __future__ import annotations

import json
import re

BLOCK_LINE = re.compile(r"^[ \t]*```([^`\n]*)$", re.MULTILINE)
BLOCK_END = re.compile(r"^[ \t]*```", re.MULTILINE)
BLOCK_ON_ONE_LINE = re.compile(r"```[^`\n]+```")
NO_SPACE = re.compile(r"\S")
STOP = "Observation:"
INVENTED = re.compile(r"Observation\s*[:：]", re.IGNORECASE)
JSON = json.JSONDecoder(strict=False)


def closed_input(text: str, begins: int) -> int | None:
    """Return where an action input ends that is a JSON object or a block of code.

    Args:
        text: all of it.
        begins: where the input begins; space there is skipped.

    Returns:
        The place after it; None where it is neither, is not closed, or goes on in the same line
        after an object: {"a": 1}["a"] is code. An observation there is the model's invention, and
        its beginning is what a stop string left over.

    >>> closed_input('{"a": 1}\\nThat is all.', 0), closed_input('{"a": 1}["a"]', 0)
    (8, None)
    """
    start = _skip_space(text, begins)
    if text.startswith("{", start):
        try:
            _, end = JSON.raw_decode(text, start)
        except (ValueError, RecursionError):
            return None
        line_end = text.find("\n", end)
        rest = text[end : len(text) if line_end < 0 else line_end].strip()
        return end if not rest or INVENTED.match(rest) or is_left_over(rest) else None
    if text.startswith("```", start):
        match = BLOCK_ON_ONE_LINE.match(text, start) or BLOCK_END.search(text, start + 3)
        return match.end() if match else None
    return None


def closed_blocks(text: str, begins: int) -> list[tuple[int, int]]:
    """Return where blocks of code begin and end; one that is never closed is none.

    Args:
        text: all of it.
        begins: where to start; this place counts as the beginning of a line.

    >>> closed_blocks("Look: ```\\na\\n```\\n```\\nb", 5)
    [(6, 15)]
    """
    begins = _skip_space(text, begins)
    blocks: list[tuple[int, int]] = []
    opened: int | None = None
    for match in BLOCK_LINE.finditer(text[begins:]):
        if opened is None:
            opened = begins + match.start()
        elif not match[1].strip():
            blocks.append((opened, begins + match.end()))
            opened = None
    return blocks


def is_left_over(line: str) -> bool:
    """Say whether a line is the beginning of "Observation:", three letters or more.

    >>> is_left_over("Observ"), is_left_over("Ob"), is_left_over("Observer")
    (True, False, False)
    """
    return len(line) >= 3 and STOP.startswith(line)


def _skip_space(text: str, at: int) -> int:
    match = NO_SPACE.search(text, at)
    return match.start() if match else len(text)
