"""From the messages of a kernel to one text that a model can read, and pictures as files.

    stream          what was printed, as it comes      -> text, cut in the middle
    execute_result  the value of the last line          -> text on a line of its own
    display_data    a plot                              -> a new file, and its name in the text
    error           a traceback                         -> a few frames, none of ours
    status          busy, idle                          -> whether the cell is over
    execute_reply   the last word                       -> the same

Whatever comes may be forged (see kernel_connection.py), so nothing is taken for what it should be:
types are checked, lengths are bounded, and a file is made only where there was none, because the
code may have laid a link where the next plot will go.

Paper: Qwen report, 3.4: the code interpreter and its plots.
Origin: the Jupyter protocol.
Differs: none.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from typing import Any

from ..middle_cut import MiddleCut, cut_middle
from .kernel_connection import Message
from .kernel_limits import Limits

ERROR_CHARACTERS = 2000
ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")  # colours
# what a terminal may take for an order, such as to change its title; \r begins a line anew
CONTROLS = {code: "" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"}
CONTROLS[ord("\r")] = "\n"
FRAME = re.compile(r"  (File |Cell In)")
OWN_FRAME = re.compile(r"/(IPython|ipykernel|minqwen/agent)/")
PICTURES = {"image/png": "png", "image/jpeg": "jpg", "image/svg+xml": "svg"}
NO_LINK = getattr(os, "O_NOFOLLOW", 0)


def printable_text(text: object) -> str:
    """Make text printable: no colours, no orders to a terminal, no halves of characters.

    >>> printable_text("\\x1b[31mred\\x1b[0m\\x07")
    'red'
    """
    plain = ESCAPES.sub("", str(text)).replace("\r\n", "\n").translate(CONTROLS)
    return plain.encode("utf-8", "replace").decode("utf-8")


def short_traceback(text: str) -> str:
    """Leave out of a traceback what tells the model nothing: our frames, and the middle of others'.

    Kept of each traceback are the first two frames and the last two.

    >>> frames = "".join(f"  File a.py:{n} in f\\n    f({n})\\n" for n in range(9))
    >>> print(short_traceback(f"Traceback:\\n{frames}ValueError: no"))
    Traceback:
      File a.py:0 in f
        f(0)
      File a.py:1 in f
        f(1)
      ... [5 frames left out]
      File a.py:7 in f
        f(7)
      File a.py:8 in f
        f(8)
    ValueError: no
    """
    blocks: list[list[str]] = []  # frames of the traceback that is read
    out: list[str] = []

    def flush() -> None:
        frames = [block for block in blocks if not OWN_FRAME.search(block[0])]
        left_out = len(frames) - 4
        if left_out > 0:
            frames[2:-2] = [[f"  ... [{left_out} frames left out]"]]
        out.extend(line for block in frames for line in block)
        blocks.clear()

    for line in text.splitlines():
        if FRAME.match(line):
            blocks.append([line])
        elif blocks and line.startswith("    "):
            blocks[-1].append(line)
        elif line.strip():
            flush()
            out.append(line)
    flush()
    return "\n".join(out)


def write_new_file(folder: str, stem: str, suffix: str, content: bytes) -> str:
    """Write a file that was not there, though the code may have laid links in the way.

    Args:
        folder: the working folder; itself no link.
        stem: of the name; a number is added.
        suffix: of the name, without the dot.
        content: what to write.

    Returns:
        The name, without the folder.

    Raises:
        OSError: the folder is gone or full.
    """
    inside = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | NO_LINK)
    try:
        for number in range(1, 100_000):
            name = f"{stem}_{number}.{suffix}"
            new = os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_LINK
            try:
                handle = os.open(name, new, 0o644, dir_fd=inside)
            except FileExistsError:
                continue
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(content)
            except OSError:
                os.unlink(name, dir_fd=inside)  # half of it
                raise
            return name
    finally:
        os.close(inside)
    raise OSError(f"{folder} has no free name for {stem}")


class Answer:
    """What one call has said so far, in bounded memory."""

    def __init__(self, folder: str, limits: Limits) -> None:
        self.folder = folder
        self.output = MiddleCut(limits.output_characters + 200)  # the kernel cuts, and adds a note
        self.error = ""
        self.room = limits.folder_mib * 2**20  # for pictures
        self.busy = self.idle = self.replied = False

    def add(self, message: Message) -> None:
        """Take one message of this call."""
        kind, content = message.kind, message.content
        if kind == "stream":
            self.output.add(printable_text(content.get("text", "")))
        elif kind in ("execute_result", "display_data"):
            self._show(content.get("data"))
        elif kind == "error":
            lines = content.get("traceback")
            text = "\n".join(map(str, lines)) if isinstance(lines, list) else ""
            text = text or f"{content.get('ename')}: {content.get('evalue')}"
            self.error = cut_middle(short_traceback(printable_text(text)), ERROR_CHARACTERS)
        elif kind == "status":
            self.busy = True
            self.idle = content.get("execution_state") == "idle"
        elif kind == "kernel_info_reply":
            self.replied = True
        elif kind == "execute_reply":
            self.replied = True
            if content.get("status") == "error" and not self.error:
                text = f"{content.get('ename')}: {content.get('evalue')}"
                self.error = cut_middle(printable_text(text), ERROR_CHARACTERS)

    def _show(self, data: Any) -> None:
        if not isinstance(data, dict):
            return
        for kind, suffix in PICTURES.items():
            if data.get(kind):
                self._picture(str(data[kind]), suffix)
                return
        if "text/plain" in data:
            self._line(printable_text(data["text/plain"]))

    def _picture(self, text: str, suffix: str) -> None:
        try:
            content = text.encode() if suffix == "svg" else base64.b64decode(text, validate=True)
            if len(content) > self.room:
                raise OSError("the pictures of this call are too large")
            self.room -= len(content)
            name = write_new_file(self.folder, "plot", suffix, content)
        except (OSError, ValueError, binascii.Error) as error:
            self._line(f"[a picture was not kept: {error}]")
        else:
            self._line(f"[plot: {name}]")

    def _line(self, text: str) -> None:
        kept = self.output.last or self.output.first
        self.output.add(("" if not kept or kept.endswith("\n") else "\n") + text + "\n")
