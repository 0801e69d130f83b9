"""The process in which a stranger's code runs, as the checker sees it.

    with Worker("hw.py:rmsnorm", seconds=5) as worker:
        reply = worker.forward({"x": x, "w": w, "eps": 1e-6})

A file of somebody else is never imported here. It runs in a process of its own, which lives as long
as its Worker: about 0.2 s to start, about 1 ms a call. Whatever it does, a Reply comes back:

    reply.outputs    the numbers, None if there are none
    reply.problem    why not: it hangs, exits, raises, is killed, returns None, ...

The process gets inputs only. It never holds an expected value; but it belongs to the same user, so
a file that wants to can read the memory of the checker, or any file of that user. Who has to count
with that asks for all replies first, leaves the `with` block, and then works out what is right.
These are limits against accidents and simple tricks, not walls: for walls, use another user or a
container.

Limits: the clock, for each call; processor time; memory (Linux only); length of what is printed;
size of a reply. Children end with the process: those of its group, and on Linux all that have its
mark in their environment. On Windows there are the clock and the lengths only, and `taskkill /T`
ends the children; nobody has tried that yet.
"""

from __future__ import annotations

import math
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from ...backend import Array
from .arrays import FLOATS, FRAMEWORKS, require
from .messages import Damaged, Problem, Reply, clean, read_reply, write_tree
from .process import FLOOD_FACTOR, TRACE_BEGINS, Process
from .user_file import is_file, split_target
from .user_function import UserFunction
from .worker_main import CHANNEL_GONE

__all__ = ["InProcess", "Problem", "Reply", "Worker", "limits_here"]

START_SECONDS = 120.0  # to import the array library, which is not the stranger's fault
LOAD_FACTOR = 3  # a file may import large packages of its own
_TRACE = re.compile(r'^  File "([^"]+)", line (\d+) in ', re.M)


def limits_here() -> str:
    """Say which limits this system holds a process to."""
    if sys.platform == "linux":
        return "time and memory are limited"
    if sys.platform == "win32":
        return "time on the clock is limited; Windows offers no limit on memory here"
    return "time is limited; this system offers no limit on memory"


class Worker:
    """A stranger's function in a process of its own; a context manager.

    Args:
        target: "FILE.py:FUNCTION" or "package.module:FUNCTION".
        backward: the same, for a hand-written gradient. Called as backward(dy, cache) when forward
            returned (y, cache), else as backward(*arguments, dy); dy is a tuple where there are
            several float outputs. It returns a tuple in the order of the float arguments, or a dict
            by their names.
        framework: of the arrays that they take: "numpy", "torch", "jax" or "cupy". torch and jax
            differentiate by themselves when there is no backward.
        arguments: {our name: their keyword}: those are given by keyword.
        seconds: limit on one call, on the clock.
        memory_mb: limit on memory, above what the array library takes.
        output_bytes: how much of what is printed is kept; 16 times as much ends the call.
        outputs: our names of the outputs, so many are taken from a result. Empty: all leading
            arrays and numbers, so that a cache that is an array counts as one.
        optional: arguments that are left out when the function does not take so many.
        prepare: what is called in the process before the file is read, each as ("module:name",
            plain data that it is given); it returns lines, which come to `prepared`.
        load: the same for what reads the file, in place of the usual way; it returns a
            UserFunction. Then `target` is only how the file is called in messages.
        files: of the stranger, for messages, where `load` is given.
        environment: variables of the process, beside ours that limit threads; None: all of ours.

    Raises:
        ValueError: no such framework or dtype; a gradient is asked for and there is no way to one.
        ImportError: with the first call, when the framework is missing.
        OSError: with the first call, when something of `prepare` fails.
    """

    def __init__(
        self,
        target: str,
        *,
        backward: str | None = None,
        framework: str = "numpy",
        arguments: dict[str, str] | None = None,
        seconds: float = 20.0,
        memory_mb: int = 4096,
        output_bytes: int = 65536,
        outputs: Sequence[str] = (),
        optional: Sequence[str] = (),
        prepare: Sequence[tuple[str, dict[str, Any]]] = (),
        load: tuple[str, dict[str, Any]] | None = None,
        files: Sequence[str] = (),
        environment: dict[str, str] | None = None,
    ) -> None:
        if framework not in FRAMEWORKS:
            raise ValueError(f"no framework {framework!r}; there are {', '.join(FRAMEWORKS)}")
        if not 0 < seconds < math.inf:
            raise ValueError(f"seconds must be above 0 and finite, got {seconds}")
        if memory_mb < 1:
            raise ValueError(f"memory_mb must be at least 1, got {memory_mb}")
        self.target, self.backward_target, self.framework = target, backward, framework
        self.seconds, self.memory_mb, self.output_bytes = seconds, memory_mb, output_bytes
        self.options: dict[str, Any] = {
            "framework": framework,
            "arguments": dict(arguments or {}),
            "outputs": list(outputs),
            "optional": list(optional),
            "files": [
                os.path.abspath(split_target(t)[0])
                for t in (target, backward)
                if t and is_file(split_target(t)[0])
            ],
        }
        if load is not None:
            self.options["files"] = list(files)
        self.prepare, self.load, self.environment = tuple(prepare), load, environment
        self.prepared: list[str] = []
        self.name = split_target(target)[1] or target
        self.restarts = 0  # how often a process had to be replaced
        self._process: Process | None = None
        self._failed: Reply | None = None  # the file cannot be loaded: said again, not tried again
        self._imported = ""  # printed while the file was imported

    def __enter__(self) -> Worker:
        """Return the worker; the process starts with the first call."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the process and all that it started."""
        self.close()

    @property
    def number(self) -> int | None:
        """The number of the process; None while there is none."""
        process = self._process
        return process.popen.pid if process is not None and process.open else None

    def close(self) -> None:
        """End the process and all that it started; a later call starts a new one."""
        if self._process is not None:
            process, self._process = self._process, None
            process.close()

    def forward(self, arguments: dict[str, Any], dtype: str = "float64") -> Reply:
        """Call forward.

        Args:
            arguments: by our names, in our order; arrays in float64 (or integer, boolean).
            dtype: in which floating dtype the arrays are handed over, each number rounded to it.
        """
        return self._call("forward", (arguments, dtype), dtype)[0]

    def backward(
        self, arguments: dict[str, Any], dys: tuple[Array, ...], dtype: str = "float64"
    ) -> Reply:
        """Call forward, then their backward, or the differentiation of torch or jax.

        Args:
            arguments: as in forward.
            dys: a gradient for each float output.
            dtype: of the arrays and of dys.
        """
        self._require_gradient()
        return self._call("backward", (arguments, dys, dtype), dtype)[0]

    def twice(
        self,
        arguments: Sequence[dict[str, Any]],
        dys: Sequence[tuple[Array, ...]],
        dtype: str = "float64",
    ) -> tuple[Reply, ...]:
        """Call all forwards before all backwards.

        Returns:
            A reply for each of the arguments; when something failed, the same one for all.
        """
        self._require_gradient()
        replies = self._call("twice", (list(arguments), list(dys), dtype), dtype)
        if len(replies) != len(arguments):
            if len(replies) == 1 and replies[0].problem is not None:
                return tuple(replies) * len(arguments)
            problem = Problem("reply damaged", "the reply holds too many or too few answers")
            return (Reply(problem=problem),) * len(arguments)
        return tuple(replies)

    def _require_gradient(self) -> None:
        if self.backward_target is None and self.framework not in ("torch", "jax"):
            raise ValueError(
                f"{self.framework} does not differentiate by itself: give a backward too"
            )

    def _call(self, what: str, given: tuple[Any, ...], dtype: str) -> list[Reply]:
        if dtype not in FLOATS:
            raise ValueError(f"no floating dtype {dtype!r}; there are {', '.join(FLOATS)}")
        arrays: list[Array] = []
        request = {"do": what, "arguments": write_tree(given, arrays)}
        if (failed := self._ready()) is not None:
            return [failed]
        replies = self._ask(request, arrays, self.seconds)
        if self._imported:
            printed, self._imported = self._imported, ""
            replies[0] = replace(replies[0], printed=printed + replies[0].printed)
        return replies

    def _ready(self) -> Reply | None:
        """Start the process and load the file, unless that is done; return what went wrong."""
        if self._failed is not None:
            return self._failed
        if self._process is not None and self._process.alive():
            return None
        self.close()
        self._process = Process(self.output_bytes, self.environment)
        by, given = self.load or ("", {})
        self.prepared = []
        requests: tuple[tuple[dict[str, Any], float], ...] = (
            (
                {"do": "start", "framework": self.framework, "memory_mb": self.memory_mb},
                START_SECONDS,
            ),
            *(
                ({"do": "prepare", "by": what, "given": data}, START_SECONDS)
                for what, data in self.prepare
            ),
            (
                {
                    "do": "load",
                    "target": self.target,
                    "backward": self.backward_target,
                    "options": self.options,
                    "by": by,
                    "given": given,
                },
                LOAD_FACTOR * self.seconds,
            ),
        )
        for request, seconds in requests:
            reply = self._ask(request, [], seconds)[0]
            self._imported = reply.printed
            if request["do"] == "prepare":
                self.prepared += reply.notes
            if reply.problem is not None:
                self.close()
                if request["do"] == "prepare":
                    raise OSError(reply.problem.says)  # not the stranger's fault
                if request["do"] == "start" and reply.problem.kind == "missing package":
                    raise ImportError(reply.problem.says)  # not the stranger's fault
                self._failed = reply
                return reply
        return None

    def _ask(self, request: dict[str, Any], arrays: list[Array], seconds: float) -> list[Reply]:
        """Send a request and wait for what comes: a reply, an end, or nothing."""
        assert self._process is not None
        process = self._process
        start = time.monotonic()
        try:
            event, found = process.ask({**request, "seconds": seconds}, arrays, seconds)
            took = time.monotonic() - start
            if event == "reply":
                printed = process.printed()
                header, got = found
                try:
                    replies = header["replies"]
                    if not isinstance(replies, list) or not replies:
                        raise Damaged("it holds no answer")
                    return [read_reply(reply, got, printed, took) for reply in replies]
                except KeyError:
                    event, found = "damaged", "it holds no answer"
                except Damaged as damaged:
                    event, found = "damaged", str(damaged)
            if event == "hung":
                process.ask_where()
            code = process.close()
            printed = process.printed()
        except BaseException:  # Ctrl-C while waiting
            self.close()
            raise
        self._process = None
        self.restarts += 1
        loading = request["do"] in ("start", "prepare", "load")
        printed, where = self._where(printed)
        if event != "hung" and event != "ended":
            where = ""
        problem = self._problem(event, found, code, seconds, printed, loading, took)
        return [Reply(problem=problem._replace(where=where), printed=printed, seconds=took)]

    def _problem(
        self,
        event: str,
        found: Any,
        code: int,
        seconds: float,
        printed: str,
        loading: bool,
        took: float = math.inf,
    ) -> Problem:
        """Say why a call has no reply."""
        name = self.target if loading else self.name
        when = " when imported" if loading else ""
        if event == "hung":
            return Problem("hung", f"{name} did not end within {seconds:g} s{when}: stopped")
        if event == "damaged":
            return Problem(
                "reply damaged",
                f"the reply cannot be used: {found}; does {name} write to descriptors that are not "
                "its own?",
            )
        if event == "flood":
            most = FLOOD_FACTOR * self.output_bytes / 2**20
            return Problem(
                "too much output", f"{name} printed more than {most:.3g} MiB{when}: stopped"
            )
        if code == CHANNEL_GONE:
            return Problem("reply damaged", f"{name} closed the descriptor of the replies{when}")
        if code >= 0:
            return Problem("exited", f"{name} ended its process{when}, with exit code {code}")
        try:
            sign = signal.Signals(-code).name
        except ValueError:
            sign = f"signal {-code}"
        if sign == "SIGALRM" and took < seconds:
            says = (
                f"{name} set an alarm (SIGALRM) that ended its process{when}; handlers of alarms "
                f"are taken away before each call, which has a limit of {seconds:g} s anyway"
            )
            return Problem("killed", says)
        if sign in ("SIGXCPU", "SIGALRM"):
            says = f"{name} used more than {2 * seconds:g} s of processor time{when}: stopped"
            return Problem("hung", says)
        if "bad_alloc" in printed or "MemoryError" in printed:
            return Problem("out of memory", f"{name} asks for more memory than it may have{when}")
        why = {
            "SIGSEGV": ": it touched memory that is not its own, or its recursion is too deep",
            "SIGKILL": ": somebody ended it, perhaps the system, which was short of memory",
            "SIGABRT": ": a library gave up",
            "SIGXFSZ": ": it wrote a file above 1 GiB",
        }.get(sign, "")
        return Problem("killed", f"the process of {name} was killed by {sign}{when}{why}")

    def _where(self, printed: str) -> tuple[str, str]:
        """Cut the place where Python was off the printed text, and return both."""
        begins = [found.start() for found in TRACE_BEGINS.finditer(printed)]
        if not begins:
            return printed, ""
        printed, trace = printed[: begins[-1]], printed[begins[-1] :]
        folder = tuple(os.path.dirname(file) + os.sep for file in self.options["files"])
        ours = str(Path(__file__).parents[1]) + os.sep
        places = _TRACE.findall(trace)
        mine = [p for p in places if folder and os.path.abspath(p[0]).startswith(folder)]
        others = [p for p in places if not p[0].startswith((ours, "<"))]
        for found in (mine or others)[:1]:
            file = os.path.relpath(found[0]) if found[0].startswith(os.getcwd()) else found[0]
            return printed, clean(f"{file}, line {found[1]}")
        return printed, ""


def timed(run: Callable[[], tuple[Reply, ...]]) -> tuple[Reply, ...]:
    """Run, and write into the replies how long it took."""
    start = time.perf_counter()
    replies = run()
    seconds = time.perf_counter() - start
    return tuple(replace(reply, seconds=seconds) for reply in replies)


class InProcess:
    """The same questions to functions of one's own, in this process and without limits.

    Args:
        forward: a callable.
        backward: another one, or None.
        framework: of the arrays that they take.
        arguments: {our name: their keyword}.
        outputs, optional: as for Worker.

    Raises:
        ValueError: no such framework.
        ImportError: it is missing.
    """

    def __init__(
        self,
        forward: Callable[..., Any],
        backward: Callable[..., Any] | None = None,
        *,
        framework: str = "numpy",
        arguments: dict[str, str] | None = None,
        outputs: Sequence[str] = (),
        optional: Sequence[str] = (),
    ) -> None:
        if framework not in FRAMEWORKS:
            raise ValueError(f"no framework {framework!r}; there are {', '.join(FRAMEWORKS)}")
        if framework != "numpy":
            require(framework)
        self.function = UserFunction(
            forward,
            backward,
            framework=framework,
            arguments=arguments,
            outputs=outputs,
            optional=optional,
        )

    def __enter__(self) -> InProcess:
        """Return the object; there is nothing to start."""
        return self

    def __exit__(self, *error: object) -> None:
        """Do nothing; there is nothing to end."""

    def close(self) -> None:
        """Do nothing; there is nothing to end."""

    def forward(self, arguments: dict[str, Any], dtype: str = "float64") -> Reply:
        """Call forward; see Worker.forward."""
        return timed(lambda: (self.function.forward(arguments, dtype),))[0]

    def backward(
        self, arguments: dict[str, Any], dys: tuple[Array, ...], dtype: str = "float64"
    ) -> Reply:
        """Call forward and backward; see Worker.backward."""
        return timed(lambda: (self.function.backward(arguments, dys, dtype),))[0]

    def twice(
        self,
        arguments: Sequence[dict[str, Any]],
        dys: Sequence[tuple[Array, ...]],
        dtype: str = "float64",
    ) -> tuple[Reply, ...]:
        """Call all forwards before all backwards; see Worker.twice."""
        return timed(lambda: self.function.twice(arguments, dys, dtype))
