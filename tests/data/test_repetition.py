"""Repetition: against the definition, which marks every unit, and counts by hand."""

import numpy as np
import pytest

from minqwen.data.repetition import (
    covered_shares,
    find_repeats,
    most_common_ngram,
    repeated_ngrams,
    repeated_parts,
    repeated_parts_characters,
)
from minqwen.data.text_units import read_text


@pytest.mark.parametrize(
    ("measure", "parts", "document", "expected"),
    [
        (repeated_parts, "lines", "a\nb\n a\nc", 0.25),
        (repeated_parts, "paragraphs", "a\nb\n\nc\n\n \na\nb", 1 / 3),
        (repeated_parts_characters, "lines", "long\na\nlong\na", 0.5),
        (repeated_parts_characters, "lines", "a\nlonger\na", 1 / 8),
        (repeated_parts_characters, "paragraphs", "abc\n\nabc\n\nd", 3 / 7),
        (repeated_parts, "lines", " \n", None),
        (repeated_parts_characters, "paragraphs", "", None),
    ],
)
def test_parts_by_hand(measure, parts, document, expected):
    assert measure(read_text(document), parts) == pytest.approx(expected)


def naive_coverage(units, n, repeated_of):
    """Slow and by the definition: mark every unit in a chosen n-gram, and count characters."""
    grams = [tuple(units[i : i + n]) for i in range(len(units) - n + 1)]
    marked = {i + k for i in repeated_of(grams) for k in range(n)}
    return sum(len(units[i]) for i in marked) / sum(map(len, units))


def later(grams):
    return [i for i, gram in enumerate(grams) if gram in grams[:i]]


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8])
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


@pytest.mark.parametrize("seed", range(3))
def test_found_are_the_ngrams_that_come_twice(seed):
    rng = np.random.default_rng(seed)
    units = [str(i) for i in rng.integers(0, 4, 80)]
    text = read_text(" ".join(units))
    for n in range(1, 10):
        grams = [tuple(units[i : i + n]) for i in range(len(units) - n + 1)]
        starts, kinds = find_repeats(text, n)
        assert starts.tolist() == [i for i, gram in enumerate(grams) if grams.count(gram) > 1]
        found = [grams[start] for start in starts]
        assert [[a == b for b in kinds] for a in kinds] == [[a == b for b in found] for a in found]
        assert len(kinds) == 0 or 0 <= kinds.min() <= kinds.max() < len(units)


def test_nothing_is_found_past_the_end():
    text = read_text("a b a b")
    assert [len(find_repeats(text, n).starts) for n in range(1, 6)] == [4, 2, 0, 0, 0]
    assert repeated_ngrams(text, 4) == 0
    assert repeated_ngrams(text, 5) is None
    assert most_common_ngram(text, 5) is None


def test_a_long_text_overflows_nothing():
    """The pairs 0 z and 65535 z would have one number modulo 2^32."""
    numbers = [str(i) for i in range(2**16)]
    text = read_text(" ".join([" z ".join(numbers), "z 0", *numbers[:0:-1]]))
    assert len(text.units) == 3 * 2**16
    assert len(find_repeats(text, 1).starts) == len(text.units)
    assert len(find_repeats(text, 2).starts) == 0


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


def test_of_equally_common_ngrams_the_longest_counts():
    assert most_common_ngram(read_text("a b xxx yyy a b xxx yyy"), 2) == pytest.approx(12 / 16)


def test_covered_shares_by_hand():
    text = read_text("aa b cccc")
    shares = covered_shares(text, np.array([0]), np.array([0]), 1)
    assert shares.tolist() == [2 / 7]
    shares = covered_shares(text, np.array([0, 1, 0]), np.array([0, 0, 1]), 2)
    assert shares.tolist() == [1, 3 / 7]
