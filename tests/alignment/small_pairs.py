"""Pairs, models and runs that take milliseconds, for the tests of the reward model and of DPO."""

import numpy as np
from helpers.models import random_params, small_config

from minqwen.alignment.preference_pairs import Pair
from minqwen.tokenizer.chatml import Chat

PAD = 60
EXPERTS = {
    "model_type": "qwen2_moe",
    "num_experts": 5,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 7,
    "shared_expert_intermediate_size": 11,
    "router_aux_loss_coef": 0.3,
}
SETTINGS = {
    "steps": 6,
    "batch_size": 5,
    "accumulate": 2,
    "context_length": 12,
    "peak_lr": 0.01,
    "checkpoint_every": 2,
    "eval_every": 3,
    "min_lr_ratio": 1.0,
    "warmup_steps": 0,
}


def chat(prompt, answer):
    return Chat([*prompt, *answer], [False] * len(prompt) + [True] * len(answer))


def some_pairs(n, seed=0):
    """Return pairs of unequal length, of a vocabulary of 60; their prompts are the same."""
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(n):
        prompt, good, bad = (
            rng.integers(0, 60, size).tolist()
            for size in (rng.integers(2, 5), *rng.integers(1, 7, 2))
        )
        pairs.append(Pair(chat(prompt, [*good, 58]), chat(prompt, [*bad, 59])))
    return pairs


def directional_errors(f, params, grads, seed=0, step=1e-5):
    """Compare every gradient with a central difference along a random direction of its own."""
    rng = np.random.default_rng(seed)
    errors = {}
    assert grads.keys() == params.keys()
    for name, w in params.items():
        direction = rng.standard_normal(w.shape)
        up, down = (f({**params, name: w + sign * step * direction}) for sign in (1, -1))
        along = float((grads[name] * direction).sum())
        scale = float(np.abs(grads[name] * direction).sum()) or 1.0
        errors[name] = abs((up - down) / (2 * step) - along) / scale
    return errors


def same_text(small=None, **changes):
    """Return a language model and its parameters."""
    config = small_config(**{**(small or {}), **changes})
    return config, random_params(config)
