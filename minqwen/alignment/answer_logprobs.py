"""Log-probabilities of whole answers by a language model, and the way back: what DPO compares.

    L_b = sum over the tokens t of answer b of log pi(t | prompt, answer before t)

Nothing new happens here. It is the chain

    ids -> logits (language_model.py) -> l of each token -> L of each answer (token_logprobs.py)

and its gradient is that of each link, from the last to the first:

    dL -> dl = dL where a token of the answer stands, else 0 -> dlogits = (onehot - p) dl -> grads

Paper:    Qwen2 Technical Report, Post-training, Reinforcement Learning from Human Feedback.
Origin:   Rafailov et al. 2023, arXiv:2305.18290.
Differs:  nothing. All logits of a row are computed, those of the prompt too, which get no gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..backend import Array, array_module, to_numpy
from ..layers.cross_entropy import IGNORED
from ..model.config import QwenConfig
from ..model.language_model import (
    LanguageModelCache,
    language_model_backward,
    language_model_forward,
)
from ..params import Params
from ..tokenizer.chatml import Chat
from ..training.accumulate import Batch
from .chat_batch import pad_chats
from .preference_pairs import Pair
from .token_logprobs import (
    SequenceLogprobsCache,
    TokenLogprobsCache,
    sequence_logprobs_backward,
    sequence_logprobs_forward,
    token_logprobs_backward,
    token_logprobs_forward,
)


class AnswerLogprobsCache(NamedTuple):
    model: LanguageModelCache
    tokens: TokenLogprobsCache
    answers: SequenceLogprobsCache


def answer_logprobs_forward(
    params: Params, config: QwenConfig, batch: Batch, reduction: str = "sum"
) -> tuple[Array, AnswerLogprobsCache]:
    """Add up the log-probabilities of the counted tokens of each row.

    Args:
        params: of the language model, on any device.
        config: its config. Dropout does not act.
        batch: (B, T) of pad_chats; its loss_mask says which labels are tokens of the answer.
        reduction: "sum" or "mean", see sequence_logprobs_forward.

    Returns:
        logprobs: (B,) in the dtype of the parameters, in nats.
        cache: for answer_logprobs_backward.

    Raises:
        TypeError, ValueError, NotImplementedError: as language_model_forward; or there is no such
            reduction.
    """
    logits, model = language_model_forward(
        params, config, batch.input_ids, attention_mask=batch.real
    )
    assert model is not None  # without kv_cache there is one
    counted = batch.labels != IGNORED
    mask = counted if batch.loss_mask is None else counted & batch.loss_mask
    labels = np.where(counted, batch.labels, 0)  # any id will do where the mask hides it
    per_token, tokens = token_logprobs_forward(logits, labels)
    logprobs, answers = sequence_logprobs_forward(per_token, mask, reduction)
    return logprobs, AnswerLogprobsCache(model, tokens, answers)


def answer_logprobs_backward(
    dlogprobs: Array, cache: AnswerLogprobsCache, drouter_logits: Sequence[Array] | None = None
) -> Params:
    """Return the gradient of every parameter from dlogprobs (B,).

    drouter_logits: (B*T, E) for every sparse layer, in order, of router_loss_backward; or None.
    """
    dper_token = sequence_logprobs_backward(dlogprobs, cache.answers)
    dlogits = token_logprobs_backward(dper_token, cache.tokens)
    return language_model_backward(dlogits, cache.model, drouter_logits)


def answer_logprobs_of(
    params: Params,
    config: QwenConfig,
    chats: Sequence[Chat],
    pad_id: int,
    reduction: str = "sum",
    batch_size: int = 16,
) -> Array:
    """Return the log-probability of the counted tokens of each chat.

    Args:
        params: of the language model, on any device.
        config: its config.
        chats: each with a token that counts.
        pad_id: stands in empty places; no token sees it.
        reduction: "sum" or "mean".
        batch_size: chats at a time, of nearly the same length; only the rounding depends on it.

    Returns:
        (n,) float in nats, on the device of params, in the order of the chats.
    """
    order = np.argsort([len(chat.ids) for chat in chats], kind="stable")
    found = np.empty(len(chats), next(iter(params.values())).dtype)
    for start in range(0, len(chats), batch_size):
        numbers = order[start : start + batch_size]
        batch = pad_chats([chats[i] for i in numbers], pad_id).batch
        logprobs, _ = answer_logprobs_forward(params, config, batch, reduction)
        found[numbers] = to_numpy(logprobs)
    moved: Array = array_module(next(iter(params.values()))).asarray(found)
    return moved


def pair_logprobs(
    params: Params,
    config: QwenConfig,
    pairs: Sequence[Pair],
    pad_id: int,
    reduction: str = "sum",
    batch_size: int = 16,
) -> Array:
    """Return the log-probabilities of the answers of all pairs, (2, n): chosen, then rejected.

    Args: see answer_logprobs_of.
    """
    chats = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    found = answer_logprobs_of(params, config, chats, pad_id, reduction, batch_size)
    return found.reshape(2, -1)
