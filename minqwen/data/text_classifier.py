"""Text classifier: the probability that a text is like the good samples, learnt from two piles.

    x = hashed n-grams of the text, |x| = 1                     hashed_ngrams.py
    z = w . x + b           p(good) = sigmoid(z) = 1 / (1 + exp(-z))
    loss = mean over the texts of (log(1 + exp(z)) - t z)  +  l2 / 2 |w|^2      t = 1 good, 0 bad

The gradient, with N texts. The derivative of log(1 + exp(z)) is sigmoid(z), so

    dz_n = dloss / N * (p_n - t_n)
    dw = sum over n of dz_n x_n  +  dloss * l2 * w        db = sum over n of dz_n

Training has one answer, as the loss is convex. Its curvature is at most p (1 - p) (|x|^2 + 1) + l2,
below 1/2 + l2: steps of 1 / (1/2 + l2) never overshoot, and there is no learning rate to choose.
At the optimum db = 0, that is, the mean of p is the share of good samples: give both piles in the
proportion in which they come, or calibrate on held-out texts (classifier_calibration.py).

Paper:    Qwen Technical Report, 2.1 Data: models that score quality and find offensive text.
Origin:   Joulin et al. 2016, arXiv:1607.01759 (linear, on hashed n-grams); Nesterov 1983 with the
          restarts of O'Donoghue and Candes 2012, arXiv:1204.3982.
Differs:  Qwen's classifiers are not published.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from ..backend import Array
from ..shapes import require_axes, require_float, require_shape
from .hashed_ngrams import HashedTexts, hash_texts
from .quality_rules import Rule
from .text_units import DividedText


class TextClassifier(NamedTuple):
    w: Array  # (V,) float64
    b: Array  # () float64
    character_ngrams: tuple[int, ...]  # characters of a run
    word_ngrams: tuple[int, ...]  # words of a phrase


class Fit(NamedTuple):
    classifier: TextClassifier
    loss: float
    gradient: float  # the largest entry; above the tolerance where max_steps were too few
    steps: int


class LogisticCache(NamedTuple):
    x: HashedTexts
    w: Array  # (V,)
    error: Array  # (N,) p - t
    l2: float


def logistic_loss_forward(
    x: HashedTexts, w: Array, b: Array, targets: Array, l2: float = 0.0
) -> tuple[Array, LogisticCache]:
    """Average the surprise at the labels, and add the price of large weights.

    Args:
        x: of `hash_texts`, N texts, buckets below V.
        w: (V,) float64.
        b: () float64.
        targets: (N,) float64 from 0 to 1, the probability that the text is good.
        l2: price of |w|^2 / 2; b is free.

    Returns:
        loss: () in nats.
        cache: for logistic_loss_backward.

    Raises:
        TypeError: an array is not floating point, or the dtypes differ.
        ValueError: a shape does not fit, or there is no text.

    >>> x = hash_texts(["good", "bad"], 8)
    >>> loss, cache = logistic_loss_forward(x, np.zeros(8), np.zeros(()), np.array([1.0, 0.0]))
    >>> float(loss.round(6)), float(np.log(2).round(6))
    (0.693147, 0.693147)
    """
    require_float(w=w, b=b, targets=targets)
    require_axes("w", w, "V")
    require_shape("targets", targets, N=x.texts)
    if not x.texts:
        raise ValueError("x must hold at least one text")
    z = _scores(x, w, b)
    loss = (np.logaddexp(0, z) - targets * z).mean() + l2 / 2 * (w * w).sum()
    return loss, LogisticCache(x, w, sigmoid(z) - targets, l2)


def logistic_loss_backward(dloss: Array | float, cache: LogisticCache) -> tuple[Array, Array]:
    """Return dw, shaped (V,), and db, ()."""
    x, w, error, l2 = cache
    dz = dloss / x.texts * error  # (N,)
    dw = np.bincount(x.bucket, weights=x.value * dz[x.text], minlength=len(w))
    return dw + dloss * l2 * w, dz.sum()


def train_text_classifier(
    good: Sequence[str],
    bad: Sequence[str],
    *,
    buckets: int = 2**18,
    character_ngrams: Sequence[int] = (2, 3, 4),
    word_ngrams: Sequence[int] = (1, 2),
    l2: float = 1e-4,
    max_steps: int = 1000,
    tolerance: float = 1e-5,
) -> Fit:
    """Find the weights that tell good samples from bad ones; the same samples give the same.

    Args:
        good: texts to be kept.
        bad: texts to be dropped.
        buckets: V, weights.
        character_ngrams: see `hash_texts`.
        word_ngrams: see `hash_texts`.
        l2: price of large weights, positive: pulls p towards the share of good samples.
        max_steps: passes over all samples at most.
        tolerance: stops when no entry of the gradient is larger.

    Raises:
        ValueError: a pile is empty, or a number is out of range.

    >>> fit = train_text_classifier(["a fine day"], ["BUY BUY"], buckets=64)
    >>> good_probability(fit.classifier, ["a fine evening", "BUY"]).round().tolist()
    [1.0, 0.0]
    """
    if not good or not bad:
        raise ValueError(f"good and bad must hold texts, got {len(good)} and {len(bad)}")
    if not l2 > 0 or max_steps < 1:
        raise ValueError(f"need l2 > 0 and max_steps >= 1, got {l2} and {max_steps}")
    x = hash_texts([*good, *bad], buckets, character_ngrams, word_ngrams)
    targets = np.repeat([1.0, 0.0], [len(good), len(bad)])
    step, momentum = 1 / (0.5 + l2), 1.0
    before = at = np.zeros(buckets + 1)  # w, then b
    for steps in range(1, max_steps + 1):
        loss, cache = logistic_loss_forward(x, at[:-1], at[-1], targets, l2)
        gradient = np.append(*logistic_loss_backward(1.0, cache))
        largest = float(np.abs(gradient).max())
        if largest <= tolerance or steps == max_steps:
            break
        after = at - step * gradient
        if gradient @ (after - before) > 0:  # the momentum leads uphill: begin anew
            momentum = 1.0
        grown = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        at = after + (momentum - 1) / grown * (after - before)
        before, momentum = after, grown
    sizes = tuple(character_ngrams), tuple(word_ngrams)
    classifier = TextClassifier(at[:-1].copy(), np.array(at[-1]), *sizes)
    return Fit(classifier, float(loss), largest, steps)


def good_probability(classifier: TextClassifier, texts: Iterable[str]) -> Array:
    """Return p(good) of each text, (N,) float64 in [0, 1].

    >>> untrained = TextClassifier(np.zeros(8), np.zeros(()), (2,), (1,))
    >>> good_probability(untrained, ["any text", ""]).tolist()
    [0.5, 0.5]
    """
    return sigmoid(log_odds(classifier, texts))


def log_odds(classifier: TextClassifier, texts: Iterable[str]) -> Array:
    """Return z = w . x + b of each text, (N,) float64.

    >>> untrained = TextClassifier(np.zeros(8), np.array(2.0), (2,), (1,))
    >>> log_odds(untrained, ["any text"]).tolist()
    [2.0]
    """
    w, b, characters, words = classifier
    return _scores(hash_texts(texts, len(w), characters, words), w, b)


def sigmoid(z: Array) -> Array:
    """Return 1 / (1 + exp(-z)), without overflow on either side.

    >>> sigmoid(np.array([-1000.0, 0.0])).tolist()
    [0.0, 0.5]
    """
    p: Array = np.exp(-np.logaddexp(0, -z))
    return p


def classifier_rule(
    classifier: TextClassifier, least: float, name: str = "probability of being good"
) -> Rule:
    """Make a rule for `judge` of quality_rules: p(good) must be at least `least`.

    >>> from minqwen.data.text_units import read_text
    >>> untrained = TextClassifier(np.zeros(8), np.zeros(()), (2,), (1,))
    >>> classifier_rule(untrained, 0.3).measure(read_text("any text"))
    0.5
    """
    return Rule(name, partial(_measure, classifier), least, 1.0, "text classifier")


def _measure(classifier: TextClassifier, text: DividedText) -> float:
    return float(good_probability(classifier, [text.text])[0])


def _scores(x: HashedTexts, w: Array, b: Array) -> Array:
    return np.bincount(x.text, weights=x.value * w[x.bucket], minlength=x.texts) + b
