"""Exam questions with worked steps, in English and Chinese, and what is held out of them.

    kinds      more, less, back (word problems), choice (A, B, C), equation, compare
    answer     two steps, then "The answer is 7." or "答案是7。"

Every question has three numbers a, b, c from 1 to 6 and two steps. Two things are held out, each by
itself:

    numbers    every fifth triple (a, b, c). Each single sum of such a question stands in training
               data, but never both together, so no answer can be remembered; it must be worked out.
    words      of every kind and language, the last template.

Paper:    Qwen Technical Report, 5 Math-Qwen: instructions like those of exams.
Differs:  made by templates. Sums of single digits are what a model of 130,000 parameters learns in
          a minute; with numbers up to 20 or to 90 it had not begun to add after as long.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

LARGEST = 6  # of the numbers in a question
HELD_OUT = 5  # every 5th triple
KINDS = ("more", "less", "back", "choice", "equation", "compare")
SIGNS = {"more": ("+", "+"), "back": ("-", "+")}  # of the two steps; of other kinds USUAL
USUAL = ("+", "-")
LANGUAGES = ("english", "chinese")
NAMES = {
    "english": ("Mei", "Tom", "Anna", "Ali", "Dou Dou"),
    "chinese": ("小梅", "汤姆", "安娜", "阿里", "豆豆"),
}
THINGS = {
    "english": ("apples", "eggs", "books", "lanterns", "flowers", "candles", "coins", "dumplings"),
    "chinese": (
        "个苹果", "个鸡蛋", "本书", "盏灯笼", "朵花", "支蜡烛", "枚硬币", "个饺子",
    ),
}  # fmt: skip
# {p} {q} people, {t} a thing, {a} {b} {c} numbers, {x} {y} {z} what can be chosen
TEMPLATES: dict[str, dict[str, tuple[str, ...]]] = {
    "more": {  # a + b + c
        "english": (
            "{p} has {a} {t}, finds {b} and then {c} more. How many {t} are there now?",
            "{p} had {a} {t}. First {b} came, then {c}. How many are there now?",
            "There are {a} {t} here, {b} there and {c} in a bag. How many {t} in all?",
            "{p} has {a} {t}. First {b} came, then {c} more. How many {t} in all?",  # held out
        ),
        "chinese": (
            "{p}有{a}{t}，找到{b}{t}，又找到{c}{t}。现在有多少{t}？",
            "{p}原来有{a}{t}，先来了{b}{t}，又来了{c}{t}。现在有多少？",
            "这里有{a}{t}，那里有{b}{t}，袋子里有{c}{t}。一共有多少{t}？",
            "{p}有{a}{t}，先来了{b}{t}，又来了{c}{t}。一共有多少{t}？",
        ),
    },
    "less": {  # a + b - c
        "english": (
            "{p} has {a} {t}, finds {b} more and gives away {c}. How many {t} are left?",
            "{p} had {a} {t}. First {b} came, then the wind took {c}. How many are left?",
            "There are {a} {t} here and {b} there, and {c} are sold. How many {t} are left?",
            "{p} has {a} {t}. First {b} came, and {c} are sold. How many are left?",
        ),
        "chinese": (
            "{p}有{a}{t}，又找到{b}{t}，送出{c}{t}。还剩多少{t}？",
            "{p}原来有{a}{t}，先来了{b}{t}，又被风吹走{c}{t}。还剩多少？",
            "这里有{a}{t}，那里有{b}{t}，卖了{c}{t}。还剩多少{t}？",
            "{p}有{a}{t}，先来了{b}{t}，卖了{c}{t}。还剩多少？",
        ),
    },
    "back": {  # a - b + c
        "english": (
            "{p} has {a} {t}, gives away {b} and finds {c}. How many {t} are there now?",
            "{p} had {a} {t}. The wind took {b}, then {c} came. How many are there now?",
            "Of {a} {t}, {b} are sold, then {c} are bought. How many {t} are there now?",
            "{p} has {a} {t}. The wind took {b}, then {c} are bought. How many are there now?",
        ),
        "chinese": (
            "{p}有{a}{t}，送出{b}{t}，又找到{c}{t}。现在有多少{t}？",
            "{p}原来有{a}{t}，被风吹走{b}{t}，又来了{c}{t}。现在有多少？",
            "有{a}{t}，卖了{b}{t}，又买了{c}{t}。现在有多少{t}？",
            "{p}有{a}{t}，被风吹走{b}{t}，又买了{c}{t}。现在有多少{t}？",
        ),
    },
    "choice": {  # a + b - c
        "english": (
            "What is {a} + {b} - {c}? A: {x} B: {y} C: {z}",
            "{a} + {b} - {c} = ? A: {x} B: {y} C: {z}",
            "Choose {a} + {b} - {c}. A: {x} B: {y} C: {z}",
            "Choose: what is {a} + {b} - {c}? A: {x} B: {y} C: {z}",
        ),
        "chinese": (
            "{a} + {b} - {c}是多少？ A: {x} B: {y} C: {z}",
            "{a} + {b} - {c} = ？ A: {x} B: {y} C: {z}",
            "选出{a} + {b} - {c}。 A: {x} B: {y} C: {z}",
            "选出：{a} + {b} - {c}是多少？ A: {x} B: {y} C: {z}",
        ),
    },
    "equation": {  # x + c = a + b
        "english": (
            "Solve x + {c} = {a} + {b}.",
            "If x + {c} = {a} + {b}, what is x?",
            "x + {c} = {a} + {b}. What is x?",
            "Solve this: x + {c} = {a} + {b}. What is x?",
        ),
        "chinese": (
            "解方程 x + {c} = {a} + {b}。",
            "如果 x + {c} = {a} + {b}，x是多少？",
            "x + {c} = {a} + {b}。x是多少？",
            "解方程： x + {c} = {a} + {b}。x是多少？",
        ),
    },
    "compare": {  # a + b against c
        "english": (
            "{p} has {a} and {b} {t}, {q} has {c}. Who has more?",
            "{p} has {a} {t} and finds {b}, {q} has {c}. Who has more?",
            "{p} had {a} {t} and {b} came, {q} had {c}. Who had more?",
            "{p} has {a} {t} and {b} came, {q} has {c}. Who had more?",
        ),
        "chinese": (
            "{p}有{a}{t}和{b}{t}，{q}有{c}{t}。谁多？",
            "{p}有{a}{t}，找到{b}{t}，{q}有{c}{t}。谁多？",
            "{p}原来有{a}{t}，来了{b}{t}，{q}有{c}{t}。谁多？",
            "{p}有{a}{t}，来了{b}{t}，{q}有{c}{t}。谁多？",
        ),
    },
}
FINAL = re.compile(r"(?:The answer is |答案是)([^.。]+)[.。]")
NUMBER = re.compile(r"\d+")


class Problem(NamedTuple):
    kind: str
    language: str
    question: str
    answer: str  # with the steps
    result: str  # "19", "B" or a name


def is_held_out(a: int, b: int, c: int) -> bool:
    """Say whether the numbers of a question are held out.

    >>> sum(is_held_out(3, 4, c) for c in range(1, 6))
    1
    """
    return (a + 2 * b + 3 * c) % HELD_OUT == 0


def make_problems(
    n: int, rng: np.random.Generator, *, new_numbers: bool = False, new_words: bool = False
) -> list[Problem]:
    """Draw n different questions.

    Args:
        n: how many.
        rng: draws them.
        new_numbers: a held-out triple in each; False: in none.
        new_words: the held-out template of each kind; False: one of the others.

    Raises:
        ValueError: there are not so many.

    >>> problem = make_problems(1, np.random.default_rng(0))[0]
    >>> right_result(problem.answer) == problem.result
    True
    """
    found: dict[str, Problem] = {}
    for _ in range(200 + 20 * n):
        if len(found) == n:
            break
        problem = _draw(rng, new_numbers, new_words)
        found.setdefault(problem.question, problem)
    if len(found) < n:
        raise ValueError(f"there are not {n} different questions of this kind")
    return list(found.values())


def make_drills(n: int, rng: np.random.Generator) -> list[str]:
    """Draw n lines of plain sums with their steps, of no held-out numbers, for pretraining.

    >>> make_drills(1, np.random.default_rng(0))
    ['2 - 1 + 1: 2 - 1 = 1. 1 + 1 = 2.']
    """
    found = []
    for _ in range(n):
        kind = ("more", "less", "back")[int(rng.integers(3))]
        a, b, c = _numbers(rng, kind, held_out=False)
        first, second = SIGNS.get(kind, USUAL)
        found.append(f"{a} {first} {b} {second} {c}: {' '.join(_steps(kind, a, b, c)[0])}")
    return found


def right_result(answer: str) -> str | None:
    """Return what an answer says in the end: after the closing words, else its last number.

    The second is for models that were never told to close so.

    >>> right_result("3 + 4 = 7. The answer is 7."), right_result("3 + 4 = 7."), right_result("?")
    ('7', '7', None)
    """
    said = FINAL.findall(answer)
    if said:
        return str(said[-1]).strip()
    numbers = NUMBER.findall(answer)
    return numbers[-1] if numbers else None


def _numbers(rng: np.random.Generator, kind: str, held_out: bool) -> tuple[int, int, int]:
    """Draw a, b, c so that no result is below 1, and the two sides of a comparison differ."""
    while True:
        a, b, c = (int(number) for number in rng.integers(1, LARGEST + 1, 3))
        if kind == "back":
            fits = a > b
        elif kind == "compare":
            fits = a + b != c
        else:
            fits = kind == "more" or a + b > c
        if fits and is_held_out(a, b, c) == held_out:
            return a, b, c


def _steps(kind: str, a: int, b: int, c: int) -> tuple[list[str], int, int]:
    """Return the two sums as text, and their results."""
    first, second = SIGNS.get(kind, USUAL)
    middle = a + b if first == "+" else a - b
    end = middle + c if second == "+" else middle - c
    return [f"{a} {first} {b} = {middle}.", f"{middle} {second} {c} = {end}."], middle, end


def _draw(rng: np.random.Generator, new_numbers: bool, new_words: bool) -> Problem:
    kind, language = KINDS[rng.integers(len(KINDS))], LANGUAGES[rng.integers(2)]
    templates = TEMPLATES[kind][language]
    template = templates[-1] if new_words else templates[rng.integers(len(templates) - 1)]
    names = rng.permutation(NAMES[language])
    words = {"p": str(names[0]), "q": str(names[1]), "t": str(rng.choice(THINGS[language]))}
    a, b, c = _numbers(rng, kind, new_numbers)
    steps, middle, end = _steps(kind, a, b, c)
    result = str(end)
    if kind == "compare":
        steps[1] = f"{middle} > {c}." if middle > c else f"{middle} < {c}."
        result = words["p" if middle > c else "q"]
    elif kind == "choice":
        near = [end + d for d in (-2, -1, 1, 2) if end + d > 0]
        options = [int(o) for o in rng.permutation([end, *rng.choice(near, 2, replace=False)])]
        words |= dict(zip("xyz", map(str, options), strict=True))
        result = "ABC"[options.index(end)]
    question = template.format(**words, a=a, b=b, c=c)
    english = language == "english"
    closing = f"The answer is {result}." if english else f"答案是{result}。"
    joined = "".join(f"{step} " if english else step.replace(".", "。") for step in steps)
    return Problem(kind, language, question, joined + closing, result)
