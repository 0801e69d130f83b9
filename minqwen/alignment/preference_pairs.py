"""Pairs of answers to one prompt, one better than the other, as a reward model and DPO read them.

    record      prompt, chosen, rejected                                    data/records.py
    pair        two chats: prompt + chosen, prompt + rejected

        <|im_start|>user\\n2 + 2?<|im_end|>\\n<|im_start|>assistant\\n       given
        Four.<|im_end|>                                                 counted: the answer

A chat ends with the <|im_end|> of its answer: there a reward model reads. The line end that stands
behind it in ChatML is cut off. Counted are the tokens of the answer alone, whoever spoke in the
prompt: DPO compares what was answered.

A record may teach nothing; it is left out, and the result says why:

    too long          cut at its end, an answer would lose the token at which the reward is read
    a tie             both answers are the same tokens (records that differ may still be encoded
                      alike, as text is brought to NFC)
    no answer         there is nothing to compare

Paper:    Qwen Technical Report, 3.2.1 Reward Model: pairs, length 2048; what was done with longer
          ones is not published. Qwen2 Technical Report, Post-training: pairs for DPO, offline from
          a fixed set, online from several answers of which a reward model picks two.
Origin:   Stiennon et al. 2020, arXiv:2009.01325, for comparisons of answers to one prompt.
Differs:  nothing is cut: TRL and others cut what is too long.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from ..backend import Array, to_numpy
from ..data.records import PreferenceRecord
from ..messages import Message
from ..shapes import require_axes, require_float
from ..tokenizer.bpe import Tokenizer
from ..tokenizer.chat_templates import Template
from ..tokenizer.chatml import Chat, encode_chat


class Pair(NamedTuple):
    chosen: Chat  # up to the <|im_end|> of the answer; its loss_mask is True for the answer only
    rejected: Chat


class LeftOutPair(NamedTuple):
    record: int  # place in the argument
    reason: str


class EncodedPairs(NamedTuple):
    pairs: list[Pair]  # in the order of the records
    left_out: list[LeftOutPair]


def encode_pairs(
    tokenizer: Tokenizer,
    records: Iterable[PreferenceRecord],
    *,
    template: str | Template = "qwen2",
    context_length: int | None = None,
) -> EncodedPairs:
    """Turn records into pairs of chats.

    Args:
        tokenizer: has the control tokens <|im_start|> and <|im_end|>.
        records: of `read_preferences`.
        template: see `encode_chat`.
        context_length: the most tokens of a chat, its end token included; None: any number.

    Returns:
        The pairs, and the records that were left out, with reasons.

    Raises:
        ValueError: a record does not fit the template, the tokenizer lacks a control token, or no
            pair is left.

    >>> from minqwen.tokenizer.bpe import bpe_train
    >>> tokenizer = bpe_train("", merges=0)  # a byte is its id; <|im_end|> is 258
    >>> prompt, a, b = ([{"role": r, "content": c}] for r, c in
    ...                 (("user", "2 + 2?"), ("assistant", "4"), ("assistant", "5")))
    >>> records = [PreferenceRecord(prompt, a, b, None, {}, 1)]
    >>> (pair,), left_out = encode_pairs(tokenizer, records, template=Template(system=None))
    >>> pair.chosen.ids[-2:], pair.chosen.loss_mask[-3:]
    ([52, 258], [False, True, True])
    """
    pairs: list[Pair] = []
    left_out: list[LeftOutPair] = []
    for i, record in enumerate(records):
        try:
            chats = [
                encode_answer(tokenizer, record, answer, template)
                for answer in (record.chosen, record.rejected)
            ]
        except (TypeError, ValueError) as error:
            raise ValueError(f"line {record.line}: {error}") from None
        pair = Pair(*chats)
        if reason := teaches_nothing(pair, context_length):
            left_out.append(LeftOutPair(i, reason))
        else:
            pairs.append(pair)
    if not pairs:
        first = f"; the first: {left_out[0].reason}" if left_out else ""
        raise ValueError(f"none of {len(left_out)} preferences can be used{first}")
    return EncodedPairs(pairs, left_out)


def encode_answer(
    tokenizer: Tokenizer,
    record: PreferenceRecord,
    answer: Sequence[Message],
    template: str | Template,
) -> Chat:
    """Encode the prompt of a record and an answer to it, up to the end token of the answer."""
    prompt = encode_chat(tokenizer, record.prompt, template=template, tools=record.tools)
    messages = [*record.prompt, *answer]
    ids, loss_mask = encode_chat(tokenizer, messages, template=template, tools=record.tools)
    before = len(prompt.ids)  # turns are encoded one by one, so the prompt is the same in both
    return end_at_answer(Chat(ids, [False] * before + loss_mask[before:]))


def end_at_answer(chat: Chat) -> Chat:
    """Cut off what stands behind the last token of the answer: in ChatML, a line end.

    >>> end_at_answer(Chat([7, 8, 9, 10], [False, True, True, False]))
    Chat(ids=[7, 8, 9], loss_mask=[False, True, True])
    """
    end = len(chat.ids) - 1
    while end >= 0 and not chat.loss_mask[end]:
        end -= 1
    return Chat(chat.ids[: end + 1], chat.loss_mask[: end + 1])


def teaches_nothing(pair: Pair, context_length: int | None = None) -> str:
    """Say why a pair cannot be used, or return an empty text.

    >>> chat = Chat([1, 2], [False, True])
    >>> teaches_nothing(Pair(chat, chat))
    'chosen and rejected are the same tokens'
    """
    for name, chat in zip(Pair._fields, pair, strict=True):
        if not any(chat.loss_mask[1:]):
            return f"{name} has no answer"
    if list(pair.chosen.ids) == list(pair.rejected.ids):
        return "chosen and rejected are the same tokens"
    for name, chat in zip(Pair._fields, pair, strict=True):
        if context_length is not None and len(chat.ids) > context_length:
            return f"{name} has {len(chat.ids)} tokens, context_length is {context_length}"
    return ""


def require_pairs(
    name: str, pairs: Sequence[Pair], context_length: int, vocab_size: int
) -> Sequence[Pair]:
    """Return pairs if they can be trained on.

    Raises:
        ValueError: there is none, one teaches nothing or goes on after its answer, or an id is not
            in [0, vocab_size); the message names it.

    >>> require_pairs("pairs", [], 8, 61)
    Traceback (most recent call last):
    ...
    ValueError: pairs must hold at least one pair
    """
    if not pairs:
        raise ValueError(f"{name} must hold at least one pair")
    for i, pair in enumerate(pairs):
        if reason := teaches_nothing(pair, context_length):
            raise ValueError(f"{name}[{i}] cannot be used: {reason}")
        for field, chat in zip(Pair._fields, pair, strict=True):
            require_end(f"{name}[{i}].{field}", chat)
            if min(chat.ids) < 0 or max(chat.ids) >= vocab_size:
                raise ValueError(
                    f"{name}[{i}].{field} holds ids from {min(chat.ids)} to {max(chat.ids)}, "
                    f"config.vocab_size is {vocab_size}"
                )
    return pairs


def require_end(name: str, chat: Chat) -> None:
    """Raise ValueError unless the chat ends with its answer: a reward is read at its last token."""
    if not chat.ids or len(chat.ids) != len(chat.loss_mask):
        raise ValueError(f"{name} has {len(chat.ids)} ids and {len(chat.loss_mask)} mask entries")
    if not chat.loss_mask[-1]:
        raise ValueError(f"{name} goes on after its answer: see end_at_answer")


def as_numbers(pairs: Iterable[Pair]) -> Array:
    """Return lengths, ids and masks as one line of whole numbers, by which a run knows its data.

    >>> as_numbers([Pair(Chat([7, 8], [False, True]), Chat([7, 9], [False, True]))])
    array([2, 7, 8, 0, 1, 2, 7, 9, 0, 1])
    """
    chats = [chat for pair in pairs for chat in pair]
    parts = [[len(ids), *ids, *map(int, loss_mask)] for ids, loss_mask in chats]
    return np.concatenate([np.empty(0, np.int64), *(np.array(part) for part in parts)])


def best_and_worst(rewards: Array) -> tuple[Array, Array, Array]:
    """Pick two of several answers to each prompt, for online DPO.

    Args:
        rewards: (n, k) float, of k answers to each of n prompts.

    Returns:
        best: (n,) int, on the host, the answer with the highest reward, the first of equal ones.
        worst: (n,) int, the answer with the lowest.
        usable: (n,) bool, False where all are equal: a tie teaches nothing.

    Raises:
        TypeError: rewards are not floating point.
        ValueError: rewards are not (n, k), k is 0, or one is NaN.

    >>> best_and_worst(np.array([[1.0, 3.0, -2.0], [0.5, 0.5, 0.5]]))
    (array([1, 0]), array([2, 0]), array([ True, False]))
    """
    require_axes("rewards", rewards, "n k")
    require_float(rewards=rewards)
    rewards = to_numpy(rewards)
    if not rewards.shape[1] or np.isnan(rewards).any():
        raise ValueError("rewards must hold at least one answer to each prompt, and no NaN")
    best, worst = rewards.argmax(axis=1), rewards.argmin(axis=1)
    return best, worst, rewards.max(axis=1) > rewards.min(axis=1)
