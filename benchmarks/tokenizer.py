"""Tokenizer: training and encoding, side by side with tokenizers, tiktoken and a plain recount.

    python -m benchmarks.tokenizer [--quick]

The text is about 8 MB that every machine with Python has or can make: sources of the standard
library (4 MB), English out of its documentation and docstrings (2 MB), and Chinese words drawn at
random with Zipf's weights (2 MB; no sentences, but as hard for a tokenizer: few pre-tokens come
twice).

Times are CPU seconds of one thread (`RAYON_NUM_THREADS=1`), so a busy neighbour counts less. Ours
and its rivals take turns; printed are the median and [least, most]. A rival that is not installed
is left out. The vocabulary is Qwen's when the package dashscope, which brings it along, is
installed (it is not imported); else one of 8,000 merges trained on the spot.
"""

from __future__ import annotations

import ast
import os
import random
import statistics
import sys
import sysconfig
import tempfile
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("RAYON_NUM_THREADS", "1")  # read by tokenizers when it starts its threads

from minqwen.tokenizer.bpe import Tokenizer, bpe_train
from minqwen.tokenizer.pretokenizer import QWEN_PATTERN, clean, split


class Case(NamedTuple):
    name: str
    ours: Callable[[], object]
    rivals: dict[str, Callable[[], object]]  # only those that are installed
    megabytes: float  # of UTF-8 that one call works through


def installed(package: str) -> bool:
    return find_spec(package) is not None


# --- text ---------------------------------------------------------------------------------------


@cache
def code_text(size: int = 4_000_000) -> str:
    """Sources of the standard library, in the order of their names."""
    return _first(size, _stdlib_sources())


@cache
def english_text(size: int = 2_000_000) -> str:
    """The language reference that ships with Python, then docstrings of the standard library."""
    from pydoc_data import topics

    def texts() -> Iterator[str]:
        yield from topics.topics.values()
        for source in _stdlib_sources():
            try:
                nodes = list(ast.walk(ast.parse(source)))
            except SyntaxError:  # some test data is broken on purpose
                continue
            kinds = ast.Module | ast.ClassDef | ast.FunctionDef
            yield from filter(None, (ast.get_docstring(n) for n in nodes if isinstance(n, kinds)))

    return _first(size, texts())


@cache
def chinese_text(size: int = 2_000_000) -> str:
    """Random words of one to four common characters with Zipf's weights, in clauses."""
    characters = (
        "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里"
        "用道行所然家种事成方多经么去法学如都同现当没动面起看定天分还进好小部其些主样理心她本前开但因只从想实"
        "日军者意无力它与长把机十民第公此已工使情明性知全三又关点正业外将两高间由问很最重并物手应战向头文体政"
        "美相见被利什二等产或新己制身果加西斯月话合回特代内信表化老给世位次度门任常先海通教儿原东声提立及比员"
    )
    rng = random.Random(0)
    words = [
        "".join(rng.choices(characters, k=rng.choice((1, 2, 2, 2, 3, 4)))) for _ in range(8000)
    ]
    weights = [1 / (rank + 3) for rank in range(len(words))]
    clauses: list[str] = []
    length = 0
    while length < size:
        clause = "".join(rng.choices(words, weights, k=rng.randint(3, 12)))
        clauses.append(clause + rng.choice(("，", "，", "。", "、", "！", "：", "。\n")))
        length += 3 * len(clauses[-1])
    return "".join(clauses)


def _stdlib_sources() -> Iterator[str]:
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        if not {"site-packages", "test", "tests", "idlelib"}.intersection(path.parts):
            try:
                yield path.read_text(encoding="utf-8")
            except (UnicodeDecodeError, OSError):
                continue


def _first(size: int, texts: Iterator[str]) -> str:
    parts: list[str] = []
    length = 0
    for text in texts:
        parts.append(text)
        length += len(text)
        if length >= size:
            break
    return "\n".join(parts)[:size]


def megabytes(*texts: str) -> float:
    return sum(len(text.encode("utf-8")) for text in texts) / 1e6


# --- rivals -------------------------------------------------------------------------------------


def recount_train(text: str, merges: int) -> list[tuple[int, int]]:
    """The textbook training: count all pairs of the whole text anew for every merge."""
    words = [list(piece.encode("utf-8")) for piece in split(text)]
    learned: list[tuple[int, int]] = []
    for new in range(256, 256 + merges):
        counts: Counter[tuple[int, int]] = Counter()
        for word in words:
            for pair in pairwise(word):
                counts[pair] += 1
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        learned.append(best)
        words = [_merge_ids(word, best, new) for word in words]
    return learned


def _merge_ids(word: list[int], pair: tuple[int, int], new: int) -> list[int]:
    merged: list[int] = []
    i = 0
    while i < len(word):
        if i + 1 < len(word) and (word[i], word[i + 1]) == pair:
            merged.append(new)
            i += 2
        else:
            merged.append(word[i])
            i += 1
    return merged


def tokenizers_train(texts: list[str], merges: int) -> object:
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    rival = Tokenizer(models.BPE())
    rival.normalizer = normalizers.NFC()
    rival.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=256 + merges,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rival.train_from_iterator(texts, trainer)
    return rival


# --- cases --------------------------------------------------------------------------------------


@cache
def vocabulary() -> Tokenizer:
    """Qwen's own when dashscope is installed, else one that is trained here."""
    spec = find_spec("dashscope")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (file := Path(folder) / "resources" / "qwen.tiktoken").is_file():
            return Tokenizer.from_pretrained(file)
    return bpe_train([code_text(), english_text(), chinese_text()], merges=8000)


def train_case(merges: int = 8000) -> Case:
    texts = [code_text(), english_text(), chinese_text()]
    rivals: dict[str, Callable[[], object]] = {}
    if installed("tokenizers"):
        rivals["tokenizers"] = lambda: tokenizers_train(texts, merges)
    size = megabytes(*texts)
    return Case(f"train {merges:,} merges", lambda: bpe_train(texts, merges=merges), rivals, size)


def recount_case(merges: int = 64, size: int = 300_000) -> Case:
    text = code_text()[:size]
    ours = bpe_train(text, merges=merges, normalize=False)
    pairs = recount_train(text, merges)
    tokens = [bytes([byte]) for byte in range(256)]
    for left, right in pairs:
        tokens.append(tokens[left] + tokens[right])
    assert dict(zip(tokens, range(len(tokens)), strict=True)) == ours.ranks
    rivals = {"recount": lambda: recount_train(text, merges)}
    train = lambda: bpe_train(text, merges=merges)  # noqa: E731
    return Case(f"train {merges} merges", train, rivals, megabytes(text))


def encode_cases(size: int = 1_000_000) -> Iterator[Case]:
    tokenizer = vocabulary()
    rivals: dict[str, Callable[[str], list[int]]] = {}
    if installed("tiktoken"):
        import tiktoken

        rivals["tiktoken"] = tiktoken.Encoding(
            "qwen",
            pat_str=QWEN_PATTERN,
            mergeable_ranks=tokenizer.ranks,
            special_tokens=tokenizer.special_tokens,
        ).encode_ordinary
    if installed("tokenizers"):
        import tokenizers

        with tempfile.TemporaryDirectory() as folder:
            file = tokenizer.save_pretrained(folder)
            fast = tokenizers.Tokenizer.from_file(str(file))
        rivals["tokenizers"] = lambda text: fast.encode(text).ids

    for name, whole in (
        ("code", code_text()),
        ("English", english_text()),
        ("Chinese", chinese_text()),
    ):
        text = clean(whole[: size if whole.isascii() else size // 3 if name == "Chinese" else size])
        ids = tokenizer.encode(text, disallowed_special=())
        for rival, encode in rivals.items():
            assert encode(text) == ids, f"{rival} gives other ids on {name}"
        assert unicodedata.is_normalized("NFC", text)

        def warm(text: str = text) -> object:
            return tokenizer.encode(text, disallowed_special=())

        def cold(text: str = text) -> object:
            tokenizer._known.forget()
            return tokenizer.encode(text, disallowed_special=())

        calls = {
            rival: (lambda text=text, encode=encode: encode(text))
            for rival, encode in rivals.items()
        }
        yield Case(f"encode {name}, cold", cold, calls, megabytes(text))
        yield Case(f"encode {name}, warm", warm, calls, megabytes(text))


def decode_case(size: int = 1_000_000) -> Case:
    tokenizer = vocabulary()
    text = english_text()[:size]
    ids = tokenizer.encode(text, disallowed_special=())
    rivals: dict[str, Callable[[], object]] = {}
    if installed("tiktoken"):
        import tiktoken

        encoding = tiktoken.Encoding(
            "qwen",
            pat_str=QWEN_PATTERN,
            mergeable_ranks=tokenizer.ranks,
            special_tokens=tokenizer.special_tokens,
        )
        rivals["tiktoken"] = lambda: encoding.decode(ids)
    return Case("decode English", lambda: tokenizer.decode(ids), rivals, megabytes(text))


def all_cases(quick: bool = False) -> Iterator[Case]:
    yield recount_case()
    yield train_case(1000 if quick else 8000)
    yield from encode_cases()
    yield decode_case()


# --- running alone ------------------------------------------------------------------------------


def cpu_seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def measure(case: Case, rounds: int) -> None:
    calls = {"ours": case.ours, **case.rivals}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(rounds):
        for name in sorted(calls, reverse=bool(i % 2)):
            times[name].append(cpu_seconds(calls[name]))
    ours = statistics.median(times["ours"])
    for name, seconds in times.items():
        middle = statistics.median(seconds)
        line = (
            f"{case.name:24s} {name:11s} {middle:8.3f} s [{min(seconds):.3f}, {max(seconds):.3f}]"
        )
        line += f" {case.megabytes / middle:8.2f} MB/s"
        print(
            line if name == "ours" else f"{line}   ours / {name} = {ours / middle:.3f}", flush=True
        )


def main() -> None:
    quick = "--quick" in sys.argv[1:]
    print(f"vocabulary: {vocabulary().n_regular:,} tokens; CPU seconds, one thread")
    for case in all_cases(quick):
        measure(case, rounds=3 if case.name.startswith("train") else 5 if quick else 7)


if __name__ == "__main__":
    main()
