"""The rows that fine-tuning draws its batches from: laid out once, cut to what a batch needs.

All chats are laid out when a run begins (chat_batch.py), so that a batch is nothing but row
numbers, and a resumed run has the same rows. A batch is then cut to its longest row: a place that
is empty in every row costs work and gives nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..backend import Array
from ..layers.cross_entropy import IGNORED
from ..tokenizer.chatml import Chat
from ..training.accumulate import Batch
from .chat_batch import ChatRows, pack_chats, pad_chats
from .settings import SftSettings


def chats_to_rows(chats: Sequence[Chat], settings: SftSettings, pad_id: int) -> ChatRows:
    """Lay the chats out as settings say: a chat a row, or packed.

    Args:
        chats: of `encode_chat`.
        settings: packed, context_length.
        pad_id: stands in empty places.

    Returns:
        Rows that are at most context_length long.

    Raises:
        TypeError, ValueError: a chat is none, or nothing is left to learn.

    >>> chats = [Chat([1, 2, 3], [False, True, True]), Chat([4, 5], [False, True])]
    >>> chats_to_rows(chats, SftSettings(context_length=9), pad_id=0).batch.input_ids.tolist()
    [[1, 2], [4, 0]]
    """
    length = settings.context_length
    if settings.packed:
        return pack_chats(chats, length, pad_id)
    longest = max((len(chat.ids) for chat in chats), default=0)
    return pad_chats(chats, pad_id, min(length, max(1, longest - 1)))


def take_rows(batch: Batch, rows: Array) -> Batch:
    """Return some rows, without the columns that are empty in all of them.

    Args:
        batch: of chats_to_rows; the places of a row that are not empty stand at its left.
        rows: (B,) int, numbers of rows.

    >>> batch = pad_chats([Chat([1, 2, 3], [True] * 3), Chat([4, 5], [True] * 2)], 0).batch
    >>> take_rows(batch, np.array([1])).labels.tolist()
    [[5]]
    """
    assert batch.loss_mask is not None  # chat_batch makes both
    assert batch.real is not None
    width = int(batch.real[rows].any(axis=0).sum())
    return Batch(
        batch.input_ids[rows, :width],
        batch.labels[rows, :width],
        batch.loss_mask[rows, :width],
        batch.real[rows, :width],
        None if batch.segments is None else batch.segments[rows, :width],
    )


def notes_on(
    what: str, chats: Sequence[Chat], rows: ChatRows, names: Sequence[str] | None = None
) -> list[str]:
    """Say which chats were left out or cut, and why: a line for each reason.

    Args:
        what: name of the argument.
        chats: all of them.
        rows: what chats_to_rows made of them.
        names: of the chats; None calls them by their place.

    >>> chats = [Chat([1, 2], [False, True]), Chat([3, 4], [False, False])]
    >>> notes_on("chats", chats, chats_to_rows(chats, SftSettings(), pad_id=0))
    ['1 of 2 chats left out, no token is trained on: chats[1]']
    """
    without = [i for i, _ in rows.left_out if not any(chats[i].loss_mask[1:])]
    late = [i for i, _ in rows.left_out if any(chats[i].loss_mask[1:])]
    T = rows.batch.input_ids.shape[1]
    found: list[str] = []
    for places, why in (
        (without, "left out, no token is trained on"),
        (late, f"left out, what is trained on comes after the first {T + 1} tokens"),
        (rows.cut, f"cut after {T + 1} tokens"),
    ):
        if places:
            shown = [names[i] if names is not None else f"{what}[{i}]" for i in places[:5]]
            more = f" and {len(places) - 5} more" if len(places) > 5 else ""
            found.append(f"{len(places)} of {len(chats)} {what} {why}: {', '.join(shown)}{more}")
    return found


def rows_and_notes(
    what: str,
    chats: Sequence[Chat],
    settings: SftSettings,
    pad_id: int,
    vocab_size: int,
    names: Sequence[str] | None = None,
) -> tuple[Batch, list[str]]:
    """Lay out what a run learns from or looks at, and refuse what the model cannot read.

    Args:
        what: name of the argument, for messages.
        chats: of `encode_chat`.
        settings: packed, context_length.
        pad_id: stands in empty places.
        vocab_size: V of the model.
        names: of the chats, for the notes.

    Returns:
        The rows, and the lines of notes_on.

    Raises:
        TypeError, ValueError: a chat is none, nothing is left to learn, or an id is too high.
    """
    if names is not None and len(names) != len(chats):
        raise ValueError(f"names must be {len(chats)}, one a chat, got {len(names)}")
    try:
        rows = chats_to_rows(chats, settings, pad_id)
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None
    highest = max(pad_id, *(max(chat.ids) for chat in chats))
    if highest >= vocab_size:
        raise ValueError(f"{what} and pad_id go up to id {highest}, vocab_size is {vocab_size}")
    return rows.batch, notes_on(what, chats, rows, names)


def facts_of(batch: Batch) -> Array:
    """Return one array that is another one when anything that is learnt from differs."""
    assert batch.loss_mask is not None  # chat_batch makes both
    assert batch.real is not None
    labels = np.where(batch.loss_mask, batch.labels, IGNORED)
    layout = batch.real if batch.segments is None else batch.segments
    return np.concatenate([batch.input_ids, labels, layout], axis=1, dtype=np.int32)
