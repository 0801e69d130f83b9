"""ROUGE-L against the table of its definition, filled one cell at a time."""

import itertools
import random

import pytest

from minqwen.agent.rouge import Nearest, RougePool, lcs_length, rouge_l, rouge_words


def table_lcs(a, b):
    """The longest common subsequence, cell by cell."""
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, j in itertools.product(range(len(a)), range(len(b))):
        longer = max(table[i][j + 1], table[i + 1][j])
        table[i + 1][j + 1] = table[i][j] + 1 if a[i] == b[j] else longer
    return table[-1][-1]


def all_rows(words):
    """Every row of words that is left when some are taken out."""
    return {
        tuple(itertools.compress(words, keep))
        for keep in itertools.product([0, 1], repeat=len(words))
    }


def test_lcs_is_the_longest_row_that_both_have():
    rng = random.Random(0)
    for _ in range(60):
        a, b = (rng.choices("abc", k=rng.randrange(8)) for _ in range(2))
        assert lcs_length(a, b) == max(map(len, all_rows(a) & all_rows(b)))


@pytest.mark.parametrize("letters", ["a", "ab", "abcdefghij"])
def test_lcs_of_rows_longer_than_a_word_of_the_machine(letters):
    rng = random.Random(1)
    for _ in range(40):
        a, b = (rng.choices(letters, k=rng.randrange(150)) for _ in range(2))
        assert lcs_length(a, b) == lcs_length(b, a) == table_lcs(a, b)


@pytest.mark.parametrize(
    ("a", "b", "common"), [("", "", 0), ("", "ab", 0), ("ab", "", 0), ("ab", "ba", 1)]
)
def test_lcs_of_little(a, b, common):
    assert lcs_length(a, b) == common


def test_gaps_are_allowed_and_the_order_counts():  # example 3.1 of Lin 2004
    reference = "police killed the gunman"
    assert rouge_l(reference, "police kill the gunman").f1 == 3 / 4
    assert rouge_l(reference, "the gunman kill police").f1 == 2 / 4
    assert rouge_l(reference, "the gunman police killed").f1 == 2 / 4


def test_precision_belongs_to_the_candidate():
    assert rouge_l("a b c d", "a b") == (1.0, 0.5, 2 / 3)
    assert rouge_l("a b", "a b c d") == (0.5, 1.0, 2 / 3)


@pytest.mark.parametrize(("a", "b"), [("", ""), ("?!", "a"), ("a", "")])
def test_a_text_without_words_is_like_none(a, b):
    assert rouge_l(a, b) == (0.0, 0.0, 0.0)


def test_words_may_be_cut_already():
    assert rouge_l([1, 2, 3], [1, 3]).f1 == 4 / 5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("北京今天多少度？", list("北京今天多少度")),
        ("用 Python 画图", ["用", "python", "画", "图"]),
        ("Ｆｕｌｌ, width", ["full", "width"]),
        ("snake_case café 3.5", ["snake", "case", "café", "3", "5"]),
        ("カタ ไทย", list("カタไทย")),
        (" \n", []),
    ],
)
def test_words(text, words):
    assert rouge_words(text) == words


def test_chinese_is_compared_by_characters():
    assert rouge_l("今天天气怎么样", "明天天气怎么样？").f1 == 6 / 7


def some_texts(count, rng):
    """Texts that repeat words and share beginnings, so that bounds are met and missed."""
    words = ["what", "is", "the", "sum", "of", "two", "and", "three", "or", "2", "3", "你", "好"]
    weights = [1 / (i + 1) for i in range(len(words))]
    return [" ".join(rng.choices(words, weights, k=rng.randrange(12))) for _ in range(count)]


@pytest.mark.parametrize("least", [0.0, 0.3, 0.7, 1.0])
def test_the_pool_finds_what_comparing_with_all_finds(least):
    rng = random.Random(2)
    texts = some_texts(80, rng)
    pool = RougePool(texts[:40])
    for text in texts[40:]:
        pool.add(text)
    assert len(pool) == 80
    for text in [*texts[::9], *some_texts(60, rng)]:
        all_f1 = [rouge_l(other, text).f1 for other in texts]
        best, found = max(all_f1), pool.nearest(text, least)
        if best == 0 or best < least:
            assert found is None
        else:
            assert found is not None
            assert found.f1 == best == all_f1[found.place]


def test_an_f_of_exactly_the_least_is_found():
    pool = RougePool(["a b c d e f g x y z"])
    assert pool.nearest("a b c d e f g u v w", least=0.7) == Nearest(0, 0.7)
    assert pool.nearest("a b c d e f u v w q", least=0.7) is None


def test_words_that_are_shared_in_another_order_are_not_enough():
    pool = RougePool(["a b c d", "d c b a x"])  # the first shares more, the second is nearer
    assert pool.nearest("d c b a") == Nearest(1, 8 / 9)


def test_a_word_counts_as_often_as_both_have_it():
    pool = RougePool(["no no no", "no"])
    assert pool.nearest("no no") == Nearest(0, 4 / 5)


def test_an_empty_pool_and_an_empty_text():
    assert RougePool().nearest("a") is None
    assert RougePool(["", "a"]).nearest("") is None


def test_the_table_is_made_for_few_of_many(monkeypatch):
    rng = random.Random(3)
    words = [f"w{i}" for i in range(300)]
    texts = [" ".join(rng.choices(words, k=15)) for _ in range(2000)]
    pool, made = RougePool(texts), []
    monkeypatch.setattr("minqwen.agent.rouge._lcs_length", lambda *args: made.append(args) or 0)
    pool.nearest(texts[7] + " more", least=0.7)
    assert len(made) == 1
