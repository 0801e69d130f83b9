"""A run that is killed anywhere and resumed equals one that is not."""

import contextlib
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from training import small_run
from training.small_run import assert_same_run, run

from minqwen.model import atomic_folder
from minqwen.training import pretrain, run_folder
from minqwen.training.metrics import Metrics
from minqwen.training.run_folder import locked

SHORT = {"steps": 3, "checkpoint_every": 2, "eval_every": 1, "warmup_steps": 1}


class KilledError(BaseException):
    """Stands for the end of the process: nothing may catch it and carry on."""


class Death:
    """Let the process die at the k-th call of anything that changes the disk.

    The fatal call does half of its work first, and every later one fails too.
    """

    def __init__(self, monkeypatch, k):
        self.calls, self.k = 0, k
        for owner, name, half in (
            (os, "replace", None),
            (os, "fsync", None),
            (pathlib.Path, "mkdir", None),
            (pathlib.Path, "unlink", None),
            (pathlib.Path, "write_text", self._half_a_text),
            (shutil, "rmtree", self._half_a_folder),
            (np, "savez", self._half_an_archive),
            (run_folder, "write_checkpoint", self._half_a_checkpoint),
        ):
            monkeypatch.setattr(owner, name, self._deadly(getattr(owner, name), half))

    def _deadly(self, real, half):
        def call(*args, **kwargs):
            self.calls += 1
            if self.calls >= self.k:
                if self.calls == self.k and half is not None:
                    with contextlib.suppress(OSError):
                        half(*args)
                raise KilledError
            return real(*args, **kwargs)

        return call

    @staticmethod
    def _half_a_text(path, text, *rest):
        path.write_bytes(text.encode()[: len(text) // 2])

    @staticmethod
    def _half_a_folder(folder, *rest):
        for path in sorted(pathlib.Path(folder).rglob("*"))[:2]:
            os.remove(path)

    @staticmethod
    def _half_an_archive(path, *rest):
        path.write_bytes(b"PK\x03\x04")

    @staticmethod
    def _half_a_checkpoint(folder, *rest):
        (folder / "config.json").write_bytes(b"{")


@pytest.mark.slow
def test_killed_at_every_call_that_changes_the_disk(tmp_path, monkeypatch):
    run(tmp_path / "whole", **SHORT)
    k, deaths = 1, 0
    while True:
        folder = tmp_path / str(k)
        with monkeypatch.context() as patch:
            death = Death(patch, k)
            try:
                run(folder, **SHORT)
            except KilledError:
                deaths += 1
        if death.calls < k:
            break
        run(folder, **SHORT)
        assert_same_run(folder, tmp_path / "whole")
        k += 1
    assert deaths > 30


def test_killed_again_while_it_recovers(tmp_path, monkeypatch):
    """Resumed again and again, each time dying one call later, it gets there in the end."""
    run(tmp_path / "whole", **SHORT)
    for k in range(1, 200):
        try:
            with monkeypatch.context() as patch:
                Death(patch, k)
                run(tmp_path / "run", **SHORT)
            break
        except KilledError:
            pass
    assert k > 10
    run(tmp_path / "run", **SHORT)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
def test_a_process_killed_at_random_moments(tmp_path):
    settings = {"steps": 60, "checkpoint_every": 3, "eval_every": 4}
    command = [sys.executable, small_run.__file__, str(tmp_path / "run"), json.dumps(settings)]
    rng = random.Random(0)
    log = tmp_path / "run" / "metrics.jsonl"
    kills = 0
    for _ in range(6):
        before = log.stat().st_size if log.exists() else 0
        process = subprocess.Popen(
            command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        )
        while process.poll() is None and (not log.exists() or log.stat().st_size <= before):
            time.sleep(0.001)
        time.sleep(rng.random() * 0.1)
        process.kill()
        kills += process.wait() != 0
    assert kills >= 1
    run(tmp_path / "run", **settings)
    run(tmp_path / "whole", **settings)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_full_disk_is_said_so_and_the_last_checkpoint_stands(tmp_path, monkeypatch, name):
    real, calls = getattr(os, name), []

    def full(*args):
        calls.append(args)
        if len(calls) == 13 or (len(calls) > 13 and name == "fsync"):
            raise OSError(28, "No space left on device")
        return real(*args)

    monkeypatch.setattr(os, name, full)
    with pytest.raises(
        OSError, match=r"cannot write a checkpoint into .*last one stands: No space"
    ) as error:
        run(tmp_path / "run", steps=20)
    assert error.value.errno == 28
    monkeypatch.undo()
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "checkpoint",
        "metrics.jsonl",
    ]
    run(tmp_path / "run", steps=20)
    run(tmp_path / "whole", steps=20)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_everything_is_on_the_disk_before_the_first_rename(tmp_path, monkeypatch):
    events = []

    def recorded(owner, name):
        real = getattr(owner, name)

        def record(*args):
            events.append((f"{owner.__name__.split('.')[-1]}.{name}", getattr(args[0], "name", "")))
            return real(*args)

        monkeypatch.setattr(owner, name, record)

    for owner, name in (
        (Metrics, "sync"),
        (pretrain, "save_run"),
        (atomic_folder, "force_to_disk"),
        (os, "replace"),
    ):
        recorded(owner, name)
    run(tmp_path, steps=2)
    saves = [i for i, (event, _) in enumerate(events) if event == "pretrain.save_run"]
    assert len(saves) == 2
    files = {path.name for path in (tmp_path / "checkpoint").iterdir()}
    assert {"config.json", "state.npz", "training.json"} < files
    for i in saves:
        assert events[i - 1][0] == "Metrics.sync"  # the checkpoint counts on them
        synced = set()
        for event, name in events[i + 1 :]:
            if event == "os.replace":
                break
            assert event == "atomic_folder.force_to_disk"
            synced.add(name.split(".new.")[0])
        assert files | {".checkpoint"} == synced


@pytest.mark.parametrize("name", ["metrics.jsonl", "loss.png"])
def test_files_of_somebody_else_are_not_overwritten(tmp_path, name):
    (tmp_path / name).write_text("my own log", encoding="utf-8")
    with pytest.raises(FileExistsError, match=f"{name} is not of a run"):
        run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text(encoding="utf-8") == "my own log"


def test_a_folder_in_which_another_process_trains_is_refused_until_it_dies(tmp_path):
    pytest.importorskip("fcntl")
    command = [
        sys.executable,
        "-c",
        "import pathlib, sys, time\n"
        "from minqwen.training.run_folder import locked\n"
        "with locked(pathlib.Path(sys.argv[1])):\n"
        "    print(flush=True)\n"
        "    time.sleep(60)\n",
        str(tmp_path),
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        (tmp_path / ".checkpoint.new.1").mkdir()  # it writes a checkpoint
        with pytest.raises(OSError, match="another process works in this folder"):
            run(tmp_path)
        assert (tmp_path / ".checkpoint.new.1").exists()
        process.kill()
        process.wait()
        run(tmp_path)
    with locked(tmp_path):  # the run has let go
        pass


def test_a_disk_without_locks_is_used_all_the_same(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def refuse(number, how):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    run(tmp_path / "a")
    monkeypatch.setitem(sys.modules, "fcntl", None)
    run(tmp_path / "b")
    assert_same_run(tmp_path / "a", tmp_path / "b")
