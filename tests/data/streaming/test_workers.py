"""Dask workers do what one process does, and lose nothing when they are killed."""

import os
import signal
import time
from pathlib import Path

import pytest
from helpers.document_files import SETTINGS, all_of, corpus, everything, write_files

from minqwen.data.streaming import workers
from minqwen.data.streaming.dedup_files import dedup_files
from minqwen.data.streaming.workers import (
    OneProcess,
    dask_workers,
    naming,
    once,
    save_array,
    save_whole,
)


def test_one_process_is_map():
    begun = []
    results = OneProcess().map(lambda job: begun.append(job) or -job, iter(range(3)))
    assert begun == []  # one after the other, when they are asked for
    assert (next(results), begun) == (0, [0])
    assert list(results) == [-1, -2]


def test_once_writes_once_and_leaves_nothing_when_it_fails(tmp_path):
    path = tmp_path / "a" / "b.txt"
    assert once(path, lambda aside: aside.write_text("1", encoding="utf-8")) == path
    assert (
        once(path, lambda aside: aside.write_text("2", encoding="utf-8")).read_text(
            encoding="utf-8"
        )
        == "1"
    )
    for name in ("file", "folder"):
        target = tmp_path / name

        def fail(aside, name=name):
            aside.mkdir() if name == "folder" else aside.write_text("half", encoding="utf-8")
            raise OSError(28, "No space left on device")

        with pytest.raises(OSError, match="No space"):
            once(target, fail)
    assert set(everything(tmp_path)) == {"a", "a/b.txt"}


@pytest.mark.parametrize("folder", [True, False])
def test_two_may_do_the_same_job_at_the_same_time(tmp_path, folder):
    def write(aside, text="mine", other=True):
        if other:  # another worker is faster
            once(tmp_path / "x", lambda path: write(path, "theirs", False))
        if folder:
            aside.mkdir()
            aside = aside / "file"
        aside.write_text(text, encoding="utf-8")

    once(tmp_path / "x", write)
    found = everything(tmp_path)
    assert found == ({"x": None, "x/file": b"theirs"} if folder else {"x": b"mine"})


def test_save_whole_replaces_under_a_reader(tmp_path):
    import numpy as np

    path = tmp_path / "x.npy"
    save_whole(path, np.zeros(1000))
    before = np.load(path, mmap_mode="r")
    save_whole(path, np.ones(2))
    assert before.sum() == 0
    assert np.load(path).sum() == 2
    assert [p.name for p in tmp_path.iterdir()] == ["x.npy"]


def test_arrays_are_written_as_numpy_writes_them(tmp_path):
    import numpy as np

    square = np.arange(6, dtype=np.uint64).reshape(2, 3)
    for array in (np.zeros(0), np.arange(5) > 2, square, square.T, square[:, ::2], square[:0]):
        save_array(tmp_path / "x.npy", array)
        np.save(tmp_path / "y.npy", np.ascontiguousarray(array))
        assert (tmp_path / "x.npy").read_bytes() == (tmp_path / "y.npy").read_bytes()
        np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), array)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has this file")
def test_a_full_disk_is_told_with_a_path(tmp_path, monkeypatch):
    """np.save says "80000 requested and 4096 written", and other writing names no file."""
    import numpy as np

    full = Path("/dev/full")
    writers = [
        lambda aside: save_array(full, np.zeros(10_000)),
        lambda aside: full.write_text("x" * 10_000, encoding="utf-8"),
    ]
    for write in writers:
        with pytest.raises(OSError, match=r"No space left on device: '.*/x\.npy'") as found:
            once(tmp_path / "x.npy", write)
        assert found.value.errno == 28
    monkeypatch.setattr(workers, "save_array", lambda path, array: writers[1](path))
    with pytest.raises(OSError, match=r"No space left on device: '.*/x\.npy'"):
        save_whole(tmp_path / "x.npy", np.zeros(3))


def test_errors_that_name_a_file_or_are_ours_stay_as_they_are(tmp_path):
    for error in (FileNotFoundError(2, "No such file", "theirs"), FileExistsError("another --out")):
        with pytest.raises(type(error)) as found, naming("ours"):
            raise error
        assert found.value is error


def test_without_dask_the_line_for_pip_is_told(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    with pytest.raises(ImportError, match=r"pip install 'minqwen\[cluster\]'"), dask_workers("x"):
        pass


def children():
    """Return the processes that came from this one and are not dead, by their command."""
    psutil = pytest.importorskip("psutil")
    alive = []
    for child in psutil.Process().children(recursive=True):
        try:
            if child.status() != psutil.STATUS_ZOMBIE and "resource_tracker" not in str(
                child.cmdline()
            ):
                alive.append(child)
        except psutil.NoSuchProcess:
            continue
    return alive


@pytest.fixture(scope="module")
def cluster():
    """Start two workers, once for all these tests, and see that none is left over."""
    pytest.importorskip("distributed")
    with dask_workers("local", 2) as found:
        yield found
    deadline = time.monotonic() + 20
    while children() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert children() == []


def run(folder, out, workers):
    return dedup_files([folder / "in"], folder / out, SETTINGS, workers, all_of, block_bytes=1500)


def number_and_process(job):
    return job, os.getpid()


def die_once(job):
    """Kill the worker in the middle of job 3, the first time; all jobs write a file once."""
    path, number = job
    marker = Path(path) / "died"
    if number == 3 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    once(
        Path(path) / f"{number}.txt", lambda aside: aside.write_text(str(number), encoding="utf-8")
    )
    return number


def die(job):
    os.kill(os.getpid(), signal.SIGKILL)


def fail(job):
    raise FileNotFoundError(2, "No such file or directory", f"input {job}")


@pytest.mark.slow
def test_results_come_in_the_order_of_the_jobs(cluster):
    found = list(cluster.map(number_and_process, iter(range(50))))
    assert [job for job, _ in found] == list(range(50))
    assert os.getpid() not in {process for _, process in found}
    assert len({process for _, process in found}) == 2
    assert list(cluster.map(number_and_process, [])) == []


@pytest.mark.slow
def test_errors_of_jobs_come_through(cluster):
    with pytest.raises(FileNotFoundError, match="input 0"):
        list(cluster.map(fail, range(30)))
    assert list(cluster.map(abs, [-1])) == [1]  # and the cluster goes on


@pytest.mark.slow
def test_the_folder_is_the_same_byte_for_byte(cluster, tmp_path):
    for seed in (0, 1):  # the second time under the same name: nothing is remembered
        folder = tmp_path / "x"
        folder.mkdir()
        write_files(folder / "in", corpus(15, seed))
        report = run(folder, "one", OneProcess())
        assert run(folder, "dask", cluster) == report
        assert everything(folder / "dask") == everything(folder / "one")
        folder.rename(tmp_path / f"x{seed}")


@pytest.mark.slow
def test_a_worker_that_is_killed_loses_nothing(cluster, tmp_path):
    jobs = [(str(tmp_path), number) for number in range(12)]
    assert list(cluster.map(die_once, jobs)) == list(range(12))
    assert (tmp_path / "died").exists()
    names = {f"{number}.txt" for number in range(12)} | {"died"}
    assert set(everything(tmp_path)) == names


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["sketch", "group bands", "write"])
def test_killed_in_mid_run_the_folder_is_the_same(cluster, tmp_path, phase):
    write_files(tmp_path / "in", corpus(15, seed=2))
    run(tmp_path, "one", OneProcess())
    killed = []

    def kill_in(name, results, total):
        for number, result in enumerate(results):
            if name == phase and number == 0 and not killed:
                killed.append(cluster.client.run(os.getpid))
                os.kill(next(iter(killed[0].values())), signal.SIGKILL)
            yield result

    dedup_files([tmp_path / "in"], tmp_path / "dask", SETTINGS, cluster, kill_in, block_bytes=1500)
    assert killed
    assert everything(tmp_path / "dask") == everything(tmp_path / "one")


@pytest.mark.slow
def test_a_job_that_kills_every_worker_is_an_error(cluster):
    with pytest.raises(RuntimeError, match="a job took several workers with it"):
        list(cluster.map(die, [1]))
    assert list(cluster.map(abs, [-1])) == [1]


@pytest.mark.slow
@pytest.mark.parametrize("where", ["tcp://127.0.0.1:9", "nonsense://x", "127.0.0.1:9"])
def test_an_address_that_nobody_answers_is_an_error_of_one_line(where, monkeypatch):
    distributed = pytest.importorskip("distributed")
    client = distributed.Client
    monkeypatch.setattr(distributed, "Client", lambda *a, timeout: client(*a, timeout=1))
    with (
        pytest.raises(OSError, match=f"no Dask scheduler at {where}") as found,
        dask_workers(where),
    ):
        pass
    assert "\n" not in str(found.value)


@pytest.mark.slow
def test_a_scheduler_that_is_lost_is_an_error():
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": False}, silence_logs=50,
        ) as local,
        dask_workers(local.scheduler_address) as workers,
    ):  # fmt: skip
        results = workers.map(time.sleep, [0.01] * 1000)
        next(results)
        local.close()
        with pytest.raises(OSError, match=r"scheduler is gone|Timed out trying to connect"):
            list(results)
