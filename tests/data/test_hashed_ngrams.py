"""Hashed n-grams, by the definition of the hash, number by number."""

import pathlib
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest

from minqwen.data.corpora import bilingual_stories
from minqwen.data.hashed_ngrams import BASE, hash_texts

SIZES = {"character_ngrams": (1, 2), "word_ngrams": (1,)}
TEXTS = ["a small cat", "", "一只小猫 cat cat", "buy it now", "cat"]


def dense(x, buckets):
    rows = np.zeros((x.texts, buckets))
    rows[x.text, x.bucket] = x.value
    return rows


def test_hash_by_the_definition():
    def mix(x):
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    def hashed(run, salt):
        return mix((sum(mix(ord(c)) * BASE**k for k, c in enumerate(run)) + salt) % 2**64) % 1009

    text = "ab 好 ab"
    runs = [(text[i : i + n], n) for n in (1, 3) for i in range(len(text) - n + 1)]
    phrases = [
        (p, 2**32 + n) for n, ps in ((1, ["ab", "好", "ab"]), (2, ["ab 好", "好 ab"])) for p in ps
    ]
    expected = np.zeros(1009)
    for run, salt in runs + phrases:
        expected[hashed(run, salt)] += 1
    expected = np.sqrt(expected / expected.sum())
    x = hash_texts(["  AB\n好  ab"], 1009, (1, 3), (1, 2))
    np.testing.assert_allclose(dense(x, 1009)[0], expected, rtol=1e-12)


def test_features_of_a_text_do_not_depend_on_the_others_or_on_the_place():
    x = hash_texts(TEXTS, 4096, **SIZES)
    for i, text in enumerate(TEXTS):
        np.testing.assert_array_equal(
            dense(x, 4096)[i], dense(hash_texts([text], 4096, **SIZES), 4096)[0]
        )
    lengths = (dense(x, 4096) ** 2).sum(axis=1)
    np.testing.assert_allclose(lengths, [1, 0, 1, 1, 1])
    words = hash_texts(["cat", "a b c d e cat"], 2**40, (), (1,))
    assert np.isin(words.bucket[words.text == 0], words.bucket[words.text == 1]).all()


def test_hashes_are_the_same_in_every_process():
    code = (
        "from minqwen.data.hashed_ngrams import hash_texts\n"
        "print(hash_texts(['a \\u597d'], 2**30).bucket.tolist())"
    )
    ours = hash_texts(["a 好"], 2**30).bucket.tolist()
    root = pathlib.Path(__file__).parents[2]
    run = [sys.executable, "-c", code]
    out = subprocess.run(run, capture_output=True, text=True, check=True, cwd=root)
    assert out.stdout.strip() == str(ours)


def test_hashes_spread_evenly():
    words = hash_texts([" ".join(f"w{i}" for i in range(20_000))], 64, (), (1,))
    counts = words.value**2 * 20_000
    chi2 = ((counts - 20_000 / 64) ** 2 / (20_000 / 64)).sum()
    assert len(counts) == 64
    assert 63 - 4 * np.sqrt(126) < chi2 < 63 + 4 * np.sqrt(126)


def test_no_bucket_has_moved():
    """Classifiers that were saved must find their weights again: these sums are of version 1."""
    stories = bilingual_stories(30, 0)
    stories += [f"{a}\n\n# {b} ...\n- {a}" for a, b in pairwise(stories)]
    x = hash_texts(stories, 2**20)
    assert len(x.bucket) == 58239
    assert x.bucket.sum() == 30594703353
    assert (x.value * (x.bucket % 97)).sum() == pytest.approx(80646.3057439755)


def test_errors():
    with pytest.raises(ValueError, match=r"must be positive, got 4, \(0,\) and \(1, 2\)"):
        hash_texts(["a"], 4, character_ngrams=(0,))
