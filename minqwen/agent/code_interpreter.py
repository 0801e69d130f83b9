"""A code interpreter: Python that a model wrote is run, and what it prints goes back to the model.

    model:        Action: code_interpreter
                  Action Input: ```py ... ```
    interpreter:  Observation: what the code printed, its last value, its error, its plots

Variables are kept from one call to the next, as in a notebook: a Jupyter kernel does the work. The
report's model plots with matplotlib and meets its own errors, so plots come back as files in the
working folder, and errors as text to learn from.

    code runs too long       interrupted; variables are kept
    it swallows that         the kernel is ended and started anew; the observation says what is lost
    it crashes, or exits     the same
    it prints without end    the middle is dropped while it is read

Nobody has looked at the code before it runs. Five guards, each in a file of its own:

    limits of time, memory, files        kernel_limits.py      on Linux
    files outside of the working folder  landlock.py           on Linux 5.13 or newer, switched on
    network, other processes             syscall_filter.py     on Linux, x86_64 and aarch64
    leftovers, other processes           namespaces.py         where user namespaces are allowed
    Python's own gates                   audit_guard.py        where one of the above is missing

Programs may be started where namespaces work and our program does not run as root (for whom Linux
counts no processes); shared memory, and so `multiprocessing`, is never there.

`CodeInterpreter.protection` says what is in force on this machine, and how strong. With all of them
the code can neither read your files nor reach a network nor outlive the call. It can still use up
its limits on every call, learn the names and sizes of files by asking for names it guesses, read
the programs and packages that are installed, and fill its working folder with what you may open
later: treat those files as you would treat a download, and remember that the next call may put a
link where a file was. A hole in Linux itself is a hole here: for
code of an attacker take a virtual machine. Where the files are guarded "inside Python" only, ctypes
gets out: that stops mistakes, not intent.

Paper: Qwen report, 3.4 "Tool use, code interpreter, and agent": mathematics and plots by code.
Origin: notebooks; ChatGPT's code interpreter. Kernel and protocol are Jupyter's.
Differs: the limits and guards are ours; the report says nothing of them.
"""

from __future__ import annotations

import os
import threading
import time
from types import TracebackType

from .kernel.kernel_answer import Answer
from .kernel.kernel_connection import KernelConnection, KernelEnded
from .kernel.kernel_limits import Limits, check_limits, missing_limits
from .kernel.kernel_process import GUARDS, Protection
from .kernel.working_folder import files_in, make_working_folder
from .tool import Observation, Tool

FEW_FILES = 20  # named in one observation
SIGN_SECONDS = 10.0  # for a kernel that has nothing to do
LOST = "Variables and imports of earlier calls are lost."


class CodeInterpreter:
    """Runs code in a kernel with limits; use it in a `with` statement.

        with CodeInterpreter("work") as interpreter:
            interpreter.run("2 + 3").text  # 5

    One call at a time: a second thread waits.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        limits: Limits | None = None,
        unsafe: bool = False,
        without: tuple[str, ...] = (),
    ) -> None:
        """Start the kernel.

        Args:
            folder: working folder of the code, made when missing; it can read and change all in it.
            limits: what the code may use; `Limits()` when None.
            unsafe: also run where a limit or a guard is missing.
            without: guards to leave out, of "namespaces", "landlock", "seccomp", as if this system
                had none; for tests.

        Raises:
            ImportError: the extra `agent` is missing.
            TypeError, ValueError: a limit is no positive number, a guard is unknown, or `folder`
                holds your home, Python or this program.
            OSError: a limit is missing here and `unsafe` is False, or the kernel does not start.
        """
        self.limits = Limits() if limits is None else limits
        check_limits(self.limits)
        unknown = set(without) - set(GUARDS)
        if unknown:
            raise ValueError(f"without must name guards of {', '.join(GUARDS)}, got {unknown}")
        missing = missing_limits() + (("network",) if "seccomp" in without else ())
        if missing and not unsafe:
            raise OSError(
                f"code of a model would run here without limits on {', '.join(missing)}: run it "
                "on Linux, in a container or a virtual machine, or say --unsafe (unsafe=True)"
            )
        self.folder = make_working_folder(folder)
        self._without, self._unsafe = tuple(without), unsafe
        self._lock = threading.Lock()
        self._kernel: KernelConnection | None = self._start()
        self._protection = self._kernel.protection
        self._closed = False

    def _start(self) -> KernelConnection:
        kernel = KernelConnection(
            self.folder, self.limits, without=self._without, unsafe=self._unsafe
        )
        kernel.pause()
        return kernel

    def protection(self) -> Protection:
        """Say which guards are in force here, and how strong each is."""
        return self._protection

    def run(self, code: str) -> Observation:
        """Run code, and wait for it no longer than the limits say.

        Args:
            code: Python, as in a cell of a notebook.

        Returns:
            What it printed, its last value, and its error if any; new and changed files of the
            working folder as paths.

        Raises:
            ValueError: the interpreter is closed.
            OSError: the kernel does not start again.
        """
        with self._lock:
            if self._closed:
                raise ValueError("this code interpreter is closed")
            note = self._ready_kernel()
            assert self._kernel is not None
            code = code.encode("utf-8", "replace").decode("utf-8")  # halves of characters
            before = files_in(self.folder)
            answer = Answer(self.folder, self.limits)
            try:
                failed, text = self._converse(self._kernel, code, answer)
            except KernelEnded as end:  # the code may have begun: it is not run again
                failed, text = True, f"The kernel {end}. {self._start_again()}"
            except BaseException:  # Ctrl+C of ours: the code must not go on
                self._kernel.close()
                self._kernel = None
                raise
            return self._observation(answer, note, text, failed, before)

    def _start_again(self) -> str:
        """Replace the kernel; say what that means."""
        if self._kernel is not None:
            self._kernel.close()
        self._kernel = None
        self._kernel = self._start()
        return f"A new one was started. {LOST}"

    def _ready_kernel(self) -> str:
        """Wake the kernel, or replace one that did not outlive its pause; say so if it was."""
        end = ""  # of one that could not be started again, or was ended by Ctrl+C
        if self._kernel is not None:
            try:
                self._kernel.resume()
                sign = Answer(self.folder, self.limits)
                if self._hear(self._kernel, self._kernel.ask_for_sign(), sign, SIGN_SECONDS):
                    return ""
                end = "The kernel no longer answered. "
            except KernelEnded as error:
                end = f"The kernel {error} after the last call. "
        note = end + self._start_again()
        assert self._kernel is not None
        self._kernel.resume()
        return note

    def _converse(self, kernel: KernelConnection, code: str, answer: Answer) -> tuple[bool, str]:
        """Run one cell; say whether it failed for a reason that is not its own, and the reason."""
        limits = self.limits
        request = kernel.execute(code)
        if not self._hear(kernel, request, answer, limits.seconds):
            kernel.interrupt()
            text = f"TimeoutError: the code ran longer than {limits.seconds:g} seconds and was "
            if not self._hear(kernel, request, answer, limits.grace_seconds):
                raise KernelEnded(
                    f"was ended: the code ran longer than {limits.seconds:g} seconds and did "
                    "not stop when it was interrupted"
                )
            answer.error = ""  # the KeyboardInterrupt is ours
            failed, text = True, text + "interrupted. Variables that were set are kept."
        else:
            failed, text = False, ""
        if not answer.idle:  # output was dropped, or the line is dead
            sign = Answer(self.folder, limits)
            if not (self._hear(kernel, kernel.ask_for_sign(), sign, SIGN_SECONDS) and sign.busy):
                raise KernelEnded("was ended: it sent messages that are too large or broken")
        kernel.pause()
        return failed, text

    def _hear(self, kernel: KernelConnection, request: str, answer: Answer, seconds: float) -> bool:
        """Collect messages until the kernel has replied and is idle.

        Returns:
            False when there was no reply in time. The sign that it is idle may get lost in a flood
            of messages, so it is waited for only a moment.
        """
        deadline = time.monotonic() + seconds
        while not (answer.idle and answer.replied):
            now = time.monotonic()
            if now >= deadline:
                return answer.replied
            message = kernel.receive(min(deadline - now, 1.0))
            if message is not None and message.request == request:
                answer.add(message)
                if message.kind.endswith("_reply"):
                    deadline = min(deadline, time.monotonic() + self.limits.grace_seconds)
        return True

    def _observation(
        self,
        answer: Answer,
        note: str,
        text: str,
        failed: bool,
        before: dict[str, tuple[int, int]],
    ) -> Observation:
        after = files_in(self.folder)
        names = sorted(name for name in after if before.get(name) != after[name])
        parts = [note.rstrip(), answer.output.text().rstrip("\n"), answer.error, text]
        whole = "\n".join(part for part in parts if part)
        return Observation(
            whole or "The code ran and printed nothing.",
            error=failed or bool(answer.error),
            files=tuple(f"{self.folder}/{name}" for name in names[:FEW_FILES]),
        )

    def close(self) -> None:
        """End the kernel and everything that the code started; the working folder stays."""
        with self._lock:
            kernel, self._kernel, self._closed = self._kernel, None, True
            if kernel is not None:
                kernel.close()

    def __enter__(self) -> CodeInterpreter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def code_interpreter_tool(interpreter: CodeInterpreter) -> Tool:
    """Make the tool that a model calls.

    Args:
        interpreter: what runs the code; the caller closes it.

    Returns:
        A tool whose Action Input may be bare code.
    """
    return Tool(
        name="code_interpreter",
        title="Code Interpreter",
        description=(
            "Runs Python code and gives back what it prints, the value of its last line, and its "
            "errors. Variables are kept between calls. Plots made with matplotlib are saved as "
            "files. There is no network, and only the working folder can be read and written. "
            f"Code may run for {interpreter.limits.seconds:g} seconds."
        ),
        parameters={
            "type": "object",
            "properties": {"code": {"type": "string", "description": "the Python code to run"}},
            "required": ["code"],
            "additionalProperties": False,
        },
        call=interpreter.run,
        code_argument="code",
    )
