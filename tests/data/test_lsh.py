"""Bands: the S-curve counted and measured, the choice by brute force, buckets against all pairs."""

from itertools import combinations, product

import numpy as np
import pytest
from helpers.fake_device import count_syncs, from_fake, install, to_fake

from minqwen.data.lsh import Bands, lsh_candidates, lsh_choose, lsh_keys, lsh_probability
from minqwen.data.minhash import Family, minhash_family, minhash_signature
from minqwen.data.shingles import PRIME


def naive_pairs(signatures, bands, rows):
    """Compare all bands of all pairs."""
    return [
        [i, j]
        for i, j in combinations(range(len(signatures)), 2)
        if any(
            (signatures[i, k : k + rows] == signatures[j, k : k + rows]).all()
            for k in range(0, bands * rows, rows)
        )
    ]


def pairs_of_sets(similarity, size, n, seed):
    """n pairs of sets of random numbers with just this Jaccard similarity; size in all."""
    x = np.random.default_rng([7, seed]).integers(0, PRIME, (n, size), dtype=np.uint64)
    common = round(similarity * size)
    own = common + (size - common) // 2
    return [(row[:own], np.concatenate([row[:common], row[own:]])) for row in x]


@pytest.mark.parametrize(("bands", "rows"), [(1, 1), (1, 3), (3, 1), (2, 3), (3, 2)])
def test_the_curve_counts_all_outcomes(bands, rows):
    """Add the chances of all ways in which the entries can be equal or not."""
    for s in (0.0, 0.3, 0.8, 1.0):
        chance = 0.0
        for equal in product([True, False], repeat=bands * rows):
            if any(all(equal[k : k + rows]) for k in range(0, bands * rows, rows)):
                chance += np.prod([s if e else 1 - s for e in equal])
        assert lsh_probability(s, bands, rows) == pytest.approx(chance)


def test_the_curve_takes_arrays():
    curve = lsh_probability(np.linspace(0, 1, 11), 24, 10)
    assert (np.diff(curve) >= 0).all()
    assert (curve[0], curve[-1]) == (0, 1)
    assert lsh_probability(0.8, 24, 10) == pytest.approx(0.935, abs=5e-4)  # of paper-facts
    assert lsh_probability(0.6, 24, 10) == pytest.approx(0.135, abs=5e-4)


@pytest.mark.parametrize(
    ("threshold", "num_perm", "want"),
    [(0.7, 240, (24, 10)), (0.7, 256, (25, 10)), (0.8, 128, (9, 13)), (0.5, 128, (25, 5))],
)
def test_the_choice_is_that_of_other_programs(threshold, num_perm, want):
    assert lsh_choose(threshold, num_perm) == want


@pytest.mark.parametrize("threshold", [0.05, 0.4, 0.7, 0.95])
@pytest.mark.parametrize("num_perm", [1, 2, 13, 40])
def test_the_choice_has_the_least_area_of_error(threshold, num_perm):
    s = (np.arange(20_000) + 0.5) / 20_000

    def error(bands, rows):
        p = 1 - (1 - s**rows) ** bands
        return np.where(s < threshold, p, 1 - p).mean()

    errors = {
        (b, r): error(b, r)
        for b in range(1, num_perm + 1)
        for r in range(1, num_perm + 1)
        if b * r <= num_perm
    }
    assert errors[lsh_choose(threshold, num_perm)] <= min(errors.values()) + 1e-4


def test_candidates_are_the_pairs_with_an_equal_band():
    rng = np.random.default_rng(0)
    for bands, rows in [(1, 1), (4, 2), (2, 4), (8, 1), (3, 2)]:
        for most in (2, 3, 20):
            signatures = rng.integers(0, most, (25, 8)).astype(np.uint64)
            found = lsh_candidates(lsh_keys(signatures, bands, rows))
            assert found.tolist() == naive_pairs(signatures, bands, rows)
            assert found.dtype == np.int64


def test_equal_entries_in_different_bands_do_not_meet():
    signatures = np.array([[1, 2, 8, 9], [5, 6, 1, 2], [7, 7, 7, 7]], np.uint64)
    keys = lsh_keys(signatures, bands=2, rows=2)
    assert len(np.unique(keys)) == 6
    assert not len(lsh_candidates(keys))


def test_order_within_a_band_and_high_bits_count():
    one = np.array([[1, 2], [2, 1], [1, 2 + 2**32], [1 + 2**60, 2]], np.uint64)
    assert len(np.unique(lsh_keys(one, bands=1, rows=2))) == 4


def test_a_document_is_no_candidate_of_itself():
    assert lsh_candidates(np.array([[5, 5], [6, 5]], np.uint64)).tolist() == [[0, 1]]


def test_a_large_bucket_and_none():
    keys = lsh_keys(np.ones((40, 6), np.uint64), bands=3, rows=2)
    assert lsh_candidates(keys).tolist() == [list(p) for p in combinations(range(40), 2)]
    for n in (0, 1):
        empty = lsh_candidates(lsh_keys(np.ones((n, 6), np.uint64), bands=3, rows=2))
        assert empty.shape == (0, 2)


def test_recall_follows_the_curve():
    """Of 400 pairs of each similarity, as many are found as P(s) says, within 3 sigma."""
    n, (bands, rows) = 400, Bands(8, 4)
    family = minhash_family(bands * rows, seed=0)
    seen = []
    for seed, s in enumerate((0.3, 0.45, 0.6, 0.75, 0.9)):
        signatures = np.array(
            [minhash_signature(x, family) for p in pairs_of_sets(s, 60, n, seed) for x in p]
        )
        found = lsh_candidates(lsh_keys(signatures, bands, rows)).tolist()
        true = sum(i % 2 == 0 and j == i + 1 for i, j in found)
        p = lsh_probability(round(s * 60) / 60, bands, rows)
        assert abs(true - n * p) <= 3 * (n * p * (1 - p)) ** 0.5 + 1
        assert len(found) == true  # pairs of unlike documents: P(0) = 0
        seen.append(p)
    assert seen[0] < 0.1  # so both ends of the curve were there
    assert seen[-1] > 0.99


def test_documents_at_random_have_no_more_false_candidates_than_the_curve_says():
    """Pairs of one family hang together by the shingles that come early in it, families do not.

    So the spread is measured: the mean of 40 families lies within 3 of its standard errors.
    """
    n, (bands, rows), rng = 100, Bands(16, 2), np.random.default_rng(2)
    words = rng.integers(0, PRIME, 1000, dtype=np.uint64)
    sets = [rng.choice(1000, 100, replace=False) for _ in range(n)]
    found = []
    for seed in range(40):
        family = minhash_family(bands * rows, seed)
        signatures = np.array([minhash_signature(words[x], family) for x in sets])
        found.append(len(lsh_candidates(lsh_keys(signatures, bands, rows))))
    there = np.zeros((n, 1000), int)
    for i, x in enumerate(sets):
        there[i, x] = 1
    common = (there @ there.T)[np.triu_indices(n, 1)]
    want = lsh_probability(common / (200 - common), bands, rows).sum()
    assert want > 200
    error = np.std(found, ddof=1) / 40**0.5
    assert abs(np.mean(found) - want) <= 3 * error
    assert error < 0.05 * want  # else the line above would say nothing


def test_signatures_and_keys_on_the_strict_fake_device(monkeypatch):
    x, family = np.arange(5, 3000, dtype=np.uint64), minhash_family(12, seed=0)
    signature = minhash_signature(x, family)
    keys = lsh_keys(signature[None], 3, 4)
    fake_x, fake_family = to_fake(x), Family(*map(to_fake, family))
    install(monkeypatch)
    with count_syncs() as syncs:
        fake_signature = minhash_signature(fake_x, fake_family)
        fake_keys = lsh_keys(fake_signature[None], 3, 4)
    assert not syncs
    np.testing.assert_array_equal(from_fake(fake_signature), signature)
    np.testing.assert_array_equal(from_fake(fake_keys), keys)


def test_errors():
    for threshold in (0, 1, 1.5):
        with pytest.raises(ValueError, match="threshold must be between 0 and 1"):
            lsh_choose(threshold, 16)
    with pytest.raises(ValueError, match="num_perm must be positive, got 0"):
        lsh_choose(0.5, 0)
    signatures = np.ones((2, 6), np.uint64)
    for bands, rows in [(0, 2), (2, 0), (2, 4)]:
        with pytest.raises(ValueError, match=r"need 1 <= bands \* rows <= P=6"):
            lsh_keys(signatures, bands, rows)
    with pytest.raises(TypeError, match="signatures must be uint64, got int64"):
        lsh_keys(signatures.astype(np.int64), 2, 2)
    with pytest.raises(ValueError, match="signatures must have axes"):
        lsh_keys(signatures[0], 2, 2)
