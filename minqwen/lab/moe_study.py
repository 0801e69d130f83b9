"""The study of experts: dense, experts from scratch, and upcycled, on the same tokens.

    1. train them, at equal activated parameters     see moe_settings.py, moe_runs.py
    2. read validation rows of known source          who reads what: moe_measure.py
    3. write a page with the curves, the load, the specialisation, and what was seen

Everything is in one folder: runs/ and starts/ (each as in training/run_folder.py), results.json,
and what is made from it: index.html, table.md and the plots. Whatever stops it, the same call goes
on from there.

Paper:    Qwen2 Technical Report, 2.2.2 Qwen2 Mixture-of-experts Model.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..params import Params
from ..training.adamw import AdamWState
from .frame import begin_measuring, opened
from .moe_facts import describe
from .moe_measure import measure_run
from .moe_report import write_report
from .moe_runs import (
    fresh_params,
    load_start,
    run_config,
    time_steps,
    train,
    train_dense,
)
from .moe_settings import BY_NAME, RUNS, MoeSettings, Run
from .moe_text import SOURCES, SourcedText, prepare_text
from .results import Results

KIND = "minqwen lab moe"
CELL = ("nll", "by_row", "routing", "seconds")


def moe_study(
    out: Path,
    settings: MoeSettings | None = None,
    *,
    progress: bool = True,
    say: Callable[[str], None] = print,
    device: str = "cpu",
) -> Results:
    """Train what is not trained, measure what is not measured, and write the report.

    Args:
        out: folder of the study; made if missing. One that holds anything else is refused.
        settings: None takes MoeSettings().
        progress: of the training.
        say: is told one line after another.
        device: "cpu" or "cuda".

    Returns:
        The results, complete.

    Raises:
        ImportError: a package of the extra `run` is missing; before any work.
        FileExistsError: out is a file, or holds something else.
        ValueError: a file in out is damaged, or it is a study of other settings; use another out.
        OSError: out cannot be written, or another process works in it.
        FloatingPointError: a loss became NaN or infinite.
        KeyboardInterrupt: everything that was finished is kept.
    """
    settings = settings or MoeSettings()
    with opened(out, KIND, CELL, settings.to_dict(), progress) as results:
        text = prepare_text(settings)
        models = train_all(out, settings, text, say, progress, device)
        begin_measuring(results, describe(out, settings, text, models), say)
        measure_all(results, out, settings, text, models, say)
        say(f"the report: {write_report(out, results)}")
    return results


def train_all(
    out: Path,
    settings: MoeSettings,
    text: SourcedText,
    say: Callable[[str], None],
    progress: bool,
    device: str,
) -> dict[str, Params]:
    """Train every run to its end; return their parameters."""
    kept: list[tuple[Params, AdamWState]] = []

    def dense() -> tuple[Params, AdamWState]:
        if not kept:  # both upcycled runs need it
            say(f"the first {settings.upcycle_step} steps of the dense model again, to be cut")
            kept.append(train_dense(BY_NAME["dense"], settings, text, device))
        return kept[0]

    models = {}
    for run in RUNS:
        first = f"steps {settings.upcycle_step} to " if run.upcycled else ""
        say(f"{run.label}: {first}{settings.steps} steps in {out / 'runs' / run.name}")
        models[run.name] = train(out, run, settings, text, dense, progress=progress, device=device)
    return models


def measure_all(
    results: Results,
    out: Path,
    settings: MoeSettings,
    text: SourcedText,
    models: dict[str, Params],
    say: Callable[[str], None],
) -> None:
    """Measure every model at its end, and those with experts at their start."""
    say(
        f"{'loss on text never seen':<32}" + "".join(f"{s:>17}" for s in ("all", *SOURCES.values()))
    )
    if any(results.get(run.name, "end") is None for run in RUNS):
        configs = {run.name: run_config(run, settings, text) for run in RUNS}
        seconds = time_steps({n: (configs[n], models[n]) for n in models}, settings, text)
    for run in RUNS:
        config = run_config(run, settings, text)
        if run.sparse and results.get(run.name, "start") is None:
            start = start_params(out, run, settings, text)
            results.put(run.name, "start", measure_run(start, config, text))
        if results.get(run.name, "end") is None:
            cell = measure_run(models[run.name], config, text)
            results.put(run.name, "end", cell | {"step_seconds": seconds[run.name]})
        losses = np.array(results.cells[run.name]["end"]["by_row"])
        values = [losses.mean(), *(losses[text.sources == i].mean() for i in range(len(SOURCES)))]
        say(f"{run.label:<32}" + "".join(f"{value:>17.3f}" for value in values))


def start_params(out: Path, run: Run, settings: MoeSettings, text: SourcedText) -> Params:
    """Return the first parameters of a run with experts."""
    return load_start(out, run)[0] if run.upcycled else fresh_params(run, settings, text)
