"""Experts in files: there one tensor for each expert, here one for all of them.

    in a file                                     (all that is on the hub, written by transformers)
    mlp.experts.{e}.gate_proj.weight  (Fe, D)     mlp.experts.{e}.up_proj.weight  (Fe, D)
    mlp.experts.{e}.down_proj.weight  (D, Fe)     e = 0 .. E - 1

    in memory                                     (and in files written with save_original_format
    mlp.experts.gate_up_proj  (E, 2 Fe, D)         = False by transformers 5)
    mlp.experts.down_proj     (E, D, Fe)

gate_up_proj holds the Fe rows of gate_proj and below them the Fe rows of up_proj.
"""

from __future__ import annotations

import re

import numpy as np

from ..backend import Array
from ..params import Params, name_list
from .config import QwenConfig
from .moe_fields import sparse_layers
from .qwen1 import Stored

PARTS = ("gate_proj.weight", "up_proj.weight", "down_proj.weight")


def stack_experts(stored: dict[str, Stored], config: QwenConfig) -> dict[str, Stored]:
    """Return the tensors of a folder under the names they have in memory, still not read.

    Args:
        stored: name -> tensor; experts in either layout.
        config: says which layers have experts, how many, and of which width.

    Raises:
        ValueError: an expert is missing, or has another shape than the config says.
    """
    Fe, D = config.moe_intermediate_size, config.hidden_size
    shapes = dict(zip(PARTS, ((Fe, D), (Fe, D), (D, Fe)), strict=True))
    stacked = dict(stored)
    problems = []
    for i, sparse in enumerate(sparse_layers(config)):
        name = f"model.layers.{i}.mlp.experts"
        one_by_one = any(re.match(rf"{re.escape(name)}\.\d+\.", key) for key in stored)
        if not sparse or not one_by_one:
            continue  # dense, or stacked already
        if f"{name}.gate_up_proj" in stored or f"{name}.down_proj" in stored:
            problems.append(f"{name} is there twice, one by one and stacked")
        parts: dict[str, list[Stored]] = {part: [] for part in PARTS}
        for e in range(config.num_experts):
            for part, shape in shapes.items():
                tensor = stacked.pop(f"{name}.{e}.{part}", None)
                if tensor is None:
                    problems.append(f"missing {name}.{e}.{part}")
                elif tensor.shape != shape:
                    problems.append(f"{name}.{e}.{part} {tensor.shape} instead of {shape}")
                else:
                    parts[part].append(tensor)
        gate, up, down = parts.values()
        E = config.num_experts
        stacked[f"{name}.gate_up_proj"] = Stored((E, 2 * Fe, D), lambda g=gate, u=up: read(g, u))  # type: ignore[misc]
        stacked[f"{name}.down_proj"] = Stored((E, D, Fe), lambda d=down: read(d))  # type: ignore[misc]
    if problems:
        raise ValueError(f"the experts do not fit the config: {name_list(problems)}")
    return stacked


def read(*parts: list[Stored]) -> Array:
    """Read one part of every expert after the other into one array; several parts stand below.

    >>> gate, up = (Stored((1, 2), lambda n=n: np.full((1, 2), n)) for n in (1.0, 2.0))
    >>> read([gate], [up]).tolist()
    [[[1.0, 1.0], [2.0, 2.0]]]
    """
    heights = [part[0].shape[0] for part in parts]
    shape = len(parts[0]), sum(heights), parts[0][0].shape[1]
    stack: Array | None = None
    for e, tensors in enumerate(zip(*parts, strict=True)):
        start = 0
        for tensor, height in zip(tensors, heights, strict=True):
            value = tensor.read()
            if stack is None:
                stack = np.empty(shape, value.dtype)
            if value.dtype != stack.dtype:  # of several precisions the widest
                stack = stack.astype(np.promote_types(stack.dtype, value.dtype), copy=False)
            stack[e, start : start + height] = value
            start += height
    assert stack is not None  # there is an expert
    return stack


def split_experts(params: Params) -> Params:
    """Return the parameters under the names that a file has; the arrays are views.

    >>> params = {"model.layers.0.mlp.experts.gate_up_proj": np.zeros((1, 4, 3))}
    >>> for name, w in split_experts(params).items():
    ...     print(name, w.shape)
    model.layers.0.mlp.experts.0.gate_proj.weight (2, 3)
    model.layers.0.mlp.experts.0.up_proj.weight (2, 3)
    """
    split: Params = {}
    for name, w in params.items():
        if name.endswith("mlp.experts.gate_up_proj"):
            before, Fe = name.removesuffix("gate_up_proj"), w.shape[1] // 2
            for e in range(w.shape[0]):
                split[f"{before}{e}.gate_proj.weight"] = w[e, :Fe]
                split[f"{before}{e}.up_proj.weight"] = w[e, Fe:]
        elif name.endswith("mlp.experts.down_proj"):
            before = name.removesuffix("down_proj")
            for e in range(w.shape[0]):
                split[f"{before}{e}.down_proj.weight"] = w[e]
        else:
            split[name] = w
    return split
