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
proportion in which they come, or calibrate on held-out texts.

Paper:    Qwen Technical Report, 2.1 Data: models that score quality and find offensive text.
Origin:   Joulin et al. 2016, arXiv:1607.01759 (linear, on hashed n-grams); Nesterov 1983 with the
          restarts of O'Donoghue and Candes 2012, arXiv:1204.3982; Platt 1999 (calibration).
Differs:  Qwen's classifiers are not published.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..backend import Array
from ..shapes import require_axes, require_float, require_shape
from .hashed_ngrams import HashedTexts, hash_texts
from .quality_rules import Rule
from .text_units import DividedText

FORMAT = "minqwen text classifier 1"


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
    return loss, LogisticCache(x, w, _sigmoid(z) - targets, l2)


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
    return _sigmoid(_score_texts(classifier, texts))


def calibrate(
    classifier: TextClassifier, good: Sequence[str], bad: Sequence[str], steps: int = 50
) -> TextClassifier:
    """Set scale and offset of z so that p is right on held-out texts; the order stays (Platt).

    p = sigmoid(a z + c), with a and c by Newton's method on the same loss. As Platt has it, the
    targets are a little inside 0 and 1, so that a is finite even if nothing is confused.

    Args:
        classifier: of `train_text_classifier`.
        good: texts that it was not trained on, in the proportion in which they come.
        bad: likewise.
        steps: of Newton at most.

    Raises:
        ValueError: a pile is empty, or the classifier ranks bad before good.

    >>> fit = train_text_classifier(["a fine day"], ["BUY BUY"], buckets=64)
    >>> calibrated = calibrate(fit.classifier, ["fine weather"], ["BUY it"])
    >>> good_probability(calibrated, ["fine weather", "BUY it"]).round(4).tolist()
    [0.6667, 0.3333]
    """
    if not good or not bad:
        raise ValueError(f"good and bad must hold texts, got {len(good)} and {len(bad)}")
    z = _score_texts(classifier, [*good, *bad])
    most, least = (len(good) + 1) / (len(good) + 2), 1 / (len(bad) + 2)
    targets = np.repeat([most, least], [len(good), len(bad)])
    rows = np.stack([z, np.ones_like(z)], axis=1)  # (N, 2)

    def loss_at(ac: Array) -> float:
        return float((np.logaddexp(0, rows @ ac) - targets * (rows @ ac)).mean())

    ac = np.array([0.0, np.log(targets.mean() / (1 - targets.mean()))])
    for _ in range(steps):
        p = _sigmoid(rows @ ac)
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


def save_text_classifier(classifier: TextClassifier, path: str | os.PathLike[str]) -> None:
    """Write a classifier to one file, whose name must end in .npz.

    Raises:
        ValueError: the name ends otherwise.
    """
    _require_npz(path)
    w, b, characters, words = classifier
    aside = Path(path).with_suffix(".part.npz")
    np.savez_compressed(
        aside,
        format=np.array(FORMAT),
        w=w,
        b=b,
        character_ngrams=np.array(characters, np.int64),
        word_ngrams=np.array(words, np.int64),
    )
    os.replace(aside, path)  # whole, or not at all


def load_text_classifier(path: str | os.PathLike[str]) -> TextClassifier:
    """Read a classifier; nothing in the file is executed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not of `save_text_classifier`.
    """
    _require_npz(path)
    with np.load(path, allow_pickle=False) as file:
        if "format" not in file or str(file["format"]) != FORMAT:
            raise ValueError(f"{path} is not a {FORMAT!r}")
        w, b, *sizes = (file[name] for name in TextClassifier._fields)
    characters, words = (tuple(map(int, size)) for size in sizes)
    require_axes("w", w, "V")
    require_shape("b", b)
    return TextClassifier(w, b, characters, words)


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


def _score_texts(classifier: TextClassifier, texts: Iterable[str]) -> Array:
    w, b, characters, words = classifier
    return _scores(hash_texts(texts, len(w), characters, words), w, b)


def _scores(x: HashedTexts, w: Array, b: Array) -> Array:
    return np.bincount(x.text, weights=x.value * w[x.bucket], minlength=x.texts) + b


def _sigmoid(z: Array) -> Array:
    p: Array = np.exp(-np.logaddexp(0, -z))  # no overflow on either side
    return p


def _require_npz(path: str | os.PathLike[str]) -> None:
    if not os.fspath(path).endswith(".npz"):
        raise ValueError(f"the name of the file must end in .npz, got {os.fspath(path)}")
