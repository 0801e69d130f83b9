"""Record what a Qwen of transformers computes, under our names.

    t = record_transformers(load_transformers(folder), input_ids)     a Trace, as trace_model gives

Nothing of transformers is changed. Forward hooks give what goes into and comes out of every module;
queries and keys after RoPE are computed by a plain function, which is wrapped while the model runs.
"""

from __future__ import annotations

import importlib
import operator
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np

from ...backend import Array
from ...model.config import QwenConfig
from .hf_model import KINDS, quiet, true_float64
from .torch_module import first_tensor, require_torch, to_array
from .trace_file import Trace


def record_transformers(
    model: Any,
    input_ids: Array,
    *,
    attention_mask: Array | None = None,
    backward: bool = False,
) -> Trace:
    """Run a Qwen of transformers and return its intermediates under our names.

    Args:
        model: a Qwen2, Qwen2Moe, Qwen3 or Qwen3MoeForCausalLM, as it is: also one with changes.
        input_ids: (B, T) int.
        attention_mask: (B, T) bool, True = real token, or None.
        backward: also the loss of the next tokens, and its gradients.

    Raises:
        ValueError: the model is of another kind.
    """
    torch = require_torch()
    kind = model.config.model_type
    if kind not in KINDS:
        raise ValueError(f"model_type must be one of {', '.join(KINDS)}, got {kind!r}")
    ids = torch.from_numpy(np.asarray(input_ids).astype(np.int64))
    inputs = {"input_ids": ids, "use_cache": False}
    if attention_mask is not None:
        real = torch.from_numpy(np.asarray(attention_mask))
        inputs["attention_mask"] = real.long()
        inputs["position_ids"] = (real.long().cumsum(1) - 1).clamp(min=0)
    recorder = Recorder(model, backward)
    wide = next(model.parameters()).dtype == torch.float64
    with ExitStack() as stack:
        if wide:
            stack.enter_context(true_float64(model))
        stack.enter_context(recorder.listening())
        stack.enter_context(torch.set_grad_enabled(backward))
        stack.enter_context(quiet())
        logits = model(**inputs).logits
        found = recorder.trace(input_ids, attention_mask)
        if backward:
            counted = torch.ones_like(ids[:, 1:], dtype=torch.bool)
            if attention_mask is not None:
                counted = real[:, 1:] & real[:, :-1]
            scores = logits[:, :-1][counted]
            loss = torch.nn.functional.cross_entropy(scores, ids[:, 1:][counted])
            model.zero_grad(set_to_none=True)
            loss.backward()
            found.add("loss", "", to_array(loss))
            recorder.add_gradients(found)
            model.zero_grad(set_to_none=True)
    return found


class Recorder:
    """Hooks on a model of transformers, and what they have heard."""

    def __init__(self, model: Any, backward: bool) -> None:
        self.model, self.backward = model, backward
        self.heard: dict[str, tuple[str, Any]] = {}  # name -> axes, tensor
        self.attention = ""  # the attention that is running
        self.module: ModuleType = importlib.import_module(type(model).__module__)

    def keep(self, name: str, axes: str, tensor: Any) -> None:
        """Remember a tensor; what runs a second time is not what we want."""
        if tensor is not None and name not in self.heard:
            self.heard[name] = (axes, tensor)
            if self.backward and tensor.requires_grad and name in self.wants_gradient():
                tensor.retain_grad()

    def wants_gradient(self) -> set[str]:
        """Return the names on the stream, whose gradients are recorded."""
        layers = {f"model.layers.{i}" for i in range(self.model.config.num_hidden_layers)}
        return {"model.embed_tokens", "logits"} | layers

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Put all hooks in place, and take them away."""
        with ExitStack() as stack:
            for name, part in self.model.named_modules():
                for handle in self.hooks(name, part):
                    stack.callback(handle.remove)
            original = self.module.apply_rotary_pos_emb

            def rotary(q: Any, k: Any, *args: Any, **kwargs: Any) -> Any:
                turned = original(q, k, *args, **kwargs)
                self.keep(f"{self.attention}.q_rope", "B H T Dh", turned[0])
                self.keep(f"{self.attention}.k_rope", "B Hkv T Dh", turned[1])
                return turned

            stack.enter_context(mock.patch.object(self.module, "apply_rotary_pos_emb", rotary))
            yield

    def hooks(self, name: str, part: Any) -> Iterator[Any]:
        """Register the hooks on one module; yield their handles."""
        last = name.rpartition(".")[2]

        def out(as_name: str, axes: str, pick: Callable[[Any], Any] = first_tensor) -> Any:
            return part.register_forward_hook(
                lambda _, args, output: self.keep(as_name, axes, pick(output))
            )

        def into(as_name: str, axes: str, shaped: Callable[[Any], Any] = lambda x: x) -> Any:
            return part.register_forward_pre_hook(
                lambda _, args: self.keep(as_name, axes, shaped(args[0])) if args else None
            )

        rows = "N" if ".shared_expert" in name else "B T"
        width = "Fs" if ".shared_expert" in name else "F"
        parent = name.rpartition(".")[0]
        if last in ("embed_tokens", "norm", "input_layernorm", "post_attention_layernorm"):
            if last == "post_attention_layernorm":
                yield into(f"{parent}.after_attention", "B T D")
            yield out(name, "B T D")
        elif last == "lm_head":
            yield out("logits", "B T V")
        elif last == "rotary_emb":
            yield part.register_forward_pre_hook(self.hear_positions, with_kwargs=True)
        elif last in ("q_proj", "k_proj", "v_proj"):
            yield out(name, "B T H*Dh" if last == "q_proj" else "B T Hkv*Dh")
        elif last in ("q_norm", "k_norm"):
            axes = "B H T Dh" if last == "q_norm" else "B Hkv T Dh"
            yield out(name, axes, lambda output: output.transpose(1, 2))
        elif last == "o_proj":
            heads = self.model.config.num_attention_heads
            yield into(
                f"{parent}.attention",
                "B H T Dh",
                lambda x: x.reshape(*x.shape[:2], heads, -1).transpose(1, 2),
            )
            yield out(name, "B T D")
        elif last == "self_attn":
            yield part.register_forward_pre_hook(
                lambda _, args, kwargs: setattr(self, "attention", name), with_kwargs=True
            )
            yield out(f"{name}.probs", "B H T S", lambda output: output[1])
        elif last in ("gate_proj", "up_proj", "down_proj"):
            if last == "down_proj":
                yield into(f"{parent}.hidden", f"{rows} {width}")
            yield out(name, f"{rows} D" if last == "down_proj" else f"{rows} {width}")
        elif last == "shared_expert_gate":
            yield out(name, "N one")
        elif last == "gate" and "mlp" in parent:
            for i, (what, axes) in enumerate(
                (("router_logits", "N E"), ("expert_weights", "N K"), ("expert_ids", "N K"))
            ):
                yield out(f"{parent}.{what}", axes, operator.itemgetter(i))
        elif last == "experts":
            yield part.register_forward_hook(self.hear_experts(parent))
        elif parent.endswith("layers") or (last == "mlp" and hasattr(part, "experts")):
            yield out(name, "B T D")

    def hear_positions(self, part: Any, args: Any, kwargs: dict[str, Any]) -> None:
        """Keep the positions that go into the tables of RoPE."""
        given = kwargs.get("position_ids", args[1] if len(args) > 1 else None)
        self.keep("positions", "B T", given)

    def hear_experts(self, mlp: str) -> Callable[..., None]:
        """Return a hook that keeps the sum of the experts, and each one's output by itself."""

        def hear(part: Any, args: Any, output: Any) -> None:
            if f"{mlp}.experts" in self.heard:
                return  # it is us who call
            x, chosen, weights = args
            self.keep(f"{mlp}.experts", "N D", output)
            alone = require_torch().ones_like(weights[:, :1])
            with require_torch().no_grad():
                each = [part(x, chosen[:, i : i + 1], alone) for i in range(chosen.shape[1])]
            self.keep(f"{mlp}.expert_outputs", "N K D", require_torch().stack(each, dim=1))

        return hear

    def trace(self, input_ids: Array, attention_mask: Array | None) -> Trace:
        """Return what was heard, in the order of the computation."""
        found = Trace()
        config = QwenConfig.from_dict(self.model.config.to_dict())
        found.describe(config)
        for package in ("torch", "transformers"):
            found.versions[package] = str(importlib.import_module(package).__version__)
        found.more["dtype"] = str(next(self.model.parameters()).dtype).removeprefix("torch.")
        found.add("input_ids", "B T", np.asarray(input_ids))
        heard = dict(self.heard)
        axes, positions = heard.pop("positions", ("", None))
        if positions is not None:
            rows = to_array(positions)
            same = bool((rows == rows[:1]).all())
            found.add("positions", "T" if same else "B T", rows[0] if same else rows)
        if attention_mask is not None:
            found.add("attention_mask", "B S", np.asarray(attention_mask))
        for name in sorted(heard, key=place):
            axes, tensor = heard[name]
            found.add(name, axes, to_array(tensor))
        if not any(name.endswith(".probs") for name in heard):
            found.note("no attention probabilities: the model does not run attention 'eager'")
        return found

    def add_gradients(self, found: Trace) -> None:
        """Add the gradients of the stream and of the parameters, from the logits back."""
        gradients = {n: p.grad for n, p in self.model.named_parameters() if p.grad is not None}
        stream = self.wants_gradient()
        for name in reversed([name for name in found if name in stream]):
            found.add(f"grad.{name}", found.axes[name], to_array(self.heard[name][1].grad))
            inside = [
                n for n in gradients if n.startswith(f"{name}." if name != "logits" else "lm_head")
            ]
            if name == "logits":
                inside += [n for n in gradients if n == "model.norm.weight"]
            for parameter in inside:
                found.add(f"grad.{parameter}", "", to_array(gradients.pop(parameter)))
        for parameter, value in gradients.items():
            found.add(f"grad.{parameter}", "", to_array(value))


ORDER = (  # of what runs within a block
    *("input_layernorm", "q_proj", "k_proj", "v_proj", "q_norm", "k_norm", "q_rope", "k_rope"),
    *("probs", "attention", "o_proj", "after_attention", "post_attention_layernorm"),
    *("router_logits", "expert_ids", "expert_weights", "expert_outputs", "experts"),
    *("gate_proj", "up_proj", "hidden", "down_proj", "shared_expert_gate", "mlp"),
)


def place(name: str) -> tuple[int, int]:
    """Return where a name stands in the order of the computation: its layer, its place there.

    >>> sorted(["logits", "model.layers.0", "model.layers.0.self_attn.q_proj"], key=place)
    ['model.layers.0.self_attn.q_proj', 'model.layers.0', 'logits']
    """
    if not name.startswith("model.layers."):
        ends = ("model.embed_tokens", "model.norm", "logits")
        return (-1, 0) if name == ends[0] else (1 << 30, ends.index(name))
    parts = name.split(".")
    return int(parts[2]), ORDER.index(parts[-1]) if len(parts) > 3 else len(ORDER)
