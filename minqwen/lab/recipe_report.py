"""What the studies of recipes write: a page, the same as Markdown, and plots, from results.json."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .. import __version__
from ..tour_page import document, image, new_figure, table
from .findings import Finding
from .page_parts import markdown_table, png, write_file
from .recipe_study import LIMITS
from .results import Results

CLAIMS = ["the report says", "it measured", "we measured", "verdict"]
COLOURS = ("#222222", "#2b7a4b", "#c45a00", "#1f5fa8", "#8a3fa0")


class Section(NamedTuple):
    heading: str
    text: str
    rows: Sequence[Sequence[str]]  # the first one is the head


class Report(NamedTuple):
    title: str
    about: str
    sections: Sequence[Section]
    findings: Sequence[Finding]
    plots: Mapping[str, tuple[Any, str]]  # file -> figure, and what it shows in words


def write_pages(folder: Path, report: Report) -> Path:
    """Write index.html, table.md and the plots; none ever stands there half-written.

    Returns:
        The page.
    """
    pictures = {name: png(drawing) for name, (drawing, _) in report.plots.items()}
    for name, data in pictures.items():
        write_file(folder / name, data)
    write_file(folder / "table.md", markdown(report).encode("utf-8"))
    images = [image(data, report.plots[name][1]) for name, data in pictures.items()]
    write_file(folder / "index.html", page(report, images).encode("utf-8"))
    return folder / "index.html"


def markdown(report: Report) -> str:
    """Return tables and findings as Markdown."""
    lines = [f"# {report.title}", "", report.about, ""]
    for part in report.sections:
        lines += [f"## {part.heading}", "", part.text, "", *markdown_table(part.rows, " ---: |")]
    claims = [[_cell(text) for text in row] for row in (CLAIMS, *report.findings)]
    return "\n".join([*lines, "## Findings", "", *markdown_table(claims, " --- |"), LIMITS, ""])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def page(report: Report, images: Sequence[str]) -> str:
    """Return the page, with its plots inside."""
    parts = [
        f"<h1>{html.escape(report.title)}</h1>",
        f"<p class=lead>{html.escape(report.about)}</p>",
    ]
    for part in report.sections:
        head, *body = part.rows
        numbers = set(range(1, len(head)))
        parts += [f"<h2>{html.escape(part.heading)}</h2>", f"<p>{html.escape(part.text)}</p>"]
        parts.append(table(list(head), [list(row) for row in body], numbers))
    parts += ["<h2>Curves</h2>", *images, "<h2>Findings</h2>"]
    parts.append(table(CLAIMS, [list(finding) for finding in report.findings], set()))
    return document(report.title, [*parts, f"<p>{html.escape(LIMITS)}</p>"])


def machine(results: Results) -> str:
    """Return the seeds, the time they took, and the versions, as the last lines of `about`."""
    facts = results.facts
    s, seconds = facts["settings"], facts.get("seconds", {})
    seeds = ", ".join(str(s["seed"] + i) for i in range(s["seeds"]))
    work, wall = (sum(pair[i] for pair in seconds.values()) / 60 for i in (0, 1))
    return (
        f"Seeds {seeds}: {work:.1f} minutes of one core ({wall:.1f} in all, on a machine that did "
        f"other work too). {facts['machine']}, minqwen {__version__}."
    )


def draw_bars(
    panels: Sequence[tuple[str, str, Mapping[str, Mapping[str, Sequence[float]]]]],
) -> Any:
    """Draw groups of bars: means over the seeds, and a dot for every seed.

    Args:
        panels: title, label of the axis, and group -> bar -> values of the seeds.
    """
    drawing, axes = new_figure(5.2 * len(panels), 4.2, len(panels))
    for ax, (title, label, groups) in zip(
        [axes] if len(panels) == 1 else axes, panels, strict=True
    ):
        bars = list(dict.fromkeys(name for group in groups.values() for name in group))
        width = 0.8 / len(bars)
        for i, name in enumerate(bars):
            colour = COLOURS[i % len(COLOURS)]
            for x, group in enumerate(groups.values()):
                if name not in group:
                    continue
                numbers, at = list(group[name]), x + (i - (len(bars) - 1) / 2) * width
                first = not ax.containers or name not in [c.get_label() for c in ax.containers]
                mean = sum(numbers) / len(numbers)
                ax.bar(at, mean, 0.9 * width, color=colour, alpha=0.55,
                       label=name if first else "_")  # fmt: skip
                ax.plot([at] * len(numbers), numbers, "o", color=colour, ms=3)
        ax.set_xticks(range(len(groups)), list(groups))
        ax.set(title=title, ylabel=label)
        ax.set_ylim(top=1.3 * ax.get_ylim()[1])  # room for the legend
        ax.grid(axis="y", alpha=0.25)
        ax.legend(fontsize=8)
    return drawing


def draw_curves(
    panels: Sequence[tuple[str, str, Mapping[str, Sequence[Sequence[Sequence[float]]]]]],
    xlabel: str,
) -> Any:
    """Draw curves: thin ones of the seeds, a thick one of their mean.

    Args:
        panels: title, label of the axis, and line -> seeds -> [x, y] pairs, the same x for all.
        xlabel: of all panels.
    """
    drawing, axes = new_figure(5.8 * len(panels), 4.2, len(panels))
    for ax, (title, label, lines) in zip([axes] if len(panels) == 1 else axes, panels, strict=True):
        for (name, seeds), colour in zip(lines.items(), COLOURS, strict=False):
            x = [point[0] for point in seeds[0]]
            for seed in seeds:
                ax.plot(x, [point[1] for point in seed], color=colour, lw=0.8, alpha=0.4)
            mean = [sum(seed[i][1] for seed in seeds) / len(seeds) for i in range(len(x))]
            ax.plot(x, mean, color=colour, lw=2.2, marker="o", ms=4, label=name)
        ax.set(title=title, xlabel=xlabel, ylabel=label)
        ax.grid(alpha=0.25)
        ax.legend(fontsize=8)
    return drawing
