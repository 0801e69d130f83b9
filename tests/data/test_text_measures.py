"""Measures of a text, by hand; through their rules, so that the rules ask for what they say."""

import pytest

from minqwen.data.quality_rules import C4, FINEWEB, RULES
from minqwen.data.text_units import read_text


def value(name, document):
    (rule,) = (rule for rule in RULES + C4 + FINEWEB if rule.name == name)
    return rule.measure(read_text(document))


@pytest.mark.parametrize(
    ("name", "document", "expected"),
    [
        ("words", "one two  three\nfour", 4),
        ("words", "六个汉字加词, six", 5),  # 6 / 1.5 + 1
        ("mean word length", "ab cdef ghi", 3),
        ("mean word length", "abcd efg hij 好", 10 / 3),  # of the words alone
        ("mean word length", "这里不问 https://example.org/long", None),
        ("hashes per word", "# one ## two", 0.75),
        ("ellipses per word", "well ... so… …… yes ....", 4 / 6),
        ("ellipses per word", "a.. b…... c......d …", 4 / 4),  # two dots are none
        ("lines with bullet", "- a\n• b\n\n c\n* d", 0.75),
        ("lines ending in ellipsis", "a...\nb…  \nc.\nd", 0.5),
        ("words with a letter", "a1 2 -- 好。", 0.5),
        ("words with a letter", "-a _ __b 1_ ² 2² １", 4 / 7),  # ² is no decimal digit, １ is
        ("words with a letter", "", None),
        ("stop words", "The THE the, (OF)", 2),  # different ones, whatever their case and signs
        ("stop words", "t-h-e be", 2),
        ("stop words", "我的书，我的", 2),
        ("stop words", "我 of", 1),  # not one of each language
        ("lorem ipsum", "Lorem ipsum, LOREM IPSUM", 2),
        ("curly brackets", "f() { }", 1),
        ("lines that end a sentence", "是的。\nno\nYes!\n他说：“好。”", 0.75),
    ],
)
def test_by_hand(name, document, expected):
    assert value(name, document) == pytest.approx(expected)
