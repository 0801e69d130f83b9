"""Calibration: does a reward model win as often as it says?

A margin between two rewards is a prediction: by Bradley and Terry the answer with more wins with

    p = sigmoid(|chosen reward - rejected reward|)        from 1/2 to 1

Sort pairs into bins of p. In each, compare the mean of p with how often the model was right, that
is, how often the answer that it prefers was the chosen one. Over all bins:

    error = sum over the bins of (pairs in it / all pairs) * |mean of p - share that was right|

Which answer of a pair is named first means nothing: a pair that chosen wins with margin m is also
one that rejected loses with margin -m. Using every pair both ways gives a curve from 0 to 1 that is
its own mirror image about (1/2, 1/2) and the same error; so each pair is used once, on the upper
half. Used only as they come, chosen first, all pairs would be won and every curve would be flat.

A tie is right with p = 1/2: it counts half.

Paper:    Qwen Technical Report, 3.2.1 Reward Model: test accuracies only.
Origin:   Guo et al. 2017, arXiv:1706.04599 (the error); Bai et al. 2022, arXiv:2204.05862, section
          3.3 (preference models: accuracy against the difference of scores).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..backend import Array, to_numpy
from ..shapes import require_axes, require_float
from ..training.picture import save_picture


class Calibration(NamedTuple):
    edges: Array  # (bins + 1,) from 0.5 to 1
    predicted: Array  # (bins,) mean of p; NaN where there is no pair
    right: Array  # (bins,) share of the pairs that were ranked right; NaN where there is no pair
    counts: Array  # (bins,) int, pairs; a pair on an edge is in the bin above it
    accuracy: float  # share of all pairs that were ranked right
    error: float  # expected calibration error, 0 = wins as often as it says


def calibration(margins: Array, bins: int = 10) -> Calibration:
    """Compare predicted with measured win rates.

    Args:
        margins: (n,) float, reward of the chosen answer less that of the rejected one.
        bins: of equal width, between 1/2 and 1.

    Returns:
        See Calibration; float64, on the host.

    Raises:
        TypeError: margins are not floating point.
        ValueError: there is no pair or no bin, or a margin is NaN.

    >>> found = calibration(np.log(np.array([3.0, 3.0, 3.0, 1 / 3])), bins=2)  # p = 3/4 each
    >>> found.counts, found.right[1], found.accuracy, round(found.error, 12)
    (array([0, 4]), np.float64(0.75), 0.75, 0.0)
    """
    require_axes("margins", margins, "n")
    require_float(margins=margins)
    margins = to_numpy(margins).astype(np.float64)
    if not len(margins):
        raise ValueError("margins must hold at least one pair, got shape (0,)")
    if np.isnan(margins).any():
        raise ValueError("margins must be numbers, one is NaN")
    if bins < 1:
        raise ValueError(f"bins must be 1 or more, got {bins}")
    p = 1 / (1 + np.exp(-np.abs(margins)))
    right = (margins > 0) + 0.5 * (margins == 0)

    place = np.minimum(((2 * p - 1) * bins + 1e-9).astype(int), bins - 1)  # rounding at an edge
    counts = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):  # 0 / 0 where there is no pair
        mean_p = np.bincount(place, p, bins) / counts
        share = np.bincount(place, right, bins) / counts
    gaps = np.where(counts > 0, np.abs(mean_p - share), 0)
    error = float((counts * gaps).sum() / len(margins))
    edges = np.linspace(0.5, 1, bins + 1)
    return Calibration(edges, mean_p, share, counts, float(right.mean()), error)


def plot_calibration(found: Calibration, path: Path, title: str = "") -> None:
    """Draw the curve over the diagonal, and below it how many pairs are in each bin.

    Args:
        found: of calibration.
        path: of the picture, a .png; one that is there is replaced.
        title: above it.

    Raises:
        ImportError: matplotlib is missing; see `require_extra`.
        OSError: the picture could not be written; an old one stands.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # not pyplot: it would choose a window system

    figure = Figure(figsize=(5, 6), layout="constrained")
    FigureCanvasAgg(figure)
    curve, bars = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    filled = found.counts > 0
    curve.plot([0.5, 1], [0.5, 1], color="gray", linewidth=0.8, label="as often as it says")
    curve.plot(found.predicted[filled], found.right[filled], marker="o", label="measured")
    curve.set(ylabel="share that was ranked right", title=title, ylim=(0, 1.02))
    numbers = f"accuracy {found.accuracy:.3f}\ncalibration error {found.error:.3f}"
    curve.text(0.97, 0.03, numbers, transform=curve.transAxes, ha="right", va="bottom")
    curve.legend(loc="upper left")
    bars.bar(found.edges[:-1], found.counts, np.diff(found.edges), align="edge", edgecolor="white")
    bars.set(xlabel="predicted probability of the preferred answer", ylabel="pairs")
    for axes in (curve, bars):
        axes.grid(alpha=0.3)
    save_picture(figure, path)
