"""What the study of precision concludes and writes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from .findings import AGREES, DISAGREES, UNDECIDED, Finding
from .precision_rope import (
    DISTANCES,
    FAR,
    ROUNDED,
    TRAINED,
    angle_errors,
    neighbours_apart,
    score_left,
)
from .recipe_report import Report, Section, draw_curves, machine, write_pages
from .recipe_study import (
    SURE,
    Difference,
    difference,
    mean_and_spread,
    values,
    verdict,
)
from .results import Results

LABELS = {
    "float32": "float32",
    "bfloat16": "bfloat16, masters",
    "bfloat16_weights": "bfloat16, no masters",
    "float16_scaled": "float16, dynamic scale",
    "float32_skipping": "float32, the same updates skipped",
    "float16": "float16, no scale",
    "float16_share": "float16, no scale, share of 4M tokens",
}
NEAR = 0.02  # nats: a smaller loss of precision counts as none; ours
BASES = (10_000.0, 1_000_000.0)  # Qwen's and Qwen2's


def curves(results: Results, arm: str, key: str, column: int = 1) -> list[list[list[float]]]:
    """Return [x, y] pairs of an arm, for every seed."""
    cells = sorted(results.cells[arm].items(), key=lambda item: int(item[0]))
    return [[[point[0], point[column]] for point in cell[key]] for _, cell in cells]


def near(d: Difference) -> str:
    """Return the verdict of a claim that a difference is none: within NEAR, two errors included."""
    if d.seeds < SURE:
        return UNDECIDED
    if abs(d.mean) + 2 * d.error < NEAR:
        return AGREES
    return DISAGREES if abs(d.mean) - 2 * d.error > NEAR else UNDECIDED


def findings(results: Results) -> list[Finding]:
    """Return what the numbers say about the claims."""

    def loss(one: str, other: str) -> Difference:
        return difference(values(results, one, "loss"), values(results, other, "loss"))

    def right(distance: int, what: str) -> Difference:
        back = f"back_{distance}"
        return difference(
            values(results, back, "right.nothing"), values(results, back, f"right.{what}")
        )

    half, weights = loss("bfloat16", "float32"), loss("bfloat16_weights", "bfloat16")
    scaled, share = loss("float16_scaled", "float32"), loss("float16_share", "float16_scaled")
    skips = loss("float32_skipping", "float32")
    rest = loss("float16_scaled", "float32_skipping")
    plain, far = loss("float16", "float16_scaled"), right(FAR, "frequencies")
    unmoved = np.mean([seed[-1][1] for seed in curves(results, "bfloat16_weights", "unmoved")])
    own = mean_and_spread(values(results, f"back_{FAR}", "trained.frequencies"), 1, percent=True)
    return [
        Finding(
            "BFloat16 mixed precision is enough for training.",
            "used throughout (2.4), without numbers",
            f"held-out loss minus that of float32: {half.text()} nats; below {NEAR} with two "
            "errors counts as none",
            near(half),
        ),
        Finding(
            "The weights must be remembered in float32.",
            "not said; implied by mixed precision",
            f"held-out loss without masters minus with them: {weights.text()} nats; the last "
            f"update leaves {100 * unmoved:.0f} % of the bfloat16 weights as they were",
            verdict(weights.sure),
        ),
        Finding(
            "float16 with a dynamic scale does as well as float32.",
            "not in the report; Micikevicius et al. 2018",
            f"held-out loss minus that of float32: {scaled.text()} nats; the skipped updates alone "
            f"cost {skips.text()} (float32 without them), the numbers of 16 bits {rest.text()}",
            near(scaled),
        ),
        Finding(
            "float16 needs the scale.",
            "not in the report; Micikevicius et al. 2018",
            f"held-out loss without a scale minus with one: {share.text()} nats where the gradient "
            f"is that of a share of 4M tokens; {plain.text()} in our own small batch",
            verdict(share.sure),
        ),
        Finding(
            "RoPE's frequencies must be in float32.",
            "2.3.1: float32 and not bfloat16 or float16, for accuracy; without numbers",
            f"tokens brought back over {FAR:,}, exact minus rounded frequencies: "
            f"{far.text(1, percent=True)}; over {DISTANCES[0]}: "
            f"{right(DISTANCES[0], 'frequencies').text(1, percent=True)}. Trained with the rounded "
            f"ones, a model brings back {own}: it is the change that breaks it",
            verdict(far.sure),
        ),
    ]


def write_report(folder: Path, results: Results) -> Path:
    """Write the pages; return the first."""
    s = results.facts["settings"]
    tokens = s["base_batch_size"] * s["base_context"]
    about = (
        f"Models of {s['num_hidden_layers']} layers and width {s['hidden_size']}; "
        f"{s['base_steps']} steps of {tokens} tokens of bilingual stories, AdamW with a peak of "
        f"{s['base_lr']:g} and a cosine to a tenth. Every layer rounds its output; sums inside "
        "products, norms, softmax, RoPE, loss and AdamW are in float32. The dynamic scale starts "
        f"at 2^16 and doubles after {s['growth_interval']} good steps. {machine(results)}"
    )
    sections = (
        Section("Training", "Held-out loss in nats, in the precision of the arm: means over the "
                "seeds, in brackets their standard deviation. Unmoved: share of the stored weights "
                "that the last update left as they were.", _losses(results)),
        Section("What float16 loses", "The gradient of the model that float32 trained, computed in "
                "float16: shares of its numbers. A scale of 2^-14 is the share of our batch in one "
                f"of 4M tokens. bfloat16 turns {_bfloat16(results)} into zero at the smallest of "
                "these scales.", _lost(results)),
        Section("Looking back over an exact distance", "Share of tokens brought back by models "
                "trained with the exact table, when a part of it is rounded afterwards; "
                f"last column: trained with that rounding, at {FAR:,}. Guessing is right in 1.6 %.",
                _back(results)),
        Section("Text, here and far away", f"Loss of the float32 model on the same held-out rows, "
                f"first token at position 0 and at {FAR:,}. What is read lies close together.",
                _text(results)),
        Section("Angles", "Heads of 128, as in the report. Error: of the worst of the 64 pairs, in "
                "radians, with rounded frequencies. Score left: of a query that looks exactly so "
                "far back. Apart: share of the pairs whose table tells a position from the next "
                "one, with rounded angles.", _angles()),
    )  # fmt: skip
    title = "Numbers of 16 bits, small"
    return write_pages(folder, Report(title, about, sections, findings(results), _plots(results)))


def _losses(results: Results) -> list[list[str]]:
    rows = [["arm", "held-out loss", "minus float32", "unmoved", "skipped updates", "last scale"]]
    for arm, label in LABELS.items():
        loss = values(results, arm, "loss")
        apart = difference(loss, values(results, "float32", "loss")).text()
        still = [seed[-1][1] for seed in curves(results, arm, "unmoved")]
        scales = [seed[-1][1] for seed in curves(results, arm, "scales") if seed]
        rows.append([
            label,
            mean_and_spread(loss),
            "" if arm == "float32" else apart,
            mean_and_spread(still, 1, percent=True),
            mean_and_spread(values(results, arm, "skipped"), 1),
            ", ".join(f"2^{scale:.0f}" for scale in scales) or "none",
        ])  # fmt: skip
    return rows


def _gradients(results: Results) -> list[dict[str, Any]]:
    return [cell["gradients"] for _, cell in sorted(results.cells["float32"].items())]


def _bfloat16(results: Results) -> str:
    return f"{100 * np.mean([found['bfloat16'] for found in _gradients(results)]):.1f} %"


def _lost(results: Results) -> list[list[str]]:
    rows = [["scale", "zero", "infinite or NaN"]]
    seeds = [found["lost"] for found in _gradients(results)]
    for i, (power, _, _) in enumerate(seeds[0]):
        shares = (
            mean_and_spread([seed[i][column] for seed in seeds], 1, percent=True)
            for column in (1, 2)
        )
        rows.append([f"2^{power}", *shares])
    return rows


def _back(results: Results) -> list[list[str]]:
    rows = [["rounded", *(f"{d:,}" for d in DISTANCES), "trained so"]]
    for what in ROUNDED:
        shares = [
            mean_and_spread(values(results, f"back_{d}", f"right.{what}"), 1, percent=True)
            for d in DISTANCES
        ]
        own = "-"
        if what in TRAINED:
            numbers = values(results, f"back_{FAR}", f"trained.{what}")
            own = mean_and_spread(numbers, 1, percent=True)
        rows.append([what, *shares, own])
    return rows


def _text(results: Results) -> list[list[str]]:
    rows = [["rounded", "at 0", f"at {FAR:,}"]]
    cells = [cell["text"] for _, cell in sorted(results.cells["float32"].items())]
    for what in ROUNDED:
        rows.append([what, *(mean_and_spread([c[what][i] for c in cells]) for i in (0, 1))])
    return rows


def _angles() -> list[list[str]]:
    rows = [["distance", *(f"{what}, base {base:,.0f}" for base in BASES
                           for what in ("error", "score left", "apart"))]]  # fmt: skip
    for distance in DISTANCES:
        row = [f"{distance:,}"]
        for base in BASES:
            row += [
                f"{np.abs(angle_errors(distance, 'frequencies', base)).max():.2f}",
                f"{score_left(distance, 'frequencies', base):.2f}",
                f"{100 * neighbours_apart(distance, 'angles', base):.0f} %",
            ]
        rows.append(row)
    return rows


def _plots(results: Results) -> dict[str, tuple[Any, str]]:
    def panel(key: str, *arms: str) -> dict[str, Any]:
        return {LABELS[arm]: curves(results, arm, key) for arm in arms}

    loss = draw_curves(
        [
            ("bfloat16", "held-out loss, nats a token",
             panel("curve", "float32", "bfloat16", "bfloat16_weights")),
            ("float16", "held-out loss, nats a token",
             panel("curve", "float32", "float16_scaled", "float16", "float16_share")),
        ],
        "step",
    )  # fmt: skip
    limits = [ax.get_ylim() for ax in loss.axes]
    for ax in loss.axes:  # one scale, to be compared
        ax.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
    unmoved = panel("unmoved", "float32", "bfloat16", "bfloat16_weights")
    scale = {"seeds, and their mean": curves(results, "float16_scaled", "scales")}
    steps = draw_curves(
        [
            ("weights that an update leaves as they were", "share", unmoved),
            ("dynamic scale of float16", "log2 of the scale", scale),
        ],
        "step",
    )
    for line in steps.axes[1].lines:
        line.set_marker("")
    for ax in (*loss.axes, steps.axes[0]):
        _on_top(ax, LABELS["float32"])
    seeds = [found["lost"] for found in _gradients(results)]
    lost = draw_curves(
        [
            ("gradient in float16", "share of its numbers", {
                label: [[[point[0], point[column]] for point in seed] for seed in seeds]
                for column, label in ((1, "become zero"), (2, "become infinite or NaN"))
            }),
        ],
        "log2 of the scale of the loss",
    )  # fmt: skip
    lost.axes[0].axvline(-14, color="#888", ls=":", lw=1)
    lost.axes[0].text(-13.5, 0.5, "share in\n4M tokens", fontsize=8, color="#555")
    return {
        "loss.png": (loss, "Held-out loss over the steps, for every precision."),
        "steps.png": (steps, "Unmoved weights, and the dynamic scale, over the steps."),
        "gradients.png": (lost, "Share of a float16 gradient lost, against the scale."),
        "rope.png": (_rope_plot(results), "Tokens brought back, and score left, by distance."),
    }


def _on_top(ax: Any, name: str) -> None:
    """Dash the line that others lie on, and draw it over them, so that both are seen."""
    for line in ax.lines:
        if line.get_label() == name:
            line.set(linestyle="--", marker="", zorder=5)
    ax.legend(fontsize=8)


def _rope_plot(results: Results) -> Any:
    lines = {
        what: [
            [[math.log10(d), values(results, f"back_{d}", f"right.{what}")[i]] for d in DISTANCES]
            for i in range(len(results.cells[f"back_{FAR}"]))
        ]
        for what in ROUNDED
    }
    far = np.unique(np.geomspace(1, 40_000, 120).round().astype(int)).tolist()
    left = {
        f"base {base:,.0f}": [[[math.log10(d), score_left(d, "frequencies", base)] for d in far]]
        for base in BASES
    }
    drawing = draw_curves(
        [
            ("tokens brought back, table rounded afterwards", "share right", lines),
            ("score left with rounded frequencies, heads of 128", "share", left),
        ],
        "distance",
    )
    _on_top(drawing.axes[0], "nothing")
    for ax, ticks in zip(drawing.axes, (DISTANCES, (1, 10, 100, 1000, 4000, FAR)), strict=True):
        ax.set_xticks([math.log10(d) for d in ticks], [f"{d:,}" for d in ticks])
        ax.set_ylim(-0.05 if ax is drawing.axes[0] else 0, 1.05)
    for line in drawing.axes[1].lines:
        line.set_marker("")
    return drawing
