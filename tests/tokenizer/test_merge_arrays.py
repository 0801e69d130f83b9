"""Merges on arrays: equal to merges.py merge by merge, on runs, overlaps, ties; few rounds."""

import random
from collections import Counter
from itertools import islice, pairwise

import numpy as np
import pytest

from minqwen.tokenizer import merge_arrays
from minqwen.tokenizer.merge_arrays import learn_merges_arrays
from minqwen.tokenizer.merges import learn_merges, learn_merges_steps
from minqwen.tokenizer.pretokenizer import split

WORDS = {
    "empty": {},
    "no pair": {"a": 3, "b": 2},
    "an empty word": {"": 2, "ab": 1},
    "the example": {"aaabdaaabac": 1},
    "one letter": {"a" * n: 1 for n in range(1, 40)},
    "one long run": {"a" * 1000: 1},
    "two letters in turn": {"ab" * 500: 1, "ba" * 3: 2},
    "overlaps": {"abababa": 2, "bababab": 2, "aabaabaab": 3, "abbaabba": 1},
    "all tie": {f"{a}{b}": 1 for a in "abcdef" for b in "zyxwvu"},
    "ties of bytes and tokens": {"xyxyz": 3, "yzyzx": 3, "zxzxy": 3},
    "chinese": {"我喜欢苹果": 2, "，我喜欢香蕉": 2, "。他们喜欢苹果吗": 1},
    "zero bytes": {"\0\0\0a": 2, "a\0\0": 5, "ÿ\0ÿ": 2},
    "large counts": {"abc": 2**40, "abd": 2**40 - 1, "bcd": 2**40 + 1},
}


@pytest.mark.parametrize("span", [1, 8, 1e18])  # rounds for the best count alone, ..., one round
@pytest.mark.parametrize("name", WORDS)
def test_equals_the_plain_form(name, span, monkeypatch):
    monkeypatch.setattr(merge_arrays, "RANGE", span)
    assert learn_merges_arrays(WORDS[name], 10_000) == learn_merges(WORDS[name], 10_000)


@pytest.mark.parametrize("span", [1, 2, 8])
@pytest.mark.parametrize("alphabet", ["ab", "aaab", "abc", "abcdefgh", "ééa", "的一是"])
def test_equals_the_plain_form_on_random_words(alphabet, span, monkeypatch):
    monkeypatch.setattr(merge_arrays, "RANGE", span)
    rng = random.Random(f"{alphabet}{span}")
    for _ in range(25):
        words = {
            "".join(rng.choices(alphabet, k=rng.randrange(20))): rng.choice((1, 1, 2, 9, 50))
            for _ in range(rng.randrange(1, 12))
        }
        assert learn_merges_arrays(words, 300) == learn_merges(words, 300), words


def test_equals_the_definition():
    text = "low lower lowest newer wider aaaa aaa ababab 你好你好 " * 2
    pretokens = split(text)
    want = [step.pair for step in islice(learn_merges_steps(pretokens), 60)]
    assert learn_merges_arrays(Counter(pretokens), 60) == want


def test_stops_after_the_merges_asked_for_and_tells_of_each():
    seen = []
    words = {"abcdefgh": 2, "efgh": 1}
    learned = learn_merges_arrays(words, 3, lambda done, merges: seen.append((done, merges)))
    assert learned == [(b"e", b"f"), (b"g", b"h"), (b"ef", b"gh")]
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert learn_merges_arrays(words, 0) == []


def test_a_run_is_joined_from_the_left():
    places = np.array([0, 2, 4, 6, 10, 12, 20])  # of a pair of tokens that are two places wide
    assert merge_arrays._without_overlaps(places, 2).tolist() == [0, 4, 10, 20]


def test_rounds_grow_with_the_logarithm_of_the_highest_count(monkeypatch):
    rounds, places = [], []

    def counted(first, weight, plain=merge_arrays._frequent_pairs):
        rounds.append(first.size)
        return plain(first, weight)

    def looked_at(ids, w, least, plain=merge_arrays._groups):
        places.append(ids.size)
        return plain(ids, w, least)

    monkeypatch.setattr(merge_arrays, "_frequent_pairs", counted)
    monkeypatch.setattr(merge_arrays, "_groups", looked_at)
    rng = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = Counter(
        "".join(rng.choices(letters, range(26, 0, -1), k=rng.randrange(2, 9))) for _ in range(2000)
    )
    bytes_in_all = sum(map(len, words))
    merges = len(learn_merges_arrays(words, 10_000))
    assert merges > 2000
    assert len(rounds) <= 6  # a pair of letters stands about 100 times: 100, 12, 2, and the end
    assert all(after < before for before, after in pairwise(rounds))
    assert sum(places) <= 2 * bytes_in_all  # each place is joined away once, and has two sides
