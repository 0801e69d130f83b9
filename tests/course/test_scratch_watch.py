"""A folder is bounded while it is in use, and gone after it."""

import os
import sys
import time

import pytest

from minqwen.course import scratch_watch
from minqwen.course.scratch_watch import empty, grading_folder, too_full, watched


def test_the_folder_is_gone_after_an_error_too():
    with pytest.raises(KeyError), grading_folder() as folder:
        raise KeyError
    assert not folder.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="no such modes, and shorter paths")
def test_deep_and_closed_folders_are_removed(tmp_path):
    top = tmp_path / "top"
    top.mkdir()
    (top / "link").symlink_to(tmp_path / "kept")
    (tmp_path / "kept").mkdir()
    place = os.getcwd()
    os.chdir(top)
    try:
        for _ in range(250):  # longer than a path may be
            os.mkdir("d" * 20)
            os.chdir("d" * 20)
        open("file", "w").close()
        os.mkdir("closed", mode=0)
    finally:
        os.chdir(place)
    closed = top / "a" / "b" / "c"
    closed.mkdir(parents=True)
    for folder in (closed, closed.parent, closed.parent.parent):
        folder.chmod(0)
    empty(str(top))
    assert list(top.iterdir()) == []
    assert (tmp_path / "kept").exists()


def test_too_much_is_noticed(tmp_path, monkeypatch):
    assert not too_full(tmp_path)
    (tmp_path / "file").write_bytes(b"0" * 10**6)
    monkeypatch.setattr(scratch_watch, "MOST_BYTES", 10**5)
    assert too_full(tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(scratch_watch, "MOST_ENTRIES", 1)
    assert too_full(tmp_path)


def test_who_writes_too_much_is_ended(tmp_path, monkeypatch):
    ended = []
    monkeypatch.setattr(scratch_watch, "MOST_ENTRIES", 1)
    monkeypatch.setattr(scratch_watch, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(scratch_watch.os, "kill", lambda number, sign: ended.append(number))
    (tmp_path / "file").touch()
    with watched(tmp_path, lambda: 7) as over:
        end = time.monotonic() + 2
        while not over and time.monotonic() < end:
            time.sleep(0.01)
    assert ended == [7]  # once: the folder is empty then
    assert list(tmp_path.iterdir()) == []
    assert "it wrote more than" in over[0]
    ended.clear()
    with watched(tmp_path, lambda: None) as over:
        time.sleep(0.05)
    assert (ended, over) == ([], [])
