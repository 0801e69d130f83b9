"""Rollout: the policy answers queries, and the answers are laid out so that models can read them.

    queries           a b          the two rows of a query, when it is answered twice:
                      c
                      real tokens       . a b x y E      E = end token: the answer stops with it
    input_ids         p a b x y E       . a b x z w      w = cut off, no end token within T = 3
                      p a b x z w
                      p p c x E p       . . c x E .      p = padding, on either side
                      p p c E p p       . . c E . .

Queries are padded in front, so all answers begin in the same column Q, and the token in column
Q + t of row b is answers[b, t]. What a model says about it, its logits and the value before it,
stands one column earlier: see answer_heads.py.

Sampling cuts the unlikely tail off (top-p). The log-probabilities that PPO compares do not: they
are those of the whole softmax, of policy, old policy and reference alike. With those of the cut
softmax on one side only, the ratio of a policy to itself would be the mass that was kept, not 1.

Paper:    Qwen Technical Report, 3.2.2 Reinforcement Learning: two answers of a query, top-p 0.9.
Origin:   Ouyang et al. 2022, arXiv:2203.02155; padding as in Huang et al. 2024, arXiv:2403.17031.
Differs:  what Qwen does with the two answers beyond being members of a batch is not published.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..backend import Array
from ..model.config import QwenConfig
from ..model.generate import generate, left_pad
from ..params import Params
from ..shapes import require_axes, require_ids


class Rollout(NamedTuple):
    input_ids: Array  # (B, Q + T) int64 on the host, as are all of these
    real: Array  # (B, Q + T) bool, False = padding
    answers: Array  # (B, T) int64, padding after the end token
    mask: Array  # (B, T) bool, True = a token of the answer, its end token included
    ended: Array  # (B,) bool, True = the answer has an end token, one that counts


def rollout(
    params: Params,
    config: QwenConfig,
    queries: Sequence[Sequence[int]],
    *,
    responses_per_query: int = 2,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    eos_token_ids: Sequence[int],
    end_token_ids: Sequence[int] | None = None,
    pad_id: int,
    rng: np.random.Generator,
) -> Rollout:
    """Sample answers.

    Args:
        params: of the policy, on any device.
        config: its sizes.
        queries: lists of at least one id.
        responses_per_query: answers to each; rows r * i to r * i + r - 1 are those of query i.
        max_new_tokens: the most tokens of an answer.
        temperature: the logits are divided by it, above 0.
        top_p: sample from the best tokens that together reach this probability.
        eos_token_ids: tokens that end an answer, at least one.
        end_token_ids: those of them that make it one which has ended; None: all.
        pad_id: fills up rows; no token sees it.
        rng: of the sampling.

    Returns:
        B = responses_per_query times the queries rows; T is the length of the longest answer.

    Raises:
        ValueError: no query, an empty one, no end token, or an option is out of range.
    """
    if responses_per_query < 1 or max_new_tokens < 1:
        raise ValueError(
            "responses_per_query and max_new_tokens must be 1 or more, got "
            f"{responses_per_query} and {max_new_tokens}"
        )
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}: PPO needs chance")
    if not len(eos_token_ids):
        raise ValueError("eos_token_ids must name at least one token: what ends an answer")
    prompt, prompt_real = left_pad(
        [query for query in queries for _ in range(responses_per_query)], pad_id
    )
    ids = generate(
        params,
        config,
        prompt,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        eos_token_ids=eos_token_ids,
        rng=rng,
        attention_mask=prompt_real,
    )
    answers = ids[:, prompt.shape[1] :]
    return lay_out(prompt, prompt_real, answers, eos_token_ids, pad_id, end_token_ids)


def lay_out(
    prompt: Array,
    prompt_real: Array,
    answers: Array,
    eos_token_ids: Sequence[int],
    pad_id: int,
    end_token_ids: Sequence[int] | None = None,
) -> Rollout:
    """Cut answers after their first end token and put them behind their queries.

    Args:
        prompt: (B, Q) int, queries with padding in front.
        prompt_real: (B, Q) bool, False = padding.
        answers: (B, T) int; what stands after an end token does not matter.
        eos_token_ids: tokens that end an answer.
        pad_id: stands where the answer was cut.
        end_token_ids: those of eos_token_ids that count as an end; None: all. A model of chats
            stops at <|endoftext|> too, but only <|im_end|> ends an answer there.

    >>> found = lay_out(np.array([[5]]), np.array([[True]]), np.array([[6, 2, 7, 2]]), [2], 0)
    >>> found.answers, found.mask, found.ended
    (array([[6, 2, 0, 0]]), array([[ True,  True, False, False]]), array([ True]))
    """
    require_axes("answers", answers, "B T")
    is_end: Array = np.isin(answers, list(eos_token_ids))
    ends_before = is_end.cumsum(axis=1) - is_end  # end tokens in front of this one
    mask = ends_before == 0
    counts = is_end if end_token_ids is None else np.isin(answers, list(end_token_ids))
    ended = (counts & mask).any(axis=1)
    answers = np.where(mask, answers, pad_id).astype(np.int64)
    return Rollout(
        input_ids=np.concatenate([prompt, answers], axis=1),
        real=np.concatenate([prompt_real, mask], axis=1),
        answers=answers,
        mask=mask,
        ended=ended,
    )


def as_lists(rolled: Rollout) -> tuple[list[list[int]], list[list[int]]]:
    """Return queries and answers of all rows as lists of ids, without padding.

    >>> prompt, real = left_pad([[4, 5], [6]], pad_id=0)
    >>> as_lists(lay_out(prompt, real, np.array([[7, 2], [2, 0]]), [2], 0))
    ([[4, 5], [6]], [[7, 2], [2]])
    """
    Q = rolled.input_ids.shape[1] - rolled.answers.shape[1]
    queries = zip(rolled.input_ids[:, :Q], rolled.real[:, :Q], strict=True)
    answers = zip(rolled.answers, rolled.mask, strict=True)
    return [ids[r].tolist() for ids, r in queries], [ids[m].tolist() for ids, m in answers]


def require_queries(queries: Sequence[Sequence[int]], vocab_size: int) -> None:
    """Raise unless queries are lists of at least one id of the vocabulary.

    >>> require_queries([[1], []], vocab_size=9)
    Traceback (most recent call last):
    ...
    ValueError: queries[1] is empty
    """
    if not len(queries):
        raise ValueError("queries must be at least one list of ids")
    for i, query in enumerate(queries):
        if not len(query):
            raise ValueError(f"queries[{i}] is empty")
        require_ids(f"queries[{i}]", np.asarray(query), vocab_size, "V")
