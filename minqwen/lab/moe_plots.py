"""The pictures of the study of experts, drawn from results.json."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import Array
from ..tour_page import new_figure
from .moe_numbers import AGAIN, COPIES, DENSE, RAW, SCRATCH, UNBALANCED, UPCYCLED, MoeNumbers
from .moe_settings import BY_NAME
from .moe_text import KINDS, SOURCES

STYLES: dict[str, tuple[str, str]] = {  # run -> colour, line
    DENSE: ("#222222", "-"),
    AGAIN: ("#999999", "--"),
    SCRATCH: ("#2b7a4b", "-"),
    UNBALANCED: ("#b3372f", "-."),
    UPCYCLED: ("#1f5fa8", "-"),
    COPIES: ("#7aa6d8", "--"),
    RAW: ("#8a3fa0", ":"),
}
SPARSE = (SCRATCH, UNBALANCED, UPCYCLED, COPIES, RAW)
MOST = 2.0  # colours end at a quarter and at four times


def draw_loss(n: MoeNumbers) -> Any:
    """Draw the losses against steps, the difference to dense, and the loss against time."""
    drawing, axes = new_figure(11, 8, 1)
    axes.remove()
    (look, train), (minus, time) = drawing.subplots(2, 2)
    steps, dense = n.facts["settings"]["steps"], n.cell(DENSE)["step_seconds"]
    for name, (colour, line) in STYLES.items():
        x, y = np.array(n.curve(name)).T
        style = {"color": colour, "lw": 1.4, "label": BY_NAME[name].label}
        look.plot(x, y, line, **style)
        train.plot(*np.array(n.curve(name, "training")).T, line, **style)
        start = x[0] * dense  # an upcycled run was dense before
        time.plot(start + (x - x[0]) * n.cell(name)["step_seconds"], y, line, **style)
        there = x >= steps / 10
        if name != DENSE:
            gaps = y - np.array([n.at(DENSE, int(step)) for step in x])
            minus.plot(x[there], gaps[there], line, marker="o", ms=2.5, **style)
    late = [y for x, y in n.curve(DENSE) if x >= steps / 10]
    for what, panels in (("validation", (look, time)), ("training", (train,))):
        low = min(y for name in STYLES for _, y in n.curve(name, what))
        for ax in panels:
            ax.set_ylim(low - 0.05 * (max(late) - low), max(late))
            ax.set_ylabel("loss (nats a token)")
    noise = n.noise
    minus.axhspan(-noise, noise, color="#888", alpha=0.15, lw=0)
    minus.axhline(0, color="#222", lw=0.8)
    widest = max(noise, *(abs(n.loss(name) - n.loss(DENSE)) for name in STYLES))
    minus.set_ylim(-2 * widest, 2.5 * widest)
    minus.set(ylabel="loss minus that of dense (nats)", title="validation loss minus that of dense")
    look.set_title("validation loss")
    train.set_title(f"training loss, means over {n.curve(DENSE)[1][0]:.0f} steps")
    time.set(xlabel="seconds of one core, training only", title="validation loss against time")
    for ax in (look, train, minus):
        ax.set_xlabel("step")
        ax.set_xlim(0, steps)
    for ax in (look, train, minus, time):
        ax.grid(alpha=0.25)
    look.legend(fontsize=8)
    return drawing


def draw_load(n: MoeNumbers) -> Any:
    """Draw each expert's share over time, a row of layers for every run."""
    drawing, axes = _grid(n, len(SPARSE), 2.0)
    image = None
    for i, name in enumerate(SPARSE):
        steps, shares = n.load(name)
        order = np.argsort(-shares[-1], axis=1, kind="stable")  # the busiest at the end on top
        for layer in range(shares.shape[1]):
            relative = _log2(shares[:, layer, order[layer]].T * n.num_experts)
            image = axes[i, layer].pcolormesh(
                _edges(steps), np.arange(n.num_experts + 1), relative,
                cmap="PuOr_r", vmin=-MOST, vmax=MOST,
            )  # fmt: skip
            axes[i, layer].invert_yaxis()
            axes[i, layer].set_yticks([])
            axes[i, layer].set_xlim(0, n.facts["settings"]["steps"])
            if i == 0:
                axes[i, layer].set_title(f"layer {layer}", fontsize=10)
            if i == len(SPARSE) - 1:
                axes[i, layer].set_xlabel("step", fontsize=9)
        axes[i, 0].set_ylabel(BY_NAME[name].label, fontsize=8)
    _bar(drawing, image, axes, "share of an expert over an even share")
    return drawing


def draw_special(n: MoeNumbers, what: str) -> Any:
    """Draw how much more than others each expert reads of a source, or of a kind of token.

    Args:
        n: the numbers.
        what: "source" or "kind".
    """
    names = list(SOURCES.values()) if what == "source" else list(KINDS)
    runs = (SCRATCH, UPCYCLED)
    drawing, axes = _grid(n, len(runs), 3.4)
    image = None
    for i, name in enumerate(runs):
        lift = n.lift(name, what)  # (L, E, classes)
        share = np.array(n.routing(name)[f"by_{what}"]).sum(axis=2)
        for layer, (values, load) in enumerate(zip(lift, share, strict=True)):
            order = np.lexsort((-values.max(axis=1), values.argmax(axis=1)))
            ax = axes[i, layer]
            image = ax.imshow(
                _log2(values[order]), cmap="PuOr_r", vmin=-MOST, vmax=MOST, aspect="auto"
            )
            times = load[order] / load.mean()
            ax.set_yticks(
                range(len(order)),
                [f"{e}  ({t:.1f})" for e, t in zip(order, times, strict=True)],
                fontsize=6,
            )
            ax.set_xticks(
                range(len(names)), names if i == len(runs) - 1 else [], rotation=90, fontsize=8
            )
            if i == 0:
                ax.set_title(f"layer {layer}", fontsize=10)
        axes[i, 0].set_ylabel(f"{BY_NAME[name].label}\nexpert (its load)", fontsize=9)
    _bar(drawing, image, axes, "share among the expert's tokens\nover the share among all")
    return drawing


def draw_told(n: MoeNumbers) -> Any:
    """Draw how much the choice of an expert tells about the source and the kind, layer by layer."""
    drawing, (left, middle, right) = new_figure(13, 4.0, 3)
    panels = ((left, "told_source", "about the source of the text"),
              (middle, "told_kind", "about the kind of the token"),
              (right, "by_token", "of the source: explained by the token alone"))  # fmt: skip
    for axes, key, title in panels:
        for name in SPARSE:
            colour, line = STYLES[name]
            for moment in ("start", "end") if name in (SCRATCH, UPCYCLED) else ("end",):
                values = 100 * np.array(n.routing(name, moment)[key])
                faint = moment == "start"
                axes.plot(
                    range(len(values)), values, ":" if faint else line, color=colour,
                    lw=1.0 if faint else 1.6, marker="o", ms=3,
                    label=BY_NAME[name].label + (", untrained router" if faint else ""),
                )  # fmt: skip
        axes.set(xlabel="layer", title=title, ylim=(0, None), ylabel="%")
        axes.title.set_fontsize(11)
        axes.set_xticks(range(n.facts["settings"]["num_hidden_layers"]))
        axes.grid(alpha=0.25)
    right.legend(fontsize=7.5, loc="lower center")
    return drawing


def _grid(n: MoeNumbers, rows: int, height: float) -> tuple[Any, Array]:
    """Return a figure with a row of axes for each run and a column for each layer."""
    drawing, axes = new_figure(11, 0.4 + height * rows, 1)
    axes.remove()
    return drawing, drawing.subplots(rows, n.facts["settings"]["num_hidden_layers"], squeeze=False)


def _bar(drawing: Any, image: Any, axes: Any, label: str) -> None:
    bar = drawing.colorbar(image, ax=axes, shrink=0.7, label=label, extend="both")
    bar.set_ticks([-2, -1, 0, 1, 2], labels=["1/4", "1/2", "1", "2", "4"])


def _log2(ratio: Array) -> Array:
    clipped: Array = np.log2(np.maximum(ratio, 2.0 ** (-2 * MOST)))
    return clipped


def _edges(steps: Array) -> Array:
    """Return the borders between looks, half-way."""
    middles = (steps[1:] + steps[:-1]) / 2
    edges: Array = np.concatenate([steps[:1], middles, steps[-1:]])
    return edges
