"""The list of processes, also of those that look dead and are not."""

import os
import platform
import subprocess
import sys
import time

import pytest

from minqwen.agent.kernel.process_table import descendants, has_ended, memory_in_use

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
EXIT = {"x86_64": 60, "aarch64": 93}.get(platform.machine())


def wait_for(check):
    for _ in range(500):
        if found := check():
            return found
        time.sleep(0.01)
    raise AssertionError("it did not happen")


def new_ones(before):
    """Return the descendants of this process that were not there before; other tests have some."""
    return {pid: one for pid, one in descendants(os.getpid()).items() if pid not in before}


def test_children_of_children_are_listed_and_the_dead_are_not():
    before = descendants(os.getpid())
    code = "import os, sys\nif os.fork() == 0:\n    sys.stdin.read()\nelse:\n    os.wait()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as child:
        both = wait_for(lambda: (d := new_ones(before)) and len(d) == 2 and d)
        assert both[child.pid].parent == os.getpid()
        assert {both[pid].parent for pid in set(both) - {child.pid}} == {child.pid}
        assert 0 < memory_in_use(both) <= sum(process.memory for process in both.values())
        assert not any(map(has_ended, both.values()))
        child.communicate()
        assert all(map(has_ended, both.values()))
    assert new_ones(before) == {}


@pytest.mark.skipif(EXIT is None, reason="the number of the call exit is not known here")
def test_a_process_whose_first_thread_has_ended_is_still_alive():
    code = (
        "import ctypes, sys, threading\n"
        "kept = bytearray(b'1' * 2**25)\n"
        "threading.Thread(target=sys.stdin.read).start()\n"
        f"ctypes.CDLL(None).syscall({EXIT}, 0)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as child:

        def ended():
            with open(f"/proc/{child.pid}/stat", encoding="utf-8") as file:
                return file.read().split()[2] == "Z"

        wait_for(ended)
        about = descendants(os.getpid())[child.pid]
        assert about.state == "S"
        assert about.memory > 2**25
        assert memory_in_use({child.pid: about}) > 2**25
        child.kill()
