"""Cut a docstring of this project into blocks: prose, equations, sources, sections, examples.

Our docstrings are plain text that reads well in an editor: paragraphs, equations indented by four,
`Paper:`, `Origin:` and `Differs:` at the end, and in functions Google's sections and doctests.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from textwrap import dedent
from typing import NamedTuple

SOURCES = ("Paper", "Origin", "Differs")
SECTIONS = ("Args", "Returns", "Yields", "Raises")


class Block(NamedTuple):
    """A piece of a docstring."""

    kind: str  # "prose", "equation", "example", or "items"
    text: str  # of items: their title
    items: tuple[tuple[str, str], ...] = ()  # (name, words)


def blocks(text: str) -> list[Block]:
    r"""Return the blocks of a docstring in order.

    >>> for block in blocks("Half.\n\n    y = x / 2\n\nPaper:  none,\n        yet.\nOrigin: us."):
    ...     print(block.kind, repr(block.text), *block.items)
    prose 'Half.'
    equation 'y = x / 2'
    items 'Sources' ('Paper', 'none, yet.') ('Origin', 'us.')
    """
    found: list[Block] = []
    lines = text.splitlines()
    i = 0
    while i < len(lines):
        line = lines[i]
        if not line.strip():
            i += 1
            continue
        section = re.fullmatch(rf"({'|'.join(SECTIONS)}):", line)
        if section:
            j = end_of(lines, i + 1, lambda s: not s.strip() or s.startswith(" "))
            body = dedent("\n".join(lines[i + 1 : j]))
            found.append(Block("items", section[1], tuple(named(body))))
        elif re.match(rf"({'|'.join(SOURCES)}):", line):
            j = end_of(lines, i + 1, lambda s: s.startswith(" ") or starts_source(s))
            found.append(Block("items", "Sources", tuple(sources(lines[i:j]))))
        elif line.lstrip().startswith(">>>"):
            j = end_of(lines, i, lambda s: bool(s.strip()))
            found.append(Block("example", dedent("\n".join(lines[i:j]))))
        elif line.startswith("    "):
            j = end_of(lines, i, lambda s: not s.strip() or s.startswith("    "))
            found.append(Block("equation", dedent("\n".join(lines[i:j])).strip("\n")))
        else:
            j = end_of(lines, i, lambda s: bool(s.strip()) and not s.startswith("    "))
            while j > i + 1 and starts_source(lines[j - 1]):
                j -= 1  # the sources follow without an empty line
            found.append(Block("prose", " ".join(s.strip() for s in lines[i:j])))
        i = j
    return found


def end_of(lines: list[str], start: int, inside) -> int:
    """Return the first line at or after `start` that is not inside; the last empty ones are out.

    >>> end_of(["a", " b", "", "c"], 1, lambda s: not s or s[0] == " ")
    2
    """
    j = start
    while j < len(lines) and inside(lines[j]):
        j += 1
    while j > start + 1 and not lines[j - 1].strip():
        j -= 1
    return j


def starts_source(line: str) -> bool:
    """Whether a line begins one of the sources.

    >>> starts_source("Paper:    Qwen"), starts_source("Paper clips: none")
    (True, False)
    """
    return line.startswith(tuple(f"{name}:" for name in SOURCES))


def sources(lines: list[str]) -> Iterator[tuple[str, str]]:
    """Yield (name, words) of the lines `Paper:`, `Origin:` and `Differs:`.

    >>> list(sources(["Paper:    a", "          b", "Differs:  nothing."]))
    [('Paper', 'a b'), ('Differs', 'nothing.')]
    """
    name, words = "", []
    for line in lines:
        if starts_source(line):
            if name:
                yield name, " ".join(words)
            name, _, line = line.partition(":")
            words = []
        words.append(line.strip())
    if name:
        yield name, " ".join(words)


def named(body: str) -> Iterator[tuple[str, str]]:
    r"""Yield (name, words) of the entries of a section; without a name where there is none.

    >>> list(named("x, w: (D,) float, see\n  below.\nout: the same"))
    [('x, w', '(D,) float, see below.'), ('out', 'the same')]
    >>> list(named("The sum of all."))
    [('', 'The sum of all.')]
    """
    entry: list[str] = []
    for line in [*body.splitlines(), None]:
        if line is None or (line and not line.startswith(" ")):
            if entry:
                words = " ".join(s.strip() for s in entry if s.strip())
                match = re.match(r"([\w*]+(?:(?:, | and )[\w*]+)*):\s+(.*)", words)
                yield (match[1], match[2]) if match else ("", words)
            entry = []
        if line is not None:
            entry.append(line)
