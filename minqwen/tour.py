"""The tour: the whole path once, on text that comes with Python, in about two minutes.

1. prove      every concept's gradient against central differences
2. tokenize   train a tokenizer, cut sentences in two languages
3. train      a small Qwen2, with every gradient written by hand
4. sample     from it, before and after
5. report     one page with plots, `tour/index.html`, that needs nothing else
"""

from __future__ import annotations

import shutil
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from . import tour_page
from .check.concepts import BOUND, CONCEPTS, gradient_table
from .cli import program
from .data.corpora import bilingual_stories, python_reference
from .data.packing import pack_documents
from .extras import require_extra
from .layers.attention import attention_forward, causal_mask
from .layers.block_attention import BlockAttentionCache
from .model.accounting import cost
from .model.config import QwenConfig
from .model.generate import generate
from .model.init import init_params
from .model.language_model import language_model_forward
from .model.presets import own_size
from .params import Params
from .tokenizer.bpe import Tokenizer, bpe_train
from .training.metrics import Metrics
from .training.pretrain import PretrainSettings, pretrain
from .training.progress import wants_bar

VOCAB_SIZE, CONTEXT, BATCH, STORIES, HELD_OUT = 2048, 128, 8, 1000, 30
PROMPTS = (
    "The following",
    "A class definition",
    "Long ago Grandfather Li sat",
    "很久以前，",
)
SENTENCES = {
    "English": "The name is bound to an object.",
    "Chinese": "很久以前，李爷爷坐在港口。",
    "numbers": "12 + 9 = 21, 2024 年",
    "code": "for i in range(10):\n    print(i)",
}
MARK = ".made-by-minqwen-tour"


def tour(out: Path, *, steps: int = 300, seed: int = 0) -> int:
    """Take the tour and write the page.

    Args:
        out: folder for the page and the trained model; made if missing. An earlier tour in it is
            replaced; a folder that holds anything else is refused.
        steps: training steps.
        seed: of the text, the parameters, the order of training and the sampling.

    Returns:
        0, or 1 if a gradient is wrong.

    Raises:
        ImportError: matplotlib or tqdm is missing; with the pip line, before any work.
        FileExistsError: out holds files that are not of a tour.
    """
    require_extra("matplotlib", *["tqdm"] * wants_bar(True))
    settings = PretrainSettings(
        steps=steps,
        batch_size=BATCH,
        context_length=CONTEXT,
        peak_lr=3e-3,
        warmup_steps=min(20, steps),
        checkpoint_every=max(steps // 3, 1),
        eval_every=max(steps // 10, 1),
        seed=seed,
    )
    prepare_folder(out)
    start = time.perf_counter()

    say("1/5 proving every gradient (central differences, float64)")
    proofs = prove()
    wrong = [row["concept"] for row in proofs if not row["error"] < BOUND]

    say("\n2/5 training a tokenizer")
    documents = python_reference() + bilingual_stories(STORIES, seed=seed)
    tokenizer, packing = train_tokenizer(documents)

    say("\n3/5 training a small Qwen2")
    config = own_size("small", tokenizer.vocab_size)
    separator = tokenizer.special_tokens["<|endoftext|>"]
    ids = [tokenizer.encode(text, disallowed_special=()) for text in documents]
    rows = pack_documents(ids, CONTEXT, separator, np.random.default_rng(seed))
    held_out = np.arange(len(rows)) % HELD_OUT == 0  # rows of every kind, never trained on
    rows, validation = rows[~held_out], rows[held_out]
    size = cost(config, BATCH, CONTEXT)
    say(
        f"    {rows.shape[0] * CONTEXT:,} tokens, {size.parameters:,} parameters, "
        f"{size.training_flops / 1e9:.1f} GFLOPs a step"
    )
    fresh = init_params(config, np.random.default_rng(seed))
    params = pretrain(
        config,
        rows,
        out / "run",
        settings,
        validation_rows=validation,
        params=fresh,
        tokenizer=tokenizer,
        plot=False,
    )

    say("\n4/5 sampling")
    samples = [sample_all(model, config, tokenizer, seed) for model in (fresh, params)]
    for prompt, before, after in zip(PROMPTS, *samples, strict=True):
        say(f"    before: {prompt}{one_line(before)[:60]}")
        say(f"    after:  {prompt}{one_line(after)}\n")

    say("5/5 writing the page")
    seconds = time.perf_counter() - start
    page = tour_page.write_page(
        out / "index.html",
        proofs=proofs,
        packing=packing,
        config=config,
        cost=size,
        metrics=Metrics.read(out / "run"),
        attention=look_at_attention(params, config, tokenizer, PROMPTS[2] + " in the harbour"),
        samples=list(zip(PROMPTS, *samples, strict=True)),
        seconds=seconds,
    )
    say(f"    {page} ({seconds:.0f} s in all); open it in a browser")
    say(f"    the model: {program()} generate {out / 'run'} 'Long ago' --temperature 0.8")
    if wrong:
        say(f"WRONG gradients: {', '.join(wrong)}")
    return 1 if wrong else 0


def say(text: str) -> None:
    """Print at once."""
    print(text, flush=True)


def one_line(text: str) -> str:
    """Show line breaks as a sign."""
    return text.replace("\n", "⏎")


def prepare_folder(out: Path) -> None:
    """Make the folder, or clear it of an earlier tour."""
    if out.exists():
        if not out.is_dir():
            raise FileExistsError(f"{out} is a file")
        if any(out.iterdir()) and not (out / MARK).is_file():
            raise FileExistsError(f"{out} holds other files; choose another --out")
        shutil.rmtree(out / "run", ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    (out / MARK).write_text("This folder is rewritten by `minqwen tour`.\n", encoding="utf-8")


def prove() -> list[dict[str, Any]]:
    """Check every concept and print a line for each."""
    proofs = []
    for row in CONCEPTS:
        errors = list(gradient_table(row))
        worst = max(error.error for _, error in errors)
        proofs.append(
            {
                "concept": row.name,
                "report": row.report,
                "equation": row.equation,
                "gradients": len(errors),
                "error": worst,
            }
        )
        say(f"    {row.name:<16} {len(errors):>3} gradients, largest relative error {worst:.1e}")
    return proofs


def train_tokenizer(documents: list[str]) -> tuple[Tokenizer, list[dict[str, Any]]]:
    """Train on the documents; return it and how it cuts some sentences."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer pairs than asked for is fine here
        tokenizer = bpe_train(documents, VOCAB_SIZE)
    packing = []
    for name, text in SENTENCES.items():
        ids = tokenizer.encode(text)
        pieces = [tokenizer.decode([i], errors="backslashreplace") for i in ids]
        rate = len(text.encode("utf-8")) / len(ids)
        packing.append({"name": name, "pieces": pieces, "ids": ids, "bytes_per_token": rate})
        say(f"    {name:<8} {'|'.join(one_line(p) for p in pieces)}  ({rate:.1f} bytes a token)")
    return tokenizer, packing


def sample_all(params: Params, config: QwenConfig, tokenizer: Tokenizer, seed: int) -> list[str]:
    """Continue every prompt."""
    texts = []
    stop = tokenizer.special_tokens["<|endoftext|>"]
    for prompt in PROMPTS:
        ids = tokenizer.encode(prompt)
        out = generate(
            params,
            config,
            np.array([ids]),
            max_new_tokens=60,
            temperature=0.7,
            top_p=0.9,
            eos_token_ids=[stop],
            rng=np.random.default_rng(seed),
        )
        new = [int(i) for i in out[0, len(ids) :] if i != stop]
        texts.append(tokenizer.decode(new))
    return texts


def look_at_attention(
    params: Params, config: QwenConfig, tokenizer: Tokenizer, text: str
) -> dict[str, Any]:
    """Return the attention probabilities of the second layer for a sentence, a matrix per head.

    The model runs attention in blocks and keeps no probabilities, so they are computed again from
    the queries and keys in its cache.
    """
    ids = tokenizer.encode(text)
    _, cache = language_model_forward(params, config, np.array([ids]))
    assert cache is not None
    seen = cache.blocks[1].self_attn.attention
    assert isinstance(seen, BlockAttentionCache)
    T, H, Hkv = len(ids), config.num_attention_heads, config.num_key_value_heads
    q = seen.q.swapaxes(1, 2).reshape(1, H, T, -1)  # it carries the scale already
    k, v = (a.reshape(1, Hkv, T, -1) for a in (seen.k, seen.v))
    _, plain = attention_forward(q, k, v, causal_mask(T, T), scale=1.0)
    pieces = [tokenizer.decode([i], errors="backslashreplace") for i in ids]
    return {"pieces": pieces, "probs": plain.probs.reshape(H, T, T)}
