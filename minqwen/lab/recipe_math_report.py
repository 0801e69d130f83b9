"""What the study of Math-Qwen's recipe concludes and writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .findings import Finding
from .recipe_math_tasks import KINDS
from .recipe_report import Report, Section, draw_curves, machine, write_pages
from .recipe_study import difference, mean_and_spread, values, verdict
from .results import Results

LABELS = {
    "base": "base, not fine-tuned",
    "answers": "loss on answers",
    "everything": "loss on everything",
}
TESTS = {
    "seen": "questions of the training set",
    "new_numbers": "held-out numbers",
    "new_words": "held-out numbers and words",
}


def curves(results: Results, arm: str, column: int) -> list[list[list[float]]]:
    """Return [step, value] of every look, for every seed; column 1 is accuracy, 2 is loss."""
    cells = sorted(results.cells[arm].items(), key=lambda item: int(item[0]))
    return [[[look[0], look[column]] for look in cell["curve"]] for _, cell in cells]


def over_looks(results: Results, arm: str, column: int) -> list[float]:
    """Return the mean over the looks, of every seed: large accuracy early makes it large."""
    return [float(np.mean([y for _, y in seed])) for seed in curves(results, arm, column)]


def reached(results: Results, arm: str, share: float) -> str:
    """Return at which look each seed first reached a share of right answers."""
    found = []
    for seed in curves(results, arm, 1):
        steps = [step for step, y in seed if y >= share]
        found.append(f"{steps[0]:.0f}" if steps else "never")
    return ", ".join(found)


def findings(results: Results) -> list[Finding]:
    """Return what the numbers say about the claims."""
    gain = difference(
        values(results, "answers", "tests.new_numbers.all"),
        values(results, "base", "tests.new_numbers.all"),
    )
    words = difference(
        values(results, "answers", "tests.new_words.all"),
        values(results, "base", "tests.new_words.all"),
    )
    faster = difference(over_looks(results, "answers", 1), over_looks(results, "everything", 1))
    loss = difference(over_looks(results, "everything", 2), over_looks(results, "answers", 2))
    end = difference(
        values(results, "answers", "tests.new_numbers.all"),
        values(results, "everything", "tests.new_numbers.all"),
    )
    signs = {faster.sure, loss.sure}
    both = signs.pop() if len(signs) == 1 else 0
    return [
        Finding(
            "Fine-tuning on exam questions makes a base model solve such questions.",
            "GSM8K 62.5 instead of 50.3 (7B, against Qwen-Chat; base 51.7)",
            f"right, fine-tuned minus base: held-out numbers {gain.text(1, percent=True)}, "
            f"held-out words too {words.text(1, percent=True)}",
            verdict(gain.sure),
        ),
        Finding(
            "Masking the question speeds up convergence.",
            "said in 5.1, without numbers",
            f"loss on answers minus loss on everything, mean over the looks: right answers "
            f"{faster.text(1, percent=True)}; loss of held-out answers, the other way round, "
            f"{loss.text()} nats; right answers at the end {end.text(1, percent=True)}",
            verdict(both),
        ),
    ]


def write_report(folder: Path, results: Results) -> Path:
    """Write the pages; return the first."""
    s = results.facts["settings"]
    shares = [["share right", *TESTS.values()]]
    for arm, label in LABELS.items():
        row = [mean_and_spread(values(results, arm, f"tests.{test}.all"), 1, percent=True)
               for test in TESTS]  # fmt: skip
        shares.append([label, *row])
    kinds = [["kind of question", *(f"{LABELS['answers']}: {TESTS[t]}" for t in TESTS)]]
    for kind in KINDS:
        row = [_kind(results, test, kind) for test in TESTS]
        kinds.append([kind.replace("_", " "), *row])
    looks: list[list[str]] = [["step", *(f"{LABELS[a]}, {w}" for a in ("answers", "everything")
                                         for w in ("right", "loss"))]]  # fmt: skip
    columns = {
        (arm, c): curves(results, arm, c) for arm in ("answers", "everything") for c in (1, 2)
    }
    for i, (step, _) in enumerate(columns["answers", 1][0]):
        row = [
            mean_and_spread([seed[i][1] for seed in columns[arm, c]], 1 if c == 1 else 3,
                            percent=c == 1)
            for arm, c in columns
        ]  # fmt: skip
        looks.append([f"{step:.0f}", *row])
    half = "; ".join(
        f"{LABELS[arm]}: {reached(results, arm, 0.5)}" for arm in ("answers", "everything")
    )
    about = (
        f"Models of {s['num_hidden_layers']} layers and width {s['hidden_size']}. Base: "
        f"{s['base_steps']} steps of {s['base_batch_size']} rows of {s['base_context']} of "
        f"bilingual stories and plain sums. Fine-tuned: {s['steps']} steps of "
        f"{s['sft_batch_size']} chats out of {s['problems']:,}. {machine(results)}"
    )
    drawing = draw_curves(
        [
            (title, label, {LABELS[arm]: columns[arm, c] for arm in ("answers", "everything")})
            for c, title, label in (
                (1, "held-out numbers", "share of right answers"),
                (2, "right answers of these questions", "loss (nats a token)"),
            )
        ],
        "step of fine-tuning",
    )
    sections = (
        Section("Right answers", f"Of {s['tests']} questions each, greedy, at the end. Means over "
                "the seeds, in brackets their standard deviation.", shares),
        Section("While they learn", "Held-out numbers: share of right answers, and loss of the "
                f"tokens of right answers. Half of the answers were first right at step, for each "
                f"seed: {half}.", looks),
        Section("By kind", "Loss on answers, at the end.", kinds),
    )  # fmt: skip
    plots = {"curves.png": (drawing, "Right answers and loss over the steps, for both losses.")}
    report = Report("The recipe of Math-Qwen, small", about, sections, findings(results), plots)
    return write_pages(folder, report)


def _kind(results: Results, test: str, kind: str) -> str:
    cells: list[dict[str, Any]] = [
        cell["tests"][test] for cell in results.cells["answers"].values()
    ]
    numbers = [cell[kind] for cell in cells if kind in cell]  # a small test may lack a kind
    return mean_and_spread(numbers, 0, percent=True) if numbers else "none"
