"""The recipe of Code-Qwen, small: more pretraining on code, then fine-tuning in stages.

    base         the language reference and stories, rows of 128 tokens
    continued    rows of 512, 3 % warm-up, then no decay
                 nothing        not at all
                 mixed          half code of the standard library, half of the base's text
                 code_only      the same number of tokens, all of them code
    fine-tuned   two stages     general chats, then requests for functions
                 one stage      the same chats shuffled, as many steps in all

Code loss is measured on sources that nothing was trained on: in rows of 512, and the same tokens
in rows of 128. Text loss, on held-out text of the base, shows what was forgotten. An answer to a
request is parsed and never run: see recipe_code_tasks.py.

Paper:    Qwen Technical Report, 4 Code-Qwen: 90 billion tokens of text and code, context 8192, 3 %
          warm-up and no decay; multi-stage fine-tuning, 3 % warm-up and constant.
Differs:  sizes and rates are ours. The report's stages are not published. Its warm-up of
          fine-tuning has the shape of a cosine; ours is a straight line.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..alignment.settings import SftSettings
from ..backend import Array
from ..data.corpora import bilingual_stories, python_reference, standard_library_code
from ..params import Params
from ..training.accumulate import evaluate
from ..training.settings import PretrainSettings, require_in
from .recipe_code_report import write_report
from .recipe_code_tasks import Task, code_tasks, general_tasks, judge
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

KIND = "minqwen lab code"
CELL = ("seconds",)
OWN = ("lab/recipe_code.py", "lab/recipe_code_tasks.py")
CONTINUED = ("nothing", "mixed", "code_only")
TUNED = (("nothing", "two"), ("mixed", "two"), ("mixed", "one"))  # start, stages
HELD_OUT = 10  # every 10th document


@dataclass(frozen=True)
class CodeSettings(RecipeSettings):
    """The settings of the study.

    >>> CodeSettings(long_context=200)
    Traceback (most recent call last):
    ...
    ValueError: long_context must be a multiple of base_context=128, got 200
    """

    base_steps: int = 200
    steps: int = 120  # of continued pretraining
    batch_size: int = 2  # rows of long_context
    long_context: int = 512
    lr: float = 3e-3  # of continued pretraining: constant
    code_bytes: int = 1_000_000
    stories: int = 1500
    reference_every: int = 1  # of the language reference, every so many-th topic
    held_out_rows: int = 16  # of long_context
    chats: int = 1600  # of both kinds together
    general_steps: int = 60
    code_steps: int = 180
    sft_batch_size: int = 16
    sft_lr: float = 6e-3
    tests: int = 64  # of each kind

    def __post_init__(self) -> None:
        """Check the stages too."""
        super().__post_init__()
        fits = self.long_context % self.base_context == 0
        require_in(self, "long_context", fits, f"a multiple of base_context={self.base_context}")
        self.continuing(0)
        self.tuning(0, self.general_steps)

    def continuing(self, seed: int) -> PretrainSettings:
        """Return the settings of continued pretraining: a warm-up, then no decay."""
        return PretrainSettings(
            steps=self.steps,
            batch_size=self.batch_size,
            context_length=self.long_context,
            peak_lr=self.lr,
            min_lr_ratio=1.0,
            warmup_steps=three_percent(self.steps),
            seed=seed,
            checkpoint_every=self.steps,
            eval_every=0,
        )

    def tuning(self, seed: int, steps: int) -> SftSettings:
        """Return the settings of a stage of fine-tuning."""
        return SftSettings(
            steps=steps,
            batch_size=self.sft_batch_size,
            context_length=self.long_context,
            peak_lr=self.sft_lr,
            warmup_steps=three_percent(steps),
            dropout=0.0,
            seed=seed,
            checkpoint_every=steps,
            eval_every=0,
        )


QUICK = CodeSettings(
    hidden_size=32,
    num_hidden_layers=2,
    vocab_size=420,
    seeds=1,
    base_steps=40,
    base_batch_size=4,
    base_context=64,
    steps=30,
    long_context=128,
    code_bytes=120_000,
    stories=100,
    reference_every=4,
    held_out_rows=4,
    chats=120,
    general_steps=10,
    code_steps=20,
    sft_batch_size=8,
    tests=8,
)  # shows what the page looks like; its numbers mean nothing


class CodeText(NamedTuple):
    text: Text
    base: Array  # rows of the base
    long_text: Array  # the same documents in long rows
    code: Array  # long rows
    held_out_text: Array  # rows of the base's length
    held_out_code: Array  # long rows


def prepare(settings: CodeSettings) -> CodeText:
    """Lay out the documents, which do not depend on the seeds; every 10th one is held out."""
    s = settings
    prose = [*python_reference()[:: s.reference_every], *bilingual_stories(s.stories, seed=0)]
    sources = [piece for text in standard_library_code(s.code_bytes) for piece in _pieces(text)]
    sample = [*(p[:600] for p in prose[::4]), *(c[:600] for c in sources[::6])]
    requests = [f"{task.request}\n{task.answer}" for task in _train_tasks(s, 0)[::4]]
    text = make_tokenizer([*sample, *requests], s)
    prose_rows, code_rows = ([d for i, d in enumerate(documents) if i % HELD_OUT != HELD_OUT - 1]
                             for documents in (prose, sources))  # fmt: skip
    look = packed(text, prose[HELD_OUT - 1 :: HELD_OUT], s.base_context)
    n = s.held_out_rows * s.long_context // s.base_context
    return CodeText(
        text,
        packed(text, prose_rows, s.base_context, 0),
        packed(text, prose_rows, s.long_context, 0),
        packed(text, code_rows, s.long_context, 0),
        _spread(look, n),
        _spread(packed(text, sources[HELD_OUT - 1 :: HELD_OUT], s.long_context), s.held_out_rows),
    )


def _pieces(source: str, size: int = 4000) -> list[str]:
    """Cut a file at line ends, so that some of every large file is held out too."""
    pieces, piece = [], ""
    for line in source.splitlines(keepends=True):
        piece += line
        if len(piece) >= size:
            pieces.append(piece)
            piece = ""
    return [*pieces, piece] if piece.strip() else pieces


def _spread(rows: Array, most: int) -> Array:
    spread: Array = rows[np.linspace(0, len(rows) - 1, min(len(rows), most)).astype(int)]
    return spread


def shorter(rows: Array, length: int) -> Array:
    """Cut long rows into short ones that ask for the same tokens.

    >>> shorter(np.arange(5)[None], 2)
    array([[0, 1, 2],
           [2, 3, 4]])
    """
    T = rows.shape[1] - 1
    cut: Array = np.concatenate([rows[:, i : i + length + 1] for i in range(0, T, length)])
    return cut


def code_study(
    out: Path,
    settings: CodeSettings | None = None,
    *,
    say: Callable[[str], None] = print,
    device: str = "cpu",
) -> Results:
    """Run the study, or what is missing of it.

    Args:
        out: folder of the study; made if missing.
        settings: None takes CodeSettings().
        say: is told one line after another.
        device: "cpu" or "cuda".

    Returns:
        The results: cells of the continued models and of the fine-tuned ones, by seed.

    Raises: see run_study.
    """
    s = settings or CodeSettings()
    data = cache(partial(prepare, s))  # once, and only if something is missing

    def measure(results: Results, seed: int) -> None:
        measure_seed(results, out / f"seed{seed}", s, data(), seed, say, device)

    return run_study(out, KIND, CELL, s, OWN, measure, write_report, say)


def measure_seed(
    results: Results,
    folder: Path,
    settings: CodeSettings,
    data: CodeText,
    seed: int,
    say: Callable[[str], None],
    device: str,
) -> None:
    """Train and measure what is missing of a seed."""
    s, text = settings, data.text
    base = pretrained(folder / "base", text, data.base, s.base(seed), None, device)
    models = {"nothing": base}
    rng = np.random.default_rng([9, seed])
    need = min(s.steps * s.batch_size, len(data.code))
    half = rng.permutation(len(data.code))[: need // 2]
    other = rng.permutation(len(data.long_text))[: need - need // 2]
    rows = {
        "mixed": np.concatenate([data.code[half], data.long_text[other]]),
        "code_only": data.code[rng.permutation(len(data.code))[:need]],
    }
    for arm in CONTINUED[1:]:
        models[arm] = pretrained(folder / arm, text, rows[arm], s.continuing(seed), base, device)
    for arm in CONTINUED:
        if results.get(arm, seed) is None:
            cell = losses(models[arm], s, data)
            results.put(arm, seed, cell)
            say(f"seed {seed}, {arm}: " + ", ".join(f"{k} {v:.3f}" for k, v in cell.items()))
    general, code = split_tasks(s, seed)
    for arm, stages in TUNED:
        name = f"{arm}_{stages}"
        if results.get(name, seed) is None:
            params = tune(folder, f"{name}", s, text, general, code, models[arm], seed, device)
            results.put(name, seed, judged(params, s, text))
            numbers = results.cells[name][str(seed)]
            say(f"seed {seed}, {name}: right {numbers['right']:.2f}, new {numbers['new']:.2f}")


def losses(params: Params, settings: CodeSettings, data: CodeText) -> dict[str, float]:
    """Return the loss on held-out code in long and in short rows, and on held-out text."""
    s, start = settings, time.perf_counter()
    short = shorter(data.held_out_code, s.base_context)
    found = {
        "code_long": evaluate(params, data.text.config, data.held_out_code, 4).loss,
        "code_short": evaluate(params, data.text.config, short, 16).loss,
        "text": evaluate(params, data.text.config, data.held_out_text, 16).loss,
    }
    return found | {"seconds": time.perf_counter() - start}


def _train_tasks(settings: CodeSettings, seed: int) -> list[Task]:
    general, code = split_tasks(settings, seed)
    return [*general, *code]


def split_tasks(settings: CodeSettings, seed: int) -> tuple[list[Task], list[Task]]:
    """Return the general tasks and the requests of a seed, as many as their stages have steps."""
    s, rng = settings, np.random.default_rng([10, seed])
    n = max(1, s.chats * s.general_steps // (s.general_steps + s.code_steps))
    return general_tasks(n, rng), code_tasks(max(1, s.chats - n), rng)


def tune(
    folder: Path,
    name: str,
    settings: CodeSettings,
    text: Text,
    general: Sequence[Task],
    code: Sequence[Task],
    params: Params,
    seed: int,
    device: str,
) -> Params:
    """Fine-tune in two stages, or in one with as many steps on the same chats."""
    s = settings
    first, second = ([chat_of(text, task.request, task.answer) for task in tasks]
                     for tasks in (general, code))  # fmt: skip
    if name.endswith("one"):
        steps = s.tuning(seed, s.general_steps + s.code_steps)
        return fine_tuned(folder / name, text, [*first, *second], steps, params, device)
    stage = s.tuning(seed, s.general_steps)
    params = fine_tuned(folder / f"{name}_stage1", text, first, stage, params, device)
    stage = s.tuning(seed, s.code_steps)
    return fine_tuned(folder / f"{name}_stage2", text, second, stage, params, device)


def judged(params: Params, settings: CodeSettings, text: Text) -> dict[str, float]:
    """Return the shares of requests that are answered right; the same tests for every seed."""
    s, start, rng = settings, time.perf_counter(), np.random.default_rng([11])
    tests = {
        "seen": code_tasks(s.tests, rng),  # pairs of steps seen in training, in other words
        "held_out": code_tasks(s.tests, rng, held_out=True),
        "general": general_tasks(s.tests, rng),
    }
    shares = {}
    for name, tasks in tests.items():
        written = answers(params, text, [task.request for task in tasks], 40)
        votes = [judge(task, answer) for task, answer in zip(tasks, written, strict=True)]
        shares[name] = np.mean(votes, axis=0)
    return {
        "parses": float(shares["seen"][0]),
        "right": float(shares["seen"][1]),
        "new_parses": float(shares["held_out"][0]),
        "new": float(shares["held_out"][1]),
        "general": float(shares["general"][1]),
        "seconds": time.perf_counter() - start,
    }
