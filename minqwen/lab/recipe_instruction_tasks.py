"""Families of small tasks as instructions, and the filter that keeps tests out of training text.

    document   Task: choose the opposite. Options: warm, big. Input: cold. Answer: warm

A test is the same text up to "Answer:". Which option the model thinks likelier is its answer; with
few shots, solved examples of the same family stand before it.

Some families stand in pretraining text (SEEN), others never do (HELD_OUT); those ask for something
else with the same words. Words of a test may stand in training documents, with other options.

The filter drops training documents that have 13 tokens in a row with a test in common: a token here
is a word, a sign, or a Chinese character.

Paper:    Qwen Technical Report (arXiv), 2.1 Data: multi-task instructions in pretraining, and the
          13-gram filter against the test sets.
Origin:   13-grams: Brown et al. 2020, arXiv:2005.14165, appendix C.
Differs:  the report names neither the format of the instructions nor their share.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

NGRAM = 13
SEEN = ("opposite", "larger", "first_letter", "chinese", "animal", "longer", "number_after")
HELD_OUT = ("same", "english", "last_letter", "number_before")
TOKEN = re.compile(r"[\u2e80-\u9fff]|\w+|[^\w\s]")

OPPOSITES = (
    ("warm", "cold"), ("big", "small"), ("old", "young"), ("open", "closed"), ("high", "low"),
    ("full", "empty"), ("early", "late"), ("left", "right"), ("day", "night"), ("dry", "wet"),
    ("fast", "slow"), ("hard", "soft"), ("rich", "poor"), ("light", "dark"), ("near", "far"),
    ("strong", "weak"),
)  # fmt: skip
CHINESE = (
    ("apple", "苹果"), ("egg", "鸡蛋"), ("book", "书"), ("lantern", "灯笼"), ("fish", "鱼"),
    ("flower", "花"), ("candle", "蜡烛"), ("coin", "硬币"), ("dumpling", "饺子"), ("bridge", "桥"),
    ("mountain", "山"), ("school", "学校"), ("morning", "早晨"), ("autumn", "秋天"),
    ("river", "河"), ("wind", "风"),
)  # fmt: skip
ANIMALS = ("cat", "dog", "horse", "crow", "fish", "mouse", "sheep", "tiger", "snake", "duck")
THINGS = ("lamp", "book", "coin", "boat", "chair", "door", "stone", "paper", "bag", "cup")
WORDS = tuple(word for pair in OPPOSITES for word in pair) + ANIMALS + THINGS
HEADS = {
    "opposite": "choose the opposite",
    "larger": "choose the larger number",
    "first_letter": "choose the first letter",
    "chinese": "choose the Chinese",
    "animal": "choose the animal",
    "longer": "choose the longer word",
    "number_after": "choose the number after",
    "same": "choose the same word",
    "english": "choose the English",
    "last_letter": "choose the last letter",
    "number_before": "choose the number before",
}


class Item(NamedTuple):
    family: str
    prompt: str  # ends with "Answer:"
    options: tuple[str, str]  # with the space before them
    right: int  # place of the right option

    @property
    def document(self) -> str:
        """The whole text, as it stands in pretraining."""
        return self.prompt + self.options[self.right]


def make_items(family: str, n: int, rng: np.random.Generator) -> list[Item]:
    """Draw n items of a family; the right option is the first of two in half of them.

    >>> item = make_items("larger", 1, np.random.default_rng(0))[0]
    >>> item.options[item.right].strip() == str(max(int(o) for o in item.options))
    True
    """
    found = []
    for _ in range(n):
        given, right, wrong = _draw(family, rng)
        place = int(rng.integers(2))
        options = (right, wrong) if place == 0 else (wrong, right)
        about = f" Input: {given}." if given else ""
        prompt = f"Task: {HEADS[family]}. Options: {options[0]}, {options[1]}.{about} Answer:"
        found.append(Item(family, prompt, (f" {options[0]}", f" {options[1]}"), place))
    return found


def _draw(family: str, rng: np.random.Generator) -> tuple[str, str, str]:
    """Return input, right option and wrong option."""

    def one(things: Sequence[str]) -> str:
        return things[int(rng.integers(len(things)))]

    def two(n: int) -> tuple[int, int]:
        first, second = rng.choice(n, 2, replace=False)
        return int(first), int(second)

    if family == "opposite":
        i, j = two(len(OPPOSITES))
        side = int(rng.integers(2))
        return OPPOSITES[i][side], OPPOSITES[i][1 - side], OPPOSITES[j][1 - side]
    if family == "larger":
        low, high = sorted(two(99))
        return "", str(high + 1), str(low + 1)
    if family in ("first_letter", "last_letter"):
        word = one([word for word in WORDS if word[0] != word[-1]])
        ends = (word[0], word[-1])
        return (word, *(ends if family == "first_letter" else ends[::-1]))
    if family in ("chinese", "english"):
        i, j = two(len(CHINESE))
        side = int(family == "chinese")
        return CHINESE[i][1 - side], CHINESE[i][side], CHINESE[j][side]
    if family == "animal":
        return "", one(ANIMALS), one(THINGS)
    if family == "longer":
        while True:
            short, long = sorted((one(WORDS), one(WORDS)), key=len)
            if len(short) < len(long):
                return "", long, short
    if family == "same":
        i, j = two(len(WORDS))
        return WORDS[i], WORDS[i], WORDS[j]
    number = int(rng.integers(11, 90))
    step = 1 if family == "number_after" else -1
    return str(number), str(number + step), str(number + step * int(rng.choice([-1, 2, 10])))


def few_shots(item: Item, shots: Sequence[Item]) -> str:
    """Return the prompt of an item behind solved examples, one a line."""
    return "\n".join([*(shot.document for shot in shots), item.prompt])


def ngrams(text: str, n: int = NGRAM) -> set[tuple[str, ...]]:
    """Return all n tokens in a row, of words, signs and Chinese characters in small letters.

    >>> sorted(ngrams("To be, or", 2))
    [(',', 'or'), ('be', ','), ('to', 'be')]
    """
    tokens = TOKEN.findall(text.lower())
    return {tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)}


def all_ngrams(texts: Iterable[str], n: int = NGRAM) -> set[tuple[str, ...]]:
    """Return the n tokens in a row of all texts together."""
    known: set[tuple[str, ...]] = set()
    for text in texts:
        known |= ngrams(text, n)
    return known


def without_overlap(
    documents: Sequence[str], tests: Iterable[str], n: int = NGRAM
) -> tuple[list[str], int]:
    """Drop documents that have n tokens in a row with a test in common.

    Args:
        documents: to train on.
        tests: whole tests, with their answers.
        n: how many tokens in a row are too many.

    Returns:
        The documents that are left, and how many were dropped.

    >>> without_overlap(["a b c d", "a b x d"], ["z a b c"], n=3)
    (['a b x d'], 1)
    """
    known = all_ngrams(tests, n)
    kept = [text for text in documents if known.isdisjoint(ngrams(text, n))]
    return kept, len(documents) - len(kept)
