"""Pretokenizer: the pattern alternative by alternative, NFC, surrogates, errors."""

import random
import re

import pytest

from minqwen.tokenizer import pretokenizer
from minqwen.tokenizer.pretokenizer import QWEN_PATTERN, clean, compile_pattern, split

WHITE_SPACE = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("", []),
        ("don't WE'LL x're", ["don", "'t", " WE", "'LL", " x", "'re"]),
        ("'sand", ["'s", "and"]),  # also at the start of a word
        ("_word -word\tword", ["_word", " -", "word", "\tword"]),
        ("2024年", ["2", "0", "2", "4", "年"]),
        ("½ ² Ⅳ ٣", ["½", " ", "²", " ", "Ⅳ", " ", "٣"]),  # numbers of any kind
        ("f(x);\n\n", ["f", "(x", ");\n\n"]),
        ("a  b", ["a", " ", " b"]),
        ("a \n \n  b", ["a", " \n \n", " ", " b"]),
        ("a\r\n\r\nb", ["a", "\r\n\r\n", "b"]),
        ("a  ", ["a", "  "]),
        ("a\n  ", ["a", "\n", "  "]),  # cl100k would take these three as one piece
        ("你好，世界", ["你好", "，世界"]),
        ("e\u0301", ["e", "\u0301"]),  # a mark is no letter: NFC comes first
        ("👩\u200d🚀!", ["👩\u200d🚀!"]),
        ("שלום עולם", ["שלום", " עולם"]),
        ("𝒳𝟙𠀀", ["𝒳", "𝟙", "𠀀"]),
        ("\x1c\x1f", ["\x1c\x1f"]),  # white space to str.isspace, not to Unicode
    ],
)
def test_pieces(text, pieces):
    assert split(text) == pieces


def test_all_white_space_and_nothing_else_is_white_space():
    for character in WHITE_SPACE:
        assert split(f"a{character}{character}1")[-1] == "1"
        assert split(f"{character}{character}.") != [f"{character}{character}."]
    assert split("\u200b\u200b.") == ["\u200b\u200b."]  # zero width space is a format character


def test_pieces_joined_are_the_text_and_no_piece_has_two_digits():
    rng = random.Random(0)
    for _ in range(300):
        text = "".join(
            chr(rng.choice((rng.randrange(128), rng.randrange(0xD800)))) for _ in "x" * 20
        )
        pieces = split(text)
        assert "".join(pieces) == text
        assert all(sum(c.isdigit() for c in piece) <= 1 for piece in pieces)


def test_the_short_cut_for_ascii_gives_the_same_pieces():
    rng = random.Random(1)
    by_regex = compile_pattern(QWEN_PATTERN).findall
    alphabet = [*map(chr, range(128)), *" \n\r\t'sdmtrevlSDMTREVL  \n'" * 4]
    for _ in range(3000):
        text = "".join(rng.choices(alphabet, k=rng.randrange(40)))
        assert split(text) == by_regex(text)


def test_the_short_cut_for_blocks_of_lines_gives_the_same_pieces(monkeypatch):
    rng = random.Random(2)
    small = pretokenizer._BLOCK.pattern.replace("1024", "3")  # as many cuts as the rule allows
    monkeypatch.setattr(pretokenizer, "_BLOCK", re.compile(small))
    by_regex = compile_pattern(QWEN_PATTERN).findall
    alphabet = [*WHITE_SPACE, *"\x1c\x1fé中，½\u0301\u200b👍", *"\n\n\n\n\r\r  ab's1.!_)" * 4]
    cuts = 0
    for _ in range(3000):
        text = "".join(rng.choices(alphabet, k=rng.randrange(60)))
        assert split(text) == by_regex(text), text
        cuts += len(pretokenizer._BLOCK.findall(text)) > 1
    assert cuts > 1000


def test_one_other_character_leaves_the_rest_to_the_short_cut(monkeypatch):
    slow = []

    class Slow:
        def findall(self, text):
            slow.append(len(text))
            return compile_pattern(r"(?s:.)").findall(text)

    monkeypatch.setattr(pretokenizer, "_QWEN_REGEX", Slow())
    split("x = 1\n" * 5000 + "é\n" + "x = 1\n" * 5000)
    assert len(slow) == 1
    assert slow[0] < 1100


def test_nfc_and_surrogates():
    assert clean("a\u0301") == "á"
    assert clean("a\u0301", normalize=False) == "a\u0301"
    assert clean("\ud83d\udc4d") == "👍"
    assert clean("\ud83d") == clean("\udc4d") == "\ufffd"
    assert clean("\udc4d\ud83d") == "\ufffd\ufffd"  # the wrong way round
    assert clean("\ufeffa\ud83d") == "\ufeffa\ufffd"  # a byte order mark is text


def test_text_must_be_str():
    with pytest.raises(TypeError, match="text must be a str, got bytes"):
        clean(b"a")


def test_another_pattern_loses_nothing():
    assert split("12, ab  7", r"\d+|\p{L}+") == ["12", ", ", "ab", "  ", "7"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("(a", "does not compile"), ("(a)|b", "capture group"), ("a*", "fits the empty text")],
)
def test_an_unusable_pattern_is_refused(pattern, message):
    with pytest.raises(ValueError, match=message):
        split("a", pattern)


@pytest.mark.parametrize("character", [" ", "\n", "a", "7", "!", "中", "\u0301", "'"])
def test_long_runs_are_not_a_trap(character):
    text = character * 100_000  # a pattern that tracks back over the run from each place never ends
    assert "".join(split(text)) == text
