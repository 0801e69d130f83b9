"""Encode pre-tokens and remember them; cut those outside ASCII where no token reaches across.

Text repeats itself, so most pre-tokens were met before, and a table has their ids. A pre-token that
is one token as a whole needs no merges either. What is left is byte-pair encoding, see merges.py.

Chinese has no spaces: a whole clause is one pre-token, and hardly any clause comes twice. But the
words in it do. A merge joins two neighbours into a token of the vocabulary, so where no token of
the vocabulary can stand across a place, no merge ever crosses it, and the two sides are encoded
each on its own, with the same result:

    今天天气很好   today the weather is good; say the vocabulary has 今天 and 天气, but no token
    今天天气 | 很 | 好   with the end of 气 and the start of 很 side by side, nor of 很 and 好

Whether a token can stand across a place is asked of the two characters beside it alone: is any end
of the left one, with any start of the right one, in some token? (A token may hold a part of a
character, such as a space and the first byte of 中.) That says yes too often, never no too often.
The parts are short and come back, so a second table has *their* ids.

Measured on 1 MB of Chinese made of random words, cold, on a busy machine: 0.75 s of CPU time, 1.4 s
without cuts. The 17,626 clauses have 3,029 different parts; the tables of the vocabulary of Qwen
take 0.1 s, once, at the first pre-token that is not ASCII and not a token.

Paper:    Qwen Technical Report, 2.2 Tokenization.
Origin:   the table of whole words is in Sennrich's subword-nmt and in the code of GPT-2; the cuts
          are from this project.
Differs:  nothing in the result: the tests compare it with merges.py alone.
"""

from __future__ import annotations

import re
from functools import cached_property
from itertools import chain, pairwise
from operator import add
from typing import Generic, TypeVar

from .merges import bpe_encode

Value = TypeVar("Value")

# One character of UTF-8, or what is there of it when a token begins or ends inside one.
_CHARACTER = re.compile(rb"[^\x80-\xbf][\x80-\xbf]*|[\x80-\xbf]+")

MARK = "\ud800"  # half of a character: never in a pre-token, which has a form in UTF-8


class _Table(dict[str, Value], Generic[Value]):
    """A dict that works out what it lacks.

    The value of a key never changes, so it does no harm when two threads work out the same one, or
    when one empties the table under another.
    """

    longest = 64  # characters; longer keys are worked out each time
    limit = 100_000  # entries; then the table starts anew, so its memory is bounded

    def __init__(self, ranks: dict[bytes, int]) -> None:
        super().__init__()
        self.ranks = ranks

    def work_out(self, key: str) -> Value:
        raise NotImplementedError

    def __missing__(self, key: str) -> Value:
        value = self.work_out(key)
        if len(key) <= self.longest:
            if len(self) >= self.limit:
                self.clear()
            self[key] = value
        return value


class KnownPretokens(_Table[tuple[int, ...]]):
    """Pre-token -> its ids.

    Args:
        ranks: token -> id, with all 256 single bytes.

    >>> known = KnownPretokens({bytes([byte]): byte for byte in range(256)} | {b"ab": 256})
    >>> known["ab"], known["abc"]
    ((256,), (256, 99))
    """

    def __init__(self, ranks: dict[bytes, int]) -> None:
        super().__init__(ranks)
        self.parts = KnownParts(ranks)
        self.cuts = Cuts(ranks)

    def work_out(self, key: str) -> tuple[int, ...]:
        token = key.encode("utf-8")
        if (rank := self.ranks.get(token)) is not None:
            return (rank,)
        if key.isascii():  # few places to cut: nearly any two letters are side by side in a token
            return tuple(bpe_encode(token, self.ranks))
        return tuple(chain.from_iterable(map(self.parts.__getitem__, cut(key, self.cuts))))

    def forget(self) -> None:
        """Empty all tables: what comes next is as slow as the first text."""
        for table in (self, self.parts, self.cuts):
            table.clear()


class KnownParts(_Table[tuple[int, ...]]):
    """Part of a pre-token -> its ids, by merges alone.

    Not by looking up the whole part first, as for a pre-token: a damaged vocabulary may have a
    token that no merges make.
    """

    def work_out(self, key: str) -> tuple[int, ...]:
        return tuple(bpe_encode(key.encode("utf-8"), self.ranks))


class Cuts(_Table[str]):
    """Two characters -> the second, with a mark before it when no token can stand across the two.

    >>> cuts = Cuts({"今天".encode(): 256, " 中".encode()[:2]: 257})
    >>> [cuts[pair] == MARK + pair[1] for pair in ("今天", "天今", " 中", "今中")]
    [False, True, False, True]
    """

    @cached_property
    def crossings(self) -> set[bytes]:
        """All neighbouring characters, or what is there of them, in tokens outside ASCII."""
        tokens = (_CHARACTER.findall(token) for token in self.ranks if not token.isascii())
        return {left + right for token in tokens for left, right in pairwise(token)}

    def work_out(self, key: str) -> str:
        if key.isascii():
            return key[1]
        both = key.encode("utf-8")
        place = len(key[0].encode("utf-8"))  # the stretches of `both` that go across it:
        across = [both[i:j] for i in range(place) for j in range(place + 1, len(both) + 1)]
        return MARK + key[1] if self.crossings.isdisjoint(across) else key[1]


def cut(pretoken: str, cuts: Cuts) -> list[str]:
    """Cut a pre-token where no token can stand across.

    Args:
        pretoken: one or more characters.
        cuts: of the vocabulary.

    Returns:
        The parts in order; encoded each on its own they give the ids of the pre-token.

    >>> cut("今天很好", Cuts({"今天".encode(): 256}))
    ['今天', '很', '好']
    """
    rest = "".join(map(cuts.__getitem__, map(add, pretoken, pretoken[1:])))
    return (pretoken[:1] + rest).split(MARK)
