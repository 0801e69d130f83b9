"""What the first Qwen models call things, and how Qwen2 calls them.

The computation is the same; only names and packing differ. The traps:

    intermediate_size    is twice the width of a feed-forward branch
    seq_length           is the length of training, not max_position_embeddings
    attn.c_attn          holds the rows of q, k and v in one matrix
    mlp.w1, mlp.w2       w2 is the gate, w1 is up: the product is w1(x) * silu(w2(x))

Paper:    Qwen Technical Report, 2.3.1 Architecture; names as in the code published with Qwen-7B.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ..backend import Array

CONFIG_FIELDS = {
    "layer_norm_epsilon": "rms_norm_eps",
    "rotary_emb_base": "rope_theta",
    "kv_channels": "head_dim",
    "seq_length": "max_position_embeddings",
}
OUTSIDE = {
    "transformer.wte.": "model.embed_tokens.",
    "transformer.ln_f.": "model.norm.",
}
IN_LAYER = {
    "ln_1.": "input_layernorm.",
    "ln_2.": "post_attention_layernorm.",
    "attn.c_proj.": "self_attn.o_proj.",
    "mlp.w1.": "mlp.up_proj.",
    "mlp.w2.": "mlp.gate_proj.",
    "mlp.c_proj.": "mlp.down_proj.",
}


class Stored(NamedTuple):
    """A tensor in a file: its shape, and how to read it."""

    shape: tuple[int, ...]
    read: Callable[[], Array]


def config_from_qwen1(values: dict[str, Any]) -> dict[str, Any]:
    """Translate the config.json of a first-generation model.

    >>> config_from_qwen1({"intermediate_size": 22016, "seq_length": 8192})["intermediate_size"]
    11008
    """
    values = dict(values)
    for old, new in CONFIG_FIELDS.items():
        if old in values:
            values[new] = values.pop(old)
    if isinstance(values.get("intermediate_size"), int):
        values["intermediate_size"] //= 2
    values["attention_bias"] = True
    return values


def rename_qwen1(stored: dict[str, Stored], q_rows: int, kv_rows: int) -> dict[str, Stored]:
    """Give the tensors of a first-generation model the names of Qwen2, and cut c_attn in three.

    Args:
        stored: tensors under their old names; a name not known here stays as it is.
        q_rows: H * Dh, rows of c_attn that make queries.
        kv_rows: Hkv * Dh, rows that make keys, and then values.
    """
    renamed = {}
    for name, tensor in stored.items():
        layer = re.match(r"transformer\.h\.(\d+)\.(.*)", name)
        if layer is None:
            renamed[_new_name(name, OUTSIDE)] = tensor
            continue
        prefix, rest = f"model.layers.{layer[1]}.", layer[2]
        if rest.startswith("attn.c_attn."):
            kind = rest.removeprefix("attn.c_attn.")  # weight or bias
            for part, rows in zip("qkv", _cut(tensor, (q_rows, kv_rows, kv_rows)), strict=True):
                renamed[f"{prefix}self_attn.{part}_proj.{kind}"] = rows
        else:
            renamed[prefix + _new_name(rest, IN_LAYER)] = tensor
    return renamed


def _new_name(name: str, names: dict[str, str]) -> str:
    for old, new in names.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def _cut(tensor: Stored, rows: tuple[int, ...]) -> Iterator[Stored]:
    """Cut a tensor into consecutive groups of rows, each read when it is asked for."""
    start = 0
    for i, n in enumerate(rows):
        left = max(tensor.shape[0] - start, 0)
        n = left if i == len(rows) - 1 else min(n, left)  # a wrong total shows in the last part

        def read(start: int = start, n: int = n) -> Array:
            return tensor.read()[start : start + n].copy()

        yield Stored((n, *tensor.shape[1:]), read)
        start += n
