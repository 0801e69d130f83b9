"""Reward head: one number for a whole answer, read at the token that ends it.

    r_b = <w, h_b,end(b)>

The report calls it a pooling layer. Attention is causal, so the end token (<|im_end|>) is the first
that has seen the whole answer; what stands behind it is padding.

The gradient. Only the end token of each row was read, and every row reads the same w:

    dh_b,end(b) = dr_b w        dh = 0 at all other tokens        dw = sum_b dr_b h_b,end(b)

A value head, which PPO needs, is the same w read at every token: linear_forward(hidden, w).

Paper:    Qwen Technical Report, 3.2.1 Reward Model: "a pooling layer ... to extract the reward for
          a sentence based on a specific end token".
Origin:   Stiennon et al. 2020, arXiv:2009.01325; Ouyang et al. 2022, arXiv:2203.02155.
Differs:  w is (1, D) without a bias, as `score.weight` of Qwen2ForSequenceClassification. That
          class looks for the last id that is not the padding id, so an end token that is also the
          padding id is passed over; here the caller says where the answer ends.
"""

from __future__ import annotations

from typing import NamedTuple

from ..backend import Array, array_module, widen
from ..shapes import require_axes, require_bool, require_float, require_ids, require_shape


class RewardHeadCache(NamedTuple):
    end_hidden: Array  # (B, D) what was read
    w: Array  # (1, D)
    end_index: Array  # (B,) int, on the device of hidden
    shape: tuple[int, ...]  # of hidden


def reward_head_forward(hidden: Array, w: Array, end_index: Array) -> tuple[Array, RewardHeadCache]:
    """Read the reward of each row at its end token.

    Args:
        hidden: (B, T, D) float, after the last norm of the model.
        w: (1, D) float, `score.weight` in a checkpoint.
        end_index: (B,) int in [0, T), where each answer ends: last_real(real). It may be on the
            host: then it is checked there, without waiting for a GPU.

    Returns:
        rewards: (B,) in hidden.dtype, without a unit: only differences mean something.
        cache: for reward_head_backward.

    Raises:
        TypeError: hidden or w is not floating point, or end_index not integer.
        ValueError: a shape does not fit, or an index is not in [0, T): -1 is refused too, since the
            last token of a row may be padding.

    >>> import numpy as np
    >>> hidden = np.array([[[1.0, 2.0], [3.0, 4.0], [9.0, 9.0]]])  # B=1, T=3, D=2; the 9s: padding
    >>> reward_head_forward(hidden, np.array([[10.0, 1.0]]), np.array([1]))[0]
    array([34.])
    """
    require_float(hidden=hidden, w=w)
    require_axes("hidden", hidden, "B T D")
    B, T, D = hidden.shape
    require_shape("w", w, out=1, D=D)
    require_shape("end_index", end_index, B=B)
    require_ids("end_index", end_index, T, "T")
    xp = array_module(hidden)

    end_index = xp.asarray(end_index)
    end_hidden = hidden[xp.arange(B), end_index]  # (B, D)
    rewards = (widen(end_hidden) @ widen(w)[0]).astype(hidden.dtype, copy=False)  # (B,)
    return rewards, RewardHeadCache(end_hidden, w, end_index, hidden.shape)


def reward_head_backward(drewards: Array, cache: RewardHeadCache) -> tuple[Array, Array]:
    """Return (dhidden, dw), shaped like hidden and w, from drewards (B,)."""
    end_hidden, w, end_index, shape = cache
    xp = array_module(end_hidden)
    require_shape("drewards", drewards, B=shape[0])
    dr = widen(drewards)

    dhidden = xp.zeros(shape, dtype=end_hidden.dtype)
    dhidden[xp.arange(shape[0]), end_index] = dr[:, None] * widen(w)
    dw = (dr @ widen(end_hidden))[None]  # (1, D)
    return dhidden, dw.astype(w.dtype, copy=False)


def last_real(real: Array) -> Array:
    """Return the index of the last real token of each row, wherever the padding stands.

    Args:
        real: (B, T) bool, True = a real token, False = padding; left, right or both. On a GPU
            the check waits for the device; on the host it costs nothing.

    Returns:
        (B,) int in [0, T).

    Raises:
        TypeError: real is not boolean.
        ValueError: real is not (B, T), or a row has no real token.

    >>> import numpy as np
    >>> last_real(np.array([[True, True, False], [False, True, True]]))
    array([1, 2])
    """
    require_axes("real", real, "B T")
    require_bool("real", real, "True = a real token")
    if not bool(real.any(axis=1).all()):
        raise ValueError("real must have a real token in every row, and a row has none")
    last: Array = real.shape[1] - 1 - real[:, ::-1].argmax(axis=1)  # the first True from the end
    return last
