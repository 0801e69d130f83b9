"""The laboratory's pictures, drawn from the cells of results.json."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..tour_page import new_figure
from .findings import REPORT, REPORT_MULTIPLES
from .numbers import Numbers
from .settings import MULTIPLES
from .techniques import BY_NAME

STYLES: dict[str, tuple[str, str, str]] = {  # technique -> colour, line, marker
    "plain": ("#222222", "-", "o"),
    "ntk": ("#c45a00", "-", "s"),
    "ntk_logn": ("#d9a400", "-", "^"),
    "ntk_logn_window": ("#2b7a4b", "-", "D"),
    "yarn": ("#1f5fa8", "--", "v"),
    "dca": ("#8a3fa0", "--", "P"),
    "dca_temperature": ("#c0408a", "--", "*"),
    "all_layers": ("#888888", "-.", "x"),
}
LABELS = {"ntk_logn": "NTK + LogN", "ntk": "NTK", "ntk_logn_window": "NTK + LogN + window"}


def label(name: str) -> str:
    """Return the label of a technique where the rows above it are not in sight."""
    return LABELS.get(name, BY_NAME[name].label)


def draw_lengths(n: Numbers, names: Sequence[str]) -> Any:
    """Draw perplexity against length, ours on the left and the report's Table 3 on the right."""
    drawing, (left, right) = new_figure(11, 4.6, 2)
    for name in names:
        colour, line, marker = STYLES[name]
        values = [n.perplexity(name, k) for k in MULTIPLES]
        left.plot(MULTIPLES, values, line, color=colour, marker=marker, ms=5, label=label(name))
    for name, row in REPORT.items():
        colour, line, marker = STYLES[name]
        right.plot(
            REPORT_MULTIPLES, row, line, color=colour, marker=marker, ms=5, label=label(name)
        )
    left.set_title(f"our model, trained at L0 = {n.train_length}")
    right.set_title("Qwen-7B, trained at L0 = 2048 (the report, Table 3)")
    left.axhline(n.perplexity("plain", 1), color="#bbb", linewidth=0.8, zorder=0)
    for axes, ticks in ((left, MULTIPLES), (right, REPORT_MULTIPLES)):
        axes.legend(fontsize=8)
        _length_axis(axes, ticks)
    return drawing


def draw_positions(n: Numbers, names: Sequence[str]) -> Any:
    """Draw perplexity against the position within the longest texts."""
    drawing, axes = new_figure(8.5, 4.6, 1)
    for name in names:
        values = np.exp(np.array(n.cell(name, MULTIPLES[-1])["by_position"]))
        middles = (np.arange(len(values)) + 0.5) * MULTIPLES[-1] / len(values)
        colour, line, marker = STYLES[name]
        axes.plot(
            middles, values, line, color=colour, marker=marker, ms=3, lw=1.2, label=label(name)
        )
    axes.set(xscale="log", yscale="log", ylabel="perplexity of the tokens there (log)")
    axes.set_xlabel("position in the text, in trained lengths (log)")
    _plain_ticks(axes, (0.25, 0.5, *MULTIPLES))
    axes.axvline(1, color="#bbb", linewidth=0.8, zorder=0)
    axes.set_title(f"inside texts of {MULTIPLES[-1] * n.train_length} tokens")
    axes.legend(fontsize=8)
    return drawing


def draw_windows(n: Numbers) -> Any:
    """Draw short windows low against short windows high, and one half limited against the other."""
    drawing, all_axes = new_figure(12.5, 4.2, 3)
    ladders, halves = ("short windows {}", "low", "high"), ("{} half", "lower", "upper")
    panels = (
        ("windows alone", ladders, "window", "window_reversed", "plain"),
        ("windows with NTK and LogN", ladders,
         "ntk_logn_window", "ntk_logn_window_reversed", "ntk_logn"),
        ("half of the layers limited to L0", halves, "lower_half", "upper_half", "plain"),
    )  # fmt: skip
    for axes, (title, (text, below, above), lower, upper, none) in zip(
        all_axes, panels, strict=True
    ):
        for name, colour, line, marker, what in (
            (none, "#222222", ":", "o", "no windows"),
            (upper, "#b3372f", "-", "v", text.format(above)),
            (lower, "#2b7a4b", "-", "^", text.format(below)),
            ("all_layers", "#888888", "-.", "x", "L0 in every layer"),
        ):
            values = [n.perplexity(name, k) for k in MULTIPLES]
            axes.plot(MULTIPLES, values, line, color=colour, marker=marker, ms=5, label=what)
        axes.set_title(title, fontsize=10)
        axes.legend(fontsize=8)
    limits = [axes.get_ylim() for axes in all_axes]
    for axes in all_axes:  # one scale, to be compared
        axes.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
        _length_axis(axes, MULTIPLES)
    return drawing


def draw_layers(n: Numbers) -> Any:
    """Draw what happens when a single layer sees more than L0."""
    drawing, axes = new_figure(7.5, 4.2, 1)
    layers = n.single_layers
    for i, name in enumerate(layers):
        shade = 0.15 + 0.75 * i / max(len(layers) - 1, 1)  # blue = low in the model
        values = [n.perplexity(name, k) for k in MULTIPLES]
        look = {"color": (shade, 0.35, 1 - shade), "marker": "o", "ms": 5, "lw": 2.2 - i % 2}
        axes.plot(MULTIPLES, values, **look, label=f"layer {i}" + " (lowest)" * (i == 0))
    for name, what in (("plain", "all layers"), ("all_layers", "no layer")):
        colour, _, marker = STYLES[name]
        values = [n.perplexity(name, k) for k in MULTIPLES]
        axes.plot(MULTIPLES, values, ":", color=colour, marker=marker, ms=4, label=what)
    axes.set_title("which layers see more than L0")
    axes.legend(fontsize=8)
    _length_axis(axes, MULTIPLES)
    return drawing


def _length_axis(axes: Any, ticks: Sequence[float]) -> None:
    axes.set(xscale="log", yscale="log", ylabel="perplexity (log)")
    axes.set_xlabel("length of the text, in trained lengths (log)")
    axes.axvline(1, color="#bbb", linewidth=0.8, zorder=0)
    _plain_ticks(axes, ticks)


def _plain_ticks(axes: Any, ticks: Sequence[float]) -> None:
    """Write numbers as people do, and not as powers of ten."""
    from matplotlib.ticker import NullLocator

    low, high = axes.get_ylim()
    digits = (1, 2, 5) if high / low > 30 else (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)
    numbers = [digit * 10.0**power for power in range(-1, 7) for digit in digits]
    shown = [number for number in numbers if low <= number <= high]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_yticks(shown, [f"{number:g}" for number in shown])
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.25)
