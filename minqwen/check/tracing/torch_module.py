"""Record what the parts of any PyTorch module compute.

    tensors = record(module, inputs)        name of the part -> array, in the order of their ends

Forward hooks give what comes out of every part. Nothing of the module is changed.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from typing import Any

from ...backend import Array


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
