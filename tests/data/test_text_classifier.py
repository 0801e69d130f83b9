"""Text classifier: gradient by differences, training to the minimum, probabilities by counts."""

import numpy as np
import pytest
from data.coins import coins

from minqwen.check.gradients import check_gradients
from minqwen.data.corpora import bilingual_stories
from minqwen.data.hashed_ngrams import hash_texts
from minqwen.data.quality_rules import judge
from minqwen.data.text_classifier import (
    classifier_rule,
    good_probability,
    logistic_loss_backward,
    logistic_loss_forward,
    train_text_classifier,
)

SIZES = {"character_ngrams": (1, 2), "word_ngrams": (1,)}
TEXTS = ["a small cat", "", "一只小猫 cat cat", "buy it now", "cat"]


def spam(n, seed):
    rng = np.random.default_rng(seed)
    words = ["buy", "now", "cheap", "win", "click", "免费", "中奖", "the", "and", "100", "free!!"]
    return [" ".join(rng.choice(words, 40)) for _ in range(n)]


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


def test_probability_is_calibrated():
    fit = train_text_classifier(*coins(1500, 0), buckets=512, l2=1e-6)
    np.testing.assert_allclose(
        good_probability(fit.classifier, ["sun", "fog", "ice"]), [0.9, 0.5, 0.2], atol=0.06
    )


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
    with pytest.raises(ValueError, match="good and bad must hold texts, got 0 and 1"):
        train_text_classifier([], ["a"])
    with pytest.raises(ValueError, match="need l2 > 0 and max_steps >= 1, got 0 and 1000"):
        train_text_classifier(["a"], ["b"], l2=0)
