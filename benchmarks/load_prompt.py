"""A long prompt through a small model, and then some tokens: how much memory, how long.

The model is the one of 5 million parameters that cases.py times. The prompt goes in whole, through
`generate`, or by chunks into a KV cache; then tokens are chosen greedily, one by one.

    full      every query sees all before it: blocks of queries, layers/block_attention.py
    flash     the same with tiles and a running maximum, layers/flash_attention.py
    window    a query sees the last WINDOW tokens; the cache holds two windows and rolls
    ntk       dynamic NTK with LogN, trained length a sixteenth of the text
    chunks    dual chunk attention

Every kind runs in a process of its own whose address space is limited: what does not fit is a
MemoryError. `check` compares each, chunks, cache and all, with the whole text at once through
layers/attention.py and its explicit mask, in float64 on 512 tokens. And at full length `window`
has a second answer: through L layers the last logits depend on the last L * (W - 1) + 1 tokens
only, so these alone, at their positions and without a cache, must give the same.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from minqwen.backend import Array
from minqwen.layers.attention import attention_forward
from minqwen.layers.flash_attention import flash_attention_forward
from minqwen.long_context.window import window_mask
from minqwen.model import self_attention
from minqwen.model.config import QwenConfig
from minqwen.model.generate import generate
from minqwen.model.init import init_params
from minqwen.model.kv_cache import KVCache
from minqwen.model.language_model import language_model_forward
from minqwen.params import Params

from .cases import MODEL
from .load import LIMIT
from .load_soak import MIB, peak_resident, resident

KINDS = ("full", "flash", "window", "ntk", "chunks")
CHUNK = 2048  # tokens of the prompt in a pass; None: all
NEW = 64
ROWS = (  # of the table: kind, chunk. As alpha changes, ntk by chunks would start again and again
    ("full", None),
    ("window", None),
    ("window", CHUNK),
    ("full", CHUNK),
    ("flash", CHUNK),
    ("ntk", None),
    ("chunks", CHUNK),
)
SAME = ({"full"}, {"full", "flash"}, {"window"})  # must give the same answer


class Answer(NamedTuple):
    logits: Array | None  # (V,) after the prompt; generate does not show them
    tokens: list[int]  # chosen after it
    reading: float  # seconds of CPU time
    writing: float
    cache_bytes: int


def long_config(kind: str, total: int, model: dict[str, Any]) -> QwenConfig:
    """Return the config of a kind for texts of `total` tokens."""
    config = QwenConfig(**model, max_position_embeddings=max(total, 2))
    if kind == "window":
        return replace(
            config, use_sliding_window=True, sliding_window=total // 32, max_window_layers=0
        )
    if kind == "ntk":  # alpha is the same from the first of the last half of the tokens on
        trained = -(-total // 16)
        return replace(
            config, max_position_embeddings=trained, use_dynamic_ntk=True, use_logn_attn=True
        )
    if kind == "chunks":
        sizes = {"chunk_size": total // 16, "local_size": total // 64}
        return replace(config, dual_chunk_attention_config=sizes)
    return config


@contextmanager
def kernel(forward: Any) -> Iterator[None]:
    """Let the model's layers use another attention than block attention."""
    before = self_attention.block_attention_forward
    self_attention.block_attention_forward = forward
    try:
        yield
    finally:
        self_attention.block_attention_forward = before


def plain_attention(
    q: Array, k: Array, v: Array, real: Any = None, *, window: int | None = None, segments: Any
) -> tuple[Array, Any]:
    """Attend by layers/attention.py, where the T x S mask is there to look at."""
    T, S = q.shape[2], k.shape[2]
    return attention_forward(q, k, v, window_mask(T, S, window or S))


def flash_attention(
    q: Array, k: Array, v: Array, real: Any = None, *, window: int | None = None, segments: Any
) -> tuple[Array, Any]:
    return flash_attention_forward(q, k, v, real, window=window)


def read_and_write(
    params: Params, config: QwenConfig, prompt: Array, new: int, chunk: int
) -> Answer:
    """Read a prompt (T,) by chunks and choose `new` tokens greedily."""
    T, start = len(prompt), time.process_time()
    kv_cache = KVCache(config, 1, T + new, like=params["model.embed_tokens.weight"])
    for i in range(0, T, chunk):
        logits = step(params, config, prompt[i : i + chunk], kv_cache)
    first, middle = logits, time.process_time()
    tokens: list[int] = []
    for _ in range(new):
        tokens.append(int(logits.argmax()))
        if len(tokens) < new:
            logits = step(params, config, np.array(tokens[-1:]), kv_cache)
    end = time.process_time()
    return Answer(first, tokens, middle - start, end - middle, kv_cache.nbytes)


def through_generate(params: Params, config: QwenConfig, prompt: Array, new: int) -> Answer:
    """Let `generate` read a prompt (T,) in one pass and choose `new` tokens greedily."""
    start = time.process_time()
    stream = generate(params, config, prompt[None], max_new_tokens=new, stream=True)
    tokens = [int(next(stream)[0])]
    middle = time.process_time()
    tokens += [int(token[0]) for token in stream]
    end = time.process_time()
    cache_bytes = KVCache(config, 1, len(prompt) + new).nbytes  # as large as the one it made
    return Answer(None, tokens, middle - start, end - middle, cache_bytes)


def step(params: Params, config: QwenConfig, ids: Array, kv_cache: KVCache) -> Array:
    """Return the logits (V,) of the last token; those of the others are never made."""
    logits, _ = language_model_forward(params, config, ids[None], kv_cache=kv_cache, last_only=True)
    return logits[0, -1]


def draw_prompt(tokens: int, config: QwenConfig) -> Array:
    return np.random.default_rng(1).integers(0, config.vocab_size, tokens)


def run_kind(
    kind: str, tokens: int, new: int, chunk: int | None, model: dict[str, Any] = MODEL
) -> tuple[dict[str, Any], Answer]:
    """Read and write in this process; say what it took."""
    config = long_config(kind, tokens + new, model)
    params = init_params(config, np.random.default_rng(0))
    prompt, before = draw_prompt(tokens, config), resident()
    with kernel(flash_attention if kind == "flash" else self_attention.block_attention_forward):
        if chunk is None:
            answer = through_generate(params, config, prompt, new)
        else:
            answer = read_and_write(params, config, prompt, new, chunk)
    found = {
        "kind": kind,
        "tokens": tokens,
        "new": new,
        "chunk": chunk,
        "reading": answer.reading,
        "writing": answer.writing,
        "cache_mib": answer.cache_bytes / MIB,
        "before_mib": before / MIB,
        "peak_mib": peak_resident() / MIB,
        "ids": answer.tokens,
    }
    if kind == "window" and answer.logits is not None:
        found["differs"] = difference(answer.logits, last_tokens_only(params, config, prompt))
        found["beside"] = "the last tokens alone"
    return found, answer


def last_tokens_only(params: Params, config: QwenConfig, prompt: Array) -> Array:
    """Return the last logits (V,) of a model with windows from the few tokens they depend on."""
    sees = config.num_hidden_layers * ((config.sliding_window or 1) - 1) + 1
    first = max(0, len(prompt) - sees)
    logits, _ = language_model_forward(
        params,
        config,
        prompt[None, first:],
        positions=np.arange(first, len(prompt)),
        last_only=True,
    )
    return logits[0, -1]


def check(
    kind: str, tokens: int = 512, chunk: int | None = 100, model: dict[str, Any] = MODEL
) -> float:
    """Return the difference, in float64, from the whole text at once by plain attention.

    Dual chunk attention has no other kernel: there the other side is it, without cache and chunks.
    Compared are the logits after the prompt and, where the text goes on, those of every step.
    """
    config = long_config(kind, tokens, model)
    params = init_params(config, np.random.default_rng(0), dtype="float64")
    ids, split = draw_prompt(tokens, config), tokens - 8
    kv_cache, found = KVCache(config, 1, tokens, dtype="float64"), []
    with kernel(flash_attention if kind == "flash" else self_attention.block_attention_forward):
        for i in range(0, split, chunk or split):
            logits = step(params, config, ids[i : min(i + (chunk or split), split)], kv_cache)
        found.append(logits)
        for i in range(split, tokens):
            found.append(step(params, config, ids[i : i + 1], kv_cache))
    with kernel(plain_attention):
        logits, _ = language_model_forward(params, config, ids[None])
    return difference(np.array(found), logits[0, split - 1 :])


def report(rows: list[dict[str, Any]]) -> str:
    """Return what run_kind found as Markdown."""
    first = rows[0]
    lines = [
        f"{first['machine']}. {first['tokens']:,} tokens, then {first['new']} more; CPU time of "
        f"one thread. Each in a process of its own, with {LIMIT} GiB of address space.",
        "",
        "| attention | prompt in | most memory, MiB | before, MiB | cache, MiB | prompt, s "
        "| tokens/s | a token after it, ms |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for r in rows:
        pass_ = f"passes of {r['chunk']:,}" if r["chunk"] else "one pass"
        lines.append(
            f"| {r['kind']} | {pass_} | **{r['peak_mib']:,.0f}** | {r['before_mib']:.0f} "
            f"| {r['cache_mib']:.1f} | {r['reading']:.1f} | {r['tokens'] / r['reading']:,.0f} "
            f"| {1000 * r['writing'] / max(1, r['new'] - 1):.1f} |"
        )
    ids = all(r.get("same_ids", True) for r in rows)
    said = [f"{r['kind']} from {r['beside']} {r['differs']:.0e}" for r in rows if "differs" in r]
    lines += [
        "",
        f"The same {first['new']} tokens in every row of full and flash, and in every row of "
        f"window: {'yes' if ids else 'NO'}. Difference of the logits after the prompt: "
        f"{', '.join(said)}.",
    ]
    checks = ", ".join(f"{r['check_of']} {r['check']:.0e}" for r in rows if "check" in r)
    lines += [f"In float64, 512 tokens, beside plain attention: {checks}."]
    return "\n".join(lines)


def compare(rows: list[dict[str, Any]], logits: dict[int, Array]) -> list[str]:
    """Note in every row how its answer was checked at full length; return complaints.

    Args:
        rows: of ROWS.
        logits: of the rows that have some, by their place.
    """
    complaints = []
    for i, row in enumerate(rows):
        for j in range(i):
            if {rows[j]["kind"], row["kind"]} not in SAME:
                continue
            row["same_ids"] = row["ids"] == rows[j]["ids"]
            if not row["same_ids"]:
                complaints.append(f"{row['kind']}: other tokens than {rows[j]['kind']} above")
            if i in logits and j in logits:
                row["differs"] = difference(logits[i], logits[j])
                row["beside"] = rows[j]["kind"]
        if not row.get("differs", 0.0) <= 1e-4:
            complaints.append(f"{row['kind']}: differs by {row['differs']:.1e}")
    return complaints


def difference(found: Array, wanted: Array) -> float:
    """Return the largest difference over the largest number."""
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())
