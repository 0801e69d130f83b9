"""What policy and value model say about each token of an answer, and the way back.

    logits of answers[:, t] = hidden[:, Q + t - 1] w_lm^T       (B, T, V): which token comes there
    value  of answers[:, t] = <hidden[:, Q + t - 1], w_score>   (B, T): the state before that token

Both are read at the column before the token, which has seen all that was there when the token was
chosen, and not the token itself. The last column of the ids is so never read: nothing was chosen
after it. Heads are worked out at these T columns only, not at the Q - 1 before them.

The gradient. hidden has no other use, so it is zero in the first Q - 1 columns:

    dhidden = (0, ..., 0, dlogits w_lm)       dw_lm = sum over rows and tokens of dlogits^T hidden

and a tied table gets the gradient of both its uses, as in language_model.py.

Paper:    Qwen Technical Report, 3.2.2 Reinforcement Learning: a policy and a value model.
Origin:   Ziegler et al. 2019, arXiv:1909.08593.
Differs:  the value model is one of its own, as in the report; it has the head of a reward model,
          `score.weight` (1, D) without a bias, read at each token.
"""

from __future__ import annotations

from typing import NamedTuple

from ..backend import Array, array_module
from ..layers.linear import LinearCache, linear_backward, linear_forward
from ..model.backbone import EMBEDDING, BackboneCache, backbone_backward, backbone_forward
from ..model.config import QwenConfig
from ..model.language_model import HEAD
from ..params import Params
from .reward_model import SCORE
from .rollout import Rollout


class AnswerHeadCache(NamedTuple):
    below: BackboneCache
    head: LinearCache
    columns: int  # Q + T - 1, of hidden
    key: str  # name of the parameter that the head is


def answer_logits_forward(
    params: Params, config: QwenConfig, rolled: Rollout
) -> tuple[Array, AnswerHeadCache]:
    """Return the policy's logits for each token of the answers.

    Args:
        params: of a language model.
        config: its sizes; dropout does not act.
        rolled: of rollout, B rows with answers of up to T tokens.

    Returns:
        logits: (B, T, V) in the dtype of the parameters; where rolled.mask is False they mean
            nothing.
        cache: for answer_logits_backward.

    Raises:
        ValueError: the model has a score head.
    """
    if config.num_labels:
        raise ValueError(f"the policy needs logits, its config has num_labels={config.num_labels}")
    return _forward(params, config, rolled, EMBEDDING if config.tie_word_embeddings else HEAD)


def answer_logits_backward(dlogits: Array, cache: AnswerHeadCache) -> Params:
    """Return the gradient of every parameter from dlogits (B, T, V)."""
    return _backward(dlogits, cache)


def answer_values_forward(
    params: Params, config: QwenConfig, rolled: Rollout
) -> tuple[Array, AnswerHeadCache]:
    """Return the value of the state before each token of the answers.

    Args:
        params: of a model with a score head.
        config: its sizes; dropout does not act.
        rolled: of rollout, B rows with answers of up to T tokens.

    Returns:
        values: (B, T) in the dtype of the parameters; where rolled.mask is False they mean nothing.
        cache: for answer_values_backward.

    Raises:
        ValueError: the model has no score head.
    """
    if not config.num_labels:
        raise ValueError("the value model needs a score head, its config has num_labels=0")
    values, cache = _forward(params, config, rolled, SCORE)
    return values[..., 0], cache


def answer_values_backward(dvalues: Array, cache: AnswerHeadCache) -> Params:
    """Return the gradient of every parameter from dvalues (B, T)."""
    return _backward(dvalues[..., None], cache)


def _forward(
    params: Params, config: QwenConfig, rolled: Rollout, key: str
) -> tuple[Array, AnswerHeadCache]:
    T = rolled.answers.shape[1]
    real = rolled.real[:, :-1]
    hidden, below = backbone_forward(
        params, config, rolled.input_ids[:, :-1], attention_mask=None if real.all() else real
    )
    assert below is not None  # without kv_cache there is one
    y, head = linear_forward(hidden[:, -T:], params[key])
    return y, AnswerHeadCache(below, head, hidden.shape[1], key)


def _backward(dy: Array, cache: AnswerHeadCache) -> Params:
    below, head, columns, key = cache
    dread, dw, _ = linear_backward(dy, head)  # (B, T, D)
    B, T, D = dread.shape
    dhidden = array_module(dread).zeros((B, columns, D), dtype=dread.dtype)
    dhidden[:, columns - T :] = dread
    grads = backbone_backward(dhidden, below)
    grads[key] = grads[key] + dw if key in grads else dw  # a tied table was used at both ends
    return grads
