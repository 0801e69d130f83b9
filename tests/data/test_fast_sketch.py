"""Fast similarity sketching: its definition in Python's integers, and what chance allows.

The wrong variants at the end are what is easily written instead; the same statistics refuse them.
"""

import random

import numpy as np
import pytest
from helpers.fake_device import count_syncs, from_fake, install, to_fake

from minqwen.data import fast_sketch as file
from minqwen.data.fast_sketch import EMPTY, LOW40, fast_sketch, fast_sketches, sketch_sets, throw
from minqwen.data.lsh import Bands, lsh_keys, lsh_probability
from minqwen.data.shingles import BASE, mix, shingles

MASK = 2**64 - 1


def scatter(x):
    """`mix`, of a whole number."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & MASK
    return x ^ (x >> 31)


def exact(numbers, P, seed):
    """The definition: all 2P rounds, without an end before."""
    bins = [EMPTY] * P
    for i in range(2 * P):
        key = scatter((seed * BASE + i + 1) & MASK)
        for x in numbers:
            h = scatter((x + key) & MASK)
            place = (h >> 40) * P >> 24 if i < P else i - P
            bins[place] = min(bins[place], i << 40 | h & LOW40)
    return bins


def numbers(n, seed=0):
    return np.random.default_rng([6, seed]).integers(0, 2**61, n, dtype=np.uint64)


def pairs(J, n, T, seed):
    """T pairs of sets of random numbers, n in the union of each, and their Jaccard similarity."""
    x = numbers((T, n), seed)
    common = round(J * n)
    own = common + (n - common) // 2
    return x[:, :own], np.concatenate([x[:, :common], x[:, own:]], axis=1), common / n


def sketch_rows(rows, P, seed, throw=throw):
    T, n = rows.shape
    return throw(rows.ravel(), np.repeat(np.arange(T), n), T, P, seed)


@pytest.mark.parametrize("P", [1, 2, 3, 8, 13])
@pytest.mark.parametrize("n", [0, 1, 2, 5, 13, 100])
def test_equals_the_definition_in_whole_numbers(P, n):
    for seed in (0, 7, -3, 2**70):
        x = numbers(n, seed=n)
        signature = fast_sketch(x, P, seed)
        assert signature.dtype == np.uint64
        assert signature.tolist() == exact(x.tolist(), P, seed)


def test_signatures_of_today_are_those_of_tomorrow():
    """They may lie in files. Rounds 0 and 1 fall into bin 0, so bin 1 waits for round 1 + P = 3."""
    want = [0 * 2**40 + 83996694390, 3 * 2**40 + 643127574697]
    assert fast_sketch(np.array([5], np.uint64), 2, seed=5).tolist() == want


def test_order_and_repeats_do_not_matter_and_no_argument_changes():
    for n in (3, 40, 3000):
        x = numbers(n)
        before = x.copy()
        signature = fast_sketch(x, 24, seed=1)
        np.testing.assert_array_equal(x, before)
        np.testing.assert_array_equal(fast_sketch(x[::-1], 24, seed=1), signature)
        np.testing.assert_array_equal(fast_sketch(np.tile(x, 3), 24, seed=1), signature)


def test_equal_sets_and_other_seeds():
    x = numbers(30)
    one, same, other = (fast_sketch(x, 64, seed) for seed in (0, 0, 1))
    assert (one == same).all()
    assert not (one == other).any()
    assert not (one == fast_sketch(numbers(30, seed=1), 64, 0)).any()


def test_no_set_but_the_empty_one_has_an_empty_bin():
    for P in (1, 5, 240):
        assert (fast_sketch(numbers(0), P, 0) == EMPTY).all()
        for n in (1, 2, 3):
            assert not (fast_sketch(numbers(n), P, 0) == EMPTY).any()


def check_estimates(throw, P, n, J, T=1000, seed=0):
    """No bias, and a variance that is not above MinHash's; both within 3 sigma of T pairs."""
    one, other, J = pairs(J, n, T, seed)
    found = (sketch_rows(one, P, seed, throw) == sketch_rows(other, P, seed, throw)).mean(axis=1)
    variance = J * (1 - J) / P  # of MinHash
    assert abs(found.mean() - J) <= 3 * (variance / T) ** 0.5
    factor = found.var() / variance
    assert factor <= 1 + 3 * (2 / T) ** 0.5
    return factor


@pytest.mark.parametrize("J", [0.25, 0.5, 0.8])
@pytest.mark.parametrize("P", [16, 48])
def test_the_estimate_has_no_bias_and_the_variance_of_the_docstring(P, J):
    for seed, n in enumerate((4, P // 2, P, 2 * P, 12 * P)):
        factor = check_estimates(throw, P, n, J, seed=seed)
        rounds = sketch_rows(numbers((200, n), seed), P, seed) >> 40
        s = np.mean([rounds[:, i] == rounds[:, j] for i in range(P) for j in range(i)])
        want = 1 - s * (P - 1) / (n - 1)
        assert factor == pytest.approx(want, abs=3 * want * (2 / 1000) ** 0.5 + 0.01)
        if n <= 2 * P:
            assert factor < 0.85
        if n == 4:
            assert s == pytest.approx((n - 1) / (2 * P), rel=0.15)  # for n far below P


@pytest.mark.parametrize("n", [3, 60, 400])
def test_the_estimate_has_no_bias_over_seeds_for_one_pair_of_numbers_in_a_row(n):
    x, P, T = np.arange(n, dtype=np.uint64), 60, 200
    one, other = x[: 2 * n // 3], x
    J = (2 * n // 3) / n
    found = [(fast_sketch(one, P, s) == fast_sketch(other, P, s)).mean() for s in range(T)]
    assert abs(np.mean(found) - J) <= 3 * (J * (1 - J) / P / T) ** 0.5
    assert np.var(found) <= (1 + 3 * (2 / T) ** 0.5) * J * (1 - J) / P


def test_bins_are_filled_as_chance_has_it():
    """The share that the first round leaves empty: each of n shingles misses a bin with 1 - 1/P."""
    for P in (100, 128):
        rounds = sketch_rows(numbers((300, P)), P, seed=3) >> 40
        empty = (1 - 1 / P) ** P
        assert (rounds > 0).mean() == pytest.approx(empty, abs=3 * (0.1 / (300 * P)) ** 0.5)
        by_bin = (rounds > 0).sum(axis=0)
        chi_squared = ((by_bin - 300 * empty) ** 2 / (300 * empty * (1 - empty))).sum()
        assert chi_squared < P + 4 * (2 * P) ** 0.5  # no bin is favoured


def test_the_work_is_n_and_p_log_p(monkeypatch):
    thrown = []

    def counted(x):
        thrown.append(x.size)
        return mix(x)

    monkeypatch.setattr(file, "mix", counted)
    P = 128
    for n in (1, 10, 100, 1000, 20_000):
        thrown.clear()
        fast_sketch(numbers(n), P, 0)
        assert sum(thrown) <= 2 * n + 3 * P * 7


def curve(P, bands, n, J, T, seed=0):
    """Return how many standard deviations more pairs share a band than the S-curve says."""
    one, other, J = pairs(J, n, T, seed)
    keys = [lsh_keys(sketch_rows(rows, P, seed), *bands) for rows in (one, other)]
    found = (keys[0] == keys[1]).any(axis=1).sum()
    p = lsh_probability(J, *bands)
    return (found - T * p) / (T * p * (1 - p)) ** 0.5


def test_bands_of_large_sets_find_what_the_curve_says():
    for seed, J in enumerate((0.3, 0.45, 0.6, 0.75, 0.9)):
        assert abs(curve(32, Bands(8, 4), 640, J, T=300, seed=seed)) <= 3


def test_bands_of_small_sets_are_on_the_right_side_of_the_curve():
    for n in (10, 40):
        assert curve(96, Bands(12, 8), n, 0.5, T=1000) <= 1
        assert curve(96, Bands(12, 8), n, 0.8, T=1000) >= -1


def test_documents_are_their_shingles_however_they_are_taken_together(monkeypatch):
    rng = random.Random(0)
    documents = ["", "a", "ab", "abc", "abcd", "", "好" * 50, "a\0", [], [1, 2**40], np.arange(70)]
    documents += ["".join(rng.choices("abc 好", k=rng.randrange(200))) for _ in range(40)]
    documents += ["".join(rng.choices("abcdefgh", k=3000)), "", "z"]
    for k in (1, 3, 7):
        want = [fast_sketch(shingles(d, k), 20, 5) for d in documents]
        for block in (1, 100, 1000, 2**14):
            monkeypatch.setattr(file, "BLOCK", block)
            found = fast_sketches(iter(documents), 20, 5, k)
            assert found.dtype == np.uint64
            np.testing.assert_array_equal(found, want)
            sets = (shingles(d, k) for d in documents)
            np.testing.assert_array_equal(sketch_sets(sets, 20, 5), want)
    assert fast_sketches([], 20, 5, 3).shape == sketch_sets([], 20, 5).shape == (0, 20)
    assert (fast_sketches(["", ""], 20, 5, 3) == EMPTY).all()


def test_a_long_document_is_thrown_in_parts(monkeypatch):
    x, largest = numbers(3000), []
    want = [fast_sketch(x[:n], 40, 5) for n in (0, 1, 70, 3000)]
    monkeypatch.setattr(file, "mix", lambda x: largest.append(x.shape[-1]) or mix(x))
    for long in (1, 69, 70, 71):
        monkeypatch.setattr(file, "LONG", long)
        largest.clear()
        found = [fast_sketch(x[:n], 40, 5) for n in (0, 1, 70, 3000)]
        np.testing.assert_array_equal(found, want)
        assert max(largest) == long


def test_on_the_strict_fake_device(monkeypatch):
    for n in (0, 1, 30, 2000):
        x = numbers(n)
        signature = fast_sketch(x, 12, seed=2)
        with monkeypatch.context() as patch:
            fake = to_fake(x)
            install(patch)
            with count_syncs() as syncs:
                found = fast_sketch(fake, 12, seed=2)
        np.testing.assert_array_equal(from_fake(found), signature)
        assert sum(syncs.values()) <= 12  # a few after each step, to see what is still empty


def variant(x, owner, n, P, seed, *, rounds, bin_of, value_of, key_of=lambda i: i):
    """The definition on arrays, with parts to put wrong ones in."""
    bins = np.full((n, P), EMPTY, np.uint64)
    for i in range(rounds):
        key = np.array([(seed * BASE + key_of(i) + 1) & MASK], np.uint64)
        h = mix(x + mix(key))
        open_sets = (bins == EMPTY).any(axis=1)[owner]
        place = owner * P + bin_of(h, i, P).astype(np.int64)
        np.minimum.at(bins.reshape(-1), place[open_sets], value_of(h, i)[open_sets])
    return bins


def right_bin(h, i, P):
    return (h >> 40) * P >> 24 if i < P else np.full(len(h), i - P)


def right_value(h, i):
    return h & LOW40 | i << 40


RIGHT = {"bin_of": right_bin, "value_of": right_value}
WRONG = {
    "no round in the value": (40, {"value_of": lambda h, i: h & LOW40}),
    "the round counts less than the bits": (40, {"value_of": lambda h, i: (h & LOW40) << 20 | i}),
    "the value is a part of the bin's bits": (40, {"value_of": lambda h, i: h >> 62 | i << 40}),
    "a value of 3 bits, so that there are ties": (400, {"value_of": lambda h, i: h & 7 | i << 40}),
    "one round": (10, {"rounds": 1}),
    "no rounds for one bin each": (2, {"rounds": 16}),
    "one function for all rounds": (4, {"key_of": lambda i: 0}),
}


def with_parts(P, **parts):
    settings = {"rounds": 2 * P, **RIGHT, **parts}
    return lambda x, owner, n, num_perm, seed: variant(x, owner, n, num_perm, seed, **settings)


def test_the_variant_with_the_right_parts_is_right():
    for n in (1, 4, 10, 40, 400):
        rows = numbers((20, n))
        right = sketch_rows(rows, 16, 0)
        np.testing.assert_array_equal(sketch_rows(rows, 16, 0, with_parts(16)), right)
    for n in {n for n, _ in WRONG.values()}:
        check_estimates(with_parts(16), 16, n, 0.5)


@pytest.mark.parametrize(("n", "parts"), WRONG.values(), ids=WRONG.keys())
def test_wrong_variants_are_refused(n, parts):
    with pytest.raises(AssertionError):
        check_estimates(with_parts(16, **parts), 16, n, 0.5)


def test_errors():
    for num_perm in (0, -1, 2**23):
        with pytest.raises(ValueError, match=f"must be positive and below 2\\^23, got {num_perm}"):
            fast_sketch(numbers(3), num_perm, 0)
        with pytest.raises(ValueError, match="num_perm must be positive"):
            fast_sketches([], num_perm, 0, 5)
        with pytest.raises(ValueError, match="num_perm must be positive"):
            sketch_sets([], num_perm, 0)
    with pytest.raises(TypeError, match="shingle_set must be uint64, got int64"):
        fast_sketch(np.array([1]), 4, 0)
    with pytest.raises(TypeError, match="shingle_set must be uint64, got int64"):
        sketch_sets([numbers(3), np.array([1])], 4, 0)
    with pytest.raises(ValueError, match="shingle_set must have axes"):
        fast_sketch(numbers((2, 2)), 4, 0)
    with pytest.raises(ValueError, match="ngram_size must be positive, got 0"):
        fast_sketches(["a"], 4, 0, 0)
    with pytest.raises(TypeError, match="document must be a text or ids"):
        fast_sketches([[0.5]], 4, 0, 5)
