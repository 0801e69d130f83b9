"""Bring somebody's tensor into our layout: names matched, axes in our order, heads cut or joined.

Others hold queries as (B, T, H, Dh) where we have (B, H, T, Dh), or leave out a batch of one. Which
axis is which follows from the sizes. Where several fit, the one nearest to our numbers is taken; a
shape that is ours already is left as it is, so that a real exchange of axes shows as a difference.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from itertools import permutations
from typing import Any, NamedTuple

import numpy as np

from ...backend import Array
from .trace_file import Trace

PREFIXES = re.compile(r"^(module\.|_orig_mod\.|base_model\.model\.)+")


class Match(NamedTuple):
    """Which of their tensors is which of ours."""

    names: dict[str, str]  # ours -> theirs
    missing: list[str]  # ours that they do not have
    unknown: list[str]  # theirs that we do not have


def match_names(ours: Trace, theirs: Trace, given: dict[str, str] | None = None) -> Match:
    """Find for each of our tensors theirs.

    Args:
        ours: our trace.
        theirs: another.
        given: our name -> their name; what it does not name is found by its name.

    Raises:
        ValueError: `given` names a tensor that is not there.

    >>> ours, theirs = Trace(), Trace()
    >>> ours.add("logits", "", np.zeros(1)); theirs.add("module.lm_head", "", np.zeros(1))
    >>> match_names(ours, theirs).names
    {'logits': 'module.lm_head'}
    """
    given = dict(given or {})
    for name, other in given.items():
        for what, trace, wanted in (("ours", ours, name), ("theirs", theirs, other)):
            if wanted not in trace:
                raise ValueError(f"--map: there is no tensor {wanted!r} in {what}")
    taken = set(given.values())
    called: dict[str, str] = {}
    for other in theirs:
        if other not in taken:
            for name in our_names(other):
                called.setdefault(name, other)
    names = {}
    for name in ours:
        found = given.get(name) or called.get(name)
        if found is not None:
            names[name] = found
    used = set(names.values())
    missing = [name for name in ours if name not in names]
    return Match(names, missing, [other for other in theirs if other not in used])


def our_names(theirs: str) -> Iterable[str]:
    """Yield what we may call a tensor of theirs: the names of modules in transformers, too.

    >>> list(our_names("model.layers.3.self_attn"))
    ['model.layers.3.self_attn', 'model.layers.3.self_attn.o_proj']
    """
    name = PREFIXES.sub("", theirs)
    yield name
    also = {
        "lm_head": "logits",
        "output": "logits",
        ".self_attn": ".self_attn.o_proj",
        ".mlp": ".mlp.down_proj",
        ".mlp.gate": ".mlp.router_logits",
        ".act_fn": ".act",
    }
    for ending, ours in also.items():
        if name == ending or (ending.startswith(".") and name.endswith(ending)):
            yield name.removesuffix(ending) + ours


def axis_sizes(config: dict[str, Any] | None) -> dict[str, int]:
    """Return the sizes of a model by their letters.

    Raises:
        ValueError: one is no whole number.

    >>> axis_sizes({"num_attention_heads": 4, "hidden_size": 8})["Dh"]
    2
    """
    if not config:
        return {}
    fields = {
        **{"D": "hidden_size", "H": "num_attention_heads"},
        **{"Hkv": "num_key_value_heads", "Dh": "head_dim", "F": "intermediate_size"},
        **{"V": "vocab_size", "E": "num_experts", "K": "num_experts_per_tok"},
        **{"Fe": "moe_intermediate_size", "Fs": "shared_expert_intermediate_size"},
    }
    sizes = {letter: config.get(field) or 0 for letter, field in fields.items()}
    for letter, size in sizes.items():
        if not isinstance(size, int) or size < 0:
            raise ValueError(f"the config of our trace has {fields[letter]} {size!r}, not a number")
    if sizes["H"] and not sizes["Hkv"]:
        sizes["Hkv"] = sizes["H"]
    if sizes["H"] and not sizes["Dh"]:
        sizes["Dh"] = sizes["D"] // sizes["H"]
    if sizes["Hkv"]:
        sizes["G"] = sizes["H"] // sizes["Hkv"]
    return {letter: int(size) for letter, size in sizes.items() if size}


def elementary(
    shape: tuple[int, ...], axes: str, sizes: dict[str, int]
) -> tuple[list[str], list[int]]:
    """Cut joined axes: letters and sizes of (B, T, H*Dh) are those of (B, T, H, Dh).

    >>> elementary((1, 5, 8), "B T H*Dh", {"H": 2, "Dh": 4})
    (['B', 'T', 'H', 'Dh'], [1, 5, 2, 4])
    """
    letters = axes.split()
    if len(letters) != len(shape):
        return [""] * len(shape), list(shape)
    names, lengths = [], []
    for letter, size in zip(letters, shape, strict=True):
        parts = letter.split("*")
        known = [sizes.get(part, 0) for part in parts]
        if len(parts) > 1 and math.prod(known) == size:
            names += parts
            lengths += known
        else:
            names.append(letter)
            lengths.append(size)
    return names, lengths


def to_our_layout(
    theirs: Array, ours: Array, axes: str, sizes: dict[str, int]
) -> tuple[Array, str] | None:
    """Return their numbers in the shape of ours, and how they were laid out ("" if as ours).

    Args:
        theirs: any shape.
        ours: the tensor it should be.
        axes: letters of ours.
        sizes: of the model.

    Returns:
        None when no order of the axes has their shape.

    >>> ours = np.arange(6.0).reshape(1, 2, 3)
    >>> theirs, layout = to_our_layout(ours[0].T, ours, "B H T", {})
    >>> layout, bool((theirs == ours).all())
    ('T H', True)
    """
    if theirs.shape == ours.shape:
        return theirs, ""
    if theirs.size != ours.size:
        return None
    names, lengths = elementary(ours.shape, axes, sizes)
    long = [i for i, n in enumerate(lengths) if n > 1]
    target = ours.reshape([lengths[i] for i in long]).astype(np.float64)
    best: tuple[float, Array, str] | None = None
    ends = boundaries(theirs.shape)
    for order in permutations(range(len(long))):
        cut = [target.shape[i] for i in order]
        if not ends <= boundaries(tuple(cut)):
            continue
        back = np.argsort(order)
        turned = theirs.reshape(cut).transpose(back)
        off = float(np.abs(np.nan_to_num(turned.astype(np.float64)) - target).mean())
        as_it_is = list(order) == sorted(order)
        if best is None or off < best[0]:
            layout = "" if as_it_is else " ".join(names[long[i]] or "?" for i in order)
            best = off, turned.reshape(ours.shape), layout
    return None if best is None else best[1:]


def boundaries(shape: tuple[int, ...]) -> set[int]:
    """Return where the axes of a shape end, counted in numbers; axes of one do not count.

    >>> boundaries((1, 2, 3)) == {2, 6}
    True
    """
    ends, product = set(), 1
    for size in shape:
        product *= size
        ends.add(product)
    return ends - {1}
