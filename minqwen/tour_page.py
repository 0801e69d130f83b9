"""The page that the tour writes: one HTML file, with its plots inside."""

from __future__ import annotations

import base64
import html
import io
import math
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import __version__
from .model.accounting import Cost
from .model.atomic_folder import write_whole
from .model.config import QwenConfig

STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1f; --soft: #5c5f66; --paper: #fdfdfb;
  --line: #d9d9d4; --chip1: #ffe8b8; --chip2: #cfe8d5; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e6e1; --soft: #a3a6ad; --paper: #17181b;
  --line: #3a3c41; --chip1: #5b4a1e; --chip2: #24472f; } }
body { font: 17px/1.55 system-ui, "Noto Sans CJK SC", sans-serif; color: var(--ink);
  background: var(--paper); max-width: 54rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.9rem; margin: 0 0 .3rem; } h2 { font-size: 1.25rem; margin: 2.4rem 0 .6rem; }
p.lead { color: var(--soft); margin-top: 0; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line); }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.scroll { overflow-x: auto; } code, pre { font-family: ui-monospace, monospace; font-size: .9em; }
pre { white-space: pre-wrap; border-left: 3px solid var(--line); padding: .2rem .8rem;
  margin: .4rem 0; }
img { max-width: 100%; height: auto; background: #fff; border-radius: 6px; }
.chips span { padding: .05rem .1rem; white-space: pre; border-radius: 3px; }
.chips span:nth-child(odd) { background: var(--chip1); } .chips span:nth-child(even) {
  background: var(--chip2); }
.before { color: var(--soft); }
"""


def write_page(
    path: Path,
    *,
    proofs: list[dict[str, Any]],
    packing: list[dict[str, Any]],
    config: QwenConfig,
    cost: Cost,
    metrics: list[dict[str, Any]],
    attention: dict[str, Any],
    samples: list[tuple[str, str, str]],
    seconds: float,
) -> Path:
    """Write the page; a half-written page never stands under its name."""
    steps = [row for row in metrics if "loss" in row]
    checks = [row for row in metrics if "validation_loss" in row]
    speed = float(np.median([row["tokens_per_second"] for row in steps]))
    uniform = math.log(config.vocab_size)
    parts = [
        f"<h1>minqwen tour</h1><p class=lead>A Qwen2 in NumPy, every gradient by hand: proved, "
        f"trained and sampled on this machine in {seconds:.0f} seconds. minqwen {__version__}, "
        f"NumPy {np.__version__}, Python {platform.python_version()}.</p>",
        "<h2>1 Proof: every gradient against finite differences</h2>"
        "<p>Each backward pass is written by hand. Here it is compared with "
        "(f(x + h) &minus; f(x &minus; h)) / 2h in float64, for every input and every weight. The "
        "bound is 1e-7 of the gradient's scale.</p>",
        figure(draw_proofs(proofs), "Largest relative error of each concept, against the bound."),
        table(
            ["concept", "in the report", "equation", "gradients", "largest error"],
            [
                [p["concept"], p["report"], p["equation"], p["gradients"], f"{p['error']:.1e}"]
                for p in proofs
            ],
            numbers={3, 4},
        ),
        "<h2>2 Tokenizer: text to ids</h2><p>Byte-pair encoding, trained just now on Python's "
        f"language reference and generated stories in English and Chinese: {config.vocab_size} "
        "ids. Digits are never joined.</p>",
        *(chips(row) for row in packing),
        "<h2>3 Training: the loss falls</h2>"
        f"<p>{config.num_hidden_layers} layers, width {config.hidden_size}, "
        f"{config.num_attention_heads} query heads on {config.num_key_value_heads} key/value "
        f"heads: {cost.parameters:,} parameters. {len(steps)} steps at {speed:,.0f} tokens per "
        f"second. A model that knows nothing has a loss of ln {config.vocab_size} = {uniform:.2f}; "
        f"this one ended at {steps[-1]['loss']:.2f}, and at {checks[-1]['validation_loss']:.2f} on "
        "text that it was not trained on.</p>",
        figure(draw_training(steps, checks, uniform), "Loss, learning rate and gradient norm."),
        "<h2>4 Attention: where the second layer looks</h2>"
        "<p>Each row is a token, each column a token it looks at; nobody looks ahead. Many heads "
        "rest on an early token when they have nothing to say.</p>",
        figure(draw_attention(attention), "Attention probabilities of four heads."),
        "<h2>5 Samples: before and after</h2><p>Temperature 0.7, top-p 0.9.</p>",
        *(sample(*row) for row in samples),
        "<h2>Where to go from here</h2><ul>"
        "<li><code>minqwen pretrain YOUR-TEXTS --out runs/mine</code> trains on your own files</li>"
        "<li><code>minqwen shapes qwen2-0.5b</code> shows every tensor of a published model</li>"
        "<li><code>minqwen/layers/rmsnorm.py</code> is the shortest concept to read first</li>"
        "<li><code>notebooks/02_one_block_forward_and_backward.ipynb</code> goes through a block "
        "line by line</li></ul>",
    ]
    write_whole(path, document("minqwen tour", parts).encode("utf-8"))
    return path


def document(title: str, parts: Sequence[str]) -> str:
    """Return a whole page of these parts, in our style."""
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<title>{title}</title><link rel=icon href='data:,'><style>{STYLE}</style>"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def figure(drawing: Any, alt: str) -> str:
    """Return a matplotlib figure as an image inside the page."""
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="png", dpi=150, bbox_inches="tight")
    return image(buffer.getvalue(), alt)


def image(png: bytes, alt: str) -> str:
    """Return a picture inside the page."""
    data = base64.b64encode(png).decode("ascii")
    return f'<p><img alt="{html.escape(alt)}" src="data:image/png;base64,{data}"></p>'


def table(head: list[str], rows: list[list[Any]], numbers: set[int]) -> str:
    """Return an HTML table; columns in `numbers` are set to the right."""

    def row(tag: str, cells: list[Any]) -> str:
        inner = (
            f"<{tag}{' class=n' if i in numbers else ''}>{html.escape(str(cell))}</{tag}>"
            for i, cell in enumerate(cells)
        )
        return f"<tr>{''.join(inner)}</tr>"

    body = "".join(row("td", cells) for cells in rows)
    return f"<div class=scroll><table>{row('th', head)}{body}</table></div>"


def chips(row: dict[str, Any]) -> str:
    """Return a sentence with its tokens in alternating colours."""
    spans = "".join(
        f'<span title="id {i}">{html.escape(piece).replace(chr(10), "⏎")}</span>'
        for i, piece in zip(row["ids"], row["pieces"], strict=True)
    )
    return (
        f"<p>{html.escape(row['name'])}, {row['bytes_per_token']:.1f} bytes a token<br>"
        f"<span class=chips style='font-family:ui-monospace,monospace'>{spans}</span></p>"
    )


def sample(prompt: str, before: str, after: str) -> str:
    """Return one prompt with what the model wrote before and after training."""
    return (
        f"<pre><b>{html.escape(prompt)}</b>{html.escape(after)}</pre>"
        f"<pre class=before>untrained: {html.escape(before[:80])}</pre>"
    )


def new_figure(width: float, height: float, columns: int) -> tuple[Any, Any]:
    """Return a figure and its axes, drawn without a screen and without global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(drawing)
    return drawing, drawing.subplots(1, columns)


def draw_proofs(proofs: list[dict[str, Any]]) -> Any:
    """Draw the largest error of every concept on a logarithmic axis."""
    drawing, axes = new_figure(7.5, 1 + 0.17 * len(proofs), 1)
    names = [p["concept"] for p in proofs][::-1]
    axes.barh(names, [max(p["error"], 1e-16) for p in proofs][::-1], color="#3b7a57")
    axes.tick_params(axis="y", labelsize=8)
    axes.axvline(1e-7, color="#b3372f", linestyle="--", label="bound 1e-7")
    axes.set(xscale="log", xlim=(1e-12, 1), xlabel="largest relative error of a gradient (log)")
    axes.axvspan(1e-2, 1, color="#b3372f", alpha=0.12, label="where known mistakes land")
    axes.legend(loc="lower right")
    return drawing


def draw_training(steps: list[dict[str, Any]], checks: list[dict[str, Any]], uniform: float) -> Any:
    """Draw loss, learning rate and gradient norm over the steps."""
    drawing, (left, middle, right) = new_figure(11, 3.4, 3)
    x = [row["step"] for row in steps]
    left.plot(x, [row["loss"] for row in steps], color="#9db7d3", linewidth=1, label="training")
    left.plot(
        [row["step"] for row in checks],
        [row["validation_loss"] for row in checks],
        color="#1f4e79",
        marker="o",
        markersize=3,
        label="validation",
    )
    left.axhline(uniform, color="#888", linestyle=":", label="knows nothing")
    left.set(xlabel="step", ylabel="loss (nats per token)", title="loss", ylim=(0, uniform * 1.1))
    left.legend()
    middle.plot(x, [row["lr"] for row in steps], color="#a05a00")
    middle.set(xlabel="step", title="learning rate: warm-up, cosine", ylim=(0, None))
    right.plot(x, [row["grad_norm"] for row in steps], color="#6a4c93", linewidth=1)
    right.axhline(1, color="#888", linestyle=":", label="clipped above 1")
    right.set(xlabel="step", title="gradient norm", ylim=(0, None))
    right.legend()
    return drawing


def draw_attention(attention: dict[str, Any]) -> Any:
    """Draw the probabilities of every second head, so that all key/value heads are seen."""
    pieces, probs = attention["pieces"], attention["probs"]
    labels = [p.strip() or "_" for p in pieces]
    drawing, axes = new_figure(11, 3.2, 4)
    for i, ax in enumerate(axes):
        head = 2 * i
        image = ax.imshow(probs[head], cmap="Blues", vmin=0, vmax=1)
        ax.set_xticks(range(len(labels)), labels, rotation=90, fontsize=7)
        ax.set_yticks(range(len(labels)), labels if i == 0 else [], fontsize=7)
        ax.set_title(f"head {head}", fontsize=9)
    drawing.colorbar(image, ax=axes, shrink=0.8, label="probability")
    return drawing
