"""Rules of quality: each on both sides of its threshold, and what it says."""

from itertools import pairwise

import pytest

from minqwen.data.corpora import bilingual_stories, python_reference
from minqwen.data.quality_rules import (
    C4,
    FINEWEB,
    GOPHER_QUALITY,
    GOPHER_REPETITION,
    RULES,
    Rule,
    count_reasons,
    judge,
)
from minqwen.data.text_units import read_text

ENGLISH = """The ferry to the island leaves at eight, and most people bring their own breakfast.
A cook on board sells tea, which is strong, and soup, which nobody has ever praised.
On clear mornings you can see the lighthouse that was built by two brothers in 1871.
They quarrelled about its colour for so long that it was painted twice, first white, then red.
Visitors ask which brother won; the keeper says that rain decided the matter in the end."""
CHINESE = """去岛上的渡船八点开，大多数人自己带早饭。船上的厨师卖茶，茶很浓，也卖汤，
可是从来没有人夸过。
天气晴朗的早晨，你能看见那座灯塔，它是一八七一年由两兄弟建造的。
他们为颜色争吵了很久，所以刷了两遍，先是白色，后来是红色。
游客常问究竟谁赢了，看守人说，最后是雨水决定了一切。"""


def failed(document, rules=RULES):
    return [failure.rule for failure in judge(document, rules).failures]


@pytest.mark.parametrize("document", [ENGLISH, CHINESE, ENGLISH + "\n\n" + CHINESE])
def test_good_text_passes_every_rule(document):
    assert judge(document, RULES + C4 + FINEWEB) == (True, [])


@pytest.mark.parametrize(
    ("document", "rule"),
    [
        (" ".join(ENGLISH.split()[:49]), "words"),
        ("".join(c for c in CHINESE if c.isalpha())[:74], "words"),
        (ENGLISH.replace(" ", ""), "mean word length"),
        (ENGLISH.replace(",", " #").replace(".", " # #"), "hashes per word"),
        (ENGLISH.replace(",", "...").replace("th", "th..."), "ellipses per word"),
        ("- " + ENGLISH.replace("\n", "\n- "), "lines with bullet"),
        (ENGLISH.replace(".\n", "...\n"), "lines ending in ellipsis"),
        (" ".join(f"{w} {i}" for i, w in enumerate(ENGLISH.split())), "words with a letter"),
        (" ".join(f"word{chr(97 + i)}" for i in range(26)) * 3, "stop words"),
        (ENGLISH + "\n" + "\n".join(["Home"] * 4), "repeated lines"),
        (CHINESE + "\n" + CHINESE, "characters in repeated lines"),
        (ENGLISH + "\n\n" + ENGLISH, "characters in repeated paragraphs"),
        (CHINESE + "快来买" * 20, "characters in the top 2-gram"),
        (
            ENGLISH.replace("\n", " click here to win it now or never\n"),
            "characters in repeated 5-grams",
        ),
    ],
)
def test_bad_text_fails_its_rule_and_says_so(document, rule):
    decision = judge(document)
    assert not decision.kept
    assert rule in [failure.rule for failure in decision.failures]
    reason = next(failure.reason for failure in decision.failures if failure.rule == rule)
    assert reason.startswith(f"{rule}: ")
    assert ", wanted at " in reason
    assert "Gopher" in reason


def test_thresholds_themselves_pass():
    fifty = "the of " + "word " * 48
    assert failed(fifty, GOPHER_QUALITY) == []
    assert failed(fifty.removesuffix("word "), GOPHER_QUALITY) == ["words"]
    seventy_five = "的是" + "字" * 73  # fifty words
    assert failed(seventy_five, GOPHER_QUALITY) == []
    assert failed(seventy_five[:-1], GOPHER_QUALITY) == ["words"]
    ten = "\n".join(["- the of word word word"] * 9 + ["the last one has no bullet of its own"])
    assert "lines with bullet" not in failed(ten)


def test_published_thresholds():
    limits = {rule.name: (rule.low, rule.high) for rule in RULES}
    assert limits["words"] == (50, 100_000)
    assert limits["mean word length"] == (3, 10)
    assert limits["words with a letter"] == (0.8, 1)
    tops = [limits[f"characters in the top {n}-gram"][1] for n in (2, 3, 4)]
    assert tops == [0.20, 0.18, 0.16]
    repeats = [limits[f"characters in repeated {n}-grams"][1] for n in range(5, 11)]
    assert repeats == [0.15, 0.14, 0.13, 0.12, 0.11, 0.10]
    assert len(RULES) == len(GOPHER_QUALITY) + len(GOPHER_REPETITION) == 8 + 4 + 3 + 6


def test_empty_and_odd_texts_are_judged():
    for document in ("", " \n\n", "\0", "\ud800", "…", "。"):
        assert "words" in failed(document)


def test_all_reasons_are_told_and_counted():
    decisions = [judge("# # ..."), judge(ENGLISH), judge("a")]
    assert failed("# # ...")[:3] == ["words", "mean word length", "hashes per word"]
    assert count_reasons(decisions)["words"] == 2
    assert count_reasons([judge(ENGLISH)]) == {}


def test_most_of_the_reference_manual_is_kept():
    decisions = [judge(topic) for topic in python_reference()[::8]]
    assert sum(decision.kept for decision in decisions) >= 0.6 * len(decisions)


def test_an_explanation_stands_in_the_reason():
    rule = Rule("lines", lambda text: len(text.lines), 2, 3, "ours", lambda text: text.lines[0])
    assert judge("one", [rule]).failures[0].reason == "lines: 1, one, wanted at least 2 (ours)"
    assert judge("one\ntwo", [rule]).kept
    (failure,) = judge("one", [rule._replace(explain=None)]).failures
    assert failure.reason == "lines: 1, wanted at least 2 (ours)"


GOLDEN = {  # sums over stories, as the first version of these rules had them
    "words": 9892.666667,
    "mean word length": 89.197048,
    "hashes per word": 0.118345,
    "ellipses per word": 0.118345,
    "lines with bullet": 3.860029,
    "lines ending in ellipsis": 3.860029,
    "words with a letter": 47.014546,
    "stop words": 356,
    "repeated lines": 4.405483,
    "repeated paragraphs": 5.971429,
    "characters in repeated lines": 8.720060,
    "characters in repeated paragraphs": 8.682319,
    "characters in the top 2-gram": 3.493323,
    "characters in the top 3-gram": 1.904773,
    "characters in the top 4-gram": 2.392733,
    "characters in repeated 5-grams": 10.452127,
    "characters in repeated 6-grams": 10.411369,
    "characters in repeated 7-grams": 10.323024,
    "characters in repeated 8-grams": 10.116445,
    "characters in repeated 9-grams": 9.707517,
    "characters in repeated 10-grams": 9.707517,
    "lorem ipsum": 0,
    "curly brackets": 0,
    "lines that end a sentence": 31.430014,
}


def test_no_measure_has_moved():
    stories = bilingual_stories(30, 0)
    stories += [f"{a}\n\n# {b} ...\n- {a}" for a, b in pairwise(stories)]
    texts = [read_text(story) for story in stories]
    found = {
        rule.name: sum(rule.measure(text) or 0 for text in texts) for rule in RULES + C4 + FINEWEB
    }
    assert found == pytest.approx(GOLDEN, abs=1e-6)
