"""What the study of alignment writes: a page, tables as Markdown, and plots, from results.json."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import __version__
from ..tour_page import document, image, table
from .alignment_findings import LIMITS, findings, seen
from .alignment_numbers import AlignmentNumbers
from .alignment_plots import draw_calibration, draw_leash, draw_tax, draw_training
from .alignment_settings import POLICIES, REWARD_MODELS
from .page_parts import markdown_table, png, write_file
from .results import Results

ALTS = {
    "training.png": "Learnt and true reward and KL on held-out prompts, as PPO goes on.",
    "leash.png": "Learnt and true reward against KL, for every policy and seed.",
    "tax.png": "True reward against the loss on text of pretraining.",
    "calibration.png": "How often each reward model is right against how often it says so.",
}
CLAIMS = ["the reports say", "they measured", "we measured", "verdict"]
NOTES = (
    "Numbers are means over the seeds ± their standard deviation; of differences, seed by seed, ± "
    "is one standard error of the mean. A difference counts when it has the same sign with every "
    f"seed and is above two of them. {LIMITS}"
)
COLUMNS = (
    "true and learnt: reward, the first computed by a program, the second by the reward model that "
    "PPO was trained against. KL: from SFT, nats an answer. entropy: nats a token. length: tokens. "
    "words: different ones in all answers. same: share of the answers to a prompt that are its "
    "most frequent one. format: ended, a sentence of the world, and of no other person or thing. "
    "flattery: share of the answers with more kind words than are welcome."
)


def write_report(folder: Path, results: Results) -> Path:
    """Write index.html, table.md and the plots; none ever stands there half-written.

    Returns:
        The page.
    """
    n = AlignmentNumbers(results)
    plots = {
        "training.png": png(draw_training(n)),
        "leash.png": png(draw_leash(n)),
        "tax.png": png(draw_tax(n)),
        "calibration.png": png(draw_calibration(n)),
    }
    for name, data in plots.items():
        write_file(folder / name, data)
    write_file(folder / "table.md", markdown(n).encode("utf-8"))
    text = page(n, {name: image(data, ALTS[name]) for name, data in plots.items()})
    write_file(folder / "index.html", text.encode("utf-8"))
    return folder / "index.html"


def within(n: AlignmentNumbers) -> str:
    """Say how sure a true reward is within a seed."""
    most = max(n.values(policy.name, "true_error").max() for policy in POLICIES)
    return f"Within a seed a true reward has a standard error of at most {most:.2f}."


def about(n: AlignmentNumbers) -> str:
    """Return one paragraph: what was trained on what."""
    f, s = n.facts, n.facts["settings"]
    pairs = n.cell("pmp_rm", n.seeds[0])
    return (
        f"A model of {s['num_hidden_layers']} layers and width {s['hidden_size']}, "
        f"{f['parameters']:,} parameters, {f['vocab_size']} ids; pretrained once, "
        f"{s['base_steps']} steps on {f['pretraining_tokens']:,} tokens of stories and of talk "
        f"about the world. Then with each of the seeds {', '.join(map(str, n.seeds))}: "
        f"{s['sft_steps']} steps of SFT on {s['chats']} chats; PMP on about {s['coarse_pairs']} "
        f"coarse pairs, {s['pmp_steps']} steps; a reward model on {pairs['pairs']} pairs, "
        f"{s['reward_steps']} steps; {s['steps']} rollouts of PPO of {s['queries']} queries "
        f"answered twice, the first {s['value_warmup_steps']} for the value model alone; "
        f"{s['dpo_steps']} steps of DPO. Measured on {f['held_out_prompts']} held-out prompts with "
        f"{s['answers_of_a_prompt']} answers each, at temperature 1 and top-p 1; on "
        f"{pairs['held_out_pairs']} held-out pairs; and on {f['held_out_tokens']:,} held-out "
        f"tokens of pretraining. {f['machine']}, minqwen {__version__}."
    )


def reward_rows(n: AlignmentNumbers) -> list[list[str]]:
    """Return the table of reward models, as Table 4 of the report."""
    rows = [["reward model", "held-out pairs ranked right", "calibration error",
             "wrong labels in training"]]  # fmt: skip
    for name, label in REWARD_MODELS.items():
        rows.append([
            label,
            n.percent(name, "accuracy"),
            n.text(name, "calibration_error", 3),
            n.percent(name, "flipped"),
        ])  # fmt: skip
    return rows


def policy_rows(n: AlignmentNumbers) -> list[list[str]]:
    """Return the table of rewards."""
    rows = [["policy", "true", "learnt", "KL", "entropy", "length", "format", "flattery"]]
    for policy in POLICIES:
        name = policy.name
        rows.append([
            policy.label,
            n.text(name, "true"),
            n.text(name, "learnt"),
            n.text(name, "kl", 1),
            n.text(name, "entropy"),
            n.text(name, "length", 1),
            n.percent(name, "formed"),
            n.percent(name, "flattery"),
        ])  # fmt: skip
    return rows


def more_rows(n: AlignmentNumbers) -> list[list[str]]:
    """Return the table of what alignment costs, and of how the answers sound."""
    rows = [["policy", "loss", "of stories", "of talk", "minus SFT", "ended", "words", "same",
             "kind", "rude"]]  # fmt: skip
    for policy in POLICIES:
        name = policy.name
        tax = "" if name == "sft" else n.tax(name).text(3)
        rows.append([
            policy.label,
            n.text(name, "loss", 3),
            n.text(name, "loss_stories", 3),
            n.text(name, "loss_talk", 3),
            tax,
            n.percent(name, "ended"),
            f"{n.mean(name, 'words'):.0f}",
            n.percent(name, "same"),
            n.text(name, "kind"),
            n.text(name, "rude"),
        ])  # fmt: skip
    return rows


def seed_rows(n: AlignmentNumbers) -> list[list[str]]:
    """Return true reward, learnt reward and KL of every seed."""
    rows = [["true / learnt / KL", *(f"seed {seed}" for seed in n.seeds)]]
    for policy in POLICIES:
        cells = (n.cell(policy.name, seed) for seed in n.seeds)
        numbers = [f"{c['true']:.2f} / {c['learnt']:.2f} / {c['kl']:.1f}" for c in cells]
        rows.append([policy.label, *numbers])
    return rows


def answer_rows(n: AlignmentNumbers) -> list[list[str]]:
    """Return some answers of every policy, with the first seed."""
    rows = [["policy", "prompt", "answer"]]
    for policy in POLICIES:
        for prompt, answer in n.cell(policy.name, n.seeds[0])["answers"][:2]:
            rows.append([policy.label, prompt, answer.replace("\n", "⏎")])
    return rows


def markdown(n: AlignmentNumbers) -> str:
    """Return tables and findings as Markdown."""
    lines = ["# Alignment on a small world", "", about(n), ""]
    lines += ["## Reward models", "", *markdown_table(reward_rows(n), " ---: |")]
    lines += ["## Policies", "", *markdown_table(policy_rows(n), " ---: |")]
    lines += [*markdown_table(more_rows(n), " ---: |"), f"{COLUMNS} {within(n)}", ""]
    lines += ["## What was seen", "", *(f"- {text}" for text in seen(n)), ""]
    lines += ["## What the reports say", ""]
    lines += [*markdown_table([CLAIMS, *findings(n)], " --- |"), NOTES, ""]
    lines += ["## Seed by seed", "", *markdown_table(seed_rows(n), " ---: |")]
    rows = [[cell.replace("|", "\\|") for cell in row] for row in answer_rows(n)]
    lines += ["## Answers", "", *markdown_table(rows, " --- |")]
    return "\n".join(lines)


def page(n: AlignmentNumbers, plots: dict[str, str]) -> str:
    """Return the page, with its plots inside."""

    def put(rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> str:
        return table(list(rows[0]), [list(row) for row in rows[1:]], set(numbers))

    def text(words: str) -> str:
        return f"<p>{html.escape(words)}</p>"

    found = findings(n)
    verdicts = [f.verdict for f in found]
    tally = "; ".join(f"{v}: {verdicts.count(v)}" for v in dict.fromkeys(verdicts))
    parts: list[Any] = [
        "<h1>Alignment on a small world</h1>",
        f"<p class=lead>{html.escape(about(n))}</p>",
        "<h2>1 What was seen</h2><ul>",
        *(f"<li>{html.escape(sentence)}</li>" for sentence in seen(n)),
        "</ul><h2>2 Reward models</h2>",
        put(reward_rows(n), range(1, 4)),
        plots["calibration.png"],
        "<h2>3 Policies</h2>",
        put(policy_rows(n), range(1, 8)),
        put(more_rows(n), range(1, 10)),
        text(f"{COLUMNS} {within(n)}"),
        plots["training.png"],
        text("Lines are means over the seeds, shades go from the lowest to the highest seed."),
        plots["leash.png"],
        plots["tax.png"],
        f"<h2>4 What the reports say, and what we saw</h2><p>{tally}.</p>",
        put([CLAIMS, *found]),
        text(NOTES),
        "<h2>5 Seed by seed</h2>",
        put(seed_rows(n), range(1, len(n.seeds) + 1)),
        f"<h2>6 Answers, with seed {n.seeds[0]}</h2>",
        put(answer_rows(n)),
    ]
    return document("minqwen lab alignment", parts)
