"""Open a Qwen with transformers, quietly and without a network, and let it compute in true float64.

`model.double()` is not enough: RMSNorm, the tables of RoPE and every softmax are cast to float32 in
the code. In a float64 model float32 means float64 while it runs.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

from ...model.config import QwenConfig
from .torch_module import require_torch

KINDS = ("qwen2", "qwen2_moe", "qwen3", "qwen3_moe")


def load_transformers(folder: str | Path, dtype: str = "float32") -> Any:
    """Open a checkpoint folder with transformers, without any network.

    Args:
        folder: with config.json and safetensors files.
        dtype: "float32", "float64", "bfloat16" or "float16".

    Raises:
        ImportError: torch or transformers is missing; with the pip line.
        ValueError: transformers has no such model, or the weights are .npz, damaged or missing.
    """
    torch = require_torch()
    try:
        transformers: Any = importlib.import_module("transformers")
    except ImportError:
        raise ImportError("transformers is missing: pip install torch 'minqwen[parity]'") from None
    folder = Path(folder)
    kind = QwenConfig.from_pretrained(folder).model_type
    if kind not in KINDS:
        raise ValueError(f"transformers has no model_type {kind!r}, only {', '.join(KINDS)}")
    if not any(folder.glob("*.safetensors")):
        raise ValueError(
            f"{folder}: transformers reads safetensors, not .npz: pip install 'minqwen[hf]', then "
            "load_checkpoint and save_checkpoint of minqwen.model.checkpoint, into another folder"
        )
    more = {"experts_implementation": "eager"} if kind.endswith("moe") else {}
    with quiet():
        try:
            model, loaded = transformers.AutoModelForCausalLM.from_pretrained(
                folder,
                output_loading_info=True,
                dtype=getattr(torch, dtype),
                attn_implementation="eager",
                local_files_only=True,
                **more,
            )
        except Exception as error:  # of damaged files it makes errors of many kinds
            says = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"{folder}: transformers cannot open it: {says}") from error
    if made_up := sorted({*loaded["missing_keys"], *map(str, loaded["mismatched_keys"])}):
        raise ValueError(
            f"{folder}: {len(made_up)} weights are missing, which transformers would make up: "
            + ", ".join(made_up[:4])
        )
    model.train(False)
    return model


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
