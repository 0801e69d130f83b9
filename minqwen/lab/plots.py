"""The laboratory's three pictures, drawn from the cells of results.json."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..tour_page import new_figure
from .findings import REPORT
from .numbers import Numbers
from .settings import MULTIPLES
from .techniques import BY_NAME

STYLES: dict[str, tuple[str, str, str]] = {  # technique -> colour, line, marker
    "plain": ("#222222", "-", "o"),
    "ntk": ("#c45a00", "-", "s"),
    "ntk_logn": ("#d9a400", "-", "^"),
    "ntk_logn_window": ("#2b7a4b", "-", "D"),
    "interpolation": ("#999999", "--", "x"),
    "logn": ("#999999", ":", "+"),
    "window": ("#2b7a4b", ":", "d"),
    "yarn": ("#1f5fa8", "--", "v"),
    "dca": ("#8a3fa0", "--", "P"),
    "dca_temperature": ("#c0408a", "--", "*"),
    "dca_yarn": ("#c0408a", ":", "*"),
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
            (0.5, 1, 2, 4, 8), row, line, color=colour, marker=marker, ms=5, label=label(name)
        )
    left.set_title(f"our model, trained at L0 = {n.train_length}")
    right.set_title("Qwen-7B, trained at L0 = 2048 (the report, Table 3)")
    for axes, ticks in ((left, MULTIPLES), (right, (0.5, 1, 2, 4, 8))):
        _length_axis(axes, ticks)
        axes.legend(fontsize=8)
    left.axhline(n.perplexity("plain", 1), color="#bbb", linewidth=0.8, zorder=0)
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
    low, high, full = "#2b7a4b", "#b3372f", "#222222"
    panels = (
        ("the same windows both ways round", "window", "window_reversed", "plain"),
        ("the same, with NTK and LogN", "ntk_logn_window", "ntk_logn_window_reversed", "ntk_logn"),
        ("half of the layers limited to L0", "lower_half", "upper_half", "plain"),
    )
    for axes, (title, lower, upper, none) in zip(all_axes, panels, strict=True):
        names = ("the lower half", "the upper half") if lower == "lower_half" else (
            "short windows low", "short windows high")  # fmt: skip
        for name, colour, line, marker, text in (
            (none, full, ":", "o", "no windows"),
            (upper, high, "-", "v", names[1]),
            (lower, low, "-", "^", names[0]),
            ("all_layers", "#888", "--", "x", "every layer sees L0"),
        ):
            values = [n.perplexity(name, k) for k in MULTIPLES]
            axes.plot(MULTIPLES, values, line, color=colour, marker=marker, ms=5, label=text)
        _length_axis(axes, MULTIPLES)
        axes.set_title(title, fontsize=10)
        axes.legend(fontsize=8)
    return drawing


def _length_axis(axes: Any, ticks: Sequence[float]) -> None:
    axes.set(xscale="log", yscale="log", ylabel="perplexity (log)")
    axes.set_xlabel("length of the text, in trained lengths (log)")
    axes.axvline(1, color="#bbb", linewidth=0.8, zorder=0)
    _plain_ticks(axes, ticks)


def _plain_ticks(axes: Any, ticks: Sequence[float]) -> None:
    """Write numbers as people do, and not as powers of ten."""
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator, ScalarFormatter

    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.25)
