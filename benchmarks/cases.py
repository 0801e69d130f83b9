"""What is timed, in which sizes, and how fast it should be: the list of all cases.

The calls are made in layer_cases.py, model_cases.py and tokenizer.py. A goal is our time over the
rival's; with two numbers, the first is for one thread and the second for two.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from .harness import Call, Case, Work
from .layer_cases import (
    adamw,
    attention,
    cross_entropy,
    embedding,
    flash_attention,
    linear_cross_entropy,
    moe,
    rmsnorm,
    rope,
    swiglu,
)
from .model_cases import decode, prefill, training_step

# --- tokenizer: tokenizer.py makes the texts and calls, and asserts equal ids itself ------------


def tokenizer(kind: str, name: str = "", **sizes: int) -> Work:
    from . import tokenizer as module

    if kind == "encode":
        case = encode_cases()[name]
    else:
        case = {"train": module.train_case, "recount": module.recount_case}[kind](**sizes)
    calls = {"ours": case.ours, **case.rivals}
    if kind == "train":  # ties are broken differently, so compare how many tokens a text becomes
        text = module.english_text()[:100_000]
        calls = {who: _train_and_count(call, text) for who, call in calls.items()}
    if kind == "recount":  # asserted to be equal in there
        calls = {who: _train_only(call) for who, call in calls.items()}
    rivals = {who: lambda call=call: call for who, call in calls.items() if who != "ours"}
    for package in ("tiktoken", "tokenizers"):
        if kind == "encode" and package not in rivals:
            rivals[package] = lambda package=package: _missing(package)
    return Work(calls["ours"], rivals, items=case.megabytes, unit="MB/s", tolerance=2e-3)


@cache
def encode_cases() -> dict[str, Any]:
    from . import tokenizer as module

    return {case.name: case for case in module.encode_cases()}


def _missing(package: str) -> Call:
    raise ImportError(f"No module named {package!r}")


def _train_only(train: Call) -> Call:
    def call() -> int:
        train()
        return 0

    return call


def _train_and_count(train: Call, text: str) -> Call:
    def call() -> float:
        ids = train().encode(text)
        return float(len(getattr(ids, "ids", ids)))

    return call


# --- the list -----------------------------------------------------------------------------------

QWEN2 = {"B": 1, "H": 14, "Hkv": 2, "Dh": 64}  # heads of Qwen2-0.5B
FEW = {"B": 2, "H": 6, "Hkv": 3, "T": 70, "Dh": 4}  # T: more than one block of queries
TWO = {"B": 1, "H": 2, "Hkv": 2, "Dh": 64}  # few, as the plain way needs H * T * T numbers
FLASH = {"plain": 1.0}  # the goal
FORWARD, BOTH = {"backward": False}, {"backward": True}
ROWS, WIDE = {"N": 2048, "D": 896}, {"N": 2048, "D": 256, "F": 704}
MOE = {"N": 512, "E": 60, "K": 4, "D": 1024, "Fe": 704, "Fs": 2816}  # Qwen1.5-MoE, half as wide
FEW_EXPERTS = {"N": 13, "E": 5, "K": 2, "D": 8, "Fe": 4, "Fs": 11}  # torch: multiples of 4
EAGER, SDPA, GROUPED = "transformers eager", "transformers sdpa", "transformers grouped"

MODEL = {
    "num_hidden_layers": 4, "hidden_size": 256, "num_attention_heads": 8,
    "num_key_value_heads": 2, "intermediate_size": 704, "vocab_size": 4096,
}  # fmt: skip
TINY = {
    "num_hidden_layers": 2, "hidden_size": 12, "num_attention_heads": 3,
    "num_key_value_heads": 1, "intermediate_size": 20, "vocab_size": 31,
}  # fmt: skip
TIED = {**TINY, "tie_word_embeddings": True, "rope_theta": 1000000.0}
LLAMA = {  # stories15M, which llama3.np runs
    "num_hidden_layers": 6, "hidden_size": 288, "num_attention_heads": 6,
    "num_key_value_heads": 6, "intermediate_size": 768, "vocab_size": 32000,
    "max_position_embeddings": 256, "attention_bias": False,
}  # fmt: skip
TINY_LLAMA = {**TINY, "attention_bias": False}
HALF, FEW_ROUNDS = "qwen2-0.5b", {"rounds": 3, "gib": 6.0}  # 494 M parameters

EXP = (
    "NumPy's exponential (its rate in this run stands with the limits; a processor with AVX-512 "
    "makes 2 G/s), and passes over memory for what torch's kernel does in registers."
)
CALLS = (
    "A token of so small a model is some hundred NumPy calls on a few kilobytes each: nearly all "
    "of it is the overhead of calls, on both sides."
)
NORM = (
    "The output is written three times: squares, scale, gain. A dot product of each row in place "
    "of the squares takes about a quarter off, but then the bits are no longer those of rmsnorm.py."
)
ENGLISH = (
    "Cutting the text with the report's pattern (`regex`) is half of it, and alone takes longer "
    "than tiktoken needs for everything; a warm table leaves nearly nothing else."
)

CASES = [
    Case(
        "rmsnorm forward",
        rmsnorm,
        {**ROWS, "passes": "forward"},
        {"N": 7, "D": 5, "passes": "forward"},
        {"transformers": 0.8},
        why=NORM,
    ),
    Case(
        "rmsnorm backward",
        rmsnorm,
        {**ROWS, "passes": "backward"},
        {"N": 7, "D": 5, "passes": "backward"},
        {"transformers": 0.8},
    ),
    Case(
        "rmsnorm both",
        rmsnorm,
        {**ROWS, "passes": "both"},
        {"N": 7, "D": 5, "passes": "both"},
        {"transformers": 0.8},
        why=NORM,
    ),
    Case(
        "embedding backward",
        embedding,
        {"V": 151936, "D": 896, "N": 2048},
        {"V": 7, "D": 3, "N": 11},
        {"torch": 0.8},
    ),
    Case(
        "rope both",
        rope,
        {"B": 1, "H": 14, "T": 2048, "Dh": 64},
        {"B": 2, "H": 3, "T": 5, "Dh": 4},
        {"transformers": 1.25},
    ),
    Case(
        "swiglu forward",
        swiglu,
        {**WIDE, **FORWARD},
        {"N": 7, "D": 5, "F": 11, **FORWARD},
        {"torch": 1.4},
    ),
    Case(
        "swiglu both", swiglu, {**WIDE, **BOTH}, {"N": 7, "D": 5, "F": 11, **BOTH}, {"torch": 1.4}
    ),
    Case(
        "moe forward",
        moe,
        {**MOE, **FORWARD},
        {**FEW_EXPERTS, **FORWARD},
        {EAGER: 1.5, GROUPED: 1.5},
    ),
    Case("moe both", moe, {**MOE, **BOTH}, {**FEW_EXPERTS, **BOTH}, {EAGER: 1.5, GROUPED: 1.5}),
    Case(
        "attention 512 forward",
        attention,
        {**QWEN2, "T": 512, **FORWARD},
        {**FEW, **FORWARD},
        {"sdpa": 1.1},
        why=EXP,
        quick=True,
    ),
    Case(
        "attention 512 both",
        attention,
        {**QWEN2, "T": 512, **BOTH},
        {**FEW, **BOTH},
        {"sdpa": 0.9},
        quick=True,
    ),
    Case(
        "attention 2048 forward",
        attention,
        {**QWEN2, "T": 2048, **FORWARD},
        {},
        {"sdpa": 1.1},
        why=EXP,
    ),
    Case(
        "attention 2048 both", attention, {**QWEN2, "T": 2048, **BOTH}, {}, {"sdpa": 0.9}, why=EXP
    ),
    Case(
        "attention 8192 forward",
        attention,
        {**QWEN2, "T": 8192, **FORWARD, "memory_at": (2048, 4096, 8192)},
        {**FEW, **FORWARD, "memory_at": (35, 70)},
        {"sdpa": 1.3},
        why=EXP,
        rounds=3,
    ),
    Case(
        "flash 2048 forward",
        flash_attention,
        {**TWO, "T": 2048, **FORWARD},
        {},
        FLASH,
        threads=(1,),
    ),
    Case(
        "flash 2048 both",
        flash_attention,
        {**TWO, "T": 2048, **BOTH},
        {**FEW, **BOTH},
        FLASH,
        threads=(1,),
    ),
    Case(
        "flash 8192 forward",
        flash_attention,
        {**TWO, "T": 8192, **FORWARD},
        {},
        FLASH,
        threads=(1,),
        rounds=3,
    ),
    Case(
        "flash 8192 both",
        flash_attention,
        {**TWO, "T": 8192, **BOTH},
        {},
        FLASH,
        threads=(1,),
        rounds=3,
    ),
    Case(
        "cross-entropy",
        cross_entropy,
        {"N": 512, "V": 151936},
        {"N": 5, "V": 4099},
        {"torch": 1.3},
        most_extra=50,
        why="The two functions to read. Training takes the next one, which is beside them.",
    ),
    Case(
        "cross-entropy in place",
        cross_entropy,
        {"N": 512, "V": 151936, "in_place": True},
        {"N": 5, "V": 4099, "in_place": True},
        {"torch": 1.3},
        most_extra=50,
        why=EXP,
    ),
    Case(
        "linear cross-entropy",
        linear_cross_entropy,
        {"N": 256, "D": 896, "V": 151936},
        {"N": 5, "D": 3, "V": 4099},
        {"torch": 1.3},
        most_extra=50,
        why="A fourth product is the price of not holding the logits.",
    ),
    Case(
        "adamw", adamw, {"tensors": 24, "D": 1024}, {"tensors": 2, "D": 7}, {"torch foreach": 1.0}
    ),
    Case(
        "training step",
        training_step,
        {"B": 8, "T": 256, "model": MODEL},
        {"B": 2, "T": 5, "model": TINY},
        {EAGER: (1.0, 1.2)},
        quick=True,
    ),
    Case(
        "training step, two Python threads",
        training_step,
        {"B": 8, "T": 256, "model": MODEL, "python_threads": True},
        {"B": 2, "T": 5, "model": TINY, "python_threads": True},
        {EAGER: 1.2},
        quick=True,
        threads=(2,),
    ),
    Case(
        "prefill",
        prefill,
        {"T": 512, "model": MODEL},
        {"T": 5, "model": TINY},
        {EAGER: 1.1},
        quick=True,
    ),
    Case(
        "decode",
        decode,
        {"T": 128, "new": 64, "model": MODEL},
        {"T": 5, "new": 3, "model": TINY},
        {EAGER: 0.4},
        why=CALLS,
        quick=True,
    ),
    Case(
        "decode, weights laid out",
        decode,
        {"T": 128, "new": 64, "model": MODEL, "layout": True},
        {"T": 5, "new": 3, "model": TINY, "layout": True},
        {EAGER: 0.4},
        why=CALLS,
    ),
    Case(
        "llama3.np's shape, prefill",
        prefill,
        {"T": 128, "model": LLAMA, "peer": True},
        {"T": 5, "model": TINY_LLAMA, "peer": True},
        {"llama3.np": 1 / 2.5},
        quick=True,
    ),
    Case(
        "llama3.np's shape, decode",
        decode,
        {"T": 128, "new": 64, "model": LLAMA, "peer": True},
        {"T": 5, "new": 3, "model": TINY_LLAMA, "peer": True},
        {"llama3.np": 1 / 5},
    ),
    Case(
        "tokenizer train, textbook",
        tokenizer,
        {"kind": "recount", "merges": 64, "size": 100_000},
        {},
        {"recount": 1 / 150},
        threads=(1,),
        rounds=3,
    ),
    Case(
        "tokenizer train 1000",
        tokenizer,
        {"kind": "train", "merges": 1000},
        {},
        {"tokenizers": 1.2},
        threads=(1,),
        rounds=3,
    ),
    Case(
        "tokenizer train 8000",
        tokenizer,
        {"kind": "train", "merges": 8000},
        {},
        {"tokenizers": 1.2},
        threads=(1,),
        rounds=3,
    ),
    *(
        Case(
            f"tokenizer {name}",
            tokenizer,
            {"kind": "encode", "name": name},
            {},
            goals,
            quick="English, cold" in name,
            threads=(1,),
            why=ENGLISH if "English" in name else "",
        )
        for name, goals in {
            "encode English, cold": {"tokenizers": 1 / 3, "tiktoken": 3.0},
            "encode code, cold": {"tokenizers": 1 / 3, "tiktoken": 3.0},
            "encode Chinese, cold": {"tokenizers": 2.0},
            "encode English, warm": {"tokenizers": 1 / 3, "tiktoken": 3.0},
            "encode code, warm": {"tokenizers": 1 / 3, "tiktoken": 3.0},
            "encode Chinese, warm": {"tokenizers": 2.0},
        }.items()
    ),
    # last, as their parameters stay in memory
    Case(
        "0.5B training step",
        training_step,
        {"B": 1, "T": 256, "model": HALF, "optimizer": False},
        {"B": 1, "T": 5, "model": TIED, "optimizer": False},
        {EAGER: 1.0},
        rounds=3,
        gib=11.0,
    ),
    Case(
        "0.5B prefill",
        prefill,
        {"T": 512, "model": HALF},
        {"T": 5, "model": TIED},
        {EAGER: 1.1},
        **FEW_ROUNDS,
    ),
    Case(
        "0.5B decode",
        decode,
        {"T": 128, "new": 32, "model": HALF},
        {"T": 5, "new": 3, "model": TIED},
        {EAGER: 0.6},
        why="Every token reads all parameters once, on both sides.",
        **FEW_ROUNDS,
    ),
    Case(
        "0.5B decode, weights laid out",
        decode,
        {"T": 128, "new": 32, "model": HALF, "layout": True},
        {"T": 5, "new": 3, "model": TIED, "layout": True},
        {EAGER: 0.6},
        why="Every token reads all parameters once, on both sides.",
        **FEW_ROUNDS,
    ),
]
