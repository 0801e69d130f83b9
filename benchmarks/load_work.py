"""A long day of one process, in rounds that all do the same: training, writing, tokenizing.

    train        pretrain, of a dense model and of one with experts: the run in its folder goes on
                 for a few steps, so each round reads a checkpoint and writes two; every
                 ROUNDS_OF_A_RUN rounds a new run starts and the old folder goes. A few gradients
                 with two threads.
    stream       sampled text, token by token; the second stream is dropped half way
    batch        rows of unlike length together
    window       a rolling cache, over many windows of text
    long         dynamic NTK with LogN past the trained length, then dual chunks
    speculative  a small model proposes 1 to 8 tokens, the large one reads them in one pass, and
                 its cache is cut back to what it agrees with
    tokenize     words never seen before, there and back; now and then a tokenizer is trained,
                 written and read

Every round ends with a text sampled from the same parameters with the same seed: it must be that of
the first round, and so must its logits. Nothing that stays behind may change an answer.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from minqwen.backend import Array
from minqwen.data.packing import pack_documents
from minqwen.model.config import QwenConfig
from minqwen.model.generate import generate, left_pad
from minqwen.model.init import init_params
from minqwen.model.kv_cache import KVCache
from minqwen.model.language_model import language_model_forward
from minqwen.model.presets import own_size
from minqwen.params import Params
from minqwen.tokenizer.bpe import Tokenizer, bpe_train
from minqwen.training.accumulate import as_batch, loss_and_grads
from minqwen.training.pretrain import pretrain
from minqwen.training.settings import PretrainSettings

ROUNDS_OF_A_RUN = 6
STEPS = 4  # of a round
NEW_WORDS = 30_000  # of a round: the table of remembered words is emptied every few rounds
LETTERS = "abcdefghijklmnopqrstuvwxyzäöü日月山川水火木金土人"


class Day:
    """The pieces of work, and what they need.

    Args:
        folder: empty or missing; runs and tokenizers are written there.
        size: of the models, see OWN_SIZES.
        words: new ones in a round.
    """

    def __init__(self, folder: Path, size: str = "small", words: int = NEW_WORDS) -> None:
        self.folder, self.words = folder, words
        self.folder.mkdir(parents=True, exist_ok=True)
        texts = [made_up_text(np.random.default_rng([0, i]), 300) for i in range(60)]
        self.tokenizer = bpe_train(texts, merges=200)
        V, end = self.tokenizer.vocab_size, self.tokenizer.special_tokens["<|endoftext|>"]
        self.config = own_size(size, V)
        self.configs = {"dense": self.config, "experts": own_size("tiny-moe", V)}
        self.rows = pack_documents(self.tokenizer.encode_batch(texts), 128, end)
        self.params: dict[str, Params] = {}
        self.fixed = init_params(self.config, np.random.default_rng(0))
        self.answer: tuple[Array, Array] | None = None
        self.plot = importlib.util.find_spec("matplotlib") is not None

    def pieces(self) -> dict[str, Callable[[int], None]]:
        """Return the work of a round."""
        return {
            "train": self.train,
            "stream": self.stream,
            "batch": self.batch,
            "window": self.window,
            "long": self.long,
            "speculative": self.speculative,
            "tokenize": self.tokenize,
            "same answer": self.same_answer,
        }

    def state(self) -> dict[str, int]:
        """Return what a sample shall hold beside what the process holds."""
        files = sum(path.is_file() for path in self.folder.rglob("*"))
        return {"files": files, "words": self.remembered()}

    def remembered(self) -> int:
        """Return the entries of the fullest table of the tokenizer."""
        known = self.tokenizer._known
        return max(map(len, (known, known.parts, known.cuts)))

    def train(self, i: int) -> None:
        run, part = divmod(i, ROUNDS_OF_A_RUN)
        for name, config in self.configs.items():
            if part == 0:
                shutil.rmtree(self.folder / f"{name}-{run - 1}", ignore_errors=True)
            settings = PretrainSettings(
                steps=STEPS * (part + 1),
                batch_size=4,
                accumulate=2,
                context_length=128,
                warmup_steps=2,
                separator_id=self.tokenizer.special_tokens["<|endoftext|>"],
                seed=run,
                checkpoint_every=STEPS // 2,
                eval_every=STEPS,
                validation_share=0.1,
            )
            self.params[name] = pretrain(
                replace(config, dropout=0.1),
                self.rows,
                self.folder / f"{name}-{run}",
                settings,
                tokenizer=self.tokenizer,
                progress=False,
                plot=self.plot,
            )
        pieces = [as_batch(self.rows[:2]), as_batch(self.rows[2:4])]
        loss_and_grads(self.params["dense"], self.config, pieces, threads=2)

    def prompt(self, i: int, length: int) -> Array:
        """Return length tokens, others in every round."""
        rng = np.random.default_rng([1, i])
        return np.array(self.tokenizer.encode(made_up_text(rng, 40 + length))[:length])

    def write(self, config: QwenConfig, prompt: Array, new: int, i: int, **more: Any) -> Any:
        """Sample `new` tokens."""
        options: dict[str, Any] = {"temperature": 0.8, "top_p": 0.9, "top_k": 50}
        rng = np.random.default_rng([2, i])
        rows = np.atleast_2d(prompt)
        params = self.params["dense"]
        return generate(params, config, rows, max_new_tokens=new, rng=rng, **options, **more)

    def stream(self, i: int) -> None:
        for stop_at in (100, 100, 5 + i % 40):
            decoder, text = self.tokenizer.stream_decoder(), ""
            tokens = self.write(self.config, self.prompt(i, 30), 100, i, stream=True)
            for token in islice(tokens, stop_at):
                text += decoder.push(int(token[0]))
            text += decoder.finish()

    def batch(self, i: int) -> None:
        rng = np.random.default_rng([3, i])
        lengths = rng.integers(1, 90, 6)
        ids, mask = left_pad([self.prompt(i, n).tolist() for n in lengths], pad_id=0)
        eos = (int(rng.integers(self.config.vocab_size)),)
        self.write(self.config, ids, 80, i, attention_mask=mask, eos_token_ids=eos)

    def window(self, i: int) -> None:
        config = replace(
            self.config, use_sliding_window=True, sliding_window=24, max_window_layers=0
        )
        self.write(config, self.prompt(i, 100), 150, i)

    def long(self, i: int) -> None:
        ntk = replace(
            self.config, max_position_embeddings=64, use_dynamic_ntk=True, use_logn_attn=True
        )
        chunks = replace(
            self.config, dual_chunk_attention_config={"chunk_size": 48, "local_size": 16}
        )
        for config in (ntk, chunks):
            self.write(config, self.prompt(i, 120), 60, i)

    def speculative(self, i: int) -> None:
        """Decode greedily with proposals of a smaller model."""
        prompt = self.prompt(i, 40)[None]
        rng, new = np.random.default_rng([4, i]), 120
        end = prompt.shape[1] + new
        ids = prompt
        own = KVCache(self.config, 1, end + 8)
        helper = KVCache(self.configs["experts"], 1, end + 8)
        while ids.shape[1] < end:
            length, asked = ids.shape[1], int(rng.integers(1, 9))
            read = ids
            for _ in range(asked):
                logits, _ = language_model_forward(
                    self.params["experts"],
                    self.configs["experts"],
                    read[:, helper.length :],
                    kv_cache=helper,
                    last_only=True,
                )
                read = np.concatenate((read, logits[:, -1].argmax(-1)[:, None]), axis=1)
            seen = own.length
            logits, _ = language_model_forward(
                self.params["dense"], self.config, read[:, seen:], kv_cache=own
            )
            best = logits[0, length - 1 - seen :].argmax(-1)  # what follows ids, and each proposal
            agreed = np.cumprod(best[:-1] == read[0, length:]).sum()
            ids = np.concatenate((read[:, : length + agreed], best[None, agreed : agreed + 1]), 1)
            own.truncate(ids.shape[1] - 1)
            helper.truncate(min(helper.length, ids.shape[1] - 1))

    def tokenize(self, i: int) -> None:
        text = made_up_text(np.random.default_rng([5, i]), self.words)
        ids = self.tokenizer.encode(text)
        streamed = "".join(self.tokenizer.decode_stream(ids[:5000]))
        if self.tokenizer.decode(ids) != text or not text.startswith(streamed[:-1]):
            raise AssertionError(f"round {i}: the text did not come back")
        if self.remembered() > self.tokenizer._known.limit:
            raise AssertionError(f"{self.remembered()} words remembered")
        if i % ROUNDS_OF_A_RUN == 0:
            learned = bpe_train(text[:60_000], merges=100)
            again = Tokenizer.from_pretrained(learned.save_pretrained(self.folder / "tokenizer"))
            if again.ranks != learned.ranks:
                raise AssertionError(f"round {i}: a tokenizer did not come back")

    def same_answer(self, i: int) -> None:
        prompt = self.prompt(0, 30)[None]
        options: dict[str, Any] = {"temperature": 1.0, "rng": np.random.default_rng(0)}
        ids = generate(self.fixed, self.config, prompt, max_new_tokens=40, **options)
        logits, _ = language_model_forward(self.fixed, self.config, ids)
        self.answer = self.answer or (ids, logits)
        if not (ids == self.answer[0]).all() or not np.allclose(logits, self.answer[1], 0, 1e-5):
            raise AssertionError(f"round {i}: another answer than in the first round")


def made_up_text(rng: np.random.Generator, words: int) -> str:
    """Return random words, of 3 to 9 letters: nearly all of them new."""
    lengths = rng.integers(3, 10, words)
    letters = np.array(list(LETTERS))[rng.integers(len(LETTERS), size=int(lengths.sum()))]
    all_letters, ends = "".join(letters), lengths.cumsum().tolist()
    starts = [0, *ends[:-1]]
    return " ".join(all_letters[a:b] for a, b in zip(starts, ends, strict=True))
