"""Ctrl-C and SIGTERM at any moment except the wrong ones.

An update changes hundreds of arrays one after the other. An exception in the middle would leave
half of them new and half old, and nothing to save. So the training loop says when it must not be
disturbed:

    with Interrupts() as interrupts:
        ...                            # Ctrl-C raises KeyboardInterrupt here, as always
        with interrupts.held():
            ...                        # and waits for the end of this block here
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Interrupts:
    """Let SIGINT and SIGTERM do what they did before, but not while held.

    A SIGTERM that would have ended the process without a word raises SystemExit(143) instead.
    Outside the main thread, where Python delivers no signals, nothing happens.
    """

    def __init__(self) -> None:
        self._waits = False
        self._pending: tuple[int, FrameType | None] | None = None
        self._old: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        """Take over the signals, unless they are ignored or belong to code outside Python."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                old = signal.getsignal(number)
                if old not in (signal.SIG_IGN, None):
                    self._old[number] = old
                    signal.signal(number, self._receive)
        return self

    def __exit__(self, *error: object) -> None:
        """Give the signals back."""
        for number, old in self._old.items():
            signal.signal(number, old)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let signals wait until the end of the block."""
        self._waits = True
        try:
            yield
        finally:
            self._waits = False
            if self._pending is not None:
                (number, frame), self._pending = self._pending, None
                self._deliver(number, frame)

    @property
    def waiting(self) -> int:
        """Number of the signal that waits for the end of a held block; 0 for none."""
        return 0 if self._pending is None else self._pending[0]

    def forget(self) -> None:
        """Drop the signal that waits: what it asked for is being done."""
        self._pending = None

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._waits:
            self._pending = number, frame
        else:
            self._deliver(number, frame)

    def _deliver(self, number: int, frame: FrameType | None) -> None:
        if callable(self._old[number]):
            self._old[number](number, frame)  # Python's own raises KeyboardInterrupt
        else:
            raise SystemExit(128 + number)  # what a shell reports for a process ended by a signal
