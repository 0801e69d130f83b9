"""Rewards measured from their running mean.

    score' = score - mean                                    the mean of all scores so far
    score' = (score - mean) / sqrt(var + eps)                with divide=True

The report says that rewards are "normalised by running mean" and no more: whether it also divides
is not published. So dividing is an option, and subtracting alone the default.

The statistics are exact: those of all scores ever seen, as if they stood in one array. Two groups
a and b of scores are put together by (Chan)

    n = n_a + n_b,    D = mean_b - mean_a
    mean = mean_a + D n_b / n
    m2   = m2_a + m2_b + D^2 n_a n_b / n          m2 = the sum of (score - mean)^2

which for a group of one is Welford's rule. A sum of squares minus a square of sums would lose all
digits when the mean is large against the spread. No old score fades: a policy that gets better
gets positive rewards.

The state is a dict of plain numbers, so it can be saved as JSON and a run resumed.

Paper:    Qwen Technical Report, 3.2.2 Reinforcement Learning: reward normalised by running mean.
Origin:   Welford 1962; Chan, Golub and LeVeque 1979.
Differs:  what is not said there, as above.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np

from ..backend import Array, to_numpy
from ..shapes import require_axes, require_float

State: TypeAlias = dict[str, float]  # count, mean and m2 of all scores so far


def new_reward_stats() -> State:
    """Return the state before the first score.

    >>> new_reward_stats()
    {'count': 0.0, 'mean': 0.0, 'm2': 0.0}
    """
    return {"count": 0.0, "mean": 0.0, "m2": 0.0}


def update_reward_stats(state: State, scores: Array) -> State:
    """Return the state with a batch of scores added; the old one stays.

    Args:
        state: of new_reward_stats or of this function.
        scores: (B,) float, of the reward model. From a GPU they are copied to the host, once.

    Raises:
        TypeError: scores are not floating point.
        ValueError: scores do not have one axis, or one of them is not finite: it would stay in
            the mean for ever.

    >>> update_reward_stats(new_reward_stats(), np.array([1.0, 3.0]))
    {'count': 2.0, 'mean': 2.0, 'm2': 2.0}
    """
    require_axes("scores", scores, "B")
    require_float(scores=scores)
    wide = to_numpy(scores).astype(np.float64)
    if not np.isfinite(wide).all():
        raise ValueError(f"scores must be finite, got {wide[~np.isfinite(wide)][0]}")
    if not len(wide):
        return dict(state)
    mean = float(wide.mean())
    batch = {"count": float(len(wide)), "mean": mean, "m2": float(((wide - mean) ** 2).sum())}
    return merge_reward_stats(state, batch)


def merge_reward_stats(one: State, other: State) -> State:
    """Put the scores of two states together.

    >>> a = update_reward_stats(new_reward_stats(), np.array([1.0]))
    >>> b = update_reward_stats(new_reward_stats(), np.array([3.0]))
    >>> merge_reward_stats(a, b)
    {'count': 2.0, 'mean': 2.0, 'm2': 2.0}
    """
    count = one["count"] + other["count"]
    if not count:
        return new_reward_stats()
    between, share = other["mean"] - one["mean"], other["count"] / count
    mean = one["mean"] + between * share
    m2 = one["m2"] + other["m2"] + between * between * one["count"] * share
    return {"count": count, "mean": mean, "m2": m2}


def scale_rewards(scores: Array, state: State, *, divide: bool = False, eps: float = 1e-8) -> Array:
    """Subtract the running mean, and with `divide` divide by the running deviation.

    Args:
        scores: (B,) float.
        state: of update_reward_stats, usually with these scores in it.
        divide: by sqrt(var + eps), var = m2 / count.
        eps: keeps the root away from 0.

    Returns:
        (B,) in the dtype of scores; before the first score of all, the scores themselves.

    Raises:
        TypeError: scores are not floating point.
        ValueError: scores do not have one axis.

    >>> state = update_reward_stats(new_reward_stats(), np.array([1.0, 3.0]))
    >>> scale_rewards(np.array([3.0, 4.0]), state)
    array([1., 2.])
    """
    require_axes("scores", scores, "B")
    require_float(scores=scores)
    if not state["count"]:
        return scores
    shifted: Array = scores - state["mean"]
    if divide:
        shifted = shifted / math.sqrt(state["m2"] / state["count"] + eps)
    return shifted
