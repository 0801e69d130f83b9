"""A place is always whole for readers, and writers clean up after a crash."""

import pytest

from minqwen.model.atomic_folder import new_folder, recover, whole, write_whole


def folder(path, text):
    path.mkdir()
    (path / "file").write_text(text, encoding="utf-8")


def names(path):
    return sorted(p.name for p in path.iterdir())


def test_a_file_is_written_whole_or_stays_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "page"
    write_whole(path, b"old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"


def test_recover_puts_the_old_one_back_only_if_there_is_no_new_one(tmp_path):
    place = tmp_path / "m"
    for name in (".m.old", ".m.new.1", ".m.new.abc"):
        folder(tmp_path / name, name)
    assert whole(place) == tmp_path / ".m.old"  # reading changes nothing
    assert len(names(tmp_path)) == 3
    recover(place)
    assert names(tmp_path) == ["m"]
    assert (whole(place) / "file").read_text(encoding="utf-8") == ".m.old"
    folder(tmp_path / ".m.old", "older")
    recover(place)
    assert names(tmp_path) == ["m"]
    assert (place / "file").read_text(encoding="utf-8") == ".m.old"


def test_an_error_while_writing_leaves_the_old_one(tmp_path):
    folder(tmp_path / "m", "old")

    def write():
        with new_folder(tmp_path / "m") as new:
            (new / "file").write_text("new", encoding="utf-8")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write()
    assert names(tmp_path) == ["m"]
    assert (tmp_path / "m" / "file").read_text(encoding="utf-8") == "old"


def test_other_folders_are_left_alone(tmp_path):
    for name in ("m.old", "m.new.1", ".n.old", ".mm.new.1"):
        folder(tmp_path / name, name)
    with new_folder(tmp_path / "m") as new:
        (new / "file").write_text("new", encoding="utf-8")
    assert names(tmp_path) == [".mm.new.1", ".n.old", "m", "m.new.1", "m.old"]
