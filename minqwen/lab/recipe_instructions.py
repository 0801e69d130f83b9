"""Instructions inside pretraining: does the model do tasks better when nobody has tuned it?

    text           the language reference and stories
    instructions   as many tokens; a fifth of them are instructions of several families

Instructions come one to four of a family in a document, so some documents look like few-shot
prompts. The model is asked without examples and with three, by which of two options it finds
likelier; half would be right by chance. Families that stand in the data are counted apart from
families that never do.

Paper:    Qwen Technical Report (arXiv), 2.1 Data: high-quality instruction data is part of
          pretraining, as multi-task instructions help zero-shot and few-shot; 13-gram filter.
Origin:   Raffel et al. 2020, arXiv:1910.10683; Sanh et al. 2021, arXiv:2110.08207.
Differs:  the report gives no number, no share and no format. Tasks, shares and sizes are ours.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..alignment.answer_logprobs import answer_logprobs_of
from ..backend import Array, to_numpy
from ..data.corpora import bilingual_stories, python_reference
from ..data.packing import pack_documents
from ..params import Params
from ..tokenizer.chatml import Chat
from ..training.accumulate import evaluate
from ..training.settings import require_in
from .recipe_instruction_tasks import (
    HELD_OUT,
    SEEN,
    Item,
    all_ngrams,
    few_shots,
    make_items,
    ngrams,
)
from .recipe_instructions_report import write_report
from .recipe_study import RecipeSettings, Text, make_tokenizer, packed, pretrained, run_study
from .results import Results

KIND = "minqwen lab instructions"
CELL = ("seen", "held_out", "families", "text", "seconds")
OWN = ("lab/recipe_instructions.py", "lab/recipe_instruction_tasks.py",
       "alignment/answer_logprobs.py", "alignment/token_logprobs.py")  # fmt: skip
ARMS = ("text", "instructions")
SHOTS = 3
HELD_OUT_TEXT = 10  # every 10th document


@dataclass(frozen=True)
class InstructionSettings(RecipeSettings):
    """The settings of the study.

    >>> InstructionSettings().training_tokens
    716800
    """

    base_steps: int = 700
    share: float = 0.2  # of the tokens, in the second arm
    stories: int = 3000
    reference_every: int = 1  # of the language reference, every so many-th topic
    tests: int = 40  # of a family
    held_out_rows: int = 48

    def __post_init__(self) -> None:
        """Check the share too."""
        super().__post_init__()
        require_in(self, "share", 0 < self.share < 1, "between 0 and 1")

    @property
    def training_tokens(self) -> int:
        """Tokens that every arm reads."""
        return self.base_steps * self.base_batch_size * self.base_context


QUICK = InstructionSettings(
    hidden_size=32,
    num_hidden_layers=2,
    vocab_size=420,
    seeds=1,
    base_steps=30,
    base_batch_size=4,
    base_context=64,
    stories=60,
    reference_every=6,
    tests=4,
    held_out_rows=8,
)  # shows what the page looks like; its numbers mean nothing


class Data(NamedTuple):
    text: Text
    documents: list[Array]  # ids of the text to train on
    held_out: Array  # rows of text
    tests: dict[str, list[tuple[Item, list[Item]]]]  # family -> items, each with its shots


def prepare(settings: InstructionSettings) -> Data:
    """Lay out text and tests, which do not depend on the seeds."""
    s = settings
    prose = [*python_reference()[:: s.reference_every], *bilingual_stories(s.stories, seed=0)]
    rng = np.random.default_rng([12])
    tests = {}
    for family in (*SEEN, *HELD_OUT):
        shots = make_items(family, SHOTS, rng)  # the same for every question of the family
        tests[family] = [(item, shots) for item in make_items(family, s.tests, rng)]
    examples = [item.document for f in tests for item in make_items(f, 20, rng)]
    text = make_tokenizer([*(p[:500] for p in prose[::8]), *examples], s)
    look = packed(text, prose[HELD_OUT_TEXT - 1 :: HELD_OUT_TEXT], s.base_context)
    kept = [p for i, p in enumerate(prose) if i % HELD_OUT_TEXT != HELD_OUT_TEXT - 1]
    documents = [np.array(text.tokenizer.encode(p, disallowed_special=())) for p in kept]
    return Data(text, documents, look[:: max(1, len(look) // s.held_out_rows)], tests)


def instruction_documents(
    tokens: int, text: Text, tests: Sequence[str], rng: np.random.Generator
) -> tuple[list[str], float]:
    """Draw documents of instructions, clean of the tests, until they have so many tokens.

    Returns:
        The documents, and the share that the filter dropped.
    """
    known = all_ngrams(tests)
    kept: list[str] = []
    drawn = dropped = size = 0
    while size < tokens:
        family = SEEN[rng.integers(len(SEEN))]
        items = make_items(family, int(rng.integers(1, SHOTS + 2)), rng)
        document = "\n".join(item.document for item in items) + "\n"
        drawn += 1
        if known.isdisjoint(ngrams(document)):
            kept.append(document)
            size += len(text.tokenizer.encode(document)) + 1
        else:
            dropped += 1
    return kept, dropped / max(1, drawn)


def training_rows(
    settings: InstructionSettings, data: Data, arm: str, seed: int
) -> tuple[Array, float]:
    """Return the rows of an arm, as many for each, and the share that the filter dropped."""
    s, rng = settings, np.random.default_rng([13, seed])
    want, dropped = 0, 0.0
    documents: list[Array] = []
    if arm == "instructions":
        want = int(s.training_tokens * s.share)
        every = [shot for pairs in data.tests.values() for shot in pairs]
        tests = [few_shots(item, shots) + item.options[item.right] for item, shots in every]
        made, dropped = instruction_documents(want, data.text, tests, rng)
        documents = [np.array(data.text.tokenizer.encode(document)) for document in made]
    left = s.training_tokens + s.base_context - sum(len(ids) + 1 for ids in documents)
    for i in np.random.default_rng([16, seed]).permutation(len(data.documents)):
        if left < 2:
            break
        ids = data.documents[i][: left - 1]  # the last one is cut, so that all arms are as long
        documents.append(ids)
        left -= len(ids) + 1
    rows = pack_documents(documents, s.base_context, data.text.end, rng)
    return rows[: s.base_steps * s.base_batch_size], dropped


def instructions_study(
    out: Path,
    settings: InstructionSettings | None = None,
    *,
    say: Callable[[str], None] = print,
    device: str = "cpu",
) -> Results:
    """Run the study, or what is missing of it.

    Args:
        out: folder of the study; made if missing.
        settings: None takes InstructionSettings().
        say: is told one line after another.
        device: "cpu" or "cuda".

    Returns:
        The results: a cell for each share and seed.

    Raises: see run_study.
    """
    s = settings or InstructionSettings()
    data = cache(partial(prepare, s))  # once, and only if something is missing

    def measure(results: Results, seed: int) -> None:
        for arm in ARMS:
            if results.get(arm, seed) is not None:
                continue
            rows, dropped = training_rows(s, data(), arm, seed)
            folder = out / f"seed{seed}" / arm
            params = pretrained(folder, data().text, rows, s.base(seed), None, device)
            cell = measure_model(params, data()) | {"dropped": dropped, "rows": len(rows)}
            results.put(arm, seed, cell)
            say(f"seed {seed}, {arm}: zero-shot {cell['seen']['zero']:.3f}, few-shot "
                f"{cell['seen']['few']:.3f}; families never seen {cell['held_out']['zero']:.3f}, "
                f"{cell['held_out']['few']:.3f}; text {cell['text']:.3f}")  # fmt: skip

    return run_study(out, KIND, CELL, s, OWN, measure, write_report, say)


def measure_model(params: Params, data: Data) -> dict[str, Any]:
    """Return the shares of right choices, by family and in all, and the loss on held-out text."""
    start, families = time.perf_counter(), {}
    for family, pairs in data.tests.items():
        items = [item for item, _ in pairs]
        zero = [item.prompt for item in items]
        few = [few_shots(item, shots) for item, shots in pairs]
        families[family] = {
            "zero": share_right(params, data.text, items, zero),
            "few": share_right(params, data.text, items, few),
        }
    found: dict[str, Any] = {"families": families}
    for name, members in (("seen", SEEN), ("held_out", HELD_OUT)):
        found[name] = {
            how: float(np.mean([families[family][how] for family in members]))
            for how in ("zero", "few")
        }
    found["text"] = evaluate(params, data.text.config, data.held_out, 16).loss
    return found | {"seconds": time.perf_counter() - start}


def share_right(params: Params, text: Text, items: Sequence[Item], prompts: Sequence[str]) -> float:
    """Return how often the right option is the likelier one of the two."""
    chats = []
    for item, prompt in zip(items, prompts, strict=True):
        before = text.tokenizer.encode(prompt)
        for option in item.options:
            ids = [text.end, *before, *text.tokenizer.encode(option)]
            chats.append(Chat(ids, [i > len(before) for i in range(len(ids))]))
    scores = to_numpy(answer_logprobs_of(params, text.config, chats, text.end)).reshape(-1, 2)
    right = scores.argmax(axis=1) == np.array([item.right for item in items])
    return float(right.mean())
