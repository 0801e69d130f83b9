"""Shingles: against sets of Python's strings, and no two runs with one number."""

import random
from fractions import Fraction
from itertools import product

import numpy as np
import pytest

from minqwen.data import shingles as file
from minqwen.data.shingles import BASE, PRIME, jaccard, letters, mix, run_numbers, shingles

MASK = 2**64 - 1


def exact(codes, k):
    """The number of each run, letter by letter in Python's integers."""
    found = []
    for start in range(len(codes) - k + 1):
        x = 0
        for letter in codes[start : start + k]:
            x = x * BASE + letter & MASK
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & MASK
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB & MASK
        found.append((x ^ (x >> 31)) >> 3)
    return found


@pytest.mark.parametrize("k", [*range(1, 12), 16, 31])
def test_run_numbers_are_those_of_whole_numbers(k):
    rng = random.Random(k)
    for n in (0, 1, k - 1, k, k + 1, 2 * k + 3):
        codes = [rng.choice([1, 2, 2**21, 2**63 + 5]) for _ in range(n)]
        x = np.array(codes, np.uint64)
        found = run_numbers(x, k)
        assert found.dtype == np.uint64
        assert found.tolist() == exact(codes, k)
        assert x.tolist() == codes  # no argument changes


@pytest.mark.parametrize("block", [1, 2, 7, 2**14])
def test_runs_are_the_same_in_blocks_of_any_size(monkeypatch, block):
    monkeypatch.setattr(file, "BLOCK", block)
    codes = [random.Random(1).randrange(1, 99) for _ in range(50)]
    for k in (1, 2, 5, 8, 49, 50, 51):
        assert run_numbers(np.array(codes, np.uint64), k).tolist() == exact(codes, k)


def test_letters_start_at_1_and_short_documents_are_filled_up():
    assert letters("a\0好", 2).tolist() == [98, 1, 0x597D + 1]
    assert letters([0, 7], 4).tolist() == [0, 0, 1, 8]
    assert letters("", 4).tolist() == letters([], 4).tolist() == []


def naive_shingles(text, k):
    return {text[i : i + k] for i in range(max(1, len(text) - k + 1))} - {""}


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_shingles_are_the_set_of_all_runs(k):
    rng = random.Random(k)
    texts = ["".join(rng.choices("ab好\0😀", k=n)) for n in [*range(8), 40, 200]]
    names = {}  # the number of each run, also of runs in other texts
    for text in texts:
        found, runs = shingles(text, k), naive_shingles(text, k)
        assert len(found) == len(runs)
        assert (np.diff(found.astype(object)) > 0).all()
        assert found.dtype == np.uint64
        assert all(int(x) <= PRIME for x in found)
        for run in runs:
            [number] = shingles(run, k).tolist()
            assert names.setdefault(run, number) == number
            assert number in found
        ids = [ord(c) for c in text]
        np.testing.assert_array_equal(shingles(ids, k), found)
        np.testing.assert_array_equal(shingles(np.array(ids, np.int32), k), found)
    assert len(set(names.values())) == len(names)


def test_tokens_past_32_bits_are_told_apart():
    assert shingles([2**40], 1) != shingles([2**41], 1)
    assert shingles([1, 2**32], 2) != shingles([2, 2**32], 2)


def test_many_shingles_have_many_numbers():
    """In 32 bits, 300,000 of them would share about 10 numbers."""
    found = shingles(np.arange(300_000), 1)
    assert len(found) == 300_000
    assert int(found[-1]) > 2**60


# Bases of the lattices of BASE, reduced, so that they prove what the docstring says.
BASES = {
    3: [
        (-2075490, -1845462, 131168),
        (1753512, -54419, 2171943),
        (1607531, -1021060, -2143103),
    ],
    5: [
        (-6339, -740, 770, -3179, -836),
        (2315, 1279, -4925, -1913, 4500),
        (-5352, 3443, -1238, 4550, 25),
        (-4222, -1718, -6251, 417, -3654),
        (-378, -1973, 1839, 5874, 5338),
    ],
}


def orthogonal_squares(vectors):
    """Gram and Schmidt: the squared lengths of the parts that stand upright on those before."""
    upright, squares = [], []
    for v in vectors:
        part = [Fraction(x) for x in v]
        for u, square in zip(upright, squares, strict=True):
            share = sum(x * y for x, y in zip(v, u, strict=True)) / square
            part = [x - share * y for x, y in zip(part, u, strict=True)]
        upright.append(part)
        squares.append(sum(x * x for x in part))
    return squares


@pytest.mark.parametrize(("k", "shortest", "apart"), [(3, 2534826, 0x10FFFF + 1), (5, 6598, 2950)])
def test_no_two_runs_of_near_letters_have_the_same_polynomial(k, shortest, apart):
    """No vector of a lattice is shorter than the least of those squares, of any of its bases.

    The differences of runs with one polynomial are a lattice of determinant 2^64, for the last
    letter can make up for any others. Vectors of it with that determinant are a basis.
    """
    vectors = BASES[k]
    for v in vectors:
        assert sum(d * BASE ** (k - 1 - i) for i, d in enumerate(v)) % 2**64 == 0
    squares = orthogonal_squares(vectors)
    assert np.prod(np.array(squares, object)) == 2**128
    assert min(squares) >= shortest**2
    assert k * apart**2 < min(squares)


def test_no_two_short_texts_over_a_small_alphabet_have_one_number():
    """All of 1 to 5 letters. With 31 for BASE, as in Java, "Aa" and "BB" are one."""
    for alphabet in ("\0\x01aAbBzZ", "好的一是\U0010ffff\ud800"):
        codes = [ord(c) + 1 for c in alphabet]
        found = []
        for k in range(1, 6):
            runs = np.array(list(product(codes, repeat=k)), np.uint64)
            found.append(run_numbers(runs.ravel(), k)[::k])
            text = "".join(map(chr, runs[-2].astype(int) - 1))
            assert shingles(text, 5).tolist() == found[-1][-2]  # they are what documents have
        found = np.concatenate(found)
        assert len(np.unique(found)) == len(found) == sum(len(alphabet) ** k for k in range(1, 6))


@pytest.mark.parametrize("shift", [0, 36])
def test_parts_of_the_numbers_meet_as_often_as_chance_has_it(shift):
    """25 bits of 10^5 numbers, of texts that differ in a letter or two: pairs with one part."""
    codes = np.array(list(product(range(98, 108), repeat=5)), np.uint64)
    part = run_numbers(codes.ravel(), 5)[::5] >> shift & 2**25 - 1
    want = 10**10 / 2 / 2**25
    assert abs(10**5 - len(np.unique(part)) - want) < 4 * want**0.5


def test_order_and_length_within_a_shingle_count():
    numbers = [int(shingles(t, 9)[0]) for t in ("a", "\0a", "a\0", "aa", "ab", "ba", "\0", "\0\0")]
    assert len(set(numbers)) == len(numbers)


def test_mix_is_the_last_step_of_splitmix64():
    mask = 2**64 - 1
    for x in [0, 1, 2**32, 2**63, mask]:
        y = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & mask
        y = (y ^ (y >> 27)) * 0x94D049BB133111EB & mask
        assert int(mix(np.array([x], np.uint64))[0]) == y ^ (y >> 31)
    # The first number of the published generator with the seed 0, whose state is then the constant.
    assert int(mix(np.array([0x9E3779B97F4A7C15], np.uint64))[0]) == 0xE220A8397B1DCDAF


def test_jaccard_against_sets_of_python():
    rng = random.Random(1)
    for _ in range(50):
        one, other = ("".join(rng.choices("abc", k=rng.randint(0, 30))) for _ in range(2))
        a, b = naive_shingles(one, 3), naive_shingles(other, 3)
        want = len(a & b) / len(a | b) if a | b else 1
        assert jaccard(shingles(one, 3), shingles(other, 3)) == want


def test_errors():
    with pytest.raises(ValueError, match="ngram_size must be positive, got 0"):
        shingles("a", 0)
    with pytest.raises(ValueError, match="document holds the id -1"):
        shingles([3, -1], 1)
    with pytest.raises(TypeError, match="document must be a text or ids, got float64"):
        shingles([0.5], 1)
    with pytest.raises(TypeError, match="document must be a text or ids"):
        shingles(np.ones((2, 2), int), 1)
