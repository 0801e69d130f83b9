"""Single operations, ours and their rivals. Everything is float32 and drawn at random.

Each maker returns the calls for one size. A rival is made lazily, so a package that is missing is
an ImportError there and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minqwen.backend import Array
from minqwen.layers.attention import attention_backward, attention_forward, causal_mask
from minqwen.layers.block_attention import block_attention_backward, block_attention_forward
from minqwen.layers.cross_entropy import cross_entropy_backward, cross_entropy_forward
from minqwen.layers.cross_entropy_in_place import cross_entropy_in_place
from minqwen.layers.embedding import embedding_backward, embedding_forward
from minqwen.layers.flash_attention import flash_attention_backward, flash_attention_forward
from minqwen.layers.linear_cross_entropy import (
    linear_cross_entropy_backward,
    linear_cross_entropy_forward,
)
from minqwen.layers.moe import moe_backward, moe_forward
from minqwen.layers.rmsnorm_fast import fast_rmsnorm_backward, fast_rmsnorm_forward
from minqwen.layers.rope import rope_backward, rope_forward, rope_inv_freq, rope_tables
from minqwen.layers.swiglu import swiglu_backward, swiglu_forward
from minqwen.training.adamw import adamw_init, adamw_step

from .harness import Call, Work


def normal(*shape: int, seed: int = 0, std: float = 1.0) -> Array:
    rng = np.random.default_rng([seed, *shape])
    return rng.standard_normal(shape, dtype=np.float32) * np.float32(std)


def torch_call(function: Callable[..., Any], inputs: list[Array], dy: Array | None) -> Call:
    """Return a call of a torch function: y, and with dy also the gradients of the inputs."""
    import torch

    tensors = [torch.from_numpy(x.copy()).requires_grad_(dy is not None) for x in inputs]
    if dy is None:
        return torch.no_grad()(lambda: (function(*tensors),))
    upstream = torch.from_numpy(dy)

    def both() -> tuple[Any, ...]:
        y = function(*tensors)
        return (y, *torch.autograd.grad(y, tensors, upstream))

    return both


def torch_backward(function: Callable[..., Any], inputs: list[Array], dy: Array) -> Call:
    """Return a call of the backward pass alone: its graph is made once, here."""
    import torch

    tensors = [torch.from_numpy(x).requires_grad_() for x in inputs]
    y, upstream = function(*tensors), torch.from_numpy(dy)
    return lambda: torch.autograd.grad(y, tensors, upstream, retain_graph=True)


# --- layers -------------------------------------------------------------------------------------


def rmsnorm(N: int, D: int, passes: str) -> Work:
    """`passes`: forward, both, or backward, alone."""
    x, w, dy = normal(N, D), normal(D), normal(N, D, seed=1)
    _, kept = fast_rmsnorm_forward(x, w)

    def ours() -> Any:
        if passes == "backward":
            return fast_rmsnorm_backward(dy, kept)
        y, cache = fast_rmsnorm_forward(x, w)
        return (y, *fast_rmsnorm_backward(dy, cache)) if passes == "both" else (y,)

    def in_torch(call: Callable[..., Any]) -> Call:
        if passes == "backward":
            return torch_backward(call, [x, w], dy)
        return torch_call(call, [x, w], dy if passes == "both" else None)

    def transformers() -> Call:
        from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

        norm = Qwen2RMSNorm(D)
        del norm.weight  # so that ours can be put in its place

        def call(x: Any, w: Any) -> Any:
            norm.weight = w
            return norm(x)

        return in_torch(call)

    def torch() -> Call:
        from torch.nn.functional import rms_norm

        return in_torch(lambda x, w: rms_norm(x, (D,), w, 1e-6))

    once = {"forward": 2, "backward": 3, "both": 5}[passes]  # x in, y out; x, dy in, dx out
    rivals = {"transformers": transformers, "torch": torch}
    return Work(ours, rivals, cached=once * x.nbytes)


def embedding(V: int, D: int, N: int) -> Work:
    """The gradient of the table, of which most rows stay zero."""
    w, dx = np.zeros((V, D), np.float32), normal(N, D)  # only the shape of w is used
    ids = np.random.default_rng(0).integers(0, V, N)
    _, kept = embedding_forward(ids, w)

    def torch() -> Call:
        import torch
        from torch.nn.functional import embedding

        rows = torch.from_numpy(ids)
        return torch_backward(lambda w: embedding(rows, w), [w], dx)

    rivals = {"torch": torch}
    return Work(lambda: (embedding_backward(dx, kept),), rivals, nbytes=w.nbytes + 3 * dx.nbytes)


def rope(B: int, H: int, T: int, Dh: int) -> Work:
    x, dy = normal(B, H, T, Dh), normal(B, H, T, Dh, seed=1)
    cos, sin = rope_tables(np.arange(T), rope_inv_freq(Dh))

    def ours() -> Any:
        y, cache = rope_forward(x, cos, sin)
        return y, rope_backward(dy, cache)

    def transformers() -> Call:
        import torch
        from transformers.models.qwen2.modeling_qwen2 import rotate_half

        c, s = torch.from_numpy(cos), torch.from_numpy(sin)
        return torch_call(lambda x: x * c + rotate_half(x) * s, [x], dy)

    return Work(ours, {"transformers": transformers}, cached=4 * x.nbytes)


def swiglu(N: int, D: int, F: int, backward: bool) -> Work:
    x, dy = normal(N, D), normal(N, D, seed=1)
    weights = [normal(F, D, std=D**-0.5), normal(F, D, seed=1, std=D**-0.5)]
    weights.append(normal(D, F, std=F**-0.5))

    def ours() -> Any:
        y, cache = swiglu_forward(x, *weights)
        return (y, *swiglu_backward(dy, cache)) if backward else (y,)

    def torch() -> Call:
        from torch.nn.functional import linear, silu

        def call(x: Any, w_gate: Any, w_up: Any, w_down: Any) -> Any:
            return linear(silu(linear(x, w_gate)) * linear(x, w_up), w_down)

        return torch_call(call, [x, *weights], dy if backward else None)

    return Work(ours, {"torch": torch}, flops=6 * N * D * F * (3 if backward else 1))


def moe(N: int, E: int, K: int, D: int, Fe: int, Fs: int, backward: bool) -> Work:
    """Router, K of E experts, shared expert; "grouped" is what transformers does if not told."""
    x, dy, w_router = normal(N, D), normal(N, D, seed=1), normal(E, D, std=D**-0.5)
    experts = [normal(E, 2 * Fe, D, std=D**-0.5), normal(E, D, Fe, std=Fe**-0.5)]
    shared = (
        normal(Fs, D, std=D**-0.5),
        normal(Fs, D, std=D**-0.5, seed=1),
        normal(D, Fs, std=Fs**-0.5),
        normal(1, D, std=D**-0.5),
    )

    def ours() -> Any:
        y, cache = moe_forward(x, w_router, *experts, K, shared=shared)
        if not backward:
            return (y,)
        dx, dw_router, dw_gate_up, dw_down, dshared = moe_backward(dy, cache)
        return y, dx, dw_router, dw_gate_up, dw_down, *dshared

    def transformers(experts_implementation: str) -> Call:
        import torch
        from transformers.models.qwen2_moe import modeling_qwen2_moe as hf

        config = hf.Qwen2MoeConfig(
            hidden_size=D,
            num_experts=E,
            num_experts_per_tok=K,
            moe_intermediate_size=Fe,
            shared_expert_intermediate_size=Fs,
            experts_implementation=experts_implementation,
        )
        with torch.device("meta"):  # no memory: the weights come with each call
            block = hf.Qwen2MoeSparseMoeBlock(config)
        names = [
            "gate.weight",
            "experts.gate_up_proj",
            "experts.down_proj",
            *(f"shared_expert.{name}_proj.weight" for name in ("gate", "up", "down")),
            "shared_expert_gate.weight",
        ]

        def call(x: Any, *weights: Any) -> Any:
            weights = dict(zip(names, weights, strict=True))
            return torch.func.functional_call(block, weights, (x[None],))[0]

        return torch_call(call, [x, w_router, *experts, *shared], dy if backward else None)

    rivals = {
        "transformers eager": lambda: transformers("eager"),
        "transformers grouped": lambda: transformers("grouped_mm"),
    }
    flops = 6 * N * D * (K * Fe + Fs) + 2 * N * E * D
    return Work(ours, rivals, flops=flops * (3 if backward else 1), memory=True)


def attention(
    B: int, H: int, Hkv: int, T: int, Dh: int, backward: bool, memory_at: tuple[int, ...] = ()
) -> Work:
    """What the model runs. `memory_at`: lengths at which its memory is measured; no eager then."""
    q, dy = normal(B, H, T, Dh), normal(B, H, T, Dh, seed=1)
    k, v = normal(B, Hkv, T, Dh), normal(B, Hkv, T, Dh, seed=1)

    def ours() -> Any:
        y, cache = block_attention_forward(q, k, v)
        return (y, *block_attention_backward(dy, cache)) if backward else (y,)

    def repeat(x: Any) -> Any:  # as transformers does it; enable_gqa=True is slower on a CPU
        return x.repeat_interleave(H // Hkv, dim=1)

    def sdpa() -> Call:
        from torch.nn.functional import scaled_dot_product_attention as attend

        return torch_call(
            lambda q, k, v: attend(q, repeat(k), repeat(v), is_causal=True),
            [q, k, v],
            dy if backward else None,
        )

    def eager() -> Call:
        import torch

        mask = torch.full((T, T), float("-inf")).triu(1)

        def call(q: Any, k: Any, v: Any) -> Any:
            scores = q @ repeat(k).transpose(2, 3) * Dh**-0.5 + mask
            return torch.softmax(scores, dim=-1) @ repeat(v)

        return torch_call(call, [q, k, v], dy if backward else None)

    def ours_at(n: int) -> Call:
        return lambda: block_attention_forward(q[:, :, :n], k[:, :, :n], v[:, :, :n])[0]

    products = 7 if backward else 2  # of T/2 visible keys for each query, 2 Dh flops a pair
    return Work(
        ours,
        {"sdpa": sdpa} if memory_at else {"sdpa": sdpa, "torch eager": eager},
        flops=products * B * H * T * T * Dh,
        exps=B * H * T * T / 2 * (2 if backward else 1),  # they are made again on the way back
        memory=T >= 2048,
        memory_at={n: ours_at(n) for n in memory_at},
    )


def flash_attention(B: int, H: int, Hkv: int, T: int, Dh: int, backward: bool) -> Work:
    """Tiles against the plain matrix, blocks of whole rows, and torch; same inputs as above."""
    blocks = attention(B, H, Hkv, T, Dh, backward)
    q, dy = normal(B, H, T, Dh), normal(B, H, T, Dh, seed=1)
    k, v = normal(B, Hkv, T, Dh), normal(B, Hkv, T, Dh, seed=1)
    mask = causal_mask(T, T)

    def ours() -> Any:
        y, cache = flash_attention_forward(q, k, v)
        return (y, *flash_attention_backward(dy, cache)) if backward else (y,)

    def plain() -> Any:
        y, cache = attention_forward(q, k, v, mask)
        return (y, *attention_backward(dy, cache)) if backward else (y,)

    rivals = {"plain": lambda: plain, "blocks": lambda: blocks.ours, "sdpa": blocks.rivals["sdpa"]}
    return blocks._replace(ours=ours, rivals=rivals, memory=True, in_numpy=("plain", "blocks"))


def cross_entropy(N: int, V: int, in_place: bool = False) -> Work:
    """Forward and backward; `in_place`: the one that training takes, its own file."""
    z, labels = normal(N, V, std=2.0), np.random.default_rng(0).integers(0, V, N)
    own = z.copy() if in_place else z

    def ours() -> Any:
        if in_place:
            return cross_entropy_in_place(own, labels)
        loss, cache = cross_entropy_forward(z, labels)
        return loss, cross_entropy_backward(1.0, cache)

    def torch() -> Call:
        import torch
        from torch.nn.functional import cross_entropy

        target = torch.from_numpy(labels)
        return torch_call(lambda z: cross_entropy(z, target), [z], np.ones((), np.float32))

    if in_place:
        work = Work(ours, {"torch": torch}, nbytes=2 * z.nbytes, exps=z.size, memory=True)
        return work._replace(before=lambda: np.copyto(own, z), overwrites=True)
    return Work(ours, {"torch": torch}, nbytes=3 * z.nbytes, exps=2 * z.size, memory=True)


def linear_cross_entropy(N: int, D: int, V: int) -> Work:
    """The head and the loss, without all logits; torch has them all."""
    x, w = normal(N, D), normal(V, D, std=D**-0.5)
    labels = np.random.default_rng(0).integers(0, V, N)

    def ours() -> Any:
        loss, cache = linear_cross_entropy_forward(x, w, labels)
        return loss, *linear_cross_entropy_backward(1.0, cache)

    def torch() -> Call:
        import torch
        from torch.nn.functional import cross_entropy, linear

        target, one = torch.from_numpy(labels), np.ones((), np.float32)
        return torch_call(lambda x, w: cross_entropy(linear(x, w), target), [x, w], one)

    # three products are needed; one more is the price of the memory
    return Work(ours, {"torch": torch}, flops=6 * N * D * V, exps=2 * N * V, memory=True)


# --- training -----------------------------------------------------------------------------------

OPTIONS = {"lr": 1e-4, "eps": 1e-8, "weight_decay": 0.1}


def adamw(tensors: int, D: int) -> Work:
    params = {f"{i}.weight": normal(D, D, seed=i) for i in range(tensors)}
    grads = {name: normal(D, D, seed=tensors + i) for i, name in enumerate(params)}
    state = adamw_init(params)

    def torch(fused: bool) -> Call:
        import torch

        weights = [torch.from_numpy(w.copy()).requires_grad_() for w in params.values()]
        for w, g in zip(weights, grads.values(), strict=True):
            w.grad = torch.from_numpy(g)
        kind: Any = {"fused": True} if fused else {"foreach": True}
        step = torch.optim.AdamW(weights, betas=(0.9, 0.95), **OPTIONS, **kind).step

        def call() -> tuple[Any, ...]:
            step()
            return tuple(weights)

        return call

    def ours() -> Any:
        adamw_step(params, grads, state, **OPTIONS)
        return tuple(params.values())

    rivals = {"torch foreach": lambda: torch(False), "torch fused": lambda: torch(True)}
    return Work(ours, rivals, nbytes=28 * tensors * D * D)  # w, m, v both ways, g once
