"""Blocklist: whole words where words have borders, anywhere in Chinese."""

import pytest

from minqwen.data.blocklist import blocklist_rule, find_blocked, make_blocklist
from minqwen.data.quality_rules import judge

BLOCKED = make_blocklist(["ass", "bad word", "赌博", "c++", "AV女优", "Straße", "", "  "])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("First class assembly", {}),
        ("Ass, ASS! (ass) _ass ass1", {"ass": 3}),
        ("a bad\n  WORD. bad words, sbad word, badword", {"bad word": 1}),
        ("网络赌博网站，赌 博，赌。博，赌博", {"赌博": 2}),
        ("看ass片", {"ass": 1}),  # Chinese letters are borders
        ("C++ and c+ + and abc++", {"c++": 1}),
        ("日本av女优们 xav女优", {"av女优": 1}),  # a border where the entry has a word only
        ("ｂａｄ　ｗｏｒｄ STRASSE", {"bad word": 1, "strasse": 1}),
        ("", {}),
    ],
)
def test_found(text, expected):
    assert find_blocked(BLOCKED, text) == expected


def test_entries_inside_each_other_are_both_found():
    both = make_blocklist(["赌", "赌博", "big casino", "casino"])
    assert find_blocked(both, "赌博 big casino casino") == {
        "casino": 2, "赌": 1, "赌博": 1, "big casino": 1,
    }  # fmt: skip


def test_rule():
    assert judge("A fine class.", [blocklist_rule(BLOCKED)]).kept
    assert judge("One ass.", [blocklist_rule(BLOCKED, most=1)]).kept
    (failure,) = judge("ass 赌博", [blocklist_rule(BLOCKED, most=1)]).failures
    assert failure.reason == "blocked phrases: 2, wanted at most 1 (blocklist)"


def test_errors():
    with pytest.raises(ValueError, match="at least one that is not blank"):
        make_blocklist([" ", ""])
    with pytest.raises(TypeError, match="several texts, got one"):
        make_blocklist("bad")
