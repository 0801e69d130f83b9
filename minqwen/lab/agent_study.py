"""Tools: what does a small model learn from self-instructed traces, and what not?

    base        trained on short chats in which something is repeated
    before      base, fine-tuned on general chats, sums answered at once among them
    after       base, fine-tuned on the same chats mixed with traces of tool use, which
                self_instruct.py made and chose; observations are not trained on

Asked are sums with held-out numbers, with tools and without; the other trained tools; tools that
no training text names; and questions that need no tool. See agent_tasks.py for what is held out,
agent_chats.py for the chats, agent_writer.py for who writes the samples, agent_measure.py for what
is counted.

Prompts are those of react_prompt.py in full: with two tools about 300 tokens of a tokenizer that
was trained on such prompts. That is where the time goes.

Paper:    Qwen Technical Report, 3.4 Tool Use, Code Interpreter, and Agent; Table 6.
Differs:  the samples are written by a grammar; two candidates, the report offers up to five;
          one kind of tool a question.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..agent.samples.sample import Sample, sample_text
from ..agent.tool import Tool
from ..alignment.settings import SftSettings
from ..model.config import QwenConfig
from ..model.init import init_params
from ..params import Params
from .agent_chats import base_chats, general_chats
from .agent_data import draw_samples, make_samples, prompt_of
from .agent_measure import last_number, run_together, sample_chat, score_answers, write_texts
from .agent_report import write_report
from .agent_tasks import make_tests
from .agent_tools import (
    HELD_OUT_NAMES,
    LOOK_UPS,
    OTHER_FORM,
    study_tools,
    trained_tools,
)
from .agent_writer import USUAL_TOOLS
from .recipe_study import (
    RecipeSettings,
    Text,
    answers,
    chat_of,
    fine_tuned,
    make_tokenizer,
    run_study,
    three_percent,
)
from .results import Results

KIND = "minqwen lab agent"
CELL = ("seconds",)
OWN = (
    "agent", "agent/samples", "agent/tools", "lab/agent_tools.py", "lab/agent_tasks.py",
    "lab/agent_writer.py", "lab/agent_chats.py", "lab/agent_data.py", "lab/agent_measure.py",
    "lab/agent_study.py",
)  # fmt: skip
LONGER = 4  # digits of numbers that are repeated in training, and in no sum
SHOWN = 200  # samples that the tokenizer is trained on
ARMS = ("before", "after")


@dataclass(frozen=True)
class AgentSettings(RecipeSettings):
    """The settings of the study.

    >>> AgentSettings().tuning(0, 1).steps == AgentSettings().steps
    True
    """

    vocab_size: int = 1088
    initializer_range: float = 0.05  # with less or more, the base learns to copy later
    base_steps: int = 1500
    base_batch_size: int = 8
    base_context: int = 100  # tokens of a row, several chats
    base_lr: float = 3e-3
    base_chats: int = 16_000
    samples: int = 2000  # of self-instruct, the report's number
    seed_samples: int = 40  # that people wrote, in the report; here templates
    offered: int = 2  # tools in a prompt
    general: int = 4800  # other chats
    steps: int = 800  # of fine-tuning
    row: int = 440  # tokens; several chats share a row
    rows: int = 8  # in a batch
    general_rows: int = 2  # in a batch without samples
    sft_lr: float = 2.5e-3
    sums: int = 120  # questions with held-out numbers
    tests: int = 60  # questions of every other test
    questions: int = 6  # which draw of them; the others were asked while settings were chosen

    def config(self, vocab_size: int, positions: int = 1024) -> QwenConfig:
        """Return the model, with the spread of its fresh weights."""
        config = super().config(vocab_size, positions)
        return replace(config, initializer_range=self.initializer_range)

    def tuning(self, seed: int, rows: int) -> SftSettings:
        """Return the settings of fine-tuning with so many rows in a batch."""
        return SftSettings(
            steps=self.steps,
            batch_size=rows,
            context_length=self.row,
            packed=True,
            peak_lr=self.sft_lr,
            min_lr_ratio=0.1,
            warmup_steps=three_percent(self.steps),
            dropout=0.0,
            seed=seed,
            checkpoint_every=self.steps,
            eval_every=0,
        )

    def base_tuning(self, seed: int) -> SftSettings:
        """Return the settings of the base."""
        return replace(
            self.tuning(seed, self.base_batch_size), steps=self.base_steps,
            context_length=self.base_context, peak_lr=self.base_lr,
            warmup_steps=three_percent(self.base_steps), checkpoint_every=self.base_steps,
        )  # fmt: skip


QUICK = AgentSettings(
    hidden_size=32,
    vocab_size=640,
    seeds=1,
    base_steps=20,
    base_batch_size=4,
    base_context=64,
    base_chats=200,
    samples=60,
    seed_samples=20,
    general=100,
    row=440,
    steps=8,
    rows=4,
    sums=6,
    tests=4,
)  # shows what the page looks like; its numbers mean nothing


class Data(NamedTuple):
    text: Text
    tools: dict[str, Tool]
    tests: dict[str, list[Sample]]


def prepare(settings: AgentSettings) -> Data:
    """Lay out tools, tests and tokenizer, which no seed changes."""
    s, rng, tools = settings, np.random.default_rng([30, settings.questions]), study_tools()
    trained = list(trained_tools(tools))
    look_ups = [name for name in trained if name in LOOK_UPS]
    draw = partial(make_tests, rng=rng, tools=tools, offered=s.offered)
    tests = {
        "sums": draw(s.sums, using=["calculator"], others=trained),
        "longer_sums": draw(s.tests, using=["calculator"], others=trained, digits=LONGER),
        "look_ups": draw(s.tests, using=rng.permutation(look_ups).tolist(), others=look_ups),
        "others": draw(s.tests, using=USUAL_TOOLS[1:], others=trained),
        "new_look_ups": draw(
            s.tests, using=rng.permutation(HELD_OUT_NAMES).tolist(), others=HELD_OUT_NAMES
        ),
        "new_form": draw(s.tests, using=[OTHER_FORM], others=trained),
        "no_tool": draw(s.tests, using=[""], others=trained),
    }
    first = draw_samples(SHOWN, trained_tools(tools), s.offered, np.random.default_rng([34]))
    shown = [
        f"user\n{prompt_of(sample, tools)}\nassistant\n{sample_text(sample)}\n" for sample in first
    ]
    chats = [f"user\n{q}\nassistant\n{a}\n" for q, a in base_chats(10 * SHOWN, 0)]
    return Data(make_tokenizer([*chats, *shown], s), tools, tests)


def measure_model(
    params: Params, data: Data, *, plainly: Sequence[str] = ("sums", "longer_sums")
) -> dict[str, Any]:
    """Ask everything of a model: with tools by `run_react`, and some of it plainly.

    Returns:
        The scores of each test; under "plain" the share of sums that are right when the question
        is asked alone; under "seconds" the time.
    """
    start, text = time.perf_counter(), data.text
    found: dict[str, Any] = {}
    for name, samples in data.tests.items():
        write = partial(write_texts, params, text)
        found[name] = score_answers(samples, run_together(samples, data.tools, write))
    found["plain"] = {}
    for name in plainly:
        written = answers(params, text, [sample.question for sample in data.tests[name]], 24)
        rights = [sample.answer for sample in data.tests[name]]
        votes = [last_number(a) == right for a, right in zip(written, rights, strict=True)]
        found["plain"][name] = float(np.mean(votes))
    return found | {"seconds": time.perf_counter() - start}


def agent_study(
    out: Path,
    settings: AgentSettings | None = None,
    *,
    say: Callable[[str], None] = print,
    device: str = "cpu",
) -> Results:
    """Run the study, or what is missing of it.

    Args:
        out: folder of the study; made if missing.
        settings: None takes AgentSettings().
        say: is told one line after another.
        device: "cpu" or "cuda".

    Returns:
        The results: for each seed a cell of the samples, and one for each model.

    Raises: see run_study.
    """
    s = settings or AgentSettings()
    data = cache(partial(prepare, s))  # once, and only if something is missing

    def measure(results: Results, seed: int) -> None:
        if all(results.get(arm, seed) is not None for arm in ("samples", *ARMS)):
            return
        measure_seed(results, out / f"seed{seed}", s, data(), seed, say, device)

    return run_study(out, KIND, CELL, s, OWN, measure, write_report, say)


def measure_seed(
    results: Results,
    folder: Path,
    settings: AgentSettings,
    data: Data,
    seed: int,
    say: Callable[[str], None],
    device: str,
) -> None:
    """Make samples, train and measure what is missing of a seed."""
    s, text = settings, data.text
    start = time.perf_counter()
    made = make_samples(
        folder / "samples", trained_tools(data.tools), s.samples,
        seeds=s.seed_samples, offered=s.offered, seed=seed,
    )  # fmt: skip
    if results.get("samples", seed) is None:
        seconds = time.perf_counter() - start
        results.put("samples", seed, {
            "kept": len(made.kept), "dropped": made.dropped, "answers": made.answers,
            "seconds": seconds,
        })  # fmt: skip
        say(f"seed {seed}, samples: {made}")
    first = [chat_of(text, *chat) for chat in base_chats(s.base_chats, seed)]
    fresh = init_params(text.config, np.random.default_rng([8, seed]))
    base = fine_tuned(folder / "base", text, first, s.base_tuning(seed), fresh, device)
    general = [chat_of(text, *chat) for chat in general_chats(s.general, seed)]
    traces = [sample_chat(text, sample, data.tools) for sample in made.kept]
    for arm, chats, rows in (
        ("after", traces + general, s.rows),  # small chats fill the rows of the long ones
        ("before", general, s.general_rows),
    ):
        if results.get(arm, seed) is not None:
            continue
        params = fine_tuned(folder / arm, text, chats, s.tuning(seed, rows), base, device)
        found = measure_model(params, data)
        results.put(arm, seed, found)
        sums, plain = found["sums"], found["plain"]["sums"]
        say(f"seed {seed}, {arm}: right sums {100 * sums['right']:.0f} % with tools, "
            f"{100 * plain:.0f} % without; new look-ups chosen "
            f"{100 * found['new_look_ups']['selection']:.0f} %")  # fmt: skip
