"""Walk over an array in flat pieces that stay in the processor's cache.

A chain of a dozen element-wise operations on a large array reads and writes main memory a dozen
times. On pieces of 2**16 numbers, the same chain reads and writes it once.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..backend import Array

BLOCK = 2**16  # 256 KiB of float32: several of them fit into the second-level cache


def flat_blocks(*arrays: Array) -> Iterator[tuple[Array, ...]]:
    """Yield the arrays piece by piece, the same piece of each, flattened.

    Pieces of C-contiguous arrays are views, so writing to them writes to the array; of others
    they are copies. An array on a GPU is one piece: there every operation costs a launch.

    >>> [tuple(a.tolist() for a in piece) for piece in flat_blocks(np.ones((1, 2)), np.zeros(2))]
    [([1.0, 1.0], [0.0, 0.0])]
    """
    flat = [array.reshape(-1) for array in arrays]
    size = flat[0].size
    block = BLOCK if isinstance(flat[0], np.ndarray) else max(size, 1)
    for start in range(0, size, block):
        yield tuple(array[start : start + block] for array in flat)
