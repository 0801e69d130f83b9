"""A process, seen from outside: requests go in, replies and prints come out, and it can be ended.

Four threads read, write and wait, so that nothing the process does can block the checker. Threads
and not select(), because Windows cannot select on pipes.
"""

from __future__ import annotations

import contextlib
import os
import queue
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ...backend import Array
from .messages import Damaged, pack, read_frame
from .worker_main import read_all, write_all

FLOOD_FACTOR = 16  # printing so much more than is kept ends the call
# how the lines begin that Python's faulthandler prints
TRACE_BEGINS = re.compile(r"^(Fatal Python error|Stack \(|Current thread |Thread 0x)", re.M)
_ONE_THREAD = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "RAYON_NUM_THREADS",
)


class Process:
    """A process in which worker_main runs.

    Args:
        keep: how many bytes of its prints are kept.
        environment: its variables, beside those set here; None: ours.
    """

    def __init__(self, keep: int, environment: dict[str, str] | None = None) -> None:
        root = str(Path(__file__).parents[3])
        code = (
            f"import sys; sys.path.insert(0, {root!r})\n"
            "from minqwen.check.outside.worker_main import main\n"
            f"sys.path.remove({root!r}) if {root!r} in sys.path[1:] else None\nmain()"
        )
        environment = dict(os.environ if environment is None else environment)
        environment.update(dict.fromkeys(_ONE_THREAD, "1"))
        self.token = secrets.token_hex(16)
        environment["MINQWEN_WORKER"] = self.token  # its children have it too
        environment["PYTHONDONTWRITEBYTECODE"] = "1"  # no __pycache__ beside their file
        environment["JAX_ENABLE_X64"] = "1"
        environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
        flags = f"{environment.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false"
        environment["XLA_FLAGS"] = flags.strip()
        environment["MPLBACKEND"] = "Agg"  # a forgotten plot opens no window
        for name in ("PYTHONINSPECT", "PYTHONWARNINGS"):
            environment.pop(name, None)
        requests, to_child = os.pipe()
        from_child, replies = os.pipe()
        from_prints, prints = os.pipe()
        mine, theirs = (to_child, from_child, from_prints), (requests, replies, prints)
        try:
            self.popen = subprocess.Popen(
                [sys.executable, "-P", "-c", code],  # -P: the current folder is not on sys.path
                stdin=requests,
                stdout=replies,
                stderr=prints,
                env=environment,
                start_new_session=True,  # a group of its own, and no Ctrl-C from the terminal
            )
        except BaseException:
            for descriptor in mine:
                os.close(descriptor)
            raise
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        self.events: queue.Queue[tuple[str, Any]] = queue.Queue()
        self.outgoing: queue.Queue[bytes | None] = queue.Queue()
        self.prints = Prints(keep, lambda: self.events.put(("flood", None)))
        self.asked, self.marker, self.code = 0, b"", 0
        self.open = True
        self.threads = [
            self._thread(self._write, to_child),
            self._thread(self._read, from_child),
            self._thread(self.prints.read, from_prints),
            self._thread(self._wait),
        ]

    def _thread(self, run: Callable[..., None], *given: Any) -> threading.Thread:
        thread = threading.Thread(target=run, args=given, daemon=True)
        thread.start()
        return thread

    def _write(self, descriptor: int) -> None:
        """Send what is asked."""
        try:
            while (frame := self.outgoing.get()) is not None:
                write_all(descriptor, frame)
        except OSError:
            pass  # the process has ended; the other threads tell
        finally:
            os.close(descriptor)

    def _read(self, descriptor: int) -> None:
        """Read replies."""
        try:
            while True:
                self.events.put(("reply", read_frame(lambda n: read_all(descriptor, n))))
        except EOFError:
            pass
        except (Damaged, MemoryError) as error:
            self.events.put(("damaged", str(error)))
        finally:
            os.close(descriptor)

    def _wait(self) -> None:
        """Notice the end without reaping: while it is a zombie, the number of its group is ours."""
        if sys.platform != "win32" and hasattr(os, "waitid"):
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, self.popen.pid, os.WEXITED | os.WNOWAIT)
        else:
            self.popen.wait()
        self.events.put(("ended", None))

    def alive(self) -> bool:
        """Say whether it can be asked: it has not ended since the last call."""
        return self.open and self.events.empty()

    def ask(
        self, header: dict[str, Any], arrays: Sequence[Array], seconds: float
    ) -> tuple[str, Any]:
        """Send a request; return what happened, within so many seconds."""
        self.asked += 1
        marker = secrets.token_hex(16)
        self.prints.begin(marker.encode("ascii"))
        self.outgoing.put(pack({**header, "id": self.asked, "marker": marker}, arrays))
        deadline = time.monotonic() + seconds
        while True:
            try:
                event, found = self.events.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                return "hung", None
            if event == "ended":  # a last reply may still be on its way
                self.threads[1].join(0.2)
                while not self.events.empty():
                    later, content = self.events.get()
                    if later == "reply" and content[0].get("id") == self.asked:
                        self.events.put(("ended", None))
                        return later, content
            if event == "reply":
                if found[0].get("id") != self.asked:
                    return "damaged", "it answers another question"
                self.prints.wait(0.2)
            return event, found

    def ask_where(self) -> None:
        """Let Python print where it is, before it is killed."""
        if sys.platform != "win32":
            try:
                self.popen.send_signal(signal.SIGUSR2)
            except OSError:
                return
            before, deadline = -1, time.monotonic() + 0.3
            while time.monotonic() < deadline and self.prints.total != before:
                before = self.prints.total
                time.sleep(0.03)

    def printed(self) -> str:
        """Return what was printed during the last call, cut."""
        return self.prints.text()

    def close(self) -> int:
        """Kill it and its group, and return its exit code."""
        if not self.open:
            return self.code
        self.open = False
        ended = not self.threads[3].is_alive()
        self._kill()
        if not ended:
            self.threads[3].join(10)
            self._kill()  # what it started between the two
        self.code = self.popen.wait()
        self.outgoing.put(None)
        for thread in self.threads[:3]:
            thread.join(1)  # longer only if something left the group and holds a pipe
        return self.code

    def _kill(self) -> None:
        if sys.platform == "win32":
            if self.popen.poll() is None:
                command = ["taskkill", "/F", "/T", "/PID", str(self.popen.pid)]
                subprocess.run(command, capture_output=True, check=False)
                self.popen.kill()
            return
        for kill in (os.killpg, os.kill):  # it may have left its own group
            with contextlib.suppress(OSError):
                kill(self.popen.pid, signal.SIGKILL)
        wanted = f"MINQWEN_WORKER={self.token}".encode("ascii")
        for file in Path("/proc").glob("[0-9]*/environ"):  # Linux: children that left the group
            with contextlib.suppress(OSError):
                if wanted in file.read_bytes().split(b"\0"):
                    os.kill(int(file.parent.name), signal.SIGKILL)


class Prints:
    """What a process prints: the beginning is kept, the rest is counted."""

    def __init__(self, keep: int, flood: Callable[[], None]) -> None:
        self.keep, self.flood = keep, flood
        self.lock = threading.Lock()
        self.seen = threading.Event()
        self.head, self.tail, self.total, self.marker = bytearray(), b"", 0, b"\0"

    def begin(self, marker: bytes) -> None:
        """Begin a call; the process prints the marker at its end."""
        with self.lock:
            self.seen.clear()
            self.head, self.tail, self.total, self.marker = bytearray(), b"", 0, marker

    def read(self, descriptor: int) -> None:
        """Read all that comes."""
        try:
            while data := os.read(descriptor, 1 << 16):
                with self.lock:
                    before = self.total
                    self.total += len(data)
                    self.head += data[: max(0, self.keep + len(self.marker) - len(self.head))]
                    self.tail = (self.tail + data)[-(8192 + len(data)) :]
                    if self.marker in self.tail:
                        self.seen.set()
                    limit = FLOOD_FACTOR * self.keep
                    if before <= limit < self.total:
                        self.flood()
        finally:
            os.close(descriptor)

    def wait(self, seconds: float) -> None:
        """Wait until all of the call was read."""
        self.seen.wait(seconds)

    def text(self) -> str:
        """Return the beginning, and the end where Python says where it was."""
        with self.lock:
            data, tail, total = bytes(self.head), self.tail, self.total
        data, marker, _ = data.partition(self.marker)  # what a thread of theirs prints after it
        if marker:
            total = len(data)
        elif self.marker in tail:
            total -= len(self.marker)
        data = data[: self.keep]
        text = data.decode("utf-8", "replace")
        if total > len(data):
            text += f"\n... ({total - len(data)} bytes more)\n"
            if (trace := TRACE_BEGINS.search(last := tail.decode("utf-8", "replace"))) is not None:
                text += last[trace.start() :]
        return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)
