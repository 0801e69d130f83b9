"""Every intermediate of a computation, recorded beside it, without a line in the model for it.

    with trace() as t:
        logits, cache = language_model_forward(params, config, ids)
    t["model.layers.0.self_attn.q_rope"].shape

How it looks in. Python tells a profiler of every function that returns. While the block runs, trace
is that profiler: it picks up the caches that the forward functions return, and names_of gives
everything in them its name (trace_names.py). On the way back it picks up the gradients. So the
model's files stay as a reader sees them, and a traced run gives the same bits as any other.

    a model            the names of trace_names.py; a second call, as in decoding with a KV cache,
                       has "call1." before its names, the third "call2."
    its way back       grad.logits, grad.model.layers.1 (the gradient that arrives behind block 1),
                       grad.model.layers.1.mlp.down_proj.weight, ..., grad.model.embed_tokens
    another head       a model that calls backbone_forward and is none of language: the same names
                       up to model.norm
    another function   rope_forward alone: rope.y, and what its cache holds, rope.cos, rope.sin

One thread at a time is traced, the one that opened the block.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any

import numpy as np

from ...backend import Array, array_module, to_numpy
from ...layers.cross_entropy import cross_entropy_backward, cross_entropy_forward
from ...model.backbone import BackboneCache, backbone_backward, backbone_forward
from ...model.config import QwenConfig
from ...model.decoder_block import decoder_block_backward, decoder_block_forward
from ...model.language_model import language_model_backward, language_model_forward
from ...params import Params, unscope
from .trace_file import Trace
from .trace_names import MOST_PROBS, names_of

MODEL, MODEL_BACK = language_model_forward.__code__, language_model_backward.__code__
BACKBONE, BACKBONE_BACK = backbone_forward.__code__, backbone_backward.__code__
BLOCK, BLOCK_BACK = decoder_block_forward.__code__, decoder_block_backward.__code__
PACKAGE = __name__.partition(".")[0]


@contextmanager
def trace(most_probs: int = MOST_PROBS) -> Iterator[Trace]:
    """Record what our functions compute within the block.

    Args:
        most_probs: a layer with more attention probabilities than this leaves them out.

    Yields:
        A Trace, which fills as functions return.

    >>> from minqwen.layers.rmsnorm import rmsnorm_forward
    >>> with trace() as t:
    ...     _ = rmsnorm_forward(np.array([3.0, 4.0]), np.ones(2), eps=0.0)
    >>> t["rmsnorm.y"].round(4), list(t)
    (array([0.8485, 1.1314]), ['rmsnorm.y', 'rmsnorm.x', 'rmsnorm.w', 'rmsnorm.inv_rms'])
    """
    found = Trace()
    listener = Listener(found, most_probs)
    before = sys.getprofile()
    sys.setprofile(listener)
    try:
        yield found
    finally:
        sys.setprofile(before)


def trace_model(
    params: Params,
    config: QwenConfig,
    input_ids: Array,
    *,
    attention_mask: Array | None = None,
    backward: bool = False,
    most_probs: int = MOST_PROBS,
) -> Trace:
    """Trace a forward pass and, if asked for, the gradients of the mean loss of its next tokens.

    Args:
        params: of the model.
        config: of the model.
        input_ids: (B, T) int.
        attention_mask: (B, T) bool, True = real token, or None.
        backward: also `loss`, where token t is to predict token t + 1, and its gradients.
        most_probs: see trace.

    Raises:
        ValueError: backward, and no row has two real tokens.
    """
    ids = np.asarray(input_ids)
    if backward:
        real = np.ones(ids.shape, bool) if attention_mask is None else to_numpy(attention_mask)
        counted = real[:, 1:] & real[:, :-1]
        if not counted.any():
            raise ValueError("a loss needs two tokens at least, to predict one from the other")
    with trace(most_probs) as t:
        logits, cache = language_model_forward(params, config, ids, attention_mask=attention_mask)
    if backward:
        xp = array_module(logits)
        labels, counted = xp.asarray(ids[:, 1:]), xp.asarray(counted)
        loss, loss_cache = cross_entropy_forward(logits[:, :-1], labels, counted)
        dlogits = xp.zeros_like(logits)
        dlogits[:, :-1] = cross_entropy_backward(1.0, loss_cache)
        t.add("loss", "", loss)
        with trace(most_probs) as back:
            language_model_backward(dlogits, cache)
        for name in back:
            t.add(name, back.axes[name], back[name])
    return t


class Listener:
    """Called by Python at the beginning and end of every function of the thread."""

    def __init__(self, found: Trace, most_probs: int) -> None:
        self.found, self.most_probs = found, most_probs
        self.blocks: list[Any] = []  # what the blocks of the running pass returned
        self.blocks_back: list[Any] = []  # of the way back that ended last
        self.depth = 0  # of our functions that are running
        self.call = ""  # "call1." before the names of the second pass
        self.below = False  # a backbone ran in the function that is running: its names are given
        self.calls = self.backs = 0
        self.alone_calls: Counter[str] = Counter()
        self.ours: dict[CodeType, bool] = {}

    def __call__(self, frame: FrameType, event: str, result: Any) -> None:
        """Look at one event."""
        code = frame.f_code
        if event not in ("call", "return") or not self.is_ours(code, frame):
            return
        if event == "call":
            self.depth += 1
            return
        if self.depth == 0:  # entered before the block was
            return
        self.depth -= 1
        if result is None:  # it raised
            self.blocks = self.blocks if self.depth else []
        elif code is BACKBONE:
            self.backbone(frame.f_locals, *result)
        elif code is MODEL:
            self.found.add(f"{self.call}logits", "B T V", result[0])
        elif code is BACKBONE_BACK:
            self.blocks_back, self.blocks = self.blocks, []
        elif code is MODEL_BACK:
            self.model_back(frame.f_locals, result)
        elif code in (BLOCK, BLOCK_BACK) and self.depth:
            self.blocks.append((frame.f_locals["dy"] if code is BLOCK_BACK else None, *result))
        elif self.depth == 0:
            self.alone(code.co_name, result)
        if self.depth == 0:
            self.below = False

    def is_ours(self, code: CodeType, frame: FrameType) -> bool:
        """Say whether this is a forward or backward function of ours."""
        known = self.ours.get(code)
        if known is None:
            named = code.co_name.endswith(("_forward", "_backward"))
            module = str(frame.f_globals.get("__name__", ""))
            known = self.ours[code] = named and module.startswith(PACKAGE + ".")
        return known

    def backbone(self, here: dict[str, Any], hidden: Array, cache: BackboneCache | None) -> None:
        """Give names to everything of a forward pass; `here` are its local variables."""
        call = self.call = f"call{self.calls}." if self.calls else ""
        self.below = True
        blocks, self.blocks, self.calls = self.blocks, [], self.calls + 1
        params, config = here["params"], here["config"]
        if cache is None:  # the model keeps nothing, but its blocks returned their caches
            kept = [c for _, _, c in blocks]
            cache = BackboneCache(here["embedding"], here["dropout"], kept, here["norm"])
        add = self.found.add
        add(f"{call}input_ids", "B T", here["input_ids"])
        positions = to_numpy(here["positions"])
        add(f"{call}positions", "B T" if positions.ndim == 2 else "T", positions)
        if here["real"] is not None:
            add(f"{call}attention_mask", "B S", here["real"])
        if here["segments"] is not None:
            add(f"{call}segments", "B T", here["segments"])
        outputs = [y for _, y, _ in blocks]
        for name, axes, value in names_of(cache, config, params, outputs, self.most_probs):
            add(call + name, axes, value)
        if not call:
            self.found.describe(config)
        layers = config.num_hidden_layers
        if not any(name.endswith(".probs") for name in self.found) and layers:
            self.found.note(
                "attention probabilities are left out: too many, or dual chunk attention"
            )

    def model_back(self, here: dict[str, Any], grads: Params) -> None:
        """Give names to the gradients, in the order in which they come."""
        call = f"call{self.backs}." if self.backs else ""
        blocks, self.blocks_back, self.backs = self.blocks_back, [], self.backs + 1
        left = dict(grads)
        add = self.found.add

        def take(name: str) -> None:
            if name in left:
                add(f"{call}grad.{name}", "", left.pop(name))

        add(f"{call}grad.logits", "B T V", here["dlogits"])
        take("lm_head.weight")
        take("model.norm.weight")
        for i, (dy, dx, block_grads) in zip(reversed(range(len(blocks))), blocks, strict=True):
            add(f"{call}grad.model.layers.{i}", "B T D", dy)
            for name in unscope(block_grads, f"model.layers.{i}"):
                take(name)
            if i == 0:
                add(f"{call}grad.model.embed_tokens", "B T D", dx)
        for name in list(left):
            take(name)

    def alone(self, function: str, result: Any) -> None:
        """Give names to what a function returned that was called by itself."""
        name, _, way = function.rpartition("_")
        name += "" if way == "forward" else "_back"
        number = self.alone_calls[name]
        self.alone_calls[name] += 1
        prefix = f"{name}#{number}" if number else name
        parts = result if isinstance(result, tuple) else (result,)
        if way == "forward" and len(parts) >= 2 and hasattr(parts[-1], "_fields"):
            outputs = {"y" if len(parts) == 2 else f"y{i}": y for i, y in enumerate(parts[:-1])}
            kept = {} if self.below else parts[-1]._asdict()
        else:
            outputs, kept = {str(i): y for i, y in enumerate(parts)}, {}
        for field, value in arrays_in({**outputs, **kept}, prefix):
            self.found.add(field, "", value)


def arrays_in(value: Any, name: str) -> Iterator[tuple[str, Array]]:
    """Yield every array in nested tuples, lists and dicts, with its path as a name."""
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, (list, tuple)):
        items = list(enumerate(value))
    else:
        if hasattr(value, "ndim") and hasattr(value, "dtype"):
            yield name, to_numpy(value)
        return
    for key, part in items:
        yield from arrays_in(part, f"{name}.{key}")
