"""What is done to a document to make a copy of it that is not the same.

    exact      nothing; or other line ends and indents, which normalisation takes away again
    near       some words changed; the end cut off
    template   the same story of other people and things; the same story in Chinese

What to expect, with words of 5 letters and shingles of 5 characters. Of the 6 shingles that begin
in a word or at the space after it, 3 touch only one word, 3 touch two. If a share c of the words is
changed at random, the share s of the shingles stays; as many as go are new, but for the 3 that the
new word brings along, which stand elsewhere in the text too. So the Jaccard similarity is

    s = ((1 - c) + (1 - c)^2) / 2        J = s / (2 - s - c / 2)
    J = 0.95, 0.88, 0.78 and 0.61 for c = 2, 5, 10 and 20 %

Origin:   Lee et al. 2021, arXiv:2107.06499: what near copies in web text differ by.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from ..data.corpora import OPENINGS, PEOPLE, PLACES, THINGS

WORD = re.compile(r"[\u4e00-\u9fff]|[^\W\u4e00-\u9fff]+")  # or a Chinese character
WORDS = (0.02, 0.05, 0.1, 0.2)  # shares of the words
CUT = (0.05, 0.3)  # share of the characters at the end, from and to

Change = Callable[[str, np.random.Generator], str]


def change_words(text: str, share: float, rng: np.random.Generator) -> str:
    """Put other words of the text in place of some; characters where it is Chinese.

    >>> change_words("one two", 0.5, np.random.default_rng(0)) in ("one one", "two two")
    True
    """
    places = list(WORD.finditer(text))
    chosen = rng.permutation(len(places))[: max(1, round(share * len(places)))]
    pieces, end = [], 0
    for i in sorted(chosen.tolist()):
        here = places[i]
        others = [m[0] for m in places if m[0] != here[0] and m[0].isascii() == here[0].isascii()]
        word = others[rng.integers(len(others))] if others else here[0][::-1]
        pieces += [text[end : here.start()], word]
        end = here.end()
    return "".join([*pieces, text[end:]])


def white_space(text: str, rng: np.random.Generator) -> str:
    """Write the text in lines of another length, without its own line ends and indents."""
    width, lines = int(rng.integers(40, 100)), [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return "\n".join(lines)


def cut_off(text: str, rng: np.random.Generator) -> str:
    """Take away the end."""
    return text[: round((1 - rng.uniform(*CUT)) * len(text))]


def fill_anew(story: str, rng: np.random.Generator) -> str:
    """Put other people, things, beginnings and places into a story; the sums stay right.

    >>> fill_anew("Mei had 7 eggs.", np.random.default_rng(0))
    'The baker had 7 fish.'
    """
    new: dict[str, str] = {}
    for group in (PEOPLE, OPENINGS, PLACES):
        shift = int(rng.integers(1, len(group)))  # at least one: everything becomes something else
        for old, other in zip(group, (*group[shift:], *group[:shift]), strict=True):
            new[old.english], new[old.chinese] = other.english, other.chinese
            new[_capital(old.english)] = _capital(other.english)
    shift = int(rng.integers(1, len(THINGS)))
    for thing, instead in zip(THINGS, (*THINGS[shift:], *THINGS[:shift]), strict=True):
        new |= {thing.one: instead.one, thing.many: instead.many, thing.chinese: instead.chinese}
        new[f"和{thing.chinese[1:]}\n"] = f"和{instead.chinese[1:]}\n"  # in the title
    forms = sorted(new, key=len, reverse=True)
    pattern = "|".join(rf"\b{f}\b" if f.isascii() else re.escape(f) for f in forms)
    return re.sub(pattern, lambda m: new[m[0]], story)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _words(share: float) -> Change:
    return lambda text, rng: change_words(text, share, rng)


EXACT: dict[str, Change] = {"same": lambda text, rng: text, "white space": white_space}
NEAR: dict[str, Change] = {f"{100 * share:.0f} % of words": _words(share) for share in WORDS}
NEAR["end cut off"] = cut_off
TEMPLATE = ("filled anew", "translated")
CHANGES = (*EXACT, *NEAR, *TEMPLATE)
