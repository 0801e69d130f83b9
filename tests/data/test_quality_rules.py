"""Rules of quality: every rule against counts by hand, on both sides of its threshold."""

import numpy as np
import pytest

from minqwen.data.corpora import python_reference
from minqwen.data.quality_rules import (
    C4,
    FINEWEB,
    GOPHER_QUALITY,
    GOPHER_REPETITION,
    RULES,
    count_reasons,
    judge,
    most_common_ngram,
    repeated_ngrams,
)
from minqwen.data.text_units import covered_share, ngram_numbers, normalise, read_text

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


def value(name, document, rules=RULES + C4 + FINEWEB):
    (rule,) = (rule for rule in rules if rule.name == name)
    return rule.measure(read_text(document))


@pytest.mark.parametrize("document", [ENGLISH, CHINESE, ENGLISH + "\n\n" + CHINESE])
def test_good_text_passes_every_rule(document):
    assert judge(document, RULES + C4 + FINEWEB) == (True, [])


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
        ("lines with bullet", "- a\n• b\n\n c\n* d", 0.75),
        ("lines ending in ellipsis", "a...\nb…  \nc.\nd", 0.5),
        ("words with a letter", "a1 2 -- 好。", 0.5),
        ("words with a letter", "", None),
        ("stop words", "The THE the, (OF)", 2),  # different ones, whatever their case and signs
        ("stop words", "我的书，我的", 2),
        ("stop words", "我 of", 1),  # not one of each language
        ("repeated lines", "a\nb\n a\nc", 0.25),
        ("repeated paragraphs", "a\nb\n\nc\n\n \na\nb", 1 / 3),
        ("characters in repeated lines", "long\na\nlong\na", 0.5),
        ("characters in repeated lines", "a\nlonger\na", 1 / 8),
        ("characters in repeated paragraphs", "abc\n\nabc\n\nd", 3 / 7),
        ("lorem ipsum", "Lorem ipsum, LOREM IPSUM", 2),
        ("curly brackets", "f() { }", 1),
        ("lines that end a sentence", "是的。\nno\nYes!\n他说：“好。”", 0.75),
    ],
)
def test_measures_by_hand(name, document, expected):
    assert value(name, document) == pytest.approx(expected)


def naive_coverage(units, n, repeated_of):
    """Slow and by the definition: mark every unit in a chosen n-gram, and count characters."""
    grams = [tuple(units[i : i + n]) for i in range(len(units) - n + 1)]
    marked = {i + k for i in repeated_of(grams) for k in range(n)}
    return sum(len(units[i]) for i in marked) / sum(map(len, units))


def later(grams):
    return [i for i, gram in enumerate(grams) if gram in grams[:i]]


@pytest.mark.parametrize("n", [2, 3, 5, 8])
@pytest.mark.parametrize("seed", range(4))
def test_repeated_ngrams_match_the_definition(n, seed):
    rng = np.random.default_rng(seed)
    words = [("a", "bb", "ccc")[i] for i in rng.integers(0, 3, 60)]
    text = read_text(" ".join(words))
    assert repeated_ngrams(text, n) == pytest.approx(naive_coverage(words, n, later))

    def top(kind):
        return lambda grams: [i for i, gram in enumerate(grams) if gram == kind]

    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    most = max(map(grams.count, grams))
    kinds = {gram for gram in grams if grams.count(gram) == most}
    expected = max(naive_coverage(words, n, top(kind)) for kind in kinds) if most > 1 else 0
    assert most_common_ngram(text, n) == pytest.approx(expected)


def test_ngrams_of_chinese_are_longer_in_units():
    text = read_text("甲乙丙丁甲乙丙戊")  # a pair of words is taken as three characters
    assert repeated_ngrams(text, 2) == pytest.approx(3 / 8)
    assert repeated_ngrams(text, 3) == 0  # of five characters none comes twice
    assert most_common_ngram(text, 2) == pytest.approx(6 / 8)


def test_overlapping_ngrams_count_once():
    assert most_common_ngram(read_text("ha ha ha ha"), 2) == 1
    assert repeated_ngrams(read_text("ha ha ha ha"), 2) == 0.75
    assert most_common_ngram(read_text("a b c d"), 2) == 0
    assert most_common_ngram(read_text("a"), 2) is None
    assert repeated_ngrams(read_text(""), 5) is None


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


def test_units_and_numbers():
    text = read_text("（你好）ok，ไทย 12ab")
    assert text.units == ["（你", "好）", "ok，", "ไ", "ท", "ย", "12ab"]
    assert text.undivided
    assert not read_text("").undivided
    assert read_text("한국어 문장").units == ["한국어", "문장"]  # Korean has spaces
    assert normalise("Ａ\u3000b\n\tC") == "a b c"
    text = read_text("a b a b a c")
    for n in range(1, 8):
        grams = [tuple(text.units[i : i + n]) for i in range(len(text.units) - n + 1)]
        numbers = ngram_numbers(text, n)
        assert len(numbers) == len(grams)
        assert [[a == b for b in numbers] for a in numbers] == [
            [a == b for b in grams] for a in grams
        ]
    assert covered_share(read_text("aa b cccc"), np.array([True, False, False]), 1) == 2 / 7
