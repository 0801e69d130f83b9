"""Print every tensor, shape and operation of a model, and what it costs.

minqwen shapes qwen2-0.5b
minqwen shapes path/to/checkpoint --tokens 4096 --dtype float32
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from ..model.accounting import block_operations, cost
from ..model.config import QwenConfig, param_shapes
from ..model.layer_plan import LayerPlan, layer_plans
from ..model.moe_fields import sparse_layers
from ..model.presets import PRESETS, preset
from ..model.rope_scaling import ROPE_TYPES, attention_factor, inv_freq, rope_type
from .files import checkpoint_of

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
        return QwenConfig.from_pretrained(checkpoint_of(Path(name)))
    except FileNotFoundError:
        raise ValueError(
            f"{name!r} is no preset and no folder with a config.json; presets: {', '.join(PRESETS)}"
        ) from None


def describe(config: QwenConfig, B: int, T: int, bytes_each: int) -> dict[str, Any]:
    """Return everything the command prints, as plain data."""
    c = cost(config, B, T)
    plans = layer_plans(config, [T])
    head = {"name": "lm_head", "axes": "B T V", "shape": [B, T, config.vocab_size]}
    head_flops = 2 * B * T * config.hidden_size * config.vocab_size
    return {
        "config": config.to_dict(),
        "not_supported_yet": config.unsupported(),
        "layers": [layer_facts(config, plan) for plan in plans],
        "tensors": {name: list(shape) for name, shape in param_shapes(config).items()},
        "blocks": blocks(config, B, T),
        "head": {**head, "flops": head_flops},
        "parameters": c.parameters,
        "parameters_without_embeddings": c.parameters - c.embedding_parameters,
        "activated_parameters": c.activated_parameters,
        "activated_parameters_without_embeddings": c.activated_parameters - c.embedding_parameters,
        "parameter_bytes": c.parameters * bytes_each,
        "forward_flops": c.forward_flops,
        "training_flops": c.training_flops,
        "kv_cache_bytes_per_token": c.kv_cache_per_token * bytes_each,
        "kv_cache_bytes": c.kv_cache * bytes_each,
        "activation_bytes": c.activations * bytes_each,
        "logit_bytes": B * T * config.vocab_size * bytes_each,
    }


def blocks(config: QwenConfig, B: int, T: int) -> list[dict[str, Any]]:
    """Return what the decoder blocks do: an entry for each kind, with the layers of that kind."""
    kinds: dict[Any, list[int]] = {}
    plans = layer_plans(config, [T])
    for i, (plan, sparse) in enumerate(zip(plans, sparse_layers(config), strict=True)):
        kinds.setdefault((plan.window, sparse), []).append(i)
    return [
        {
            "layers": layers,
            "operations": [op._asdict() for op in block_operations(config, B, T, *kind)],
        }
        for kind, layers in kinds.items()
    ]


def print_facts(
    title: str, config: QwenConfig, facts: dict[str, Any], args: argparse.Namespace
) -> None:
    """Print the facts for people."""
    c, B, T = config, args.batch, args.tokens
    G = c.num_attention_heads // c.num_key_value_heads
    sparse = sparse_layers(c)
    widths = [] if all(sparse) else [f"F={c.intermediate_size}"]
    if any(sparse):
        widths.append(f"E={c.num_experts} K={c.num_experts_per_tok} Fe={c.moe_intermediate_size}")
        widths += [f"Fs={Fs}"] if (Fs := c.shared_expert_intermediate_size) else []
    print(
        f"{title}: V={c.vocab_size:,} D={c.hidden_size} L={c.num_hidden_layers} "
        f"H={c.num_attention_heads} Hkv={c.num_key_value_heads} (G={G}) Dh={c.head_dim} "
        + " ".join(widths)
    )
    tied = "tied to the embedding" if c.tie_word_embeddings else "of its own"
    bias = "on q, k, v" if c.attention_bias else "none"
    print(f"RoPE base {c.rope_theta:g}, eps {c.rms_norm_eps:g}, bias {bias}, output layer {tied}")
    print(f"trained length {trained_length(c):,}; what acts in a text of {T:,} tokens:")
    for line in layer_lines(facts["layers"]):
        print(f"  {line}")
    for line in expert_lines(c):
        print(f"  {line}")
    for part in facts["not_supported_yet"]:
        print(f"note: this version of minqwen does not compute {part}")

    print("\nparameters")
    for name, shape in tensor_lines(facts["tensors"]).items():
        print(f"  {name:<58} {_shape(shape):>18} {math.prod(shape):>14,}")

    kept = BYTES[args.dtype]
    for block in facts["blocks"]:
        alike = len(facts["blocks"]) == 1
        which = "one decoder block" if alike else f"decoder block {layer_names(block['layers'])}"
        print(f"\n{which}, B={B} T={T}")
        print(f"  {'operation':<34} {'axes':<11} {'result':>20} {'FLOPs':>9} {'kept':>9}")
        for op in block["operations"]:
            flops = _short(op["flops"]) if op["flops"] else "-"
            bytes_ = _bytes(op["saved"] * kept) if op["saved"] else "-"
            print(
                f"  {op['name']:<34} {op['axes']:<11} {_shape(op['shape']):>20} {flops:>9} "
                f"{bytes_:>9}"
            )
    head = facts["head"]
    print(
        f"  {'lm_head':<34} {head['axes']:<11} {_shape(head['shape']):>20} "
        f"{_short(head['flops']):>9}"
    )

    rows = [
        ("parameters", f"{facts['parameters']:,}"),
        ("  without embeddings", f"{facts['parameters_without_embeddings']:,}"),
        (f"  bytes in {args.dtype}", _bytes(facts["parameter_bytes"])),
    ]
    if facts["activated_parameters"] != facts["parameters"]:
        rows += [
            ("activated parameters", f"{facts['activated_parameters']:,}"),
            (
                "  without embeddings",
                f"{facts['activated_parameters_without_embeddings']:,}",
            ),
        ]
    rows += [
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


def tensor_lines(tensors: dict[str, list[int]]) -> dict[str, list[int]]:
    """Return names and shapes, those of layers that are alike under one name.

    >>> tensor_lines({"model.layers.0.w": [2], "model.layers.1.w": [2], "head": [3]})
    {'model.layers.0..1.w': [2], 'head': [3]}
    """
    layers: dict[Any, list[int]] = {}
    for name, shape in tensors.items():
        if name.startswith("model.layers."):
            number, rest = name.removeprefix("model.layers.").split(".", 1)
            layers.setdefault((rest, *shape), []).append(int(number))
    lines = {}
    for name, shape in tensors.items():
        if name.startswith("model.layers."):
            rest = name.removeprefix("model.layers.").split(".", 1)[1]
            name = f"model.layers.{layer_names(layers[(rest, *shape)])}.{rest}"
        lines[name] = shape
    return lines


def layer_names(layers: list[int]) -> str:
    """Write layer numbers: a run of them by its ends, also one with a step.

    >>> layer_names([3]), layer_names([0, 1, 2]), layer_names([1, 3, 5, 7]), layer_names([0, 2, 3])
    ('3', '0..2', '1,3..7', '0,2,3')
    """
    step = layers[1] - layers[0] if len(layers) > 1 else 1
    if len(layers) > 2 and layers == list(range(layers[0], layers[-1] + 1, step)):
        return (
            f"{layers[0]}..{layers[-1]}" if step == 1 else f"{layers[0]},{layers[1]}..{layers[-1]}"
        )
    if len(layers) == 2 and step == 1:
        return f"{layers[0]}..{layers[1]}"
    return ",".join(map(str, layers))


def expert_lines(config: QwenConfig) -> list[str]:
    """Say in words which experts there are; nothing for a dense model.

    >>> expert_lines(preset("qwen2-57b-a14b"))
    ['layers 0..27: 64 experts of width 2,560, 8 for each token, and a shared one of width 20,480']
    """
    sparse = [i for i, experts in enumerate(sparse_layers(config)) if experts]
    if not sparse:
        return []
    where = f"layer{'s' * (len(sparse) > 1)} {layer_names(sparse)}"
    line = (
        f"{where}: {config.num_experts} experts of width {config.moe_intermediate_size:,}, "
        f"{config.num_experts_per_tok} for each token"
    )
    if config.shared_expert_intermediate_size:
        line += f", and a shared one of width {config.shared_expert_intermediate_size:,}"
    return [line + ("; their weights sum to 1" if config.norm_topk_prob else "")]


def layer_facts(config: QwenConfig, plan: LayerPlan) -> dict[str, Any]:
    """Return what acts in a layer, as plain data."""
    alpha = plan.alphas[0]
    freq = inv_freq(config, alpha, "float64")
    return {
        "rope": rope_type(config),
        "ntk_alpha": alpha,
        "slowest_wavelength": 2 * math.pi / float(freq[-1]),  # tokens in a full turn
        "attention_factor": attention_factor(config),
        "window": plan.window,
        "logn_train_length": plan.train_length,
        "dual_chunks": plan.chunks,
    }


def layer_lines(layers: list[dict[str, Any]]) -> list[str]:
    """Say what acts, one line for each run of layers that are alike.

    >>> config = preset("qwen2-0.5b")
    >>> layer_lines([layer_facts(config, plan) for plan in layer_plans(config, [2048])])
    ['layers 0..23: RoPE as trained; sees all tokens']
    """
    lines, first = [], 0
    for i, facts in enumerate(layers):
        if i + 1 == len(layers) or layers[i + 1] != facts:
            name = f"layers {first}..{i}" if i > first else f"layer {i}"
            lines.append(f"{name}: {_say(facts)}")
            first = i + 1
    return lines


def _say(facts: dict[str, Any]) -> str:
    """Describe one layer in words."""
    rope = "RoPE as trained"
    if facts["ntk_alpha"] != 1:
        rope = f"RoPE with NTK, alpha {facts['ntk_alpha']:g}"
    elif facts["rope"] not in ("default", "dynamic"):
        rope = {"linear": "RoPE interpolated", "yarn": "RoPE by YaRN"}.get(
            facts["rope"], f"RoPE of type {facts['rope']}"
        )
    if rope != "RoPE as trained" and facts["rope"] in ROPE_TYPES:
        rope += f", slowest wavelength {facts['slowest_wavelength']:,.0f} tokens"
    if facts["attention_factor"] != 1:
        rope += f", cos and sin times {facts['attention_factor']:.4f}"
    words = [rope]
    if facts["logn_train_length"]:
        words.append(f"LogN from position {facts['logn_train_length']:,} on")
    if facts["dual_chunks"]:
        c, w, highest = facts["dual_chunks"]
        words.append(f"dual chunks of {c - w:,} tokens, positions up to {highest:,}")
    W = facts["window"]
    words.append(f"sees the last {W:,} tokens" if W else "sees all tokens")
    return "; ".join(words)


def trained_length(config: QwenConfig) -> int:
    """Return how long the training texts were, as far as the config tells."""
    if not (config.use_dynamic_ntk or config.use_logn_attn):  # they go by the field below
        for found in (config.rope_scaling, config.dual_chunk_attention_config):
            if original := (found or {}).get("original_max_position_embeddings"):
                return int(original)
    return config.max_position_embeddings


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
