"""What the studies of recipes share: settings, stages in folders, answers, and numbers over seeds.

Every stage is a run of training/pretrain.py or alignment/sft.py in a folder of its own, so whatever
stops a study, the same command goes on from there. results.json holds a cell for each arm and seed,
written as soon as it is measured.

    difference   mean over the seeds of (one arm - another), with the same seed on both sides
    error        standard deviation of these over the square root of their number
    sure         at least 3 seeds, all of one sign, and the mean above twice the error
"""

from __future__ import annotations

import math
import platform
import re
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..alignment.settings import SftSettings
from ..alignment.sft import sft
from ..backend import Array, to_device
from ..data.packing import pack_documents
from ..model.config import QwenConfig
from ..model.generate import generate, left_pad
from ..model.init import init_params
from ..params import Params
from ..tokenizer.bpe import Tokenizer, bpe_train
from ..tokenizer.chat_templates import Template
from ..tokenizer.chatml import Chat, encode_chat
from ..tokenizer.special_tokens import ENDOFTEXT, IM_END
from ..training.pretrain import pretrain
from ..training.settings import PretrainSettings, require_in, require_kinds, require_whole
from .findings import AGREES, DISAGREES, UNDECIDED
from .frame import opened
from .results import Results, fingerprint

TEMPLATE = Template(system=None)  # a system text of six words would be a third of these chats
CODE = ("backend.py", "layers", "model", "tokenizer", "training", "data", "alignment/settings.py",
        "alignment/sft.py", "alignment/sft_rows.py", "alignment/chat_batch.py",
        "lab/recipe_study.py")  # fmt: skip
SURE = 3  # seeds, at least
LIMITS = (
    f"A difference is over the seeds, the same seed on both sides; ± is its standard error. It "
    f"counts when there are at least {SURE} seeds, all of one sign, and the mean is above two "
    "errors. These limits are ours."
)


@dataclass(frozen=True)
class RecipeSettings:
    """What all three studies depend on; each adds its own.

    >>> RecipeSettings(seeds=0)
    Traceback (most recent call last):
    ...
    ValueError: seeds must be a whole number, at least 1, got 0
    """

    hidden_size: int = 64  # D
    num_hidden_layers: int = 2  # L
    num_attention_heads: int = 4  # H
    vocab_size: int = 512  # V, at most
    seed: int = 0  # the first one
    seeds: int = 3  # how many: seed, seed + 1, ...
    base_steps: int = 400  # of pretraining
    base_batch_size: int = 8
    base_context: int = 128
    base_lr: float = 6e-3

    def __post_init__(self) -> None:
        """Refuse impossible values; the settings of the stages check theirs."""
        whole = [name for name, value in asdict(self).items() if type(value) is int]
        require_whole(self, **{name: 0 if name == "seed" else 1 for name in whole})
        require_kinds(self)
        require_in(self, "vocab_size", self.vocab_size >= 260, "at least 260")

    def config(self, vocab_size: int, positions: int = 1024) -> QwenConfig:
        """Return the model, for a tokenizer that may have found fewer merges than asked for."""
        return QwenConfig(
            vocab_size=vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.hidden_size * 5 // 2,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            num_key_value_heads=self.num_attention_heads,
            max_position_embeddings=positions,
            tie_word_embeddings=True,
        )

    def base(self, seed: int) -> PretrainSettings:
        """Return the settings of pretraining: 3 % warm-up, then a cosine to a tenth."""
        return PretrainSettings(
            steps=self.base_steps,
            batch_size=self.base_batch_size,
            context_length=self.base_context,
            peak_lr=self.base_lr,
            warmup_steps=three_percent(self.base_steps),
            seed=seed,
            checkpoint_every=self.base_steps,
            eval_every=0,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON holds."""
        return asdict(self)


class Text(NamedTuple):
    tokenizer: Tokenizer
    end: int  # <|endoftext|>
    config: QwenConfig


def three_percent(steps: int) -> int:
    """Return the report's warm-up of both recipes, 3 % of the steps, at least one.

    >>> three_percent(400), three_percent(2)
    (12, 1)
    """
    return max(1, round(0.03 * steps))


def make_tokenizer(texts: Iterable[str], settings: RecipeSettings) -> Text:
    """Train a small tokenizer, and lay out the model that goes with it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer merges than asked for are fine
        tokenizer = bpe_train(list(texts), settings.vocab_size)
    config = settings.config(tokenizer.vocab_size)
    return Text(tokenizer, tokenizer.special_tokens[ENDOFTEXT], config)


def packed(text: Text, documents: Iterable[str], context: int, seed: int | None = None) -> Array:
    """Return rows of these documents, shuffled with a seed, in order without one."""
    ids = [text.tokenizer.encode(document, disallowed_special=()) for document in documents]
    rng = None if seed is None else np.random.default_rng([7, seed])
    return pack_documents(ids, context, text.end, rng)


def pretrained(
    folder: Path,
    text: Text,
    rows: Array,
    settings: PretrainSettings,
    params: Params | None,
    device: str,
) -> Params:
    """Train on rows to the end, from params or from fresh ones; a finished run is only read."""
    if params is None:
        params = init_params(text.config, np.random.default_rng([8, settings.seed]))
    return pretrain(
        text.config,
        rows,
        folder,
        settings,
        params=params,
        tokenizer=text.tokenizer,
        progress=False,
        plot=False,
        device=device,
    )


def fine_tuned(
    folder: Path,
    text: Text,
    chats: Sequence[Chat],
    settings: SftSettings,
    params: Params,
    device: str,
) -> Params:
    """Fine-tune from params to the end; a run that has done fewer steps goes on."""
    return sft(
        text.config,
        to_device(params, "cpu"),
        chats,
        folder,
        settings,
        pad_id=text.end,
        tokenizer=text.tokenizer,
        progress=False,
        plot=False,
        device=device,
    )


def chat_of(text: Text, request: str, answer: str, *, everything: bool = False) -> Chat:
    """Return a chat of two turns; `everything` trains on all of its tokens, not on the answer."""
    messages = [{"role": "user", "content": request}, {"role": "assistant", "content": answer}]
    chat = encode_chat(text.tokenizer, messages, template=TEMPLATE)
    return chat._replace(loss_mask=[True] * len(chat.ids)) if everything else chat


def answers(
    params: Params, text: Text, requests: Sequence[str], max_new_tokens: int, batch_size: int = 64
) -> list[str]:
    """Return the greedy answers, each up to its <|im_end|>."""
    stop, found = text.tokenizer.special_tokens[IM_END], []
    for start in range(0, len(requests), batch_size):
        prompts = [
            encode_chat(
                text.tokenizer,
                [{"role": "user", "content": request}],
                template=TEMPLATE,
                generation_prompt=True,
            ).ids
            for request in requests[start : start + batch_size]
        ]
        ids, mask = left_pad(prompts, text.end)
        written = generate(
            params,
            text.config,
            ids,
            max_new_tokens=max_new_tokens,
            eos_token_ids=[stop],
            attention_mask=mask,
        )
        for row in written[:, ids.shape[1] :].tolist():
            end = row.index(stop) if stop in row else len(row)
            found.append(text.tokenizer.decode(row[:end], errors="replace"))
    return found


def take_facts(out: Path, results: Results, settings: RecipeSettings, code: Sequence[str]) -> None:
    """Note what the numbers come from.

    Raises:
        ValueError: what is there came from another code. Its runs did too, so nothing is dropped
            to be measured again.
    """
    made_of = fingerprint(settings.to_dict(), {}, np.zeros(0), (*CODE, *code))
    old = results.facts.get("fingerprint")
    if old is not None and old != made_of:
        raise ValueError(f"the study in {out} was made by another code: use another folder")
    versions = f"NumPy {np.__version__}, Python {platform.python_version()}"
    results.start(results.facts | {"fingerprint": made_of, "machine": versions})


def run_study(
    out: Path,
    kind: str,
    cell: Sequence[str],
    settings: RecipeSettings,
    code: Sequence[str],
    measure: Callable[[Results, int], None],
    write: Callable[[Path, Results], Path],
    say: Callable[[str], None],
) -> Results:
    """Measure every seed, then write the report.

    Args:
        out: folder of the study; made if missing. One that holds anything else is refused.
        kind: the command.
        cell: what is in a cell.
        settings: of the study.
        code: files of minqwen that are its own.
        measure: puts the cells of a seed that are missing.
        write: writes the pages; returns the first.
        say: is told one line after another.

    Raises: see frame.opened; ValueError too if what is there came from another code.
    """
    with opened(out, kind, cell, settings.to_dict(), progress=False) as results:
        take_facts(out, results, settings, code)
        for seed in range(settings.seed, settings.seed + settings.seeds):
            start, wall = time.process_time(), time.perf_counter()
            try:
                measure(results, seed)
            finally:  # what was stopped was work too
                spent = results.facts.setdefault("seconds", {}).setdefault(str(seed), [0.0, 0.0])
                spent[0] += time.process_time() - start
                spent[1] += time.perf_counter() - wall
                results.save()
            say(f"seed {seed}: {spent[0]:.0f} s of the processor, {spent[1]:.0f} s in all")
        say(f"the report: {write(out, results)}")
    return results


class Difference(NamedTuple):
    mean: float
    error: float  # standard error; nan with one seed
    seeds: int
    one_sign: bool

    @property
    def sure(self) -> int:
        """1 or -1 when it counts as above or below zero, else 0."""
        if self.seeds < SURE or not self.one_sign or abs(self.mean) <= 2 * self.error:
            return 0
        return 1 if self.mean > 0 else -1

    def text(self, digits: int = 3, percent: bool = False) -> str:
        """Return it as it stands in a table."""
        scale, unit = (100, " points") if percent else (1, "")
        error = "" if math.isnan(self.error) else f" (± {scale * self.error:.{digits}f})"
        return f"{scale * self.mean:+.{digits}f}{unit}{error}"


def difference(one: Sequence[float], other: Sequence[float]) -> Difference:
    """Compare two arms, seed by seed.

    >>> difference([3.0, 4.0, 5.0], [1.0, 2.0, 2.9]).sure
    1
    >>> difference([3.0, 4.0], [1.0, 2.0]).sure  # too few seeds
    0
    """
    d = np.asarray(one, float) - np.asarray(other, float)
    error = float(d.std(ddof=1) / math.sqrt(len(d))) if len(d) > 1 else math.nan
    return Difference(float(d.mean()), error, len(d), bool((d > 0).all() or (d < 0).all()))


def verdict(sign: int) -> str:
    """Return the verdict of a claim that a difference is above zero."""
    return {1: AGREES, -1: DISAGREES, 0: UNDECIDED}[sign]


def values(results: Results, arm: str, key: str) -> list[float]:
    """Return a number of an arm, of every seed in order; key may be "a.b" for what is nested."""
    found = []
    for _, cell in sorted(results.cells[arm].items(), key=lambda item: int(item[0])):
        value: Any = cell
        for part in key.split("."):
            value = value[part]
        found.append(float(value))
    return found


def mean_and_spread(numbers: Sequence[float], digits: int = 3, percent: bool = False) -> str:
    """Return the mean over seeds, and the standard deviation where there are several.

    >>> mean_and_spread([1.0, 3.0], 1), mean_and_spread([0.5], 0, percent=True)
    ('2.0 (1.4)', '50 %')
    """
    scale, unit = (100, " %") if percent else (1, "")
    x = scale * np.asarray(numbers, float)
    spread = f" ({x.std(ddof=1):.{digits}f})" if len(x) > 1 else ""
    return f"{x.mean():.{digits}f}{unit}{spread}"


def sentence(text: str) -> str:
    """Return the text with its spaces made one, as findings are joined from lines."""
    return re.sub(r"\s+", " ", text).strip()
