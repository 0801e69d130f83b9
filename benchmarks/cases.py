"""What is timed: ours, its rivals, sizes and goals. Everything is float32 and drawn at random.

Each maker returns the calls for one size. A rival is made lazily, so a package that is missing is
an ImportError there and nowhere else. The goals are our time over the rival's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from minqwen.backend import Array
from minqwen.layers.attention import attention_backward, attention_forward, causal_mask
from minqwen.layers.block_attention import block_attention_backward, block_attention_forward
from minqwen.layers.cross_entropy import cross_entropy_backward, cross_entropy_forward
from minqwen.layers.flash_attention import flash_attention_backward, flash_attention_forward
from minqwen.layers.moe import moe_backward, moe_forward
from minqwen.layers.rmsnorm import rmsnorm_backward, rmsnorm_forward
from minqwen.layers.rope import rope_backward, rope_forward, rope_inv_freq, rope_tables
from minqwen.layers.swiglu import swiglu_backward, swiglu_forward
from minqwen.model.config import QwenConfig
from minqwen.model.init import init_params
from minqwen.model.kv_cache import KVCache
from minqwen.model.language_model import language_model_backward, language_model_forward
from minqwen.model.sampling import sample
from minqwen.params import Params
from minqwen.training.adamw import adamw_init, adamw_step

from .harness import Call, Case, Work


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


# --- layers -------------------------------------------------------------------------------------


def rmsnorm(N: int, D: int, backward: bool) -> Work:
    x, w, dy = normal(N, D), normal(D), normal(N, D, seed=1)

    def ours() -> Any:
        y, cache = rmsnorm_forward(x, w)
        return (y, *rmsnorm_backward(dy, cache)) if backward else (y,)

    def transformers() -> Call:
        from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

        norm = Qwen2RMSNorm(D)
        del norm.weight  # so that ours can be put in its place

        def call(x: Any, w: Any) -> Any:
            norm.weight = w
            return norm(x)

        return torch_call(call, [x, w], dy if backward else None)

    def torch() -> Call:
        from torch.nn.functional import rms_norm

        return torch_call(lambda x, w: rms_norm(x, (D,), w, 1e-6), [x, w], dy if backward else None)

    return Work(ours, {"transformers": transformers, "torch": torch})


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

    return Work(ours, {"transformers": transformers})


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


def attention(B: int, H: int, Hkv: int, T: int, Dh: int, backward: bool) -> Work:
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

    products = 7 if backward else 2  # of T/2 visible keys for each query, 2 Dh flops a pair
    flops = products * B * H * T * T * Dh
    return Work(ours, {"sdpa": sdpa, "torch eager": eager}, flops=flops, memory=T >= 2048)


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
    return Work(ours, rivals, flops=blocks.flops, memory=True, in_numpy=("plain", "blocks"))


def cross_entropy(N: int, V: int) -> Work:
    z, labels = normal(N, V, std=2.0), np.random.default_rng(0).integers(0, V, N)

    def ours() -> Any:
        loss, cache = cross_entropy_forward(z, labels)
        return loss, cross_entropy_backward(1.0, cache)

    def torch() -> Call:
        import torch
        from torch.nn.functional import cross_entropy

        target = torch.from_numpy(labels)
        return torch_call(lambda z: cross_entropy(z, target), [z], np.ones((), np.float32))

    return Work(ours, {"torch": torch}, nbytes=3 * z.nbytes, memory=True)


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


# --- the whole model ----------------------------------------------------------------------------

MODEL = {
    "num_hidden_layers": 4, "hidden_size": 256, "num_attention_heads": 8,
    "num_key_value_heads": 2, "intermediate_size": 704, "vocab_size": 4096,
}  # fmt: skip
TINY = {
    "num_hidden_layers": 2, "hidden_size": 12, "num_attention_heads": 3,
    "num_key_value_heads": 1, "intermediate_size": 20, "vocab_size": 31,
}  # fmt: skip


def make_model(model: dict[str, int]) -> tuple[QwenConfig, Params, float]:
    """Return config, parameters and the flops of all matrices for one token."""
    config = QwenConfig(**model)
    params = init_params(config, np.random.default_rng(0))
    matrices = [w for name, w in params.items() if w.ndim == 2 and "embed" not in name]
    return config, params, 2.0 * sum(w.size for w in matrices)


def transformers_model(config: QwenConfig, params: Params, attention: str) -> Any:
    """Return a Qwen2ForCausalLM of transformers that holds copies of our parameters."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    model = Qwen2ForCausalLM(Qwen2Config(**config.to_dict(), attn_implementation=attention))
    model.load_state_dict({name: torch.from_numpy(w.copy()) for name, w in params.items()})
    return model.eval()


def training_step(B: int, T: int, model: dict[str, int]) -> Work:
    """Forward, loss, backward and AdamW."""
    config, params, flops = make_model(model)
    ids, labels = np.random.default_rng(1).integers(0, config.vocab_size, (2, B, T))
    state, fresh = adamw_init(params), {name: w.copy() for name, w in params.items()}

    def ours() -> Any:
        logits, cache = language_model_forward(params, config, ids, training=True)
        loss, loss_cache = cross_entropy_forward(logits, labels)
        grads = language_model_backward(cross_entropy_backward(1.0, loss_cache), cache)
        adamw_step(params, grads, state, **OPTIONS)
        return (loss, *(grads[name] for name in sorted(grads)))

    def torch(attention: str) -> Call:
        import torch

        rival = transformers_model(config, fresh, attention).train()
        weights = dict(rival.named_parameters())
        optimizer = torch.optim.AdamW(weights.values(), betas=(0.9, 0.95), foreach=True, **OPTIONS)
        x, target = torch.from_numpy(ids), torch.from_numpy(labels)

        def call() -> tuple[Any, ...]:
            optimizer.zero_grad()
            logits = rival(input_ids=x, use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten())
            loss.backward()
            optimizer.step()
            return (loss, *(weights[name].grad for name in sorted(weights)))

        return call

    rivals = {
        "transformers eager": lambda: torch("eager"),
        "transformers sdpa": lambda: torch("sdpa"),
    }
    width = config.num_hidden_layers * config.num_attention_heads * config.head_dim
    work = 3 * flops * B * T + 7.0 * B * T * T * width  # 7: as in attention above
    return Work(ours, rivals, flops=work, items=B * T, unit="tokens/s")


def prefill(T: int, model: dict[str, int]) -> Work:
    """A prompt through the model into a new KV cache, logits of its last token."""
    config, params, flops = make_model(model)
    ids = np.random.default_rng(1).integers(0, config.vocab_size, (1, T))

    def ours() -> Any:
        kv_cache = KVCache(config, 1, T)
        return language_model_forward(params, config, ids, kv_cache=kv_cache, last_only=True)[:1]

    def torch(attention: str) -> Call:
        import torch

        rival, x = transformers_model(config, params, attention), torch.from_numpy(ids)
        return torch.no_grad()(lambda: (rival(x, use_cache=True, logits_to_keep=1).logits,))

    rivals = {
        "transformers eager": lambda: torch("eager"),
        "transformers sdpa": lambda: torch("sdpa"),
    }
    head = 2.0 * config.vocab_size * config.hidden_size
    width = config.num_hidden_layers * config.num_attention_heads * config.head_dim
    return Work(
        ours, rivals, flops=(flops - head) * T + 2.0 * T * T * width, items=T, unit="tokens/s"
    )


def decode(T: int, new: int, model: dict[str, int]) -> Work:
    """`new` greedy tokens after a prompt of T that is in the KV cache already: a bare loop."""
    config, params, _ = make_model(model)
    ids = np.random.default_rng(1).integers(0, config.vocab_size, (1, T))
    kv_cache = KVCache(config, 1, T + new)
    language_model_forward(params, config, ids[:, :-1], kv_cache=kv_cache, last_only=True)

    def ours() -> Any:
        kv_cache.truncate(T - 1)
        tokens = [ids[:, -1]]
        for _ in range(new):
            logits, _ = language_model_forward(
                params, config, tokens[-1][:, None], kv_cache=kv_cache, last_only=True
            )
            tokens.append(sample(logits[:, -1], temperature=0))
        return np.concatenate(tokens), logits

    def torch(attention: str) -> Call:
        import torch
        from transformers import DynamicCache

        rival, prompt = transformers_model(config, params, attention), torch.from_numpy(ids)
        past = DynamicCache(config=rival.config)
        with torch.no_grad():
            rival(prompt[:, :-1], cache=past)

        @torch.no_grad()
        def call() -> tuple[Any, ...]:
            past.crop(T - 1 - past.get_seq_length())  # forget the tokens of the last call
            tokens = [prompt[:, -1]]
            for _ in range(new):
                logits = rival(tokens[-1][:, None], cache=past).logits
                tokens.append(logits[:, -1].argmax(-1))
            return torch.cat(tokens), logits

        return call

    rivals = {
        "transformers eager": lambda: torch("eager"),
        "transformers sdpa": lambda: torch("sdpa"),
    }
    return Work(ours, rivals, items=new, unit="tokens/s")


# --- tokenizer: tokenizer.py makes the texts and calls, and asserts equal ids itself ------------


def tokenizer(kind: str, name: str = "", **sizes: int) -> Work:
    from . import tokenizer as module

    if kind == "encode":
        case = encode_cases()[name]
    else:
        case = {"train": module.train_case, "recount": module.recount_case}[kind](**sizes)
    calls = {"ours": case.ours, **case.rivals}
    if kind == "train":  # ties are broken differently, so compare how many tokens a text becomes
        text = module.english_text()[:100_000]
        calls = {who: _train_and_count(call, text) for who, call in calls.items()}
    if kind == "recount":  # asserted to be equal in there
        calls = {who: _train_only(call) for who, call in calls.items()}
    rivals = {who: lambda call=call: call for who, call in calls.items() if who != "ours"}
    for package in ("tiktoken", "tokenizers"):
        if kind == "encode" and package not in rivals:
            rivals[package] = lambda package=package: _missing(package)
    return Work(calls["ours"], rivals, items=case.megabytes, unit="MB/s", tolerance=2e-3)


@cache
def encode_cases() -> dict[str, Any]:
    from . import tokenizer as module

    return {case.name: case for case in module.encode_cases()}


def _missing(package: str) -> Call:
    raise ImportError(f"No module named {package!r}")


def _train_only(train: Call) -> Call:
    def call() -> int:
        train()
        return 0

    return call


def _train_and_count(train: Call, text: str) -> Call:
    def call() -> float:
        ids = train().encode(text)
        return float(len(getattr(ids, "ids", ids)))

    return call


# --- the list -----------------------------------------------------------------------------------

QWEN2 = {"B": 1, "H": 14, "Hkv": 2, "Dh": 64}  # heads of Qwen2-0.5B
FEW = {"B": 2, "H": 6, "Hkv": 3, "T": 70, "Dh": 4}  # T: more than one block of queries
TWO = {"B": 1, "H": 2, "Hkv": 2, "Dh": 64}  # few, as the plain way needs H * T * T numbers
FLASH = {"plain": 1.0}  # the goal
FORWARD, BOTH = {"backward": False}, {"backward": True}
ROWS, WIDE = {"N": 2048, "D": 896}, {"N": 2048, "D": 256, "F": 704}
MOE = {"N": 512, "E": 60, "K": 4, "D": 1024, "Fe": 704, "Fs": 2816}  # Qwen1.5-MoE, half as wide
FEW_EXPERTS = {"N": 13, "E": 5, "K": 2, "D": 8, "Fe": 4, "Fs": 11}  # torch: multiples of 4
EAGER, GROUPED = "transformers eager", "transformers grouped"

CASES = [
    Case(
        "rmsnorm forward",
        rmsnorm,
        {**ROWS, **FORWARD},
        {"N": 7, "D": 5, **FORWARD},
        {"transformers": 0.8},
    ),
    Case(
        "rmsnorm both", rmsnorm, {**ROWS, **BOTH}, {"N": 7, "D": 5, **BOTH}, {"transformers": 0.7}
    ),
    Case(
        "rope both",
        rope,
        {"B": 1, "H": 14, "T": 2048, "Dh": 64},
        {"B": 2, "H": 3, "T": 5, "Dh": 4},
        {"transformers": 1.25},
    ),
    Case(
        "swiglu forward",
        swiglu,
        {**WIDE, **FORWARD},
        {"N": 7, "D": 5, "F": 11, **FORWARD},
        {"torch": 1.4},
    ),
    Case(
        "swiglu both", swiglu, {**WIDE, **BOTH}, {"N": 7, "D": 5, "F": 11, **BOTH}, {"torch": 1.4}
    ),
    Case("moe forward", moe, {**MOE, **FORWARD}, {**FEW_EXPERTS, **FORWARD}, {GROUPED: 1.5}),
    Case("moe both", moe, {**MOE, **BOTH}, {**FEW_EXPERTS, **BOTH}, {GROUPED: 1.5}),
    Case(
        "attention 512 forward",
        attention,
        {**QWEN2, "T": 512, **FORWARD},
        {**FEW, **FORWARD},
        {"sdpa": 1.1},
        quick=True,
    ),
    Case(
        "attention 512 both",
        attention,
        {**QWEN2, "T": 512, **BOTH},
        {**FEW, **BOTH},
        {"sdpa": 0.9},
        quick=True,
    ),
    Case("attention 2048 forward", attention, {**QWEN2, "T": 2048, **FORWARD}, {}, {"sdpa": 1.1}),
    Case("attention 2048 both", attention, {**QWEN2, "T": 2048, **BOTH}, {}, {"sdpa": 0.9}),
    Case("flash 2048 forward", flash_attention, {**TWO, "T": 2048, **FORWARD}, {}, FLASH),
    Case("flash 2048 both", flash_attention, {**TWO, "T": 2048, **BOTH}, {**FEW, **BOTH}, FLASH),
    Case("flash 8192 forward", flash_attention, {**TWO, "T": 8192, **FORWARD}, {}, FLASH),
    Case("flash 8192 both", flash_attention, {**TWO, "T": 8192, **BOTH}, {}, FLASH),
    Case(
        "cross-entropy", cross_entropy, {"N": 512, "V": 151936}, {"N": 5, "V": 4099}, {"torch": 1.0}
    ),
    Case(
        "adamw", adamw, {"tensors": 24, "D": 1024}, {"tensors": 2, "D": 7}, {"torch foreach": 1.0}
    ),
    Case(
        "training step",
        training_step,
        {"B": 8, "T": 256, "model": MODEL},
        {"B": 2, "T": 5, "model": TINY},
        {EAGER: 1.3},
        quick=True,
    ),
    Case(
        "prefill",
        prefill,
        {"T": 512, "model": MODEL},
        {"T": 5, "model": TINY},
        {EAGER: 1.3},
        quick=True,
    ),
    Case(
        "decode",
        decode,
        {"T": 128, "new": 64, "model": MODEL},
        {"T": 5, "new": 3, "model": TINY},
        {EAGER: 0.5},
        quick=True,
    ),
    Case(
        "tokenizer train, textbook",
        tokenizer,
        {"kind": "recount", "merges": 64, "size": 100_000},
        {},
        {"recount": 1 / 150},
    ),
    Case(
        "tokenizer train 1000",
        tokenizer,
        {"kind": "train", "merges": 1000},
        {},
        {"tokenizers": 1.5},
    ),
    Case(
        "tokenizer train 8000",
        tokenizer,
        {"kind": "train", "merges": 8000},
        {},
        {"tokenizers": 1.5},
    ),
    *(
        Case(
            f"tokenizer {name}",
            tokenizer,
            {"kind": "encode", "name": name},
            {},
            goals,
            quick=bool(goals) and "cold" in name,
        )
        for name, goals in {
            "encode English, cold": {"tokenizers": 1 / 3, "tiktoken": 1 / 0.3},
            "encode code, cold": {"tokenizers": 1 / 3, "tiktoken": 1 / 0.3},
            "encode Chinese, cold": {},
            "encode English, warm": {"tokenizers": 1 / 3, "tiktoken": 1 / 0.3},
            "encode code, warm": {"tokenizers": 1 / 3, "tiktoken": 1 / 0.3},
            "encode Chinese, warm": {},
        }.items()
    ),
]
