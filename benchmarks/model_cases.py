"""The whole model: a training step, a prompt, the answer; ours and its rivals on the same numbers.

Sizes are the fields of a config, or the name of a published one. The parameters are random. Where
nobody changes them, both sides read the same memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from minqwen.model.accounting import cost
from minqwen.model.config import QwenConfig
from minqwen.model.decode_step import decode_step, decode_weights, row_layout
from minqwen.model.init import init_params
from minqwen.model.kv_cache import KVCache
from minqwen.model.language_model import language_model_forward
from minqwen.model.presets import preset
from minqwen.model.sampling import sample
from minqwen.params import Params
from minqwen.training.accumulate import Batch, loss_and_grads
from minqwen.training.adamw import adamw_init, adamw_step

from .harness import Call, Work
from .layer_cases import OPTIONS
from .peer_llama3 import Llama3

Model = dict[str, Any] | str


def make_model(model: Model) -> tuple[QwenConfig, Params]:
    """Return config and parameters, which nobody may change: the last ones made are kept."""
    return _make_model(json.dumps(model))


@lru_cache(maxsize=1)  # the large ones are wanted by several cases, and fit but once
def _make_model(model: str) -> tuple[QwenConfig, Params]:
    sizes = json.loads(model)
    config = preset(sizes) if isinstance(sizes, str) else QwenConfig(**sizes)
    return config, init_params(config, np.random.default_rng(0))


def transformers_model(config: QwenConfig, params: Params, attention: str) -> Any:
    """Return a Qwen2ForCausalLM of transformers on these very parameters."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM
    from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding

    theirs = Qwen2Config(**config.to_dict(), attn_implementation=attention)
    with torch.device("meta"):  # no memory: the weights are ours
        model = Qwen2ForCausalLM(theirs)
    weights = {name: torch.from_numpy(w) for name, w in params.items()}
    if config.tie_word_embeddings:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model.load_state_dict(weights, assign=True)
    model.tie_weights()
    model.model.rotary_emb = Qwen2RotaryEmbedding(theirs)  # its table is in no checkpoint
    return model.eval()


def attention_rivals(make: Callable[[str], Call]) -> dict[str, Callable[[], Call]]:
    return {f"transformers {kind}": lambda kind=kind: make(kind) for kind in ("eager", "sdpa")}


# --- training -----------------------------------------------------------------------------------


def training_step(
    B: int, T: int, model: Model, optimizer: bool = True, python_threads: bool = False
) -> Work:
    """Forward, loss, backward and, with `optimizer`, AdamW.

    `python_threads`: two of them, half of the batch each, BLAS held to one thread. Rivals are then
    also the same halves one after the other, and the whole batch with two threads in BLAS.
    """
    config, params = make_model(model)
    ids, labels = np.random.default_rng(1).integers(0, config.vocab_size, (2, B, T))
    whole = [Batch(ids, labels)]
    halves = [Batch(ids[part], labels[part]) for part in (slice(B // 2), slice(B // 2, B))]

    def in_numpy(pieces: list[Batch], threads: int) -> Call:
        own = {name: w.copy() for name, w in params.items()} if optimizer else params
        state = adamw_init(own) if optimizer else None

        def call() -> tuple[Any, ...]:
            loss, grads, *_ = loss_and_grads(own, config, pieces, threads=threads)
            if state is not None:
                adamw_step(own, grads, state, **OPTIONS)
            return (np.float32(loss), *(grads[name] for name in sorted(grads)))

        return call

    def torch(attention: str) -> Call:
        import torch

        own = {name: w.copy() for name, w in params.items()} if optimizer else params
        rival = transformers_model(config, own, attention).train()
        weights = dict(rival.named_parameters())
        adamw = torch.optim.AdamW(weights.values(), betas=(0.9, 0.95), foreach=True, **OPTIONS)
        x, target = torch.from_numpy(ids), torch.from_numpy(labels)

        def call() -> tuple[Any, ...]:
            logits = rival(input_ids=x, use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten())
            loss.backward()
            if optimizer:
                adamw.step()
            grads = tuple(weights[name].grad for name in sorted(weights))
            adamw.zero_grad()  # ours keeps none either
            return (loss, *grads)

        return call

    rivals = attention_rivals(torch)
    ours = in_numpy(whole, 1)
    if python_threads:
        ours = one_blas_thread(in_numpy(halves, 2))
        rivals["one Python thread"] = lambda: one_blas_thread(in_numpy(halves, 1))
        rivals["two BLAS threads"] = lambda: in_numpy(whole, 1)
    H, L = config.num_attention_heads, config.num_hidden_layers
    return Work(
        ours,
        rivals,
        flops=cost(config, B, T).training_flops,
        exps=L * B * H * T * T + 2 * B * T * config.vocab_size,  # both ways; T/2 keys a query
        items=B * T,
        unit="tokens/s",
        tolerance=1e-5 if optimizer else 3e-5,  # without it for the many layers
        exact=("one Python thread",) if python_threads else (),
    )


def one_blas_thread(call: Call) -> Call:
    """Return a call during which NumPy's BLAS has one thread; torch keeps its own."""
    from threadpoolctl import ThreadpoolController

    blas = ThreadpoolController().select(user_api="blas")

    def limited() -> Any:
        with blas.limit(limits=1):
            return call()

    return limited


# --- inference ----------------------------------------------------------------------------------


def prefill(T: int, model: Model, peer: bool = False) -> Work:
    """A prompt through the model into a new KV cache, logits of its last token.

    `peer`: the rival is llama3.np, not transformers.
    """
    config, params = make_model(model)
    ids = np.random.default_rng(1).integers(0, config.vocab_size, (1, T))

    def ours() -> Any:
        kv_cache = KVCache(config, 1, T)
        return language_model_forward(params, config, ids, kv_cache=kv_cache, last_only=True)[:1]

    def torch(attention: str) -> Call:
        import torch

        rival, x = transformers_model(config, params, attention), torch.from_numpy(ids)
        return torch.no_grad()(lambda: (rival(x, use_cache=True, logits_to_keep=1).logits,))

    def llama3() -> Call:
        rival = Llama3(params, config, 1, T)
        return lambda: (rival(ids, 0),)

    head = 2 * config.vocab_size * config.hidden_size  # wanted for one token only
    return Work(
        ours,
        {"llama3.np": llama3} if peer else attention_rivals(torch),
        flops=cost(config, 1, T).forward_flops - (T - 1) * head,
        exps=config.num_hidden_layers * config.num_attention_heads * T * T / 2,
        items=T,
        unit="tokens/s",
    )


def decode(T: int, new: int, model: Model, peer: bool = False, layout: bool = False) -> Work:
    """`new` greedy tokens after a prompt of T that is in the KV cache already: a bare loop.

    `layout`: our weights were laid out for products of one row before (row_layout).
    """
    config, params = make_model(model)
    own = row_layout(params) if layout else params
    ids = np.random.default_rng(1).integers(0, config.vocab_size, (1, T))
    kv_cache = KVCache(config, 1, T + new)
    language_model_forward(params, config, ids[:, :-1], kv_cache=kv_cache, last_only=True)

    def ours() -> Any:
        kv_cache.truncate(T - 1)
        weights = decode_weights(own, config, T + new)  # as generate does, once for each text
        assert weights is not None
        tokens = [ids[:, -1]]
        for _ in range(new):
            logits = decode_step(weights, tokens[-1], kv_cache)  # (1, V)
            tokens.append(sample(logits, temperature=0))
        return np.concatenate(tokens), logits[:, None]

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

    def llama3() -> Call:
        rival = Llama3(params, config, 1, T + new)
        rival(ids[:, :-1], 0)

        def call() -> tuple[Any, ...]:
            tokens = [ids[:, -1]]
            for i in range(new):
                logits = rival(tokens[-1][:, None], T - 1 + i)
                tokens.append(logits[:, -1].argmax(-1))
            return np.concatenate(tokens), logits

        return call

    read = cost(config, 1, 1).parameters - (
        0 if config.tie_word_embeddings else config.vocab_size * config.hidden_size
    )
    kept = cost(config, 1, 1).kv_cache_per_token * (T + new / 2)
    return Work(
        ours,
        {"llama3.np": llama3} if peer else attention_rivals(torch),
        nbytes=4 * new * (read + kept),
        items=new,
        unit="tokens/s",
    )
