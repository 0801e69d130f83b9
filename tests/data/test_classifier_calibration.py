"""Calibration of a classifier, against the rates with which texts were drawn."""

import numpy as np
import pytest
from data.coins import coins

from minqwen.data.classifier_calibration import calibrate
from minqwen.data.text_classifier import (
    TextClassifier,
    good_probability,
    log_odds,
    train_text_classifier,
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


def test_the_minimum_by_search():
    rng = np.random.default_rng(0)
    classifier = TextClassifier(rng.normal(0, 5, 64), np.array(1.0), (), (1,))
    good, bad = coins(20, 3)
    mended = calibrate(classifier, good, bad)
    z = log_odds(classifier, [*good, *bad])
    targets = np.repeat(
        [(len(good) + 1) / (len(good) + 2), 1 / (len(bad) + 2)], [len(good), len(bad)]
    )
    a, c = np.polyfit(z, log_odds(mended, [*good, *bad]), 1)

    def loss(a, c):
        return (np.logaddexp(0, a * z + c) - targets * (a * z + c)).mean()

    assert a > 0
    for move in ([0.01, 0], [-0.01, 0], [0, 0.01], [0, -0.01], [0.01, 0.01], [-0.01, 0.01]):
        assert loss(a + move[0], c + move[1]) > loss(a, c)


def test_errors():
    with pytest.raises(ValueError, match="good and bad must hold texts, got 1 and 0"):
        calibrate(TextClassifier(np.zeros(4), np.zeros(()), (1,), (1,)), ["a"], [])
