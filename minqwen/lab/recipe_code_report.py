"""What the study of Code-Qwen's recipe concludes and writes."""

from __future__ import annotations

from pathlib import Path

from .findings import AGREES, PARTLY, Finding
from .recipe_report import Report, Section, draw_bars, machine, write_pages
from .recipe_study import difference, mean_and_spread, values, verdict
from .results import Results

LABELS = {"nothing": "not continued", "mixed": "code and text", "code_only": "code only"}
TUNED = {
    "nothing_two": "not continued, two stages",
    "mixed_two": "code and text, two stages",
    "mixed_one": "code and text, one stage",
}
LOSSES = {"code_long": "code, long rows", "code_short": "code, short rows", "text": "text"}
SHARES = {
    "parses": "parses",
    "right": "right",
    "new_parses": "parses, new pairs",
    "new": "right, new pairs",
    "general": "general chats right",
}


def findings(results: Results) -> list[Finding]:
    """Return what the numbers say about the claims."""

    def gap(better: str, worse: str, key: str, other: str | None = None) -> tuple[str, int]:
        d = difference(values(results, worse, other or key), values(results, better, key))
        return d.text(), d.sure

    def shares(one: str, other: str, key: str) -> tuple[str, int]:
        d = difference(values(results, one, key), values(results, other, key))
        return d.text(1, percent=True), d.sure

    code, code_sign = gap("mixed", "nothing", "code_long")
    text, text_sign = gap("mixed", "code_only", "text")
    forgot, _ = gap("nothing", "code_only", "text")
    kept, _ = gap("nothing", "mixed", "text")
    price, _ = gap("code_only", "mixed", "code_long")
    long, long_sign = gap("mixed", "mixed", "code_long", "code_short")
    before, _ = gap("nothing", "nothing", "code_long", "code_short")
    new, new_sign = shares("mixed_two", "nothing_two", "new")
    seen, _ = shares("mixed_two", "nothing_two", "right")
    stages, stages_sign = shares("mixed_two", "mixed_one", "new")
    stages_seen, _ = shares("mixed_two", "mixed_one", "right")
    general, general_sign = shares("mixed_two", "mixed_one", "general")
    staged = verdict(stages_sign)
    if staged == AGREES and general_sign < 0:
        staged = PARTLY  # better at code, and the first stage forgotten
    return [
        Finding(
            "Continued pretraining on code and text makes a better model of code.",
            "90 billion tokens; HumanEval 40.2 instead of 29.9 (7B)",
            f"loss of held-out code without it minus with it: {code} nats",
            verdict(code_sign),
        ),
        Finding(
            "Text belongs into the mixture, so that what was learnt before is kept.",
            "a mixture of text and code, without a comparison",
            f"text loss of code only minus mixed: {text}; above the base: {forgot} and {kept}. "
            f"Price of the text, code loss of mixed minus code only: {price}",
            verdict(text_sign),
        ),
        Finding(
            "The context is grown, so that the model uses long inputs.",
            "8192 instead of 2048 tokens, without a comparison",
            f"the same code tokens, in short rows minus in long rows: {long}; of the base, which "
            f"never read so far: {before}",
            verdict(long_sign),
        ),
        Finding(
            "Continued pretraining helps the fine-tuned model to write functions.",
            "HumanEval 43.3 after the fine-tuning, 40.2 before it (7B)",
            f"right, new pairs of steps: {new}; pairs that it was shown: {seen}",
            verdict(new_sign),
        ),
        Finding(
            "Fine-tuning in stages is better than in one.",
            "used, after exploring strategies; no numbers, and the stages are not named",
            f"two stages minus one, right on new pairs: {stages}; shown pairs: {stages_seen}; "
            f"general chats: {general}",
            staged,
        ),
    ]


def write_report(folder: Path, results: Results) -> Path:
    """Write the pages; return the first."""
    s = results.facts["settings"]
    losses = [["loss (nats a token)", *LOSSES.values()]]
    for arm, label in LABELS.items():
        losses.append([label, *(mean_and_spread(values(results, arm, key)) for key in LOSSES)])
    tuned = [["share of answers", *SHARES.values()]]
    for arm, label in TUNED.items():
        shares = (mean_and_spread(values(results, arm, key), 1, percent=True) for key in SHARES)
        tuned.append([label, *shares])
    about = (
        f"Models of {s['num_hidden_layers']} layers and width {s['hidden_size']}. Base: "
        f"{s['base_steps']} steps of {s['base_batch_size']} rows of {s['base_context']} of the "
        f"language reference and stories. Continued: {s['steps']} steps of {s['batch_size']} rows "
        f"of {s['long_context']}, 3 % warm-up, then no decay. Fine-tuned: {s['general_steps']} "
        f"steps of general chats and {s['code_steps']} of requests for functions, "
        f"{s['sft_batch_size']} chats a step. {machine(results)}"
    )
    groups = {
        label: {LABELS[arm]: values(results, arm, key) for arm in LABELS}
        for key, label in LOSSES.items()
    }
    bars = {
        label: {TUNED[arm]: values(results, arm, key) for arm in TUNED}
        for key, label in (("right", "shown pairs"), ("new", "new pairs"), ("general", "general"))
    }
    drawing = draw_bars([
        ("continued pretraining", "loss (nats a token)", groups),
        ("after fine-tuning", "share of right answers", bars),
    ])  # fmt: skip
    sections = (
        Section("Losses", "Means over the seeds, in brackets their standard deviation. Long and "
                f"short rows, {s['long_context']} and {s['base_context']} tokens, ask for the same "
                "code tokens.", losses),
        Section("Answers", f"Of {s['tests']} requests of each kind, greedy. New pairs: both steps "
                "of the function were shown, never together. Right: the syntax tree of the "
                "expected answer.", tuned),
    )  # fmt: skip
    plots = {"bars.png": (drawing, "Losses of the continued models, answers of the fine-tuned.")}
    report = Report("The recipe of Code-Qwen, small", about, sections, findings(results), plots)
    return write_pages(folder, report)
