"""Record what a PyTorch module computes: a Qwen of transformers under our names, or any module.

    t = record_transformers(load_transformers(folder), input_ids)     a Trace, as trace_model gives
    tensors = record(module, inputs)                                  any module: name -> array

Nothing of transformers is changed. Forward hooks give what goes into and comes out of every module;
queries and keys after RoPE are computed by a plain function, which is wrapped while the model runs.

Their numbers in float64. `model.double()` is not enough: RMSNorm, the tables of RoPE and every
softmax are cast to float32 in the code. In a float64 model float32 means float64 while it runs.
"""

from __future__ import annotations

import importlib
import operator
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np

from ...backend import Array
from ...model.config import QwenConfig
from .trace_file import Trace

KINDS = ("qwen2", "qwen2_moe", "qwen3", "qwen3_moe")


def record(module: Any, inputs: Any, *, gradients: bool = False) -> dict[str, Array]:
    """Run a PyTorch module and return what every module within it gave, in the order of their ends.

    Args:
        module: a torch.nn.Module.
        inputs: a tensor, a tuple of arguments, or a dict of arguments by name.
        gradients: also `grad.NAME` of every parameter, of the sum of the (first) output.

    Returns:
        Arrays on the host under the module's own names; a part that runs again has "#1", "#2"
        behind its name; of several outputs the first tensor is kept. The whole is "output".
    """
    torch = require_torch()
    found: dict[str, Array] = {}
    calls: Counter[str] = Counter()
    with ExitStack() as stack:
        for name, part in module.named_modules():

            def keep(part: Any, args: Any, output: Any, name: str = name or "output") -> None:
                first = first_tensor(output)
                if first is not None:
                    calls[name] += 1
                    again = f"#{calls[name] - 1}" if calls[name] > 1 else ""
                    found[name + again] = to_array(first)

            stack.callback(part.register_forward_hook(keep).remove)
        stack.enter_context(torch.set_grad_enabled(gradients))
        if isinstance(inputs, dict):
            output = module(**inputs)
        else:
            output = module(*(inputs if isinstance(inputs, tuple) else (inputs,)))
    if gradients:
        module.zero_grad(set_to_none=True)
        first_tensor(output).sum().backward()
        for name, parameter in module.named_parameters():
            if parameter.grad is not None:
                found[f"grad.{name}"] = to_array(parameter.grad)
    return found


def load_transformers(folder: str | Path, dtype: str = "float32") -> Any:
    """Open a checkpoint folder with transformers, without any network.

    Args:
        folder: with config.json and safetensors files.
        dtype: "float32", "float64", "bfloat16" or "float16".

    Raises:
        ImportError: torch or transformers is missing; with the pip line.
        ValueError: transformers has no such model, or the weights are .npz or damaged.
    """
    torch = require_torch()
    try:
        import transformers
    except ImportError:
        raise ImportError("transformers is missing: pip install torch 'minqwen[parity]'") from None
    folder = Path(folder)
    kind = QwenConfig.from_pretrained(folder).model_type
    if kind not in KINDS:
        raise ValueError(f"transformers has no model_type {kind!r}, only {', '.join(KINDS)}")
    if not any(folder.glob("*.safetensors")):
        raise ValueError(f"{folder}: transformers reads safetensors, not .npz; save it as such")
    more = {"experts_implementation": "eager"} if kind.endswith("moe") else {}
    with quiet():
        try:
            model = transformers.AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=getattr(torch, dtype),
                attn_implementation="eager",
                local_files_only=True,
                **more,
            )
        except Exception as error:  # of damaged files it makes errors of many kinds
            says = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"{folder}: transformers cannot open it: {says}") from error
    model.train(False)
    return model


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


@contextmanager
def true_float64(model: Any) -> Iterator[None]:
    """Within this block the code of a float64 model means float64 where it says float32."""
    torch = require_torch()
    module = importlib.import_module(type(model).__module__)

    class Wide(ModuleType):
        """torch, in which float32 is float64."""

        float = float32 = torch.float64

        def __getattr__(self, name: str) -> Any:
            return getattr(torch, name)

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(module, "torch", Wide("torch")))
        stack.enter_context(mock.patch.object(torch.Tensor, "float", torch.Tensor.double))
        for part in model.modules():
            if type(part).__name__.endswith("RotaryEmbedding"):
                stack.enter_context(wide_tables(part))
        yield


@contextmanager
def wide_tables(rotary: Any) -> Iterator[None]:
    """Let a module make its tables of RoPE in float64, frequencies included."""
    torch = require_torch()
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    make, forward = rotary.compute_default_rope_parameters, rotary.forward
    if rotary.rope_type != "default":
        make = ROPE_INIT_FUNCTIONS[rotary.rope_type]

    def wide(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            usual = torch.get_default_dtype()
            torch.set_default_dtype(torch.float64)  # of a whole number divided by another
            try:
                with mock.patch.multiple(torch, float=torch.float64, float32=torch.float64):
                    return function(*args, **kwargs)
            finally:
                torch.set_default_dtype(usual)

        return run

    before = rotary.inv_freq, rotary.original_inv_freq
    rotary.inv_freq = rotary.original_inv_freq = wide(make)(rotary.config)[0]
    with mock.patch.object(rotary, "forward", wide(forward)):
        try:
            yield
        finally:
            rotary.inv_freq, rotary.original_inv_freq = before


@contextmanager
def quiet() -> Iterator[None]:
    """Keep progress bars and advice of transformers off the screen."""
    logging: Any = importlib.import_module("transformers.utils.logging")
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def first_tensor(output: Any) -> Any:
    """Return the first tensor in what a module gave, or None."""
    torch = require_torch()
    if isinstance(output, torch.Tensor):
        return output
    if isinstance(output, dict):
        output = tuple(output.values())
    if isinstance(output, (tuple, list)):
        return next((t for t in map(first_tensor, output) if t is not None), None)
    return None


def to_array(tensor: Any) -> Array:
    """Copy a tensor to the host; bfloat16 becomes float32, which holds all of it."""
    torch = require_torch()
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    array: Array = tensor.contiguous().numpy().copy()
    return array


def require_torch() -> Any:
    """Import torch; ImportError with the pip line if it is missing."""
    try:
        import torch
    except ImportError:
        raise ImportError("torch is missing: pip install torch") from None
    return torch
