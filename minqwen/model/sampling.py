"""From the scores of the next token to a choice.

    p = softmax(logits / temperature)

with the unlikely part cut off first: top-k keeps the k best tokens, top-p the smallest set of best
tokens whose probability reaches p (always at least one). Temperature 0 stands for the limit, the
best token.

Paper:    Qwen Technical Report, 3.2.2: top-p 0.9 in PPO. Released chat settings: top-p 0.8.
Origin:   Holtzman et al. 2019, arXiv:1904.09751 (top-p).
Differs:  works on the host in float64: one row of logits is small, and a choice has to come back
          to the host anyway.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import Array, to_numpy
from ..shapes import require_axes, require_float


def sample(
    logits: Array,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    rng: np.random.Generator | None = None,
) -> Array:
    """Choose one token for every row.

    Args:
        logits: (B, V) float, on any device.
        temperature: 0 takes the best token (the lowest id among equals); below 1 sharpens.
        top_k: keep this many best tokens; 0 keeps all.
        top_p: keep the smallest set that reaches this probability, in (0, 1]; 1 keeps all.
        rng: np.random.Generator, needed when temperature > 0. One number is drawn per row.

    Returns:
        (B,) int64 on the host.

    Raises:
        ValueError: an option is out of range, rng is missing, or logits leave no choice.

    >>> sample(np.array([[1.0, 3.0, 2.0]]), temperature=0)
    array([1])
    """
    require_float(logits=logits)
    require_axes("logits", logits, "B V")
    check_sampling(temperature, top_k, top_p, rng)
    slack = 4 * float(np.finfo(np.promote_types(logits.dtype, np.float32)).eps)
    z = to_numpy(logits).astype(np.float64)
    if np.isnan(z).any() or not np.isfinite(z.max(axis=-1)).all():
        raise ValueError("logits hold NaN, +inf, or a row of nothing but -inf")
    if temperature == 0:
        best: Array = z.argmax(axis=-1)
        return best

    probs: Array = np.exp((z - z.max(axis=-1, keepdims=True)) / temperature)
    probs = keep_top_k(probs, top_k)
    probs = keep_top_p(probs / probs.sum(axis=-1, keepdims=True), top_p, slack)
    cumulative = probs.cumsum(axis=-1)
    assert rng is not None
    # the first token at which the running sum passes a uniform number below the total
    draw = rng.random((len(z), 1)) * cumulative[:, -1:]
    chosen: Array = (cumulative > draw).argmax(axis=-1)
    return chosen


def keep_top_k(probs: Array, k: int) -> Array:
    """Set all but the k largest of each row to 0; of equals, the lower id stays.

    >>> keep_top_k(np.array([[0.1, 0.4, 0.1, 0.4]]), 3)
    array([[0.1, 0.4, 0. , 0.4]])
    """
    if k <= 0 or k >= probs.shape[-1]:
        return probs
    out = np.zeros_like(probs)
    for row, kept in zip(probs, out, strict=True):
        # all that are at least the k-th largest, of which the ties go by id
        least = np.partition(row, -k)[-k]
        candidates = np.flatnonzero(row >= least)
        ids = candidates[np.argsort(-row[candidates], kind="stable")[:k]]
        kept[ids] = row[ids]
    return out


def keep_top_p(probs: Array, p: float, slack: float = 1e-15) -> Array:
    """Set all but the smallest set of best tokens whose sum reaches p to 0.

    Of equals, the lower id comes first.

    Args:
        probs: (B, V) float64, rows sum to 1.
        p: in (0, 1].
        slack: a sum this close below p counts as p, so that rounding adds no token.

    >>> keep_top_p(np.array([[0.1, 0.2, 0.7]]), 0.9)  # 0.7 + 0.2 is 0.8999... in floating point
    array([[0. , 0.2, 0.7]])
    """
    if p >= 1:
        return probs
    order = np.argsort(-probs, axis=-1, kind="stable")
    ranked = np.take_along_axis(probs, order, axis=-1)
    before = ranked.cumsum(axis=-1) - ranked  # the sum of all better tokens
    ranked = np.where(before < p - slack, ranked, 0.0)
    ranked[:, 0] = np.take_along_axis(probs, order[:, :1], axis=-1)[:, 0]  # the best one always
    out = np.zeros_like(probs)
    np.put_along_axis(out, order, ranked, axis=-1)
    return out


def check_sampling(temperature: float, top_k: int, top_p: float, rng: Any) -> None:
    """Raise ValueError unless the options make sense."""
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature must be 0 (greedy) or more, got {temperature}")
    if not isinstance(top_k, (int, np.integer)) or top_k < 0:
        raise ValueError(f"top_k must be 0 (all) or a positive whole number, got {top_k}")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must be in (0, 1], got {top_p}")
    if temperature > 0 and not isinstance(rng, np.random.Generator):
        raise ValueError(
            f"sampling with temperature > 0 needs rng, a np.random.Generator, got {rng!r}"
        )
