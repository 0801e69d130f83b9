"""The curves of a training run as a picture: run/metrics.jsonl becomes run/loss.png."""

from __future__ import annotations

from pathlib import Path

from .metrics import Metrics
from .picture import save_picture


def plot_loss(folder: Path) -> None:
    """Draw the training and validation losses in metrics.jsonl into loss.png.

    Args:
        folder: of the run.

    Raises:
        ImportError: matplotlib is missing; see `require_extra`.
        OSError: the picture could not be written; an old one stands.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # not pyplot: it would choose a window system

    rows = Metrics.read(folder)
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for key, label, style in (
        ("loss", "training", {"linewidth": 0.8}),
        ("validation_loss", "validation", {"marker": "o", "markersize": 3}),
    ):
        if points := [(row["step"], row[key]) for row in rows if key in row]:
            axes.plot(*zip(*points, strict=True), label=label, **style)
            axes.legend()
    axes.set(xlabel="step", ylabel="loss (nats per token)")
    axes.grid(alpha=0.3)
    save_picture(figure, folder / "loss.png")
