"""Chats without tools: what a model learns before it learns to use a tool, and beside it.

    echo    repeat numbers, things, Chinese, words and names,
            or quote numbers                                       base, general
    take    from some names, take those of some words              base, general
    pick    say which of the listed tools fits a question          general
    json    write the arguments of a question                      general
    sum     say the result at once                                 general
    chat    a greeting, a choice                                   general

Using a tool is copying, most of it: numbers into arguments, a name out of the list of tools, a
result into the answer. A large model learns to copy from text. One of this size would need far
more text than there is time for: 1,000 steps on lines that say something twice taught it nothing.
So the base is trained on short chats, in which a token is either asked for or explained by what
stands before it, and only answers are trained on. After 1,500 steps it repeats nearly everything.

echo and take know every word and every thing, those too that no sample of tool use names: a model
knows more words than it has tools for, and what it never reads in fine-tuning it forgets. The
names in them are no names of held-out tools. All the others stay with what may be learnt.

Paper:    Qwen Technical Report, 3.4: samples are mixed with general data for fine-tuning.
Differs:  the base of the report is pretrained on text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..agent.react_prompt import ENGLISH
from ..agent.tool import Tool
from ..agent.tools.calculator import calculate
from .agent_tasks import ASK, LOOK_UP, draw_number, draw_question
from .agent_tools import (
    HELD_OUT_WORDS,
    MAKERS,
    MEANINGS,
    THINGS,
    TRAINED_NAMES,
    TRAINED_THINGS,
    WORDS,
    look_up_tool,
    makers_of,
    name_of,
)

SIGNS = (" ", " ", " ", " + ", " - ", " * ", ", ")  # between what is repeated
GENERAL = (
    "chat", "pick", "json", "take", "echo", "json", "pick", "json",
    "echo", "pick", "json", "take", "echo", "json", "sum", "echo",
)  # fmt: skip
ECHO_DIGITS = (2, 3, 4, 5)  # of a number that is repeated; those of samples have two or three

Chat = tuple[str, str]  # question, answer


def base_chats(n: int, seed: int) -> list[Chat]:
    """Draw chats of the base: two to repeat, then one to take.

    >>> base_chats(1, seed=0)[0][1].startswith(("I repeat: ", "I quote: "))
    True
    """
    rng = np.random.default_rng([33, seed])
    return [draw_take(rng) if i % 3 == 2 else draw_echo(rng) for i in range(n)]


def general_chats(n: int, seed: int) -> list[Chat]:
    """Draw chats for fine-tuning, all kinds in turn.

    >>> question, answer = general_chats(15, seed=0)[14]
    >>> question.startswith(("What", "Work", "How", "Add", "Reduce", "Multiply"))
    True
    """
    rng = np.random.default_rng([32, seed])
    return [DRAWN[GENERAL[i % len(GENERAL)]](rng) for i in range(n)]


def draw_echo(rng: np.random.Generator) -> Chat:
    """Draw what is to be repeated: words and names, or numbers, things and Chinese; or quoted."""

    def item() -> str:
        which = rng.random()
        if which < 0.1:
            return MEANINGS[_one(THINGS, rng)]
        if which < 0.6:
            return str(draw_number(rng, False, _one(ECHO_DIGITS, rng)))
        return '"' + " ".join(_one(THINGS, rng) for _ in range(int(rng.integers(1, 4)))) + '"'

    which = rng.random()
    if which < 0.2:  # as in arguments, where a number follows a quotation mark
        numbers = [str(draw_number(rng, False, _one(ECHO_DIGITS, rng))) for _ in range(2)]
        said = _one(SIGNS, rng).join(numbers)
        return f"Please quote: {said}.", f'I quote: "{said}".'
    if which < 0.5:
        said = _one(SIGNS, rng).join(item() for _ in range(int(rng.integers(1, 5))))
    else:
        words = _some([*WORDS, *HELD_OUT_WORDS], int(rng.integers(2, 9)), rng)
        said = " ".join(_any_name(word, rng) if rng.random() < 0.5 else word for word in words)
    return f"Please repeat: {said}.", f"I repeat: {said}."


def draw_take(rng: np.random.Generator) -> Chat:
    """Draw names, and ask for all of them in another order, each by its word."""
    words = _some([*WORDS, *HELD_OUT_WORDS, *THINGS], int(rng.integers(2, 7)), rng)
    names = {word: _any_name(word, rng) for word in words}
    order = _some(words, len(words), rng)
    question = f"From {' '.join(names.values())} take {' '.join(order)}."
    return question, f"I take {' '.join(names[word] for word in order)}."


def draw_pick(rng: np.random.Generator) -> Chat:
    """Draw a list of look-ups and a question that one of them can answer."""
    listed, pairs = draw_list(rng.random() < 0.4, rng)
    name, word = _one(pairs, rng)
    question = _one(LOOK_UP, rng).format(w=word, t=_one(TRAINED_THINGS, rng))
    asked = f"{listed}\n\nWhich tool is for this: {question}"
    return asked, f"{ASK}\nAction: {name}"


def draw_json(rng: np.random.Generator) -> Chat:
    """Draw a question whose arguments are asked for."""
    kind = _one(("sum", "sum", "look-up", "word", "count", "unit"), rng)
    asked = draw_question(kind, _one(TRAINED_NAMES, rng), rng, False)
    return f"Write the input of this as JSON. {asked.question}", json.dumps(asked.arguments)


def draw_sum(rng: np.random.Generator) -> Chat:
    """Draw a sum and its result."""
    asked = draw_question("sum", "", rng, False)
    return asked.question, calculate(**asked.arguments)


def draw_talk(rng: np.random.Generator) -> Chat:
    """Draw small talk."""
    asked = draw_question("chat", "", rng, False)
    return asked.question, asked.answer


DRAWN: dict[str, Callable[[np.random.Generator], Chat]] = {
    "echo": draw_echo, "take": draw_take, "pick": draw_pick, "json": draw_json,
    "sum": draw_sum, "chat": draw_talk,
}  # fmt: skip


def draw_list(full: bool, rng: np.random.Generator) -> tuple[str, list[tuple[str, str]]]:
    """Draw a list of look-ups, told in a line each as in a prompt, or only its first sentence.

    Args:
        full: two whole lines; else two to four first sentences.
        rng: draws.

    Returns:
        The list, and (name, word) of each.
    """
    n = 2 if full else int(rng.integers(2, 5))
    words = _some(WORDS, n, rng)
    names = [name_of(word, _one(MAKERS, rng)) for word in words]
    lines = [tool_line(look_up_tool(*pair)) for pair in zip(names, words, strict=True)]
    if not full:
        lines = [line.partition(" What")[0] for line in lines]
    return ("\n\n" if full else "\n").join(lines), list(zip(names, words, strict=True))


def tool_line(tool: Tool) -> str:
    """Return how a prompt tells a tool."""
    return ENGLISH.tool.format(
        name=tool.name, title=tool.title, description=tool.description,
        parameters=json.dumps(tool.parameters), arguments=ENGLISH.json,
    )  # fmt: skip


def _any_name(word: str, rng: np.random.Generator) -> str:
    """Return a name with a word in it that is not the name of a held-out tool."""
    return name_of(word, _one(makers_of(word, False), rng))


def _one(items: Sequence[Any], rng: np.random.Generator) -> Any:
    return items[int(rng.integers(len(items)))]


def _some(items: Sequence[Any], n: int, rng: np.random.Generator) -> list[Any]:
    return [items[int(i)] for i in rng.permutation(len(items))[:n]]
