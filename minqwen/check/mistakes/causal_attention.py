"""Causal attention: how it is called, tried, and got wrong."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from ...backend import Array
from ..spec import Arguments, Mistake, Probe, Spec
from .attention import BACKWARD, HIDDEN, MIXED_UP, SCALE, SOFTMAX, qkv, whole_scores


def forward(m: ModuleType, a: Arguments) -> Any:
    """Run a copy of layers/attention.py with its causal mask: out and the cache."""
    mask = m.causal_mask(a["q"].shape[2], a["k"].shape[2])
    return m.attention_forward(a["q"], a["k"], a["v"], mask)


def run(m: ModuleType, a: Arguments) -> tuple[Array, ...]:
    """Compute out with a copy of layers/attention.py."""
    return (forward(m, a)[0],)


def pull(m: ModuleType, a: Arguments, dy: tuple[Array, ...]) -> dict[str, Array]:
    """Compute the gradients with a copy of layers/attention.py."""
    gradients = m.attention_backward(dy[0], forward(m, a)[1])
    return dict(zip(("q", "k", "v"), gradients, strict=True))


def huge(rng: np.random.Generator) -> Arguments:
    """Return whole numbers with scores in the thousands, of both signs."""
    return whole_scores(rng, qkv(rng, 2, 3, 3, 7, 7, 16), -40, 40)


def low_first(rng: np.random.Generator) -> Arguments:
    """Return a first key with scores of about -14000, and others of about 0."""
    a = whole_scores(rng, qkv(rng, 2, 3, 3, 5, 5, 16), 58, 60, key_sign=-1)
    a["k"][:, :, 1:] = rng.integers(-1, 2, a["k"][:, :, 1:].shape)
    return a


PROBES = (
    Probe(
        "ordinary", lambda rng: qkv(rng, 2, 3, 3, 7, 7, 5), "three heads, seven tokens", hard=False
    ),
    Probe(
        "other sizes", lambda rng: qkv(rng, 3, 2, 2, 5, 5, 11), "two heads, five tokens", hard=False
    ),
    Probe(
        "keys from a cache",
        lambda rng: qkv(rng, 2, 3, 3, 4, 11, 7),
        "four new queries, which are the last of eleven tokens",
    ),
    Probe(
        "one new token",
        lambda rng: qkv(rng, 2, 3, 3, 1, 7, 5),
        "a single query, which sees seven keys",
    ),
    Probe(
        "grouped heads",
        lambda rng: qkv(rng, 2, 6, 2, 5, 5, 7),
        "six query heads share two key and value heads",
    ),
    Probe(
        "other groups, with a cache",
        lambda rng: qkv(rng, 1, 6, 3, 3, 5, 11),
        "six query heads share three key and value heads",
    ),
    Probe(
        "huge scores",
        huge,
        "scores in the thousands, where exp overflows",
        gradient=False,
    ),
    Probe(
        "low scores",
        low_first,
        "the first token sees a score of about -14000; those that it must not see are about 0",
        gradient=False,
    ),
    Probe("one token", lambda rng: qkv(rng, 1, 1, 1, 1, 1, 5), "a single token, which sees itself"),
    Probe(
        "square", lambda rng: qkv(rng, 4, 4, 4, 4, 4, 4), "all sizes equal: axes can be mixed up"
    ),
)

_PROBS = "probs = weights / (total + (total == 0))  # a row that sees nothing stays 0"
_MASK = "mask: Array = array_module(like).tri(T, S, S - T, dtype=bool)"


def _mask(value: str) -> str:
    return f"xp = array_module(like)\n    mask: Array = {value}"


def _own_softmax(mask: str, hidden: str) -> str:
    """Return lines that take the softmax again, under another mask."""
    return (
        f"full = xp.where({mask}, (q @ k.swapaxes(-1, -2)) * scale, {hidden})\n"
        "    full = xp.exp(full - full.max(axis=-1, keepdims=True))\n"
        "    probs = full / full.sum(axis=-1, keepdims=True)"
    )


MASK = (
    Mistake(
        "no_mask",
        _MASK,
        _mask("xp.ones((T, S), dtype=bool)"),
        "the future is visible: the result of a token changes when a later token changes.",
        "Change the last token: which results change?",
    ),
    Mistake(
        "next_token_visible",
        _MASK,
        _mask("xp.tri(T, S, S - T + 1, dtype=bool)"),
        "a token sees the one after it: the mask is off by one.",
        "How many keys does the first token of a text see?",
    ),
    Mistake(
        "itself_hidden",
        _MASK,
        _mask("xp.tri(T, S, S - T - 1, dtype=bool)"),
        "a token does not see itself: the mask is off by one.",
        "How many keys does the first token of a text see?",
    ),
    Mistake(
        "itself_hidden_nan",
        _PROBS,
        _own_softmax("xp.tri(T, S, S - T - 1, dtype=bool)", "-xp.inf"),
        "a token does not see itself, and the first one, which sees nothing, gives NaN.",
        "How many keys does the first token of a text see?",
    ),
    Mistake(
        "itself_hidden_mean",
        _PROBS,
        _own_softmax("xp.tri(T, S, S - T - 1, dtype=bool)", "np.finfo(q.dtype).min"),
        "a token does not see itself, and the first one, which sees nothing, averages all values.",
        "How many keys does the first token of a text see?",
    ),
    Mistake(
        "future_for_past",
        _MASK,
        _mask("~xp.tri(T, S, S - T - 1, dtype=bool)"),
        "a token sees itself and what comes after it; it must see what came before.",
        "How many keys does the first token of a text see, and how many the last?",
    ),
    Mistake(
        "future_without_itself",
        _MASK,
        _mask("~xp.tri(T, S, S - T, dtype=bool)"),
        "the mask is the wrong way round: a token sees exactly what it must not.",
        "Is True visible or hidden in your mask?",
    ),
    Mistake(
        "future_without_itself_nan",
        _PROBS,
        _own_softmax("~xp.tri(T, S, S - T, dtype=bool)", "-xp.inf"),
        "the mask is the wrong way round, and the last token, which sees nothing, gives NaN.",
        "Is True visible or hidden in your mask?",
    ),
    Mistake(
        "future_without_itself_mean",
        _PROBS,
        _own_softmax("~xp.tri(T, S, S - T, dtype=bool)", "np.finfo(q.dtype).min"),
        "the mask is the wrong way round, and the last token, which sees nothing, averages all.",
        "Is True visible or hidden in your mask?",
    ),
    Mistake(
        "queries_first",
        _MASK,
        _mask("xp.tri(T, S, dtype=bool)"),
        "the queries are taken for the first of the keys, as torch's is_causal does; with a cache "
        "they are the last.",
        "How many keys does a single new token see?",
        "convention",
    ),
    Mistake(
        "cache_hidden",
        _MASK,
        _mask("xp.tri(T, S, S - T, dtype=bool) & (xp.arange(S) >= S - T)"),
        "the tokens in the cache are not seen: only the new ones are.",
        "How many keys does a single new token see?",
    ),
    Mistake(
        "new_tokens_see_each_other",
        _MASK,
        _mask("xp.tri(T, S, S - T, dtype=bool) if S == T else xp.ones((T, S), dtype=bool)"),
        "with a cache there is no mask at all: new tokens see those after them.",
        "A cache with one new token needs no mask: what do four new tokens need?",
    ),
    Mistake(
        "only_itself",
        _MASK,
        _mask("xp.eye(T, S, S - T, dtype=bool)"),
        "a token sees itself alone.",
        "Change the first token: which results change?",
    ),
)
FORWARD = (*MASK, *SCALE, *SOFTMAX, *MIXED_UP, *HIDDEN)

SPEC = Spec(
    name="causal_attention",
    module="minqwen.layers.attention",
    arguments=("q", "k", "v"),
    axes={"q": "B H T Dh", "k": "B Hkv S Dh", "v": "B Hkv S Dh", "out": "B H T Dh"},
    run=run,
    pull=pull,
    probes=PROBES,
    forward=FORWARD,
    backward=BACKWARD,
    outputs=("out",),
    notes="the T queries are the last of the S tokens; q may have more heads than k and v.",
)
