"""The reward model: a language model that says one number, how good an answer is.

    reward = <w, hidden at the end token of the answer>         the head: reward_head.py

The end token is <|im_end|>, the last token of the chats in preference_pairs.py: the first place
that has seen the whole answer. What stands behind it in a row is padding, and which tokens are
padding is told, never read off the ids: Qwen pads with <|endoftext|>, which is a token of texts.

Start from a language model: its output table is dropped, and w is drawn from N(0, 1 / (D + 1)). A
normed hidden state has D entries of about 1, so rewards begin at about 1 too.

The gradient. The head (reward_head.py) gives one to the state at the end token only; it goes down
through the model as in pretraining, and attention hands it on to the tokens before.

Paper:    Qwen Technical Report, 3.2.1 Reward Model: a pretrained model of the same size as the
          policy, and a pooling layer that reads the reward at an end token.
Origin:   Stiennon et al. 2020, arXiv:2009.01325; the size of w as in Huang et al. 2024,
          arXiv:2403.17031.
Differs:  w has no bias, which no difference of rewards would notice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ..backend import Array, array_module, to_numpy
from ..model.backbone import NORM, BackboneCache, backbone_backward, backbone_forward
from ..model.config import QwenConfig, check_params
from ..model.language_model import HEAD
from ..params import Params
from ..shapes import require_axes
from ..tokenizer.chatml import Chat
from .preference_pairs import Pair, require_end
from .reward_head import RewardHeadCache, last_real, reward_head_backward, reward_head_forward

SCORE = "score.weight"


def to_reward_model(
    params: Params, config: QwenConfig, rng: np.random.Generator
) -> tuple[QwenConfig, Params]:
    """Put a score head in the place of a language model's output table.

    Args:
        params: of the language model; they are shared, not copied.
        config: its config.
        rng: draws the head; the same state gives the same head.

    Returns:
        config: with num_labels=1.
        params: with `score.weight` (1, D) ~ N(0, 1 / (D + 1)), in the dtype of the others, and
            without `lm_head.weight`.

    Raises:
        ValueError: it has a score head already, or params do not fit the config.
    """
    if config.num_labels:
        raise ValueError("the model has a score head already: it is a reward model")
    check_params(params, config)
    like = params[NORM]
    head = rng.standard_normal((1, config.hidden_size)) / (config.hidden_size + 1) ** 0.5
    kept = {name: w for name, w in params.items() if name != HEAD}
    scored = replace(config, num_labels=1)
    return scored, kept | {SCORE: array_module(like).asarray(head.astype(like.dtype))}


class RewardModelCache(NamedTuple):
    backbone: BackboneCache
    head: RewardHeadCache


def reward_forward(
    params: Params, config: QwenConfig, input_ids: Array, real: Array | None = None
) -> tuple[Array, RewardModelCache]:
    """Read the reward of each row at its last real token.

    Args:
        params: of a model with a score head, on any device.
        config: with num_labels=1. Dropout does not act.
        input_ids: (B, T) int, best on the host.
        real: (B, T) bool, True = a token of the chat, False = padding on either side; None = all.
            Best on the host. Which tokens are padding is never read off the ids.

    Returns:
        rewards: (B,) in the dtype of the parameters.
        cache: for reward_backward.

    Raises:
        TypeError, ValueError, NotImplementedError: as backbone_forward; the model has no score
            head; or a row has no real token.
    """
    require_score_head(config)
    require_axes("input_ids", input_ids, "B T")
    B, T = input_ids.shape
    end = np.full(B, T - 1) if real is None else last_real(real)
    hidden, backbone = backbone_forward(params, config, input_ids, attention_mask=real)
    assert backbone is not None  # without kv_cache there is one
    rewards, head = reward_head_forward(hidden, params[SCORE], end)
    return rewards, RewardModelCache(backbone, head)


def reward_backward(
    drewards: Array, cache: RewardModelCache, drouter_logits: Sequence[Array] | None = None
) -> Params:
    """Return the gradient of every parameter, under the same names.

    Args:
        drewards: (B,).
        cache: of reward_forward.
        drouter_logits: (B*T, E) for every sparse layer, in order, of router_loss_backward; or None.
    """
    dhidden, dw = reward_head_backward(drewards, cache.head)
    grads = backbone_backward(dhidden, cache.backbone, drouter_logits)
    grads[SCORE] = dw
    return grads


def pad_answers(chats: Sequence[Chat], pad_id: int) -> tuple[Array, Array]:
    """Make a row of each chat, filled up at the right.

    Args:
        chats: each ends with its answer, see preference_pairs.py.
        pad_id: stands in the empty places; no token sees it.

    Returns:
        input_ids: (B, T) int64, and real: (B, T) bool, False where the row is empty.

    Raises:
        ValueError: a chat goes on after its answer.

    >>> pad_answers([Chat([5, 6], [False, True]), Chat([7], [True])], pad_id=0)[0].tolist()
    [[5, 6], [7, 0]]
    """
    for i, chat in enumerate(chats):
        require_end(f"chats[{i}]", chat)
    lengths = np.array([len(chat.ids) for chat in chats])
    real = np.arange(lengths.max()) < lengths[:, None]
    input_ids = np.full(real.shape, pad_id)
    input_ids[real] = np.concatenate([chat.ids for chat in chats])
    return input_ids, real


def rewards_of(
    params: Params, config: QwenConfig, chats: Sequence[Chat], pad_id: int, batch_size: int = 16
) -> Array:
    """Return the reward of each chat.

    Args:
        params: of the reward model, on any device.
        config: with num_labels=1.
        chats: each ends with its answer: cut off what stands behind it, see end_at_answer.
        pad_id: stands in empty places.
        batch_size: chats at a time, of nearly the same length; only the rounding depends on it.

    Returns:
        (n,) float on the host, in the order of the chats.

    Raises:
        ValueError: a chat goes on after its answer, or the model has no score head.
    """
    require_score_head(config)
    rewards = np.empty(len(chats), params[SCORE].dtype)
    order = np.argsort([len(chat.ids) for chat in chats], kind="stable")
    for start in range(0, len(chats), batch_size):
        numbers = order[start : start + batch_size]
        input_ids, real = pad_answers([chats[i] for i in numbers], pad_id)
        rewards[numbers] = to_numpy(reward_forward(params, config, input_ids, real)[0])
    return rewards


def require_score_head(config: QwenConfig) -> None:
    """Raise ValueError unless the config is that of a reward model."""
    if config.num_labels != 1:
        raise ValueError("the model gives logits, not a score: see to_reward_model")


def pair_rewards(
    params: Params, config: QwenConfig, pairs: Sequence[Pair], pad_id: int, batch_size: int = 16
) -> tuple[Array, Array]:
    """Return the rewards of the chosen and of the rejected answers, both (n,) on the host.

    Args and errors: see rewards_of.
    """
    chats = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    rewards = rewards_of(params, config, chats, pad_id, batch_size)
    return rewards[: len(pairs)], rewards[len(pairs) :]
