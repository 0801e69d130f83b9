"""Generalised advantage estimation: how much better than expected each token turned out.

    delta_t = r_t + gamma V_{t+1} - V_t            what this one step brought beyond V_t
    A_t     = delta_t + gamma lam A_{t+1}          with what later steps brought, fading away
    R_t     = A_t + V_t                            the return: what V_t should have been

V is the state before token t, so V_{t+1} is that of the next token of the answer. After the last
one there is nothing more to come: V = 0 and A = 0 there. lam = 0 trusts the values (one step),
lam = 1 trusts the rewards (A is what really came, minus V).

Padding, on either side, is passed over: it neither gives nor gets. The returns are made from these
advantages, before any whitening; otherwise the values would learn numbers of size 1 whatever the
rewards are. Both are constants of the update: no gradient passes.

Paper:    Qwen Technical Report, 3.2.2 Reinforcement Learning, which gives neither gamma nor lam.
Origin:   Schulman et al. 2015, arXiv:1506.02438, equations 11, 12 and 16.
Differs:  gamma = 1 and lam = 0.95 are ours, those of Huang et al. 2024, arXiv:2403.17031.
"""

from __future__ import annotations

from ..backend import Array, array_module, widen
from ..shapes import require_float, require_shape
from .whitening import answer_only


def gae(
    rewards: Array,
    values: Array,
    mask: Array,
    *,
    gamma: float = 1.0,
    lam: float = 0.95,
    last_values: Array | None = None,
) -> tuple[Array, Array]:
    """Return advantages and returns of the tokens of answers.

    Args:
        rewards: (B, T) float, of kl_penalty.
        values: (B, T) float, what the value model expected before each token.
        mask: (B, T) bool, True = a token of the answer.
        gamma: discount of a step, from 0 to 1.
        lam: how far one looks ahead, from 0 to 1.
        last_values: (B,) float, value of the state after the last token, for a text that was cut
            off by the horizon and would have gone on; 0 where it ended. None: all ended.

    Returns:
        advantages: (B, T) in the dtype of rewards; zeros for padding.
        returns: (B, T), the same.

    Raises:
        TypeError: an array is not floating point or of another dtype, or mask is not boolean.
        ValueError: a shape does not fit.

    >>> import numpy as np
    >>> rewards, values = np.array([[0.0, 0.0, 1.0]]), np.zeros((1, 3))
    >>> gae(rewards, values, np.ones((1, 3), bool))[0]
    array([[0.9025, 0.95  , 1.    ]])
    """
    xp = array_module(rewards)
    mask, (r, V) = answer_only(mask, rewards=rewards, values=values)
    B, T = r.shape
    next_value = running = xp.zeros(B, dtype=r.dtype)  # after the last token
    if last_values is not None:
        require_float(rewards=rewards, last_values=last_values)
        require_shape("last_values", last_values, B=B)
        next_value = widen(last_values)
    gamma, lam = float(gamma), float(lam)

    # A loop over time, since A_t needs A_{t+1}; each step is done for all rows at once. The same as
    # a product with a matrix of (gamma lam)^(s - t) would be T^2 work, and harder to read.
    steps = []
    for t in range(T - 1, -1, -1):
        real = mask[:, t]
        delta = r[:, t] + gamma * next_value - V[:, t]
        running = xp.where(real, delta + gamma * lam * running, running)
        next_value = xp.where(real, V[:, t], next_value)
        steps.append(running)
    steps.reverse()
    A = xp.where(mask, xp.stack(steps, axis=1), 0) if steps else r
    advantages: Array = A.astype(rewards.dtype, copy=False)
    returns: Array = (A + V).astype(rewards.dtype, copy=False)
    return advantages, returns
