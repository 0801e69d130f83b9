"""Limits, Landlock, namespaces and dropped rights, each tried in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

import minqwen
from minqwen.agent.kernel.kernel_limits import Limits, check_limits, missing_limits
from minqwen.agent.kernel.landlock import handled_rights, landlock_version

linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux keeps these")
ROOT = Path(minqwen.__file__).parents[1]


def python(code, *arguments):
    """Run code after limits or guards that could not be taken off again here."""
    start = "import os, sys; sys.path.insert(0, sys.argv[1]); from minqwen.agent.kernel import *\n"
    command = [sys.executable, "-I", "-c", start + code, str(ROOT), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return (done.stdout + done.stderr).strip()


@pytest.mark.parametrize("name", Limits._fields)
def test_every_limit_is_checked(name):
    with pytest.raises(ValueError, match=f"limits.{name} must be positive, got -1"):
        check_limits(Limits(**{name: -1}))
    if name == "processes":
        check_limits(Limits(processes=0))
    else:
        with pytest.raises(ValueError, match=name):
            check_limits(Limits(**{name: 0}))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_a_limit_without_end_is_none(value):
    with pytest.raises(ValueError, match="seconds"):
        check_limits(Limits(seconds=value))


def test_what_is_counted_is_whole():
    with pytest.raises(TypeError, match=r"memory_mib must be an int, got 0\.5"):
        check_limits(Limits(memory_mib=0.5))
    with pytest.raises(ValueError, match="cpu_seconds must be 1 or more"):
        check_limits(Limits(cpu_seconds=0.5))


def test_every_limit_exists_on_linux_only():
    assert missing_limits("linux") == ()
    assert "memory" in missing_limits("darwin")
    assert set(missing_limits("darwin")) < set(missing_limits("win32"))


@linux
@pytest.mark.parametrize(
    ("act", "sign"),
    [
        ("bytearray(300 * 2**20)", "MemoryError"),
        ("bytearray(50 * 2**20); print('fine')", "fine"),
        ("open(sys.argv[2], 'wb').write(bytes(3 * 2**20))", "File too large"),
        ("open(sys.argv[2], 'wb').write(bytes(2**20)); print('fine')", "fine"),
        ("[os.open('/dev/null', 0) for _ in range(40)]", "Too many open files"),
        ("import resource as r; r.setrlimit(r.RLIMIT_FSIZE, (-1, -1))", "limit"),
    ],
)
def test_the_system_keeps_limits(act, sign, tmp_path):
    limits = "from minqwen.agent.kernel.kernel_limits import *\nset_limits(Limits(memory_mib=200, "
    rights = "from minqwen.agent.kernel.namespaces import *\ndrop_rights()\n"
    told = python(f"{limits}file_mib=2, open_files=30))\n{rights}{act}", tmp_path / "file")
    assert sign in told.splitlines()[-1]


def test_rights_by_version():
    assert handled_rights(1) < handled_rights(2) < handled_rights(3) == handled_rights(4)
    assert handled_rights(5) == handled_rights(99) == 0xFFFF


LOCK = """
from minqwen.agent.kernel.landlock import *
work, secret = sys.argv[2:]
rules = [(place, READ) for place in ("/usr", "/lib", sys.base_prefix, sys.prefix)]
restrict_files([*rules, (work, OWN), ("/not/there", READ)])
def fails(act):
    try:
        act()
    except OSError as error:
        return type(error).__name__
    return "done"
os.symlink(secret + "/file", work + "/link")
print(*map(fails, [
    lambda: open(work + "/new", "w"),
    lambda: os.mkdir(work + "/sub"),
    lambda: os.listdir(sys.base_prefix),
    lambda: open(secret + "/file"),
    lambda: open(work + "/link"),
    lambda: open(work + "/../secret/file"),
    lambda: os.listdir(secret),
    lambda: open(secret + "/new", "w"),
    lambda: os.remove(secret + "/file"),
    lambda: os.rename(secret + "/file", work + "/moved"),
    lambda: os.link(secret + "/file", work + "/hard"),
    lambda: os.rmdir(work),
    lambda: os.truncate(secret + "/file", 0) if landlock_version() >= 3 else open(secret + "/file"),
]))
"""


@pytest.mark.skipif(not landlock_version(), reason="this system has no Landlock")
def test_landlock_keeps_a_process_in_its_folder(tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "file").write_text("secret", encoding="utf-8")
    told = python(LOCK, tmp_path / "work", tmp_path / "secret").split()
    assert told[:3] == ["done"] * 3
    assert len(told) == 13
    assert all(word in ("PermissionError", "OSError") for word in told[3:])
    assert (tmp_path / "secret" / "file").read_text(encoding="utf-8") == "secret"


@linux
def test_namespaces_are_tried_without_harm():
    ids = "print(os.getpid(), os.listdir('/proc/self/task'))\n"
    work = "from minqwen.agent.kernel.namespaces import *\nprint(namespaces_work())\n"
    before, works, after = python(ids + work + ids).splitlines()
    assert before == after
    assert works in ("True", "False")
    if works == "True":
        enter = "from minqwen.agent.kernel.namespaces import *\nenter_namespaces()\n"
        child = "if os.fork() == 0: print(os.getpid(), flush=True); os._exit(0)\nos.wait()\n"
        network = "print(open('/proc/self/net/dev').read().count('\\n'))"
        assert python(enter + child + network).split() == ["1", "3"]  # two of heading, lo


@linux
def test_rights_are_gone_for_good():
    drop = "from minqwen.agent.kernel.namespaces import *\ndrop_rights()\n"
    status = python(drop + "print(open('/proc/self/status').read())")
    rights = dict(line.split(":", 1) for line in status.splitlines())
    for name in ("CapEff", "CapPrm", "CapInh"):
        assert int(rights[name], 16) == 0
    assert rights["NoNewPrivs"].strip() == "1"
