"""What is on the disk: in folders however deep, and in files that have no name any more."""

import ctypes
import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest

import minqwen
from minqwen.agent.kernel.disk_use import folder_use, remove_folder, removed_use
from minqwen.agent.kernel.process_table import Process

linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
ME = Process(os.getppid(), "R", 0, "/proc/self")


@pytest.fixture
def deep(tmp_path):
    """A folder whose path is longer than a path may be, and deeper than calls may be."""
    top = tmp_path / "top"
    top.mkdir()
    handle = os.open(top, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("n" * 5, dir_fd=handle)
        inside = os.open("n" * 5, os.O_RDONLY, dir_fd=handle)
        os.close(handle)
        handle = inside
    new = os.O_CREAT | os.O_WRONLY
    with os.fdopen(os.open("file", new, dir_fd=handle), "wb") as file:
        file.write(b"x" * 100_000)
    os.close(handle)
    yield top
    remove_folder(str(tmp_path))


def test_the_use_of_a_folder(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "file").write_bytes(b"x" * 100_000)
    (tmp_path / "link").symlink_to("/")
    size, entries = folder_use([str(tmp_path), str(tmp_path / "none")], 10)
    assert 100_000 <= size < 200_000
    assert entries == 4
    for n in range(30):
        (tmp_path / str(n)).touch()
    assert folder_use([str(tmp_path)], 10)[1] == 11
    assert folder_use([str(tmp_path)], 100)[1] == 34


@linux
def test_no_folder_is_too_deep(deep):
    import resource

    old = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 3000
    if old[1] != resource.RLIM_INFINITY and old[1] < wanted:
        pytest.skip("too few handles here")
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, old[1]))
        size, entries = folder_use([str(deep)], 10_000)
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, old[1]))
        with pytest.raises(OSError, match="Too many open files"):
            folder_use([str(deep)], 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, old)
    assert size >= 100_000
    assert entries == 1202


def test_a_deep_folder_is_removed(deep, tmp_path):
    (deep / "n").symlink_to(tmp_path / "outside")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").touch()
    remove_folder(str(deep))
    assert [path.name for path in tmp_path.iterdir()] == ["outside"]
    assert (tmp_path / "outside" / "file").exists()
    remove_folder(str(deep))  # gone already


@linux
@pytest.mark.skipif(os.name == "posix" and os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_hides_something_is_not_passed_over(tmp_path):
    (tmp_path / "hidden").mkdir(mode=0o300)
    with pytest.raises(PermissionError):
        folder_use([str(tmp_path)], 10)


@linux
def test_files_without_a_name_count(tmp_path):
    def use():
        return removed_use([ME], (str(tmp_path),), 2**20)

    path = tmp_path / "file"
    with open(path, "w+b", buffering=0) as file:
        file.write(b"x" * 100_000)
        assert use() == 0
        path.unlink()
        assert 100_000 <= use() < 200_000
        libc = ctypes.CDLL(None)  # Python's mmap would keep the file open
        libc.mmap.restype = ctypes.c_void_p
        mapped = libc.mmap(None, ctypes.c_size_t(4096), 1, 1, file.fileno(), ctypes.c_long(0))
        assert use() < 2**20  # open and mapped: its size is known
    assert use() == 2**20  # mapped only: as large as a file may be
    libc.munmap(ctypes.c_void_p(mapped), ctypes.c_size_t(4096))
    assert use() == 0
    kept = mmap.mmap(-1, 4096)  # memory without a file is none
    assert removed_use([ME], (str(Path(path).parent),), 2**20) == 0
    kept.close()
    assert removed_use([ME._replace(place="/proc/0")], ("/",), 1) == 0  # it ended meanwhile


@linux
@pytest.mark.parametrize(("state", "memory", "hides"), [("R", 4096, True), ("R", 0, False)])
def test_a_process_that_ends_hides_nothing(tmp_path, monkeypatch, state, memory, hides):
    """To a user who is not root the system tells nothing of it, until it is gone."""
    stat = f"7 (a) R 1 (b) {state} 1" + " 0" * 18 + f" {memory} 0\n"
    (tmp_path / "stat").write_text(stat, encoding="ascii")

    def refuse(path):
        raise PermissionError(path)

    monkeypatch.setattr(os, "listdir", refuse)
    one = ME._replace(place=str(tmp_path))
    if hides:
        with pytest.raises(PermissionError):
            removed_use([one], ("/",), 1)
    else:
        assert removed_use([one], ("/",), 1) == 0


@linux
def test_a_closed_folder_in_another_is_removed_by_a_user_who_is_not_root(tmp_path):
    """Root may move anything; others only what they may write into."""
    code = (
        "import os, sys, tempfile\n"
        "from minqwen.agent.kernel.disk_use import remove_folder\n"
        "if os.getuid() == 0: os.setuid(65534)\n"
        "top = tempfile.mkdtemp()\n"
        "os.makedirs(top + '/a/b/c')\n"
        "os.chmod(top + '/a/b', 0)\n"
        "remove_folder(top)\n"
        "sys.exit(os.path.exists(top))\n"
    )
    root = str(Path(minqwen.__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", code], cwd=root, timeout=20, check=False)
    assert done.returncode == 0
