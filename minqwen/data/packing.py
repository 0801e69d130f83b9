"""Packing: documents of all lengths become windows of one length, with nothing wasted on padding.

    stream = doc, separator, doc, separator, ...       in random order
    row i  = stream[i * C : i * C + C + 1]             C = context_length

A row holds one token more than the context: its first C tokens are the inputs and its last C the
labels, so input t is asked for token t + 1. The last token of a row is the first of the next,
therefore every token of the stream but the first is a label exactly once. The rest at the end
that fills no row is left out.

A window may begin in the middle of one document and reach into others. By default attention is not
reset between them; the model has to learn that a separator ends what went before. document_segments
says which document each input is of, for a model that keeps them apart (`segments` of
model/backbone.py): then every document, or what a window has of it, is read as if alone.

Paper:    Qwen Technical Report, 2.4 Training: documents are shuffled and merged, then truncated
          to the context length, 2048. Separator: `<|endoftext|>` (the released tokenizer's notes).
Differs:  whether neighbouring windows share a token is not published.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np

from ..backend import Array


def pack_documents(
    documents_ids: Iterable[Sequence[int] | Array],
    context_length: int,
    separator_id: int,
    rng: np.random.Generator | None = None,
) -> Array:
    """Join documents with a separator after each and cut the stream into rows.

    Args:
        documents_ids: the tokens of each document; empty ones are left out.
        context_length: C, tokens that the model sees at once.
        separator_id: the token that ends a document, `<|endoftext|>` for Qwen.
        rng: shuffles the documents; None keeps their order.

    Returns:
        (n, C + 1) int32; inputs are rows[:, :-1] and labels rows[:, 1:].

    Raises:
        TypeError: the ids are not integers.
        ValueError: context_length is not positive, an id is negative or does not fit into int32,
            or the documents do not fill one row.

    >>> pack_documents([[1, 2], [3], [4, 5]], context_length=3, separator_id=0)
    array([[1, 2, 0, 3],
           [3, 0, 4, 5]], dtype=int32)
    """
    if context_length < 1:
        raise ValueError(f"context_length must be positive, got {context_length}")
    separator = _int32("separator_id", [separator_id])
    arrays = enumerate(map(np.asarray, documents_ids))
    documents = [_int32(f"document {i}", ids) for i, ids in arrays if ids.size]

    order = range(len(documents)) if rng is None else rng.permutation(len(documents))
    pieces = [piece for i in order for piece in (documents[i], separator)]
    stream = np.concatenate([np.empty(0, np.int32), *pieces])
    if len(stream) < context_length + 1:
        raise ValueError(
            f"{len(documents)} documents make {len(stream)} tokens with separators, one row needs "
            f"context_length + 1 = {context_length + 1}"
        )
    rows = np.lib.stride_tricks.sliding_window_view(stream, context_length + 1)[::context_length]
    return np.ascontiguousarray(rows)


def document_segments(inputs: Array, separator_id: int) -> Array:
    """Number the documents of each row; a separator belongs to the document that it ends.

    Args:
        inputs: (B, T) int, of rows of pack_documents without their last column.
        separator_id: the token that ends a document.

    Returns:
        (B, T) int64, 0 for the first document of a row, then 1, 2, ...

    >>> document_segments(np.array([[5, 6, 0, 7, 0, 8]]), separator_id=0)
    array([[0, 0, 0, 1, 1, 2]])
    """
    ends = (inputs == separator_id).astype(np.int64)
    segments: Array = ends.cumsum(axis=1) - ends  # separators before this token
    return segments


def _int32(name: str, ids: Sequence[int] | Array) -> Array:
    """Convert at once, so that all documents need half the memory; int32 would wrap silently."""
    ids, most = np.asarray(ids), np.iinfo(np.int32).max
    if ids.dtype.kind not in "iu" or ids.ndim != 1:
        raise TypeError(f"{name} must be integer ids, got {ids.dtype} of shape {ids.shape}")
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high > most:
        raise ValueError(f"{name} holds ids from {low} to {high}, rows hold 0 to {most}")
    return ids.astype(np.int32, copy=False)


def require_rows(name: str, rows: Array, context_length: int, vocab_size: int) -> None:
    """Raise an error that says what is wrong, unless rows are what `pack_documents` makes.

    Args:
        name: of the argument, for the message.
        rows: (n, context_length + 1) int, n > 0, ids below vocab_size.
        context_length: C, tokens that the model sees at once.
        vocab_size: V of the model.

    >>> require_rows("rows", np.array([[1, 2, 9]]), context_length=2, vocab_size=9)
    Traceback (most recent call last):
    ...
    ValueError: rows holds ids from 1 to 9, config.vocab_size is 9
    """
    C = context_length
    if rows.ndim != 2 or rows.shape[1] != C + 1 or not len(rows):
        raise ValueError(
            f"{name} must have shape (n, context_length + 1 = {C + 1}) and n > 0, got {rows.shape}"
        )
    if rows.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integer ids, got dtype {rows.dtype}")
    low, high = int(rows.min()), int(rows.max())
    if low < 0 or high >= vocab_size:
        raise ValueError(
            f"{name} holds ids from {low} to {high}, config.vocab_size is {vocab_size}"
        )


def batch_rows(n_rows: int, batch_size: int, step: int, seed: int) -> Array:
    """Return the row numbers of one batch: a pure function, so a resumed run needs no memory.

    The rows of all epochs, each epoch in an order of its own, make one endless line, and batch
    `step` is piece number `step` of it. So every row is used once before any is used twice, also
    where batch_size does not divide n_rows.

    Args:
        n_rows: rows there are.
        batch_size: rows to take, B.
        step: number of the batch, 0 for the first.
        seed: of the orders.

    Returns:
        (B,) int64.

    Raises:
        ValueError: there are no rows, or a number is out of range.

    >>> first_epoch = np.concatenate([batch_rows(6, 2, step, seed=0) for step in range(3)])
    >>> sorted(first_epoch.tolist())
    [0, 1, 2, 3, 4, 5]
    """
    if n_rows < 1 or batch_size < 1 or step < 0:
        raise ValueError(
            f"need n_rows >= 1, batch_size >= 1 and step >= 0, got {n_rows}, {batch_size}, {step}"
        )
    first, end = step * batch_size, (step + 1) * batch_size
    epochs = range(first // n_rows, (end - 1) // n_rows + 1)
    rows = np.concatenate([epoch_order(n_rows, epoch, seed) for epoch in epochs])
    start = first - epochs[0] * n_rows
    return rows[start : start + batch_size]


@lru_cache(maxsize=4)  # as a batch wants the same order as the batch before it
def epoch_order(n_rows: int, epoch: int, seed: int) -> Array:
    """Return the order in which an epoch, 0 for the first, goes through the rows.

    >>> sorted(epoch_order(4, epoch=0, seed=0).tolist())
    [0, 1, 2, 3]
    """
    order = np.random.default_rng([2, seed, epoch]).permutation(n_rows)  # 0, 1: pretrain's streams
    order.flags.writeable = False  # all callers get the same array
    return order
