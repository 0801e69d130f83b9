"""Questions of the study of agents, each with the right way to answer it.

    kinds       sum                 482 + 37                    calculator
                look-up             the price of a lamp         price_owl, price_fox, ...
                word, count, unit                               the other trained tools
                chat                a greeting, a choice        none
                date                days after a day            add_days, held out

    numbers     a number whose digits add up to a multiple of 5 stands in tests only, so neither
                number of a tested sum was ever seen; numbers of 4 digits are asked about in tests
                only: other chats repeat such numbers, not these
    things      every fourth thing is asked about in tests only; other chats repeat it

Things stand between quotes, and numbers in the order in which they are to be written, so that the
tokens of an argument are those of the question: a model this small copies, it does not spell.

The words around them are the same in training and in tests.

Paper:    Qwen Technical Report, 3.4 Tool Use, Code Interpreter, and Agent.
Differs:  made by templates.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any, NamedTuple

import numpy as np

from ..agent.samples.sample import Call, Sample
from ..agent.tool import Tool, call_tool
from .agent_tools import HELD_OUT_THINGS, LOOK_UPS, TRAINED_THINGS, UNITS

TRAINED_DIGITS = (2, 3)
SUMS = {
    "+": ("What is {a} + {b}?", "Work out {a} + {b}.", "How much is {a} plus {b}?",
          "Add up {a} and {b}."),
    "-": ("What is {a} - {b}?", "Work out {a} - {b}.", "How much is {a} minus {b}?",
          "Reduce {a} by {b}."),
    "*": ("What is {a} * {b}?", "Work out {a} * {b}.", "How much is {a} times {b}?",
          "Multiply {a} by {b}."),
}  # fmt: skip
VERBS = {"+": "add", "-": "subtract", "*": "multiply"}
LOOK_UP = ('What is the {w} of "{t}"?', 'Tell me the {w} of "{t}".', 'I need the {w} of "{t}".')
WORD = ('What does "{t}" mean in Chinese?', 'Tell me the Chinese word for "{t}".')
COUNT = ('How many words are in "{s}"?', 'Count the words of "{s}".')
UNIT = ("How much is {a} {u} in {to}?", "Convert {a} {u} to {to}.")
DATE = ("Which date comes {n} days after {d}?", "Add {n} days to {d}.")
PEOPLE = ("Mei", "Tom", "Anna", "Ali", "Lin", "Sara", "Omar", "Wei")
TOOL_OF = {"sum": "calculator", "word": "dictionary", "count": "count_words",
           "unit": "convert_unit", "date": "add_days"}  # fmt: skip
KIND_OF = {tool: kind for kind, tool in TOOL_OF.items()}
NO_TOOL = "I can answer this without a tool."
ASK = "I have to ask one of the tools."  # the name that is written next says which
LAST = "I now know the final answer."


class Asked(NamedTuple):
    question: str
    arguments: dict[str, Any]  # of the tool; {} in a chat
    thought: str
    answer: str  # of a chat; of other questions the tool gives it


def is_held_out(number: int) -> bool:
    """Say whether a number stands in tests only.

    >>> [n for n in range(10, 30) if is_held_out(n)]
    [14, 19, 23, 28]
    """
    return sum(map(int, str(number))) % 5 == 0


def draw_number(rng: np.random.Generator, held_out: bool, digits: int) -> int:
    """Draw a number of so many digits."""
    while True:
        number = int(rng.integers(10 ** (digits - 1), 10**digits))
        if is_held_out(number) == held_out:
            return number


def draw_question(
    kind: str, tool: str, rng: np.random.Generator, held_out: bool, digits: int = 0
) -> Asked:
    """Draw a question of a kind.

    Args:
        kind: see the head of this file.
        tool: its name; only a look-up reads it.
        rng: draws.
        held_out: with numbers and things that stand in tests only.
        digits: of the numbers of a sum; 0 draws two or three.
    """

    def one(items: Sequence[Any]) -> Any:
        return items[int(rng.integers(len(items)))]

    def number(digits: int) -> int:
        return draw_number(rng, held_out, digits)

    things = HELD_OUT_THINGS if held_out else TRAINED_THINGS
    thing = one(things)
    if kind == "sum":
        sign = one(tuple(SUMS))
        a, b = (number(digits or one(TRAINED_DIGITS)) for _ in range(2))
        question = one(SUMS[sign]).format(a=a, b=b)
        return Asked(question, {"expression": f"{a} {sign} {b}"}, f"I have to {VERBS[sign]}.", "")
    if kind == "look-up":
        question = one(LOOK_UP).format(w=LOOK_UPS[tool], t=thing)
        return Asked(question, {"name": thing}, ASK, "")
    if kind == "word":
        return Asked(one(WORD).format(t=thing), {"term": thing}, "I have to look this up.", "")
    if kind == "count":
        text = " ".join(one(things) for _ in range(int(rng.integers(2, 6))))
        return Asked(one(COUNT).format(s=text), {"text": text}, "I have to count.", "")
    if kind == "unit":
        (unit, to), a = one(UNITS), number(one((2, 3)))
        arguments = {"value": a, "unit": unit, "to": to}
        return Asked(one(UNIT).format(a=a, u=unit, to=to), arguments, "I have to convert this.", "")
    if kind == "date":
        day = date(2001, 1, 1) + timedelta(days=int(rng.integers(9000)))
        n = number(2)
        question = one(DATE).format(n=n, d=day.isoformat())
        return Asked(question, {"day": day.isoformat(), "days": n}, "I have to find the date.", "")
    other = one([t for t in things if t != thing])
    return _chat(thing, other, one(PEOPLE), int(rng.integers(4)))


def _chat(thing: str, other: str, person: str, which: int) -> Asked:
    """Return a question that needs no tool."""
    question, answer = (
        (f'Say hello to {person} and "{thing}".', f'Hello, {person} and "{thing}"!'),
        (f'Which do I name first, "{thing}" or "{other}"?', f'It is "{thing}".'),
        (f'Which do I name last, "{thing}" or "{other}"?', f'It is "{other}".'),
        (f'{person} gave me "{thing}", whom do I thank?', person),
    )[which]
    return Asked(question, {}, NO_TOOL, answer)


def final_answer(kind: str, observation: str) -> str:
    """Return what is to be said after an observation.

    >>> final_answer("count", '{"characters": 8, "words": 2, "lines": 1}'), final_answer("sum", "7")
    ('2', '7')
    """
    if kind in ("count", "date"):
        found = json.loads(observation)
        return str(found["words" if kind == "count" else "date"])
    return observation


def right_sample(
    kind: str, tool: str, offered: Sequence[str], tools: Mapping[str, Tool], asked: Asked
) -> Sample:
    """Write the right work on a question; the tool is really called.

    Args:
        kind: of the question.
        tool: to use; "" for none.
        offered: names of tools.
        tools: of `study_tools`.
        asked: of `draw_question`.
    """
    if not tool:
        return Sample(asked.question, tuple(offered), (), asked.thought, asked.answer)
    written = json.dumps(asked.arguments)
    observation = call_tool(tools, tool, written)
    if observation.error:
        raise ValueError(f"{tool} failed on {written}: {observation.text}")
    call = Call(asked.thought, tool, written, observation.text)
    answer = final_answer(kind, observation.text)
    return Sample(asked.question, tuple(offered), (call,), LAST, answer)


def kind_of(tool: str) -> str:
    """Return the kind of the questions for a tool.

    >>> kind_of("calculator"), kind_of("price_owl"), kind_of("")
    ('sum', 'look-up', 'chat')
    """
    return KIND_OF.get(tool, "look-up") if tool else "chat"


def make_tests(
    n: int,
    rng: np.random.Generator,
    tools: Mapping[str, Tool],
    using: Sequence[str],
    others: Sequence[str],
    *,
    offered: int,
    digits: int = 0,
) -> list[Sample]:
    """Draw questions with held-out numbers and things, with the right work on them.

    Args:
        n: how many different ones.
        rng: draws them.
        tools: of `study_tools`.
        using: the tools to be used, in turn; [""] for questions that need none.
        others: tools that may stand beside them.
        offered: how many tools a question is offered.
        digits: see `draw_question`.

    >>> from .agent_tools import study_tools
    >>> tools = study_tools()
    >>> rng = np.random.default_rng(0)
    >>> make_tests(1, rng, tools, ["calculator"], ["dictionary"], offered=2)[0].tools
    ('dictionary', 'calculator')
    """
    found: dict[str, Sample] = {}
    for i in range(50 * n):
        if len(found) == n:
            break
        tool = using[i % len(using)]
        kind = kind_of(tool)
        word = LOOK_UPS.get(tool)
        beside = [o for o in others if o != tool and (word is None or LOOK_UPS.get(o) != word)]
        names = [beside[int(j)] for j in rng.permutation(len(beside))[: offered - bool(tool)]]
        names = [names[int(j)] for j in rng.permutation(len(names))]
        if tool:
            names.insert(int(rng.integers(offered)), tool)
        sample = right_sample(
            kind, tool, names, tools, draw_question(kind, tool, rng, True, digits)
        )
        found.setdefault(sample.question, sample)
    if len(found) < n:
        raise ValueError(f"there are not {n} different questions for {', '.join(using)[:80]}")
    return list(found.values())
