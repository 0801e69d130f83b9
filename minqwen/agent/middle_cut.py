"""Keep the beginning and the end of a text that may never end, in a bounded amount of memory.

An endless loop of `print` must fill neither the kernel nor the reader nor the model's context. The
beginning says what the output is and the end how it came out, so the middle is what is dropped, as
it arrives:

    limit 10:   abcdeFGHIJKLMNOPQRSTUvwxyz   ->   abcde ... [16 characters left out] ... vwxyz

Paper: none; Qwen report 3.4 puts the output back into the context and says nothing of its length.
Origin: every log viewer.
Differs: none.
"""

from __future__ import annotations


class MiddleCut:
    """Collects pieces of text and keeps at most `limit` characters of them.

    >>> cut = MiddleCut(4)
    >>> [cut.add(piece) for piece in ("abc", "def", "gh")]
    ['ab', '', '']
    >>> cut.text()
    'ab\\n... [4 characters left out] ...\\ngh'
    """

    def __init__(self, limit: int) -> None:
        self.first_size = (limit + 1) // 2
        self.last_size = limit - self.first_size
        self.first = ""
        self.last = ""  # up to twice `last_size`, so that cutting is rare
        self.length = 0  # of everything that came

    def add(self, piece: str) -> str:
        """Take a piece.

        Returns:
            The part of it that belongs to the beginning, which may be shown at once.
        """
        self.length += len(piece)
        room = self.first_size - len(self.first)
        head, rest = piece[:room], piece[room:]
        self.first += head
        if rest and self.last_size:
            self.last = (self.last + rest[-self.last_size :])[-2 * self.last_size :]
        return head

    def end(self) -> str:
        """Give what follows the beginning: a note of what was left out, and the end."""
        last = self.last[-self.last_size :] if self.last_size else ""
        dropped = self.length - len(self.first) - len(last)
        return f"\n... [{dropped} characters left out] ...\n{last}" if dropped else last

    def text(self) -> str:
        """Give all that was kept."""
        return self.first + self.end()


def cut_middle(text: str, limit: int) -> str:
    """Cut one text to `limit` characters and a note.

    >>> cut_middle("abcdef", 6)
    'abcdef'
    >>> cut_middle("abcdef", 3)
    'ab\\n... [3 characters left out] ...\\nf'
    """
    cut = MiddleCut(limit)
    cut.add(text)
    return cut.text()
