"""Chats of all lengths become rows of one length: padded, or several in a row.

A chat of n tokens asks n - 1 questions: input t, label t + 1. So it takes n - 1 places of a row,
and its last token is only a label.

    chats              a b c d       e f g                           trained: c d, g

    padded, T = 4      input    a b c .      e f . .
                       label    b c d .      f g . .
                       counts   . x x .      . x . .

    packed, T = 5      input    a b c e f
                       label    b c d f g        d is the label of c, and never e: no chat is
                       counts   . x x . x        asked for the beginning of the next
                       segment  0 0 0 1 1

In a packed row a token sees the tokens of its own segment only, and its position counts from the
beginning of that. So both give the gradient that the chats give one by one, and packing leaves few
places empty: the loss is the mean over all counted tokens, however they are laid out.

A chat that is too long is cut at the right. One that has nothing to learn then is left out: the
mean over its labels would be 0 / 0. The result says which were cut, which left out, and why.

Which places are empty is known from the lengths. `input_ids != pad_id` would be wrong: Qwen pads
with <|endoftext|>, which also is a token of texts.

Paper:    Qwen Technical Report, 3.1.2 Training: batches of 128 chats of up to 2048 tokens. Math-
          Qwen, 5.1: 1024.
Origin:   padding and cutting at the right as in finetune.py of the Qwen release; packing without
          looking into the neighbour as in Krell et al. 2021, arXiv:2107.02027.
Differs:  finetune.py takes the mask from the ids, and keeps chats without a label.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from ..backend import Array
from ..layers.cross_entropy import IGNORED
from ..tokenizer.chatml import Chat
from ..training.accumulate import Batch


class LeftOut(NamedTuple):
    chat: int  # place in the argument
    reason: str


class ChatRows(NamedTuple):
    batch: Batch  # (B, T); labels of empty places are IGNORED (-100)
    rows: list[list[int]]  # of each row, the chats in it, by place in the argument, in order
    cut: list[int]  # chats that were too long, and still have a label
    left_out: list[LeftOut]


class _Piece(NamedTuple):
    chat: int
    ids: Array  # (n,) int32
    loss_mask: Array  # (n,) bool


def pad_chats(chats: Iterable[Chat], pad_id: int, length: int | None = None) -> ChatRows:
    """Make a row of each chat, filled up at the right.

    Args:
        chats: see `encode_chat`.
        pad_id: stands in the empty places; no token sees it.
        length: T of the rows; a chat of up to T + 1 tokens fits. None: as long as is needed.

    Returns:
        The rows, in the order of the chats, and what became of each chat.

    Raises:
        TypeError, ValueError: a chat is none, or no chat has a label.

    >>> chats = [Chat([1, 2, 3], [False, True, True]), Chat([4, 5], [False, True])]
    >>> batch = pad_chats(chats, pad_id=0).batch
    >>> batch.input_ids.tolist(), batch.labels.tolist(), batch.real.tolist()
    ([[1, 2], [4, 0]], [[2, 3], [5, -100]], [[True, True], [True, False]])
    """
    pieces, cut, left_out = _pieces(chats, length)
    if length is None:
        length = max(len(piece.ids) for piece in pieces) - 1
    return _lay_out([[piece] for piece in pieces], length, pad_id, cut, left_out)


def pack_chats(chats: Iterable[Chat], length: int, pad_id: int = 0) -> ChatRows:
    """Put several chats into a row, as many as fit: each goes to the first row that has room.

    Args:
        chats: see `encode_chat`.
        length: T of the rows; a chat of n tokens takes n - 1 places.
        pad_id: stands in the places that stay empty; no token sees it.

    Returns:
        The rows, with `batch.segments`: 0, 1, 2, ... for the chats of a row, and the number after
        the last for the places that stay empty.

    Raises:
        TypeError, ValueError: a chat is none, or no chat has a label.

    >>> chats = [Chat([1, 2, 3], [False, True, True]), Chat([4, 5], [False, True])]
    >>> batch = pack_chats(chats, length=4).batch
    >>> batch.input_ids.tolist(), batch.labels.tolist(), batch.segments.tolist()
    ([[1, 2, 4, 0]], [[2, 3, 5, -100]], [[0, 0, 1, 2]])
    """
    pieces, cut, left_out = _pieces(chats, length)
    rows: list[list[_Piece]] = []
    room = np.full(len(pieces), length)  # of each row; there are never more rows than chats
    for piece in pieces:
        places = len(piece.ids) - 1
        row = int((room >= places).argmax())
        if row == len(rows):
            rows.append([])
        rows[row].append(piece)
        room[row] -= places
    packed = _lay_out(rows, length, pad_id, cut, left_out)
    segments = np.empty_like(packed.batch.input_ids)
    for i, pieces_of_row in enumerate(rows):
        sizes = [len(piece.ids) - 1 for piece in pieces_of_row]
        segments[i] = np.repeat(np.arange(len(sizes) + 1), [*sizes, length - sum(sizes)])
    return packed._replace(batch=packed.batch._replace(segments=segments))


def _pieces(
    chats: Iterable[Chat], length: int | None
) -> tuple[list[_Piece], list[int], list[LeftOut]]:
    """Cut what is too long, and leave out what has no label."""
    if length is not None and length < 1:
        raise ValueError(f"length must be positive, got {length}")
    pieces: list[_Piece] = []
    cut: list[int] = []
    left_out: list[LeftOut] = []
    for i, chat in enumerate(chats):
        ids, loss_mask = _arrays(f"chats[{i}]", chat)
        end = None if length is None else length + 1
        piece = _Piece(i, ids[:end], loss_mask[:end])
        if piece.loss_mask[1:].any():  # the first token is no label
            pieces.append(piece)
            cut += [i] if len(piece.ids) < len(ids) else []
        elif loss_mask[1:].any():
            first = int(loss_mask[1:].argmax()) + 1
            reason = f"cut from {len(ids)} to {end} tokens; the first label is token {first + 1}"
            left_out.append(LeftOut(i, reason))
        else:
            left_out.append(LeftOut(i, "no token of it is a label"))
    if not pieces:
        reasons = f"; chats[0]: {left_out[0].reason}" if left_out else ""
        raise ValueError(f"none of {len(left_out)} chats has a label{reasons}")
    return pieces, cut, left_out


def _arrays(name: str, chat: Chat) -> tuple[Array, Array]:
    ids, loss_mask = np.asarray(chat.ids), np.asarray(chat.loss_mask)
    if ids.ndim != 1 or not ids.size or ids.dtype.kind not in "iu":
        raise TypeError(f"{name}.ids must be a list of integer ids, at least one")
    if loss_mask.dtype != bool:
        raise TypeError(f"{name}.loss_mask must be boolean, got dtype {loss_mask.dtype}")
    if loss_mask.shape != ids.shape:
        raise ValueError(f"{name} has {len(ids)} ids and a loss_mask of shape {loss_mask.shape}")
    if int(ids.min()) < 0 or int(ids.max()) > np.iinfo(np.int32).max:
        raise ValueError(f"{name} holds ids from {ids.min()} to {ids.max()}")
    return ids.astype(np.int32), loss_mask


def _lay_out(
    rows: Sequence[Sequence[_Piece]],
    length: int,
    pad_id: int,
    cut: list[int],
    left_out: list[LeftOut],
) -> ChatRows:
    """Write inputs, labels and masks, row by row."""
    if not 0 <= pad_id <= np.iinfo(np.int32).max:
        raise ValueError(f"pad_id must be an id of the tokenizer, got {pad_id}")
    shape = (len(rows), length)
    input_ids, labels = np.full(shape, pad_id, np.int32), np.full(shape, IGNORED, np.int32)
    loss_mask, real = np.zeros(shape, bool), np.zeros(shape, bool)
    for i, row in enumerate(rows):
        end = sum(len(piece.ids) - 1 for piece in row)
        input_ids[i, :end] = np.concatenate([piece.ids[:-1] for piece in row])
        labels[i, :end] = np.concatenate([piece.ids[1:] for piece in row])
        loss_mask[i, :end] = np.concatenate([piece.loss_mask[1:] for piece in row])
        real[i, :end] = True
    chats = [[piece.chat for piece in row] for row in rows]
    return ChatRows(Batch(input_ids, labels, loss_mask, real), chats, cut, left_out)
