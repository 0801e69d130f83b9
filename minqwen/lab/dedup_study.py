"""Deduplication: what do copies in the training text do to a model, and what takes them out?

    raw            the crawl as it came
    exact          of copies that are the same after normalisation, the first
    exact + fuzzy  of what is left, the first of every cluster of MinHash and LSH
    no copies      the first of every family, as only those know who planted the copies

Each arm reads the crawl from its start and leaves out what it leaves out, until it has as many
tokens as the others; it trains on them once. So all models read equally much, and the more copies
an arm leaves out, the more new text it gets to.

Measured are the loss on held-out text and on the arm's own, and what greedy decoding repeats word
for word, by how often the raw arm has read it; see dedup_measure.py.

Paper:    Qwen Technical Report (arXiv), 2.1 Data: exact-match deduplication after normalization,
          and fuzzy deduplication with MinHash and LSH.
Origin:   Lee et al. 2021, arXiv:2107.06499.
Differs:  the report gives no numbers. Lee et al. cut repeated substrings out of documents too.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..backend import Array
from ..data.packing import pack_documents
from ..model.init import init_params
from ..params import Params
from ..training.accumulate import evaluate
from ..training.metrics import Metrics
from ..training.pretrain import pretrain
from .dedup_corpus import Base, Document, base_documents, crawl
from .dedup_measure import (
    ARMS,
    OFTEN,
    Encode,
    Question,
    count_found,
    count_read,
    deduplicate,
    memory,
    questions,
)
from .dedup_report import write_report
from .recipe_study import RecipeSettings, Text, make_tokenizer, packed, run_study
from .results import Results

KIND = "minqwen lab dedup"
CELL = ("seconds",)
OWN = ("lab/dedup_changes.py", "lab/dedup_corpus.py", "lab/dedup_measure.py", "lab/dedup_study.py",
       "alignment/token_logprobs.py")  # fmt: skip
HELD_OUT = 12  # every 12th base document
OWN_ROWS = 100  # of an arm's text, for the loss on it, about so many


@dataclass(frozen=True)
class DedupSettings(RecipeSettings):
    """The settings of the study.

    >>> DedupSettings().training_tokens
    409600
    """

    vocab_size: int = 1024
    base_steps: int = 800
    base_batch_size: int = 4
    base_lr: float = 3e-3
    stories: int = 1900
    code_bytes: int = 700_000
    reference_every: int = 1  # of the language reference, every so many-th topic
    templates: int = 20  # stories in two languages
    fillings: int = 8  # of each
    prompt: int = 32  # k, tokens that the model is given
    answer: int = 32  # n, tokens that it has to repeat
    asked: int = 100  # documents that came once, and held-out ones: so many of each
    held_out_rows: int = 48  # of each source
    looks: int = 8  # at the held-out loss, while training

    @property
    def training_tokens(self) -> int:
        """Tokens that every arm reads."""
        return self.base_steps * self.base_batch_size * self.base_context


QUICK = DedupSettings(
    hidden_size=32,
    vocab_size=420,
    seeds=1,
    base_steps=40,
    base_context=64,
    stories=60,
    code_bytes=30_000,
    reference_every=16,
    templates=3,
    fillings=3,
    prompt=16,
    answer=8,
    asked=10,
    held_out_rows=6,
    looks=2,
)  # shows what the page looks like; its numbers mean nothing


class Data(NamedTuple):
    text: Text
    base: list[Base]  # to train on
    held_out: list[Base]
    rows: dict[str, Array]  # source -> rows of held-out documents
    encode: Encode  # every text only once


def prepare(settings: DedupSettings) -> Data:
    """Lay out tokenizer, base and held-out documents, which do not depend on the seeds."""
    s = settings
    documents = base_documents(s.stories, s.code_bytes, s.reference_every)
    held_out = documents[HELD_OUT - 1 :: HELD_OUT]
    base = [d for i, d in enumerate(documents) if i % HELD_OUT != HELD_OUT - 1]
    text = make_tokenizer([d.text for d in base[::4]], s)
    by_source = defaultdict(list)
    for document in held_out:
        by_source[document.source].append(document.text)
    rows = {
        source: packed(text, texts, s.base_context)[: s.held_out_rows]
        for source, texts in by_source.items()
    }

    def encode(document: str) -> Array:
        return np.array(text.tokenizer.encode(document, disallowed_special=()), np.int32)

    return Data(text, base, held_out, rows, cache(encode))


def reading(
    documents: Sequence[Document], kept: Sequence[int], encode: Encode, tokens: int
) -> tuple[list[Document], list[Array]]:
    """Take documents until there are so many tokens, separators counted; the last one is cut.

    Args:
        documents: the crawl.
        kept: which of them, in order.
        encode: text to ids.
        tokens: how many.

    Returns:
        The documents, and their ids.

    Raises:
        ValueError: there are not so many.
    """
    read: list[Document] = []
    pieces: list[Array] = []
    left = tokens
    for i in kept:
        if left < 2:
            break
        read.append(documents[i])
        pieces.append(encode(documents[i].text)[: left - 1])
        left -= len(pieces[-1]) + 1
    if left > 1:
        raise ValueError(
            f"the text has {tokens - left} tokens, the training needs {tokens}: take fewer steps, "
            "or more stories and code_bytes"
        )
    return read, pieces


def trained(
    folder: Path, settings: DedupSettings, seed: int, rows: Array, data: Data, device: str
) -> tuple[Params, list[list[float]]]:
    """Train on rows; a finished run is only read.

    Returns:
        The parameters, and the held-out loss while they were trained, as [step, loss].
    """
    looks = max(1, settings.base_steps // settings.looks)
    params = pretrain(
        data.text.config,
        rows,
        folder,
        replace(settings.base(seed), eval_every=looks),
        validation_rows=np.concatenate(list(data.rows.values())),
        params=init_params(data.text.config, np.random.default_rng([8, seed])),
        tokenizer=data.text.tokenizer,
        progress=False,
        plot=False,
        device=device,
    )
    key = "validation_loss"
    return params, [[row["step"], row[key]] for row in Metrics.read(folder) if key in row]


def measure_arm(
    params: Params, data: Data, rows: Array, asked: Sequence[Question], prompt: int
) -> dict[str, Any]:
    """Return losses on held-out text and on the arm's own, and what is memorised."""
    start, config = time.perf_counter(), data.text.config
    every = np.concatenate(list(data.rows.values()))
    held_out = {source: evaluate(params, config, r, 16).loss for source, r in data.rows.items()}
    held_out["all"] = evaluate(params, config, every, 16).loss
    own = evaluate(params, config, rows[:: max(1, len(rows) // OWN_ROWS)], 16).loss
    return {
        "held_out": held_out,
        "own": own,
        "gap": held_out["all"] - own,
        "memory": memory(params, data.text, asked, prompt),
        "seconds": time.perf_counter() - start,
    }


def dedup_study(
    out: Path,
    settings: DedupSettings | None = None,
    *,
    say: Callable[[str], None] = print,
    device: str = "cpu",
) -> Results:
    """Run the study, or what is missing of it.

    Args:
        out: folder of the study; made if missing.
        settings: None takes DedupSettings().
        say: is told one line after another.
        device: "cpu" or "cuda".

    Returns:
        The results: for each seed a cell of what was found, and one for each arm.

    Raises: see run_study; ValueError too if there is less text than the training needs.
    """
    s = settings or DedupSettings()
    data = cache(partial(prepare, s))  # once, and only if something is missing

    def measure(results: Results, seed: int) -> None:
        if all(results.get(arm, seed) is not None for arm in ("found", *ARMS)):
            return
        d = data()
        documents = crawl(d.base, d.held_out, s.templates, s.fillings, seed)
        found = deduplicate(documents)
        if results.get("found", seed) is None:
            cell = count_found(documents, found, d.held_out, d.encode)
            results.put("found", seed, cell)
            say(f"seed {seed}: {cell['documents']:,} documents, exact and fuzzy deduplication drop "
                f"{100 * cell['dropped']['fuzzy']:.1f} % of the tokens")  # fmt: skip
        read = {arm: reading(documents, found.kept[arm], d.encode, s.training_tokens + 1)
                for arm in ARMS}  # fmt: skip
        asked = questions(read["raw"][0], d.held_out, d.encode, prompt=s.prompt, answer=s.answer,
                          asked=s.asked, rng=np.random.default_rng([22, seed]))  # fmt: skip
        for arm in ARMS:
            if results.get(arm, seed) is not None:
                continue
            rng = np.random.default_rng([23, seed])
            rows = pack_documents(read[arm][1], s.base_context, d.text.end, rng)
            params, curve = trained(out / f"seed{seed}" / arm, s, seed, rows, d, device)
            cell = measure_arm(params, d, rows, asked, s.prompt)
            results.put(arm, seed, cell | {"curve": curve} | count_read(*read[arm]))
            say(f"seed {seed}, {ARMS[arm]}: held-out loss {cell['held_out']['all']:.3f}, its own "
                f"{cell['own']:.3f}; repeats {100 * cell['memory']['often']['share']:.0f} % of "
                f"what came {OFTEN} times or more")  # fmt: skip

    return run_study(out, KIND, CELL, s, OWN, measure, write_report, say)
