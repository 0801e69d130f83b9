"""What the laboratory writes: a page, the table as Markdown, and the plots, from results.json."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import __version__
from ..tour_page import document, image, table
from .findings import LIMITS, REPORT, REPORT_MULTIPLES, findings
from .numbers import Numbers
from .page_parts import markdown_table, png, write_file
from .plots import draw_layers, draw_lengths, draw_positions, draw_windows
from .results import Results
from .settings import MULTIPLES
from .techniques import techniques

SHOWN = (
    "plain",
    "ntk",
    "ntk_logn",
    "ntk_logn_window",
    "yarn",
    "dca",
    "dca_temperature",
    "all_layers",
)
TITLES = {
    "report": "the report's rows, each on top of the one above",
    "more": "others, each by itself",
    "windows": "short windows low, and short windows high",
    "layers": "one layer at a time",
}


ALTS = {
    "perplexity.png": "Perplexity against length, ours and the report's.",
    "positions.png": "Perplexity against the position within the longest texts.",
    "windows.png": "Perplexity with short windows low, and with short windows high.",
    "layers.png": "Perplexity when a single layer sees more than the trained length.",
}


def write_report(folder: Path, results: Results) -> Path:
    """Write index.html, table.md and the plots; none ever stands there half-written.

    Returns:
        The page.
    """
    n = Numbers(results, int(results.facts["settings"]["train_length"]))
    plots = {
        "perplexity.png": png(draw_lengths(n, SHOWN)),
        "positions.png": png(draw_positions(n, SHOWN)),
        "windows.png": png(draw_windows(n)),
        "layers.png": png(draw_layers(n)),
    }
    for name, data in plots.items():
        write_file(folder / name, data)
    write_file(folder / "table.md", markdown(n, results.facts).encode("utf-8"))
    text = page(n, results.facts, [image(data, ALTS[name]) for name, data in plots.items()])
    write_file(folder / "index.html", text.encode("utf-8"))
    return folder / "index.html"


def table_rows(n: Numbers, group: str) -> list[list[str]]:
    """Return the rows of a group: label, and perplexity at each length."""
    rows = []
    for technique in techniques(n.results.facts["settings"]["num_hidden_layers"]):
        if technique.group == group:
            values = [f"{n.perplexity(technique.name, k):.2f}" for k in MULTIPLES]
            rows.append([technique.label, *values])
    return rows


def about(facts: dict[str, Any]) -> str:
    """Return one paragraph: what was trained on what, and what was measured."""
    s, t = facts["settings"], facts["training"]
    base = f"rope_theta {s['rope_theta']:g}"
    if s["rope_theta"] * 2048 == 10_000 * s["train_length"]:
        base += (
            f" = 10,000 * {s['train_length']} / 2048, chosen so that the slowest pair turns about "
            "as far within the trained length as Qwen's, which helps NTK"
        )
    return (
        f"A Qwen2 with {s['num_hidden_layers']} layers, width {s['hidden_size']} and "
        f"{t['parameters']:,} parameters ({base}) was trained on "
        f"{t['tokens']:,} tokens of Python's standard library, in texts of {s['train_length']} "
        f"tokens: {s['steps']} steps, {t['seconds']:.0f} seconds, seed {s['seed']}; loss "
        f"{t['loss']:.2f}, {t['validation_loss']:.2f} on files it never saw. Perplexity is over "
        f"the same {s['texts'] * s['train_length'] * MULTIPLES[-1]:,} tokens at every length, one "
        f"piece of each of {s['texts']} such files. "
        f"{facts['machine']}, minqwen {__version__}."
    )


NOTES = (
    "± is one standard error of the difference, over the texts that both rows read; a difference "
    "counts when it is above two of them. It knows nothing about another seed or another training: "
    f"small differences may change sign there. {LIMITS}"
)


def head(n: Numbers) -> list[str]:
    """Return the first row of the table."""
    return ["perplexity at", *(f"{k * n.train_length} ({k} L0)" for k in MULTIPLES)]


def markdown(n: Numbers, facts: dict[str, Any]) -> str:
    """Return the table and the findings as Markdown."""
    lines = ["# Long context: which technique keeps up", "", about(facts), ""]

    body = [head(n)]
    for group, title in TITLES.items():
        body += [[f"*{title}*", *[""] * len(MULTIPLES)], *table_rows(n, group)]
    lines += [*markdown_table(body, " ---: |"), "## Against the report", ""]
    found = [["the report says", "it measured", "we measured", "verdict"], *findings(n)]
    lines += [*markdown_table(found, " --- |"), NOTES, ""]
    return "\n".join(lines)


def page(n: Numbers, facts: dict[str, Any], plots: Sequence[str]) -> str:
    """Return the page, with its plots inside."""
    numbers = set(range(1, len(MULTIPLES) + 1))
    found = findings(n)
    verdicts = [f.verdict for f in found]
    count = "; ".join(f"{v}: {verdicts.count(v)}" for v in dict.fromkeys(verdicts))
    report = [[label, *(f"{v:.2f}" for v in row)] for label, row in zip(
        ("7B", "+ dynamic NTK", "+ LogN", "+ window"), REPORT.values(), strict=True)]  # fmt: skip
    parts = [
        "<h1>Trained short, read long</h1>",
        f"<p class=lead>{html.escape(about(facts))}</p>",
        "<h2>1 The table</h2><p>In the shape of the Qwen report's Table 3. Everything is the same "
        "trained model; a row changes only the rule by which it reads.</p>",
    ]
    for group, title in TITLES.items():
        parts += [f"<p><b>{title}</b></p>", table(head(n), table_rows(n, group), numbers)]
    lengths = [f"{2048 * k:g} ({k:g} L0)" for k in REPORT_MULTIPLES]
    parts += [
        "<p><b>the report, Table 3: Qwen-7B, trained at 2048</b></p>",
        table(["perplexity at", *lengths], report, numbers),
        "<h2>2 Perplexity against length</h2>",
        plots[0],
        "<h2>3 Inside the longest text</h2><p>Where in the text it goes wrong. Plain reading is "
        "as good as any up to the trained length, and goes wrong beyond it.</p>",
        plots[1],
        "<h2>4 Windows: short ones low, or short ones high?</h2>",
        plots[2],
        "<p>The report says that lower layers are more sensitive to length. So: let one layer see "
        "everything, and hold all others at L0.</p>",
        plots[3],
        f"<h2>5 Where we agree with the report, and where not</h2><p>{count}.</p>",
        table(["the report says", "it measured", "we measured", "verdict"],
              [list(f) for f in found], set()),
        f"<p>{html.escape(NOTES)}</p>",
    ]  # fmt: skip
    return document("minqwen lab long-context", parts)
