"""The mask of window attention: how it is asked for, and got wrong."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from ...backend import Array
from ..spec import Arguments, Mistake, Probe, Spec


def run(m: ModuleType, a: Arguments) -> tuple[Array, ...]:
    """Make the mask with a copy of long_context/window.py."""
    return (m.window_mask(a["T"], a["S"], a["window"]),)


def probe(T: int, S: int, window: int, shows: str, hard: bool = True) -> Probe:
    """Return a probe with these numbers; its name is made of them."""

    def make(rng: np.random.Generator) -> Arguments:
        return {"T": T, "S": S, "window": window}

    return Probe(f"T={T}, S={S}, window {window}", make, shows, hard, gradient=False)


PROBES = (
    probe(7, 7, 3, "seven tokens, three of them in sight", hard=False),
    probe(11, 11, 5, "eleven tokens, five of them in sight", hard=False),
    probe(13, 13, 2, "each token sees itself and the one before", hard=False),
    probe(3, 11, 5, "three new tokens after eight cached ones"),
    probe(5, 7, 2, "five new tokens after two cached ones"),
    probe(1, 7, 3, "one new token"),
    probe(1, 13, 4, "one new token, a longer cache"),
    probe(5, 5, 1, "each token sees itself alone"),
    probe(5, 5, 11, "a window longer than the text: plain causal attention"),
    probe(3, 7, 7, "a window as long as the text"),
    probe(1, 1, 1, "a single token"),
)

_OLD = "array_module(like).tri(T, S, S - T - window, dtype=bool)"
_MASK = "mask: Array = causal_mask(T, S, like) & ~too_old"
FORWARD = (
    Mistake(
        "one_too_long",
        "S - T - window, dtype",
        "S - T - window - 1, dtype",
        "a query sees one key too many: the window counts the query's own key.",
        "With a window of 1, which keys are in sight?",
    ),
    Mistake(
        "one_too_short",
        "S - T - window, dtype",
        "S - T - window + 1, dtype",
        "a query sees one key too few.",
        "With a window of 1 a token must see itself.",
    ),
    Mistake(
        "future_visible",
        _MASK,
        "mask: Array = ~too_old",
        "the future is visible: only what is too old is hidden.",
        "The mask has two edges: which one is missing?",
    ),
    Mistake(
        "all_visible",
        _MASK,
        "mask: Array = causal_mask(T, S, like) | ~too_old",
        "every pair is visible: nothing is hidden.",
        "The mask has two edges, and a pair has to be between them: and, or or?",
    ),
    Mistake(
        "window_ignored",
        _MASK,
        "mask: Array = causal_mask(T, S, like) | too_old",
        "the window has no effect: the mask is that of plain causal attention.",
        "The mask has two edges: which one is missing?",
    ),
    Mistake(
        "both_sides",
        _MASK,
        "mask: Array = array_module(like).tri(T, S, S - T + window - 1, dtype=bool) & ~too_old",
        "a query sees as many tokens after it as before it.",
        "May a token look ahead?",
    ),
    Mistake(
        "self_hidden",
        _MASK,
        "mask: Array = array_module(like).tri(T, S, S - T - 1, dtype=bool) & ~too_old",
        "a token does not see itself.",
        "With a window of 1 a token must see itself.",
    ),
    Mistake(
        "one_behind",
        f"    too_old = {_OLD}\n    {_MASK}\n",
        "    tri = array_module(like).tri\n"
        "    mask: Array = tri(T, S, S - T - 1, dtype=bool) & ~tri(T, S, S - T - window - 1, "
        "dtype=bool)\n",
        "a query sees the right number of tokens, but those before it: the window is one step "
        "behind.",
        "With a window of 1, which key is in sight?",
    ),
    Mistake(
        "top_left",
        f"    too_old = {_OLD}\n    {_MASK}\n",
        "    tri = array_module(like).tri\n"
        "    mask: Array = tri(T, S, 0, dtype=bool) & ~tri(T, S, -window, dtype=bool)\n",
        "the queries are taken for the first of the S positions; with a cache they are the last.",
        "How many keys does one new token after a cache see?",
        "convention",
    ),
    Mistake(
        "window_top_left",
        "tri(T, S, S - T - window",
        "tri(T, S, -window",
        "the window is counted as if the queries were the first of the S positions.",
        "With a cache, where does the query stand?",
    ),
    Mistake(
        "causal_top_left",
        "mask: Array = causal_mask(T, S, like)",
        "mask: Array = array_module(like).tri(T, S, 0, dtype=bool)",
        "the future is counted as if the queries were the first of the S positions.",
        "With a cache, where does the query stand?",
    ),
    Mistake(
        "inverted",
        _MASK,
        "mask: Array = ~causal_mask(T, S, like) | too_old",
        "True stands for a hidden pair, as in some libraries; here it stands for a visible one.",
        "A token must see itself: is the diagonal True?",
        "convention",
    ),
    Mistake(
        "to_be_added",
        _MASK,
        "seen = causal_mask(T, S, like) & ~too_old\n"
        "    mask: Array = array_module(like).where(seen, 0.0, -float('inf'))",
        "the mask holds 0 and -inf, to be added to the scores; here it holds True and False.",
        "Of which dtype is the mask?",
        "convention",
    ),
    Mistake(
        "turned_round",
        _MASK,
        "mask: Array = ~array_module(like).tri(T, S, S - T - 1, dtype=bool) "
        "& array_module(like).tri(T, S, S - T + window - 1, dtype=bool)",
        "queries and keys are exchanged: a token sees itself and those after it.",
        "Which side of the diagonal is the past?",
    ),
    Mistake(
        "blocks",
        _MASK,
        "own = S - T + array_module(like).arange(T)[:, None]\n"
        "    mask: Array = causal_mask(T, S, like) & "
        "(array_module(like).arange(S)[None] >= own // window * window)",
        "the text is cut into blocks as long as the window, and a token sees its own block; the "
        "window must move with the token.",
        "How many keys does the first token of a block see?",
    ),
)

SPEC = Spec(
    name="window_mask",
    module="minqwen.long_context.window",
    arguments=("T", "S", "window"),
    axes={"mask": "T S"},
    outputs=("mask",),
    exact=("mask",),
    run=run,
    probes=PROBES,
    forward=FORWARD,
    notes="(T, S) of booleans, True where a query may look. The T queries are the last of the S "
    "positions; the window counts the query's own key.",
)
