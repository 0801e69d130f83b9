"""The processes of one job, and how they speak: all sum, the first tells all, all wait.

    mpirun -n 4 minqwen pretrain ...        four processes, ranks 0 to 3, by MPI

MPI is the standard for this on clusters, mpi4py its Python side, mpirun what starts the processes.
Every operation here is collective: each process must call it, in the same order, and gets the
answer when all have. One that does not come lets the others wait for ever, so a process that
cannot go on must end the job; see together.py.

Origin:   MPI: A Message-Passing Interface Standard 4.1, MPI Forum 2023, chapter 6, Collective
          Communication.
"""

from __future__ import annotations

import atexit
import importlib
import os
from collections.abc import Mapping
from typing import Any, Literal, Protocol

import numpy as np

from ..backend import Array
from ..extras import require_extra

# how many processes were started, as Open MPI, MPICH and Intel MPI, MVAPICH tell each of them
SIZE_VARIABLES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")


class Communicator(Protocol):
    """What data-parallel training needs of a library such as MPI."""

    @property
    def rank(self) -> int:
        """Number of this process, 0 for the first."""

    @property
    def size(self) -> int:
        """How many processes there are."""

    def allreduce(self, x: Array, how: Literal["sum", "max"] = "sum") -> Array:
        """Return the sum, or the largest, of the x of all processes, element by element.

        Args:
            x: (any shape) float, on the host; the same shape and dtype everywhere.
            how: sum or max.
        """

    def broadcast(self, value: Any) -> Any:
        """Return the value of process 0; what the others give does not matter."""

    def barrier(self) -> None:
        """Wait until every process is here."""

    def abort(self) -> None:
        """End all processes as soon as this one ends; it may print why first."""


class OneProcess:
    """The communicator of a process that is alone.

    >>> OneProcess().allreduce(np.array([1.0]))
    array([1.])
    """

    rank, size = 0, 1

    def allreduce(self, x: Array, how: Literal["sum", "max"] = "sum") -> Array:
        """Return x."""
        return x

    def broadcast(self, value: Any) -> Any:
        """Return the value."""
        return value

    def barrier(self) -> None:
        """Wait for nobody."""

    def abort(self) -> None:
        """Do nothing: this process is the job."""


ALONE = OneProcess()


class MpiProcess:
    """A process that mpirun started.

    Args:
        mpi: the module mpi4py.MPI.
        world: a communicator of it, MPI.COMM_WORLD.
    """

    def __init__(self, mpi: Any, world: Any) -> None:
        self._mpi, self._world = mpi, world
        self.rank, self.size = int(world.Get_rank()), int(world.Get_size())

    def allreduce(self, x: Array, how: Literal["sum", "max"] = "sum") -> Array:
        """Return the sum, or the largest, of the x of all processes."""
        x = np.ascontiguousarray(x)
        total = np.empty_like(x)
        self._world.Allreduce(x, total, op=self._mpi.SUM if how == "sum" else self._mpi.MAX)
        return total

    def broadcast(self, value: Any) -> Any:
        """Return the value of process 0, which pickle has to know."""
        return self._world.bcast(value if self.rank == 0 else None, root=0)

    def barrier(self) -> None:
        """Wait until every process is here."""
        self._world.Barrier()

    def abort(self) -> None:
        """End the job at the end of this process, after its last words."""
        atexit.register(self._world.Abort, 1)


def launched_size(environment: Mapping[str, str]) -> int:
    """Return how many processes a launcher of MPI says that it started; 1 without one.

    >>> launched_size({"PMI_SIZE": "4"}), launched_size({})
    (4, 1)
    """
    sizes = [environment.get(name, "") for name in SIZE_VARIABLES]
    return max([1, *(int(size) for size in sizes if size.isdecimal())])


def find_communicator() -> Communicator:
    """Return the communicator of all processes that mpirun started, or ALONE without mpirun.

    Raises:
        ImportError: mpirun started several processes, and mpi4py is missing. They would be several
            runs of one kind, each on its own.
        RuntimeError: mpi4py does not see the others: it belongs to another library than mpirun.
    """
    size = launched_size(os.environ)
    if size == 1:
        return ALONE
    require_extra("mpi4py", extra="cluster")
    mpi = importlib.import_module("mpi4py.MPI")
    found = MpiProcess(mpi, mpi.COMM_WORLD)
    if found.size != size:
        library = mpi.Get_library_version().splitlines()[0].strip("\0 ")
        raise RuntimeError(
            f"mpirun started {size} processes, but mpi4py sees {found.size}: mpi4py works with "
            f"{library}, so use the mpirun of that library"
        )
    return found
