"""Dual chunk attention in blocks: which keys does a block of queries look at, and from which place?

The helpers of dual_chunk.py. Chunk numbers never fall along the tokens, so for one block of queries
the keys so far are three neighbouring pieces: inter, succ, intra, from the left. A block that lies
in one chunk has them side by side; where the rows of a batch have their chunks at different tokens
(padding), or a block holds several chunks, the pieces overlap and a mask says which pairs count.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TypeAlias

import numpy as np

from ..backend import Array, array_module
from ..layers.block_attention import tile_scores

Chunks: TypeAlias = tuple[Array, Array]  # of queries (1 or B, T), of keys (1 or B, S): host ints
Piece: TypeAlias = tuple[int, slice, Array | None]  # place, keys, picked: see key_pieces


def row_blocks(query_chunk: Array, block: int) -> Iterator[slice]:
    """Cut the queries where all rows of the batch begin a chunk, and into blocks in between.

    >>> list(row_blocks(np.array([[0, 0, 0, 1, 1]]), 2))
    [slice(0, 2, None), slice(2, 3, None), slice(3, 5, None)]
    """
    T = query_chunk.shape[1]
    borders = np.flatnonzero((np.diff(query_chunk) != 0).all(axis=0)) + 1
    for start, stop in pairwise([0, *borders.tolist(), T]):
        for i in range(start, stop, block):
            yield slice(i, min(i + block, stop))


def key_pieces(chunks: Chunks, rows: slice, Hkv: int, G: int, like: Array) -> Iterator[Piece]:
    """Say from which place this block of queries looks at which keys.

    Yields:
        b, keys, picked: b = 0 intra, 1 succ, 2 inter. picked is None if all these pairs are of b,
        else (B*Hkv, rows*G, keys) bool on the device of `like`, True for those that are.
    """
    xp, e = array_module(like), chunks[1].shape[1] - chunks[0].shape[1] + rows.stop
    queries, keys_so_far = chunks[0][:, rows], chunks[1][:, :e]
    if not len(queries):
        return  # an empty batch
    oldest, newest = queries.min(axis=1), queries.max(axis=1)  # (1 or B,)
    starts = (min(keys_before(oldest, keys_so_far)), min(keys_before(oldest - 1, keys_so_far)), 0)
    stops = (e, max(keys_before(newest, keys_so_far)), max(keys_before(newest - 1, keys_so_far)))
    overlap = sum(stops) - sum(starts) > e
    for b, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        if start < stop:
            picked, keys = None, slice(start, stop)
            if overlap:
                ahead = queries[:, :, None] - keys_so_far[:, None, keys]  # (B, rows, keys)
                picked = xp.asarray(np.clip(ahead, 0, 2) == b)
                picked = xp.repeat(xp.repeat(picked, Hkv, axis=0), G, axis=1)
            yield b, keys, picked


def keys_before(chunk: Array, key_chunk: Array) -> list[int]:
    """Return, for each row of the batch, how many keys lie in chunks before this one.

    >>> keys_before(np.array([1]), np.array([[0, 0, 0, 1, 1]]))
    [3]
    """
    pairs = zip(key_chunk, chunk, strict=True)
    return [int(np.searchsorted(keys, number)) for keys, number in pairs]


def scores_of_pieces(
    queries: list[Array], k: Array, bias: Array | None, rows: slice, pieces: list[Piece]
) -> Array:
    """Return (B*Hkv, rows*G, e) scores of these queries against all keys so far."""
    xp, (BHkv, T, G, _) = array_module(k), queries[0].shape
    e = k.shape[1] - T + rows.stop
    scores: Array = xp.zeros((BHkv, (rows.stop - rows.start) * G, e), dtype=k.dtype)
    for b, keys, picked in pieces:
        piece = tile_scores(queries[b], k, bias, rows, keys, None)
        if picked is not None:
            piece = xp.where(picked, piece, scores[:, :, keys])
        scores[:, :, keys] = piece
    return scores
