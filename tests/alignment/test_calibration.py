"""Calibration: bins by hand, the mirror image, and a model that is right as often as it says."""

import numpy as np
import pytest

from minqwen.alignment.calibration import calibration, plot_calibration


def logit(p):
    return np.log(p / (1 - p))


def test_bins_by_hand():
    """Ten bins of width 0.05: at 0.62 three of four are right, at 0.98 one of two."""
    p = np.array([0.62, 0.62, 0.62, 0.62, 0.98, 0.98])
    signs = np.array([1, 1, 1, -1, 1, -1])
    found = calibration(signs * logit(p))
    assert found.counts.tolist() == [0, 0, 4, 0, 0, 0, 0, 0, 0, 2]
    assert found.edges == pytest.approx(np.linspace(0.5, 1, 11))
    assert found.predicted[[2, 9]] == pytest.approx([0.62, 0.98])
    assert found.right[[2, 9]].tolist() == [0.75, 0.5]
    assert np.isnan(found.right[[0, 1, 3]]).all()
    assert found.accuracy == pytest.approx(4 / 6)
    assert found.error == pytest.approx(4 / 6 * 0.13 + 2 / 6 * 0.48)


def test_both_orders_of_every_pair_say_the_same():
    """From 0 to 1, with each pair as (chosen, rejected) and as (rejected, chosen)."""
    margins = np.random.default_rng(0).standard_normal(500) * 2 + 0.5
    found = calibration(margins, bins=5)
    both = np.concatenate([margins, -margins])
    won = np.repeat([1.0, 0.0], len(margins))
    p = 1 / (1 + np.exp(-both))
    edges = np.linspace(0, 1, 11)
    error = 0.0
    for i in range(10):
        inside = (p >= edges[i]) & (p < edges[i + 1])
        error += inside.sum() / len(p) * abs(p[inside].mean() - won[inside].mean())
        upper = i - 5 if i >= 5 else 4 - i  # a bin, and its mirror image below 1/2
        expected = found.right[upper] if i >= 5 else 1 - found.right[upper]
        assert won[inside].mean() == pytest.approx(expected)
        assert inside.sum() == found.counts[upper]
    assert found.error == pytest.approx(error)


def test_a_calibrated_model_has_a_small_error_and_a_boastful_one_a_large():
    rng = np.random.default_rng(1)
    true = np.abs(rng.standard_normal(20000))
    signs = np.where(rng.random(20000) < 1 / (1 + np.exp(-true)), 1, -1)
    honest, boastful = calibration(signs * true), calibration(signs * true * 5)
    assert honest.error < 0.02
    assert boastful.error > 0.15
    assert honest.accuracy == boastful.accuracy  # which knows nothing of the size of the margins


def test_ties_edges_and_far_margins():
    ties = calibration(np.zeros(3))
    assert (ties.accuracy, ties.error, ties.counts[0]) == (0.5, 0.0, 3)
    far = calibration(np.array([1e4, -1e4]))
    assert far.counts.tolist() == [0] * 9 + [2]
    assert far.error == 0.5
    assert calibration(np.array([np.inf])).error == 0.0
    edge = calibration(logit(np.array([0.55, 0.75, 0.95])))
    assert edge.counts.tolist() == [0, 1, 0, 0, 0, 1, 0, 0, 0, 1]
    assert calibration(np.array([0.3], np.float32)).predicted.dtype == np.float64


def test_what_is_no_margin_is_refused():
    with pytest.raises(ValueError, match="at least one pair"):
        calibration(np.zeros(0))
    with pytest.raises(ValueError, match="one is NaN"):
        calibration(np.array([0.1, np.nan]))
    with pytest.raises(ValueError, match="bins must be 1 or more, got 0"):
        calibration(np.ones(1), bins=0)
    with pytest.raises(TypeError, match="margins must be a floating-point array"):
        calibration(np.ones(1, int))


def test_the_picture(tmp_path):
    pytest.importorskip("matplotlib")
    plot_calibration(calibration(np.array([0.3, -0.4, 2.0])), tmp_path / "calibration.png", "held")
    assert (tmp_path / "calibration.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["calibration.png"]


def test_a_picture_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    def full(self, path, **options):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(OSError, match=r"calibration\.png"):
        plot_calibration(calibration(np.array([0.3])), tmp_path / "calibration.png")
    assert not list(tmp_path.iterdir())
