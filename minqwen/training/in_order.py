"""Several Python threads in one process, with the results of one thread, bit for bit.

NumPy lets go of the interpreter's lock while it computes, so two threads keep two cores busy. The
results are handed out in the order of the items, whichever was ready first: who adds them adds in
the same order as one thread would, and a sum in the same order is rounded in the same way.

Worth it where the BLAS has one thread of its own (OPENBLAS_NUM_THREADS=1): each piece of a batch
then has a core. Small operations hold the lock nearly all the time and gain nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    compute: Callable[[Item], Result], items: Sequence[Item], threads: int
) -> Iterator[Result]:
    """Yield compute(item) for every item, in their order, `threads` of them at a time.

    No more than `threads` results are held at once. An error in one of them is raised here, when
    those at work beside it have ended.

    Args:
        compute: changes nothing that another call reads.
        items: to compute.
        threads: 1 = here, without threads.

    >>> list(in_order(abs, [-3, 2, -1], threads=2))
    [3, 2, 1]
    """
    if threads == 1:
        yield from map(compute, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(items), threads):
            # each with what is set for this thread only, such as np.errstate
            jobs = [
                pool.submit(copy_context().run, compute, item)
                for item in items[start : start + threads]
            ]
            while jobs:
                yield jobs.pop(0).result()
