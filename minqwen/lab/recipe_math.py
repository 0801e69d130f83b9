"""The recipe of Math-Qwen, small: fine-tuning on exam questions with worked steps.

    base         stories that count something, in English and Chinese, and plain sums with steps
    answers      fine-tuned, loss on the answers only
    everything   fine-tuned on the same chats in the same order, loss on all tokens

Both are looked at many times while they learn, so that one sees which is faster. A question counts
as right when the answer ends in the right result (greedy). Three tests: numbers and words as in
training; held-out numbers; held-out numbers in held-out words. See recipe_math_tasks.py.

A row may be as long as the report's, 1024 tokens; a batch is cut to its longest chat.

Paper:    Qwen Technical Report, 5 Math-Qwen: directly fine-tuned, length 1024, system and user
          inputs masked, which speeds up convergence; peak rate 2e-5, 50,000 steps.
Differs:  steps, batch and rate are ours; see MATH_SFT for the report's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..alignment.settings import REPORT_SFT, SftSettings
from ..alignment.sft import evaluate_chats
from ..alignment.sft_rows import chats_to_rows
from ..backend import Array
from ..data.corpora import bilingual_stories
from ..params import Params
from ..training.accumulate import Batch
from ..training.settings import require_in
from .recipe_math_report import write_report
from .recipe_math_tasks import Problem, make_drills, make_problems, right_result
from .recipe_study import (
    RecipeSettings,
    Text,
    answers,
    chat_of,
    fine_tuned,
    make_tokenizer,
    packed,
    pretrained,
    run_study,
    three_percent,
)
from .results import Results

KIND = "minqwen lab math"
CELL = ("curve", "tests")
OWN = ("lab/recipe_math.py", "lab/recipe_math_tasks.py")
ARMS = ("answers", "everything")
LENGTH = 1024  # the report's
MATH_SFT = replace(  # the report's numbers; batch, warm-up and the rest are those of its SFT
    REPORT_SFT, steps=50_000, context_length=LENGTH, peak_lr=2e-5
)


@dataclass(frozen=True)
class MathSettings(RecipeSettings):
    """The settings of the study.

    >>> MathSettings(steps=10, looks=20)
    Traceback (most recent call last):
    ...
    ValueError: looks must be at most steps=10, got 20
    """

    vocab_size: int = 640
    base_steps: int = 700
    stories: int = 900
    drills: int = 6000  # plain sums in the text of the base
    steps: int = 450  # of fine-tuning
    looks: int = 6  # while it learns
    sft_batch_size: int = 32
    sft_lr: float = 6e-3
    problems: int = 6000
    tests: int = 60  # questions of each test

    def __post_init__(self) -> None:
        """Check the stages too."""
        super().__post_init__()
        fits = self.looks <= self.steps
        require_in(self, "looks", fits, f"at most steps={self.steps}")
        self.tuning(0, self.steps)

    def tuning(self, seed: int, steps: int) -> SftSettings:
        """Return the settings of fine-tuning up to a step; the warm-up is that of all steps."""
        return SftSettings(
            steps=steps,
            batch_size=self.sft_batch_size,
            context_length=LENGTH,
            peak_lr=self.sft_lr,
            warmup_steps=min(steps, three_percent(self.steps)),
            dropout=0.0,
            seed=seed,
            checkpoint_every=self.steps,
            eval_every=0,
        )

    @property
    def look_steps(self) -> list[int]:
        """Steps at which the models are looked at."""
        return [self.steps * (i + 1) // self.looks for i in range(self.looks)]


QUICK = MathSettings(
    hidden_size=32,
    num_hidden_layers=2,
    vocab_size=420,
    seeds=1,
    base_steps=20,
    base_batch_size=4,
    base_context=64,
    stories=100,
    drills=300,
    steps=40,
    looks=2,
    sft_batch_size=8,
    problems=200,
    tests=10,
)  # shows what the page looks like; its numbers mean nothing


class MathData(NamedTuple):
    text: Text
    rows: Array  # of the base
    tests: dict[str, list[Problem]]


def prepare(settings: MathSettings) -> MathData:
    """Lay out stories and tests, which do not depend on the seeds."""
    s, rng = settings, np.random.default_rng([14])
    tests = {
        "new_numbers": make_problems(s.tests, rng, new_numbers=True),
        "new_words": make_problems(s.tests, rng, new_numbers=True, new_words=True),
    }
    stories = bilingual_stories(s.stories, seed=0)
    lines = make_drills(s.drills, rng)
    drills = ["\n".join(lines[i : i + 10]) + "\n" for i in range(0, len(lines), 10)]
    sample = [f"{p.question}\n{p.answer}" for p in training_problems(s, 0)[:1000]]
    text = make_tokenizer([*stories[:300], *drills[:30], *sample], s)
    return MathData(text, packed(text, [*stories, *drills], s.base_context, 0), tests)


def training_problems(settings: MathSettings, seed: int) -> list[Problem]:
    """Return the questions of a seed; none holds a held-out fact or template."""
    rng = np.random.default_rng([15, seed])
    return make_problems(settings.problems, rng)


def math_study(
    out: Path,
    settings: MathSettings | None = None,
    *,
    say: Callable[[str], None] = print,
    device: str = "cpu",
) -> Results:
    """Run the study, or what is missing of it.

    Args:
        out: folder of the study; made if missing.
        settings: None takes MathSettings().
        say: is told one line after another.
        device: "cpu" or "cuda".

    Returns:
        The results: a cell for the base and for each way to fine-tune, by seed.

    Raises: see run_study.
    """
    s = settings or MathSettings()
    data = cache(partial(prepare, s))  # once, and only if something is missing

    def measure(results: Results, seed: int) -> None:
        measure_seed(results, out / f"seed{seed}", s, data(), seed, say, device)

    return run_study(out, KIND, CELL, s, OWN, measure, write_report, say)


def measure_seed(
    results: Results,
    folder: Path,
    settings: MathSettings,
    data: MathData,
    seed: int,
    say: Callable[[str], None],
    device: str,
) -> None:
    """Train and measure what is missing of a seed, look by look."""
    s, text = settings, data.text
    base = pretrained(folder / "base", text, data.rows, s.base(seed), None, device)
    problems = training_problems(s, seed)
    tests = {"seen": problems[: s.tests]} | data.tests
    held_out = [chat_of(text, p.question, p.answer) for p in data.tests["new_numbers"]]
    batch = chats_to_rows(held_out, s.tuning(seed, s.steps), text.end).batch
    if results.get("base", seed) is None:
        results.put("base", seed, {"curve": [], "tests": shares(base, text, tests)})
    for arm in ARMS:
        cell = results.get(arm, seed)
        done: list[Any] = list(cell["curve"]) if cell else []
        if len(done) == s.looks and cell and cell["tests"]:
            continue
        chats = [chat_of(text, p.question, p.answer, everything=arm == "everything")
                 for p in problems]  # fmt: skip
        for step in s.look_steps[len(done) :]:
            params = fine_tuned(folder / arm, text, chats, s.tuning(seed, step), base, device)
            done.append([step, *look(params, text, data.tests["new_numbers"], batch)])
            last = step == s.steps
            found = shares(params, text, tests) if last else {}
            results.put(arm, seed, {"curve": done, "tests": found})
            say(f"seed {seed}, {arm}, step {step}: right {done[-1][1]:.2f}, "
                f"loss of held-out answers {done[-1][2]:.3f}")  # fmt: skip


def look(
    params: Params, text: Text, problems: Sequence[Problem], batch: Batch
) -> tuple[float, float]:
    """Return the share of right answers and the loss of the right answers' tokens."""
    share = right(params, text, problems)
    return float(np.mean(share)), evaluate_chats(params, text.config, batch, 32)


def right(params: Params, text: Text, problems: Sequence[Problem]) -> list[bool]:
    """Return which questions are answered right."""
    written = answers(params, text, [problem.question for problem in problems], 36)
    return [right_result(a) == p.result for a, p in zip(written, problems, strict=True)]


def shares(
    params: Params, text: Text, tests: dict[str, list[Problem]]
) -> dict[str, dict[str, float]]:
    """Return the share of right answers of each test, in all and by kind of question."""
    start = time.perf_counter()
    found: dict[str, dict[str, float]] = {}
    for name, problems in tests.items():
        votes = right(params, text, problems)
        found[name] = {"all": float(np.mean(votes))}
        for kind in dict.fromkeys(problem.kind for problem in problems):
            own = [v for v, p in zip(votes, problems, strict=True) if p.kind == kind]
            found[name][kind] = float(np.mean(own))
    found["time"] = {"seconds": time.perf_counter() - start}
    return found
