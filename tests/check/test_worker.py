"""Whatever a stranger's file does, a plain reply comes back and the checker lives on."""

import importlib.util
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from minqwen.check.outside import worker_main
from minqwen.check.outside.messages import Problem
from minqwen.check.outside.user_file import is_file, split_target
from minqwen.check.outside.worker import InProcess, Worker, limits_here

X = {"x": np.arange(6.0).reshape(2, 3) + 1, "w": np.array([1.0, 2.0, -1.0]), "eps": 0.5}
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the limit exists on Linux")
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="no signals or fork on Windows")
GOOD = """
import numpy as np
def f(x, w, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * w
"""


def right(a=X):
    return a["x"] / np.sqrt((a["x"] ** 2).mean(-1, keepdims=True) + a["eps"]) * a["w"]


def alive(pid):
    """Say whether a process runs: a zombie, whose parent is gone, does not."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition, seconds=1.5):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


# --- a good file ---------------------------------------------------------------------------------


def test_a_good_function_gives_its_numbers(ask):
    reply = ask(GOOD)
    assert reply.problem is None
    assert reply.changed == reply.notes == ()
    assert reply.printed == ""
    assert reply.dtypes == ("float64",)
    np.testing.assert_array_equal(reply.outputs[0], right())


def test_one_process_serves_many_calls(write):
    text = "import os\ndef f(x, w, eps):\n    return float(os.getpid())"
    with Worker(write(text)) as worker:
        pids = {float(worker.forward(X).outputs[0]) for _ in range(5)}
        assert len(pids) == 1
        assert pids != {float(os.getpid())}
        assert worker.restarts == 0


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_the_inputs_come_in_the_dtype_that_was_asked_for(ask, dtype):
    text = """
    def f(x, ids, real, eps, k):
        assert x.flags.c_contiguous and x.flags.writeable and x.flags.owndata
        assert type(eps) is float and type(k) is int
        assert str(ids.dtype) == "int64" and str(real.dtype) == "bool"
        return x
    """
    x = np.asfortranarray(np.random.default_rng(0).standard_normal((3, 4)))[::-1]
    arguments = {"x": x, "ids": np.arange(3), "real": np.ones(2, bool), "eps": 0.5, "k": 2}
    reply = ask(text, arguments, dtype)
    assert reply.problem is None
    assert reply.dtypes == (dtype,)
    np.testing.assert_array_equal(reply.outputs[0], x.astype(dtype))


def test_bfloat16_comes_as_ml_dtypes_has_it_and_goes_back_exactly(ask):
    pytest.importorskip("ml_dtypes")
    reply = ask(
        "def f(x):\n    assert x.dtype.name == 'bfloat16'\n    return x",
        {"x": np.array([0.1])},
        "bfloat16",
    )
    assert reply.problem is None
    assert reply.dtypes == ("bfloat16",)
    assert reply.outputs[0].dtype == np.float32
    assert reply.outputs[0] == 0.10009765625


@pytest.mark.parametrize(
    "value",
    [
        np.zeros((0, 3)),
        np.array(2.0),
        np.array([np.nan, np.inf, -0.0]),
        np.array([True]),
        np.arange(3),
    ],
    ids=["empty", "no axis", "nan", "bool", "int"],
)
def test_arrays_cross_bit_by_bit(ask, value):
    reply = ask("def f(x):\n    return x", {"x": value})
    assert reply.outputs[0].dtype == value.dtype
    assert reply.outputs[0].shape == value.shape
    assert reply.outputs[0].tobytes() == value.tobytes()
    assert reply.changed == ()


def test_the_file_can_import_its_neighbours_and_leaves_no_cache(write, tmp_path):
    write("def double(x):\n    return 2 * x", "neighbour.py")
    target = write("from neighbour import double\ndef f(x, w, eps):\n    return double(x)")
    with Worker(target) as worker:
        np.testing.assert_array_equal(worker.forward(X).outputs[0], 2 * X["x"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["neighbour.py", "theirs.py"]
    assert "theirs" not in sys.modules
    assert "neighbour" not in sys.modules


def test_a_file_may_have_the_name_of_a_module(write):
    with Worker(write(GOOD, "json.py")) as worker:
        np.testing.assert_array_equal(worker.forward(X).outputs[0], right())


def test_a_module_and_a_method_can_be_named_too(write):
    with Worker("minqwen.layers.rmsnorm:rmsnorm_forward", outputs=["y"]) as worker:
        np.testing.assert_allclose(worker.forward(X).outputs[0], right(), rtol=1e-14)
    text = "class C:\n    def go(self, x, w, eps):\n        return x\nthing = C()"
    with Worker(write(text, function="thing.go")) as worker:
        np.testing.assert_array_equal(worker.forward(X).outputs[0], X["x"])


# --- files that cannot be loaded -----------------------------------------------------------------


THEIRS = "def g(x): pass\ndef h(x): pass\nclass C: pass\nN = 3\nfrom math import sqrt"


@pytest.mark.parametrize(
    ("target", "kind", "says"),
    [
        ("their.py:f", "missing file", "is it theirs.py?"),
        ("no/theirs.py:f", "missing file", "no folder"),
        ("a.ipynb:f", "missing file", "is a notebook"),
        ("dir.py:f", "missing file", "dir.py is a folder, not a file"),
        ("dirs.py:f", "missing file", "there is no file"),
        ("theirs.py:f", "missing function", "has no function f; it has g, h, C"),
        ("theirs.py", "missing function", "it has g, h, C"),
        ("theirs.py:C", "missing function", "C is a class"),
        ("theirs.py:N", "missing function", "N is a int, not a function"),
    ],
)
def test_a_missing_file_or_function(write, tmp_path, target, kind, says):
    write(THEIRS)
    (tmp_path / "dir.py").mkdir()
    with Worker(f"{tmp_path}/{target}") as worker:
        problem = worker.forward(X).problem
        assert (problem.kind, says in problem.says) == (kind, True), problem
        assert worker.forward(X).problem == problem  # said again, not tried again


def test_a_missing_module():
    with Worker("no_such_package.module:f") as worker:
        assert worker.forward(X).problem == Problem(
            "missing file", "there is no module no_such_package.module"
        )


@pytest.mark.skipif(importlib.util.find_spec("cupy") is not None, reason="CuPy is installed")
def test_cupy_that_is_missing(write):
    worker = Worker(write(GOOD), framework="cupy")
    with worker, pytest.raises(ImportError, match=r"pip install 'minqwen\[gpu\]'"):
        worker.forward(X)


@pytest.mark.parametrize(
    ("text", "kind", "says", "line"),
    [
        ("x = 1 / 0", "import raised", "cannot be imported: ZeroDivisionError: div", "line 1: x ="),
        ("x = 1\ndef f(:", "import raised", "no valid Python", "line 2"),
        ("import no_such_pkg.sub", "missing package", "no_such_pkg, which is not", "line 1"),
        ("from math import nothing", "import raised", "ImportError", "line 1"),
        ("import sys\nsys.exit(3)", "exited", "it calls exit(3)", "line 2"),
        ("import os\nos._exit(4)", "exited", "exit code 4", ""),
        ("raise KeyboardInterrupt", "import raised", "KeyboardInterrupt", ""),
        ("input()", "import raised", "waits for somebody to type", "line 1"),
        ("while True: pass", "hung", "within 0.9 s when imported", "line 1"),
    ],
)  # fmt: skip
def test_trouble_on_import(ask, text, kind, says, line):
    problem = ask(text, seconds=0.3).problem
    assert problem.kind == kind
    assert says in problem.says
    assert line in problem.where
    assert "minqwen" not in problem.says


def test_a_missing_array_library_comes_with_the_pip_line(write, tmp_path, monkeypatch):
    write("raise ModuleNotFoundError('No module named jax', name='jax')", "jax.py")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    worker = Worker(write(GOOD), framework="jax")
    with worker, pytest.raises(ImportError, match="jax is missing: pip install jax"):
        worker.forward(X)


# --- calls that give no answer -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "kind", "says", "line"),
    [
        ("raise ValueError('bad\\n\\x1b[2J')", "raised", "ValueError: bad ?[2J", "line 3"),
        ("return x @ w @ w", "raised", "f raised ValueError", "line 3: return x @ w @ w"),
        ("return g(x)", "raised", "RecursionError", "line 4"),
        ("import no_such_pkg", "missing package", "pip install no_such_pkg", "line 3"),
        ("import sys; sys.exit()", "exited", "it calls exit()", "line 3"),
        ("import os; os._exit(0)", "exited", "exit code 0", ""),
        ("raise KeyboardInterrupt", "raised", "KeyboardInterrupt", ""),
        ("raise E()", "raised", "f raised E", "line 3"),
        ("return input('how? ')", "raised", "waits for somebody to type", "line 3"),
        ("return None", "wrong type", "is a `return` missing?", "line 2"),
        ("return 'text'", "wrong type", "a string (str) is no array", "line 2"),
        ("return {'y': x}", "wrong type", "a dict is no array", "line 2"),
        ("return [[1, 2], [3]]", "wrong type", "rows of different lengths", "line 2"),
        ("return np.array([None, 1])", "wrong type", "an object array", "line 2"),
        ("return x + 1j", "wrong type", "complex numbers", "line 2"),
        ("return f", "wrong type", "was it not called?", "line 2"),
        ("return Equal()", "wrong type", "an object array (its entries: Equal)", "line 2"),
        ("return np.array(['a'])", "wrong type", "an array of <U1", "line 2"),
    ],
)  # fmt: skip
def test_trouble_in_a_call(ask, body, kind, says, line):
    text = f"""
import numpy as np
def f(x, w, eps): {body}
def g(x): return g(x)
class E(Exception):
    def __str__(self): raise RuntimeError
class Equal:
    def __eq__(self, other): return True
    __hash__ = None
""".lstrip("\n").replace("eps): ", "eps):\n    ")
    reply = ask(text)
    assert reply.outputs is None
    assert reply.problem.kind == kind
    assert says in reply.problem.says
    assert line in reply.problem.where
    assert "minqwen" not in reply.problem.says + reply.problem.where


def test_one_number_too_few(ask):
    problem = ask("def f(x, w, eps): return x", outputs=["weights", "ids"]).problem
    assert problem.kind == "wrong type"
    assert "returned 1 value; 2 are needed: weights, ids" in problem.says


@pytest.mark.parametrize("result", ["x.tolist()", "tuple(map(tuple, x.tolist()))"])
def test_lists_are_converted_and_it_is_said(ask, result):
    reply = ask(f"def f(x, w, eps): return {result}", outputs=["y"] if "list" in result[:9] else [])
    if "tuple" in result:  # a tuple is many outputs: its first is a tuple, which is no array
        assert reply.notes or reply.problem
        return
    np.testing.assert_array_equal(reply.outputs[0], X["x"])
    assert reply.notes == ("the function returned a list: made an array of it",)


@pytest.mark.parametrize("body", ["while True: pass", "import time; time.sleep(60)"])
def test_a_hang_is_ended_and_a_new_process_goes_on(write, body):
    text = f"def f(x, w, eps):\n    if eps > 1:\n        {body}\n    return x"
    with Worker(write(text), seconds=0.4) as worker:
        start = time.monotonic()
        reply = worker.forward({**X, "eps": 2.0})
        assert reply.problem.kind == "hung"
        assert reply.problem.says == "f did not end within 0.4 s: stopped"
        assert "theirs.py, line 3" in reply.problem.where
        assert reply.printed == ""
        assert time.monotonic() - start < 4
        np.testing.assert_array_equal(worker.forward(X).outputs[0], X["x"])
        assert worker.restarts == 1


@POSIX
@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGTERM", "SIGABRT"])
def test_a_killed_process_is_told_with_its_signal(ask, name):
    kill = f"os.kill(os.getpid(), signal.{name})"
    text = f"import os, signal\ndef f(x, w, eps):\n    {kill}\n    return x"
    problem = ask(text).problem
    assert problem.kind == "killed"
    assert name in problem.says
    if name in ("SIGSEGV", "SIGABRT"):
        assert problem.where.endswith("theirs.py, line 3")


@POSIX
def test_a_stopped_process_hangs_only_itself(ask):
    text = "import os, signal\ndef f(x, w, eps): os.kill(os.getpid(), signal.SIGSTOP)"
    assert ask(text, seconds=0.4).problem.kind == "hung"


@POSIX
def test_a_process_that_dies_between_two_calls_is_replaced(write):
    text = """
    import os, threading
    def f(x, w, eps):
        if eps > 1:
            threading.Timer(0.05, os._exit, (0,)).start()
        return x
    """
    with Worker(write(text)) as worker:
        assert worker.forward({**X, "eps": 2.0}).problem is None
        time.sleep(0.3)
        assert worker.forward(X).problem is None


@LINUX
@pytest.mark.parametrize("size", ["100 << 30", "1 << 30"])
def test_memory_is_limited(write, size):
    body = f"n = {size} if eps > 1 else 3; return np.ones(n, np.uint8)"
    text = f"import numpy as np\ndef f(x, w, eps):\n    {body}"
    with Worker(write(text), memory_mb=300) as worker:
        problem = worker.forward({**X, "eps": 2.0}).problem
        assert problem.kind == "out of memory"
        assert "theirs.py, line 3" in problem.where
        assert worker.forward(X).problem is None  # in the same process
        assert worker.restarts == 0
    assert limits_here() == "time and memory are limited"


def test_outputs_may_not_be_endless(ask):
    text = "import numpy as np\ndef f(x, w, eps): return np.broadcast_to(np.uint8(0), 300 << 20)"
    problem = ask(text).problem
    assert problem == Problem("too much output", "the outputs are larger than 256 MiB")


# --- printing, descriptors, the channel ----------------------------------------------------------


def test_what_is_printed_is_kept_apart(write):
    text = """
    import os, subprocess, sys
    print("at import")
    def f(x, w, eps):
        print("one 中\\x1b[31m")
        os.write(1, b"two\\n")
        print("three", file=sys.stderr)
        os.write(2, b"\\xff\\n")
        subprocess.run([sys.executable, "-S", "-c", "print('four')"])
        return x
    """
    with Worker(write(text)) as worker:
        assert worker.forward(X).printed == "at import\none 中?[31m\ntwo\nthree\n\ufffd\nfour\n"
        assert worker.forward(X).printed == "one 中?[31m\ntwo\nthree\n\ufffd\nfour\n"
        assert worker.forward(X).problem is None


def test_long_printing_is_cut(ask):
    reply = ask("def f(x, w, eps):\n    print('ab' * 3000)\n    return x", output_bytes=1000)
    assert reply.problem is None
    assert reply.printed == "ab" * 500 + "\n... (5001 bytes more)\n"


@pytest.mark.parametrize(
    "body", ["print('a' * 2_000_000); return x", "while True: print('a' * 99)"]
)
def test_endless_printing_ends_the_call(ask, body):
    reply = ask(f"def f(x, w, eps):\n    {body}")
    assert reply.problem.kind == "too much output"
    assert reply.problem.says == "f printed more than 1 MiB: stopped"
    assert len(reply.printed) < 70_000


@pytest.mark.parametrize(
    "body",
    [
        "sys.stdout.close(); sys.stderr.close(); sys.stdin.close()",
        "os.close(0); os.close(1); os.close(2)",
        "sys.stdout = sys.stderr = None",
        "del sys.stdout",
        "os.dup2(os.open(os.devnull, os.O_WRONLY), 1)",
    ],
)
def test_closed_streams_do_no_harm(write, body):
    text = f"import os, sys\ndef f(x, w, eps):\n    print('a')\n    {body}\n    return x"
    with Worker(write(text)) as worker:
        for _ in range(2):
            reply = worker.forward(X)
            assert reply.problem is None
            assert reply.printed == "a\n"


def test_a_thread_that_goes_on_printing(write):
    text = """
    import threading, time
    def chat():
        while True:
            print("a")
            time.sleep(0.0002)
    def f(x, w, eps):
        if eps < 1:
            for _ in range(4):
                threading.Thread(target=chat, daemon=True).start()
        return x
    """
    with Worker(write(text)) as worker:
        for i in range(100):
            reply = worker.forward({**X, "eps": float(i)})
            assert reply.problem is None
            assert set(reply.printed) <= {"a", "\n"}
        assert worker.restarts == 0


CHANNEL = """
import os
def channel():
    low = min(n for n in map(int, os.listdir("/proc/self/fd")) if n >= 100)
    return low + 1  # requests, replies, prints
"""


@LINUX
@pytest.mark.parametrize(
    "junk",
    [
        "b'hello'",
        "b'MQ6\\n' + b'\\xff' * 12",
        "b'MQ6\\n' + bytes(12)",
        "b'MQ6\\n\\2\\0\\0\\0' + bytes(8) + b'{}'",
    ],
)  # fmt: skip
def test_junk_in_the_channel_damages_one_reply(write, junk):
    text = (
        f"{CHANNEL}\ndef f(x, w, eps):\n    if eps > 1: os.write(channel(), {junk})\n    return x"
    )
    with Worker(write(text)) as worker:
        reply = worker.forward({**X, "eps": 2.0})
        assert reply.problem.kind == "reply damaged"
        assert reply.outputs is None
        np.testing.assert_array_equal(worker.forward(X).outputs[0], X["x"])


@LINUX
def test_a_closed_channel(write):
    text = "import os\ndef f(x, w, eps):\n    os.closerange(3, 1000)\n    return x"
    with Worker(write(text), seconds=1) as worker:
        assert worker.forward(X).problem == Problem(
            "reply damaged", "f closed the descriptor of the replies"
        )


@LINUX
@pytest.mark.parametrize("right_id", [True, False])
def test_a_forged_reply_is_only_numbers(write, right_id):
    """It can choose its numbers, which any function can; it cannot say that they are right."""
    text = f"""{CHANNEL}
import sys
import numpy as np
from minqwen.check.outside.messages import Reply, pack, write_reply
def f(x, w, eps):
    frame = sys._getframe()
    while "header" not in frame.f_locals:
        frame = frame.f_back
    while frame.f_back and frame.f_back.f_locals.get("header"):
        frame = frame.f_back
    arrays = []
    reply = write_reply(Reply((np.full((2, 3), 7.0),), ("float64",)), arrays)
    number = frame.f_locals["header"]["id"] if {right_id} else 1
    os.write(channel(), pack({{"id": number, "replies": [reply]}}, arrays))
    os._exit(0)
"""
    with Worker(write(text)) as worker:
        reply = worker.forward(X)
        if right_id:
            assert reply.outputs[0].tolist() == [[7.0] * 3] * 2
        else:
            assert reply.problem.kind in ("exited", "reply damaged")
        assert worker.forward(X) is not None


def test_patching_numpy_deceives_nobody(ask):
    text = """
    import json
    import numpy as np
    np.allclose = np.array_equal = np.isclose = lambda *a, **k: True
    np.testing.assert_allclose = np.testing.assert_array_equal = lambda *a, **k: None
    class Array(np.ndarray):
        def __sub__(self, other):
            return np.zeros(self.shape)
        __eq__ = __rsub__ = __sub__
    def f(x, w, eps):
        return (0 * x).view(Array)
    """
    reply = ask(text)
    assert type(reply.outputs[0]) is np.ndarray
    assert not np.allclose(reply.outputs[0], right())
    assert np.abs(right() - reply.outputs[0]).max() > 1


def test_a_file_that_breaks_the_tools_of_its_own_process(ask):
    reply = ask("import json\njson.dumps = None\ndef f(x, w, eps): return x")
    assert reply.problem.kind in ("exited", "reply damaged")
    reply = ask("import numpy as np\ndef f(x, w, eps):\n    np.array = None\n    return x")
    assert reply.problem.kind in ("raised", "wrong type", "reply damaged")


@LINUX
def test_reading_the_memory_of_the_checker_does_it_no_harm(write):
    """It is possible (same user); so the checker keeps no answer while a Worker lives."""
    text = """
    import os
    def f(x, w, eps):
        try:
            checker = f"/proc/{os.getppid()}/"
            with open(checker + "maps") as maps, open(checker + "mem", "rb") as mem:
                start, _, stop = maps.readline().split()[0].partition("-")
                mem.seek(int(start, 16))
                mem.read(100)
        except OSError:
            pass
        return x
    """
    with Worker(write(text)) as worker:
        for _ in range(2):
            np.testing.assert_array_equal(worker.forward(X).outputs[0], X["x"])


# --- processes and threads -----------------------------------------------------------------------


@POSIX
def test_a_fork_answers_once(write):
    text = "import os\ndef f(x, w, eps):\n    os.fork()\n    return x + eps"
    with Worker(write(text)) as worker:
        for eps in (0.0, 1.0, 2.0):
            reply = worker.forward({**X, "eps": eps})
            np.testing.assert_array_equal(reply.outputs[0], X["x"] + eps)


@LINUX
@pytest.mark.parametrize("end", ["return x", "os._exit(1)", "time.sleep(60)"])
def test_children_are_ended_with_the_process(write, tmp_path, end):
    text = f"""
    import os, time, subprocess
    def f(x, w, eps):
        pids = [subprocess.Popen(["sleep", "60"]).pid]
        pids.append(subprocess.Popen(["sleep", "60"], start_new_session=True).pid)
        pids.append(os.fork())
        if not pids[2]:
            time.sleep(60)
        with open({str(tmp_path / "pids")!r}, "w") as file:
            file.write(" ".join(map(str, pids)))
        {end}
    """
    with Worker(write(text), seconds=0.5) as worker:
        problem = worker.forward(X).problem
        assert (problem and problem.kind) == {"r": None, "o": "exited", "t": "hung"}[end[0]]
    pids = (tmp_path / "pids").read_text(encoding="utf-8").split()
    assert len(pids) == 3
    wait_until(lambda: not any(map(alive, pids)))


def test_no_thread_or_descriptor_is_left(write):
    target = write(GOOD)
    with Worker(target) as worker:
        worker.forward(X)
    before = threading.active_count()
    count = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
    for _ in range(3):
        with Worker(target) as worker:
            worker.forward(X)
    assert threading.active_count() == before
    if sys.platform == "linux":
        assert len(os.listdir("/proc/self/fd")) == count


def test_one_thread_in_the_array_libraries_and_no_bytecode(ask):
    text = """
    import os, sys
    def f(x, w, eps):
        return float(os.environ["OMP_NUM_THREADS"]) + float(os.environ["OPENBLAS_NUM_THREADS"])
    """
    assert ask(text).outputs[0] == 2


def test_busy_threads_end_with_the_clock(ask):
    text = """
    import threading
    def busy():
        while True: pass
    def f(x, w, eps):
        threads = [threading.Thread(target=busy) for _ in range(20)]
        for t in threads: t.start()
        for t in threads: t.join()
    """
    assert ask(text, seconds=0.4).problem.kind == "hung"


@POSIX
@pytest.mark.parametrize(
    ("code", "sign"),
    [
        pytest.param("w.limit_call(0.1)\nwhile True: pass", "SIGXCPU", marks=pytest.mark.slow),
        ("w.ALARM_AFTER = 0.0\nw.limit_call(0.1)\ntime.sleep(60)", "SIGALRM"),
        ("w.limit_call(0.1)\nw.limit_call(None)\ntime.sleep(0.2)", None),
    ],
)
def test_the_process_limits_itself_when_the_checker_is_gone(code, sign):
    import signal

    text = f"import time\nfrom minqwen.check.outside import worker_main as w\n{code}"
    done = subprocess.run([sys.executable, "-c", text], cwd=os.getcwd(), timeout=20)
    assert -done.returncode == (getattr(signal, sign) if sign else 0)


def test_processor_time_is_told_as_a_hang(write):
    worker = Worker(write(GOOD))
    problem = worker._problem("ended", None, -24, 3.0, "", False)
    assert problem.kind == "hung"
    assert "6 s of processor time" in problem.says


@POSIX
def test_an_alarm_of_their_own_is_not_told_as_a_hang(write):
    text = """
    import signal, time
    signal.signal(signal.SIGALRM, lambda *_: None)
    def f(x, w, eps):
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        time.sleep(5)
    """
    with Worker(write(text)) as worker:
        problem = worker.forward(X).problem
    assert problem.kind == "killed"
    assert "f set an alarm (SIGALRM) that ended its process" in problem.says


# --- in this process, and what is refused --------------------------------------------------------


def test_in_process_gives_the_same_replies(write):
    def f(x, w, eps):
        if eps > 1:
            raise ValueError("eps")
        x += 0
        return x * w, None

    with InProcess(f) as function:
        reply = function.forward(X, "float32")
        assert reply.dtypes == ("float32",)
        assert reply.seconds > 0
        np.testing.assert_array_equal(reply.outputs[0], X["x"] * X["w"])
        problem = function.forward({**X, "eps": 2.0}).problem
    assert problem.kind == "raised"
    assert problem.says.endswith("f raised ValueError: eps")
    assert "test_worker.py, line" in problem.where
    assert 'raise ValueError("eps")' in problem.where


def test_ctrl_c_is_for_the_user_in_process():
    def f(x):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        InProcess(f).forward({"x": np.ones(1)})


@POSIX
def test_ctrl_c_ends_the_wait_and_the_process(write):
    import signal

    with Worker(write("def f(x):\n    while True: pass")) as worker:
        worker._ready()
        timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            worker.forward({"x": np.ones(1)})
        timer.join()
        assert worker._process is None


@pytest.mark.parametrize(
    "maker", [lambda **k: Worker("a.py:f", **k), lambda **k: InProcess(len, **k)]
)
def test_an_unknown_framework_is_refused(maker):
    with pytest.raises(ValueError, match="no framework 'keras'; there are numpy, torch"):
        maker(framework="keras")


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="seconds must be above 0"):
        Worker("a.py:f", seconds=0)
    for seconds in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="seconds must be above 0 and finite"):
            Worker("a.py:f", seconds=seconds)
    with pytest.raises(ValueError, match="memory_mb must be at least 1, got -5"):
        Worker("a.py:f", memory_mb=-5)
    with pytest.raises(ValueError, match="no floating dtype 'float8'"):
        Worker("a.py:f").forward(X, "float8")
    with pytest.raises(TypeError, match="a set cannot be handed"):
        Worker("a.py:f").forward({"x": {1}})


def test_targets_are_split_at_the_last_colon():
    assert split_target("a/b.py:f") == ("a/b.py", "f")
    assert split_target("C:\\b.py") == ("C:\\b.py", "")
    assert split_target("a.b:C.f") == ("a.b", "C.f")
    assert is_file("a/b")
    assert not is_file("a.b")


def test_the_worker_is_quick(write):
    """Loose, as tests run beside others: a start is about 0.2 s, a call about 1 ms."""
    with Worker(write(GOOD)) as worker:
        worker.forward(X)
        start = time.perf_counter()
        for _ in range(20):
            worker.forward(X)
        assert (time.perf_counter() - start) / 20 < 0.1
    assert worker_main.CHANNEL_GONE not in (0, 1, 2)
