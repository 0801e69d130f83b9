"""Who does the work: this process, or the workers of a Dask cluster.

    workers.map(function, jobs)        the results, in the order of the jobs

A job names its input and where its result is written, and `once` writes a result whole or not at
all and never twice. So it does not matter which worker does a job, or whether one that was killed
had begun it: another does it again. All must see the same files, by the same paths.

Paper:    Qwen Technical Report, 2.1 Data: up to 3T tokens, more than one machine can go through.
Origin:   Dask distributed, Rocklin 2015.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from ...backend import Array
from ...extras import require_extra

Job = TypeVar("Job")
Result = TypeVar("Result")
Watch = Callable[
    [str, Iterable[Any], int], Iterable[Any]
]  # (phase, results, how many there will be)
AHEAD = 4  # jobs that wait at the workers, for each thread of theirs


class Workers(Protocol):
    def map(self, function: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
        """Yield function(job) for each job, in their order."""


class OneProcess:
    """Do the jobs here, one after the other."""

    def map(self, function: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
        """Yield function(job) for each job, in their order."""
        return map(function, jobs)


class DaskWorkers:
    """Send the jobs to the workers of a cluster.

    A job of a worker that died goes to another; one that took several workers with it is an error.
    """

    def __init__(self, client: Any) -> None:
        self.client = client

    def map(self, function: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
        """Yield function(job) for each job, in their order; only some are on their way at a time.

        Raises:
            RuntimeError: a job took several workers with it.
            OSError: the scheduler is gone.
            whatever function raises.
        """
        from distributed import KilledWorker

        waiting: deque[Any] = deque()
        jobs = iter(jobs)
        try:
            while True:
                room = AHEAD * max(1, sum(self.client.nthreads().values()))
                for job in jobs:
                    waiting.append(self.client.submit(function, job, pure=False))
                    if len(waiting) >= room:
                        break
                if not waiting:
                    return
                yield waiting.popleft().result()
        except KilledWorker as error:
            raise RuntimeError(f"a job took several workers with it: {error}") from None
        except CancelledError:
            raise OSError("the Dask scheduler is gone; the same command goes on") from None
        finally:
            with suppress(OSError, RuntimeError, CancelledError):  # the client may be closed
                if waiting:
                    self.client.cancel(list(waiting))


@contextmanager
def dask_workers(where: str, processes: int | None = None) -> Iterator[DaskWorkers]:
    """Connect to a cluster, or start one on this machine, until the end of the block.

    Args:
        where: "local", or the address of a scheduler, such as tcp://10.0.0.1:8786.
        processes: of a local cluster, each with one thread; None: one for each core.

    Raises:
        ImportError: dask is missing.
        OSError: nobody answers at the address.
    """
    require_extra("distributed", extra="cluster")
    import distributed

    dask: Any = distributed  # not all of it has types

    if where == "local":
        with _ctrl_c_for_us_alone():
            cluster = dask.LocalCluster(
                n_workers=processes or os.cpu_count() or 1,
                threads_per_worker=1,
                dashboard_address="127.0.0.1:0",  # any free port: 8787 may be taken
                scheduler_kwargs={"dashboard": False},
                silence_logs=logging.ERROR,  # else each worker tells of every job that is cancelled
            )
        with cluster, dask.Client(cluster) as client:
            yield DaskWorkers(client)
    else:
        try:
            client = dask.Client(where, timeout=10)
        except (OSError, ValueError) as error:
            raise OSError(f"no Dask scheduler at {where}: {error}") from None
        with client:
            yield DaskWorkers(client)


@contextmanager
def _ctrl_c_for_us_alone() -> Iterator[None]:
    """Start processes that Ctrl-C does not reach: they are ended by us, without tracebacks.

    They inherit which signals are blocked; threads that will start others later do so too.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # as it starts, it unblocks the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def once(path: Path, write: Callable[[Path], object]) -> Path:
    """Make a file or folder with write(other path), unless it is there already.

    Args:
        path: appears when all of it is written.
        write: makes what will be path at the path that it is given.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{uuid.uuid4().hex}{path.suffix}")  # of this worker only
        try:
            with naming(path):
                write(aside)
            os.replace(aside, path)
        except BaseException as error:
            _remove(aside)
            if not (isinstance(error, OSError) and path.is_dir()):  # another worker was faster
                raise
    return path


def save_whole(path: Path, array: Array) -> None:
    """Write an array to path, in place of what was there, which others may be reading."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{uuid.uuid4().hex}{path.suffix}")
    with naming(path):
        save_array(aside, array)
    os.replace(aside, path)


def save_array(path: Path, array: Array) -> None:
    """Write a file like np.save, which does not tell that the disk is full."""
    array = np.ascontiguousarray(array)
    with path.open("wb") as stream:
        header = np.lib.format.header_data_from_array_1_0(array)
        np.lib.format.write_array_header_1_0(stream, header)
        stream.write(array.data)


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Put the path into an error of the disk that names none: "no space left", but where?

    >>> with naming("out/a.npy"):
    ...     raise OSError(28, "No space left on device")
    Traceback (most recent call last):
    ...
    OSError: [Errno 28] No space left on device: 'out/a.npy'
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
