"""What runs inside the process of the stranger's code: requests come in, replies go out.

Requests come through what was stdin, replies go through what was stdout; both are moved away to
descriptors of their own before the stranger's file is read. What the stranger prints goes to a pipe
that the checker reads up to a limit. No expected value ever comes here.

Limits, from the inside (worker.py holds the clock):

- Memory: RLIMIT_DATA, what the process has after importing the array library, and so much more. Not
  RLIMIT_AS: torch and CUDA map files and reserve addresses by the gigabyte that they never use,
  and those count there. RLIMIT_DATA counts private writable memory, which is what arrays are made
  of. It acts on Linux; macOS knows the name and ignores it, Windows has no such thing.
- Processor time of one call: RLIMIT_CPU, twice the seconds of the clock, over all threads.
- An alarm a little after the limit of the clock, for when the checker was killed meanwhile.
- No core dumps, no file above 1 GiB; one thread in the array libraries (worker.py sets that).
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import io
import math
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ...backend import Array
from .arrays import require, to_framework
from .messages import MAX_BODY, Damaged, Problem, Reply, pack, read_frame, read_tree, write_reply
from .user_file import Trouble, load_function, problem_of
from .user_function import UserFunction

ALARM_AFTER = 5.0  # seconds more than the checker waits
# never freed: Python crashes when a stream goes while a thread of theirs is printing to it
_STREAMS: list[io.TextIOWrapper] = []
CHANNEL_GONE = 113  # exit code: the stranger closed the descriptor of the replies


def main() -> None:
    """Answer requests until there are no more."""
    requests, replies, prints = (_move(number) for number in (0, 1, 2))
    watch_faults(prints)
    process = os.getpid()
    server = Server()
    while True:
        try:
            header, arrays = read_frame(lambda count: read_all(requests, count))
        except (EOFError, Damaged):
            os._exit(0)
        fresh_streams(prints)
        limit_call(header["seconds"])
        found: list[Array] = []
        answers = server.answer(header, arrays)
        if os.getpid() != process:  # the stranger forked, and this is the copy
            os._exit(0)
        limit_call(None)
        with contextlib.suppress(BaseException):  # their stream, perhaps
            sys.stdout.flush()
            sys.stderr.flush()
        written = [write_reply(answer, found) for answer in answers]
        if sum(array.nbytes for array in found) > MAX_BODY:
            found = []
            says = f"the outputs are larger than {MAX_BODY >> 20} MiB"
            written = [write_reply(Reply(problem=Problem("too much output", says)), found)]
        frame = pack({"id": header["id"], "replies": written}, found)
        with contextlib.suppress(OSError):
            write_all(prints, header["marker"].encode("ascii"))
        try:
            write_all(replies, frame)
        except OSError:
            os._exit(CHANNEL_GONE)


class Server:
    """The stranger's functions, once loaded, and what they are asked."""

    def __init__(self) -> None:
        self.function: UserFunction | None = None

    def answer(self, header: dict[str, Any], arrays: list[Array]) -> list[Reply]:
        """Return the replies to a request; nothing that happens in their code comes out of here."""
        try:
            if header["do"] == "start":
                start(header["framework"], header["memory_mb"])
            elif header["do"] == "prepare":
                notes = named(header["by"])(header["given"])
                return [Reply(outputs=(), notes=tuple(notes))]
            elif header["do"] == "load":
                self.function = load(header)
            else:
                return self.call(header["do"], read_tree(header["arguments"], arrays))
        except Trouble as trouble:
            return [Reply(problem=trouble.problem)]
        except ImportError as error:
            return [Reply(problem=Problem("missing package", str(error)))]
        except KeyboardInterrupt:  # raised by them: Ctrl-C does not come here
            kind = "import raised" if header["do"] == "load" else "raised"
            return [Reply(problem=Problem(kind, "it raised KeyboardInterrupt"))]
        except BaseException as error:  # their changes to NumPy or Python, met by our own code
            problem = problem_of(error, [], "the process")
            says = f"the checker's own part of the process failed: {problem.says}"
            return [Reply(problem=Problem("reply damaged", says, problem.where))]
        return [Reply(outputs=())]

    def call(self, what: str, given: Any) -> list[Reply]:
        """Call the stranger's function."""
        assert self.function is not None
        if what == "forward":
            return [self.function.forward(*given)]
        if what == "backward":
            return [self.function.backward(*given)]
        return list(self.function.twice(*given))


def start(framework: str, memory_mb: int) -> None:
    """Import the array library, use it once, then set the limits for good."""
    require(framework)
    to_framework(np.zeros(1), framework, "float64")
    if framework == "torch":
        require("torch").set_num_threads(1)
    limit_process(memory_mb)


def load(header: dict[str, Any]) -> UserFunction:
    """Run the stranger's files and take their functions."""
    if header.get("by"):
        function: UserFunction = named(header["by"])(header["given"])
        return function
    forward = load_function(header["target"])
    backward = load_function(header["backward"]) if header["backward"] else None
    return UserFunction(forward, backward, **header["options"])


def named(place: str) -> Any:
    """Return what is called "module:name"; it comes from the checker, never from the stranger.

    >>> named("math:sqrt")(4)
    2.0
    """
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def limit_process(memory_mb: int) -> None:
    """Set the limits that hold from now on, where the system has them."""
    if sys.platform == "win32":
        return
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    lower(resource.RLIMIT_FSIZE, 1 << 30)
    status = Path("/proc/self/status")
    if status.is_file():
        found = re.search(r"^VmData:\s+(\d+) kB", status.read_text(encoding="ascii"), re.M)
        if found:
            lower(resource.RLIMIT_DATA, (int(found[1]) << 10) + (memory_mb << 20))


def lower(which: int, value: int) -> None:
    """Lower both sides of a limit; one that is lower already stays."""
    if sys.platform != "win32":
        import resource

        _, hard = resource.getrlimit(which)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (value, value))


def limit_call(seconds: float | None) -> None:
    """Limit processor time and set the alarm for one call; None takes both away again."""
    if sys.platform == "win32":
        return
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = hard
    if seconds is not None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        soft = math.ceil(used.ru_utime + used.ru_stime + 2 * seconds)
        soft = soft if hard == resource.RLIM_INFINITY else min(soft, hard)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))
    signal.setitimer(signal.ITIMER_REAL, 0 if seconds is None else seconds + ALARM_AFTER)


def watch_faults(prints: int) -> None:
    """Let Python say where it was when it crashes, or when the checker asks (SIGUSR2)."""
    faulthandler.enable(file=prints, all_threads=False)
    if sys.platform != "win32":
        faulthandler.register(signal.SIGUSR2, file=prints, all_threads=False)
        faulthandler.register(signal.SIGXCPU, file=prints, all_threads=False, chain=True)


def fresh_streams(prints: int) -> None:
    """Send stdout and stderr, whatever became of them, to the pipe of the prints."""
    try:
        quiet = os.open(os.devnull, os.O_RDONLY)  # may be 0, if they closed it
        if quiet:
            os.dup2(quiet, 0)
            os.close(quiet)
        for number in (1, 2):
            os.dup2(prints, number)
        if not _STREAMS or any(stream.closed for stream in _STREAMS[-3:]):
            _STREAMS.append(io.TextIOWrapper(io.FileIO(0, "r", closefd=False), encoding="utf-8"))
            for number in (1, 2):
                raw = io.FileIO(number, "w", closefd=False)
                _STREAMS.append(
                    io.TextIOWrapper(
                        raw,
                        encoding="utf-8",
                        errors="backslashreplace",
                        write_through=True,  # a killed process has printed what it printed
                    )
                )
        sys.stdin, sys.stdout, sys.stderr = _STREAMS[-3:]
    except OSError:  # they closed everything; the reply will show it
        pass


def _move(number: int) -> int:
    """Copy a descriptor to a high number, which children do not inherit."""
    if sys.platform != "win32":
        import fcntl

        with contextlib.suppress(OSError, ValueError):
            return fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 100 + os.getpid() % 100)
    return os.dup(number)


def read_all(descriptor: int, count: int) -> bytes:
    """Read so many bytes; fewer only at the end."""
    parts = []
    while count:
        part = os.read(descriptor, min(count, 1 << 20))
        if not part:
            break
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all bytes."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
