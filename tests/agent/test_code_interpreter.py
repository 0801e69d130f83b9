"""A code interpreter does what a model needs: state, values, errors, plots, limits of time."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import minqwen
from minqwen.agent.code_interpreter import CodeInterpreter, code_interpreter_tool
from minqwen.agent.kernel.kernel_limits import Limits
from minqwen.agent.kernel.process_table import descendants
from minqwen.agent.tool import call_tool, make_tools

pytest.importorskip("ipykernel")
pytest.importorskip("jupyter_client")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="guards and limits are those of Linux"),
]
LIMITS = Limits(seconds=20, output_characters=400)


def processes_of(folder):
    """Processes whose environment names the folder as their home, wherever they ran to."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                environment = Path(f"/proc/{name}/environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if f"HOME={folder}".encode() in environment:
                found.append(int(name))
    return found


@pytest.fixture(scope="module")
def interpreter(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    before = descendants(os.getpid())  # other tests may have left helpers of multiprocessing
    with CodeInterpreter(folder, limits=LIMITS) as interpreter:
        yield interpreter
    assert processes_of(interpreter.folder) == []
    assert descendants(os.getpid()).keys() <= before.keys()


def test_it_counts_what_is_its_own(interpreter):
    assert processes_of(interpreter.folder)  # or the check at the end shows nothing
    assert len(descendants(os.getpid())) >= 2


def test_values_prints_and_state(interpreter):
    assert interpreter.run("2 + 3") == ("5", False, ())
    assert interpreter.run("x = 5\nprint('hi')\nx").text == "hi\n5"
    assert interpreter.run("x + 1").text == "6"
    assert interpreter.run("y = 1").text == "The code ran and printed nothing."
    assert interpreter.run("").error is False


def test_an_error_is_an_observation_and_state_stays(interpreter):
    seen = interpreter.run("z = 9\ndef f(n):\n    return f(n - 1) if n else 1 / 0\nf(8)")
    assert seen.error
    assert seen.text.endswith("ZeroDivisionError: division by zero")
    assert "frames left out" in seen.text
    assert "\x1b" not in seen.text
    assert "site-packages" not in seen.text
    assert interpreter.run("z").text == "9"
    assert "SyntaxError" in interpreter.run("if").text


def test_output_before_an_error_is_kept(interpreter):
    assert interpreter.run("print('before')\nraise KeyError(3)").text.startswith(
        "before\nTraceback"
    )


def test_what_programs_print_is_seen(interpreter):
    assert interpreter.run("import os\nos.write(1, b'raw\\n')\nNone").text == "raw"


def test_long_output_is_cut_in_the_middle(interpreter):
    seen = interpreter.run("print('a' * 5000)\nprint('z' * 5000)")
    assert seen.text.startswith("a" * 200)
    assert seen.text.endswith("z" * 199)
    assert "characters left out" in seen.text
    assert len(seen.text) < 500
    assert interpreter.run("print('a' * 5000)\n6 * 7").text.endswith("aaa\n42")  # last as ever
    assert len(interpreter.run("'v' * 10**6").text) < 700
    huge = interpreter.run("print('a' * 10**8)\nraise ValueError('b' * 10**7)")
    assert "99999601 characters left out" in huge.text  # cut before it is sent, not lost
    assert "ValueError: bbb" in huge.text


def test_what_was_printed_fills_no_memory(interpreter):
    """IPython keeps it for a history that nobody reads: 200 MB here."""
    seen = interpreter.run(
        "import resource, sys\n"
        "most = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = most()\n"
        "for k in range(10_000):\n"
        "    print('y' * 10_000)\n"
        "    sys.stderr.write('z' * 10_000) and None\n"
        "(most() - before) // 1024"
    )
    assert int(seen.text.rpartition("\n")[2]) < 30  # MiB


def test_a_stream_that_was_replaced_is_put_back(interpreter):
    """Else the model would see nothing any more, and not know why."""
    interpreter.run("import io, sys\nsys.stdout = kept = io.StringIO()\nprint('kept')")
    assert interpreter.run("print('seen')\nkept.getvalue()").text == "seen\n'kept\\n'"
    interpreter.run("sys.stdout = sys.stderr = None")
    assert interpreter.run("print('seen')") == ("seen", False, ())


def test_every_alphabet_and_no_alphabet(interpreter):
    assert interpreter.run("print('日本 😀 é')").text == "日本 😀 é"
    interpreter.run("print('\\ud800')").text.encode("utf-8")
    assert interpreter.run("print('\ud800')") == ("?", False, ())  # in the code itself
    seen = interpreter.run("import os\nos.write(1, bytes(range(256)))\nNone")
    assert "ABC" in seen.text
    seen.text.encode("utf-8")


def test_input_is_an_error_at_once(interpreter):
    begin = time.monotonic()
    seen = interpreter.run("input('name? ')")
    assert seen.error
    assert "StdinNotImplementedError" in seen.text
    assert time.monotonic() - begin < 10


def test_an_error_of_a_million_lines_is_short(interpreter):
    seen = interpreter.run("raise ValueError('line\\n' * 10**6)")
    assert seen.error
    assert len(seen.text) < 3000
    assert "ValueError: line" in seen.text


def test_files_that_were_written_are_named(interpreter):
    seen = interpreter.run("open('table.csv', 'w').write('1,2')\nNone")
    assert seen.files == (f"{interpreter.folder}/table.csv",)
    assert Path(seen.files[0]).read_text(encoding="utf-8") == "1,2"
    assert interpreter.run("open('table.csv').read()").files == ()
    linked = interpreter.run("import os\nos.symlink('/etc/passwd', 'link.csv')")
    assert linked.files == ()


def test_a_plot_is_a_file(interpreter):
    pytest.importorskip("matplotlib")
    seen = interpreter.run("import matplotlib.pyplot as plt\nplt.plot([1, 3, 2])\nplt.show()")
    assert not seen.error, seen.text
    assert seen.text.startswith("[plot: plot_1.png]")
    assert Path(seen.files[0]).read_bytes().startswith(b"\x89PNG")
    assert interpreter.run("plt.plot([1])\nNone").text == "[plot: plot_2.png]"  # without show


def test_two_threads_take_turns(interpreter):
    seen = {}

    def ask(n):
        seen[n] = interpreter.run(f"import time\nk = {n}\ntime.sleep(0.05)\nk").text

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {n: str(n) for n in range(4)}


def test_what_outlives_a_call_stands_still(interpreter):
    beat = Path(interpreter.folder, "beat")
    interpreter.run(
        "import threading, time\n"
        "def beats():\n"
        "    for k in range(10**6):\n"
        "        open('beat', 'a').write('x')\n"
        "        time.sleep(0.005)\n"
        "threading.Thread(target=beats, daemon=True).start()\n"
        "time.sleep(0.1)"
    )
    first = beat.read_text(encoding="utf-8")
    time.sleep(0.2)
    assert beat.read_text(encoding="utf-8") == first
    interpreter.run("time.sleep(0.1)")
    assert len(beat.read_text(encoding="utf-8")) > len(first) > 0


def test_the_tool_takes_bare_code(interpreter):
    tools = make_tools([code_interpreter_tool(interpreter)])
    fenced = "```py\nprint(6 * 7)\n```"
    assert call_tool(tools, "code_interpreter", fenced).text == "42"
    assert call_tool(tools, "code_interpreter", '{"code": "6 * 7"}').text == "42"


def test_the_time_limit_and_the_end_of_the_kernel(tmp_path):
    limits = Limits(seconds=1, grace_seconds=1)
    with CodeInterpreter(tmp_path, limits=limits) as interpreter:
        seen = interpreter.run("x = 3\nimport time\nwhile True:\n    time.sleep(0.01)")
        assert seen.error
        assert "TimeoutError: the code ran longer than 1 seconds and was interrupted" in seen.text
        assert interpreter.run("x").text == "3"

        deaf = (
            "import time\n"
            "while True:\n"
            "    try:\n"
            "        time.sleep(9)\n"
            "    except BaseException:\n"
            "        pass"
        )
        seen = interpreter.run(deaf)
        assert seen.error
        assert "did not stop" in seen.text
        assert "are lost" in seen.text
        assert "NameError" in interpreter.run("x").text

        seen = interpreter.run("open('ran', 'a').write('once ')\nimport os\nos._exit(3)")
        assert seen.error
        assert "exit code 3" in seen.text
        assert "are lost" in seen.text
        assert (tmp_path / "ran").read_text(encoding="utf-8") == "once "  # never run a second time
        assert interpreter.run("1 + 1") == ("2", False, ())

        # it ends during its pause, or before the next call: said then, and the call is answered
        os.kill(processes_of(interpreter.folder)[-1], 9)
        time.sleep(0.3)
        seen = interpreter.run("1 + 2")
        assert seen.text.endswith("3")
        assert "are lost" in seen.text
        assert not seen.error
    assert processes_of(interpreter.folder) == []


def test_an_interrupt_of_ours_ends_the_code(tmp_path, monkeypatch):
    with CodeInterpreter(tmp_path) as interpreter:
        kernel = interpreter._kernel
        hear = interpreter._hear

        def control_c(connection, request, answer, seconds):
            if seconds == interpreter.limits.seconds:
                raise KeyboardInterrupt
            return hear(connection, request, answer, seconds)

        monkeypatch.setattr(interpreter, "_hear", control_c)
        with pytest.raises(KeyboardInterrupt):
            interpreter.run("import time\ntime.sleep(100)")
        assert processes_of(interpreter.folder) == []
        monkeypatch.undo()
        assert interpreter.run("4").text.endswith("4")
        assert interpreter._kernel is not kernel


def test_nothing_is_left_when_our_program_is_killed(tmp_path):
    code = (
        "import sys, os, signal; sys.path.insert(0, sys.argv[1])\n"
        "from minqwen.agent.code_interpreter import CodeInterpreter\n"
        "interpreter = CodeInterpreter(sys.argv[2])\n"
        "print(interpreter._kernel._runtime, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = str(Path(minqwen.__file__).parents[1])
    folder = tmp_path / "work"
    command = [sys.executable, "-c", code, root, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == -9
    for _ in range(100):
        if not processes_of(folder) and not Path(done.stdout.strip()).exists():
            break
        time.sleep(0.05)
    assert processes_of(folder) == []
    assert not Path(done.stdout.strip()).exists()


def test_what_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"limits\.seconds must be positive"):
        CodeInterpreter(tmp_path, limits=Limits(seconds=0))
    with pytest.raises(ValueError, match="without must name guards"):
        CodeInterpreter(tmp_path, without=("sandbox",))
    with pytest.raises(OSError, match=r"without limits on network.*--unsafe"):
        CodeInterpreter(tmp_path, without=("seccomp",))
    with pytest.raises(ValueError, match=r"limits\.seconds must be positive, got nan"):
        CodeInterpreter(tmp_path, limits=Limits(seconds=float("nan")))
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for folder in (home, tmp_path):
        with pytest.raises(ValueError, match="your home"):
            CodeInterpreter(folder)
    package = Path(minqwen.__file__).parent
    for folder in (package, package / "agent" / "tools", package.parent, "/"):
        with pytest.raises(ValueError, match="this program"):
            CodeInterpreter(folder)
    with pytest.raises(ValueError, match="Python"):
        CodeInterpreter(sys.prefix)
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr("minqwen.agent.code_interpreter.missing_limits", lambda: ("memory",))
    with pytest.raises(OSError, match=r"without limits on memory.*--unsafe"):
        CodeInterpreter(tmp_path)


def test_a_name_that_prints_as_another_is_not_given(interpreter):
    """What is left of it without its colours is a link to outside, or the folder above."""
    seen = interpreter.run(
        "import os\nos.symlink('/etc/passwd', 'chart.png')\n"
        "for name in ('chart\\x1b[m.png', '\\x1b[m..', 'a\\nb', '\\ud800'):\n"
        "    open(os.fsencode(name) if name < '\\ud800' else b'\\xff', 'w').close()\n"
        "open('plain 图.png', 'w').close()"
    )
    files = [file for file in seen.files if not file.endswith("/beat")]  # of the test above
    assert files == [f"{interpreter.folder}/plain 图.png"]


def test_output_gives_a_terminal_no_orders(interpreter):
    orders = "\\x1b]0;title\\x07b\\x08\\x00\\x9b31m\\x7f"
    seen = interpreter.run(f"print('a{orders}\\r\\n50%\\r100%\\tc')")
    assert seen.text == "a]0;titleb31m\n50%\n100%\tc"


def test_a_user_without_a_home_and_a_folder_with_blanks(tmp_path, monkeypatch):
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    with CodeInterpreter(tmp_path / "an odd 文件夹", limits=LIMITS) as interpreter:
        seen = interpreter.run("open('x', 'w').close()\n1 + 1")
    assert seen == ("2", False, (f"{interpreter.folder}/x",))


def test_temporary_files_with_a_long_path(tmp_path, monkeypatch):
    """The path of a socket would be too long."""
    place = tmp_path / ("long" * 20)
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    with CodeInterpreter(tmp_path / "work", limits=LIMITS) as interpreter:
        assert interpreter.run("6 * 7").text == "42"


@pytest.mark.filterwarnings("ignore:.*fork")  # JAX warns too, where other tests loaded it
def test_a_forked_child_of_ours_does_not_keep_it_alive(tmp_path):
    interpreter = CodeInterpreter(tmp_path, limits=LIMITS)
    child = os.fork()
    if child == 0:
        time.sleep(30)
        os._exit(0)
    begin = time.monotonic()
    interpreter.close()
    took = time.monotonic() - begin
    os.kill(child, 9)
    os.waitpid(child, 0)
    assert took < 5
    assert processes_of(interpreter.folder) == []


def test_one_that_is_forgotten_leaves_no_process(tmp_path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from minqwen.agent.code_interpreter import CodeInterpreter\n"
        "CodeInterpreter(sys.argv[2]).run('1')\n"
    )
    root, folder = Path(minqwen.__file__).parents[1], tmp_path / "work"
    command = [sys.executable, "-c", code, str(root), str(folder)]
    assert subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0
    for _ in range(100):
        if not processes_of(folder):
            break
        time.sleep(0.05)
    assert processes_of(folder) == []


def test_a_closed_one_says_so(tmp_path):
    interpreter = CodeInterpreter(tmp_path)
    interpreter.close()
    interpreter.close()
    with pytest.raises(ValueError, match="closed"):
        interpreter.run("1")


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jupyter_client", None)
    with pytest.raises(ImportError, match=r"pip install 'minqwen\[agent\]'"):
        CodeInterpreter(tmp_path)
