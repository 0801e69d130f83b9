"""Fuzzy deduplication: equals the comparison of all pairs where the bands miss nothing."""

import random
from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from minqwen.data import fuzzy_dedup as file
from minqwen.data.corpora import bilingual_stories
from minqwen.data.fuzzy_dedup import FuzzyCopy, fuzzy_dedup, join, root
from minqwen.data.lsh import Bands, lsh_probability

ALL = {"num_perm": 64, "bands": Bands(64, 1)}  # misses 1e-18 of the pairs of similarity 0.5


def grams(text, k=5):
    return {text[i : i + k] for i in range(max(1, len(text) - k + 1))} - {""}


def similarity(one, other):
    a, b = grams(one), grams(other)
    return len(a & b) / len(a | b) if a | b else 1.0


def by_spreading(n, pairs):
    """Let the lowest index spread over the pairs until nothing changes."""
    lowest = list(range(n))
    while True:
        before = list(lowest)
        for i, j in pairs:
            lowest[i] = lowest[j] = min(lowest[i], lowest[j])
        if lowest == before:
            return lowest


def brute_force(texts, threshold):
    pairs = [
        (i, j)
        for i, j in combinations(range(len(texts)), 2)
        if similarity(texts[i], texts[j]) >= threshold
    ]
    lowest = by_spreading(len(texts), pairs)
    dropped = [(i, r, similarity(texts[i], texts[r])) for i, r in enumerate(lowest) if r != i]
    return [i for i, r in enumerate(lowest) if r == i], dropped


def edited(text, edits, rng):
    """Write other letters over `edits` places."""
    letters = list(text)
    for _ in range(edits):
        letters[rng.randrange(len(letters))] = rng.choice("abc好的")
    return "".join(letters)


def corpus(n, seed):
    """Stories in two languages; half of them come again, copied or edited, in any order."""
    rng = random.Random(seed)
    texts = bilingual_stories(n, seed)
    texts += [edited(rng.choice(texts), rng.choice([0, 1, 2, 4, 8, 16]), rng) for _ in range(n)]
    rng.shuffle(texts)
    return [*texts, "", "", "short", "shor", texts[0]]


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9])
@pytest.mark.parametrize(("seed", "sketch"), [(0, "fast"), (1, "fast"), (1, "minhash")])
def test_equals_the_comparison_of_all_pairs(threshold, seed, sketch):
    texts = corpus(20, seed)
    report = fuzzy_dedup(texts, threshold, **ALL, sketch=sketch)
    kept, dropped = brute_force(texts, threshold)
    assert report.kept == kept
    assert report.dropped == dropped
    assert 5 < len(dropped) < 40
    ids = [list(map(ord, text)) for text in texts]
    assert fuzzy_dedup(ids, threshold, **ALL, sketch=sketch) == report


def test_nothing_is_dropped_that_is_not_alike_however_many_candidates_there_are():
    """One function for one band of one row: candidates are mostly wrong, and are verified."""
    texts = bilingual_stories(40, seed=3)
    report = fuzzy_dedup(texts, 0.95, num_perm=64, bands=Bands(64, 1))
    assert report.candidates > 100
    assert report.compared == report.candidates
    assert report.kept == list(range(40))


@pytest.mark.parametrize("sketch", ["fast", "minhash"])
def test_what_is_missed_is_what_the_curve_says(sketch):
    """Pairs alone, each with a band of chance to be found: 3 sigma of the sum of P(s)."""
    rng, bands = random.Random(4), Bands(4, 8)
    pairs = []
    for _ in range(300):
        text = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=120))
        pairs.append((text, edited(text, 4, rng)))
    texts = [text for pair in pairs for text in pair]
    report = fuzzy_dedup(texts, 0.5, num_perm=32, bands=bands, sketch=sketch)
    s = np.array([similarity(*pair) for pair in pairs])
    p = np.where(s >= 0.5, lsh_probability(s, *bands), 0)
    assert 0.3 < p.mean() < 0.8
    assert abs(len(report.dropped) - p.sum()) <= 3 * (p * (1 - p)).sum() ** 0.5


def test_a_chain_joins_its_ends_and_says_how_little_they_are_alike():
    text = "".join(random.Random(5).choices("abcdefghijklmnopqrstuvwxyz", k=100))
    chain = [text, text[10:] + "0123456789", text[20:] + "0123456789ABCDEFGHIJ"]
    report = fuzzy_dedup(chain, 0.75, **ALL)
    assert report.kept == [0]
    assert report.dropped == [
        FuzzyCopy(1, 0, 86 / 106),
        FuzzyCopy(2, 0, 76 / 116),
    ]
    assert report.dropped[1].similarity < 0.75
    assert fuzzy_dedup([chain[0], chain[2]], 0.75, **ALL).kept == [0, 1]


@pytest.mark.parametrize(
    ("sketch", "other"), [("fast", "minhash_signature"), ("minhash", "sketch_sets")]
)
def test_copies_cost_no_pairs_and_joined_pairs_no_comparison(monkeypatch, sketch, other):
    near = "a long enough text about nothing in particular, "
    texts = [near, near + "x", near + "y", near + "z"] * 50
    seen = Counter()
    make = file.signatures

    def counted(sets, *args):
        return make((x for x in sets if not seen.update("s")), *args)

    monkeypatch.setattr(file, "signatures", counted)
    monkeypatch.delattr(file, other)
    report = fuzzy_dedup(texts, 0.7, **ALL, sketch=sketch)
    assert report.kept == [0]
    assert (report.candidates, report.compared) == (6, 3)
    assert seen["s"] == 4
    assert [copy.document for copy in report.dropped] == list(range(1, 200))


def test_the_threshold_itself_is_alike():
    one, other = "abcdefgh", "abcdefghi"  # 4 shingles, and one more
    assert fuzzy_dedup([one, other], 0.8, **ALL).dropped == [FuzzyCopy(1, 0, 0.8)]
    assert fuzzy_dedup([one, other], 0.81, **ALL).dropped == []


def test_few_documents():
    assert fuzzy_dedup([]) == ([], [], 0, 0)
    assert fuzzy_dedup(["one"]) == ([0], [], 0, 0)
    assert fuzzy_dedup(["", "a", ""]).dropped == [FuzzyCopy(2, 0, 1.0)]


def test_the_seed_decides_what_is_missed():
    texts = corpus(30, seed=6)
    for sketch in ("fast", "minhash"):
        reports = [
            fuzzy_dedup(texts, num_perm=8, seed=seed, sketch=sketch) for seed in (0, 0, 1, 2, 3)
        ]
        assert reports[0] == reports[1]
        assert len({report.candidates for report in reports}) > 1


def test_the_fast_sketch_is_the_default():
    texts = corpus(30, seed=8)
    report = fuzzy_dedup(texts, num_perm=16)
    assert report == fuzzy_dedup(texts, num_perm=16, sketch="fast")
    assert report.candidates != fuzzy_dedup(texts, num_perm=16, sketch="minhash").candidates


def test_clusters_are_those_of_spreading():
    rng = random.Random(7)
    for n in (1, 2, 10, 50):
        for edges in (0, n // 2, n, 3 * n):
            pairs = [(rng.randrange(n), rng.randrange(n)) for _ in range(edges)]
            parent = list(range(n))
            for pair in pairs:
                join(parent, *pair)
            assert [root(parent, i) for i in range(n)] == by_spreading(n, pairs)


def test_a_long_way_is_halved():
    parent = [0, *range(2**17)]
    assert root(parent, 2**17) == 0
    steps, i = 0, 2**17
    while parent[i] != i:
        steps, i = steps + 1, parent[i]
    assert steps == 2**16


def test_errors():
    with pytest.raises(ValueError, match="threshold must be between 0 and 1, got 1"):
        fuzzy_dedup(["a"], 1.0)
    with pytest.raises(ValueError, match="num_perm must be positive"):
        fuzzy_dedup(["a"], num_perm=0)
    with pytest.raises(ValueError, match=r"need 1 <= bands \* rows <= P=4"):
        fuzzy_dedup(["a"], num_perm=4, bands=Bands(3, 2))
    with pytest.raises(ValueError, match='sketch must be "fast" or "minhash", got \'md5\''):
        fuzzy_dedup(["a"], sketch="md5")
    with pytest.raises(TypeError, match="document must be a text or ids"):
        fuzzy_dedup([[0.5]])
