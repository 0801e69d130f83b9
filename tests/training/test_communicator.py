"""Who is in the job: found from what mpirun says and from mpi4py, and never two runs by mistake."""

import sys
import types

import numpy as np
import pytest
from helpers.commands import error_of, tiny_run, write_story

from minqwen.training import communicator as module
from minqwen.training.communicator import (
    ALONE,
    SIZE_VARIABLES,
    MpiProcess,
    find_communicator,
    launched_size,
)


class World:
    """An MPI.COMM_WORLD in which this process is number 1 of `size`, and number 0 had ones."""

    def __init__(self, size):
        self.size, self.said = size, []

    def Get_rank(self):
        return 1

    def Get_size(self):
        return self.size

    def Allreduce(self, x, total, op):
        assert x.flags.c_contiguous
        total[...] = x + 1 if op == "sum" else np.maximum(x, 1)

    def bcast(self, value, root):
        assert value is None  # what is not sent need not be pickled
        assert root == 0
        return "of process 0"

    def Barrier(self):
        self.said.append("barrier")

    def Abort(self, code):
        self.said.append(code)


def install_mpi(monkeypatch, size):
    mpi = types.ModuleType("mpi4py.MPI")
    mpi.COMM_WORLD, mpi.SUM, mpi.MAX = World(size), "sum", "max"
    mpi.Get_library_version = lambda: "Open MPI v5.0, built by somebody\nmore\0"
    package = types.ModuleType("mpi4py")
    package.MPI = mpi
    monkeypatch.setitem(sys.modules, "mpi4py", package)
    monkeypatch.setitem(sys.modules, "mpi4py.MPI", mpi)
    return mpi.COMM_WORLD


@pytest.fixture(autouse=True)
def no_mpirun(monkeypatch):
    for name in SIZE_VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_without_mpirun_a_process_is_alone_and_mpi_is_not_asked(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    assert find_communicator() is ALONE
    monkeypatch.setenv("PMI_SIZE", "1")
    assert find_communicator() is ALONE
    x = np.arange(3.0)
    assert ALONE.allreduce(x) is x
    assert ALONE.broadcast(x) is x
    ALONE.barrier()
    ALONE.abort()


@pytest.mark.parametrize("name", SIZE_VARIABLES)
def test_two_processes_without_mpi4py_are_an_error_before_any_work(
    tmp_path, monkeypatch, capsys, name
):
    monkeypatch.setenv(name, "2")
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    words = tiny_run(write_story(tmp_path), tmp_path / "run", "--quiet")
    assert "mpi4py is missing: pip install 'minqwen[cluster]'" in error_of(capsys, *words)
    assert not (tmp_path / "run").exists()


def test_the_mpirun_of_another_library_is_an_error(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PMI_SIZE", "3")
    install_mpi(monkeypatch, 1)
    words = tiny_run(write_story(tmp_path), tmp_path / "run", "--quiet")
    error = error_of(capsys, *words)
    assert "mpirun started 3 processes, but mpi4py sees 1" in error
    assert "Open MPI v5.0, built by somebody, so use" in error
    assert not (tmp_path / "run").exists()


def test_words_of_an_environment_that_are_no_number_count_for_nothing():
    assert launched_size({"PMI_SIZE": "many", "OMPI_COMM_WORLD_SIZE": "3"}) == 3
    assert launched_size({"PMI_SIZE": "-2"}) == 1


def test_the_calls_of_mpi(monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    world = install_mpi(monkeypatch, 2)
    found = find_communicator()
    assert isinstance(found, MpiProcess)
    assert (found.rank, found.size) == (1, 2)
    x = np.arange(6, dtype=np.float32).reshape(2, 3).T
    total = found.allreduce(x)
    np.testing.assert_array_equal(total, x + 1)
    assert total.dtype == np.float32
    np.testing.assert_array_equal(x, np.arange(6).reshape(2, 3).T)
    np.testing.assert_array_equal(found.allreduce(x, "max"), np.maximum(x, 1))
    assert found.broadcast(object()) == "of process 0"
    found.barrier()
    at_exit = []
    monkeypatch.setattr(module.atexit, "register", lambda *call: at_exit.append(call))
    found.abort()
    assert world.said == ["barrier"]  # first the last words, then the end
    ((function, *args),) = at_exit
    function(*args)
    assert world.said == ["barrier", 1]
