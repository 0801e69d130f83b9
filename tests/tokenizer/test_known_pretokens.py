"""Tables of pre-tokens: the ids of merges.py alone, also where a pre-token is cut; bounds."""

import pickle
import random
from collections import Counter

import pytest

from minqwen.tokenizer import known_pretokens
from minqwen.tokenizer.known_pretokens import Cuts, KnownPretokens, cut
from minqwen.tokenizer.merges import bpe_encode, learn_merges

BYTES = {bytes([byte]): byte for byte in range(256)}


def vocabulary(*tokens):
    return BYTES | {token: 256 + i for i, token in enumerate(tokens)}


def trained(words, merges):
    return vocabulary(*(left + right for left, right in learn_merges(words, merges)))


@pytest.mark.parametrize("alphabet", ["的一是不了", "aé 的", "ab的", "αβγ", "👍👎a", "дeд"])
def test_ids_are_those_of_merges_alone(alphabet):
    rng = random.Random(alphabet)
    for _ in range(8):
        words = Counter("".join(rng.choices(alphabet, k=rng.randrange(2, 9))) for _ in range(30))
        ranks = trained(words, rng.choice((5, 20, 60)))
        known = KnownPretokens(ranks)
        for _ in range(60):
            word = "".join(rng.choices(alphabet + "xœ中", k=rng.randrange(1, 30)))
            token = word.encode()
            want = [ranks[token]] if token in ranks else bpe_encode(token, ranks)
            assert list(known[word]) == want, (word, sorted(ranks, key=ranks.get)[256:])
            assert known[word] is known[word]


def test_cuts_are_where_no_token_stands_across():
    cuts = Cuts(vocabulary("今天".encode(), "天气好".encode()))
    assert cut("今天天气很好", cuts) == ["今天", "天气", "很", "好"]
    assert cut("气好今天", cuts) == ["气好", "今天"]
    assert cut("好", cuts) == ["好"]
    assert cut("x今天y", cuts) == ["x", "今天", "y"]
    assert cut("ab今", cuts) == ["ab", "今"]  # two ASCII characters stay together


@pytest.mark.parametrize(
    ("token", "pair", "crossed"),
    [
        (" 中".encode()[:2], " 中", True),  # a space and a first byte
        (" 中".encode()[:2], " 丁", True),  # which begins with the same byte
        (" 中".encode()[:2], "中 ", False),
        ("中文".encode()[2:4], "中文", True),  # the last byte of one, the first of the next
        ("中文".encode()[2:4], "文中", False),
        ("中文".encode()[1:], "中文", True),
        ("中文".encode()[1:5], "中文", True),
        ("a中文b".encode(), "文b", True),
        ("中文字".encode()[1:-1], "文字", True),
        ("中".encode()[:2], "中文", False),  # within one character
    ],
)
def test_tokens_with_half_characters(token, pair, crossed):
    assert cut(pair, Cuts(vocabulary(token))) == ([pair] if crossed else list(pair))


def test_a_part_is_made_by_merges_and_not_looked_up():
    ranks = vocabulary("中文".encode())  # a damaged vocabulary: no merges lead to this token
    known = KnownPretokens(ranks)
    assert known["中文"] == (256,)  # as a whole pre-token it is found
    assert known["中文x"] == (*"中文x".encode(),)
    assert known["中文"] == (256,)


def test_tables_stay_within_bounds(monkeypatch):
    monkeypatch.setattr(known_pretokens._Table, "limit", 7)
    ranks = trained({"的一是不了": 2, "一是的不": 3}, 12)
    known = KnownPretokens(ranks)
    rng = random.Random(0)
    for _ in range(200):
        word = "".join(rng.choices("的一是不了", k=rng.choice((3, 9, 70))))
        ids = known[word]
        assert list(bpe_encode(word.encode(), ranks)) == list(ids)
        for table in (known, known.parts, known.cuts):
            assert len(table) <= 7
            assert max(map(len, table), default=0) <= 64
    known.forget()
    assert (len(known), len(known.parts), len(known.cuts)) == (0, 0, 0)
    assert pickle.loads(pickle.dumps(known))["的一"] == known["的一"]


def test_a_long_pretoken_is_worked_through_in_short_parts(monkeypatch):
    lengths = []

    def counted(token, ranks):
        lengths.append(len(token))
        return bpe_encode(token, ranks)

    monkeypatch.setattr(known_pretokens, "bpe_encode", counted)
    ranks = trained({"今天": 9, "天气": 5}, 8)
    ids = KnownPretokens(ranks)["今天很好天气" * 5000]
    parts = ("今天", "很", "好", "天气")
    assert list(ids) == [i for part in parts for i in bpe_encode(part.encode(), ranks)] * 5000
    assert max(lengths) <= 6  # two characters, not 90,000 bytes
    assert len(lengths) <= 4  # 今天, 很, 好, 天气: each once
