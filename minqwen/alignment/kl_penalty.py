"""The rewards of PPO: at each token a price for leaving the reference, at the end the score.

    r_t = -kl_coef * kl_t  + (score, at the last token of the answer)
    d_t = log pi(a_t) - log ref(a_t)

kl_t estimates KL(pi || ref) = E_pi[d] from the one token that was sampled:

    k1 = d                  E_pi[d] is the divergence: unbiased, but often negative
    k2 = d^2 / 2            never negative, biased: right only as d goes to 0
    k3 = exp(-d) - 1 + d    never negative, since exp(x) >= 1 + x; unbiased, since
                            E_pi[exp(-d)] = sum_a pi ref / pi = 1, so that E[k3] = E[d]

No gradient passes. A reward is a number that the sampled text got: the policy learns from it by
making the text more or less likely, E[r d log pi], through the advantages. With k1 nothing is lost:
the gradient of E[d] is E[d dlog pi] + E[dlog pi], and the last is 0, as probabilities add up to 1.
With k3 in the reward something is: E[k3 dlog pi] is the gradient of KL(pi || ref) - KL(ref || pi).

Paper:    Qwen Technical Report, 3.2.2 Reinforcement Learning: KL coefficient 0.04.
Origin:   Ziegler et al. 2019, arXiv:1909.08593, section 2; Schulman 2020, "Approximating KL
          Divergence", for k1, k2, k3.
Differs:  the score is added at the last token of the answer; TRL adds it one place after the end
          token, where there is one. Which estimator Qwen used is not published; k1 is usual. The
          exponent of k3 is held where its square is still finite (bounded_exponent).
"""

from __future__ import annotations

import math

import numpy as np

from ..backend import Array, array_module
from ..shapes import require_axes, require_bool, require_float, require_shape
from .whitening import answer_only


def kl_penalty(
    logprobs: Array,
    ref_logprobs: Array,
    mask: Array,
    scores: Array,
    *,
    kl_coef: float = 0.04,
    estimator: str = "k1",
) -> Array:
    """Return what each token of an answer is rewarded with.

    Args:
        logprobs: (B, T) float, of the sampled tokens by the policy that sampled them, in nats.
        ref_logprobs: (B, T) float, by the frozen reference.
        mask: (B, T) bool, True = a token of the answer, its end token included.
        scores: (B,) float, of the reward model for the whole answer.
        kl_coef: price of a nat.
        estimator: "k1", "k2" or "k3".

    Returns:
        rewards: (B, T) in the dtype of logprobs; zeros for padding. A row without an answer gets
            no score either.

    Raises:
        TypeError: an array is not floating point or of another dtype, or mask is not boolean.
        ValueError: a shape does not fit, or there is no such estimator.

    >>> new, ref = np.array([[-1.0, -2.0, -7.0]]), np.array([[-2.0, -2.0, -1.0]])
    >>> answer = np.array([[True, True, False]])
    >>> kl_penalty(new, ref, answer, np.array([5.0]), kl_coef=0.5)
    array([[-0.5,  5. ,  0. ]])
    """
    xp = array_module(logprobs)
    require_float(logprobs=logprobs, scores=scores)
    mask, (new, ref) = answer_only(mask, logprobs=logprobs, ref_logprobs=ref_logprobs)
    require_shape("scores", scores, B=len(logprobs))

    kl = kl_estimate(new - ref, estimator)  # 0 for padding
    left = xp.cumsum(mask[:, ::-1], axis=1)[:, ::-1]  # tokens of the answer from here on
    last = mask & (left == 1)
    score = xp.where(last, scores[:, None], 0)
    rewards: Array = (score - float(kl_coef) * kl).astype(logprobs.dtype, copy=False)
    return rewards


def kl_estimate(log_ratio: Array, estimator: str = "k1") -> Array:
    """Estimate KL(pi || ref) from log pi - log ref of sampled tokens.

    Args:
        log_ratio: (...) float, in float32 or wider.
        estimator: "k1", "k2" or "k3".

    Raises:
        ValueError: there is no such estimator.

    >>> d = np.log(np.array([0.5 / 0.2]))
    >>> [float(kl_estimate(d, k)[0].round(6)) for k in ("k1", "k2", "k3")]
    [0.916291, 0.419794, 0.316291]
    """
    if estimator == "k1":
        return log_ratio
    if estimator == "k2":
        return log_ratio * log_ratio / 2
    if estimator == "k3":  # expm1, as the two parts nearly cancel when the policies are close
        kl: Array = array_module(log_ratio).expm1(bounded_exponent(-log_ratio)) + log_ratio
        return kl
    raise ValueError(f'estimator must be "k1", "k2" or "k3", got {estimator!r}')


def missing_end_penalty(
    scores: Array, ended: Array, penalty: float = 1.0, *, how: str = "subtract"
) -> Array:
    """Lower the score of answers that were cut off before an end token.

    Args:
        scores: (B,) float, of the reward model.
        ended: (B,) bool, True = the answer has an end token.
        penalty: 0 or more.
        how: "subtract" gives score - penalty, as TRL does; "replace" gives -penalty whatever the
            score was, as Huang et al. 2024 do with 1, since the reward model never saw such text.

    Returns:
        (B,) in the dtype of scores.

    Raises:
        TypeError: scores are not floating point, or ended is not boolean.
        ValueError: a shape does not fit, or `how` is neither.

    >>> scores, ended = np.array([2.0, 2.0]), np.array([True, False])
    >>> missing_end_penalty(scores, ended), missing_end_penalty(scores, ended, how="replace")
    (array([2., 1.]), array([ 2., -1.]))
    """
    require_axes("scores", scores, "B")
    require_float(scores=scores)
    require_bool("ended", ended, "True = the answer has an end token")
    require_shape("ended", ended, B=len(scores))
    if how not in ("subtract", "replace"):
        raise ValueError(f'how must be "subtract" or "replace", got {how!r}')
    xp = array_module(scores)
    base = scores if how == "subtract" else xp.zeros_like(scores)
    lowered: Array = xp.where(xp.asarray(ended), scores, base - float(penalty))
    return lowered.astype(scores.dtype, copy=False)


def bounded_exponent(x: Array) -> Array:
    """Hold x where exp(x) is at most the root of the largest number, and at least its inverse.

    So neither exp(x) nor its square nor a sum of these is infinite, and 0 * exp(x) is never NaN.

    >>> bounded_exponent(np.array([-1e4, 3.0, 1e4], np.float32)).round(2)
    array([-44.36,   3.  ,  44.36], dtype=float32)
    """
    limit = math.log(float(np.finfo(x.dtype).max)) / 2
    held: Array = array_module(x).clip(x, -limit, limit)
    return held
