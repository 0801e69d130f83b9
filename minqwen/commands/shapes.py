"""Print every tensor, shape and operation of a model, and what it costs.

minqwen shapes qwen2-0.5b
minqwen shapes path/to/checkpoint --tokens 4096 --dtype float32
"""

from __future__ import annotations

import argparse
import json
import math
from typing import Any

from ..model.accounting import block_operations, cost
from ..model.config import QwenConfig, param_shapes
from ..model.presets import PRESETS, preset

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `minqwen shapes`."""
    names = ", ".join(PRESETS)
    parser.add_argument("model", metavar="NAME|FOLDER", help=f"{names}, or a checkpoint folder")
    parser.add_argument("--batch", type=int, default=1, help="rows, B (1)")
    parser.add_argument("--tokens", type=int, default=2048, help="tokens in a row, T (2048)")
    parser.add_argument("--dtype", choices=BYTES, default="bfloat16", help="for bytes (bfloat16)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    config = preset(args.model) if args.model.lower() in PRESETS else _from_folder(args.model)
    for name in ("batch", "tokens"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} must be at least 1, got {getattr(args, name)}")
    foreign = [part for part in config.unsupported() if "model_type" in part]
    if foreign:
        raise NotImplementedError(f"{args.model}: not supported yet: {', '.join(foreign)}")
    facts = describe(config, args.batch, args.tokens, BYTES[args.dtype])
    if args.json:
        print(json.dumps(facts, indent=2))
    else:
        print_facts(args.model, config, facts, args)
    return 0


def _from_folder(name: str) -> QwenConfig:
    try:
        return QwenConfig.from_pretrained(name)
    except FileNotFoundError:
        raise ValueError(
            f"{name!r} is no preset and no folder with a config.json; presets: {', '.join(PRESETS)}"
        ) from None


def describe(config: QwenConfig, B: int, T: int, bytes_each: int) -> dict[str, Any]:
    """Return everything the command prints, as plain data."""
    c = cost(config, B, T)
    head = {"name": "lm_head", "axes": "B T V", "shape": [B, T, config.vocab_size]}
    head_flops = 2 * B * T * config.hidden_size * config.vocab_size
    return {
        "config": config.to_dict(),
        "not_supported_yet": config.unsupported(T),
        "tensors": {name: list(shape) for name, shape in param_shapes(config).items()},
        "block_operations": [op._asdict() for op in block_operations(config, B, T)],
        "head": {**head, "flops": head_flops},
        "parameters": c.parameters,
        "parameters_without_embeddings": c.parameters - c.embedding_parameters,
        "parameter_bytes": c.parameters * bytes_each,
        "forward_flops": c.forward_flops,
        "training_flops": c.training_flops,
        "kv_cache_bytes_per_token": c.kv_cache_per_token * bytes_each,
        "kv_cache_bytes": c.kv_cache_per_token * bytes_each * B * T,
        "activation_bytes": c.activations * bytes_each,
        "logit_bytes": B * T * config.vocab_size * bytes_each,
    }


def print_facts(
    title: str, config: QwenConfig, facts: dict[str, Any], args: argparse.Namespace
) -> None:
    """Print the facts for people."""
    c, B, T = config, args.batch, args.tokens
    G = c.num_attention_heads // c.num_key_value_heads
    print(
        f"{title}: V={c.vocab_size:,} D={c.hidden_size} L={c.num_hidden_layers} "
        f"H={c.num_attention_heads} Hkv={c.num_key_value_heads} (G={G}) Dh={c.head_dim} "
        f"F={c.intermediate_size}"
    )
    tied = "tied to the embedding" if c.tie_word_embeddings else "of its own"
    bias = "on q, k, v" if c.attention_bias else "none"
    print(f"RoPE base {c.rope_theta:g}, eps {c.rms_norm_eps:g}, bias {bias}, output layer {tied}")
    print(f"{windows(c)}; trained length {c.max_position_embeddings:,}")
    if scaling := c.extra.get("rope_scaling"):
        print(f"RoPE scaling: {json.dumps(scaling)}")
    for part in facts["not_supported_yet"]:
        print(f"note: this version of minqwen does not compute {part}")

    print("\nparameters")
    seen: set[str] = set()
    for name, shape in facts["tensors"].items():
        label = name.replace("model.layers.0.", f"model.layers.0..{c.num_hidden_layers - 1}.")
        if name.startswith("model.layers.") and not name.startswith("model.layers.0."):
            continue
        if label not in seen:
            seen.add(label)
            print(f"  {label:<54} {_shape(shape):>18} {math.prod(shape):>14,}")

    print(f"\none decoder block, B={B} T={T}")
    print(f"  {'operation':<26} {'axes':<14} {'result':>22} {'FLOPs':>9} {'kept':>9}")
    kept = BYTES[args.dtype]
    for op in facts["block_operations"]:
        flops = _short(op["flops"]) if op["flops"] else "-"
        bytes_ = _bytes(op["saved"] * kept) if op["saved"] else "-"
        print(
            f"  {op['name']:<26} {op['axes']:<14} {_shape(op['shape']):>22} {flops:>9} {bytes_:>9}"
        )
    head = facts["head"]
    print(
        f"  {'lm_head':<26} {head['axes']:<14} {_shape(head['shape']):>22} "
        f"{_short(head['flops']):>9}"
    )

    rows = [
        ("parameters", f"{facts['parameters']:,}"),
        ("  without embeddings", f"{facts['parameters_without_embeddings']:,}"),
        (f"  bytes in {args.dtype}", _bytes(facts["parameter_bytes"])),
        ("FLOPs forward", _short(facts["forward_flops"])),
        ("FLOPs forward and backward", _short(facts["training_flops"])),
        ("KV cache per token", _bytes(facts["kv_cache_bytes_per_token"])),
        (f"KV cache of {B} x {T:,} tokens", _bytes(facts["kv_cache_bytes"])),
        ("activations kept for backward", _bytes(facts["activation_bytes"])),
        ("logits", _bytes(facts["logit_bytes"])),
    ]
    print("\ntotal")
    for name, value in rows:
        print(f"  {name:<34} {value:>18}")


def windows(config: QwenConfig) -> str:
    """Say which layers see how far, as transformers reads the config of Qwen2.

    >>> windows(preset("qwen2-0.5b"))
    'window: every layer sees all tokens'
    """
    W, first = config.extra.get("sliding_window"), config.extra.get("max_window_layers", 28)
    L = config.num_hidden_layers
    if not config.extra.get("use_sliding_window") or not W or first >= L:
        return "window: every layer sees all tokens"
    full = f"layers 0..{first - 1} see all tokens, " if first else ""
    return f"window: {full}layers {first}..{L - 1} the last {W}"


def _shape(shape: list[int]) -> str:
    return "x".join(map(str, shape))


def _short(n: float) -> str:
    """Write a large count in three digits.

    >>> _short(1234567), _short(12)
    ('1.23 M', '12')
    """
    for unit in ("", " K", " M", " G", " T", " P"):
        if n < 1000:
            return f"{n:.3g}{unit}"
        n /= 1000
    return f"{n:.3g} E"


def _bytes(n: float) -> str:
    """Write a number of bytes in binary units.

    >>> _bytes(12288), _bytes(5)
    ('12.0 KiB', '5 B')
    """
    if n < 1024:
        return f"{n:g} B"
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        n /= 1024
        if n < 1024 or unit == "TiB":
            break
    return f"{n:.1f} {unit}"
