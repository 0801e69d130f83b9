"""A pass that is stopped anywhere goes on to the same folder, and a folder of another is left."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.document_files import (
    SETTINGS,
    all_of,
    corpus,
    everything,
    require_nothing_lost,
    write_files,
)

from minqwen.data.streaming import dedup_files as file
from minqwen.data.streaming import dedup_groups, dedup_sketch, postings, stream_dedup, workers
from minqwen.data.streaming.dedup_files import dedup_files
from minqwen.data.streaming.workers import OneProcess

SAVERS = [workers, postings, dedup_sketch, dedup_groups]


class Stop(BaseException):
    """What a signal does to a process."""


def run(folder, out="out", settings=SETTINGS, block_bytes=2000):
    paths, out = [folder / "in"], folder / out
    return dedup_files(paths, out, settings, OneProcess(), all_of, block_bytes)


@pytest.fixture
def whole(tmp_path):
    """A folder `in` and what one pass without a stop makes of it."""
    write_files(tmp_path / "in", corpus(4, seed=0))
    run(tmp_path, "whole")
    found = everything(tmp_path / "whole")
    require_nothing_lost(tmp_path / "in", tmp_path / "whole")
    assert not any("/." in f"/{name}" for name in found), "left over"
    return found


def stopping(patch, owner, name, at, how):
    """Make the call number `at` of a function raise Stop: before, after, or with half of it done.

    Args:
        owner: who has it under this name; or several, that have the same.

    Returns:
        A list that grows with each call.
    """
    owners = owner if isinstance(owner, list) else [owner]
    original, calls = getattr(owners[0], name), []

    def call(*args, **kwargs):
        calls.append(args)
        if len(calls) - 1 != at:
            return original(*args, **kwargs)
        if how != "before":
            original(*args, **kwargs)
        if how == "half":
            target = Path(args[0])
            target.write_bytes(target.read_bytes()[: target.stat().st_size // 2])
        raise Stop

    for one in owners:
        patch.setattr(one, name, call)
    return calls


@pytest.mark.parametrize(
    ("owner", "name", "how", "least"),
    [
        (os, "replace", "before", 15),
        pytest.param(os, "replace", "after", 15, marks=pytest.mark.slow),
        pytest.param(SAVERS, "save_array", "half", 12, marks=pytest.mark.slow),
        (Path, "write_text", "half", 4),
        (file, "write_deduplicated", "before", 2),
        (stream_dedup, "compare_pairs", "after", 1),
        (shutil, "rmtree", "before", 1),
    ],
)
def test_stopped_at_any_moment_it_goes_on_to_the_same_folder(
    tmp_path, whole, monkeypatch, owner, name, how, least
):
    """As a killed process does, it leaves what it had begun; after each stop it runs to the end."""
    monkeypatch.setattr(workers, "_remove", lambda path: None)
    for at in range(1000):
        out = tmp_path / f"out{at}"
        with monkeypatch.context() as patch:
            stopping(patch, owner, name, at, how)
            try:
                run(tmp_path, out.name)
                break  # it had fewer calls
            except Stop:
                pass
        for path, data in everything(out).items():
            if not path.startswith(".work"):
                assert data == whole[path], "half written"
        run(tmp_path, out.name)
        assert everything(out) == whole
        shutil.rmtree(out)
    assert at >= least
    assert everything(out) == whole


def test_only_files_that_are_to_be_cut_are_jobs(tmp_path):
    """To send a job takes a worker longer than to read a small file."""
    write_files(tmp_path / "in", corpus(15, seed=0))
    sent = []

    class Counting(OneProcess):
        def map(self, function, jobs):
            jobs = list(jobs)
            sent.append(jobs)
            return map(function, jobs)

    workers = Counting()
    dedup_files([tmp_path / "in"], tmp_path / "out", SETTINGS, workers, all_of, block_bytes=2000)
    assert [Path(file.name).name for file in sent[0]] == ["a.jsonl", "e.jsonl"]
    sent.clear()
    dedup_files([tmp_path / "in"], tmp_path / "one", SETTINGS, workers, all_of, block_bytes=10**9)
    assert sent[0] == []


def test_stopped_again_and_again_it_ends(tmp_path, whole, monkeypatch):
    stops = 0
    while stops < 100:
        with monkeypatch.context() as patch:
            stopping(patch, os, "replace", 12, "before")  # each begins with some that are repeated
            try:
                run(tmp_path)
                break
            except Stop:
                stops += 1
    assert 2 <= stops < 100
    assert everything(tmp_path / "out") == whole


def test_what_was_done_is_not_done_again(tmp_path, whole, monkeypatch):
    with monkeypatch.context() as patch:
        stopping(patch, file, "write_deduplicated", 1, "after")
        with pytest.raises(Stop):
            run(tmp_path)
    blocks = []
    monkeypatch.setattr(file, "write_block", lambda folder, **_: blocks.append(folder.mkdir()))
    with pytest.raises(FileNotFoundError, match=r"dropped\.jsonl"):
        run(tmp_path)  # the new blocks are empty folders
    plan = json.loads((tmp_path / "out/.work/plan.json").read_text("utf-8"))
    assert len(blocks) == len(plan["blocks"]) - 2


def test_a_pass_that_is_done_gives_its_report_again(tmp_path, whole, monkeypatch):
    report = run(tmp_path)
    monkeypatch.setattr(file, "find_clusters", None)
    assert run(tmp_path) == report
    assert run(tmp_path, block_bytes=77) == report
    (tmp_path / "out/.work/x").mkdir(parents=True)  # stopped while it cleared up
    assert run(tmp_path) == report
    assert everything(tmp_path / "out") == whole


def add(folder):
    (folder / "in/new.txt").write_text("new", encoding="utf-8")


def touch(folder):
    os.utime(folder / "in/a.jsonl", ns=(1, 1))


def remove(folder):
    (folder / "in/a.jsonl").unlink()


@pytest.mark.parametrize("done", [True, False])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (add, r"in/new.txt was changed since the pass in .*out began"),
        (touch, "in/a.jsonl was changed since"),
        (remove, "in/a.jsonl was changed since"),
        ({"threshold": 0.8}, r"has threshold = 0.7, not 0.8: use the same value, or another --out"),
        ({"near": False}, "has near = True, not False"),
    ],
)
def test_other_input_or_settings_are_refused(tmp_path, monkeypatch, done, change, message):
    write_files(tmp_path / "in", corpus(4, seed=0))
    if done:
        run(tmp_path)
    else:
        with monkeypatch.context() as patch:
            stopping(patch, os, "replace", 5, "after")
            with pytest.raises(Stop):
                run(tmp_path)
    settings = SETTINGS._replace(**change) if isinstance(change, dict) else SETTINGS
    if settings is SETTINGS:
        change(tmp_path)
    before = everything(tmp_path / "out")
    with pytest.raises(ValueError, match=message):
        run(tmp_path, settings=settings)
    assert everything(tmp_path / "out") == before


def test_files_in_another_order_are_refused(tmp_path):
    """The first of copies stays, so the order is part of the question."""
    for name in "ab":
        (tmp_path / name).write_text("same", encoding="utf-8")
    paths, out = [tmp_path / "a", tmp_path / "b"], tmp_path / "out"
    dedup_files(paths, out, SETTINGS, OneProcess(), all_of)
    with pytest.raises(ValueError, match="files in another order"):
        dedup_files(paths[::-1], out, SETTINGS, OneProcess(), all_of)


def test_a_change_in_mid_run_is_noticed(tmp_path, monkeypatch):
    write_files(tmp_path / "in", corpus(4, seed=0))
    find = file.find_clusters
    monkeypatch.setattr(file, "find_clusters", lambda *a: (find(*a), touch(tmp_path))[0])
    with pytest.raises(ValueError, match=r"a.jsonl was changed since it was found"):
        run(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "error", "message"),
    [
        ("x.txt", "mine", FileExistsError, "holds something else: choose another folder"),
        (".work/mine.txt", "mine", FileExistsError, "holds something else"),
        (".work", "mine", FileExistsError, "holds something else"),
        ("report.json", "mine", FileExistsError, r"report.json is of something else"),
        ("report.json", '{"a":1}', FileExistsError, r"report.json is of something else"),
        ("report.json", "[]", FileExistsError, r"report.json is of something else"),
        ("report.json", '{"kind":"minqwen filter"}', ValueError, r"is of 'minqwen filter', not"),
        (".work/plan.json", '{"kind":"minqwen filter"}', ValueError, r"is of 'minqwen filter'"),
        (".work/plan.json", '{"kind":"minqwen dedup","version":0}', ValueError, "is of 0, not 1"),
    ],
)
def test_folders_of_others_are_left_alone(tmp_path, name, text, error, message):
    write_files(tmp_path / "in", ["a"] * 12)
    (tmp_path / "out" / name).parent.mkdir(parents=True)
    (tmp_path / "out" / name).write_text(text, encoding="utf-8")
    before = everything(tmp_path / "out")
    with pytest.raises(error, match=message):
        run(tmp_path)
    assert everything(tmp_path / "out") == before


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from helpers.document_files import SETTINGS, all_of
from minqwen.data.streaming.dedup_files import dedup_files
from minqwen.data.streaming.workers import OneProcess
print("begins", flush=True)
dedup_files([Path("in")], Path("out"), SETTINGS, OneProcess(), all_of, block_bytes=3000)
"""


@pytest.mark.slow
def test_killed_at_random_moments_nothing_is_lost(tmp_path):
    write_files(tmp_path / "in", corpus(40, seed=1))
    run(tmp_path, "whole", block_bytes=3000)
    want, rng, kills = everything(tmp_path / "whole"), random.Random(0), 0
    tests = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(tests.parent)}
    while True:
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT.format(tests=str(tests))],
            cwd=tmp_path, env=environment, stdout=subprocess.PIPE,
        )  # fmt: skip
        with process:
            assert process.stdout.readline() == b"begins\n"
            time.sleep(rng.uniform(0, 0.03 * 1.3**kills))  # the longer, the more was killed
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
        kills += 1
    assert kills >= 3
    assert everything(tmp_path / "out") == want
    require_nothing_lost(tmp_path / "in", tmp_path / "out")
