"""Text that needs no download: English, code, and small stories in English and Chinese.

    python_reference        the language reference inside CPython, 0.5 to 0.7 MB of English
    standard_library_code   the sources of the standard library, as much as wanted
    bilingual_stories       made up by a grammar, see there

The first two depend on the version of Python that runs; within one version they never change.
Any text of your own can take their place: everything here is a list of documents.

Paper:    Qwen Technical Report, 2.1 Data: public web pages, encyclopaedia, books, code, mostly
          English and Chinese. These are only stand-ins of the same kinds.
"""

from __future__ import annotations

import os
import pydoc_data.topics
import random
import re
import sysconfig
from pathlib import Path
from typing import NamedTuple

NOT_LIBRARY = {"site-packages", "dist-packages", "test", "tests", "__pycache__"}


def python_reference() -> list[str]:
    """Return the help topics of Python, each a document of reStructuredText-like English.

    >>> any("assignment" in topic for topic in python_reference())
    True
    """
    return [text for _, text in sorted(pydoc_data.topics.topics.items())]


def standard_library_code(max_bytes: int) -> list[str]:
    """Return source files of Python's standard library, in the order of their paths.

    Args:
        max_bytes: most bytes of UTF-8 in all; the last file is cut at the end of a line.

    Returns:
        One document per file, without tests and without installed packages.

    Raises:
        ValueError: max_bytes is negative.
        FileNotFoundError: this Python came without sources.

    >>> sum(len(text.encode()) for text in standard_library_code(10_000)) <= 10_000
    True
    """
    if max_bytes < 0:
        raise ValueError(f"max_bytes must not be negative, got {max_bytes}")
    library = Path(sysconfig.get_path("stdlib"))
    paths: list[Path] = []
    for folder, subfolders, files in os.walk(library):
        subfolders[:] = set(subfolders) - NOT_LIBRARY  # these are not entered
        paths += [Path(folder, file) for file in files if file.endswith(".py")]
    if not paths:
        raise FileNotFoundError(f"no sources of the standard library in {library}")

    documents, left = [], max_bytes
    for path in sorted(paths, key=Path.as_posix):
        source = path.read_bytes().replace(b"\r\n", b"\n")
        last = len(source) > left
        if last:
            source = source[: source.rfind(b"\n", 0, left) + 1]
        try:
            text = source.decode("utf-8")
        except UnicodeDecodeError:
            continue  # a few old files declare another encoding
        if text.strip():
            documents.append(text)
        if last:
            break
        left -= len(source)
    return documents


class Thing(NamedTuple):
    one: str  # "egg"
    many: str  # "eggs"
    chinese: str  # with its measure word, as it follows the number: "个鸡蛋"


class Text(NamedTuple):
    english: str
    chinese: str


PEOPLE = (
    Text("Mei", "小梅"),
    Text("Tom", "汤姆"),
    Text("Grandfather Li", "李爷爷"),
    Text("Anna", "安娜"),
    Text("the ferryman", "船夫"),
    Text("Dou Dou", "豆豆"),
    Text("the baker", "面包师"),
    Text("Ali", "阿里"),
)
THINGS = (
    Thing("apple", "apples", "个苹果"),
    Thing("egg", "eggs", "个鸡蛋"),
    Thing("book", "books", "本书"),
    Thing("lantern", "lanterns", "盏灯笼"),
    Thing("fish", "fish", "条鱼"),
    Thing("flower", "flowers", "朵花"),
    Thing("paper boat", "paper boats", "只纸船"),
    Thing("candle", "candles", "支蜡烛"),
    Thing("coin", "coins", "枚硬币"),
    Thing("dumpling", "dumplings", "个饺子"),
)
OPENINGS = (
    Text("One rainy morning", "一个下雨的早晨"),
    Text("On the day of the spring market", "春天赶集的那天"),
    Text("Late in autumn", "深秋时节"),
    Text("The night before the festival", "节日的前一晚"),
    Text("When the river was frozen", "河水结冰的时候"),
    Text("Long ago", "很久以前"),
)
PLACES = (
    Text("by the old bridge", "在老桥边"),
    Text("in a small kitchen", "在小厨房里"),
    Text("at the foot of the mountain", "在山脚下"),
    Text("behind the school", "在学校后面"),
    Text("in the harbour", "在港口"),
    Text("under a plum tree", "在一棵梅树下"),
)
# In the sentences {p} is the person, {q} the other one, {n} a number of things, {k} a factor.
GAINS = (
    Text("{q} came along and brought {n}.", "{q}走过来，带来了{n}。"),
    Text("In a basket that nobody had missed lay {n}.", "一只没人要的篮子里放着{n}。"),
    Text("{q} said, “Take {n}, I have more than I need.”", "{q}说：“拿{n}去吧，我用不完。”"),
    Text("Before noon {p} found {n} in the grass.", "不到中午，{p}在草丛里找到了{n}。"),
)
LOSSES = (
    Text("{q} looked lonely, so {p} gave away {n}.", "{q}很孤单，{p}就送出了{n}。"),
    Text("The wind was strong, and {n} went with it.", "风很大，{n}被吹走了。"),
    Text("{p} traded {n} for a song.", "{p}用{n}换了一首歌。"),
    Text("A clever crow stole {n}.", "一只聪明的乌鸦偷走了{n}。"),
)
MULTIPLICATIONS = (
    Text(
        "“Close your eyes,” said {q}. Now there were {k} times as many.",
        "“闭上眼睛。”{q}说。现在变成了{k}倍。",
    ),
    Text(
        "{q} told the neighbours, and soon there were {k} times as many.",
        "{q}告诉了邻居们，很快就变成了{k}倍。",
    ),
)
SHARINGS = (
    Text(
        "{k} children came by. {p} shared everything out, and each got {n}.",
        "来了{k}个孩子。{p}全分了，每人得到{n}。",
    ),
    Text(
        "{p} filled {k} bags, {n} in each, and carried them to {q}.",
        "{p}装了{k}个袋子，每袋{n}，送给了{q}。",
    ),
)
ENDINGS = {  # by what happened last
    "+": (
        Text(
            "{p} counted twice, because luck likes to be counted.", "{p}数了两遍，好运喜欢被人数。"
        ),
        Text(
            "That evening {p} wrote {q} a letter of thanks.", "那天晚上，{p}给{q}写了一封感谢信。"
        ),
    ),
    "-": (
        Text("“Less to carry,” said {p}, and whistled.", "“拿着更轻了。”{p}吹起了口哨。"),
        Text("What was left was enough, and {p} knew it.", "剩下的已经够了，{p}心里明白。"),
    ),
    "*": (
        Text("“Who needs so many?” asked {p}, and laughed.", "“谁要这么多呢？”{p}笑了起来。"),
        Text(
            "{p} looked at {q}. “Again?” “No,” said {q}, “enough.”",
            "{p}看着{q}：“再来？”{q}说：“够了。”",
        ),
    ),
    "/": (
        Text("Nobody got more and nobody got less.", "谁也没有多，谁也没有少。"),
        Text(
            "It took no time at all, and it was the best hour of the day.",
            "没花多少时间，却是一天里最好的时光。",
        ),
    ),
}


def bilingual_stories(n: int, seed: int) -> list[str]:
    """Return n short stories that count something, in English, in Chinese, or in both.

    The grammar (each choice is drawn evenly unless a line says otherwise):

        document = title, story          title names the person and the thing
                   English 2 in 5, Chinese 2 in 5, both under each other 1 in 5
        story    = opening, person, place, "had 7 eggs"
                   2 to 4 events
                   question, the last count as answer, ending
        event    = sentence, sum         the sum is right: "7 - 3 = 4."
                   gain +, loss - (never below 1), k times as many * (while below 50),
                   sharing / (not first, only without a rest; then it is the last event)
        ending   = one of two that fit the last event

    A model that reads them can be asked whether it writes both languages, keeps the person and
    the thing through the story, and gets the sums right, digit by digit.

    Args:
        n: stories to make.
        seed: the same seed gives the same stories, and the first of many are those of few.

    Raises:
        ValueError: n is negative.

    >>> bilingual_stories(1, seed=1)[0].splitlines()[2][:63]
    'One rainy morning Tom sat by the old bridge and had 17 candles.'
    """
    if n < 0:
        raise ValueError(f"n must not be negative, got {n}")
    return [_story(random.Random(f"{seed} {i}")) for i in range(n)]


def _story(rng: random.Random) -> str:
    person, other = rng.sample(PEOPLE, 2)
    thing = rng.choice(THINGS)
    opening, place = rng.choice(OPENINGS), rng.choice(PLACES)
    count = rng.randint(2, 20)
    english = [
        f"{opening.english} {person.english} sat {place.english} and had {_number(count, thing)}."
    ]
    chinese = [f"{opening.chinese}，{person.chinese}坐{place.chinese}，有{count}{thing.chinese}。"]

    operation = ""
    for number in range(rng.randint(2, 4)):
        sentence, operation, k, result = _event(rng, count, share=number > 0)
        n = result if operation == "/" else k
        english.append(_english(sentence, person, other, n, k, thing))
        english.append(f"{count} {operation} {k} = {result}.")
        chinese.append(_chinese(sentence, person, other, n, k, thing))
        chinese.append(f"{count} {operation} {k} = {result}。")
        count = result
        if operation == "/":
            break

    shared = operation == "/"
    question = f"How many {thing.many} {'were in each share' if shared else 'were there now'}?"
    english.append(f"{question} {_number(count, thing)}.")
    chinese.append(f"{'每份' if shared else '现在'}有多少{thing.chinese}？{count}{thing.chinese}。")
    ending = rng.choice(ENDINGS[operation])
    english.append(_english(ending, person, other, count, count, thing))
    chinese.append(_chinese(ending, person, other, count, count, thing))

    english_story = f"{_capitals(person.english)} and the {thing.many}\n\n{' '.join(english)}\n"
    chinese_story = f"{person.chinese}和{thing.chinese[1:]}\n\n{''.join(chinese)}\n"
    language = rng.randrange(5)
    if language < 2:
        return english_story
    return chinese_story if language < 4 else f"{english_story}\n{chinese_story}"


def _event(rng: random.Random, count: int, share: bool) -> tuple[Text, str, int, int]:
    """Draw what happens to `count` things: sentence, operation, its second number, result."""
    divisors = [k for k in range(2, 10) if share and count % k == 0]
    possible = "+" + "-" * (count > 1) + "*" * (count < 50) + "/" * bool(divisors)
    operation = rng.choice(possible)
    if operation == "+":
        k = rng.randint(1, 20)
        return rng.choice(GAINS), operation, k, count + k
    if operation == "-":
        k = rng.randint(1, count - 1)
        return rng.choice(LOSSES), operation, k, count - k
    if operation == "*":
        k = rng.randint(2, 5)
        return rng.choice(MULTIPLICATIONS), operation, k, count * k
    k = rng.choice(divisors)
    return rng.choice(SHARINGS), operation, k, count // k


def _number(n: int, thing: Thing) -> str:
    return f"{n} {thing.one if n == 1 else thing.many}"


def _english(text: Text, person: Text, other: Text, n: int, k: int, thing: Thing) -> str:
    number = _number(n, thing)
    return _capitals(text.english.format(p=person.english, q=other.english, n=number, k=k))


def _chinese(text: Text, person: Text, other: Text, n: int, k: int, thing: Thing) -> str:
    return text.chinese.format(p=person.chinese, q=other.chinese, n=f"{n}{thing.chinese}", k=k)


def _capitals(english: str) -> str:
    """Begin every sentence with a capital: "the baker" is a name here."""
    return re.sub(r"(^|[.!?] )([a-z])", lambda m: m[1] + m[2].upper(), english)
