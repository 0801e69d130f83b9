"""Text classifier: hashes by the definition, gradient by differences, calibration by counts."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest

from minqwen.check.gradients import check_gradients
from minqwen.data.corpora import bilingual_stories
from minqwen.data.hashed_ngrams import BASE, hash_texts
from minqwen.data.quality_rules import judge
from minqwen.data.text_classifier import (
    TextClassifier,
    calibrate,
    classifier_rule,
    good_probability,
    load_text_classifier,
    logistic_loss_backward,
    logistic_loss_forward,
    save_text_classifier,
    train_text_classifier,
)

SIZES = {"character_ngrams": (1, 2), "word_ngrams": (1,)}
TEXTS = ["a small cat", "", "一只小猫 cat cat", "buy it now", "cat"]


def dense(x, buckets):
    rows = np.zeros((x.texts, buckets))
    rows[x.text, x.bucket] = x.value
    return rows


def spam(n, seed):
    rng = np.random.default_rng(seed)
    words = ["buy", "now", "cheap", "win", "click", "免费", "中奖", "the", "and", "100", "free!!"]
    return [" ".join(rng.choice(words, 40)) for _ in range(n)]


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


@pytest.mark.parametrize("l2", [0.0, 0.3])
def test_gradient_by_differences(l2):
    rng = np.random.default_rng(0)
    x = hash_texts(TEXTS, 11, **SIZES)
    targets = np.array([1.0, 0.0, 0.7, 0.0, 1.0])

    def forward(w, b):
        return logistic_loss_forward(x, w, b, targets, l2)

    check_gradients(forward, logistic_loss_backward, rng.normal(size=11), np.array(0.4))


def test_loss_by_hand_and_without_overflow():
    x = hash_texts(["a", "b"], 2**20, (), (1,))
    w = np.zeros(2**20)
    w[x.bucket] = [2.0, -1.0]
    loss, _ = logistic_loss_forward(x, w, np.array(0.5), np.array([1.0, 1.0]), l2=0.1)
    surprise = np.log1p(np.exp(-2.5)) + np.log1p(np.exp(0.5))
    assert loss == pytest.approx(surprise / 2 + 0.05 * 5)
    huge, cache = logistic_loss_forward(x, w * 1e4, np.array(0.0), np.array([0.0, 1.0]))
    assert huge == pytest.approx(1.5e4)
    dw, db = logistic_loss_backward(2.0, cache)
    np.testing.assert_allclose(dw[x.bucket], [1, -1])
    assert db == 0


def test_learns_to_tell_stories_from_spam_and_generalises():
    fit = train_text_classifier(bilingual_stories(40, 0), spam(60, 0), buckets=2**12)
    assert fit.gradient <= 1e-5
    good = good_probability(fit.classifier, bilingual_stories(30, 1))
    bad = good_probability(fit.classifier, spam(30, 1))
    assert good.min() > 0.8
    assert bad.max() < 0.2
    assert ((0 <= good) & (good <= 1)).all()


def test_training_finds_the_minimum_and_the_share_of_good():
    good, bad = bilingual_stories(10, 0), spam(25, 0)
    fit = train_text_classifier(good, bad, buckets=256, tolerance=1e-8, max_steps=5000)
    x = hash_texts([*good, *bad], 256)
    targets = np.repeat([1.0, 0.0], [10, 25])
    w, b = fit.classifier.w, fit.classifier.b
    rng = np.random.default_rng(0)
    for _ in range(20):
        other, _ = logistic_loss_forward(
            x, w + rng.normal(0, 0.01, 256), b + rng.normal(0, 0.01), targets, 1e-4
        )
        assert other > fit.loss
    assert good_probability(fit.classifier, [*good, *bad]).mean() == pytest.approx(
        10 / 35, abs=1e-6
    )
    again = train_text_classifier(good, bad, buckets=256, tolerance=1e-8, max_steps=5000)
    np.testing.assert_array_equal(again.classifier.w, w)  # the same, to the bit
    few = train_text_classifier(good, bad, buckets=256, max_steps=3)
    assert few.steps == 3
    assert few.gradient > 1e-5


def coins(n, seed):
    """Return texts of one word of three, good with probability 0.9, 0.5 or 0.2, and the truth."""
    rng = np.random.default_rng(seed)
    words, rates = np.array(["sun", "fog", "ice"]), np.array([0.9, 0.5, 0.2])
    kinds = rng.integers(0, 3, n)
    is_good = rng.random(n) < rates[kinds]
    texts = words[kinds]
    return texts[is_good].tolist(), texts[~is_good].tolist()


def test_probability_is_calibrated():
    fit = train_text_classifier(*coins(1500, 0), buckets=512, l2=1e-6)
    np.testing.assert_allclose(
        good_probability(fit.classifier, ["sun", "fog", "ice"]), [0.9, 0.5, 0.2], atol=0.06
    )


def test_calibration_mends_a_wrong_scale_and_offset_and_keeps_the_order():
    fit = train_text_classifier(*coins(1500, 0), buckets=512, l2=1e-6)
    wrong = fit.classifier._replace(w=5 * fit.classifier.w, b=5 * fit.classifier.b + 3)
    texts = ["sun", "fog", "ice"]
    assert abs(good_probability(wrong, texts) - [0.9, 0.5, 0.2]).max() > 0.3
    mended = calibrate(wrong, *coins(1500, 1))
    np.testing.assert_allclose(good_probability(mended, texts), [0.9, 0.5, 0.2], atol=0.06)
    upside_down = wrong._replace(w=-wrong.w)
    with pytest.raises(ValueError, match="does not rank good before bad"):
        calibrate(upside_down, *coins(1500, 1))


def test_saved_and_loaded(tmp_path):
    fit = train_text_classifier(["a fine day"], ["BUY BUY"], buckets=64, **SIZES)
    path = tmp_path / "quality.npz"
    save_text_classifier(fit.classifier, path)
    loaded = load_text_classifier(path)
    assert loaded.character_ngrams == (1, 2)
    assert loaded.word_ngrams == (1,)
    np.testing.assert_array_equal(
        good_probability(loaded, TEXTS), good_probability(fit.classifier, TEXTS)
    )
    np.savez(path, w=np.zeros(3))
    with pytest.raises(ValueError, match=r"quality\.npz is not a 'minqwen text classifier 1'"):
        load_text_classifier(path)
    with pytest.raises(ValueError, match=r"must end in \.npz, got .*quality\.bin"):
        save_text_classifier(fit.classifier, tmp_path / "quality.bin")


def test_rule_gives_a_reason():
    fit = train_text_classifier(bilingual_stories(20, 0), spam(20, 0), buckets=2**12)
    rule = classifier_rule(fit.classifier, 0.5)
    assert judge(bilingual_stories(21, 1)[20], [rule]).kept
    (failure,) = judge(spam(1, 5)[0], [rule]).failures
    assert failure.rule == "probability of being good"
    assert failure.reason.endswith("wanted at least 0.5 (text classifier)")


def test_errors():
    x = hash_texts(["a"], 4)
    w, b = np.zeros(4), np.zeros(())
    with pytest.raises(ValueError, match=r"targets must have shape \(N=1\), got \(2,\)"):
        logistic_loss_forward(x, w, b, np.zeros(2))
    with pytest.raises(TypeError, match="b must have the dtype of w, float64, got float32"):
        logistic_loss_forward(x, w, np.zeros((), np.float32), np.zeros(1))
    with pytest.raises(ValueError, match="x must hold at least one text"):
        logistic_loss_forward(hash_texts([], 4), w, b, np.zeros(0))
    with pytest.raises(ValueError, match=r"must be positive, got 4, \(0,\) and \(1, 2\)"):
        hash_texts(["a"], 4, character_ngrams=(0,))
    with pytest.raises(ValueError, match="good and bad must hold texts, got 0 and 1"):
        train_text_classifier([], ["a"])
    with pytest.raises(ValueError, match="need l2 > 0 and max_steps >= 1, got 0 and 1000"):
        train_text_classifier(["a"], ["b"], l2=0)
    with pytest.raises(ValueError, match="good and bad must hold texts, got 1 and 0"):
        calibrate(TextClassifier(w, b, (1,), (1,)), ["a"], [])
