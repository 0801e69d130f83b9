"""LogN scaling: how it is called, tried, and got wrong."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from ...backend import Array
from ..spec import Arguments, Mistake, Probe, Spec


def table_dtype(q: Array) -> str:
    """Return the dtype of the factors for these queries."""
    return "float64" if q.dtype == np.float64 else "float32"


def run(m: ModuleType, a: Arguments) -> tuple[Array, ...]:
    """Compute y with a copy of long_context/logn.py."""
    scale = m.logn_scale(a["positions"], a["train_length"], table_dtype(a["q"]))
    return (m.logn_forward(a["q"], scale)[0],)


def pull(m: ModuleType, a: Arguments, dy: tuple[Array, ...]) -> dict[str, Array]:
    """Compute the gradient of the queries with a copy of long_context/logn.py."""
    scale = m.logn_scale(a["positions"], a["train_length"], table_dtype(a["q"]))
    _, cache = m.logn_forward(a["q"], scale)
    return {"q": m.logn_backward(dy[0], cache)}


def inputs(
    rng: np.random.Generator, B: int, H: int, Dh: int, start: int, stop: int, train_length: int
) -> Arguments:
    """Return queries at the positions from start up to stop."""
    positions = np.arange(start, stop)
    q = rng.standard_normal((B, H, len(positions), Dh))
    return {"q": q, "positions": positions, "train_length": train_length}


def gaps(rng: np.random.Generator) -> Arguments:
    """Return queries at positions that are not neighbours, and not in order."""
    a = inputs(rng, 1, 3, 5, 0, 7, 32)
    a["positions"] = np.array([5, 900, 31, 32, 33, 64, 2])
    return a


PROBES = (
    Probe(
        "ordinary",
        lambda rng: inputs(rng, 2, 3, 5, 0, 40, 16),
        "40 tokens, trained on 16",
        hard=False,
    ),
    Probe(
        "cached",
        lambda rng: inputs(rng, 2, 5, 3, 100, 107, 16),
        "7 new tokens after 100 cached ones",
    ),
    Probe("short", lambda rng: inputs(rng, 1, 2, 7, 0, 11, 32), "shorter than trained: no change"),
    Probe(
        "at the limit",
        lambda rng: inputs(rng, 1, 2, 3, 6, 11, 8),
        "just below the trained length, at it, and just above",
    ),
    Probe("gaps", gaps, "positions that are not neighbours"),
    Probe("one token", lambda rng: inputs(rng, 2, 3, 5, 4999, 5000, 2048), "one token, far out"),
)

_N = "n = xp.maximum(positions.astype(dtype) + 1, train_length)"
_POSITIONS = "positions.astype(dtype) + 1"
_SCALE = "1 + xp.log(n / train_length) / math.log(train_length)"
_Y = "y: Array = widen(q) * scale"
FORWARD = (
    Mistake(
        "position_for_length",
        _POSITIONS,
        "positions.astype(dtype)",
        "the logarithm is that of the position; a query at position p has p + 1 tokens.",
        "Positions start at 0: how many keys does the first query see?",
    ),
    Mistake(
        "one_too_many",
        _POSITIONS,
        "positions.astype(dtype) + 2",
        "the logarithm is that of p + 2; a query at position p has p + 1 tokens.",
        "Positions start at 0: how many keys does the first query see?",
    ),
    Mistake(
        "no_lower_limit",
        _N,
        "n = positions.astype(dtype) + 1",
        "queries within the trained length are scaled down, as in the note LogN comes from; here "
        "the factor is 1 up to there.",
        "A short text must come out exactly as it went in.",
        "convention",
    ),
    Mistake(
        "length_of_text",
        _POSITIONS,
        "0 * positions.astype(dtype) + positions.max() + 1",
        "all queries get the factor of the last one; each has its own.",
        "A longer text must not change what its first tokens get.",
    ),
    Mistake(
        "index_for_position",
        _POSITIONS,
        "xp.arange(len(positions), dtype=dtype) + 1",
        "the positions are not looked at: the queries are counted from 0.",
        "With a cache, the first new query is not the first token.",
    ),
    Mistake(
        "log_of_ratio",
        _SCALE,
        "xp.maximum(1, xp.log(n / train_length))",
        "the factor is the logarithm of a ratio; it is a ratio of logarithms.",
        "At the trained length squared the factor must be 2.",
    ),
    Mistake(
        "log_of_ratio_plus_one",
        _SCALE,
        "1 + xp.log(n / train_length)",
        "the logarithm of the ratio is not divided by that of the trained length.",
        "At the trained length squared the factor must be 2.",
    ),
    Mistake(
        "mixed_bases",
        _SCALE,
        "1 + xp.log(n / train_length) / math.log2(train_length)",
        "two logarithms of different bases are mixed.",
        "At the trained length squared the factor must be 2.",
    ),
    Mistake(
        "base_512",
        f", train_length)\n    scale: Array = {_SCALE}",
        ", 1)\n    scale: Array = xp.maximum(1, xp.log(n) / math.log(512))",
        "the logarithm has base 512, as in the note LogN comes from; here its base is the trained "
        "length.",
        "Where does the factor begin to grow?",
        "convention",
    ),
    Mistake(
        "no_logarithm",
        _SCALE,
        "n / train_length",
        "the factor is the ratio of the lengths; it must be that of their logarithms.",
        "At the trained length squared the factor must be 2.",
    ),
    Mistake(
        "root",
        _SCALE,
        f"xp.sqrt({_SCALE})",
        "the factor goes through a square root.",
        "At the trained length squared the factor must be 2.",
    ),
    Mistake(
        "squared",
        _Y,
        "y: Array = widen(q) * scale**2",
        "the factor is applied twice.",
        "Do both queries and keys get it, or the queries alone?",
    ),
    Mistake(
        "divided",
        _Y,
        "y: Array = widen(q) / scale",
        "the queries are divided by the factor; they must be multiplied.",
        "Far out, must the scores become larger or smaller?",
    ),
    Mistake(
        "added",
        _Y,
        "y: Array = widen(q) + scale",
        "the factor is added; it multiplies.",
        "A query of zeros must stay one.",
    ),
    Mistake(
        "ignored",
        _Y,
        "y: Array = widen(q) + 0 * scale",
        "the queries come out as they went in.",
        "Try positions beyond the trained length.",
    ),
)

_DQ = "dq: Array = widen(dy) * scale"
BACKWARD = (
    Mistake(
        "forgotten",
        _DQ,
        "dq: Array = widen(dy)",
        "the gradient is not multiplied by the factor.",
        "A query that counts twice as much gets twice the gradient.",
    ),
    Mistake(
        "divided",
        _DQ,
        "dq: Array = widen(dy) / scale",
        "the gradient is divided by the factor; it must be multiplied.",
        "A query that counts twice as much gets twice the gradient.",
    ),
    Mistake(
        "squared",
        _DQ,
        "dq: Array = widen(dy) * scale**2",
        "the factor is applied twice on the way back.",
        "The function is linear in q: its gradient is the same factor.",
    ),
    Mistake(
        "last_for_all",
        _DQ,
        "dq: Array = widen(dy) * scale[..., -1:, :]",
        "on the way back all queries get the factor of the last one; each has its own.",
        "Which factor did this query have in the forward pass?",
    ),
)

SPEC = Spec(
    name="logn",
    module="minqwen.long_context.logn",
    arguments=("q", "positions", "train_length"),
    axes={"q": "B H T Dh", "positions": "T", "y": "B H T Dh"},
    run=run,
    pull=pull,
    probes=PROBES,
    forward=FORWARD,
    backward=BACKWARD,
    notes="The queries times their factors. positions (T,) are absolute and start at 0.",
)
