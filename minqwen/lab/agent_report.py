"""What the study of tools concludes and writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .findings import Finding
from .recipe_report import Report, Section, draw_bars, machine, write_pages
from .recipe_study import difference, mean_and_spread, values, verdict
from .results import Results

ARMS = {"before": "general chats only", "after": "mixed with traces"}
TESTS = {  # that need a tool
    "sums": "calculator, held-out numbers",
    "longer_sums": "calculator, longer numbers",
    "look_ups": "trained look-ups, held-out things",
    "others": "other trained tools, held-out things",
    "new_look_ups": "held-out look-ups",
    "new_form": "held-out tool, other arguments",
}
SHORT = ("sums", "longer\nsums", "look-\nups", "others", "new\nlook-ups", "new\nform")
TRAINED = ("sums", "look_ups", "others")  # tests of tools that were trained
NEW_FORM, FEW = 0.5, 0.1  # a new form is mastered above; false positives are few below


def findings(results: Results) -> list[Finding]:
    """Return what the numbers say about the claims."""

    def of(arm: str, key: str) -> list[float]:
        return values(results, arm, key)

    def minus(numbers: list[float], limit: float) -> Any:
        return difference(numbers, [limit] * len(numbers))

    chance = 1 / results.facts["settings"]["offered"]
    direct, through = of("before", "plain.sums"), of("after", "sums.right")
    solved = difference(through, direct)
    picked = {
        arm: np.mean([of(arm, f"{test}.selection") for test in TRAINED], axis=0).tolist()
        for arm in ARMS
    }
    trained = difference(picked["after"], picked["before"])
    chosen = of("after", "new_look_ups.selection")
    named = minus(chosen, chance)
    form = minus(of("after", "new_form.exact"), NEW_FORM)
    called = of("after", "no_tool.false_positives")
    few = minus([1 - share for share in called], 1 - FEW)
    discerning = few.sure if trained.sure > 0 else 0  # who never calls a tool is never wrong
    return [
        Finding(
            "A model that learnt to use tools solves what it cannot do itself.",
            "said in 3.4; Table 6: tool selection 98, input 93 (14B), 92 and 89 (1.8B)",
            f"sums with held-out numbers, right: through the calculator "
            f"{mean_and_spread(through, 1, percent=True)}, answered at once by the model without "
            f"traces {mean_and_spread(direct, 1, percent=True)}, difference "
            f"{solved.text(1, percent=True)}",
            verdict(solved.sure),
        ),
        Finding(
            "Self-instructed traces, mixed into fine-tuning, teach which tool to choose.",
            "Table 6, only after it",
            f"right tool of trained ones, mixed minus general only: "
            f"{trained.text(1, percent=True)}",
            verdict(trained.sure),
        ),
        Finding(
            "It chooses tools that fine-tuning has not seen.",
            "said of the benchmark's plug-ins: 98 (14B), 92 (1.8B)",
            f"held-out look-ups: {mean_and_spread(chosen, 1, percent=True)}, "
            f"{named.text(1, percent=True)} against a choice by chance",
            verdict(named.sure),
        ),
        Finding(
            f"It fills in arguments of a form it has not seen (above {100 * NEW_FORM:.0f} %).",
            "ROUGE-L 93 (14B), 89 (1.8B) over all plug-ins",
            f"held-out tool of another form, tool and all arguments right: "
            f"{mean_and_spread(of('after', 'new_form.exact'), 1, percent=True)}; ROUGE-L "
            f"{mean_and_spread(of('after', 'new_form.input'), 1, percent=True)}",
            verdict(form.sure),
        ),
        Finding(
            f"It rarely calls a tool where none is of use (below {100 * FEW:.0f} %).",
            "false positives 2.4 % (14B), 19.3 % (1.8B), 15.0 % (GPT-4)",
            f"{mean_and_spread(called, 1, percent=True)} of small talk with new words; of held-out "
            f"sums {mean_and_spread(of('after', 'sums.called'), 1, percent=True)} call one",
            verdict(discerning),
        ),
    ]


def write_report(folder: Path, results: Results) -> Path:
    """Write the pages; return the first."""
    s = results.facts["settings"]
    head = ["", "selection, before", "after", "input ROUGE-L, before", "after",
            "all arguments right, after", "final answer right, after"]  # fmt: skip
    uses = [head]
    for test, label in TESTS.items():
        columns = [(arm, key) for key in ("selection", "input") for arm in ARMS]
        columns += [("after", "exact"), ("after", "right")]
        uses.append([label, *(_share(results, arm, f"{test}.{key}") for arm, key in columns)])
    sums = [["share right", "held-out numbers", "longer numbers"]]
    for arm, label in ARMS.items():
        for how, key in (("asked alone", "plain.{}"), ("with tools", "{}.right")):
            row = [_share(results, arm, key.format(t)) for t in ("sums", "longer_sums")]
            sums.append([f"{label}, {how}", *row])
    talk = [["small talk with tools in the prompt", *ARMS.values()]]
    for key, label in (("false_positives", "a tool is called"), ("right", "answer right")):
        talk.append([label, *(_share(results, arm, f"no_tool.{key}") for arm in ARMS)])
    reasons = sorted({r for cell in results.cells["samples"].values() for r in cell["dropped"]})
    made = [["samples", "mean over the seeds"]]
    made.append(["kept", mean_and_spread(values(results, "samples", "kept"), 0)])
    for reason in reasons:
        numbers = [cell["dropped"].get(reason, 0) for cell in results.cells["samples"].values()]
        made.append([f"dropped: {reason}", mean_and_spread(numbers, 0)])
    about = (
        f"Models of {s['num_hidden_layers']} layers and width {s['hidden_size']}. Base: "
        f"{s['base_steps']:,} steps of {s['base_batch_size']} rows of {s['base_context']} tokens "
        f"of chats that repeat something. Fine-tuned: {s['steps']} steps of {s['rows']} rows of "
        f"{s['row']} tokens, from {s['samples']:,} samples and {s['general']:,} other chats; "
        f"without samples {s['general_rows']} rows. {machine(results)}"
    )
    sections = (
        Section("Use of tools", f"As in Table 6 of the report. {s['sums']} sums, {s['tests']} "
                f"questions of every other kind, {s['offered']} tools offered; by chance the right "
                f"one is chosen {100 / s['offered']:.0f} % of the time. Greedy; means over the "
                "seeds, in brackets their standard deviation. Before: without traces; after: with "
                "them. Both learn the parts of using a tool in general chats: to pick one from a "
                "list, and to write arguments as JSON. Only traces put the parts together.", uses),
        Section("Sums", "The same questions, asked alone and with tools to run.", sums),
        Section("No tool needed", f"{s['tests']} questions.", talk),
        Section("What self-instruct kept", "A grammar wrote the samples, about a third with a "
                "fault; see lab/agent_writer.py. Overlap: ROUGE-L F of 0.9 or more, not 0.7 as "
                "in the paper, as sums in the same words with other numbers are new here.", made),
    )  # fmt: skip
    selection = {
        short: {label: values(results, arm, f"{test}.selection") for arm, label in ARMS.items()}
        for test, short in zip(TESTS, SHORT, strict=True)
    }
    solved = {
        what: {
            "at once, general chats only": values(results, "before", f"plain.{test}"),
            "at once, mixed with traces": values(results, "after", f"plain.{test}"),
            "through the calculator": values(results, "after", f"{test}.right"),
        }
        for what, test in (("held-out numbers", "sums"), ("longer numbers", "longer_sums"))
    }
    drawing = draw_bars(
        [("right tool chosen", "share", selection), ("sums solved", "share right", solved)]
    )
    plots = {"tools.png": (drawing, "Right tools before and after, and sums solved.")}
    report = Report("Tools, small", about, sections, findings(results), plots)
    return write_pages(folder, report)


def _share(results: Results, arm: str, key: str) -> str:
    return mean_and_spread(values(results, arm, key), 1, percent=True)
