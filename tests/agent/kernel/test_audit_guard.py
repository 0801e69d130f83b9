"""The guard inside Python, asked without being installed: it could not be taken off again."""

import os

import pytest

from minqwen.agent.kernel.audit_guard import audit_hook, may_use


@pytest.fixture
def folders(tmp_path):
    for name in ("work", "work2", "python", "secret"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name, encoding="utf-8")
    return tmp_path


@pytest.fixture
def hook(folders):
    return audit_hook([str(folders / "work")], [str(folders / "python")])


def test_inside_everything_may_be_done(hook, folders):
    file = str(folders / "work" / "file")
    hook("open", (file, "w", os.O_WRONLY | os.O_CREAT))
    hook("os.rename", (file, file + "2", -1, -1))
    hook("os.remove", (os.fsencode(file), -1))
    hook("os.mkdir", (folders / "work" / "new", 0o777, -1))
    hook("open", (3, "r", 0))  # open already
    hook("some.event", ())


def test_python_may_be_read_only(hook, folders):
    file = str(folders / "python" / "file")
    hook("open", (file, "r", os.O_RDONLY))
    hook("os.listdir", (str(folders / "python"),))
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC, os.O_CREAT):
        with pytest.raises(PermissionError, match="outside"):
            hook("open", (file, None, flags))
    with pytest.raises(PermissionError):
        hook("os.remove", (file, -1))


@pytest.mark.parametrize("path", ["secret/file", "work/../secret/file", "work2/file", "work/link"])
def test_outside_nothing_may_be_read(hook, folders, path, monkeypatch):
    (folders / "work" / "link").symlink_to(folders / "secret" / "file")
    monkeypatch.chdir(folders)
    for form in (path, str(folders / path), os.fsencode(path)):
        with pytest.raises(PermissionError, match="outside"):
            hook("open", (form, "r", os.O_RDONLY))


def test_a_link_may_be_removed_but_not_followed(hook, folders, monkeypatch):
    link = folders / "work" / "link"
    link.symlink_to(folders / "secret" / "file")
    for event in ("os.remove", "os.rename"):
        hook(event, (str(link), str(folders / "work" / "new"), -1, -1))
    for event in ("os.truncate", "os.chmod", "os.listdir"):
        with pytest.raises(PermissionError, match="outside"):
            hook(event, (str(link), 0))
    monkeypatch.chdir(folders / "work")
    hook("os.remove", ("link", -1))
    with pytest.raises(PermissionError, match="outside"):
        hook("os.remove", ("link/../file", -1))


def test_both_ends_of_a_move_count(hook, folders):
    inside, outside = str(folders / "work" / "file"), str(folders / "secret" / "new")
    for pair in ((inside, outside), (outside, inside)):
        with pytest.raises(PermissionError):
            hook("os.rename", (*pair, -1, -1))
    with pytest.raises(PermissionError):
        hook("os.link", (outside, inside, -1, -1))


def test_the_working_folder_stays(hook, folders):
    for event in ("os.rmdir", "os.rename"):
        with pytest.raises(PermissionError):
            hook(event, (str(folders / "work"), str(folders / "work" / "x"), -1, -1))


@pytest.mark.parametrize("event", ["os.fork", "os.kill", "subprocess.Popen", "os.system"])
def test_no_processes(hook, event):
    with pytest.raises(PermissionError, match="processes"):
        hook(event, ("ls",))


@pytest.mark.parametrize("event", ["socket.connect", "socket.getaddrinfo", "urllib.Request"])
def test_no_network(hook, event):
    with pytest.raises(PermissionError, match="network"):
        hook(event, (None, ("127.0.0.1", 80)))


def test_a_folder_is_not_the_beginning_of_a_name(folders):
    assert may_use(folders / "work" / "file", [str(folders / "work")])
    assert not may_use(folders / "work2" / "file", [str(folders / "work")])
