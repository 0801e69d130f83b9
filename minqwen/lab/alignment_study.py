"""The study of alignment: every stage on a small model in a small world with a true reward.

    1. pretrain once; then, with each seed, SFT, reward models, PPO in eight variants, DPO in two
    2. let every policy answer held-out prompts, and read held-out text of pretraining
    3. write a page with tables, curves, and where it agrees with the reports

What is true and what is only learnt can be told apart here, as a program computes the true reward:
see alignment_world.py. Everything is in one folder: base/ and seed-N/ (see alignment_runs.py),
results.json, and what is made from it: index.html, table.md and the plots. Whatever stops it, the
same call goes on from there.

Paper:    Qwen Technical Report, 3.1 to 3.2.2; Qwen2 Technical Report, Post-training.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..params import Params, count
from ..training.metrics import Metrics
from .alignment_data import Data, prepare_data
from .alignment_measure import Context, Seed, measure_policy, measure_reward_model
from .alignment_report import write_report
from .alignment_runs import train_base, train_seed
from .alignment_settings import POLICIES, PPO_NAMES, REWARD_MODELS, AlignmentSettings
from .frame import begin_measuring, opened
from .results import Results, fingerprint

KIND = "minqwen lab alignment"
CELL = ("seed",)
MEASURING = (  # the code behind a number: packages and files
    "alignment",
    "backend.py",
    "layers",
    "model",
    "lab/alignment_data.py",
    "lab/alignment_measure.py",
    "lab/alignment_runs.py",
    "lab/alignment_world.py",
)
CURVES = ("reward", "kl", "entropy", "value_loss", "explained_variance", "value_clip_fraction",
          "grad_norm", "length", "ended")  # fmt: skip
LOOKED = ("held_out_true", "held_out_learnt", "held_out_kl", "held_out_entropy", "validation_loss")


def alignment_study(
    out: Path,
    settings: AlignmentSettings | None = None,
    *,
    progress: bool = True,
    say: Callable[[str], None] = print,
) -> Results:
    """Train what is not trained, measure what is not measured, and write the report.

    Args:
        out: folder of the study; made if missing. One that holds anything else is refused.
        settings: None takes AlignmentSettings().
        progress: of the training.
        say: is told one line after another.

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
    s = settings or AlignmentSettings()
    with opened(out, KIND, CELL, s.to_dict(), progress) as results:
        data = prepare_data(s)
        config = s.config(data.tokenizer.vocab_size)
        c = Context(out, s, data, config, say, progress)
        say(f"base: {s.base_steps} steps in {out / 'base'}")
        base = train_base(c)
        seeds = [train_seed(c, base, s.seed + i) for i in range(s.seeds)]
        begin_measuring(results, describe(c, seeds), say)
        for trained in seeds:
            measure_seed(results, c, trained)
        say(f"the report: {write_report(out, results)}")
    return results


def measure_seed(results: Results, c: Context, trained: Seed) -> None:
    """Measure every reward model and every policy of a seed."""
    seed = trained.seed
    for name, label in REWARD_MODELS.items():
        if results.get(name, seed) is None:
            results.put(name, seed, {"seed": seed} | measure_reward_model(c, trained, name))
        cell = results.cells[name][str(seed)]
        c.say(f"seed {seed}  {label:<24} {cell['accuracy']:>8.1%} of the held-out pairs")
    c.say(f"seed {seed}  {'':<24} {'true':>8} {'learnt':>8} {'KL':>8} {'format':>8} {'loss':>8}")
    for policy in POLICIES:
        if results.get(policy.name, seed) is None:
            cell = measure_policy(c, trained, trained.policies[policy.name])
            results.put(policy.name, seed, {"seed": seed} | cell)
        cell = results.cells[policy.name][str(seed)]
        values = (cell[key] for key in ("true", "learnt", "kl", "formed", "loss"))
        c.say(f"seed {seed}  {policy.label:<24} " + " ".join(f"{x:>8.3f}" for x in values))


def describe(c: Context, seeds: list[Seed]) -> dict[str, Any]:
    """Return what results.json says about where its numbers come from, and the curves of PPO."""
    params: Params = {}
    for trained in seeds:
        for name, model in (trained.policies | trained.reward_models).items():
            params |= {f"{trained.seed}.{name}.{key}": w for key, w in model.items()}
    data: Data = c.data
    text = np.concatenate([data.stories, data.talk])
    return {
        "settings": c.settings.to_dict(),
        "fingerprint": fingerprint(c.settings.to_dict(), params, text, MEASURING),
        "seeds": [trained.seed for trained in seeds],
        "parameters": count(seeds[0].policies["base"]),
        "vocab_size": data.tokenizer.vocab_size,
        "pretraining_tokens": int(data.rows.shape[0] * c.settings.context_length),
        "held_out_tokens": int(text.shape[0] * c.settings.context_length),
        "held_out_prompts": len(data.held_out),
        "curves": {
            name: {str(t.seed): curves(c.out / f"seed-{t.seed}" / name) for t in seeds}
            for name in PPO_NAMES
        },
        "seconds": sum(
            row.get("seconds", 0.0)
            for path in sorted(c.out.rglob("metrics.jsonl"))
            for row in Metrics.read(path.parent)
        ),
        "machine": f"NumPy {np.__version__}, Python {platform.python_version()}",
    }


def curves(folder: Path) -> dict[str, list[list[float]]]:
    """Return [step, value] of what PPO wrote about its steps, and about its looks."""
    rows = Metrics.read(folder)
    return {
        key: [[row["step"], row[key]] for row in rows if key in row] for key in (*CURVES, *LOOKED)
    }
