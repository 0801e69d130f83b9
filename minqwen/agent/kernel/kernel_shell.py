"""What the kernel does differently from IPython's own, so that its messages stay small.

Runs inside the kernel, next to the code: it keeps honest code from flooding the reader, and cannot
hold somebody who takes it apart. The reader has its own bounds (kernel_connection.py).

    what is printed, by anything     cut in the middle as it comes; its end is sent after the cell
    an error, a displayed value      cut before it is sent; large pictures are left out
    what was printed, shown          IPython would keep it all until the kernel ends; forgotten here
    sys.stdout that code replaced    put back when the cell is over, or the model would see no more
    a fork                           writes to the plain output, as the kernel's sockets are not its

Paper: Qwen report, 3.4: the code interpreter whose answers are put back into the context.
Origin: the Jupyter kernel protocol; ipykernel and its configurable classes.
Differs: none.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from typing import Any

from ipykernel.iostream import OutStream
from ipykernel.ipkernel import IPythonKernel

from ..middle_cut import MiddleCut, cut_middle

ERROR_CHARACTERS = 4000
PICTURE_CHARACTERS = 12 * 2**20  # in base64: 9 MiB
DISPLAYS = 100  # values shown by one cell


class _Output:
    """Standard output and error of the cell that runs, together."""

    limit = 10_000
    cut = MiddleCut(limit)
    lock = threading.Lock()
    displays = 0
    streams: tuple[Any, Any] = (sys.stdout, sys.stderr)

    @classmethod
    def start_cell(cls, *_: Any) -> None:
        with cls.lock:
            cls.cut, cls.displays = MiddleCut(cls.limit), 0

    @classmethod
    def end_cell(cls, *_: Any) -> None:
        with cls.lock:
            end, cls.cut = cls.cut.end(), MiddleCut(cls.limit)
        sys.stdout, sys.stderr = cls.streams
        if end and isinstance(sys.stdout, CutStream):
            sys.stdout.write_at_once(end)


class CutStream(OutStream):
    """A standard stream that passes on the beginning and keeps the end until the cell is over."""

    def write(self, string: str) -> int:
        """Write text; like any stream it says how much it took, which is all."""
        if not isinstance(string, str):
            raise TypeError(f"write() argument must be str, not {type(string).__name__}")
        with _Output.lock:
            head = _Output.cut.add(string)
        if head:
            super().write(head)
        return len(string)

    def write_at_once(self, string: str) -> None:
        """Write text past the limit."""
        super().write(string)


class CutKernel(IPythonKernel):
    """A kernel whose replies carry short errors."""

    async def do_execute(self, *arguments: Any, **named: Any) -> dict[str, Any]:
        """Run a cell; see ipykernel."""
        usual: Any = super()
        reply: dict[str, Any] = await usual.do_execute(*arguments, **named)
        if "evalue" in reply:  # the reader has the traceback from another message
            reply.update(evalue=cut_middle(reply["evalue"], ERROR_CHARACTERS), traceback=[])
        return reply


def _plain_streams() -> None:
    """In a forked child: write to the file descriptors, which the kernel reads."""
    for name, handle in (("stdout", 1), ("stderr", 2)):
        setattr(sys, name, os.fdopen(os.dup(handle), "w", buffering=1, errors="replace"))


def cut_messages(shell: Any, output_characters: int) -> None:
    """Change a running IPython shell so that what it sends is cut.

    Args:
        shell: of the kernel.
        output_characters: of the standard streams, in one cell.
    """
    _Output.limit, _Output.streams = output_characters, (sys.stdout, sys.stderr)
    _Output.start_cell()

    show_value = shell.displayhook.start_displayhook

    def show_value_after_output() -> None:
        _Output.end_cell()
        show_value()

    def forget(*_: Any) -> None:
        getattr(shell.history_manager, "outputs", {}).clear()  # since IPython 9

    shell._tee = lambda channel: contextlib.nullcontext()  # it fills them with what is printed
    shell.events.register("pre_run_cell", forget)
    shell.events.register("pre_run_cell", _Output.start_cell)
    shell.events.register("post_run_cell", _Output.end_cell)
    os.register_at_fork(after_in_child=_plain_streams)

    send_error, format_value = shell._showtraceback, shell.display_formatter.format

    def send_short_error(kind: type, value: object, lines: list[str]) -> None:
        text = cut_middle("\n".join(lines), ERROR_CHARACTERS)
        send_error(kind, cut_middle(str(value), ERROR_CHARACTERS), [text])

    def format_short(
        value: object, *arguments: Any, **named: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        _Output.displays += 1
        if _Output.displays > DISPLAYS:
            return {}, {}
        shown, about = format_value(value, *arguments, **named)
        for kind, text in list(shown.items()):
            size = len(text) if isinstance(text, str | bytes) else 0
            if kind.startswith("image/") and size > PICTURE_CHARACTERS:
                shown[kind] = ""
                shown["text/plain"] = f"[{kind} of {size} bytes: too large to be shown]"
            elif isinstance(text, str) and not kind.startswith("image/"):
                shown[kind] = cut_middle(text, output_characters)
        return shown, about

    shell.displayhook.start_displayhook = show_value_after_output
    shell.user_ns.pop("open", None)  # IPython's own would show in every traceback of a file
    shell._showtraceback = send_short_error
    shell.display_formatter.format = format_short
