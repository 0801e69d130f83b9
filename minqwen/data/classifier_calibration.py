"""Calibration of a classifier: 70 of 100 texts that it gives p = 0.7 shall be good.

    p = sigmoid(a z + c)        a > 0, so that the order of the texts stays

z is the classifier's w . x + b. A classifier is too sure of the texts that it was trained on, so a
and c are set on others: they minimise the surprise at the labels (the loss of text_classifier.py),
by Newton's method, as there are two numbers only. The targets are a little inside 0 and 1,

    good: (n_good + 1) / (n_good + 2)        bad: 1 / (n_bad + 2)

so that a is finite even if nothing is confused.

Origin:   Platt 1999, Probabilistic outputs for support vector machines.
Differs:  the step is halved until the loss does not grow.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..backend import Array
from .text_classifier import TextClassifier, log_odds, sigmoid


def calibrate(
    classifier: TextClassifier, good: Sequence[str], bad: Sequence[str], steps: int = 50
) -> TextClassifier:
    """Set scale and offset of z so that p is right on held-out texts; the order stays.

    Args:
        classifier: of `train_text_classifier`.
        good: texts that it was not trained on, in the proportion in which they come.
        bad: likewise.
        steps: of Newton at most.

    Raises:
        ValueError: a pile is empty, or the classifier ranks bad before good.

    >>> from minqwen.data.text_classifier import good_probability, train_text_classifier
    >>> fit = train_text_classifier(["a fine day"], ["BUY BUY"], buckets=64)
    >>> calibrated = calibrate(fit.classifier, ["fine weather"], ["BUY it"])
    >>> good_probability(calibrated, ["fine weather", "BUY it"]).round(4).tolist()
    [0.6667, 0.3333]
    """
    if not good or not bad:
        raise ValueError(f"good and bad must hold texts, got {len(good)} and {len(bad)}")
    z = log_odds(classifier, [*good, *bad])
    most, least = (len(good) + 1) / (len(good) + 2), 1 / (len(bad) + 2)
    targets = np.repeat([most, least], [len(good), len(bad)])
    rows = np.stack([z, np.ones_like(z)], axis=1)  # (N, 2)

    def loss_at(ac: Array) -> float:
        return float((np.logaddexp(0, rows @ ac) - targets * (rows @ ac)).mean())

    ac = np.array([0.0, np.log(targets.mean() / (1 - targets.mean()))])
    for _ in range(steps):
        p = sigmoid(rows @ ac)
        gradient = rows.T @ (p - targets) / len(z)
        curvature = (rows.T * (p * (1 - p))) @ rows / len(z) + 1e-12 * np.eye(2)
        move = np.linalg.solve(curvature, gradient)
        size = 1.0
        while loss_at(ac - size * move) > loss_at(ac) and size > 1e-6:
            size /= 2
        ac = ac - size * move
        if np.abs(size * move).max() < 1e-10:
            break
    a, c = ac
    if not a > 0:
        raise ValueError("the classifier does not rank good before bad on these texts")
    return classifier._replace(w=a * classifier.w, b=a * classifier.b + c)
