"""Units and tokens, against the regular expressions that define them."""

import random
import sys
import time
import unicodedata

import numpy as np
import pytest

from minqwen.data.text_units import (
    MARKS,
    TOKEN,
    UNIT,
    normalise,
    read_text,
    token_spans,
    unicode_form,
)

ALPHABETS = [
    "ab  .",
    "我a你 。b\n",
    "ไทย မြန် ខ្មែរ กข ½²Ⅷ_１ \u3000\x1c\x85\u2028 e\u0301İß\ud800\0",
    "".join(map(chr, range(0x20, 0x3100, 7))) + "   ",
]


def random_texts(n):
    rng = random.Random(0)
    sizes = [0, 1, 2, 3, 50]
    return ["".join(rng.choices(rng.choice(ALPHABETS), k=rng.choice(sizes))) for _ in range(n)]


def test_units_by_hand():
    text = read_text("（你好）ok，ไทย 12ab")
    assert text.units == ["（你", "好）", "ok，", "ไ", "ท", "ย", "12ab"]
    assert text.lengths.tolist() == [2, 2, 3, 1, 1, 1, 4]
    assert text.is_character.tolist() == [True, True, False, True, True, True, False]
    assert text.characters == 5
    assert text.undivided
    assert not read_text("").undivided
    assert read_text("한국어 문장").units == ["한국어", "문장"]  # Korean has spaces
    assert read_text(" a\n\n \nb \nc").lines == ["a", "b", "c"]
    assert read_text(" a\n\n \nb \nc").paragraphs == ["a", "b \nc"]
    assert normalise("Ａ\u3000b\n\tC") == "a b c"


def test_forms_are_those_of_unicodedata():
    """Also where marks stand at the edges of blocks, with fewer than a block in a row."""
    rng = random.Random(0)
    marks = "\u0301\u0316\u0327\u3099\u0f73\uff9e\u0345"
    texts = [*random_texts(50), marks * 20]
    for _ in range(40):
        runs = ("".join(rng.choices(marks, k=rng.randrange(MARKS))) for _ in range(8))
        texts.append("".join(rng.choice(["e", "か", "ཀ", "x" * 200]) + run for run in runs))
    for form in ("NFC", "NFD", "NFKC"):
        for text in texts:
            assert unicode_form(form, text) == unicodedata.normalize(form, text)


@pytest.mark.parametrize("marks", ["\u0301\u0316", "\u0f73\u0f75", "\uff9e\u0301"])
def test_a_long_run_of_marks_takes_no_square_of_it(marks):
    """200,000 would take unicodedata a minute."""
    before = time.process_time()
    one, other = (unicode_form("NFKC", start + marks * 100_000 + "z") for start in ("é", "e\u0301"))
    assert time.process_time() - before < 20  # 1.5 when measured
    assert one[0] == "é"
    assert one[-1] == other[-1] == "z"
    assert len(one) > 150_000


def test_half_of_the_units_make_a_text_undivided():
    assert read_text("我 a").undivided
    assert not read_text("我 a b").undivided


def test_units_and_their_numbers_are_those_of_the_expression():
    for document in random_texts(400):
        text = read_text(document)
        assert text.units == UNIT.findall(document)
        assert text.distinct == list(dict.fromkeys(text.units))
        assert [text.distinct[i] for i in text.numbers] == text.units
        assert text.lengths.tolist() == [len(unit) for unit in text.units]
        assert text.before.tolist() == [sum(text.lengths[:i]) for i in range(len(text.units) + 1)]
        assert [len(text.numbers), len(text.is_character)] == [len(text.units)] * 2
        assert text.before.dtype == text.lengths.dtype == text.numbers.dtype == np.int64


def spans(text):
    starts, ends = token_spans(text)
    return list(zip(starts.tolist(), ends.tolist(), strict=True))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("   ", []),
        ("a", [(0, 1)]),
        ("ab c", [(0, 2), (3, 4)]),
        ("ab好c", [(0, 2), (2, 3), (3, 4)]),
        ("--x", [(0, 1), (1, 2), (2, 3)]),
    ],
)
def test_tokens_by_hand(text, expected):
    assert spans(text) == expected


def test_tokens_are_those_of_the_expression():
    for text in random_texts(400):
        assert spans(text) == [token.span() for token in TOKEN.finditer(text)]


def test_characters_are_of_the_kind_that_the_expression_says():
    characters = [*range(2**16), *range(2**16, sys.maxunicode + 1, 23)]
    apart = "a".join(map(chr, characters))  # each between two letters
    assert spans(apart) == [token.span() for token in TOKEN.finditer(apart)]
