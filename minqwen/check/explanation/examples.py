"""The example of each concept on three tokens, in numbers that can be followed by hand.

Where the checker knows the concept, an example is a dict of the arguments of a stranger's function;
where only our own table does, it is the tuple of inputs of the row. A concept that is in neither
list is shown on its own first inputs, rounded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...backend import Array
from ..rows_model import ATTENTION_SHAPES, EXPERT_SHAPES, MODEL_SHAPES
from ..rows_moe import spread_tokens
from ..spec import Arguments

Rng = np.random.Generator
HALVES = np.array([-2.0, -1.5, -1.0, -0.5, 0.5, 1.0, 1.5, 2.0])
FEWEST = 0.25  # between two logits of a token, where a choice must not be close


def some(rng: Rng, *shape: int) -> Array:
    """Return multiples of a half between -2 and 2, none of them 0.

    >>> some(np.random.default_rng(0), 3)
    array([1.5, 1. , 0.5])
    """
    return rng.choice(HALVES, shape)


def rounded(value: Any) -> Any:
    """Return numbers of a random input as multiples of a tenth.

    >>> rounded(np.array([0.123, 2.0])), rounded("text")
    (array([0.1, 2. ]), 'text')
    """
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return np.round(value, 1) + 0.0  # -0.0 becomes 0.0
    if isinstance(value, dict):
        return {name: rounded(x) for name, x in value.items()}
    return tuple(map(rounded, value)) if isinstance(value, tuple) else value


def apart(rng: Rng, D: int, E: int) -> tuple[Array, Array]:
    """Return three tokens x (3, D) and a router w (E, D) whose logits are well apart."""
    while True:
        x, w = some(rng, 3, D), some(rng, E, D)
        if np.diff(np.sort(x @ w.T, axis=1), axis=1).min() >= FEWEST:
            return x, w


def qkv(rng: Rng, H: int, Hkv: int, Dh: int) -> Arguments:
    """Return queries, keys and values of three tokens."""
    shapes = {"q": (1, H, 3, Dh), "k": (1, Hkv, 3, Dh), "v": (1, Hkv, 3, Dh)}
    return {name: some(rng, *shape) for name, shape in shapes.items()}


def three(*shapes: tuple[int, ...]) -> Callable[[Rng], tuple[Any, ...]]:
    """Return a maker of arrays of these shapes, for a row of the table."""
    return lambda rng: tuple(some(rng, *shape) for shape in shapes)


def weights(rng: Rng, shapes: dict[str, Any]) -> dict[str, Array]:
    """Return weights in tenths for these names, so small that sums of them stay small."""
    return {
        name: rounded(rng.standard_normal(shape) / (shape[-1] ** 0.5 if len(shape) > 1 else 1))
        for name, shape in shapes.items()
    }


CAUSAL = np.tri(3, dtype=bool)
REAL = np.array([True, True, False])
IDS = np.array([[0, 2], [2, 1], [2, 3]])


def _moe(rng: Rng) -> Arguments:
    x, w = apart(rng, 2, 3)
    weights = {"w_gate_up": some(rng, 3, 2, 2), "w_down": some(rng, 3, 2, 1)}
    return {"x": x, "w_router": w, **weights, "num_experts_per_tok": 2, "norm_topk_prob": False}


def _router(rng: Rng) -> Arguments:
    x, w = apart(rng, 2, 4)
    return {"x": x, "w": w, "num_experts_per_tok": 2, "norm_topk_prob": False}


def _block(rng: Rng) -> Arguments:
    D, F, kv = 4, 3, 2
    shapes = {
        "w_input_norm": (D,),
        **{"w_q": (D, D), "b_q": (D,), "w_k": (kv, D), "b_k": (kv,), "w_v": (kv, D), "b_v": (kv,)},
        **{"w_o": (D, D), "w_mlp_norm": (D,), "w_gate": (F, D), "w_up": (F, D), "w_down": (D, F)},
    }
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    return {"x": some(rng, 1, 3, D), **weights(rng, shapes), **heads, "base": 100.0, "eps": 1e-6}


def _feed_forward(rng: Rng) -> tuple[Any, ...]:
    x, router = spread_tokens(rng, 3, 7, 5)
    rest = weights(rng, EXPERT_SHAPES)
    return (x[None], *{**rest, "mlp.gate.weight": router}.values())


ANSWERS = np.array([[True, True, True], [True, True, False]])  # of 3 and 2 tokens

SPEC_EXAMPLES: dict[str, Callable[[Rng], Arguments]] = {
    "linear": lambda rng: {"x": some(rng, 3, 4), "w": some(rng, 2, 4), "b": some(rng, 2)},
    "embedding": lambda rng: {"ids": np.array([2, 0, 2]), "w": some(rng, 4, 3)},
    "rmsnorm": lambda rng: {"x": some(rng, 3, 4), "w": some(rng, 4), "eps": 1e-6},
    "rope": lambda rng: {"x": some(rng, 1, 1, 3, 4), "positions": np.arange(3), "base": 100.0},
    "attention": lambda rng: {**qkv(rng, 2, 1, 4), "mask": CAUSAL.copy()},
    "causal_attention": lambda rng: qkv(rng, 2, 1, 4),
    "swiglu": lambda rng: {
        "x": some(rng, 3, 2),
        "w_gate": some(rng, 4, 2),
        "w_up": some(rng, 4, 2),
        "w_down": some(rng, 2, 4),
    },
    "cross_entropy": lambda rng: {
        "logits": some(rng, 1, 3, 4),
        "labels": np.array([[2, 0, 3]]),
        "loss_mask": REAL[None].copy(),
    },
    "moe_router": _router,
    "load_balancing_loss": lambda rng: {
        "router_logits": some(rng, 3, 4),
        "expert_ids": IDS.copy(),
        "real": REAL.copy(),
    },
    "router_z_loss": lambda rng: {"router_logits": some(rng, 3, 4), "real": REAL.copy()},
    "token_logprobs": lambda rng: {
        "logits": some(rng, 1, 3, 4),
        "ids": np.array([[2, 0, 3]]),
        "temperature": 0.5,
    },
    "sequence_logprobs": lambda rng: {
        "logprobs": -np.abs(some(rng, 2, 3)),
        "mask": np.array([[False, True, True], [True, False, False]]),
    },
    "reward_head": lambda rng: {
        "hidden": some(rng, 2, 3, 2),
        "w": some(rng, 1, 2),
        "end_index": np.array([2, 1]),
    },
    "pairwise_loss": lambda rng: {
        "chosen_rewards": some(rng, 3),
        "rejected_rewards": some(rng, 3),
        "margin": None,
    },
    "dpo_loss": lambda rng: {
        "chosen_logprobs": some(rng, 3) - 10,
        "rejected_logprobs": some(rng, 3) - 10,
        "ref_chosen_logprobs": some(rng, 3) - 10,
        "ref_rejected_logprobs": some(rng, 3) - 10,
        "beta": 0.5,
    },
    "kl_penalty": lambda rng: {
        "logprobs": some(rng, 2, 3) - 2,
        "ref_logprobs": some(rng, 2, 3) - 2,
        "mask": ANSWERS,
        "scores": some(rng, 2),
        "kl_coef": 0.5,
    },
    "gae": lambda rng: {
        "rewards": some(rng, 2, 3),
        "values": some(rng, 2, 3),
        "mask": ANSWERS,
        "gamma": 1.0,
        "lam": 0.5,
        "last_values": None,
    },
    "whitening": lambda rng: {"x": some(rng, 2, 3), "mask": ANSWERS, "shift_mean": True},
    "ppo_policy_loss": lambda rng: {
        "logprobs": some(rng, 2, 3) - 2,
        "old_logprobs": some(rng, 2, 3) - 2,
        "advantages": some(rng, 2, 3),
        "mask": ANSWERS,
        "cliprange": 0.2,
    },
    "ppo_value_loss": lambda rng: {
        "values": some(rng, 2, 3),
        "old_values": some(rng, 2, 3),
        "returns": some(rng, 2, 3),
        "mask": ANSWERS,
        "cliprange_value": 0.15,
    },
    "entropy": lambda rng: {"logits": some(rng, 1, 3, 4)},
    "shared_expert": lambda rng: {
        "x": some(rng, 3, 2),
        "w_gate": some(rng, 4, 2),
        "w_up": some(rng, 4, 2),
        "w_down": some(rng, 2, 4),
        "w_shared_gate": some(rng, 1, 2),
    },
    "moe": _moe,
    "decoder_block": _block,
    "ntk_inv_freq": lambda rng: {"head_dim": 8, "base": 10000.0, "alpha": 3.0},
    "dynamic_ntk_alpha": lambda rng: {"length": 3, "train_length": 2},
    "dual_chunk_attention": lambda rng: {
        **qkv(rng, 1, 1, 4),
        "chunk_size": 3,
        "local_size": 1,
        "base": 100.0,
    },
    "adamw": lambda rng: {
        "w": some(rng, 3),
        "g": some(rng, 3),
        "m": some(rng, 3) / 10,
        "v": np.abs(some(rng, 3)) / 10,
        "step": 2,
        "lr": 0.1,
    },
    "cosine_lr": lambda rng: {
        "step": 3,
        "peak_lr": 1.0,
        "min_lr": 0.1,
        "warmup_steps": 1,
        "total_steps": 7,
    },
    "clip_grad_norm": lambda rng: {
        "grads": (some(rng, 3), some(rng, 2, 2), some(rng, 1)),
        "max_norm": 1.0,
    },
    "top_p": lambda rng: {"logits": 1.0 * rng.permutation(4)[None], "p": 0.8},
    "bpe_merges": lambda rng: {"text": "aaabdaaabac", "merges": 3},
    "bpe_encode": lambda rng: {"text": "abdaaab", "merges": [(97, 97), (97, 98), (256, 257)]},
    "logn": lambda rng: {
        "q": some(rng, 1, 1, 3, 2),
        "positions": np.array([1, 7, 15]),
        "train_length": 4,
    },
    "window_mask": lambda rng: {"T": 3, "S": 3, "window": 2},
    "yarn_inv_freq": lambda rng: {
        "head_dim": 8,
        "base": 10000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 1000,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
    },
}

ROW_EXAMPLES: dict[str, Callable[[Rng], tuple[Any, ...]]] = {
    "block_attention": lambda rng: (*qkv(rng, 2, 1, 4).values(), None, None),
    "flash_attention": lambda rng: (*qkv(rng, 2, 1, 4).values(), None, None),
    "dropout": three((3, 4)),
    "moe_experts": lambda rng: (
        some(rng, 3, 2),
        np.array([[0, 1], [1, 0], [1, 2]]),
        some(rng, 3, 2),
        some(rng, 3, 2, 2),
        some(rng, 3, 2, 1),
    ),
    "ntk": lambda rng: (some(rng, 1, 1, 3, 4), np.arange(3), 2),
    "yarn": lambda rng: (some(rng, 1, 1, 3, 4), np.arange(3), True),
    "window": lambda rng: (*qkv(rng, 1, 1, 4).values(), 2),
    "self_attention": lambda rng: (
        some(rng, 1, 3, 7),
        *weights(rng, ATTENTION_SHAPES).values(),
        np.ones((1, 3), bool),
        "GQA, padding",
    ),
    "feed_forward": _feed_forward,
    "router_loss": lambda rng: (some(rng, 3, 4), some(rng, 3, 4), IDS, IDS, REAL[None], 0.5, False),
    "language_model": lambda rng: (
        *weights(rng, MODEL_SHAPES).values(),
        np.array([[2, 0, 7]]),
        np.ones((1, 3), bool),
        "tied, padding",
    ),
}
