"""Requests to write a function, what is held out of them, and a judge that runs nothing.

    request   Write a function grow(items) that returns twice the length of items.
    answer    def grow(items):
                  return 2 * len(items)

What a function returns is an outer step around an inner one. Every fourth pair of steps is held
out: the model has seen both steps, but never together. An answer is right when its syntax tree is
that of the answer we expect, whatever its spaces and brackets; it is parsed and never run.

General chats stand beside them: greetings, opposites, counting on, and repeating, in English and
Chinese.

Paper:    Qwen Technical Report, 4 Code-Qwen: code pretraining, then multi-stage fine-tuning.
Differs:  HumanEval runs the answer against tests; here the tree decides, so another right way to
          write a function counts as wrong. The requests are too narrow for many ways.
"""

from __future__ import annotations

import ast
import textwrap
import warnings
from typing import NamedTuple

import numpy as np

HELD_OUT = 4  # every 4th pair of steps
INNER = (  # of a list
    ("the length of {x}", "len({x})"),
    ("the sum of {x}", "sum({x})"),
    ("the largest of {x}", "max({x})"),
    ("the smallest of {x}", "min({x})"),
    ("the first of {x}", "{x}[0]"),
    ("the last of {x}", "{x}[-1]"),
)
OUTER = (  # of a number
    ("{e}", "{e}"),
    ("twice {e}", "2 * {e}"),
    ("{e} plus {n}", "{e} + {n}"),
    ("{e} minus {n}", "{e} - {n}"),
    ("the square of {e}", "{e} ** 2"),
    ("the text of {e}", "str({e})"),
    ("whether {e} is even", "{e} % 2 == 0"),
    ("whether {e} is negative", "{e} < 0"),
)
REQUESTS = (
    "Write a function {f}({x}) that returns {what}.",
    "Define {f}({x}), which returns {what}.",
    "Please write {f}, a function of {x} that returns {what}.",
)
FUNCTIONS = (
    "grow", "read", "count", "check", "find", "make", "take", "build", "score", "reduce", "get",
    "load", "move", "pick", "scan", "step",
)  # fmt: skip
ARGUMENTS = ("items", "values", "data", "numbers", "rows", "parts")
PEOPLE = (("Mei", "小梅"), ("Tom", "汤姆"), ("Anna", "安娜"), ("Ali", "阿里"), ("Dou Dou", "豆豆"))
OPPOSITES = (
    ("warm", "cold"), ("big", "small"), ("old", "young"), ("open", "closed"), ("high", "low"),
    ("full", "empty"), ("early", "late"), ("left", "right"),
)  # fmt: skip
WORDS = ("river", "egg", "book", "lantern", "fish", "flower", "boat", "candle", "coin", "bridge")


class Task(NamedTuple):
    request: str
    answer: str
    kind: str  # "code" or "general"


def is_held_out(inner: int, outer: int) -> bool:
    """Say whether a pair of steps is held out; an inner step alone never is.

    >>> sum(is_held_out(i, o) for i in range(len(INNER)) for o in range(1, len(OUTER)))
    10
    """
    return outer > 0 and (inner + 2 * outer + outer // 2) % HELD_OUT == 0


def code_tasks(n: int, rng: np.random.Generator, *, held_out: bool = False) -> list[Task]:
    """Draw n different requests for functions, all of held-out pairs of steps or none.

    >>> print(code_tasks(1, np.random.default_rng(1))[0].answer)  # doctest: +ELLIPSIS
    def ...(...):
        return ...
    """
    pairs = [
        (i, o)
        for i in range(len(INNER))
        for o in range(len(OUTER))
        if is_held_out(i, o) == held_out
    ]
    found: dict[str, Task] = {}
    while len(found) < n:
        i, o = pairs[rng.integers(len(pairs))]
        f, x = str(rng.choice(FUNCTIONS)), str(rng.choice(ARGUMENTS))
        names = {"x": x, "n": int(rng.integers(1, 10))}
        e, code = (part.format(**names) for part in INNER[i])
        what, expression = OUTER[o][0].format(e=e, **names), OUTER[o][1].format(e=code, **names)
        request = REQUESTS[rng.integers(len(REQUESTS))].format(f=f, x=x, what=what)
        answer = f"def {f}({x}):\n    return {expression}"
        found.setdefault(request, Task(request, answer, "code"))
    return list(found.values())


def general_tasks(n: int, rng: np.random.Generator) -> list[Task]:
    """Draw n general chats; there are few kinds, so the same one may come again."""
    found = []
    for _ in range(n):
        english, chinese = PEOPLE[rng.integers(len(PEOPLE))]
        one, other = rng.permutation(OPPOSITES[rng.integers(len(OPPOSITES))])
        number = int(rng.integers(1, 90))
        words = " ".join(rng.choice(WORDS, 3))
        choices = (
            (f"Say hello to {english}.", f"Hello, {english}!"),
            (f"向{chinese}问好。", f"你好，{chinese}！"),
            (f"Say goodbye to {english}.", f"Goodbye, {english}!"),
            (f"What is the opposite of {one}?", f"The opposite of {one} is {other}."),
            (f"What comes after {number}?", f"After {number} comes {number + 1}."),
            (f"{number}后面是多少？", f"{number}后面是{number + 1}。"),
            (f"Repeat: {words}", words),
        )
        request, answer = choices[rng.integers(len(choices))]
        found.append(Task(request, answer, "general"))
    return found


def tree(source: str) -> str | None:
    """Return the syntax tree of Python source as text, None if it is none.

    >>> tree("def f(x):\\n    return (x+1)") == tree("def f(x):\\n  return x + 1")
    True
    >>> tree("def f(x) return") is None
    True
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a model may well write "1 is 1"
            return ast.dump(ast.parse(textwrap.dedent(source)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def judge(task: Task, answer: str) -> tuple[bool, bool]:
    """Return whether an answer parses and defines a function, and whether it is right.

    Of a general chat both say whether the words are the expected ones.

    >>> task = Task("Write f(x) that returns x plus 1.", "def f(x):\\n    return x + 1", "code")
    >>> judge(task, "def f(x):\\n    return x+1"), judge(task, "def f(x):\\n    return x")
    ((True, True), (True, False))
    """
    if task.kind != "code":
        same = answer.strip() == task.answer
        return same, same
    found = tree(answer)
    if found is None or "FunctionDef(" not in found:
        return False, False
    return True, found == tree(task.answer)
