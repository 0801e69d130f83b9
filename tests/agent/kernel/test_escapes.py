"""Code that tries to get out, at each level of protection; what each level lets through is stated.

Levels: all guards that this system has; without namespaces (many containers); without Landlock too,
where the files are guarded inside Python only. On a system that forbids namespaces or has no
Landlock the levels fall together, so every test asks the interpreter what is in force.
"""

import gc
import os
import platform
import socket
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest

from minqwen.agent.code_interpreter import CodeInterpreter
from minqwen.agent.kernel.kernel_limits import OWN_THREADS, Limits
from minqwen.agent.kernel.kernel_process import PYTHON, SYSTEM
from minqwen.agent.kernel.process_table import descendants
from minqwen.agent.kernel.syscall_filter import this_machine
from minqwen.agent.kernel.syscall_table import CALLS, REFUSED

pytest.importorskip("ipykernel")
pytest.importorskip("jupyter_client")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="guards and limits are those of Linux"),
]
LIMITS = Limits(
    seconds=2, grace_seconds=1, memory_mib=400, file_mib=4, folder_mib=16, files=500, processes=8,
    output_characters=1000,
)  # fmt: skip
SECRET = "a-secret-that-nobody-prints"
LEVELS = {
    "all guards": (),
    "no namespaces": ("namespaces",),
    "files guarded in Python": ("namespaces", "landlock"),
}


class Box:
    """An interpreter, and what lies around it."""

    def __init__(self, folder, without):
        self.outside = folder
        self.secret = folder / "secret.txt"
        self.secret.write_text(SECRET, encoding="utf-8")
        self.work = folder / "work"
        self.interpreter = CodeInterpreter(self.work, limits=LIMITS, without=without)
        self.protection = self.interpreter.protection()
        self.strong_files = self.protection.files == SYSTEM
        self.started = self.protection.new_processes

    def run(self, code):
        return self.interpreter.run(code)

    def works(self):
        return self.run("20 + 3").text == "23"


@pytest.fixture(scope="module", params=LEVELS)
def box(request, tmp_path_factory):
    os.environ["MINQWEN_TEST_KEY"] = SECRET
    before = descendants(os.getpid())  # other tests may have left helpers of multiprocessing
    box = Box(tmp_path_factory.mktemp("box"), LEVELS[request.param])
    yield box
    box.interpreter.close()
    del os.environ["MINQWEN_TEST_KEY"]
    marker = f"HOME={box.interpreter.folder}".encode()
    left = [
        pid
        for pid in os.listdir("/proc")
        if pid.isdigit() and marker in (readable(f"/proc/{pid}/environ") or b"")
    ]
    assert left == []
    assert descendants(os.getpid()).keys() <= before.keys()


def readable(path):
    try:
        return Path(path).read_bytes()
    except OSError:
        return None


# --- what is in force -----------------------------------------------------------------------------


def test_the_report_is_true(box, request):
    protection = box.protection
    assert protection.network == SYSTEM
    isolated = "namespaces" in protection.guards  # else their memory is a file, /proc/N/mem
    assert (protection.other_processes == SYSTEM) == (isolated or protection.files == SYSTEM)
    assert protection.memory_and_time == SYSTEM
    assert ("audit hook" in protection.guards) == (protection.files == PYTHON)
    level = request.node.callspec.params["box"]
    if level != "all guards":
        assert "namespaces" not in protection.guards
        assert not protection.new_processes
    if level == "files guarded in Python":
        assert protection.files == PYTHON


# --- files ----------------------------------------------------------------------------------------

READ = {
    "open": "print(open(P).read())",
    "os.open": "import os; print(os.read(os.open(P, 0), 99))",
    "link": "import os; os.symlink(P, 'l'); print(open('l').read())",
    "parent": "print(open('../secret.txt').read())",
    "cwd": "import os; os.chdir('..'); print(open('secret.txt').read())",
    "numpy": "import numpy; print(numpy.fromfile(P, 'S1').tobytes())",
    "mmap": "import mmap, os; print(mmap.mmap(os.open(P, 0), 0, prot=mmap.PROT_READ)[:])",
    "pathlib": "import pathlib; print(pathlib.Path(P).read_bytes())",
    "copy": "import shutil; shutil.copy(P, 'c'); print(open('c').read())",
    "hard link": "import os; os.link(P, 'h'); print(open('h').read())",
    "import": "import sys; sys.path.append(D); exec('import secret_module')",
    "cat": "import subprocess; print(subprocess.run(['cat', P], capture_output=True))",
    "shell": "import os; print(os.popen('cat ' + P).read())",
    "magic": "get_ipython().system('cat ' + P)",
    "ctypes": "import ctypes; l = ctypes.CDLL(None); b = ctypes.create_string_buffer(99)\n"
    "l.read(l.open(P.encode(), 0), b, 99); print(b.value)",
}


def ask(box, code, path):
    """Run code with P a path and D its folder."""
    box.run(
        f"P, D = {str(path)!r}, {str(Path(path).parent)!r}\nimport os, glob\n"
        "[os.remove(name) for name in ('l', 'c', 'h') if os.path.lexists(name)]\n"
        f"os.chdir({str(box.work)!r})"
    )
    return box.run(code)


@pytest.mark.parametrize("way", READ)
def test_files_outside_are_not_read(box, way):
    (box.outside / "secret_module.py").write_text(f"print({SECRET!r})", encoding="utf-8")
    out = way == "ctypes" and not box.strong_files  # a hook inside Python does not see C
    seen = ask(box, READ[way], box.secret)
    assert (SECRET in seen.text) == out, seen.text


@pytest.mark.parametrize("way", ["open", "os.open", "numpy", "mmap", "ctypes"])
def test_the_same_ways_read_files_inside(box, way):
    (box.work / "own.txt").write_text(SECRET, encoding="utf-8")
    assert SECRET in ask(box, READ[way], box.work / "own.txt").text


@pytest.mark.parametrize("path", ["/etc/passwd", "/etc/shadow", "/proc/1/environ", "~/.profile"])
def test_files_of_the_system_and_of_home_are_not_read(box, path):
    seen = ask(box, READ["open"], Path(path).expanduser())
    assert seen.error
    assert "PermissionError" in seen.text or "FileNotFoundError" in seen.text


def test_folders_outside_are_not_listed(box):
    for code in ("os.listdir('..')", "list(os.scandir('/'))", "glob.glob('/etc/*')"):
        assert "secret.txt" not in ask(box, code, "x").text
        assert "passwd" not in box.run(code).text


WRITE = {
    "new": "open(D + '/new', 'w').write('x')",
    "over": "open(P, 'w').write('x')",
    "append": "open(P, 'a').write('x')",
    "link": "os.symlink(P, 'l'); open('l', 'w').write('x')",
    "remove": "os.remove(P)",
    "rename": "os.rename(P, D + '/new')",
    "take": "os.rename(P, 'c')",
    "give": "open('c', 'w').close(); os.rename('c', D + '/new')",
    "folder": "os.mkdir(D + '/new')",
    "pipe": "os.mkfifo(D + '/new')",
    "node": "import stat; os.mknod(D + '/new', stat.S_IFSOCK | 0o600)",
    "truncate": "os.truncate(P, 0)",
    "mode": "os.chmod(P, 0o777)",
    "time": "os.utime(P, (1, 1))",
    "temporary": "import tempfile; tempfile.mkdtemp(dir=D, prefix='new')",
    "shell": "os.system('touch ' + D + '/new')",
}


@pytest.mark.parametrize("way", WRITE)
def test_nothing_outside_is_changed(box, way):
    def state():
        about = box.secret.stat()
        names = sorted(os.listdir(box.outside))
        return names, about.st_mode, about.st_mtime, box.secret.read_text(encoding="utf-8")

    before = state()
    ask(box, WRITE[way], box.secret)
    assert state() == before


def test_the_same_ways_change_what_is_inside(box):
    for way in ("new", "over", "append", "rename", "folder"):
        own = box.work / "own.txt"
        own.write_text("own", encoding="utf-8")
        new = box.work / "new"
        if new.is_dir():
            new.rmdir()
        new.unlink(missing_ok=True)
        seen = ask(box, WRITE[way], own)
        assert not seen.error, seen.text
        assert new.exists() or own.read_text(encoding="utf-8") != "own"


def test_its_own_folder_may_be_emptied_but_stays(box):
    (box.work / "precious").touch()
    box.run("import shutil, os; shutil.rmtree(os.getcwd())")
    assert list(box.work.iterdir()) == []
    assert box.works()


# --- secrets --------------------------------------------------------------------------------------


def test_our_environment_is_not_theirs(box):
    assert SECRET not in box.run("import os; print(dict(os.environ))").text
    for pid in (os.getpid(), "self", box.interpreter._kernel._process.pid):
        assert SECRET not in box.run(f"print(open('/proc/{pid}/environ').read())").text
    assert str(os.getpid()) not in box.run("print(list(os.environ.values()))").text


def test_our_package_gives_no_way_out(box):
    seen = box.run(
        "import minqwen.agent.kernel.kernel_process as k\n"
        "from minqwen.agent.kernel.kernel_watcher import _say\n"
        "_say(ended='forged')\n"
        f"print(open({str(box.secret)!r}).read())"
    )
    assert seen.error
    assert SECRET not in seen.text
    assert box.interpreter._kernel.ended is None
    assert box.works()


# --- network --------------------------------------------------------------------------------------

HEARD = "print('connec' + 'ted')"  # never written in one word, so no traceback can show it
CONNECT = {
    "socket": f"import socket\nsocket.create_connection(('127.0.0.1', PORT), 1)\n{HEARD}",
    "urllib": "import urllib.request as u\nu.urlopen(f'http://127.0.0.1:{PORT}', timeout=1)",
    "udp": f"import socket\nsocket.socket(2, 2).sendto(b'x', ('127.0.0.1', PORT))\n{HEARD}",
    "unix": f"import socket\nsocket.socket(1, 1).connect('SOCK')\n{HEARD}",
    "dns": f"import socket\nsocket.getaddrinfo('localhost', 80)\n{HEARD}",
    "asyncio": f"import asyncio\nawait asyncio.open_connection('127.0.0.1', PORT)\n{HEARD}",
    "zmq": "import zmq\ns = zmq.Context().socket(zmq.STREAM)\n"
    f"s.connect(f'tcp://127.0.0.1:{{PORT}}')\nif s.poll(300): {HEARD}",
    "ctypes": f"import ctypes\nif ctypes.CDLL(None).socket(2, 1, 0) >= 0: {HEARD}",
    "program": "import subprocess, sys\n"
    'call = \'import socket; socket.create_connection(("127.0.0.1", int(__import__("sys").'
    "argv[1])), 1)'\n"
    f"if subprocess.run([sys.executable, '-c', call, str(PORT)]).returncode == 0: {HEARD}",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Counts who comes; a real one, so that a connection would succeed."""
    came = []
    path = str(tmp_path_factory.mktemp("s") / "unix")
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(path)
        unix.listen()

        def accept(one):
            while True:
                try:
                    other, _ = one.accept()
                except OSError:
                    return
                came.append(1)
                other.close()

        for one in (tcp, unix):
            threading.Thread(target=accept, args=(one,), daemon=True).start()
        port = tcp.getsockname()[1]
        for way in ("socket", "udp", "dns", "unix", "program", "ctypes", "zmq"):
            printed = []  # every way works where nothing is in its way
            code = CONNECT[way].replace("SOCK", path).replace("print(", "printed.append(")
            with warnings.catch_warnings(action="ignore"):
                exec(code, {"PORT": port, "printed": printed})
                gc.collect()
            assert printed == ["connected"], way
        yield port, path, came
        for one in (tcp, unix):
            one.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("way", CONNECT)
def test_there_is_no_network(box, server, way):
    port, path, came = server
    before = len(came)
    seen = box.run(f"PORT = {port}\n" + CONNECT[way].replace("SOCK", path))
    assert "connected" not in seen.text
    assert len(came) == before
    assert box.works()


def test_no_datagram_reaches_a_socket_with_a_name(box, tmp_path):
    """A pair of sockets needs no call of `socket`, and its halves could write elsewhere."""
    path = str(tmp_path / "log")
    make = "import ctypes, os\nl = ctypes.CDLL(None)\npair = (ctypes.c_int * 2)()\n"
    send = (
        "a = l.socketpair(1, 2, 0, pair)\n"
        f"name = b'\\1\\0' + {path!r}.encode() + b'\\0'\n"
        "b = l.sendto(pair[0], b'x', 1, 0, name, len(name))\nprint(a, b)"
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(path)
        heard.setblocking(False)
        exec(make + send.replace("print(a, b)", "assert (a, b) == (0, 1)"), {})
        assert heard.recv(9) == b"x"  # here nothing is in its way
        assert box.run(make + send).text == "-1 -1"
        with pytest.raises(BlockingIOError):
            heard.recv(9)
    stream = "import socket\na, b = socket.socketpair()\na.send(b'hi')\nb.recv(9)"
    assert box.run(stream).text == "b'hi'"


# --- other processes ------------------------------------------------------------------------------


def test_nobody_else_is_killed(box):
    box.run("kept = 5")
    watcher = box.interpreter._kernel._process
    for pid in ("os.getppid()", os.getpid(), watcher.pid, os.getppid()):
        for code in (f"os.kill({pid}, 9)", f"import ctypes; ctypes.CDLL(None).kill({pid}, 9)"):
            box.run(f"import os\n{code}")
    assert watcher.poll() is None
    assert box.run("kept").text == "5"


def test_its_own_group_may_be_killed_and_we_go_on(box):
    for code in ("os.killpg(0, 9)", "os.kill(0, 9)", "os.kill(-1, 9)", "os.kill(os.getpid(), 9)"):
        assert box.run(f"import os\n{code}").error
        assert box.works()


def test_it_may_not_look_into_others(box):
    ptrace = "import ctypes; print('answer', ctypes.CDLL(None).ptrace(16, {pid}, 0, 0))"
    assert "answer -1" in box.run(ptrace.format(pid=os.getpid())).text
    lower = "import resource as r; r.prlimit({pid}, r.RLIMIT_NOFILE, (3, 3))"
    assert box.run(lower.format(pid=os.getpid())).error
    assert box.run(f"import os; os.setpriority(0, {os.getpid()}, 19)").error


def test_a_pipe_sends_no_signal_to_others(box):
    """The owner of a pipe gets a signal when something comes, and any process may be the owner."""
    watcher = box.interpreter._kernel._process
    box.run("kept = 5")
    for pid in (watcher.pid, os.getpid()):
        seen = box.run(
            "import fcntl, os\nr, w = os.pipe()\n"
            f"fcntl.fcntl(r, fcntl.F_SETOWN, {pid})\nfcntl.fcntl(r, 10, 10)\n"
            "fcntl.fcntl(r, fcntl.F_SETFL, os.O_NONBLOCK | 0x2000)\nos.write(w, b'x')"
        )
        assert "PermissionError" in seen.text
    assert watcher.poll() is None
    assert box.run("kept").text == "5"


def test_nobody_tells_what_happens_in_a_folder(box):
    code = "import ctypes; l = ctypes.CDLL(None); print(l.inotify_init(), l.inotify_init1(0))"
    assert box.run(code).text == "-1 -1"


def test_every_call_that_is_refused_is_refused_by_the_system(box):
    """Memory without a file, io_uring, keys, other namespaces, memory of others, and so on."""
    column = this_machine().column
    numbers = {name: CALLS[name][column] for name in REFUSED if CALLS[name][column] is not None}
    seen = box.run(
        "import ctypes, errno\nl = ctypes.CDLL(None, use_errno=True)\n"
        "def answer(number):\n"
        "    return l.syscall(number, 0, 0, 0, 0, 0, 0), ctypes.get_errno()\n"
        f"[name for name, number in {numbers}.items() if answer(number) != (-1, errno.EPERM)]"
    )
    assert seen.text == "[]"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="machine code")
def test_calls_of_32_bits_pass_no_filter(box):
    """Their numbers are others: `socket` would be another call there."""
    seen = box.run(
        "import ctypes, mmap\nm = mmap.mmap(-1, 4096, prot=7)\n"
        "m.write(b'\\xb8\\x14\\0\\0\\0\\xcd\\x80\\xc3')  # getpid by int 0x80\n"
        "address = ctypes.addressof(ctypes.c_char.from_buffer(m))\n"
        "print('number', ctypes.CFUNCTYPE(ctypes.c_int)(address)())"
    )
    assert "number" not in seen.text.replace("print('number'", "")
    assert seen.error
    assert box.works()


def test_it_cannot_hide_from_the_watcher(box):
    seen = box.run(
        "import ctypes\nl = ctypes.CDLL(None)\nl.prctl(4, 0, 0, 0, 0), l.prctl(3, 0, 0, 0, 0)"
    )
    assert seen.text == "(0, 1)"  # it says that it worked, and is as it was


def test_no_rights_are_won(box):
    for code in (
        "os.setuid(0)",
        "os.setreuid(0, 0)",
        "os.chroot('.')",
        "import ctypes; assert ctypes.CDLL(None).unshare(0x10000000) == 0",
        "import ctypes; assert ctypes.CDLL(None).mount(b'x', b'.', b'tmpfs', 0, 0) == 0",
        "import resource as r; r.setrlimit(r.RLIMIT_AS, (-1, -1))",
    ):
        assert box.run(f"import os\n{code}").error, code


STORM = """
import os, time
n = 0
try:
    while n < 5000:
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
        n += 1
except OSError as error:
    print('stopped', n)
"""


def test_a_storm_of_processes_is_stopped(box):
    seen = box.run(STORM)
    assert seen.text.startswith("stopped"), seen.text
    born = int(seen.text.split()[1])
    assert born <= LIMITS.processes + OWN_THREADS
    assert (born > 0) == box.started
    if box.started:  # they are still there, and hold the number
        box.run("import os; os.kill(os.getpid(), 9)")
    assert box.works()


def test_a_storm_of_threads_is_stopped(box):
    seen = box.run(
        "import threading, time\nstop = threading.Event()\nn = 0\n"
        "try:\n    while n < 20000:\n"
        "        threading.Thread(target=stop.wait, daemon=True).start()\n"
        "        n += 1\nexcept (RuntimeError, MemoryError):\n    print('stopped')\nstop.set()"
    )
    assert "stopped" in seen.text or seen.error
    box.run("import os; os.kill(os.getpid(), 9)")
    assert box.works()


def test_a_child_that_runs_away_stands_still_and_dies_with_us(box):
    seen = box.run(
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        os.environ.clear()\n"
        "        for k in range(10**6):\n"
        "            open('away', 'a').write('x')\n"
        "            time.sleep(0.005)\n"
        "    os._exit(0)\n"
        "time.sleep(0.2)"
    )
    away = box.work / "away"
    if not box.started:
        assert seen.error
        assert not away.exists()
        return
    time.sleep(0.1)
    first = away.read_text(encoding="utf-8")
    time.sleep(0.2)
    assert away.read_text(encoding="utf-8") == first
    box.run("time.sleep(0.1)")
    assert away.read_text(encoding="utf-8") != first
    box.run("os.kill(os.getpid(), 9)")  # with the kernel it ends
    last = away.read_text(encoding="utf-8")
    box.run("import time; time.sleep(0.2)")
    assert away.read_text(encoding="utf-8") == last


# --- too much -------------------------------------------------------------------------------------


def test_too_much_memory_at_once(box):
    assert "MemoryError" in box.run("x = bytearray(10**11)").text
    assert "MemoryError" in box.run("import numpy; numpy.ones(10**9)").text
    assert box.works()


def test_too_much_memory_bit_by_bit(box):
    seen = box.run("x = []\nwhile True:\n    x.append(bytearray(2**22))")
    assert "MemoryError" in seen.text or "MiB of memory" in seen.text
    seen = box.run(
        "x = []\nimport mmap\nwhile True:\n    x.append(mmap.mmap(-1, 2**24))\n"
        "    x[-1].write(b'1' * 2**24)"
    )
    assert "MemoryError" in seen.text or "MiB of memory" in seen.text or "Cannot alloc" in seen.text
    assert box.works()


def test_too_large_a_file(box):
    assert "File too large" in box.run("open('big', 'wb').write(bytes(2**23))").text
    assert (box.work / "big").stat().st_size <= 4 * 2**20
    (box.work / "big").unlink()


def test_no_room_on_the_disk_is_taken_at_once(box):
    """A thousand files of 4 MiB, say, before the watcher looks for the first time."""
    seen = box.run(
        "import ctypes, os\nl, size = ctypes.CDLL(None), ctypes.c_long(2**22)\n"
        "own = os.open('room', os.O_RDWR | os.O_CREAT)\n"
        "said = l.fallocate(own, 0, ctypes.c_long(0), size)\n"
        "os.posix_fallocate(own, 0, 2**16)  # it writes instead, as on a disk that cannot do it\n"
        "os.close(own)\nsaid"
    )
    assert seen.text == "-1"
    assert (box.work / "room").stat().st_size == 2**16
    (box.work / "room").unlink()


def test_too_many_files(box):
    for code, sign in (
        ("open(f'f{n}', 'wb').write(bytes(2**21))", "more than 16 MiB"),
        ("open(f'f{n}', 'wb').close()", "more than 500 files"),
    ):
        seen = box.run(
            f"import time\nfor n in range(3000):\n    {code}\n    time.sleep(0.0005)\ntime.sleep(9)"
        )
        assert sign in seen.text
        assert seen.error
        for file in box.work.glob("f*"):
            file.unlink()
        assert box.works()


@pytest.mark.parametrize(
    "keep",
    ["kept.append(file)", "l.mmap(None, s(4096), 1, 1, file.fileno(), s(0)); file.close()"],
    ids=["open", "mapped"],
)
def test_files_without_a_name_count(box, keep):
    seen = box.run(
        "import ctypes, os, time\nl, s, kept = ctypes.CDLL(None), ctypes.c_size_t, []\n"
        "for n in range(100):\n"
        "    file = open('gone', 'w+b', buffering=0)\n    os.unlink('gone')\n"
        f"    file.write(bytes(2**21))\n    {keep}\n    time.sleep(0.01)"
    )
    assert "more than 16 MiB" in seen.text
    assert box.works()


def test_every_folder_that_it_can_write_counts(box):
    seen = box.run(
        "import os, time\nfor n in range(100):\n"
        "    path = os.environ['XDG_CACHE_HOME'] + f'/{n}'\n"
        "    open(path, 'wb').write(bytes(2**21))\n    time.sleep(0.01)"
    )
    assert "more than 16 MiB" in seen.text
    assert box.works()


def test_what_lies_deep_counts(box):
    """Paths end at 4096 characters, folders do not."""
    seen = box.run(
        "import os, time\nfor n in range(30):\n    os.mkdir('n' * 200); os.chdir('n' * 200)\n"
        "for n in range(100):\n    open(str(n), 'wb').write(bytes(2**21)); time.sleep(0.01)"
    )
    assert "more than 16 MiB" in seen.text
    box.run("import shutil; shutil.rmtree('n' * 200)")
    assert list(box.work.glob("n*")) == []


def our_peak():
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # MiB


@pytest.mark.parametrize(
    "code",
    [
        "while True:\n    print('y' * 1000)",
        "import sys\nwhile True:\n    sys.stderr.write('y' * 1000)",
        "import os\nwhile True:\n    os.write(1, b'y' * 100000)",
        "while True:\n    display('y' * 100000)",
        "while True:\n    get_ipython().display_pub.publish({'text/plain': 'y' * 10**6})",
    ],
    ids=["print", "error", "write", "display", "publish"],
)
def test_output_without_end(box, code):
    before = our_peak()
    seen = box.run(code)
    assert seen.error
    assert any(sign in seen.text for sign in ("TimeoutError", "are lost", "MemoryError"))
    assert len(seen.text) < 2000
    assert our_peak() - before < 150
    assert box.works()


def test_a_message_that_is_too_large_does_not_reach_us(box):
    before = our_peak()
    box.run(
        "pub = get_ipython().kernel.iopub_thread\n"
        "pub.schedule(lambda: pub.socket.send(bytes(10**8)))\n"
        "import time; time.sleep(0.3)"
    )
    assert our_peak() - before < 60
    box.run("1")  # a line that is dead is noticed here at the latest
    assert box.works()


def test_a_message_of_many_parts_does_not_reach_us(box):
    """ZeroMQ bounds the size of a part, and not their number."""
    before = our_peak()
    seen = box.run(
        "socket, part = get_ipython().kernel.iopub_thread.socket, bytes(8 * 2**20)\n"
        "many = lambda: socket.send_multipart([part] * 25)\n"
        "get_ipython().kernel.iopub_thread.schedule(many)\n"
        "import time; time.sleep(0.5)"
    )
    assert our_peak() - before < 60
    assert "too large or broken" in seen.text
    assert box.works()


def test_a_message_of_many_lists_is_not_read(box):
    """15 MiB of JSON would become 350 MiB of lists."""
    before = our_peak()
    seen = box.run(
        "k = get_ipython().kernel\n"
        "header, parent = k.session.msg_header('display_data'), k.get_parent()['header']\n"
        "import json\n"
        "parts = [json.dumps(one, default=str).encode() for one in (header, parent, {})]\n"
        "parts.append(b'{\"data\": [' + b'[],' * 5_000_000 + b'[]]}')\n"
        "signed = [b'x', b'<IDS|MSG>', k.session.sign(parts), *parts]\n"
        "k.iopub_thread.schedule(lambda: k.iopub_thread.socket.send_multipart(signed))\n"
        "print('sent')"
    )
    assert seen == ("sent", False, ())
    assert our_peak() - before < 150
    assert box.works()


def test_forged_messages_are_passed_over(box):
    seen = box.run(
        "k = get_ipython().kernel\n"
        "deep = '[' * 10**5 + ']' * 10**5\n"
        "pub = k.iopub_thread\n"
        "send = lambda c: pub.schedule(lambda: pub.socket.send_multipart(c))\n"
        "send([b'']); send([b'<IDS|MSG>']); send([b'<IDS|MSG>'] + [b'x'] * 5)\n"
        "send([b'<IDS|MSG>', b'', deep.encode(), b'{}', b'{}', b'{}'])\n"
        "h = k.get_parent()\n"
        "for content in ({}, {'data': 3}, {'text': [1]}, {'traceback': {}}):\n"
        "    for kind in ('stream', 'error', 'display_data', 'status', 'execute_reply'):\n"
        "        k.session.send(k.iopub_socket, kind, content, parent=h)\n"
        "print('end')"
    )
    assert isinstance(seen.text, str)
    assert box.works()


def test_a_large_picture_arrives(box):
    """From 64 KiB on pyzmq sends from a thread of its own, which must be let start."""
    seen = box.run("display({'image/svg+xml': '<svg>' + 'a' * 200_000 + '</svg>'}, raw=True)")
    assert seen == ("[plot: plot_1.svg]", False, (f"{box.interpreter.folder}/plot_1.svg",))
    (box.work / "plot_1.svg").unlink()
    assert box.run("import zmq\nwith zmq.Context() as c, c.socket(zmq.PUB): pass\n5").text == "5"


# --- no end, or a sudden one ----------------------------------------------------------------------


def test_a_loop_is_interrupted(box):
    box.run("kept = 6")
    seen = box.run("while True:\n    pass")
    assert "TimeoutError" in seen.text
    assert box.run("kept").text == "6"


@pytest.mark.parametrize(
    "code",
    [
        "import time\nwhile True:\n    try:\n        time.sleep(9)\n    except BaseException: pass",
        "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\ntime.sleep(60)",
        "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)\nimport time; time.sleep(60)",
        "import ctypes, signal\nctypes.pythonapi.PyGILState_Ensure()\nctypes.CDLL(None).pause()\n"
        "ctypes.PyDLL(None).sleep(60)",
    ],
    ids=["swallows", "ignores", "stops itself", "holds the lock"],
)
def test_what_cannot_be_interrupted_is_ended(box, code):
    begin = time.monotonic()
    seen = box.run(code)
    assert seen.error
    assert time.monotonic() - begin < 60
    assert box.works()


@pytest.mark.parametrize(
    ("code", "sign"),
    [
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("import os; os._exit(3)", "exit code 3"),
        ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
        ("import os; os.abort()", "SIG"),
        ("import signal; signal.raise_signal(9)", "SIGKILL"),
        ("raise SystemExit", "SystemExit"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    ],
)
def test_a_sudden_end_is_an_observation(box, code, sign):
    seen = box.run(code)
    assert seen.error
    assert sign in seen.text
    assert box.works()


def test_what_it_leaves_behind_is_not_run_by_the_next_kernel(box):
    """Before its guards are on, a new kernel imports nothing from the working folder."""
    mine = f"open({str(box.outside / 'broken')!r}, 'w')\n"
    names = ("zmq", "ipykernel", "sitecustomize", "usercustomize", "json", "ctypes", "minqwen")
    for name in names:
        (box.work / f"{name}.py").write_text(mine, encoding="utf-8")
    start = box.work / ".ipython" / "profile_default" / "startup"
    start.mkdir(parents=True)
    (start / "a.py").write_text(mine, encoding="utf-8")
    (box.work / "ipython_config.py").write_text(mine, encoding="utf-8")
    try:
        assert box.run("import os; os._exit(0)").error
        assert box.works()
        assert not (box.outside / "broken").exists()
    finally:
        for name in names:
            (box.work / f"{name}.py").unlink()
        (box.work / "ipython_config.py").unlink()
