"""The page of the study of copies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .dedup_changes import CHANGES, EXACT, TEMPLATE
from .dedup_corpus import SOURCES
from .dedup_findings import findings, percent, shares
from .dedup_measure import ARMS, GROUPS, OFTEN
from .recipe_report import Report, Section, draw_bars, draw_curves, machine, write_pages
from .recipe_study import mean_and_spread, values
from .results import Results


def write_report(folder: Path, results: Results) -> Path:
    """Write the pages; return the first."""
    s = results.facts["settings"]
    tokens = s["base_steps"] * s["base_batch_size"] * s["base_context"]
    found = {key: values(results, "found", key) for key in
             ("documents", "tokens", "held_out_likeness", "precision", "seconds")}  # fmt: skip
    dropped = {arm: percent(values(results, "found", f"dropped.{arm}"))
               for arm in ("exact", "fuzzy")}  # fmt: skip
    about = (
        f"Models of {s['num_hidden_layers']} layers and width {s['hidden_size']}; every one reads "
        f"{tokens:,} tokens once, in rows of {s['base_context']}, from the start of a crawl of "
        f"{np.mean(found['documents']):,.0f} documents and {np.mean(found['tokens']):,.0f} tokens. "
        f"The highest likeness (Jaccard) of a held-out document with any of the crawl is "
        f"{max(found['held_out_likeness']):.2f}. {machine(results)}"
    )
    sections = (
        Section(
            "Losses",
            "Nats a token, means over the seeds, in brackets their standard deviation. Held-out: a "
            "third of each source. Copied: share of the tokens that is no first of a family.",
            _losses(results),
        ),
        Section(
            "What is memorised",
            f"Share of continuations that greedy decoding repeats exactly: {s['answer']} tokens "
            f"after {s['prompt']}. By how often raw reads the document or a copy of it; the "
            "questions are the same for all. Held out: never read by anyone.",
            _memory(results, "share"),
        ),
        Section(
            "Tokens right",
            "The same questions: share of the tokens that are the likeliest, each after the right "
            "ones before it.",
            _memory(results, "tokens"),
        ),
        Section(
            f"What came {OFTEN} times or more",
            "Copies without changes (also in other white space) and with them apart.",
            _often(results),
        ),
        Section(
            "What deduplication found",
            f"By what had been done to the first of the family. Exact drops {dropped['exact']} of "
            f"the tokens of the crawl, exact and fuzzy {dropped['fuzzy']}. Of the documents "
            f"dropped, {percent(found['precision'])} are copies of the one kept. Likeness: mean "
            f"Jaccard with the first. {np.mean(found['seconds']):.0f} s a seed.",
            _found(results),
        ),
    )
    title = "Copies in the training text, small"
    return write_pages(folder, Report(title, about, sections, findings(results), _plots(results)))


def _losses(results: Results) -> list[list[str]]:
    rows = [["arm", "held out", *SOURCES, "its own text", "gap", "copied", "documents"]]
    for arm, label in ARMS.items():
        keys = ["held_out.all", *(f"held_out.{source}" for source in SOURCES), "own", "gap"]
        numbers = [mean_and_spread(values(results, arm, key)) for key in keys]
        documents = f"{np.mean(values(results, arm, 'documents')):,.0f}"
        rows.append([label, *numbers, percent(values(results, arm, "copied")), documents])
    return rows


def _memory(results: Results, what: str) -> list[list[str]]:
    rows = [["times", "questions a seed", *ARMS.values()]]
    for group in GROUPS:
        asked = np.mean(values(results, "raw", f"memory.{group}.prompts"))
        every = [percent(values(results, arm, f"memory.{group}.{what}")) for arm in ARMS]
        rows.append([group, f"{asked:.0f}", *(every if asked else ["-"] * len(ARMS))])
    return rows


def _often(results: Results) -> list[list[str]]:
    kinds = {"exact": "without changes", "near": "with changes"}
    rows = [["arm", *(f"{kind}, {what}" for kind in kinds.values()
                      for what in ("repeated", "tokens right", "loss"))]]  # fmt: skip
    for arm, label in ARMS.items():
        row = [label]
        for kind in kinds:
            share, right, loss = (values(results, arm, f"memory.{kind}.{key}")
                                  for key in ("share", "tokens", "loss"))  # fmt: skip
            row += [percent(share), percent(right), mean_and_spread(loss, 2)]
        rows.append(row)
    return rows


def _found(results: Results) -> list[list[str]]:
    rows = [["change", "planted a seed", "likeness", "found by exact", "by exact + fuzzy"]]
    for change in CHANGES:
        planted = np.mean(shares(results, change, "planted"))
        alike = mean_and_spread(shares(results, change, "likeness"), 2)
        every = (percent(shares(results, change, arm)) for arm in ("exact", "fuzzy"))
        rows.append([change, f"{planted:.0f}", alike, *every])
    return rows


def _plots(results: Results) -> dict[str, tuple[Any, str]]:
    curves = {
        label: [cell["curve"] for _, cell in sorted(results.cells[arm].items())]
        for arm, label in ARMS.items()
    }
    loss = draw_curves([("text that no arm has read", "loss, nats a token", curves)], "step")
    loss.set_size_inches(8, 4.4)
    panels = []
    for what, title in (("share", "repeated word for word"), ("tokens", "tokens right")):
        groups = {
            group: {
                label: values(results, arm, f"memory.{group}.{what}") for arm, label in ARMS.items()
            }
            for group in GROUPS
        }
        panels.append((title, "share", groups))
    memory = draw_bars(panels)
    for axes in memory.axes:
        axes.set_xlabel("how often the raw arm reads the document or a copy")
    memory.set_size_inches(12, 4.4)
    changes = {
        change.replace(" of ", "\nof ").replace(" ", "\n", change in (*EXACT, *TEMPLATE)): {
            "exact": shares(results, change, "exact"),
            "exact + fuzzy": shares(results, change),
        }
        for change in CHANGES
    }
    seen = draw_bars([("copies that deduplication drops", "share of the planted", changes)])
    seen.set_size_inches(9.5, 4.4)
    for axes in (memory.axes[1], seen.axes[0]):
        axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1])  # the room above is for the legend
    return {
        "loss.png": (loss, "Loss on held-out text while the arms are trained."),
        "memory.png": (memory, "Memorised continuations by number of copies."),
        "found.png": (seen, "Share of planted copies that were found, by kind of change."),
    }
