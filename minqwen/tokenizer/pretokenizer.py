r"""Cut text into pre-tokens, the pieces that byte-pair encoding never joins.

Before any pair is counted or merged, a regular expression cuts the text into words, digits, marks
and spaces. It has seven alternatives. At each place the first one that fits is taken:

    1  (?i:'s|'t|'re|'ve|'m|'ll|'d)     the end of an English short form:    we 've
    2  [^\r\n\p{L}\p{N}]?\p{L}+         letters, with at most one mark or space before:    _word
    3  \p{N}                            exactly one digit:    2 0 2 4
    4   ?[^\s\p{L}\p{N}]+[\r\n]*        marks, with a space before and line ends after:    );\n
    5  \s*[\r\n]+                       white space up to the last line end of the run
    6  \s+(?!\S)                        other white space, the last one left for the next word
    7  \s+                              what is left of it

\p{L} is a letter of any script, \p{N} a digit of any script, \s white space, \S anything else.
Every character fits 2, 3, 4 or 7, so the pieces put together are the text again.

An example by hand, with a dot for a space:

    She's..25!  ->  She  's  .  .  2  5  !

"She" is alternative 2. "'s" is 1, which is tried before 2. Of the two spaces 6 takes one and leaves
one; no word follows, so 7 takes that. Alternative 3 gives 2 and 5, and 4 gives the mark.

Paper:    Qwen Technical Report, 2.2 Tokenization: numbers are split into single digits.
Origin:   the pattern of OpenAI's cl100k_base in tiktoken; Qwen changes alternative 3.
Differs:  nothing; the standard library's `re` knows no \p{L}, hence the package `regex`. What
          counts as a letter follows its Unicode version: at characters that are younger than the
          tables of another tokenizer, the two may cut in different places.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

import regex

QWEN_PATTERN = "|".join(
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
        r"[^\r\n\p{L}\p{N}]?\p{L}+",
        r"\p{N}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)
_QWEN_REGEX = regex.compile(QWEN_PATTERN)

# The same for text of ASCII characters only, where the standard library can do it in half the time.
_QWEN_ASCII_REGEX = re.compile(
    "|".join(
        (
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
            r"[^\r\nA-Za-z0-9]?[A-Za-z]+",
            r"[0-9]",
            r" ?[^\sA-Za-z0-9]+[\r\n]*",
            r"\s*[\r\n]+",
            r"\s+(?!\S)",
            r"\s+",
        )
    ),
    re.ASCII,
)

# Blocks of lines, so that a few other characters in a long text do not make all of it slow. A block
# ends at a line end before a mark, digit or letter: there every alternative ends, with or without
# the rest of the text. With two such characters in 4 MB of code this takes half the time.
_BLOCK = re.compile(r"(?s:.{1024}.*?)\n(?=[!-~])|(?s:.+)")


def split(text: str, pattern: str = QWEN_PATTERN) -> list[str]:
    """Cut text into pre-tokens. Joined again, they are the text.

    Args:
        text: any text; see `clean` for what is done to it first.
        pattern: the regular expression, as the package `regex` reads it.

    Returns:
        The pieces in order; none is empty.

    Raises:
        ValueError: the pattern cannot be used, see `compile_pattern`.

    >>> split("I've 25 apples!")
    ['I', "'ve", ' ', '2', '5', ' apples', '!']
    >>> split("x = 1\\n\\n    y")
    ['x', ' =', ' ', '1', '\\n\\n', '   ', ' y']
    """
    if pattern != QWEN_PATTERN:
        found: list[str] = compile_pattern(pattern).findall(text)
        return found
    pieces: list[str] = []
    for block in [text] if text.isascii() else _BLOCK.findall(text):
        pieces += (_QWEN_ASCII_REGEX if block.isascii() else _QWEN_REGEX).findall(block)
    return pieces


@lru_cache(maxsize=32)
def compile_pattern(pattern: str) -> regex.Pattern[str]:
    r"""Compile a split pattern once. What another pattern than Qwen's skips becomes pieces too.

    Args:
        pattern: the regular expression, as the package `regex` reads it.

    Returns:
        The compiled pattern; its `findall` gives the pre-tokens.

    Raises:
        ValueError: the pattern does not compile, has a capture group (`findall` would return the
            group, not the piece) or fits the empty text.

    >>> compile_pattern(r"\d+").findall("ab12c")
    ['ab', '12', 'c']
    """
    if pattern == QWEN_PATTERN:
        return _QWEN_REGEX
    try:
        compiled = regex.compile(pattern)
    except regex.error as error:
        raise ValueError(f"split pattern {pattern!r} does not compile: {error}") from error
    if compiled.groups:
        raise ValueError(f"split pattern {pattern!r} has a capture group; write (?:...) for (...)")
    if compiled.match(""):
        raise ValueError(f"split pattern {pattern!r} fits the empty text")
    return regex.compile(rf"(?:{pattern})|(?s:.)+?(?=(?:{pattern})|\Z)")


def clean(text: str, normalize: bool = True) -> str:
    r"""Give equal-looking text equal characters: NFC, and no half of a character.

    NFC writes "e" followed by an accent as the one character "é". A surrogate is half of a
    character in UTF-16 and has no UTF-8 bytes. Two halves that belong together become their
    character; a lone half becomes U+FFFD, the replacement character.

    Args:
        text: any text.
        normalize: whether to apply NFC, as Qwen does.

    Returns:
        Text that can be encoded as UTF-8.

    Raises:
        TypeError: text is not a str.

    >>> clean("e\u0301"), clean("e\u0301", normalize=False) == "e\u0301"
    ('é', True)
    >>> clean("\ud83d\udc4d"), clean("a\ud83d") == "a\ufffd"
    ('👍', True)
    """
    if not isinstance(text, str):
        raise TypeError(f"text must be a str, got {type(text).__name__}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # it holds surrogates: UTF-16 knows which of them are pairs
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return unicodedata.normalize("NFC", text) if normalize else text
