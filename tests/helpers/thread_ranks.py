"""Several ranks in one process, as threads: what MPI does, without MPI."""

import copy
import threading

import numpy as np

SECONDS = 20  # then whoever waits for a rank that does not come gets a BrokenBarrierError


class ThreadRank:
    """A communicator; those of one job share the slots and the barrier."""

    def __init__(self, rank, slots, barrier, calls):
        self.rank, self.size = rank, len(slots)
        self._slots, self._barrier, self.calls = slots, barrier, calls

    def _exchange(self, value):
        self._slots[self.rank] = copy.deepcopy(value)  # as if sent
        self._barrier.wait()
        found = list(self._slots)
        self._barrier.wait()
        return found

    def allreduce(self, x, how="sum"):
        assert isinstance(x, np.ndarray)
        assert x.dtype.kind == "f"
        self.calls.append((how, x.size, x.dtype))
        found = self._exchange(x)
        assert len({(each.shape, each.dtype) for each in found}) == 1, "ranks sent other shapes"
        total = found[0].copy()
        for each in found[1:]:
            total = total + each if how == "sum" else np.maximum(total, each)
        return total

    def broadcast(self, value):
        return copy.deepcopy(self._exchange(value if self.rank == 0 else None)[0])

    def barrier(self):
        self._barrier.wait()

    def abort(self):
        self.calls.append(("abort",))
        self._barrier.abort()


def run_ranks(size, work):
    """Call work(communicator) in `size` threads; return what each returned or raised, and calls."""
    slots, barrier = [None] * size, threading.Barrier(size, timeout=SECONDS)
    ranks = [ThreadRank(rank, slots, barrier, []) for rank in range(size)]
    results = [None] * size

    def one(rank):
        try:
            results[rank.rank] = work(rank)
        except BaseException as error:  # also SystemExit
            results[rank.rank] = error

    threads = [threading.Thread(target=one, args=(rank,)) for rank in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results, [rank.calls for rank in ranks]


def raised(results):
    """The errors among the results, as text."""
    return [type(r).__name__ for r in results if isinstance(r, BaseException)]
