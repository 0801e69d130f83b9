"""Control tokens: ids that stand for no text, and the rule for text that spells one.

    <|endoftext|>   151643   the end of a document
    <|im_start|>    151644   the start of a chat turn
    <|im_end|>      151645   the end of a chat turn

A control token must come from the program, never from a user who types its name: a message that
holds "<|im_end|>" could otherwise close its own turn and speak as the system. So `encode` asks what
it may do with each name it finds in the text:

    in allowed_special        one id, the control token
    in disallowed_special     ValueError; the default is every name that is not allowed
    in neither                ordinary text: "<", "|", "im", ...

    encode("a<|im_end|>")                                      ValueError
    encode("a<|im_end|>", allowed_special={"<|im_end|>"})      [64, 151645]
    encode("a<|im_end|>", disallowed_special=())               [64, 27, 91, 318, 6213, 91, 29]

Paper:    Qwen Technical Report, 2.2 Tokenization and 3.1.1 (ChatML).
Origin:   the rule is that of `Encoding.encode` in tiktoken.
Differs:  a name in allowed_special that the tokenizer does not have is an error here.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import lru_cache

ENDOFTEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

# Qwen2: ids 151643 to 151645. Qwen (2023) adds 205 unused names, up to id 151850.
QWEN2_SPECIAL_TOKENS = (ENDOFTEXT, IM_START, IM_END)
QWEN_SPECIAL_TOKENS = (*QWEN2_SPECIAL_TOKENS, *(f"<|extra_{i}|>" for i in range(205)))


def choose_allowed(
    text: str,
    special_tokens: Collection[str],
    allowed_special: str | Collection[str] = (),
    disallowed_special: str | Collection[str] = "all",
) -> frozenset[str]:
    """Return the control tokens that count as such in text; refuse text with a disallowed one.

    Args:
        text: the text that is to be encoded.
        special_tokens: every name the tokenizer has.
        allowed_special: names that become their id, or "all".
        disallowed_special: names that raise, or "all": every name that is not allowed.

    Returns:
        The allowed names.

    Raises:
        ValueError: text holds a disallowed name, allowed_special holds an unknown name, or one of
            the two is a str other than "all".

    >>> sorted(choose_allowed("hi<|a|>", ["<|a|>", "<|b|>"], allowed_special="all"))
    ['<|a|>', '<|b|>']
    >>> choose_allowed("hi<|a|>", ["<|a|>"], disallowed_special=())
    frozenset()
    """
    names = {"allowed_special": allowed_special, "disallowed_special": disallowed_special}
    for argument, value in names.items():
        if isinstance(value, str) and value != "all":
            raise ValueError(f'{argument} must be "all" or a collection of names, got {value!r}')
    allowed = frozenset(special_tokens if allowed_special == "all" else allowed_special)
    if unknown := allowed.difference(special_tokens):
        raise ValueError(f"allowed_special has {min(unknown)!r}, not a token of this tokenizer")

    everything_else = disallowed_special == "all"
    refused = frozenset(special_tokens) - allowed if everything_else else disallowed_special
    if refused and (found := find_any(frozenset(refused)).search(text)):
        name = found.group()
        raise ValueError(
            f"text holds the control token {name!r} at character {found.start()}; "
            f"pass allowed_special={{{name!r}}} to encode it as one id, "
            f"or disallowed_special=() to encode it as ordinary text"
        )
    return allowed


@lru_cache(maxsize=256)
def find_any(names: frozenset[str]) -> re.Pattern[str]:
    """Return the pattern that finds any of the names; of two that start together, the longer.

    The pattern is one capture group, so its `split` keeps the names, at the odd places.

    Args:
        names: at least one name.

    Returns:
        The compiled pattern.

    >>> find_any(frozenset({"<a>", "<a><b>"})).split("x<a><b>y<a>")
    ['x', '<a><b>', 'y', '<a>', '']
    """
    longest_first = sorted(names, key=lambda name: (-len(name), name))
    return re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")
