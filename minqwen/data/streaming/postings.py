"""Grouping more things than memory holds: who has the same key, among the documents of many files.

    each block of documents:   (key, document), sorted by key, in a file
    each range of keys:        that slice of every file, sorted together: equal keys side by side

Keys are hashes, so K ranges of the same width hold about as many each, and only one of them is in
memory. This is the shuffle of a map-reduce program with files as its wires.

Paper:    Qwen Technical Report, 2.1 Data: deduplication of all of it, not file by file.
Origin:   sort-merge join; Dean and Ghemawat 2004, MapReduce.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from ...backend import Array
from .workers import save_array


def write_postings(path: Path, keys: Array, documents: Array) -> None:
    """Sort by key, then by document, and write one file.

    Args:
        path: ends in .npy.
        keys: (w, m) uint64, a key is w words.
        documents: (m,) whose key it is, numbered in their block, ascending.
    """
    order = np.lexsort(keys[::-1])  # which keeps the documents of a key in their order
    table = np.empty((len(keys) + 1, len(order)), np.uint64)
    for row, values in zip(table, [*keys, documents], strict=True):
        row[:] = values[order]
    save_array(path, table)


def ranges(postings: int, at_once: int) -> list[tuple[int, int]]:
    """Cut all keys into ranges of at most at_once postings on average.

    Args:
        postings: how many there are in all files.
        at_once: positive.

    >>> ranges(300, at_once=150) == [(0, 2**63), (2**63, 2**64)]
    True
    """
    count = max(1, -(-postings // at_once))
    bounds = [2**64 * i // count for i in range(count + 1)]
    return list(pairwise(bounds))


def groups_in(paths: Sequence[Path], offsets: Sequence[int], bounds: tuple[int, int]) -> Array:
    """Group the documents whose keys start in a range, over all files.

    Args:
        paths: of write_postings.
        offsets: number of the first document of each of these blocks.
        bounds: first words from here, up to below there.

    Returns:
        (2, m) int64: number of the group, document; groups of two or more only, ascending.
    """
    parts = [np.empty((2, 0), np.uint64)]
    for path, offset in zip(paths, offsets, strict=True):
        table = np.load(path, mmap_mode="r")  # only the pages of the slice are read
        low, high = 0, table.shape[1]
        if bounds[0]:
            low = int(np.searchsorted(table[0], np.uint64(bounds[0])))
        if bounds[1] < 2**64:
            high = int(np.searchsorted(table[0], np.uint64(bounds[1])))
        part = np.array(table[:, low:high])
        part[-1] += np.uint64(offset)
        parts.append(part)
    rows = max(len(part) for part in parts)
    table = np.concatenate(
        [part for part in parts if len(part) == rows and part.size] or parts[:1], 1
    )
    table = table[:, np.lexsort(table[-2::-1])]  # in each block, and from block to block, ascending
    new = np.ones(table.shape[1], bool)  # the first of its group
    new[1:] = (table[:-1, 1:] != table[:-1, :-1]).any(axis=0)
    twice = np.zeros(len(new), bool)  # one document may have a key in two of its bands
    twice[1:] = ~new[1:] & (table[-1, 1:] == table[-1, :-1])
    group = np.cumsum(new) - 1
    group, document = group[~twice], table[-1, ~twice].astype(np.int64)
    large = np.bincount(group)[group] > 1 if len(group) else group.astype(bool)
    return np.stack([group[large], document[large]])
