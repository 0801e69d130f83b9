"""Right implementations by others and by us: the checker must not complain about any of them.

Each is (whose, concept, function, options of compare). Libraries are imported where they are used;
those that are not installed give nothing.
"""

import importlib
import importlib.util

import numpy as np

from minqwen.check.specs import names
from minqwen.check.specs import spec as spec_of

ROUNDED = "ours, with all numbers in float32"


def installed(*modules):
    """Say whether all of these can be imported."""
    return all(importlib.util.find_spec(module) for module in modules)


def ours():
    """Yield our own functions, in the dtype that is given and in float32."""
    for name in names():
        spec = spec_of(name)
        module = importlib.import_module(spec.module)

        def run(*values, spec=spec, module=module):
            return spec.run(module, dict(zip(spec.arguments, values, strict=True)))

        def single(*values, run=run):
            short = [cast(value, np.float32) for value in values]
            dtype = next((x.dtype for x in flat(values) if x.dtype.kind == "f"), np.float64)
            found = run(*short)
            return tuple(np.asarray(y).astype(dtype) if is_float(y) else y for y in found)

        yield "ours", name, run, {}
        if any(is_float(x) for x in flat(spec.probes[0].make(np.random.default_rng(0)).values())):
            yield ROUNDED, name, single, {}


def is_float(x):
    """Say whether this is a NumPy array or number with a point."""
    return isinstance(x, (np.ndarray, np.generic)) and x.dtype.kind == "f"


def flat(values):
    """Yield all arrays."""
    for value in values:
        if isinstance(value, (tuple, list)):
            yield from flat(value)
        elif isinstance(value, np.ndarray):
            yield value


def cast(value, dtype):
    """Return a float array in this dtype, anything else as it is."""
    if isinstance(value, tuple):
        return tuple(cast(x, dtype) for x in value)
    return value.astype(dtype) if is_float(value) else value


def with_torch():
    """Yield what PyTorch itself has."""
    if not installed("torch"):
        return
    import torch
    from torch.nn import functional as F

    def rmsnorm(x, w, eps):
        return F.rms_norm(x, w.shape, w, eps)

    def attention(q, k, v, mask):
        mask = mask[:, None] if mask is not None and mask.ndim == 3 else mask
        return F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=q.shape[1] != k.shape[1])

    def causal(q, k, v):
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril(k.shape[2] - q.shape[2])
        return attention(q, k, v, mask)

    def swiglu(x, w_gate, w_up, w_down):
        return F.linear(F.silu(F.linear(x, w_gate)) * F.linear(x, w_up), w_down)

    def cross_entropy(logits, labels, loss_mask):
        if loss_mask is not None:
            labels = torch.where(loss_mask, labels, -100)
        total = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="sum")
        return total / (labels != -100).sum().clamp(min=1)

    def adamw(w, g, m, v, step, lr, beta1, beta2, eps, weight_decay):
        new = torch.nn.Parameter(w.detach().clone())
        optimizer = torch.optim.AdamW([new], lr, (beta1, beta2), eps, weight_decay)
        kept = {"exp_avg": m.detach().clone(), "exp_avg_sq": v.detach().clone()}
        optimizer.state[new] = {"step": torch.tensor(float(step - 1)), **kept}
        new.grad = g.detach().clone()
        optimizer.step()
        return new.detach(), kept["exp_avg"], kept["exp_avg_sq"]

    def clip(grads, max_norm):
        tensors = [torch.zeros_like(g, requires_grad=True) for g in grads]
        for tensor, g in zip(tensors, grads, strict=True):
            tensor.grad = g.detach().clone()
        torch.nn.utils.clip_grad_norm_(tensors, max_norm)
        return tuple(tensor.grad for tensor in tensors)

    for name, function in (
        ("linear", F.linear),
        ("embedding", F.embedding),
        ("rmsnorm", rmsnorm),
        ("attention", attention),
        ("causal_attention", causal),
        ("swiglu", swiglu),
        ("cross_entropy", cross_entropy),
        ("adamw", adamw),
        ("clip_grad_norm", clip),
    ):
        yield "PyTorch", name, function, {"framework": "torch"}


def with_transformers():
    """Yield modules of transformers, with the weights that are given."""
    if not installed("torch", "transformers"):
        return
    import torch
    from torch.func import functional_call
    from transformers import Qwen2Config
    from transformers.models.qwen2 import modeling_qwen2 as qwen2

    def rmsnorm(x, w, eps):
        return functional_call(qwen2.Qwen2RMSNorm(len(w), eps), {"weight": w}, x)

    def swiglu(x, w_gate, w_up, w_down):
        config = Qwen2Config(hidden_size=x.shape[-1], intermediate_size=len(w_gate))
        weights = {"gate_proj": w_gate, "up_proj": w_up, "down_proj": w_down}
        weights = {f"{name}.weight": w for name, w in weights.items()}
        return functional_call(qwen2.Qwen2MLP(config), weights, x)

    def rope(x, positions, base):
        width = x.shape[-1]
        config = Qwen2Config(
            hidden_size=width,
            num_attention_heads=1,
            rope_parameters={"rope_type": "default", "rope_theta": base},
        )
        rotary = qwen2.Qwen2RotaryEmbedding(config)
        positions = positions if positions.ndim == 2 else positions[None]
        cos, sin = rotary(x, positions.expand(len(x), -1))
        return qwen2.apply_rotary_pos_emb(x, x, cos, sin)[0]

    class Heads(torch.nn.Module):
        """What the attention function of transformers asks its module."""

        def __init__(self, groups):
            super().__init__()
            self.num_key_value_groups = groups
            self.eval()

    def causal(q, k, v):
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril(k.shape[2] - q.shape[2])
        bias = torch.zeros(mask.shape, dtype=q.dtype).masked_fill(~mask, torch.finfo(q.dtype).min)
        module = Heads(q.shape[1] // k.shape[1])
        out, _ = qwen2.eager_attention_forward(
            module, q, k, v, bias[None, None], scaling=q.shape[-1] ** -0.5
        )
        return out.transpose(1, 2)

    for name, function in (
        ("rmsnorm", rmsnorm),
        ("swiglu", swiglu),
        ("rope", rope),
        ("causal_attention", causal),
    ):
        yield "transformers", name, function, {"framework": "torch"}


def with_jax():
    """Yield a few in JAX; they need 64-bit numbers to be switched on."""
    if not installed("jax"):
        return
    import jax
    from jax import numpy as jnp

    jax.config.update("jax_enable_x64", True)

    def rmsnorm(x, w, eps):
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        return (wide * jax.lax.rsqrt((wide**2).mean(-1, keepdims=True) + eps) * w).astype(x.dtype)

    def swiglu(x, w_gate, w_up, w_down):
        return (jax.nn.silu(x @ w_gate.T) * (x @ w_up.T)) @ w_down.T

    def causal(q, k, v):
        k, v = (jnp.repeat(a, q.shape[1] // a.shape[1], 1) for a in (k, v))
        scores = jnp.einsum("bhtd,bhsd->bhts", q, k) / q.shape[-1] ** 0.5
        seen = jnp.tri(q.shape[2], k.shape[2], k.shape[2] - q.shape[2], dtype=bool)
        return jax.nn.softmax(jnp.where(seen, scores, -jnp.inf)) @ v

    def cross_entropy(logits, labels, loss_mask):
        counted = labels != -100 if loss_mask is None else (labels != -100) & loss_mask
        safe = jnp.where(counted, labels, 0)
        logs = jnp.take_along_axis(jax.nn.log_softmax(logits), safe[..., None], -1)[..., 0]
        return -jnp.where(counted, logs, 0).sum() / jnp.maximum(counted.sum(), 1)

    for name, function in (
        ("rmsnorm", rmsnorm),
        ("swiglu", swiglu),
        ("causal_attention", causal),
        ("cross_entropy", cross_entropy),
        ("embedding", lambda ids, w: w[ids]),
        ("linear", lambda x, w, b: x @ w.T if b is None else x @ w.T + b),
    ):
        yield "JAX", name, function, {"framework": "jax"}


def everything():
    """Yield all of them that can be run here."""
    yield from ours()
    yield from with_torch()
    yield from with_transformers()
    yield from with_jax()
