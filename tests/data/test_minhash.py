"""MinHash: exact arithmetic against Python's integers, brute force, and what chance allows."""

import random

import numpy as np
import pytest

from minqwen.data.minhash import (
    BLOCK,
    Family,
    hashes,
    minhash_family,
    minhash_jaccard,
    minhash_signature,
    minhash_signatures,
)
from minqwen.data.shingles import PRIME, jaccard, shingles

EDGES = [0, 1, 2, 2**30, 2**31 - 1, 2**31, 2**32, 2**60, 2**61 - 2**31, PRIME - 2, PRIME - 1]
NUMBERS = [*EDGES, PRIME]  # of shingles; PRIME is as 0, which is one chance in 2^61


def exact(x, family):
    functions = zip(family.a.tolist(), family.b.tolist(), strict=True)
    return [[(a * i + b) % PRIME for i in x.tolist()] for a, b in functions]


def numbers(n, seed=0):
    return np.unique(np.random.default_rng([9, seed]).integers(0, PRIME, n, dtype=np.uint64))


def two_sets(similarity, size, seed):
    """Two sets of random numbers with just this Jaccard similarity; size in all."""
    x = np.random.default_rng([8, seed]).integers(0, PRIME, size, dtype=np.uint64)
    common = round(similarity * size)
    own = common + (size - common) // 2
    return np.sort(x[:own]), np.sort(np.concatenate([x[:common], x[own:]]))


def test_hashes_are_those_of_whole_numbers():
    a, b = np.meshgrid(np.array(EDGES[1:], np.uint64), np.array(EDGES, np.uint64))
    edges = Family(a.ravel(), b.ravel())
    x = np.array(NUMBERS, np.uint64)
    assert hashes(x, edges).tolist() == exact(x, edges)
    x, family = numbers(300), minhash_family(50, seed=1)
    found = hashes(x, family)
    assert found.tolist() == exact(x, family)
    assert found.dtype == np.uint64
    with np.errstate(over="ignore"):  # the usual mistake: the product wraps
        wrong = (family.a[:, None] * x + family.b[:, None]) % PRIME
    assert (wrong != found).mean() > 0.99


def test_hashing_changes_no_argument():
    x, family = numbers(10), minhash_family(4, seed=0)
    before = [array.copy() for array in (x, *family)]
    minhash_signature(x, family)
    for array, copy in zip((x, *family), before, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("n", [1, 2, 2 * BLOCK // 7 - 1, 2 * BLOCK // 7 + 3])
def test_a_signature_is_the_least_hash_over_all_blocks(n):
    x, family = numbers(n), minhash_family(7, seed=2)
    signature = minhash_signature(x, family)
    assert signature.tolist() == [min(row) for row in exact(x, family)]
    np.testing.assert_array_equal(minhash_signature(x[::-1], family), signature)


def test_the_estimate_is_within_three_standard_errors_and_has_no_bias():
    P, sizes = 512, 400
    for s in (0.0, 0.2, 0.5, 0.8, 1.0):
        found, sigma = [], (s * (1 - s) / P) ** 0.5
        for seed in range(30):
            family = minhash_family(P, seed)
            pair = [minhash_signature(x, family) for x in two_sets(s, sizes, seed)]
            estimate = minhash_jaccard(*pair)
            found.append(estimate.jaccard)
            j = estimate.jaccard
            assert estimate.standard_error == pytest.approx((j * (1 - j) / P) ** 0.5)
        errors = np.abs(np.array(found) - s)
        assert (errors <= 3 * sigma).mean() >= 0.9  # 0.997 expected: 3 of 30 have a chance of 1e-4
        assert abs(np.mean(found) - s) <= 3 * sigma / 30**0.5
        if 0 < s < 1:  # neither narrower nor wider than chance has it
            assert 0.6 < np.std(found) / sigma < 1.5


def test_the_estimate_holds_on_text_in_two_languages():
    rng = random.Random(2)
    for alphabet in ("abcdefgh ", "的一是不了人我在有他这"):
        text = rng.choices(alphabet, k=1500)
        edited = [c if rng.random() > 0.03 else rng.choice(alphabet) for c in text]
        one, other = "".join(text), "".join(edited)
        family = minhash_family(1024, seed=3)
        s = jaccard(shingles(one, 5), shingles(other, 5))
        estimate = minhash_jaccard(*minhash_signatures([one, other], family, 5))
        assert 0.5 < s < 0.95
        assert abs(estimate.jaccard - s) <= 3 * (s * (1 - s) / 1024) ** 0.5


def test_every_shingle_is_the_least_equally_often():
    """Also of numbers in a row, which a hash without `mix` before it treats unevenly."""
    x = np.stack([shingles([i], 1)[0] for i in range(20)])
    winners = hashes(x, minhash_family(20_000, seed=4)).argmin(axis=1)
    counts = np.bincount(winners, minlength=20)
    chi_squared = ((counts - 1000) ** 2 / 1000).sum()
    assert chi_squared < 43.8  # 19 degrees of freedom: passed by chance once in 1000


def test_the_functions_are_those_of_the_seed():
    family = minhash_family(200, seed=5)
    for array, least in zip(family, (1, 0), strict=True):
        assert array.dtype == np.uint64
        assert int(array.min()) >= least
        assert 2**60 < int(array.max()) < PRIME  # not of 32 bits
        assert len(set(array.tolist())) == 200
    for array, same, other in zip(
        family, minhash_family(200, seed=5), minhash_family(200, seed=6), strict=True
    ):
        np.testing.assert_array_equal(array, same)
        assert (array != other).all()


def test_equal_documents_have_similarity_1_and_other_families_know_nothing():
    x = shingles("all that is gold does not glitter", 3)
    one, other = (minhash_signature(x, minhash_family(64, seed)) for seed in (0, 1))
    assert minhash_jaccard(one, one) == (1, 0)
    assert minhash_jaccard(one, other) == (0, 0)


def test_empty_documents_are_like_each_other_only():
    family = minhash_family(16, seed=0)
    empty, ids, short = minhash_signatures(["", [], "a"], family, ngram_size=5)
    assert (empty == PRIME).all()
    assert minhash_jaccard(empty, ids).jaccard == 1 == jaccard(shingles("", 5), shingles([], 5))
    assert minhash_jaccard(empty, short).jaccard == 0
    assert jaccard(shingles("", 5), shingles("a", 5)) == 0
    assert minhash_signatures([], family, 5).shape == (0, 16)


def test_signatures_stream():
    family = minhash_family(16, seed=0)
    both = minhash_signatures(iter(["one", "two"]), family, 2)
    assert both.dtype == np.uint64
    for row, text in zip(both, ("one", "two"), strict=True):
        np.testing.assert_array_equal(row, minhash_signature(shingles(text, 2), family))


def test_errors():
    with pytest.raises(ValueError, match="num_perm must be positive, got 0"):
        minhash_family(0, seed=0)
    with pytest.raises(TypeError, match="shingle_set must be uint64, got int64"):
        minhash_signature(np.array([1]), minhash_family(2, seed=0))
    with pytest.raises(ValueError, match="must have the same shape"):
        minhash_jaccard(np.ones(3), np.ones(4))
