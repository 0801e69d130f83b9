"""Start a Jupyter kernel behind its guards, and hear from it what cannot hurt the hearer.

The kernel runs foreign code, so whatever it sends may be forged: too large, endless, no JSON,
nested a million times. Bounds on our side, which the code cannot reach:

    one message      at most 16 MiB: beyond it the line is cut (message_gate.py), for good
    waiting ones     at most ten of them; the kernel waits with the rest, or drops them
    what is read     handed on one by one, so that the reader keeps no more than it wants
    not a message    passed over

The connection goes over unix sockets in a private folder: a network of its own would cut TCP, and
on TCP other users of the machine could knock.

Paper: Qwen report, 3.4: the code interpreter; Qwen-Agent uses a Jupyter kernel too.
Origin: the Jupyter protocol; jupyter_client starts kernels and speaks it, ipykernel answers.
Differs: none.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from ...extras import require_extra
from .disk_use import remove_folder
from .kernel_limits import Limits
from .kernel_process import Protection
from .kernel_start import start_kernel
from .message_gate import MessageGate

LARGEST_MESSAGE = 16 * 2**20  # bytes
WAITING = 10  # messages
MOST_LISTS = 1_000_000  # in a message, dicts among them: a list without anything takes 64 bytes
SEND_MILLISECONDS = 2000  # the kernel may be gone
START_SECONDS = 120.0  # a busy machine
PAUSE_SECONDS = 10.0


class Message(NamedTuple):
    """One message of the kernel, as far as it is one."""

    kind: str  # stream, execute_result, display_data, error, status, execute_reply ...
    request: str  # the id that `execute` gave
    content: dict[str, Any]


class KernelEnded(Exception):
    """The kernel is no more; the text says why."""


def _place_for_sockets() -> str | None:
    """Say where the private folder goes; None: where temporary files go.

    The path of a unix socket ends at 103 characters, and some clusters have long paths.
    """
    usual = os.fsencode(os.path.realpath(tempfile.gettempdir()))
    return "/tmp" if os.name == "posix" and len(usual) > 80 else None


class KernelConnection:
    """A kernel that runs, and the way to it; `close` it."""

    def __init__(
        self, folder: str, limits: Limits, *, without: tuple[str, ...] = (), unsafe: bool = False
    ) -> None:
        """Start a kernel; wait until its guards are on and it listens.

        Args:
            folder: working folder, a real path.
            limits: what the code may use.
            without: guards to leave out, of kernel_process.GUARDS.
            unsafe: go without a guard that does not work here.

        Raises:
            ImportError: the extra `agent` is missing.
            OSError: the kernel did not start, or a guard did not go on.
        """
        require_extra("jupyter_client", "ipykernel", extra="agent")
        import zmq

        self._zmq: Any = zmq
        self.ended: str | None = None
        self._heard = b""
        self._manager: Any = None
        self._client: Any = None
        self._context: Any = None
        self._gates: list[MessageGate] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._runtime = Path(tempfile.mkdtemp(prefix="minqwen-", dir=_place_for_sockets()))
        runtime = os.path.realpath(self._runtime)
        try:
            self._manager = start_kernel(folder, runtime, limits, without=without, unsafe=unsafe)
            self._process = self._manager.provisioner.process
            self.protection = self._wait_until_ready()
            self._context = zmq.Context()
            self._context.linger = 0
            self._context.maxmsgsize = LARGEST_MESSAGE
            self._context.rcvhwm = WAITING
            self._context.sndtimeo = SEND_MILLISECONDS
            self._context.reconnect_ivl = -1  # the path of a socket may lead elsewhere by then
            self._client = self._manager.client(context=self._context)
            self._call(self._client, runtime)
        except BaseException:
            self.close()
            raise

    def _call(self, client: Any, runtime: str) -> None:
        """Connect to the kernel, through gates where there are unix sockets."""
        if client.transport == "ipc":
            kernel, client.ip = client.ip, f"{runtime}/g"
            for port in (client.shell_port, client.iopub_port):
                ways = f"{client.ip}-{port}", f"{kernel}-{port}"
                self._gates.append(MessageGate(*ways, LARGEST_MESSAGE))
        client.start_channels(stdin=False, hb=False, control=False)
        for gate in self._gates:
            gate.open()

    def _listen(self, timeout: float) -> list[dict[str, Any]]:
        """Read the watcher's lines; sets `ended`."""
        assert self._process is not None
        assert self._process.stdout is not None
        handle = self._process.stdout.fileno()
        if self.ended is not None or not select.select([handle], [], [], timeout)[0]:
            return []
        piece = os.read(handle, 65536)
        if not piece:
            self.ended = "ended"
            return []
        *whole, self._heard = (self._heard + piece).split(b"\n")
        lines = [json.loads(line) for line in whole if line]
        for line in lines:
            self.ended = line.get("ended", self.ended)
        return lines

    def _wait_until_ready(self) -> Protection:
        deadline = time.monotonic() + START_SECONDS
        while self.ended is None and time.monotonic() < deadline:
            for line in self._listen(1.0):
                if "failed" in line:
                    raise OSError(f"the kernel of the code interpreter failed: {line['failed']}")
                if "ready" in line:
                    fields = {**line["ready"], "guards": tuple(line["ready"]["guards"])}
                    return Protection(**fields)
        raise OSError(
            f"the kernel of the code interpreter did not start: {self.ended or 'no sign'}"
        )

    def execute(self, code: str) -> str:
        """Send a cell.

        Returns:
            The id that its messages carry.

        Raises:
            KernelEnded: nobody takes it.
        """
        return self._send("execute", code, store_history=False, allow_stdin=False)

    def ask_for_sign(self) -> str:
        """Send a question that does nothing, to hear whether messages still come.

        Returns:
            The id that its messages carry.

        Raises:
            KernelEnded: nobody takes it.
        """
        return self._send("kernel_info")

    def _send(self, method: str, *arguments: Any, **named: Any) -> str:
        try:
            request: str = getattr(self._client, method)(*arguments, **named)
        except self._zmq.ZMQError:  # nobody at the other end
            self._listen(1.0)
            raise KernelEnded(self.ended or "no longer listened") from None
        return request

    def receive(self, timeout: float) -> Message | None:
        """Wait for the next message.

        Args:
            timeout: seconds.

        Returns:
            A message, or None: nothing came, or something that is no message.

        Raises:
            KernelEnded: the kernel is no more, and has nothing left to say.
        """
        assert self._process is not None
        assert self._process.stdout is not None
        sockets = [self._client.iopub_channel.socket, self._client.shell_channel.socket]
        poller = self._zmq.Poller()
        for socket in sockets:
            poller.register(socket, self._zmq.POLLIN)
        if self.ended is None:
            poller.register(self._process.stdout.fileno(), self._zmq.POLLIN)
        ready = dict(poller.poll(max(0, int(timeout * 1000))))
        for socket in sockets:  # output before the reply
            if socket in ready:
                return self._read(socket)
        if ready:
            self._listen(0.0)
            if self.ended is not None:
                return self.receive(0.1)  # what it said last
        elif self.ended is not None:
            raise KernelEnded(self.ended)
        return None

    def _read(self, socket: Any) -> Message | None:
        try:
            parts = socket.recv_multipart(self._zmq.NOBLOCK)
            if sum(part.count(b"[") + part.count(b"{") for part in parts) > MOST_LISTS:
                return None
            session = self._client.session
            message = session.deserialize(session.feed_identities(parts)[1])
            kind, content = message["header"]["msg_type"], message["content"]
            request = message["parent_header"].get("msg_id", "")
        except Exception:  # signature, JSON, depth, types: it is from foreign code
            return None
        if isinstance(kind, str) and isinstance(request, str) and isinstance(content, dict):
            return Message(kind, request, content)
        return None

    def _order(self, letter: bytes) -> None:
        if sys.platform == "linux" and self._process is not None:
            assert self._process.stdin is not None
            try:
                os.write(self._process.stdin.fileno(), letter)
            except OSError:
                self._listen(0.0)

    def pause(self) -> None:
        """Stop everything that the code may have left running, until `resume`; return when it is.

        A kernel that is ended over it says so at its next use.
        """
        self._order(b"p")
        deadline = time.monotonic() + PAUSE_SECONDS
        while sys.platform == "linux" and self.ended is None and time.monotonic() < deadline:
            if any("paused" in line for line in self._listen(1.0)):
                return

    def resume(self) -> None:
        """Let it run again."""
        self._order(b"r")

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in the code."""
        self._manager.interrupt_kernel()

    def close(self) -> None:
        """End the kernel and everything it started, and remove the private folder."""
        if self._client is not None:
            self._client.stop_channels()
            self._client = None
        if self._context is not None:
            self._context.term()
            self._context = None
        for gate in self._gates:
            gate.close()
        self._order(b"e")  # the watcher ends everything; a forked child of ours may hold the pipe
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=10 if sys.platform == "linux" else 0)
        if self._manager is not None:
            if self._manager.has_kernel:
                self._manager.shutdown_kernel(now=True)
            self._manager = None
        if process is not None and process.stdout is not None:
            process.stdout.close()
        remove_folder(str(self._runtime))
