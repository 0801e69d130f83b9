"""Decontamination: against sets of tuples, in two languages, and what must not hide a copy."""

import random

import numpy as np
import pytest

from minqwen.check.edited import Edit, edited_module
from minqwen.data import decontamination as file
from minqwen.data.corpora import bilingual_stories
from minqwen.data.decontamination import WORDS, find_overlaps, hold_out, overlap_rule
from minqwen.data.quality_rules import judge
from minqwen.data.text_units import normalise

QUESTION = (
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many in May."
)


def runs_of(text, n):
    words = WORDS.findall(normalise(text))
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def check(tests, documents, n, module=file):
    """Compare with tuples of words, which no two different runs share."""
    held_out = module.hold_out(tests, n)
    known = {run for text in tests for run in runs_of(text, n)}
    assert held_out.short == sum(not runs_of(text, n) for text in tests)
    assert len(held_out.runs) == len(known)
    hits = 0
    for document in documents:
        want = [" ".join(run) for run in runs_of(document, n) if run in known]
        assert module.find_overlaps(held_out, document) == want
        hits += len(want)
    return hits


def random_documents(seed):
    rng = random.Random(seed)
    words = ["a", "b", "c", "好", "的", "d1", ",", "."]
    return [" ".join(rng.choices(words, k=rng.randrange(25))) for _ in range(60)]


@pytest.mark.parametrize("n", [1, 2, 3, 5, 13])
def test_equals_sets_of_tuples(n):
    tests, documents = random_documents(0), random_documents(1)
    hits = check(tests + ["z y x w v u t s r q p o n m"], documents + [""], n)
    assert hits > 50 or n > 3
    stories = bilingual_stories(30, seed=0)
    assert check(stories[:10], stories[5:], n) > 100


def test_a_copy_is_found_however_it_is_written():
    held_out = hold_out([QUESTION])
    for copy in (
        QUESTION,
        QUESTION.upper().replace(",", ""),
        "Ｎａｔａｌｉａ\nsold  clips; to 48 of her friends (in April) and then she laughed.",
        "xx " * 50 + QUESTION[8:] + " yy" * 50,
    ):
        assert find_overlaps(held_out, copy)
    for other in (
        QUESTION.replace("friends", "cousins"),  # 7 and 10 words in a row
        "sold Natalia to 48 of her friends in April and then she many",
        " ".join(reversed(QUESTION.split())),
        "",
        "Natalia",
    ):
        assert find_overlaps(held_out, other) == []


def test_chinese_is_divided_by_characters():
    held_out = hold_out(["小明有五个苹果，他又买了三个，一共有几个？"])
    assert find_overlaps(held_out, "问：小明有五个苹果。他又买了三个!")[0].startswith("小 明 有 五")
    assert not find_overlaps(held_out, "小明有六个苹果，他又买了三个")


def test_thirteen_words_and_not_twelve():
    words = QUESTION.split()
    held_out = hold_out([QUESTION])
    assert len(find_overlaps(held_out, " ".join(words[2:15]))) == 1
    assert find_overlaps(held_out, " ".join(words[2:14])) == []
    assert len(hold_out([QUESTION]).runs) == len(words) - 12


def test_rule_gives_a_reason():
    decision = judge("He said: " + QUESTION, [overlap_rule(hold_out([QUESTION]))])
    (failure,) = decision.failures
    assert failure.value == 7
    assert failure.reason == (
        'overlap with test sets: 7, "natalia sold clips to 48 of her friends in april and then '
        'she", wanted at most 0 (Qwen, 2.1)'
    )
    assert judge("Nothing of it.", [overlap_rule(hold_out([QUESTION]))]).kept


def test_many_words_have_many_numbers():
    """Sums of small numbers in a row would meet; mixed ones do not."""
    rng = np.random.default_rng(0)
    tests = [" ".join(f"w{i}" for i in row) for row in rng.integers(0, 50, (4000, 13))]
    assert len(hold_out(tests).runs) == len(set(tests))


def test_errors():
    with pytest.raises(TypeError, match="several texts, got one"):
        hold_out("one text")
    with pytest.raises(ValueError, match="ngram_size must be positive, got 0"):
        hold_out([QUESTION], 0)
    for texts in ([], ["too short"]):
        with pytest.raises(ValueError, match="no test text has 13 words"):
            hold_out(texts)


NAME = "minqwen.data.decontamination"
WRONG = {
    "other words are one of theirs": Edit(NAME, "get(word, 0)", "get(word, 1)"),
    "case counts": Edit(
        NAME, "words, n = WORDS.findall(normalise(text))", "words, n = WORDS.findall(text)"
    ),
    "signs are words": Edit(NAME, r"|[^\W{UNDIVIDED}]+", r"|[^\s{UNDIVIDED}]+"),
    "one run less": Edit(NAME, "np.flatnonzero(found)", "np.flatnonzero(found[1:])"),
    "short texts are not counted": Edit(NAME, "len(words) < ngram_size", "len(words) < 0"),
    "not in order": Edit(NAME, "np.unique(np.concatenate(runs))", "np.concatenate(runs)"),
}


@pytest.mark.parametrize("edit", WRONG.values(), ids=WRONG)
def test_wrong_variants_are_noticed(edit):
    module = edited_module(NAME, [edit])
    tests = [*random_documents(0), "A B C D", "b a"]
    documents = [*random_documents(1), "A b C zz qq zz", "zz " * 5, "a, b. c"]
    with pytest.raises((AssertionError, IndexError, ValueError)):
        check(tests, documents, 3, module)
