"""The curves of a stage of alignment: run/metrics.jsonl becomes run/metrics.png, panel by panel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from ..training.metrics import Metrics, Row
from ..training.picture import save_picture

Panel: TypeAlias = tuple[str, str, tuple[str, ...]]  # title, label of the y axis, keys of metrics
Curve: TypeAlias = tuple[str, list[int], list[float]]  # key, steps, values


def curves_of(rows: Sequence[Row], keys: Sequence[str]) -> list[Curve]:
    """Return the curve of each key that has a value in some row.

    >>> curves_of([{"step": 1, "loss": 2.5}, {"step": 2, "loss": 2.0}], ["loss", "kl"])
    [('loss', [1, 2], [2.5, 2.0])]
    """
    found: list[Curve] = []
    for key in keys:
        having = [row for row in rows if key in row]
        if having:
            found.append((key, [row["step"] for row in having], [row[key] for row in having]))
    return found


def plot_metrics(folder: Path, panels: Sequence[Panel]) -> None:
    """Draw the panels of which metrics.jsonl holds anything, below each other, into metrics.png.

    Args:
        folder: of the run.
        panels: what to draw; a panel without data is left out. A validation value is measured now
            and then, so its points are marked.

    Raises:
        ImportError: matplotlib is missing; see `require_extra`.
        OSError: the picture could not be written; an old one stands.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # not pyplot: it would choose a window system

    rows = Metrics.read(folder)
    drawn = [(panel, curves) for panel in panels if (curves := curves_of(rows, panel[2]))]
    if not drawn:
        return  # a run that was stopped before its first step
    n = len(drawn)
    figure = Figure(figsize=(7, 1 + 2.3 * n), layout="constrained")
    FigureCanvasAgg(figure)
    all_axes = figure.subplots(n, 1, sharex=True, squeeze=False)[:, 0]
    for axes, ((title, y_label, _), curves) in zip(all_axes, drawn, strict=True):
        for key, steps, values in curves:
            marked = key.startswith("validation")
            style = {"marker": "o", "markersize": 3} if marked else {"linewidth": 0.8}
            axes.plot(steps, values, label=key.replace("_", " "), **style)
        axes.set(title=title, ylabel=y_label)
        axes.grid(alpha=0.3)
        if len(curves) > 1:
            axes.legend()
    all_axes[-1].set_xlabel("step")
    save_picture(figure, folder / "metrics.png")
