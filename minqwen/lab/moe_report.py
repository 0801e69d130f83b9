"""What the study of experts writes: a page, tables as Markdown, and plots, from results.json."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import __version__
from ..tour_page import document, image, table
from .moe_findings import LIMITS, findings, nats, seen, share
from .moe_numbers import DENSE, SCRATCH, UPCYCLED, MoeNumbers, source_names
from .moe_plots import SPARSE, draw_load, draw_loss, draw_special, draw_told
from .moe_settings import BY_NAME, RUNS
from .moe_text import KINDS
from .page_parts import markdown_table, png, write_file
from .results import Results

ALTS = {
    "loss.png": "Validation loss of all runs, the difference to dense, and loss against time.",
    "load.png": "Share of every expert over time, for each layer and run.",
    "sources.png": "Which expert reads which source, from scratch and upcycled.",
    "kinds.png": "Which expert reads which kind of token, from scratch and upcycled.",
    "told.png": "How much the choice of an expert tells about source and kind, by layer.",
}
SHORT = ("Python", "prose", "English", "Chinese")  # the sources, where there is little room
CLAIMS = ["others say", "they measured", "we measured", "verdict"]
NOTES = (
    "± is one standard error of the difference over the validation rows. A difference of losses "
    "counts when it is above two of them and above the largest difference of two dense runs with "
    "other first numbers, at any look in the second half. That is one pair: it may be small by "
    "luck, and only what another seed shows too should be believed. Shares "
    "that the router tells have no error here: compare two seeds before you believe a small "
    f"difference. {LIMITS}"
)


def write_report(folder: Path, results: Results) -> Path:
    """Write index.html, table.md and the plots; none ever stands there half-written.

    Returns:
        The page.
    """
    n = MoeNumbers(results)
    plots = {
        "loss.png": png(draw_loss(n)),
        "load.png": png(draw_load(n)),
        "sources.png": png(draw_special(n, "source")),
        "kinds.png": png(draw_special(n, "kind")),
        "told.png": png(draw_told(n)),
    }
    for name, data in plots.items():
        write_file(folder / name, data)
    write_file(folder / "table.md", markdown(n).encode("utf-8"))
    text = page(n, {name: image(data, ALTS[name]) for name, data in plots.items()})
    write_file(folder / "index.html", text.encode("utf-8"))
    return folder / "index.html"


def about(n: MoeNumbers) -> str:
    """Return one paragraph: what was trained on what."""
    s, t, sizes = n.facts["settings"], n.facts["text"], n.facts["sizes"]
    dense, sparse = sizes["dense"], sizes["sparse"]
    F = s["num_experts_per_tok"] * s["moe_intermediate_size"] + s["shared_expert_intermediate_size"]
    return (
        f"Models of {s['num_hidden_layers']} layers and width {s['hidden_size']}. Dense: one "
        f"network of width {F} a layer, {dense['parameters']:,} parameters. Experts: "
        f"{s['num_experts']} of width {s['moe_intermediate_size']}, of which "
        f"{s['num_experts_per_tok']} work on a token, and a shared one of width "
        f"{s['shared_expert_intermediate_size']}: {sparse['parameters']:,} parameters, "
        f"{sparse['activated']:,} of them activated. That is {dense['activated']:,} as in the "
        f"dense model, and {sparse['routing']:,} of the routers and the shared experts' gates. "
        "Weights of the chosen are made to sum to 1, but for the last run; balance loss times "
        f"{s['router_aux_loss_coef']:g}, f sums to K, by layer. Each run reads the same "
        f"{t['trained_tokens']:,} tokens in the same order (a corpus of {t['tokens']:,}, "
        f"{len(source_names())} sources alike): {s['steps']} steps of {s['batch_size']} rows of "
        f"{s['context_length']}. Upcycled: the dense model after {n.facts['upcycle_step']} steps, "
        "cut into experts, then the other steps with the same rows and rates. Losses are over "
        f"{t['validation_tokens']:,} tokens of documents that nothing was trained on. Seed "
        f"{s['seed']}. {n.facts['machine']}, minqwen {__version__}."
    )


def loss_rows(n: MoeNumbers) -> list[list[str]]:
    """Return the table of losses: head, and a row for each run."""
    heads = ["loss (nats a token)", "all", *SHORT, "minus dense", "ms a step"]
    rows = [heads]
    for run in RUNS:
        losses = [n.loss(run.name), *(n.loss(run.name, i) for i in range(len(source_names())))]
        rest = "" if run.name == DENSE else nats(n.gain(run.name, DENSE))
        time = f"{1000 * n.cell(run.name)['step_seconds']:.0f}"
        rows.append([run.label, *(f"{loss:.3f}" for loss in losses), rest, time])
    return rows


def use_rows(n: MoeNumbers) -> list[list[str]]:
    """Return the table of how the experts are used, at the end of the runs."""
    rows = [["experts", "busiest", "idle", "as evenly used", "source", "kind", "by token"]]
    count = n.num_experts * n.facts["settings"]["num_hidden_layers"]
    for name in SPARSE:
        busiest, idle, effective = n.uneven(name)
        told = [n.told(name), n.told(name, "kind"), n.by_token(name)]
        rows.append([BY_NAME[name].label, f"{busiest:.2f}", f"{idle} of {count}",
                     f"{effective:.1f} of {n.num_experts}", *map(share, told)])  # fmt: skip
    for name in (SCRATCH, UPCYCLED):
        told = [n.told(name, what, "start") for what in ("source", "kind")]
        label = f"{BY_NAME[name].label}, before training"
        rows.append([label, "", "", "", *map(share, told), share(n.by_token(name, "start"))])
    return rows


USE = (
    "busiest: times an even share. idle: below a tenth of an even share. as evenly used: so many, "
    "evenly used, would have the same entropy. source, kind: how much of it the choice of an "
    "expert tells. by token: how much of what is told about the source the token alone explains."
)


def receipt_rows(n: MoeNumbers) -> list[list[str]]:
    """Return the receipts: how far the outputs moved in each step of the cut."""
    rows = [["", "all experts together", "as routed", "half drawn anew"]]
    receipt = n.facts["receipts"][UPCYCLED]
    for layer in receipt["layers"]:
        rows.append(
            [f"layer {layer['layer']}", *(f"{layer[k]:.3f}" for k in ("cut", "routed", "new"))]
        )
    losses = receipt["losses"]
    if losses is not None:
        rows.append([f"loss ({receipt['probe_tokens']:,} tokens; dense {losses['dense']:.3f})", "",
                     f"{losses['routed']:.3f}", f"{losses['new']:.3f}"])  # fmt: skip
    return rows


def receipt_text(n: MoeNumbers) -> str:
    """Return what the receipt says about the cut itself."""
    receipt = n.facts["receipts"][UPCYCLED]
    cut, (routed, shared) = receipt["cut"], receipt["w_down_factors"]
    return (
        f"{cut['copies']} copies of the dense network, {cut['per_copy']:g} experts from a copy, "
        f"{cut['dropped']} columns left over, {cut['straddling']} experts from two copies; w_down "
        f"times {routed:g} and {shared:g} (shared). The numbers are |y - dense| / |dense| of a "
        "layer's output."
    )


def expert_rows(n: MoeNumbers, run: str, most: int = 6) -> list[list[str]]:
    """Return the experts of a run whose tokens are the most unlike all others, and these tokens."""
    rows = [["layer, expert", "load", "source", "kind", "tokens it gets more than others do"]]
    for x in n.most_special(run, most):
        (source, part, times), (kind, kind_part, kind_times) = x["source"], x["kind"]
        tokens = " ".join(f"‹{visible(token)}›" for token in x["tokens"])
        rows.append([
            f"{x['layer']}, {x['expert']}",
            f"{x['share'] * n.num_experts:.1f}",
            f"{source_names()[source]} {share(part)} (times {times:.1f})",
            f"{KINDS[kind]} {share(kind_part)} (times {kind_times:.1f})",
            tokens,
        ])  # fmt: skip
    return rows


def visible(token: str) -> str:
    """Show spaces and line breaks as signs.

    >>> visible(" the\\n")
    '␣the⏎'
    """
    return token.replace("\r", "␍").replace("\n", "⏎").replace("\t", "⇥").replace(" ", "␣")


def markdown(n: MoeNumbers) -> str:
    """Return tables and findings as Markdown."""
    lines = ["# Experts: dense, from scratch, upcycled", "", about(n), ""]
    lines += [*markdown_table(loss_rows(n), " ---: |"), "## What was seen", ""]
    lines += [*(f"- {text}" for text in seen(n)), "", "## What others say", ""]
    lines += [*markdown_table([CLAIMS, *findings(n)], " --- |"), NOTES, ""]
    lines += ["## Use of the experts", "", *markdown_table(use_rows(n), " ---: |"), USE, ""]
    lines += ["## The cut", "", receipt_text(n), "", *markdown_table(receipt_rows(n), " ---: |")]
    for run in (SCRATCH, UPCYCLED):
        rows = [[cell.replace("|", "\\|") for cell in row] for row in expert_rows(n, run)]
        lines += [f"## The most special experts, {BY_NAME[run].label}", ""]
        lines += markdown_table(rows, " --- |")
    return "\n".join(lines)


def page(n: MoeNumbers, plots: dict[str, str]) -> str:
    """Return the page, with its plots inside."""

    def put(rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> str:
        return table(list(rows[0]), [list(row) for row in rows[1:]], set(numbers))

    def text(words: str) -> str:
        return f"<p>{html.escape(words)}</p>"

    found = findings(n)
    verdicts = [f.verdict for f in found]
    count = "; ".join(f"{v}: {verdicts.count(v)}" for v in dict.fromkeys(verdicts))
    losses, use, cut = loss_rows(n), use_rows(n), receipt_rows(n)
    parts: list[Any] = [
        "<h1>Experts: dense, from scratch, upcycled</h1>",
        f"<p class=lead>{html.escape(about(n))}</p>",
        "<h2>1 What was seen</h2><ul>",
        *(f"<li>{html.escape(sentence)}</li>" for sentence in seen(n)),
        "</ul><h2>2 Loss</h2>",
        put(losses, range(1, len(losses[0]))),
        plots["loss.png"],
        text("All runs saw the same text in the same order. Grey is where nothing can be told "
             f"apart: the {n.noise:.3f} by which two dense runs differ in the second half."),
        "<h2>3 The cut into experts</h2>",
        text(receipt_text(n)),
        put(cut, range(1, len(cut[0]))),
        "<h2>4 Who gets the tokens</h2>",
        put(use, range(1, len(use[0]))),
        text(USE),
        plots["load.png"],
        text("A line is an expert, the busiest at the end on top; white is an even share. An "
             "upcycled run begins where the dense model is cut."),
        "<h2>5 Who reads what</h2>",
        text("For each expert, how much more of a source is among its tokens than among all. In "
             "brackets its load, 1 = even. Experts are sorted by the source that they read most."),
        plots["sources.png"],
        plots["kinds.png"],
        text("How much of a source, or of a kind, is told by the choice of one expert: 0 % = the "
             "experts read alike, 100 % = the expert gives it away."),
        plots["told.png"],
    ]  # fmt: skip
    for run in (SCRATCH, UPCYCLED):
        parts += [
            f"<p><b>the most special experts, {BY_NAME[run].label}</b></p>",
            put(expert_rows(n, run), (1,)),
        ]
    parts += [
        f"<h2>6 What others say, and what we saw</h2><p>{count}.</p>",
        put([CLAIMS, *found]),
        text(NOTES),
    ]
    return document("minqwen lab moe", parts)
