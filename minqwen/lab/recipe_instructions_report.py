"""What the study of instructions in pretraining concludes and writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .findings import AGREES, PARTLY, Finding
from .recipe_instruction_tasks import HELD_OUT, NGRAM, SEEN
from .recipe_report import Report, Section, draw_bars, machine, write_pages
from .recipe_study import difference, mean_and_spread, values, verdict
from .results import Results

LABELS = {"text": "text only", "instructions": "with instructions"}
HOW = {"zero": "zero-shot", "few": "3-shot"}
GROUPS = {"seen": "families in the data", "held_out": "families never seen"}
CHANCE = 0.5
PROMISE = "helps zero-shot and few-shot performance; no numbers"


def findings(results: Results) -> list[Finding]:
    """Return what the numbers say about the claim, for each way to ask.

    A model of text alone can be below chance: it likes short options and frequent words.
    """
    found = []
    for group, where in GROUPS.items():
        for how, asked in HOW.items():
            key = f"{group}.{how}"
            right = values(results, "instructions", key)
            d = difference(right, values(results, "text", key))
            above = difference(right, [CHANCE] * len(right))
            agree = verdict(d.sure)
            if agree == AGREES and above.sure <= 0:
                agree = PARTLY  # better than a model whose habits misled it is not yet able
            claim = f"Instructions in pretraining help {asked}, {where}."
            ours = (
                f"right choices, with them minus without: {d.text(1, percent=True)}; minus "
                f"chance: {above.text(1, percent=True)}"
            )
            found.append(Finding(claim, PROMISE, ours, agree))
    return found


def text_price(results: Results) -> str:
    """Return a sentence about what the instructions cost the text."""
    d = difference(values(results, "instructions", "text"), values(results, "text", "text"))
    return f"Loss of held-out text, with instructions minus without: {d.text()} nats a token."


def write_report(folder: Path, results: Results) -> Path:
    """Write the pages; return the first."""
    s = results.facts["settings"]
    heads = [f"{how}, {where}" for where in GROUPS.values() for how in HOW.values()]
    rows = [["share of right choices", *heads, "text loss"]]
    for arm, label in LABELS.items():
        keys = [f"{group}.{how}" for group in GROUPS for how in HOW]
        shares = (mean_and_spread(values(results, arm, key), 1, percent=True) for key in keys)
        rows.append([label, *shares, mean_and_spread(values(results, arm, "text"))])
    families = [
        ["family", *(f"{label}, {how}" for label in LABELS.values() for how in HOW.values())]
    ]
    for family in (*SEEN, *HELD_OUT):
        shares = (
            mean_and_spread(values(results, arm, f"families.{family}.{how}"), 0, percent=True)
            for arm in LABELS
            for how in HOW
        )
        families.append([family.replace("_", " "), *shares])
    dropped = np.mean(values(results, "instructions", "dropped"))
    tokens = s["base_steps"] * s["base_batch_size"] * s["base_context"]
    about = (
        f"Models of {s['num_hidden_layers']} layers and width {s['hidden_size']}; every one reads "
        f"{tokens:,} tokens in rows of {s['base_context']}. With instructions: "
        f"{100 * s['share']:.0f} % of the tokens. The {NGRAM}-gram filter dropped "
        f"{100 * dropped:.1f} % of the instruction documents. {machine(results)}"
    )
    group_values = {
        f"{how},\n{where}": {
            label: values(results, arm, f"{group}.{short}") for arm, label in LABELS.items()
        }
        for group, where in GROUPS.items()
        for short, how in HOW.items()
    }
    drawing = draw_bars(
        [("choosing between two options", "share right, chance is 0.5", group_values)]
    )
    drawing.set_size_inches(9, 4.4)
    sections = (
        Section("Right choices", f"Of {s['tests']} questions of each family; chance is 50 %. Means "
                f"over the seeds, in brackets their standard deviation. {text_price(results)}",
                rows),
        Section("By family", f"The last {len(HELD_OUT)} families are never in the data.", families),
    )  # fmt: skip
    plots = {"bars.png": (drawing, "Share of right choices by share of instructions.")}
    title = "Instructions in pretraining, small"
    return write_pages(folder, Report(title, about, sections, findings(results), plots))
