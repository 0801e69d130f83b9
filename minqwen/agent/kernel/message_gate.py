"""A gate on the way from the kernel to us: it counts the bytes of each message as they pass.

ZeroMQ sends a message in parts, and bounds each part, but neither how many there are nor what is
kept of a message that has not ended. So one message of a thousand parts would fill our memory
before anybody saw it. The gate stands between the two sockets, where a part is

    flags    1 byte    1 = more parts of this message follow, 2 = long, 4 = a command
    size     1 byte, or 8 when long
    bytes    of that size

and hangs up when a message becomes too large. The stream begins with 64 bytes of greeting. A peer
that greets as an older version is sent away: its parts look otherwise. Commands belong to no
message and may come in the middle of one.

Paper: none; Qwen report 3.4 runs code and says nothing of how.
Origin: ZeroMQ RFC 23 (ZMTP 3.0) and 37 (3.1).
Differs: none.
"""

from __future__ import annotations

import contextlib
import socket
import threading

GREETING = 64  # bytes
MORE, LONG, COMMAND = 1, 2, 4
MOST_PARTS = 64  # a message of Jupyter has about seven
PIECE = 2**16
OPEN_SECONDS = 10.0


class MessageSize:
    """Reads a stream in pieces of any length; raises ValueError where a message is too large.

    >>> size = MessageSize(largest=4)
    >>> size.take(b"\\xff" + bytes(8) + b"\\x7f\\x03" + bytes(53))  # the greeting
    >>> size.take(b"\\x01\\x03abc\\x00\\x01d")  # two parts of one message
    >>> size.take(b"\\x01\\x03abc\\x00\\x02")
    Traceback (most recent call last):
    ...
    ValueError: a message of more than 4 bytes
    """

    def __init__(self, largest: int) -> None:
        """Begin before the greeting."""
        self._largest = largest
        self._greeted = False
        self._head = b""  # of a part, or the greeting, as far as it has come
        self._body = 0  # bytes of a part that are still to come
        self._bytes = self._parts = 0  # of the message so far

    def take(self, piece: bytes) -> None:
        """Look at the next bytes."""
        at = 0
        while at < len(piece):
            if self._body:
                step = min(self._body, len(piece) - at)
                self._body -= step
            else:
                step = min(self._head_size() - len(self._head), len(piece) - at)
                self._head += piece[at : at + step]
                if len(self._head) == self._head_size():
                    if self._greeted:
                        self._begin_part()
                    else:
                        self._greet()
                    self._head = b""
            at += step

    def _head_size(self) -> int:
        if not self._greeted:
            return GREETING
        if not self._head:
            return 1
        return 9 if self._head[0] & LONG else 2

    def _greet(self) -> None:
        if self._head[0] != 0xFF or self._head[9] != 0x7F or self._head[10] < 3:
            raise ValueError("another protocol than ZMTP 3")
        self._greeted = True

    def _begin_part(self) -> None:
        flags, self._body = self._head[0], int.from_bytes(self._head[1:])
        if flags & COMMAND:
            total, parts = self._body, 1
        else:
            self._bytes += self._body
            self._parts += 1
            total, parts = self._bytes, self._parts
            if not flags & MORE:
                self._bytes = self._parts = 0
        if total > self._largest:
            raise ValueError(f"a message of more than {self._largest} bytes")
        if parts > MOST_PARTS:
            raise ValueError(f"a message of more than {MOST_PARTS} parts")


class MessageGate:
    """A unix socket that leads to another one, for one connection; `open` and `close` it."""

    def __init__(self, path: str, kernel: str, largest: int) -> None:
        """Listen.

        Args:
            path: of the new socket, where we shall call.
            kernel: path of the socket that it leads to.
            largest: bytes of a message from there.

        Raises:
            OSError: the socket cannot be made.
        """
        self._kernel_path, self._size = kernel, MessageSize(largest)
        self._sockets = [socket.socket(socket.AF_UNIX)]
        self._threads: list[threading.Thread] = []
        self._sockets[0].settimeout(OPEN_SECONDS)
        self._sockets[0].bind(path)
        self._sockets[0].listen(1)

    def open(self) -> None:
        """Wait until we have called, and call the kernel.

        Raises:
            OSError: nobody called, or the kernel does not listen.
        """
        ours, kernel = self._sockets[0].accept()[0], socket.socket(socket.AF_UNIX)
        self._sockets += [ours, kernel]
        kernel.connect(self._kernel_path)
        for ends in ((ours, kernel, None), (kernel, ours, self._size)):
            thread = threading.Thread(target=_carry, args=ends, daemon=True)
            thread.start()
            self._threads.append(thread)

    def close(self) -> None:
        """Hang up on both sides."""
        for one in self._sockets:
            with contextlib.suppress(OSError):  # it was never connected
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for one in self._sockets:
            one.close()


def _carry(source: socket.socket, target: socket.socket, size: MessageSize | None) -> None:
    """Carry bytes from one socket to the other until one of them ends; then end both."""
    with contextlib.suppress(OSError, ValueError):
        while piece := source.recv(PIECE):
            if size is not None:
                size.take(piece)
            target.sendall(piece)
    for one in (source, target):
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
