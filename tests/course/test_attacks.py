"""Nothing that a submission does earns a point that its honest version does not, or stops the run.

Each attack is the same wrong RMSNorm (it subtracts the mean) with a trick beside it.
"""

import json
import sys
import tempfile
import textwrap

import numpy as np
import pytest
from course.grading import assignment, graded

import minqwen.layers.rmsnorm
from minqwen.course import batch
from minqwen.course.assignment import write_assignment

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the guards of the system are Linux's")
TASK = assignment("rmsnorm")
WRONG = """
import numpy as np

def rmsnorm_forward(x, w, eps=1e-6):
    HOOK
    c = x - x.mean(axis=-1, keepdims=True)
    r = 1 / np.sqrt((c * c).mean(axis=-1, keepdims=True) + eps)
    return (c * r * w).astype(x.dtype), (x, w, r)

def rmsnorm_backward(dy, cache):
    x, w, r = cache
    return dy * w * r, (dy * x * r).reshape(-1, x.shape[-1]).sum(axis=0)
"""


def wrong(before="", hook="pass", after=""):
    """Return the wrong file with code before, inside and after the functions."""
    parts = [textwrap.dedent(before), WRONG.replace("HOOK", hook), textwrap.dedent(after)]
    return {"rmsnorm.py": "\n".join(parts)}


@pytest.fixture(scope="module")
def honest():
    """The points of the wrong file without tricks, row by row."""
    found = graded(wrong(), TASK)
    assert 0 < found.points < 60
    return {row.aspect: row.points for row in found.rows}


def assert_gains_nothing(files, honest, **options):
    found = graded(files, TASK, **options)
    got = {row.aspect: row.points for row in found.rows}
    assert got.keys() == honest.keys()
    for aspect, points in got.items():
        assert points <= honest[aspect], (aspect, found.diagnosis)
    assert all(row.says for row in found.rows)
    return found


# --- taking the answer ---------------------------------------------------------------------------

WAYS = '''
import builtins, ctypes, gc, importlib, importlib.machinery, inspect, io, linecache, mmap, os
import pathlib, runpy, shutil, socket, subprocess, sys, zipimport

ANSWER, HIDDEN, SAFE, GRADER = @ANSWER, @HIDDEN, @SAFE, @GRADER

def read_open(): return open(ANSWER).read()
def read_os(): return os.read(os.open(ANSWER, os.O_RDONLY), 10**6).decode()
def read_path(): return pathlib.Path(ANSWER).read_text()
def read_open_code(): return io.open_code(ANSWER).read().decode()
def read_lines(): return "".join(linecache.getlines(ANSWER))
def read_up(): return open(os.path.join("..", "..", "..", "..", ANSWER.lstrip("/"))).read()
def read_link():
    os.symlink(ANSWER, "a_link.py")
    return open("a_link.py").read()
def read_hard_link():
    os.link(ANSWER, "hard.py")
    return open("hard.py").read()
def read_copy():
    shutil.copy(ANSWER, "copy.py")
    return open("copy.py").read()
def read_root(): return open(f"/proc/self/root{ANSWER}").read()
def read_cwd():
    os.chdir(os.path.dirname(ANSWER))
    return open("rmsnorm.py").read()
def read_c():
    libc = ctypes.CDLL(None)
    number = libc.open(ANSWER.encode(), 0)
    assert number >= 0
    text = ctypes.create_string_buffer(10**6)
    libc.read(number, text, 10**6)
    return text.value.decode()
def read_child(): return subprocess.run(["cat", ANSWER], capture_output=True).stdout.decode()
def read_shell(): return os.popen(f"cat {ANSWER}").read()
def read_fork():
    reads, writes = os.pipe()
    if os.fork() == 0:
        os.write(writes, open(ANSWER, "rb").read())
        os._exit(0)
    return os.read(reads, 10**6).decode()
def read_source(): return inspect.getsource(importlib.import_module("minqwen.layers.rmsnorm"))
def read_data():
    loader = importlib.machinery.SourceFileLoader("x", ANSWER)
    return loader.get_data(ANSWER).decode()
def read_hidden(): return open(HIDDEN).read()
def read_secret_list(): return str(os.listdir(os.path.dirname(HIDDEN)))
def read_memory():
    start = id(sys)
    with open(f"/proc/{os.getppid()}/mem", "rb") as file:
        file.seek(start)
        return file.read(100).decode("latin-1")
def read_own_memory():
    with open("/proc/self/mem", "rb") as file:
        file.seek(id(sys))
        return file.read(100).decode("latin-1")
def read_maps(): return open(f"/proc/{os.getppid()}/maps").read()
def read_arguments(): return open(f"/proc/{os.getppid()}/cmdline").read()
def read_variables(): return open(f"/proc/{os.getppid()}/environ").read()
def read_descriptors(): return str([os.readlink(f"/proc/{os.getppid()}/fd/{n}") for n in range(9)])
def read_process_memory():
    libc = ctypes.CDLL(None, use_errno=True)
    class Vector(ctypes.Structure):
        _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]
    buffer = ctypes.create_string_buffer(64)
    mine, theirs = Vector(ctypes.addressof(buffer), 64), Vector(id(sys), 64)
    count = libc.process_vm_readv(os.getppid(), ctypes.byref(mine), 1, ctypes.byref(theirs), 1, 0)
    assert count > 0
    return str(buffer.raw)
def read_trace():
    assert ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) == 0
    return "traced"
def read_network():
    socket.create_connection(("127.0.0.1", 9), 0.1)
    return "connected"
def read_socket(): return str(socket.socket(socket.AF_UNIX))
def read_kill():
    os.kill(os.getppid(), 0)
    return "reached"
def read_environment():
    return next(v for k, v in os.environ.items() if "SECRET" in k)
def read_zip():
    for place in (os.path.dirname(ANSWER), os.path.dirname(os.path.dirname(ANSWER))):
        try:
            return zipimport.zipimporter(place).get_source("rmsnorm")
        except Exception:
            pass
    raise OSError

def take_import():
    from minqwen.layers.rmsnorm import rmsnorm_forward
    return rmsnorm_forward
def take_machinery():
    sys.meta_path[:] = [importlib.machinery.PathFinder]
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(ANSWER))))
    for name in [n for n in sys.modules if n.startswith("minqwen")]:
        del sys.modules[name]
    importlib.invalidate_caches()
    return importlib.import_module("minqwen.layers.rmsnorm").rmsnorm_forward
def take_file():
    loader = importlib.machinery.SourceFileLoader("minqwen.layers.stolen", ANSWER)
    spec = importlib.util.spec_from_loader("minqwen.layers.stolen", loader)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module.rmsnorm_forward
def take_run(): return runpy.run_module("minqwen.layers.rmsnorm")["rmsnorm_forward"]
def take_cache():
    folder = os.path.join(os.path.dirname(ANSWER), "__pycache__")
    for name in os.listdir(folder):
        if name.startswith("rmsnorm."):
            loader = importlib.machinery.SourcelessFileLoader("stolen", os.path.join(folder, name))
            return loader.load_module().rmsnorm_forward
def take_neighbour():
    importlib.import_module("minqwen.model.backbone")
    return vars(sys.modules["minqwen.layers.rmsnorm"])["rmsnorm_forward"]
def take_memory():
    for one in gc.get_objects():
        if callable(one) and getattr(one, "__name__", "") == "rmsnorm_forward":
            if getattr(one, "__module__", "") != __name__:
                return one
        if isinstance(one, dict) and "rmsnorm_forward" in one:
            found = one["rmsnorm_forward"]
            if callable(found) and getattr(found, "__module__", "") not in (__name__, None):
                return found
    raise LookupError
def take_bank():
    for one in gc.get_objects():
        if isinstance(one, tuple) and any(isinstance(x, str) and "inv_rms" in x for x in one):
            raise ValueError("lines of the answer are in memory: " + str(one)[:300])
    raise LookupError
def take_frames():
    frame = sys._getframe()
    while frame is not None:
        for place in (frame.f_locals, frame.f_globals):
            found = place.get("rmsnorm_forward")
            if callable(found) and getattr(found, "__module__", "") != __name__:
                return found
        frame = frame.f_back
    raise LookupError

REFUSED = (AssertionError, ImportError, LookupError, OSError, StopIteration, AttributeError)

def run_all():
    """Try every way; what works is told, with its name."""
    x = np.arange(12.0).reshape(3, 4) + 0.5
    want = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6)
    for name, way in sorted(globals().items()):
        try:
            if name.startswith("read_"):
                text = way()
                if text:
                    SUCCESS.append(name)
            elif name.startswith("take_"):
                got = way()(x, np.ones(4), 1e-6)[0]
                if np.allclose(got, want):
                    SUCCESS.append(name)
        except ValueError as error:
            if name == "take_bank":
                SUCCESS.append(name + str(error))
        except TypeError:
            pass
        except REFUSED:
            pass

SUCCESS = []
run_all()
'''


def ways(tmp_path):
    """Return the file with every way, and the secrets that it looks for."""
    staff = tmp_path / "staff"
    staff.mkdir()
    write_assignment(TASK, staff)
    (staff / "hidden_tests.py").write_text("SEED = 7\n", encoding="utf-8")
    texts = {
        "@ANSWER": minqwen.layers.rmsnorm.__file__,
        "@HIDDEN": str(staff / "assignment.json"),
        "@SAFE": "",
        "@GRADER": batch.__file__,
    }
    code = WAYS
    for name, text in texts.items():
        code = code.replace(name, repr(text))
    # what worked becomes a message that the report shows
    code += "\nif SUCCESS:\n    raise RuntimeError('worked: ' + ', '.join(SUCCESS))\n"
    return staff, {"rmsnorm.py": WRONG.replace("HOOK", "pass") + code}


@LINUX
def test_no_way_to_the_answer_or_to_secrets_works(tmp_path, honest, monkeypatch):
    monkeypatch.setenv("COURSE_SECRET", "hunter2")
    staff, files = ways(tmp_path)
    found = assert_gains_nothing(files, honest, sandbox="system", secret=(str(staff),))
    assert "worked" not in found.diagnosis[0][1]
    assert "it runs on" in found.diagnosis[0][1]
    assert any("imports minqwen.layers.rmsnorm" in note for note in found.notes)
    assert "guarded by Linux" in found.protection


@pytest.mark.filterwarnings("ignore")  # the ways close no files
def test_the_ways_do_work_without_guards(tmp_path, monkeypatch):
    """Else the test above proves nothing."""
    monkeypatch.setenv("COURSE_SECRET", "hunter2")
    _, files = ways(tmp_path)
    code = files["rmsnorm.py"].replace("run_all()\n\nif", "if")
    place = {"__name__": "stranger", "np": np}
    exec(compile(code, "stranger", "exec"), place)
    easy = ("read_open", "read_os", "read_path", "read_c", "read_hidden", "read_environment",
            "read_source", "read_data", "read_link", "read_kill")  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for name in easy:
        assert place[name](), name
    x = np.arange(12.0).reshape(3, 4) + 0.5
    right = minqwen.layers.rmsnorm.rmsnorm_forward(x, np.ones(4), 1e-6)[0]
    for name in ("take_import", "take_file", "take_run", "take_memory", "take_neighbour"):
        np.testing.assert_array_equal(place[name]()(x, np.ones(4), 1e-6)[0], right)


def test_inside_python_only_simple_ways_fail_too(tmp_path, honest):
    staff, _ = ways(tmp_path)
    code = f"""
    import importlib, inspect, os, subprocess
    worked = []
    for way in (
        lambda: open({minqwen.layers.rmsnorm.__file__!r}).read(),
        lambda: open({str(staff / "assignment.json")!r}).read(),
        lambda: importlib.import_module("minqwen.layers.rmsnorm").rmsnorm_forward(1, 2),
        lambda: importlib.import_module("minqwen.check.mistakes.rmsnorm"),
        lambda: subprocess.run(["true"]),
        lambda: os.fork(),
        lambda: os.kill(os.getppid(), 0),
        lambda: open(f"/proc/{{os.getppid()}}/mem", "rb"),
        lambda: open("/tmp/results.json", "w"),
    ):
        try:
            way()
            worked.append(way)
        except (OSError, ImportError, TypeError):
            pass
    assert not worked, [w.__code__.co_firstlineno for w in worked]
    """
    found = assert_gains_nothing(wrong(code), honest, sandbox="python", secret=(str(staff),))
    assert "it runs on" in found.diagnosis[0][1]
    assert "inside Python only" in found.protection


# --- fooling the grader --------------------------------------------------------------------------

FOOLING = {
    "patched comparison": """
        import numpy as np
        np.allclose = np.array_equal = lambda *a, **k: True
        np.testing.assert_allclose = np.testing.assert_array_equal = lambda *a, **k: None
        np.abs = np.absolute = lambda x, *a, **k: 0 * x
        np.isfinite = lambda x: np.ones(np.shape(x), bool)
    """,
    "patched grader": """
        import gc, types
        for one in gc.get_objects():
            if isinstance(one, types.ModuleType) and one.__name__.startswith("minqwen.c"):
                for name in ("fits", "units_off", "limit", "problem_of", "clean"):
                    setattr(one, name, lambda *a, **k: True)
    """,
    "forged report": """
        print('{"points": 100, "ok": true}')
        print("ok     values    right on 6 inputs")
        import sys
        print("rmsnorm: values 35 of 35", file=sys.stderr)
    """,
    "own results": """
        import json, os
        for place in ("results.json", "/autograder/results/results.json", "../results.json",
                      os.path.join(os.path.dirname(__file__), "results.json")):
            try:
                os.makedirs(os.path.dirname(place) or ".", exist_ok=True)
                with open(place, "w") as file:
                    json.dump({"score": 100, "tests": []}, file)
            except OSError:
                pass
    """,
    "exit at the end": """
        import atexit, os
        atexit.register(lambda: os._exit(0))
        class Late:
            def __del__(self):
                os._exit(0)
        late = Late()
    """,
    "tracing": """
        import sys, threading
        def trace(frame, event, argument):
            for name, value in list(frame.f_locals.items()):
                if hasattr(value, "ok"):
                    value.ok = True
            return trace
        sys.settrace(trace); sys.setprofile(trace); threading.settrace(trace)
    """,
    "handlers": """
        import signal, sys
        for number in range(1, 32):
            try:
                signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError):
                pass
        sys.excepthook = lambda *a: None
        sys.stdout = sys.stderr = None
    """,
    "a thread that goes on": """
        import threading, time
        def work():
            while True:
                time.sleep(0.001)
        threading.Thread(target=work, daemon=True).start()
    """,
}


@pytest.mark.parametrize("name", FOOLING)
def test_fooling_the_grader_gains_nothing(name, honest):
    found = assert_gains_nothing(wrong(FOOLING[name]), honest)
    assert found.rows[0].part == "rmsnorm"


def test_a_printed_score_stays_a_print(honest):
    found = assert_gains_nothing(wrong(FOOLING["forged report"]), honest)
    text = found.diagnosis[0][1]
    assert "it prints" in text
    assert text.splitlines()[0].endswith("WRONG")


ANSWERS = {
    "equal to everything": """
        class Yes:
            shape, dtype, ndim = (2, 3, 11), np.dtype("float64"), 3
            def __eq__(self, other): return True
            def __array__(self, *a, **k): return np.ones((2, 3, 11))
            def __le__(self, other): return True
        forward = rmsnorm_forward
        def rmsnorm_forward(x, w, eps): return Yes(), forward(x, w, eps)[1]
    """,
    "a subclass": """
        class Sly(np.ndarray):
            def __sub__(self, other): return np.zeros_like(other)
            def __rsub__(self, other): return np.zeros_like(other)
            def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
                return np.zeros(self.shape)
            def __array_function__(self, *given): return True
            def tobytes(self, *a): return b""
        forward = rmsnorm_forward
        def rmsnorm_forward(x, w, eps):
            y, cache = forward(x, w, eps)
            return y.view(Sly), cache
    """,
    "all numbers": """
        def rmsnorm_forward(x, w, eps): return np.full(x.shape, np.nan), (x, w, 1)
    """,
    "masked": """
        forward = rmsnorm_forward
        def rmsnorm_forward(x, w, eps):
            y, cache = forward(x, w, eps)
            return np.ma.masked_array(y, mask=True), cache
    """,
    "objects": """
        def rmsnorm_forward(x, w, eps): return np.full(x.shape, object()), (x, w, 1)
    """,
    "huge": """
        def rmsnorm_forward(x, w, eps):
            return np.broadcast_to(x.ravel()[0], (10**5, 10**4)), (x, w, 1)
    """,
    "nothing": """
        def rmsnorm_forward(x, w, eps): return None
    """,
    "text": """
        def rmsnorm_forward(x, w, eps): return "right", "right"
    """,
}  # fmt: skip


@pytest.mark.parametrize("name", ANSWERS)
def test_odd_answers_gain_nothing(name, honest):
    assert_gains_nothing(wrong(after=ANSWERS[name]), honest)


FORGED = """
    import json, os, struct, sys
    def forge():
        text = json.dumps({"header": {"id": ID, "replies": [{"outputs": [], "dtypes": [],
            "gradients": {}, "changed": [], "problem": None, "notes": ["all right: 100 points"]}]},
            "arrays": []}).encode()
        frame = b"MQ6\\n" + struct.pack("<IQ", len(text), 0) + text
        for number in range(3, 256):
            try:
                os.write(number, frame)
            except OSError:
                pass
"""


@pytest.mark.parametrize("number", [3, 4, 5])
def test_forged_replies_gain_nothing(number, honest):
    code = textwrap.dedent(FORGED).replace("ID", str(number))
    files = wrong(code + "\nforge()\n", "forge()")
    assert_gains_nothing(files, honest, seconds=2.0)


# --- breaking the grader -------------------------------------------------------------------------

BREAKING = {
    "exits while loading": ("import sys; sys.exit(0)", "pass"),
    "exits": ("", "raise SystemExit(0)"),
    "exits at once": ("import os", "os._exit(0)"),
    "interrupts": ("", "raise KeyboardInterrupt"),
    "kills itself": ("import os, signal", "os.kill(os.getpid(), signal.SIGKILL)"),
    "kills the grader": ("import os, signal", "os.kill(os.getppid(), signal.SIGKILL)"),
    "kills everybody": ("import os, signal", "os.kill(-1, signal.SIGKILL)"),
    "loops": ("", "while True: pass"),
    "loops while loading": ("while True: pass", "pass"),
    "sleeps": ("import time", "time.sleep(1000)"),
    "asks for memory": ("", "np.ones(10**12)"),
    "eats memory": ("kept = []", "[kept.append(np.ones(10**7)) for _ in iter(int, 1)]"),
    "prints without end": ("", "[print('y' * 10**6) for _ in iter(int, 1)]"),
    "forks": ("import os", "os.fork()"),
    "fork storm": ("import os", "[os.fork() for _ in iter(int, 1)]"),
    "thread storm": (
        "import threading, time",
        "[threading.Thread(target=time.sleep, args=(99,)).start() for _ in range(9**9)]",
    ),
    "recursion": ("", "rmsnorm_forward(x, w, eps)"),
    "crashes": ("import ctypes", "ctypes.string_at(0)"),
    "closes descriptors": ("import os", "os.closerange(0, 1000)"),
    "removes its files": ("import os", "os.remove(__file__)"),
    "writes a lot": ("", "open('big', 'wb').write(b'0' * 10**9)"),
    "waits for input": ("", "input()"),
    "no valid Python": ("def f(:", "pass"),
    "an error while loading": ("1 / 0", "pass"),
    "an error that cannot be printed": (
        "class E(Exception):\n    def __str__(self): raise ValueError\n", "raise E"
    ),
}  # fmt: skip


SLOW = ("eats memory", "sleeps", "loops while loading", "loops", "recursion", "prints without end",
        "thread storm", "fork storm", "kills everybody", "asks for memory")  # fmt: skip
EACH = [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in BREAKING]


@pytest.mark.parametrize("name", EACH)
def test_breaking_the_grader_gains_nothing(name, honest):
    before, hook = BREAKING[name]
    found = assert_gains_nothing(wrong(before, hook), honest, seconds=1.0, memory_mb=512)
    assert len(found.rows) == 6


FILLS = {
    "a full disk": "for n in iter(lambda: __import__('random').random(), 1):\n"
    "        open(str(n), 'wb').write(b'0' * 10**7)",
    "many files": "[open(str(n), 'w').close() for n in range(10**7)]",
    "deep folders": "[(__import__('os').mkdir('d'), __import__('os').chdir('d')) "
    "for n in range(3000)]",
    "closed folders": "__import__('os').makedirs('a/b', mode=0)",
}


@LINUX
@pytest.mark.parametrize("name", FILLS)
def test_what_it_writes_is_bounded_and_gone(name, honest, monkeypatch):
    from minqwen.course import scratch_watch

    monkeypatch.setattr(scratch_watch, "MOST_BYTES", 20 << 20)
    monkeypatch.setattr(scratch_watch, "MOST_ENTRIES", 200)
    found = assert_gains_nothing(wrong(hook=FILLS[name]), honest, seconds=5.0)
    stopped = any("it wrote more than" in note for note in found.notes)
    assert stopped == (name != "closed folders")


def test_files_that_it_leaves_are_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    graded(wrong(hook="open('left', 'w').write('x')"), TASK)
    assert list(tmp_path.iterdir()) == []


def test_the_result_is_the_same_each_time():
    from minqwen.course.results import to_dict

    for files in (
        wrong("import os; print(__file__, os.getcwd())"),
        wrong(hook="1 / 0"),
        {"rmsnorm.py": "import nowhere\ndef rmsnorm_forward(): ..."},
    ):
        one, two = (json.dumps(to_dict(graded(files, TASK))) for _ in range(2))
        assert one == two
        assert "minqwen-" not in one
